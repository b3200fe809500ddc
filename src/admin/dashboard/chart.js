// Charts: lines and areas over time, and over pool sizes. Each has a legend with values, a hair line that follows the
// pointer or the arrow keys, a name for screen readers, and the same numbers as a table.

import { h, svg, setText } from './dom.js';
import { clock } from './format.js';

const HEIGHT = 150;
const LEFT = 52;
const BOTTOM = 20;
const TOP = 8;

/** The next round number for an axis. */
function roundUp(n) {
  if (!(n > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= n * 0.9999);
}

/** A path through points; nulls leave gaps. */
function linePath(points) {
  let path = '';
  let pen = false;
  for (const point of points) {
    if (point) path += `${pen ? 'L' : 'M'}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = Boolean(point);
  }
  return path;
}

/** The area between two lines of the same length; gaps count as empty. */
function areaPath(upper, lower) {
  if (!upper.length) return '';
  const there = upper.map((point) => `${point[0].toFixed(1)} ${point[1].toFixed(1)}`);
  const back = lower.map((point) => `${point[0].toFixed(1)} ${point[1].toFixed(1)}`).reverse();
  return `M${there.join('L')}L${back.join('L')}Z`;
}

/**
 * One chart. `series`: [{key, label, colour, kind: 'area'|'line'|'dashed'|'band', to}]; areas stack, a band reaches from
 * its key to that of `to`. `format` writes a value; `x` writes what is below; `logarithmic` is of the upright axis.
 */
export class Chart {
  constructor({ title, series, format, x = clock, xTable = x, logarithmic = false, note = '' }) {
    Object.assign(this, { title, series, format, x, xTable, logarithmic });
    this.data = { at: [] };
    this.marks = [];
    this.values = new Map();
    this.svg = svg('svg', { height: HEIGHT, tabindex: 0, role: 'img' });
    this.toggle = h('button', { class: 'quiet small', type: 'button', 'aria-pressed': 'false', onclick: () => this.showTable(), text: 'Table' });
    this.toggle.setAttribute('aria-label', `${title} as a table`);
    this.table = h('div', { class: 'chart-table', hidden: true, tabindex: 0 });
    this.when = h('span');
    const legend = h('div', { class: 'keys' }, series.filter(({ kind }) => kind !== 'band').map(({ key, label, colour, kind }) => {
      const value = h('b');
      this.values.set(key, value);
      return h('span', {}, h('i', { class: kind === 'dashed' ? `dash l-${colour}` : `c-${colour}` }), label, value);
    }), this.when);
    this.element = h('section', { class: 'card' },
      h('header', {}, h('h3', { text: title }), note && h('span', { class: 'soft', text: note }), this.toggle),
      h('div', { class: 'chart' }, this.svg, this.table), h('div', { class: 'body' }, legend));
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => this.hover(null));
    this.svg.addEventListener('blur', () => this.hover(null));
    this.svg.addEventListener('keydown', (event) => this.step(event));
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.svg);
    this.index = null;
  }

  /** Others that show the same moment: their hair lines go along. */
  static link(charts) {
    for (const chart of charts) chart.others = charts.filter((other) => other !== chart);
  }

  /** `at` and a list for each key. `marks`: upright lines [{at, label}]. `rest`: whose values show while nothing is pointed at; else
   *  the last ones. */
  update(data, marks = [], rest = null) {
    this.data = data;
    this.rest = rest;
    this.marks = marks;
    if (this.index !== null) this.index = Math.min(this.index, data.at.length - 1);
    this.draw();
  }

  destroy() {
    this.sizes.disconnect();
  }

  showTable() {
    const shown = this.table.hidden;
    this.table.hidden = !shown;
    this.svg.toggleAttribute('hidden', shown);
    this.svg.style.display = shown ? 'none' : '';
    this.toggle.setAttribute('aria-pressed', String(shown));
    this.draw();
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const { at } = this.data;
    if (!at.length || !this.scale) return;
    const wanted = event.clientX - box.left;
    let best = 0;
    at.forEach((value, index) => {
      if (Math.abs(this.scale.x(value) - wanted) < Math.abs(this.scale.x(at[best]) - wanted)) best = index;
    });
    this.hover(best);
  }

  step(event) {
    const last = this.data.at.length - 1;
    const from = this.index ?? this.rest ?? last;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.hover(Math.max(0, Math.min(last, to)));
  }

  hover(index) {
    for (const chart of [this, ...(this.others ?? [])]) {
      chart.index = index;
      chart.drawHair();
    }
  }

  draw() {
    const { at } = this.data;
    const width = this.svg.clientWidth;
    if (!this.table.hidden) this.drawTable();
    this.svg.setAttribute('aria-label', this.summary());
    if (!width) return;
    const stacked = this.stack();
    const scale = this.makeScale(width, stacked);
    this.scale = scale;
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const parts = [...this.axes(width, scale)];
    for (const { series, lower, upper } of stacked) {
      const points = (values) => values.map((value, index) => (value === null || value === undefined ? null : [scale.x(at[index]), scale.y(value)]));
      if (series.kind === 'area' || series.kind === 'band') {
        const filled = (values) => points(values.map((value) => value ?? 0));
        parts.push(svg('path', { class: `${series.kind} f-${series.colour}`, d: areaPath(filled(upper), filled(lower)) }));
      } else {
        parts.push(svg('path', { class: `line l-${series.colour} ${series.kind}`, d: linePath(points(upper)) }));
      }
    }
    for (const mark of this.marks) {
      const x = scale.x(mark.at);
      const atEnd = x > width * 0.75;
      parts.push(svg('line', { class: 'hair', x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
        svg('text', { x: x + (atEnd ? -4 : 4), y: TOP + (mark.row ?? 0) * 13 + 8, 'text-anchor': atEnd ? 'end' : 'start', text: mark.label }));
    }
    this.hair = svg('line', { class: 'hair', y1: TOP, y2: HEIGHT - BOTTOM });
    this.svg.replaceChildren(...parts, this.hair);
    this.drawHair();
  }

  /** Each series with its lower and upper line: areas stand on each other. */
  stack() {
    let below = this.data.at.map(() => 0);
    return this.series.map((series) => {
      const values = this.data[series.key] ?? [];
      if (series.kind === 'band') return { series, lower: values, upper: this.data[series.to] ?? [] };
      if (series.kind !== 'area') return { series, lower: below, upper: values };
      const lower = below;
      const upper = below.map((sum, index) => sum + (values[index] ?? 0));
      below = upper;
      return { series, lower, upper };
    });
  }

  makeScale(width, stacked) {
    const { at } = this.data;
    const all = stacked.flatMap(({ upper, lower, series }) => (series.kind === 'band' ? [...upper, ...lower] : upper)).filter((value) => value !== null && value !== undefined);
    const [first, last] = [at[0] ?? 0, at[at.length - 1] ?? 1];
    const x = (value) => LEFT + ((value - first) / Math.max(last - first, 1e-9)) * (width - LEFT - 8);
    const most = Math.max(...all, 0);
    const space = HEIGHT - BOTTOM - TOP;
    if (this.logarithmic) {
      const least = Math.max(1, Math.min(...all.filter((value) => value > 0), 1000));
      const [from, to] = [Math.floor(Math.log10(least)), Math.max(Math.ceil(Math.log10(Math.max(most, 10))), Math.floor(Math.log10(least)) + 1)];
      const y = (value) => TOP + space * (1 - (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from));
      const ticks = Array.from({ length: to - from + 1 }, (_, step) => 10 ** (from + step));
      return { x, y, ticks: ticks.length > 5 ? ticks.filter((_, index) => index % 2 === 0) : ticks };
    }
    const top = roundUp(most);
    return { x, y: (value) => TOP + space * (1 - value / top), ticks: [0, top / 2, top] };
  }

  *axes(width, scale) {
    for (const tick of scale.ticks) {
      const y = scale.y(tick);
      yield svg('line', { class: tick === scale.ticks[0] ? 'axis' : 'grid', x1: LEFT, x2: width - 8, y1: y, y2: y });
      yield svg('text', { x: LEFT - 6, y: y + 4, 'text-anchor': 'end', text: this.format(tick) });
    }
    const { at } = this.data;
    if (at.length < 2) return;
    const count = Math.max(2, Math.min(6, Math.floor(width / 130)));
    for (let step = 0; step < count; step += 1) {
      const value = at[0] + ((at[at.length - 1] - at[0]) * step) / (count - 1);
      const anchor = step === 0 ? 'start' : step === count - 1 ? 'end' : 'middle';
      yield svg('text', { x: scale.x(value), y: HEIGHT - 4, 'text-anchor': anchor, text: this.x(value) });
    }
  }

  drawHair() {
    const { at } = this.data;
    const index = this.index ?? this.rest ?? at.length - 1;
    const shown = this.index !== null && this.scale && at.length > 0;
    if (this.hair) {
      this.hair.style.display = shown ? '' : 'none';
      if (shown) {
        const x = this.scale.x(at[index]);
        this.hair.setAttribute('x1', x);
        this.hair.setAttribute('x2', x);
      }
    }
    setText(this.when, shown ? `at ${this.xTable(at[index])}` : '');
    for (const [key, element] of this.values) setText(element, this.format(this.data[key]?.[index] ?? null));
  }

  summary() {
    const last = this.data.at.length - 1;
    if (last < 0) return `${this.title}: no data yet`;
    const values = this.series.filter(({ kind }) => kind !== 'band').map(({ key, label }) => `${label} ${this.format(this.data[key]?.[last] ?? null)}`);
    return `${this.title}, latest: ${values.join(', ')}. Arrow keys read values.`;
  }

  drawTable() {
    const { at } = this.data;
    const shown = this.series.filter(({ kind }) => kind !== 'band');
    const rows = at.map((_, index) => index).reverse().slice(0, 200);
    this.table.replaceChildren(h('table', {}, h('caption', { class: 'unseen', text: this.title }),
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, h('span', { text: 'At' })), shown.map(({ label }) => h('th', { scope: 'col', class: 'num' }, h('span', { text: label }))))),
      h('tbody', {}, rows.map((index) => h('tr', {}, h('td', { text: this.xTable(at[index]) }), shown.map(({ key }) => h('td', { class: 'num', text: this.format(this.data[key]?.[index] ?? null) })))))));
  }
}
