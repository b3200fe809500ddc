// Configuration: what is set, what a reload can change, and what it would change now.

import { get, isAdmin, post } from './api.js';
import { toast, words } from './dialog.js';
import { h, setText } from './dom.js';
import { count } from './format.js';
import { Table } from './grid.js';

export class Config {
  constructor() {
    this.search = h('input', { type: 'search', class: 'grow', placeholder: 'Search settings …', 'aria-label': 'Search settings', oninput: () => this.draw() });
    this.only = h('button', { type: 'button', class: 'small', 'aria-pressed': 'false', text: 'Only changed', onclick: () => this.toggle() });
    this.count = h('span', { class: 'soft', role: 'status' });
    this.check = h('button', { type: 'button', text: 'Show reload plan', onclick: () => this.plan() });
    this.result = h('div', { role: 'status' });
    this.table = new Table({ name: 'Settings', sort: 'name', keyOf: (row) => `${row.section}\n${row.name}`, columns: [
      { key: 'name', label: 'Setting', value: (row) => row.name, cell: (cell, row) => this.name(cell, row) },
      { key: 'section', label: 'Section', value: (row) => row.section, text: (row) => row.section, priority: 2 },
      { key: 'value', label: 'Value', value: (row) => row.value, cell: (cell, row) => {
        cell.className = `wrap mono${row.changed ? ' changed' : ''}`;
        setText(cell, row.value === '' ? '–' : row.value);
      } },
      { key: 'default', label: 'Default', value: (row) => row.default, priority: 2, cell: (cell, row) => {
        cell.className = 'wrap mono soft p2';
        setText(cell, row.default === '' ? '–' : row.default);
      } },
      { key: 'reloadable', label: 'Changed by', value: (row) => Number(row.reloadable), cell: (cell, row) => {
        if (cell.firstChild) return;
        cell.append(h('span', { class: `tag ${row.reloadable ? '' : 'warn'}`, text: row.reloadable ? 'reload' : 'restart' }));
      } },
      { key: 'meaning', label: 'Meaning', priority: 3, cell: (cell, row) => {
        cell.className = 'wrap soft p3';
        setText(cell, row.meaning);
      } },
    ] });
    this.element = h('div', { class: 'stack' },
      h('section', { class: 'card' }, h('header', {}, h('h2', { text: 'Reload' }), this.check), h('div', { class: 'body stack' },
        h('p', { class: 'soft', text: 'The configuration file is read and checked; nothing changes before the plan has been seen.' }), this.result)),
      h('div', { class: 'bar-line' }, this.search, this.only, this.count),
      h('section', { class: 'card' }, this.table.element));
  }

  name(cell, row) {
    if (!cell.firstChild) cell.append(h('span', { class: 'mono', text: row.name, title: row.meaning }));
  }

  toggle() {
    this.only.setAttribute('aria-pressed', String(this.only.getAttribute('aria-pressed') !== 'true'));
    this.draw();
  }

  async refresh(signal) {
    this.check.hidden = !isAdmin();
    if (this.rows) return;
    const config = await get('/api/config', signal);
    const rows = (section, settings) => settings.map((row) => ({ ...row, section, changed: row.value !== row.default }));
    this.rows = [...rows('pooler', config.settings), ...config.sections.flatMap(({ name, settings }) => rows(name, settings))];
    this.draw();
  }

  draw() {
    const wanted = this.search.value.toLowerCase().split(/\s+/);
    const only = this.only.getAttribute('aria-pressed') === 'true';
    const shown = (this.rows ?? []).filter((row) => (!only || row.changed) && wanted.every((word) => `${row.name} ${row.section} ${row.value} ${row.meaning}`.toLowerCase().includes(word)));
    setText(this.count, count(shown.length, 'setting'));
    this.table.update(shown.slice(0, 1000));
  }

  async plan() {
    this.check.disabled = true;
    try {
      const { changes } = await post('/api/reload?check');
      this.showPlan(changes);
    } catch (error) {
      this.result.replaceChildren(h('p', { class: 'notice bad query', text: words(error) }));
    }
    this.check.disabled = false;
  }

  showPlan(changes) {
    if (!changes.length) {
      this.result.replaceChildren(h('p', { class: 'notice', text: 'A reload would change nothing.' }));
      return;
    }
    const list = h('ul', { class: 'plan' }, changes.map(({ key, what }) => h('li', {}, h('code', { text: key }), ' ', what)));
    const now = h('button', { type: 'button', class: 'main', text: `Reload: ${count(changes.length, 'change')}`, onclick: () => this.reload() });
    this.result.replaceChildren(list, h('div', { class: 'row' }, now));
  }

  async reload() {
    try {
      const { changes } = await post('/api/reload');
      toast(`Reloaded, ${count(changes.length, 'change')}`);
      this.result.replaceChildren(h('p', { class: 'notice', text: 'Reloaded.' }));
      this.rows = null;
      await this.refresh();
    } catch (error) {
      this.result.replaceChildren(h('p', { class: 'notice bad query', text: words(error) }));
    }
  }

  leave() {
    this.rows = null;
  }
}
