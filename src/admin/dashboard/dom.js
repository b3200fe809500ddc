// Elements without templates: the page's policy forbids markup made of text.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'text') element.textContent = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element with attributes, `on…` listeners and children. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same of SVG. */
export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Sets text where it differs, so that nothing flickers and selections stay. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Keeps one child for each item, by key, in order; only what changed is touched. */
export function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child) known.delete(key);
    else {
      child = make(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const gone of known.values()) gone.remove();
}

/** A bar of parts in one line: [[class, share of 1, label], …]. */
export function setMeter(meter, parts) {
  const shown = parts.filter(([, share]) => share > 0);
  keyed(meter, shown, ([name]) => name, ([name]) => h('i', { class: name }), (part, [, share]) => {
    part.style.width = `${(share * 100).toFixed(2)}%`;
  });
  const label = parts.map(([, , text]) => text).filter(Boolean).join(', ');
  if (meter.getAttribute('aria-label') !== label) {
    meter.setAttribute('role', 'img');
    meter.setAttribute('aria-label', label);
    meter.title = label;
  }
}

/** What the colours of charts and bars stand for. */
export function keys(entries) {
  return h('div', { class: 'keys' }, entries.map(([colour, label]) => h('span', {}, h('i', { class: `c-${colour}` }), label)));
}
