// Overview: how the pools are, now and over the last minutes.

import { get, isAdmin, post } from './api.js';
import { Chart } from './chart.js';
import { confirm, toast } from './dialog.js';
import { h, keyed, keys, setMeter, setText } from './dom.js';
import { brief, micros, number } from './format.js';
import { Table } from './grid.js';

const ALL = '';
const SERIES = ['used', 'idle', 'waiting', 'pinned', 'transactions', 'queries', 'wait_p50_us', 'wait_p99_us', 'transaction_p50_us', 'transaction_p99_us'];
/** Those of which the sum over pools would mean nothing. */
const MOST = (key) => key.endsWith('_us');

/** The course of one pool, or of all together. */
function courseOf(history, database) {
  const pools = history.pools.filter((pool) => database === ALL || pool.database === database);
  const course = { at: history.times };
  for (const key of SERIES) {
    course[key] = history.times.map((_, index) => {
      const values = pools.map((pool) => pool[key][index]).filter((value) => value !== null && value !== undefined);
      if (!values.length) return null;
      return MOST(key) ? Math.max(...values) : values.reduce((sum, value) => sum + value, 0);
    });
  }
  course.busy = course.used.map((used, index) => (used === null ? null : Math.max(0, used - (course.pinned[index] ?? 0))));
  return course;
}

/** Puts what is new behind what is known. */
function join(known, fresh, keep) {
  const times = [...known.times, ...fresh.times];
  const cut = Math.max(0, times.length - keep);
  const names = [...new Set([...known.pools, ...fresh.pools].map((pool) => pool.database))].sort();
  const find = (history, name) => history.pools.find((pool) => pool.database === name);
  const pools = names.map((database) => {
    const pool = { database };
    for (const key of SERIES) {
      const before = find(known, database)?.[key] ?? known.times.map(() => null);
      const after = find(fresh, database)?.[key] ?? fresh.times.map(() => null);
      pool[key] = [...before, ...after].slice(cut);
    }
    return pool;
  });
  return { ...fresh, times: times.slice(cut), pools };
}

function tile(label) {
  const value = h('b', { text: '–' });
  const note = h('small');
  const element = h('li', {}, h('span', { text: label }), value, note);
  return { element, set(text, more = '', hot = false) {
    setText(value, text);
    setText(note, more);
    element.classList.toggle('hot', hot);
  } };
}

export class Overview {
  constructor() {
    this.span = 'minutes';
    this.database = ALL;
    this.history = null;
    this.tiles = { clients: tile('Clients'), waiting: tile('Waiting for a server'), wait: tile('Longest wait'), servers: tile('Servers in use'), rate: tile('Transactions / s'), pinned: tile('Pinned servers') };
    this.alerts = h('div', { class: 'stack', role: 'alert' });
    this.pools = new Table({ name: 'Pools', sort: 'database', keyOf: (row) => row.database, columns: this.columns(), onOpen: (row) => this.choose(row.database) });
    this.picker = h('select', { 'aria-label': 'Pool shown in the charts', onchange: () => this.choose(this.picker.value) });
    this.spans = h('div', { class: 'choice', role: 'group', 'aria-label': 'Time shown' }, [['minutes', '10 min'], ['hour', '1 hour']].map(([span, text]) =>
      h('button', { type: 'button', class: 'small', 'data-span': span, 'aria-pressed': String(span === this.span), text, onclick: () => this.choseSpan(span) })));
    this.charts = [
      new Chart({ title: 'Servers', format: number, series: [{ key: 'pinned', label: 'pinned', colour: 'orange', kind: 'area' }, { key: 'busy', label: 'used', colour: 'blue', kind: 'area' }, { key: 'idle', label: 'idle', colour: 'sky', kind: 'area' }] }),
      new Chart({ title: 'Clients waiting for a server', format: number, series: [{ key: 'waiting', label: 'waiting', colour: 'orange', kind: 'line' }] }),
      new Chart({ title: 'Throughput', note: 'per second', format: brief, series: [{ key: 'transactions', label: 'transactions', colour: 'blue', kind: 'line' }, { key: 'queries', label: 'queries', colour: 'orange', kind: 'dashed' }] }),
      new Chart({ title: 'Latency', note: 'within buckets of the histograms', format: micros, logarithmic: true, series: [{ key: 'transaction_p50_us', label: 'transaction p50', colour: 'green', kind: 'line' }, { key: 'transaction_p99_us', label: 'transaction p99', colour: 'blue', kind: 'line' }, { key: 'wait_p50_us', label: 'wait p50', colour: 'purple', kind: 'dashed' }, { key: 'wait_p99_us', label: 'wait p99', colour: 'orange', kind: 'line' }] }),
    ];
    Chart.link(this.charts);
    this.pins = h('div', { class: 'body' });
    this.element = h('div', { class: 'stack' }, this.alerts, h('ul', { class: 'tiles' }, Object.values(this.tiles).map(({ element }) => element)),
      h('section', { class: 'card' }, h('header', {}, h('h2', { text: 'Pools' }), keys([['orange', 'pinned'], ['blue', 'used'], ['sky', 'idle']])), this.pools.element),
      h('div', { class: 'bar-line' }, this.picker, this.spans),
      h('div', { class: 'charts' }, this.charts.map(({ element }) => element)),
      h('section', { class: 'card' }, h('header', {}, h('h2', { text: 'Pinned servers by reason' })), this.pins));
  }

  columns() {
    const num = (key, label, text, more) => ({ key, label, num: true, text, value: (row) => row[key], ...more });
    return [
      { key: 'database', label: 'Database', text: (row) => row.database, value: (row) => row.database },
      { key: 'servers', label: 'Servers', value: (row) => row.used / Math.max(1, row.pool_size), cell: (cell, row) => this.use(cell, row) },
      { key: 'used', label: 'In use', num: true, value: (row) => row.used, text: (row) => `${row.used} / ${number(row.pool_size)}` },
      num('clients', 'Clients', (row) => number(row.clients), { priority: 2 }),
      num('waiting', 'Waiting', (row) => number(row.waiting)),
      num('wait', 'Longest', (row) => (row.wait ? micros(row.wait * 1e6) : '–'), { priority: 2 }),
      num('transactions_per_second', 'Trans/s', (row) => brief(row.transactions_per_second)),
      num('queries_per_second', 'Queries/s', (row) => brief(row.queries_per_second), { priority: 3 }),
      num('average_query_microseconds', 'Query', (row) => micros(row.average_query_microseconds), { priority: 2 }),
      num('average_wait_microseconds', 'Wait', (row) => micros(row.average_wait_microseconds), { priority: 2 }),
      { key: 'state', label: 'State', cell: (cell, row) => this.state(cell, row), priority: 2 },
    ];
  }

  use(cell, row) {
    if (!cell.firstChild) cell.append(h('div', { class: 'meter' }));
    const of = (n) => n / Math.max(1, row.pool_size, row.servers);
    setMeter(cell.firstChild, [['c-orange', of(row.pinnedServers), `${row.pinnedServers} pinned`], ['c-blue', of(row.used - row.pinnedServers), `${row.used - row.pinnedServers} used`], ['c-sky', of(row.idle), `${row.idle} idle of ${row.pool_size}`]]);
  }

  state(cell, row) {
    const state = row.paused ? 'paused' : row.disabled ? 'disabled' : row.login_failure ? 'login fails' : 'serving';
    const wanted = `${state} ${isAdmin()}`;
    if (cell.dataset.shown === wanted) return;
    cell.dataset.shown = wanted;
    const act = (operation, text) => h('button', { type: 'button', class: 'small', text, 'aria-label': `${text} ${row.database}`, onclick: () => this.operate(row.database, operation, text) });
    const buttons = isAdmin() ? [row.paused ? act('resume', 'Resume') : act('pause', 'Pause'), act('reconnect', 'Reconnect')] : [];
    cell.replaceChildren(h('span', { class: 'acts' }, h('span', { class: `tag ${state === 'serving' ? '' : state === 'login fails' ? 'bad' : 'warn'}`, text: state }), buttons));
  }

  async operate(database, operation, verb) {
    const text = {
      pause: 'Transactions that run go on, and for up to 15 seconds the pause waits for them; clients then wait until the pool is resumed.',
      resume: 'Clients that wait get servers again.',
      reconnect: 'Each server connection is replaced as soon as it comes free.',
    }[operation];
    const done = await confirm({ title: `${verb} ${database}?`, text, verb, act: () => post(`/api/pools/${encodeURIComponent(database)}/${operation}`) });
    if (done) toast(`${verb}: ${database}`);
  }

  choose(database) {
    this.database = this.database === database ? ALL : database;
    this.picker.value = this.database;
    this.draw();
  }

  choseSpan(span) {
    this.span = span;
    this.history = null;
    for (const button of this.spans.children) button.setAttribute('aria-pressed', String(button.dataset.span === span));
    this.follow().catch(() => {});
  }

  async follow(signal) {
    const span = this.span;
    const since = this.history?.times.at(-1) ?? 0;
    const fresh = await get(`/api/history?span=${span}&since=${since}`, signal);
    if (span !== this.span || since !== (this.history?.times.at(-1) ?? 0)) return;
    this.history = this.history ? join(this.history, fresh, span === 'hour' ? 180 : 300) : fresh;
    this.draw();
  }

  async refresh(signal) {
    const [overview] = await Promise.all([get('/api/pools', signal), this.follow(signal)]);
    this.showNow(overview);
  }

  showNow(overview) {
    const rows = overview.databases.map((database) => {
      const users = overview.pools.filter((pool) => pool.database === database.database);
      const sum = (key) => users.reduce((total, user) => total + user[key], 0);
      return {
        ...database, used: sum('servers_active') + sum('servers_tested'), idle: sum('servers_idle'), pinnedServers: sum('servers_pinned'),
        clients: sum('clients_active') + sum('clients_waiting'), waiting: sum('clients_waiting'), wait: Math.max(0, ...users.map((user) => user.longest_wait_seconds)),
      };
    });
    const total = (key) => rows.reduce((sum, row) => sum + row[key], 0);
    const wait = Math.max(0, ...rows.map((row) => row.wait));
    this.tiles.clients.set(number(overview.client_connections), `of ${number(overview.client_connections_limit)}`);
    this.tiles.waiting.set(number(total('waiting')), '', total('waiting') > 0 && wait > 1);
    this.tiles.wait.set(wait ? micros(wait * 1e6) : '0', '', wait > 5);
    this.tiles.servers.set(number(total('used')), `of ${number(total('pool_size'))}`);
    this.tiles.rate.set(brief(total('transactions_per_second')));
    this.tiles.pinned.set(number(total('pinnedServers')), `of ${number(total('max_pinned'))}`);
    this.pools.update(rows);
    this.options(rows.map((row) => row.database));
    this.alert(overview, rows);
    this.showPins(overview.databases);
    this.onStart?.(Date.now() - overview.uptime_seconds * 1000);
  }

  alert(overview, rows) {
    const alerts = rows.filter((row) => row.login_failure).map((row) => ({ id: row.database, bad: true, text: `${row.database}: logging in to the server fails: ${row.login_failure}` }));
    rows.filter((row) => row.paused && row.waiting).forEach((row) => alerts.push({ id: `p ${row.database}`, text: `${row.database} is paused, and ${row.waiting} clients wait.` }));
    if (!overview.accepting) alerts.push({ id: '', text: 'Carpool is stopping: it takes no new clients.' });
    keyed(this.alerts, alerts, ({ id }) => id, () => h('p'), (element, { bad, text }) => {
      element.className = bad ? 'notice bad' : 'notice warn';
      setText(element, text);
    });
  }

  options(names) {
    const wanted = [ALL, ...names];
    if ([...this.picker.options].map((option) => option.value).join('\n') === wanted.join('\n')) return;
    this.picker.replaceChildren(...wanted.map((name) => h('option', { value: name, text: name || 'All pools' })));
    this.picker.value = wanted.includes(this.database) ? this.database : ALL;
  }

  showPins(databases) {
    const rows = databases.flatMap(({ database, pinned }) => Object.entries(pinned).map(([reason, count]) => ({ id: `${database} ${reason}`, database, reason, count })));
    const most = Math.max(1, ...rows.map(({ count }) => count));
    rows.sort((a, b) => b.count - a.count);
    const shown = rows.length ? rows : [{ id: 'none' }];
    keyed(this.pins, shown, ({ id }) => id, ({ reason, database }) => (reason
      ? h('div', { class: 'bar-line' }, h('div', { class: 'meter grow' }), h('b'), h('span', { text: `${reason} · ${database}` }))
      : h('p', { class: 'soft', text: 'No client keeps a server between transactions.' })), (element, { reason, count }) => {
      if (!reason) return;
      setMeter(element.children[0], [['c-orange', count / most, `${count} for ${reason}`]]);
      setText(element.children[1], count);
    });
  }

  draw() {
    if (!this.history) return;
    const course = courseOf(this.history, this.database);
    this.charts.forEach((chart) => chart.update(course));
    this.picker.value = this.database;
  }

  leave() {
    this.history = null;
  }
}
