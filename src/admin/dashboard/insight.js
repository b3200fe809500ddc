// Waits, statements, advisor and holders: where time goes, and who has the servers.

import { get, Refused } from './api.js';
import { Chart } from './chart.js';
import { h, keyed, keys, setMeter, setText } from './dom.js';
import { brief, count, micros, number, percent, seconds } from './format.js';
import { Table } from './grid.js';
import { actsCell } from './lists.js';

/** The parts of a transaction's time, in their order. */
const PARTS = [['queue', 'orange', 'waiting for a server'], ['replay', 'purple', 'replay of state'], ['server', 'blue', 'server'], ['client', 'green', 'client'], ['backpressure', 'grey', 'backpressure']];

const legend = () => keys(PARTS.map(([, colour, label]) => [colour, label]));

/** Shows what is missing in place of a view's content. */
function off(view, text) {
  view.content.hidden = Boolean(text);
  view.missing.hidden = !text;
  setText(view.missing, text ?? '');
}

/** Asks for what an older or otherwise configured Carpool may not have. */
async function ask(view, path, setting, signal) {
  try {
    const json = await get(path, signal);
    if (json.tracking === false) {
      off(view, `Not switched on: set ${setting}, and reload.`);
      return null;
    }
    off(view, null);
    return json;
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    off(view, `Not switched on: set ${setting}.`);
    return null;
  }
}

function frame(view, ...content) {
  view.missing = h('p', { class: 'notice', hidden: true });
  view.content = h('div', { class: 'stack' }, content);
  view.element = h('div', { class: 'stack' }, view.missing, view.content);
}

const totals = (row) => PARTS.map(([part]) => row.parts[part] ?? 0);
const sum = (row) => totals(row).reduce((all, part) => all + part, 0);

const each = (row) => sum(row) / Math.max(1, row.transactions);

function splitCell(cell, row) {
  if (!cell.firstChild) cell.append(h('div', { class: 'meter' }));
  const all = sum(row) || 1;
  setMeter(cell.firstChild, PARTS.map(([part, colour, label], index) => [`c-${colour}`, totals(row)[index] / all, `${label} ${percent(totals(row)[index] / all)}`]));
}

export class Waits {
  constructor() {
    this.by = 'pool';
    const p99 = (part, label, priority) => ({ key: part, label, num: true, priority, value: (row) => row[part]?.p99_us, text: (row) => micros(row[part]?.p99_us) });
    this.table = new Table({ name: 'Where the time of transactions goes', sort: 'total', descending: true, keyOf: (row) => `${row.database}\n${row.name}`, columns: [
      { key: 'name', label: 'Name', value: (row) => row.name, text: (row) => row.name || '(none)' },
      { key: 'database', label: 'Database', value: (row) => row.database, text: (row) => row.database, priority: 2 },
      { key: 'transactions', label: 'Transactions', num: true, value: (row) => row.transactions, text: (row) => brief(row.transactions) },
      { key: 'split', label: 'Split of all time', cell: splitCell },
      { key: 'total', label: 'Total', num: true, priority: 3, value: sum, text: (row) => micros(sum(row)) },
      { key: 'each', label: 'Each', num: true, value: each, text: (row) => micros(each(row)) },
      p99('queue', 'Wait p99'), p99('replay', 'Replay p99', 3), p99('server', 'Server p99', 2), p99('client', 'Client p99', 2), p99('backpressure', 'Backpr. p99', 3),
    ] });
    this.choice = h('div', { class: 'choice', role: 'group', 'aria-label': 'Grouped by' }, ['pool', 'user', 'application'].map((by) =>
      h('button', { type: 'button', class: 'small', 'data-by': by, 'aria-pressed': String(by === this.by), text: `By ${by}`, onclick: () => this.choose(by) })));
    this.since = h('span', { class: 'soft' });
    frame(this, h('div', { class: 'bar-line' }, this.choice, this.since), h('section', { class: 'card' }, h('header', {}, h('h2', { text: 'Where the time of transactions goes' }), legend()), this.table.element));
  }

  choose(by) {
    this.by = by;
    for (const button of this.choice.children) button.setAttribute('aria-pressed', String(button.dataset.by === by));
    this.draw();
  }

  async refresh(signal) {
    this.data = await ask(this, '/api/waits', 'track_waits = on', signal);
    if (this.data) this.draw();
  }

  draw() {
    const groups = (this.data?.groups ?? []).filter((group) => group.by === this.by);
    setText(this.since, this.data?.since_s ? `over the last ${seconds(this.data.since_s)}` : '');
    this.table.update(groups.map((group) => ({ ...group, parts: Object.fromEntries(PARTS.map(([part]) => [part, group[part]?.total_us])) })));
  }
}

export class Statements {
  constructor() {
    this.search = h('input', { type: 'search', class: 'grow', placeholder: 'Search statements …', 'aria-label': 'Search statements', oninput: () => this.draw() });
    this.count = h('span', { class: 'soft', role: 'status' });
    this.table = new Table({ name: 'Statements', sort: 'total', descending: true, keyOf: (row) => row.id, onOpen: (row) => this.toggle(row), columns: [
      { key: 'query', label: 'Statement', value: (row) => row.query, cell: (cell, row) => this.text(cell, row) },
      { key: 'database', label: 'Database', value: (row) => row.database, text: (row) => row.database, priority: 3 },
      { key: 'user', label: 'User', value: (row) => row.user, text: (row) => row.user, priority: 3 },
      { key: 'calls', label: 'Calls', num: true, value: (row) => row.calls, text: (row) => brief(row.calls) },
      { key: 'mean_us', label: 'Mean', num: true, value: (row) => row.mean_us, text: (row) => micros(row.mean_us) },
      { key: 'p99_us', label: 'p99', num: true, value: (row) => row.p99_us, text: (row) => micros(row.p99_us), priority: 2 },
      { key: 'total', label: 'Total', num: true, value: sum, text: (row) => micros(sum(row)), priority: 2 },
      { key: 'split', label: 'Split', cell: splitCell, priority: 2 },
    ] });
    this.opened = new Set();
    frame(this, h('div', { class: 'bar-line' }, this.search, this.count), h('section', { class: 'card' }, h('header', {}, h('h2', { text: 'Top statements' }), legend()), this.table.element));
  }

  text(cell, row) {
    if (!cell.firstChild) {
      cell.className = 'wrap';
      cell.append(h('div', { class: 'query short' }));
    }
    setText(cell.firstChild, row.query.trim() || '(empty query)');
    cell.firstChild.classList.toggle('short', !this.opened.has(row.query));
  }

  toggle({ query }) {
    if (!this.opened.delete(query)) this.opened.add(query);
    this.draw();
  }

  async refresh(signal) {
    this.data = await ask(this, '/api/statements', 'track_statements = on', signal);
    if (this.data) this.draw();
  }

  draw() {
    const wanted = this.search.value.toLowerCase();
    const all = this.data?.statements ?? [];
    const rows = all.filter((row) => `${row.query} ${row.database} ${row.user}`.toLowerCase().includes(wanted));
    setText(this.count, `${count(rows.length, 'statement')}${this.data?.left_out ? `, ${number(this.data.left_out)} left out` : ''}`);
    // Texts may be hidden, and then many are alike.
    const seen = new Map();
    const idOf = ({ database, user, query }) => {
      const name = [database, user, query].join('\n');
      seen.set(name, (seen.get(name) ?? 0) + 1);
      return `${name}\n${seen.get(name)}`;
    };
    this.table.update(rows.slice(0, 200).map((row) => ({ ...row, id: idOf(row), parts: row.total_us })));
  }
}

export class Advisor {
  constructor() {
    this.cards = h('div', { class: 'stack' });
    this.target = h('p', { class: 'soft' });
    this.shown = new Map();
    frame(this, this.target, this.cards);
  }

  async refresh(signal) {
    const advice = await ask(this, '/api/advice', 'advisor = on', signal);
    if (!advice) return;
    setText(this.target, `Target: ${advice.target}`);
    if (!advice.pools.length) off(this, 'No pool has had enough transactions yet to say anything.');
    keyed(this.cards, advice.pools, ({ database }) => database, (pool) => this.card(pool), (element, pool) => this.fill(pool));
  }

  card({ database }) {
    const chart = new Chart({ title: 'Wait for a server by pool size, predicted', format: micros, x: (size) => String(Math.round(size)), xTable: (size) => `${size} servers`, logarithmic: true, series: [
      { key: 'low', to: 'high', colour: 'orange', kind: 'band' }, { key: 'p99', label: 'p99', colour: 'orange', kind: 'line' }, { key: 'p50', label: 'p50', colour: 'blue', kind: 'line' },
    ] });
    const verdict = h('p');
    const facts = h('dl');
    this.shown.set(database, { chart, verdict, facts });
    return h('section', { class: 'card' }, h('header', {}, h('h2', { text: database })), h('div', { class: 'body stack' }, verdict, h('div', { class: 'halves' }, chart.element, facts)));
  }

  fill(pool) {
    const { chart, verdict, facts } = this.shown.get(pool.database);
    setText(verdict, pool.verdict);
    // Beyond twice of what matters there is nothing to see.
    const last = 2 * Math.max(pool.size, pool.recommended ?? 0, pool.high ?? 0);
    const sizes = (pool.sizes ?? []).filter(({ size }) => size <= last);
    const list = (key) => sizes.map((size) => size[key] ?? null);
    const marks = [{ at: pool.size, label: `now ${pool.size}` }];
    if (pool.recommended) marks.push({ at: pool.recommended, label: `recommended ${pool.recommended}`, row: 1 });
    chart.update({ at: list('size'), p99: list('wait_p99_us'), p50: list('wait_p50_us'), low: list('wait_p99_low_us'), high: list('wait_p99_high_us') }, sizes.length ? marks : [], Math.max(0, sizes.findIndex(({ size }) => size >= pool.size)));
    chart.element.hidden = !sizes.length;
    const { measured = {}, trace = {}, contention } = pool;
    const entries = [
      ['Size now', number(pool.size)], ['Recommended', pool.recommended ? `${pool.recommended} (${pool.low} to ${pool.high})` : '–'], ['Measured wait', `p50 ${micros(measured.wait_p50_us)}, p99 ${micros(measured.wait_p99_us)}`],
      ['Utilization', measured.utilization === undefined ? '–' : percent(measured.utilization)], ['Throughput', `${brief(measured.throughput)} / s`], ['Trace', `${brief(trace.transactions)} transactions, ${seconds(trace.seconds)}`],
      ['Contention', contention ? slowdown(contention) : '–'],
    ];
    keyed(facts, entries.flatMap(([label, value]) => [{ id: `t ${label}`, tag: 'dt', text: label }, { id: `d ${label}`, tag: 'dd', text: value }]), ({ id }) => id, ({ tag }) => h(tag), (element, { text }) => setText(element, text));
  }
}

// How much longer a transaction takes when more servers are at work, in words.
function slowdown({ model, sigma, kappa, room, growth, growth_low: low, growth_high: high, is_known: known }) {
  const short = (value) => +value.toPrecision(3);
  const guess = known ? '' : '; a guess, since the number of servers at work hardly varied';
  const most = high > 1.05 ? `, or at most ${short(high)} times as long with twice as many` : '';
  if (model === 'none') return `transactions take no longer when more servers are at work${most}${guess}`;
  const law = model === 'knee' ? `the database works on ${short(room)} at a time` : `σ ${short(sigma)}, κ ${short(kappa)}`;
  return `with twice the servers at work a transaction takes ${short(growth)} times as long (${short(low)} to ${short(high)}): ${law}${guess}`;
}

export class Holders {
  constructor() {
    this.cards = h('div', { class: 'stack' });
    this.tables = new Map();
    frame(this, this.cards);
  }

  async refresh(signal) {
    const blockers = await ask(this, '/api/blockers', 'a Carpool that has /api/blockers', signal);
    if (!blockers) return;
    if (!blockers.pools.length) off(this, 'No servers are held.');
    keyed(this.cards, blockers.pools, ({ database }) => database, (pool) => this.card(pool), (element, pool) => this.fill(pool));
  }

  card({ database }) {
    const table = new Table({ name: `Who holds ${database}`, sort: 'held_us', descending: true, keyOf: (row) => row.server, columns: [
      { key: 'client', label: 'Client', value: (row) => row.client ?? '', text: (row) => row.client ?? '' },
      { key: 'user', label: 'User', value: (row) => row.user, text: (row) => row.user, priority: 2 },
      { key: 'application', label: 'Application', value: (row) => row.application, text: (row) => row.application },
      { key: 'state', label: 'State', value: (row) => row.state, text: (row) => (row.pinned ? `${row.state}: ${row.pinned}` : row.state) },
      { key: 'held_us', label: 'Held for', num: true, value: (row) => row.held_us, text: (row) => micros(row.held_us) },
      { key: 'server_pid', label: 'Process', num: true, value: (row) => row.server_pid, text: (row) => row.server_pid, priority: 2 },
      { key: 'blocked_by', label: 'Blocked by', text: (row) => (row.blockers ?? []).join('; '), priority: 2 },
      { key: 'query', label: 'Last statement', priority: 2, cell: (cell, row) => {
        if (!cell.firstChild) {
          cell.classList.add('wrap');
          cell.append(h('div', { class: 'query short' }));
        }
        setText(cell.firstChild, row.query?.trim() === '' ? '(empty query)' : row.query ?? '');
      } },
      { key: 'acts', label: '', priority: 2, cell: actsCell(() => {}) },
    ] });
    const waiting = h('span', { class: 'soft' });
    const starved = h('p', { class: 'notice bad' });
    this.tables.set(database, { table, waiting, starved });
    return h('section', { class: 'card' }, h('header', {}, h('h2', { text: database }), waiting), h('div', { class: 'body' }, starved), table.element);
  }

  fill(pool) {
    const { table, waiting, starved } = this.tables.get(pool.database);
    const held = pool.holders?.length ? '' : 'no server is held, ';
    setText(waiting, pool.waiting ? `${held}${number(pool.waiting)} wait, the first for ${micros(pool.max_wait_us)}` : `${held}nobody waits`);
    starved.parentElement.hidden = !pool.starved_by;
    setText(starved, pool.starved_by ?? '');
    const holders = pool.holders ?? [];
    table.element.hidden = !holders.length;
    // The console's numbers are these in hexadecimal.
    table.update(holders.map((row) => ({ ...row, client_id: row.client ? parseInt(row.client.slice(2), 16) : null })));
  }
}
