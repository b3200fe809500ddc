// A table of any length of which only the rows in sight exist. Carpool sorts, searches and cuts it to what is asked for.

import { h, setText } from './dom.js';
import { number } from './format.js';

const ROW = 34;
const AROUND = 15;

/**
 * `columns`: [{key, label, width, text(row), cell(td, row), num, priority, sort}]. `fetchPage(query, signal)` gives
 * {total, matched, offset, rows}; rows have an `id`. `onOpen(row)` is what Enter and a click do.
 */
export class Grid {
  constructor({ name, columns, sort, descending = false, fetchPage, onOpen, noun }) {
    Object.assign(this, { columns, fetchPage, onOpen, noun, sort, descending });
    this.offset = 0;
    this.rows = [];
    this.matched = 0;
    this.active = 0;
    this.selected = null;
    this.search = h('input', { type: 'search', class: 'grow', placeholder: `Search ${noun} …`, 'aria-label': `Search ${noun}`, autocomplete: 'off', spellcheck: 'false' });
    this.count = h('span', { class: 'soft', role: 'status' });
    this.top = h('tr', { class: 'spacer', 'aria-hidden': 'true' }, h('td', { colspan: columns.length }));
    this.bottom = this.top.cloneNode(true);
    this.body = h('tbody', {}, this.top, this.bottom);
    this.heads = new Map();
    const head = h('tr', {}, columns.map((column) => this.heading(column)));
    this.table = h('table', { class: 'fixed', 'aria-label': name }, h('colgroup', {}, columns.map((column) => this.column(column))), h('thead', {}, head), this.body);
    this.scroller = h('div', { class: 'scroller tall', tabindex: -1 }, this.table);
    this.nothing = h('p', { class: 'empty', hidden: true });
    this.element = h('div', { class: 'card' }, this.nothing, this.scroller);
    this.toolbar = h('div', { class: 'bar-line' }, this.search, this.count);
    let typed;
    this.search.addEventListener('input', () => {
      clearTimeout(typed);
      typed = setTimeout(() => this.restart(), 150);
    });
    this.search.addEventListener('keydown', (event) => {
      if (event.key === 'ArrowDown') {
        event.preventDefault();
        this.focusRow(this.active);
      }
    });
    this.scroller.addEventListener('scroll', () => this.scrolled(), { passive: true });
    this.body.addEventListener('click', (event) => this.clicked(event));
    this.body.addEventListener('keydown', (event) => this.keyed(event));
    this.markSort();
  }

  column({ width, priority }) {
    const element = h('col', { class: priority ? `p${priority}` : undefined });
    if (width) element.style.width = width;
    return element;
  }

  heading({ key, label, num, priority, sort = true }) {
    const classes = [num && 'num', priority && `p${priority}`].filter(Boolean).join(' ');
    const inner = sort ? h('button', { type: 'button', text: label, onclick: () => this.sortBy(key) }) : h('span', { text: label });
    const cell = h('th', { scope: 'col', class: classes }, inner);
    this.heads.set(key, cell);
    return cell;
  }

  sortBy(key) {
    const { num } = this.columns.find((column) => column.key === key);
    // Of numbers the large ones are of interest first.
    this.descending = this.sort === key ? !this.descending : Boolean(num);
    this.sort = key;
    this.markSort();
    this.restart();
  }

  markSort() {
    for (const [key, cell] of this.heads) {
      if (key === this.sort) cell.setAttribute('aria-sort', this.descending ? 'descending' : 'ascending');
      else cell.removeAttribute('aria-sort');
    }
  }

  restart() {
    this.scroller.scrollTop = 0;
    this.active = 0;
    this.load().catch((error) => this.onError?.(error));
  }

  /** The rows that are to be there: those in sight and some around. */
  window() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - AROUND);
    return { offset: first, limit: Math.min(500, Math.ceil((this.scroller.clientHeight || 600) / ROW) + 2 * AROUND) };
  }

  /** Fetches the rows in sight anew: one question at a time, so that Carpool isn't asked for what was passed by. */
  async load(signal) {
    this.loading = (this.loading ?? 0) + 1;
    try {
      await this.fetchRows(signal);
    } finally {
      this.loading -= 1;
    }
    if (this.missed && !this.loading) {
      this.missed = false;
      this.scrolled();
    }
  }

  async fetchRows(signal) {
    const { offset, limit } = this.window();
    const query = new URLSearchParams({ sort: this.sort, dir: this.descending ? 'desc' : 'asc', search: this.search.value, offset, limit });
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const page = await this.fetchPage(query, signal);
    // A later question has been answered, or will be.
    if (turn === this.turn) this.show(page);
  }

  scrolled() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = null;
      const visible = Math.floor(this.scroller.scrollTop / ROW);
      const end = Math.min(this.matched, visible + Math.ceil(this.scroller.clientHeight / ROW));
      if (visible >= this.offset && end <= this.offset + this.rows.length) return;
      if (this.loading) this.missed = true;
      else this.load().catch((error) => this.onError?.(error));
    });
  }

  show({ total, matched, offset, rows }) {
    Object.assign(this, { matched, offset, rows });
    setText(this.count, matched === total ? `${number(total)} ${this.noun}` : `${number(matched)} of ${number(total)} ${this.noun}`);
    this.nothing.hidden = matched > 0;
    this.scroller.hidden = matched === 0;
    setText(this.nothing, total ? `Nothing fits “${this.search.value}”.` : `There are no ${this.noun}.`);
    this.table.setAttribute('aria-rowcount', matched + 1);
    this.spacer(this.top, Math.min(offset, matched) * ROW);
    this.spacer(this.bottom, Math.max(0, matched - offset - rows.length) * ROW);
    const known = new Map([...this.body.querySelectorAll('tr[data-id]')].map((row) => [row.dataset.id, row]));
    let place = this.top.nextElementSibling;
    rows.forEach((row, index) => {
      const id = String(row.id);
      const element = known.get(id) ?? this.makeRow(id);
      known.delete(id);
      this.fillRow(element, row, offset + index);
      if (element === place) place = place.nextElementSibling;
      else this.body.insertBefore(element, place);
    });
    for (const gone of known.values()) {
      // Who was on a row that has gone stays in the list.
      if (gone === document.activeElement) this.refocus = true;
      gone.remove();
    }
    this.active = Math.max(0, Math.min(this.active, matched - 1));
    this.rove();
    if (this.refocus) this.focusRow(this.active);
    this.refocus = false;
  }

  spacer(row, height) {
    row.hidden = height === 0;
    row.firstChild.style.height = `${height}px`;
  }

  makeRow(id) {
    const cells = this.columns.map(({ num, priority }) => h('td', { class: [num && 'num', priority && `p${priority}`].filter(Boolean).join(' ') }));
    return h('tr', { 'data-id': id, tabindex: -1 }, cells);
  }

  fillRow(element, row, index) {
    element.dataset.index = index;
    element.setAttribute('aria-rowindex', index + 2);
    element.setAttribute('aria-selected', String(this.selected === row.id));
    this.columns.forEach((column, at) => {
      const cell = element.children[at];
      if (column.cell) column.cell(cell, row);
      else {
        const text = String(column.text(row) ?? '');
        setText(cell, text);
        if (cell.title !== text) cell.title = text;
      }
    });
  }

  rove() {
    for (const row of this.body.querySelectorAll('tr[data-id]')) row.tabIndex = Number(row.dataset.index) === this.active ? 0 : -1;
    const first = this.body.querySelector('tr[data-id]');
    if (first && !this.body.querySelector('tr[tabindex="0"]')) first.tabIndex = 0;
  }

  clicked(event) {
    if (event.target.closest('button')) return;
    const row = event.target.closest('tr[data-id]');
    if (row) this.open(Number(row.dataset.index));
  }

  open(index) {
    const row = this.rows[index - this.offset];
    if (!row) return;
    this.active = index;
    this.selected = row.id;
    for (const element of this.body.querySelectorAll('tr[data-id]')) element.setAttribute('aria-selected', String(element.dataset.id === String(row.id)));
    this.rove();
    this.onOpen(row);
  }

  keyed(event) {
    const row = event.target.closest('tr[data-id]');
    if (!row || event.target !== row) return;
    const at = Number(row.dataset.index);
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 2);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: this.matched - 1 }[event.key];
    if (event.key === 'Enter') {
      event.preventDefault();
      this.open(at);
    } else if (to !== undefined) {
      event.preventDefault();
      this.focusRow(Math.max(0, Math.min(this.matched - 1, to)));
    }
  }

  /** Brings a row into sight, fetches it if it isn't here, and focuses it. */
  async focusRow(index) {
    this.active = index;
    const room = this.scroller.clientHeight - 2 * ROW;
    const above = index * ROW;
    if (above < this.scroller.scrollTop) this.scroller.scrollTop = above;
    else if (above > this.scroller.scrollTop + room) this.scroller.scrollTop = above - room;
    if (!this.rows[index - this.offset]) await this.load().catch((error) => this.onError?.(error));
    this.rove();
    this.body.querySelector(`tr[data-index="${index}"]`)?.focus({ preventScroll: true });
  }
}

/** A short table that is all here: sorts and searches by itself. Cells are as in Grid. */
export class Table {
  constructor({ name, columns, sort, descending = false, keyOf, onOpen }) {
    Object.assign(this, { columns, sort, descending, keyOf, onOpen });
    this.rows = [];
    this.body = h('tbody');
    this.heads = new Map();
    this.table = h('table', { 'aria-label': name }, h('thead', {}, h('tr', {}, columns.map((column) => this.heading(column)))), this.body);
    this.element = h('div', { class: 'scroller' }, this.table);
    if (onOpen) {
      this.body.addEventListener('click', (event) => {
        if (!event.target.closest('button')) this.openRow(event.target.closest('tr'));
      });
      this.body.addEventListener('keydown', (event) => {
        if (event.key === 'Enter' && event.target.matches('tr')) this.openRow(event.target);
      });
    }
    Grid.prototype.markSort.call(this);
  }

  heading(column) {
    return Grid.prototype.heading.call(this, { ...column, sort: Boolean(column.value) });
  }

  sortBy(key) {
    const { num } = this.columns.find((column) => column.key === key);
    this.descending = this.sort === key ? !this.descending : Boolean(num);
    this.sort = key;
    Grid.prototype.markSort.call(this);
    this.update(this.rows);
  }

  openRow(element) {
    const row = element && this.rows.find((candidate) => String(this.keyOf(candidate)) === element.dataset.key);
    if (row) this.onOpen(row);
  }

  update(rows) {
    this.rows = rows;
    const { value } = this.columns.find((column) => column.key === this.sort) ?? {};
    const sorted = value ? [...rows].sort((a, b) => {
      const [x, y] = [value(a) ?? -1, value(b) ?? -1];
      const order = typeof x === 'string' ? x.localeCompare(String(y)) : x - y;
      return this.descending ? -order : order;
    }) : rows;
    const known = new Map([...this.body.children].map((element) => [element.dataset.key, element]));
    let place = this.body.firstElementChild;
    for (const row of sorted) {
      const key = String(this.keyOf(row));
      const element = known.get(key) ?? Grid.prototype.makeRow.call(this, key);
      known.delete(key);
      element.dataset.key = key;
      if (this.onOpen) element.tabIndex = 0;
      else element.removeAttribute('tabindex');
      this.columns.forEach((column, at) => {
        const cell = element.children[at];
        if (column.cell) column.cell(cell, row);
        else setText(cell, column.text(row) ?? '');
      });
      if (element === place) place = place.nextElementSibling;
      else this.body.insertBefore(element, place);
    }
    for (const gone of known.values()) gone.remove();
  }
}
