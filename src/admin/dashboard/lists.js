// Clients and servers: long lists, and what can be done to a client.

import { get, isAdmin, post } from './api.js';
import { confirm, show, toast } from './dialog.js';
import { h } from './dom.js';
import { micros, number, seconds } from './format.js';
import { Grid } from './grid.js';

const TAGS = { active: 'active', waiting: 'waiting', 'idle in transaction': 'warn', being_canceled: 'warn', tested: 'warn' };

function stateCell(cell, { state, pinned, outdated }) {
  const wanted = `${state} ${pinned} ${outdated}`;
  if (cell.dataset.shown === wanted) return;
  cell.dataset.shown = wanted;
  cell.title = [state, pinned && `pinned: ${pinned}`, outdated && 'closed when it comes free'].filter(Boolean).join(', ');
  cell.replaceChildren(h('span', { class: `tag ${TAGS[state] ?? ''}`, text: state }), pinned ? ' ' : '', pinned ? h('span', { class: 'tag warn', text: 'pinned' }) : '');
}

async function act(id, deed, about) {
  const kill = deed === 'kill';
  const done = await confirm({
    title: kill ? `Kill ${about}?` : `Cancel what ${about} runs?`,
    text: kill ? 'Its connection ends at once with SQLSTATE 57P01; what it has begun is rolled back.' : 'The query that it runs or waits for ends with SQLSTATE 57014; the connection stays.',
    verb: kill ? 'Kill' : 'Cancel query', danger: kill, act: () => post(`/api/clients/${id}/${deed}`),
  });
  if (done) toast(kill ? `${about} was killed` : `A cancel was sent for ${about}`);
  return done;
}

/** Buttons for one client. `after` runs when something was done. */
function buttons(id, about, after, small = 'small') {
  const button = (deed, text, danger) => h('button', { type: 'button', class: `${small} ${danger ? 'danger' : ''}`, text, 'aria-label': `${text} ${about}`, onclick: async () => {
    if (await act(id, deed, about)) after(deed);
  } });
  return [button('cancel', 'Cancel', false), button('kill', 'Kill', true)];
}

export function actsCell(refresh) {
  return (cell, row) => {
    const id = row.client_id === undefined ? row.id : row.client_id;
    const wanted = isAdmin() && id ? String(id) : '';
    if (cell.dataset.shown === wanted) return;
    cell.dataset.shown = wanted;
    const about = row.client ?? '';
    cell.replaceChildren(...(wanted ? [h('span', { class: 'acts' }, buttons(id, about, refresh))] : []));
  };
}

/** A dialog with all of a row. */
function details(title, entries, id, about, refresh) {
  const list = h('dl', {}, entries.filter(([, value]) => value !== '' && value !== null && value !== undefined).flatMap(([label, value]) => [h('dt', { text: label }), h('dd', { text: value })]));
  const acts = isAdmin() && id ? buttons(id, about, (deed) => {
    if (deed === 'kill') dialog.close();
    refresh();
  }, '') : [];
  const dialog = h('dialog', { 'aria-label': title }, h('div', { class: 'inside' }, h('h2', { text: title }), list,
    h('div', { class: 'row' }, acts, h('button', { type: 'button', class: 'main', text: 'Close', onclick: () => dialog.close() }))));
  show(dialog);
}

const yes = (is) => (is ? 'yes' : 'no');

class List {
  constructor(options) {
    this.grid = new Grid({ ...options, fetchPage: (query, signal) => get(`${options.path}?${query}`, signal), onOpen: (row) => this.open(row) });
    this.grid.onError = (error) => this.onError?.(error);
    this.element = h('div', { class: 'stack' }, this.grid.toolbar, this.grid.element);
    this.again = () => this.grid.load().catch((error) => this.onError?.(error));
  }

  get search() {
    return this.grid.search;
  }

  refresh(signal) {
    return this.grid.load(signal);
  }
}

export class Clients extends List {
  constructor() {
    const again = () => this.again();
    super({
      name: 'Clients', noun: 'clients', path: '/api/clients', sort: 'id', columns: [
        { key: 'id', label: 'Client', width: '6.25rem', text: (row) => row.client },
        { key: 'user', label: 'User', text: (row) => row.user },
        { key: 'database', label: 'Database', text: (row) => row.database, priority: 3 },
        { key: 'application', label: 'Application', text: (row) => row.application, priority: 2 },
        { key: 'state', label: 'State', width: '9.5rem', cell: stateCell },
        { key: 'state_us', label: 'For', width: '5.25rem', num: true, priority: 2, text: (row) => micros(row.state_us) },
        { key: 'held_us', label: 'Has server', width: '6rem', num: true, priority: 3, text: (row) => (row.held_us === null ? '' : micros(row.held_us)) },
        { key: 'server', label: 'Server', width: '6.5rem', priority: 3, text: (row) => row.server ?? '' },
        { key: 'address', label: 'Address', width: '9.5rem', priority: 2, text: (row) => row.address },
        { key: 'connected_s', label: 'Connected', width: '6.5rem', num: true, priority: 3, text: (row) => seconds(row.connected_s) },
        { key: 'acts', label: '', width: '8rem', sort: false, priority: 2, cell: actsCell(again) },
      ],
    });
  }

  open(row) {
    details(`Client ${row.client}`, [
      ['User', row.user], ['Database', row.database], ['Application', row.application], ['Address', row.address], ['State', `${row.state}, for ${micros(row.state_us)}`],
      ['Has its server', row.held_us === null ? '' : `for ${micros(row.held_us)}`], ['Server', row.server && `${row.server}, process ${row.server_pid}`], ['Pinned by', row.pinned],
      ['Connected', `for ${seconds(row.connected_s)}`], ['Statements', number(row.prepared)], ['Encrypted', yes(row.tls)], ['Kind', row.kind],
    ], row.id, row.client, this.again);
  }
}

export class Servers extends List {
  constructor() {
    const again = () => this.again();
    super({
      name: 'Servers', noun: 'servers', path: '/api/servers', sort: 'id', columns: [
        { key: 'id', label: 'Server', width: '6.25rem', text: (row) => row.server },
        { key: 'database', label: 'Database', text: (row) => row.database },
        { key: 'user', label: 'User', text: (row) => row.user, priority: 3 },
        { key: 'pid', label: 'Process', width: '5.5rem', num: true, text: (row) => row.pid, priority: 2 },
        { key: 'state', label: 'State', width: '9.5rem', cell: stateCell },
        { key: 'state_us', label: 'For', width: '5.25rem', num: true, priority: 2, text: (row) => (row.state_us === null ? '' : micros(row.state_us)) },
        { key: 'client', label: 'Client', width: '7rem', text: (row) => row.client ?? '', priority: 2 },
        { key: 'application', label: 'Application', text: (row) => row.application, priority: 3 },
        { key: 'address', label: 'Address', width: '9.5rem', text: (row) => row.address, priority: 3 },
        { key: 'connected_s', label: 'Connected', width: '6.5rem', num: true, text: (row) => seconds(row.connected_s), priority: 3 },
        { key: 'acts', label: '', width: '8rem', sort: false, priority: 2, cell: actsCell(again) },
      ],
    });
  }

  open(row) {
    details(`Server ${row.server}`, [
      ['Database', row.database], ['User', row.user], ['Process', row.pid], ['Address', row.address], ['State', row.state_us === null ? row.state : `${row.state}, for ${micros(row.state_us)}`],
      ['Client', row.client], ['Application', row.application], ['Pinned by', row.pinned && `${row.pinned}, for ${seconds(row.pinned_s)}`], ['Connected', `for ${seconds(row.connected_s)}`],
      ['Statements', number(row.prepared)], ['Encrypted', yes(row.tls)], ['Replaced', row.outdated ? 'as soon as it comes free' : ''],
    ], row.client_id, row.client, this.again);
  }
}

