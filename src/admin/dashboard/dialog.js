// Questions and notices.

import { h } from './dom.js';
import { Refused } from './api.js';

/** Says something for some seconds. */
export function toast(text, bad = false) {
  const element = h('div', { class: bad ? 'toast bad' : 'toast', text });
  document.getElementById('toasts').append(element);
  setTimeout(() => element.remove(), bad ? 9000 : 4000);
}

/** What went wrong, in one line. */
export function words(error) {
  return [error.message, error instanceof Refused && error.hint].filter(Boolean).join('. ');
}

/** Shows a dialog until it is closed. */
export function show(dialog) {
  document.body.append(dialog);
  dialog.addEventListener('close', () => dialog.remove());
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.showModal();
  return dialog;
}

/** Asks whether something is to be done, and does it. Gives whether it was. */
export function confirm({ title, text, verb, danger = false, act }) {
  return new Promise((resolve) => {
    let done = false;
    const wrong = h('p', { class: 'wrong', role: 'alert' });
    const yes = h('button', { class: danger ? 'main danger' : 'main', type: 'submit', text: verb });
    const form = h('form', { method: 'dialog' }, h('h2', { text: title }), h('p', { class: 'soft', text }), wrong,
      h('div', { class: 'row' }, h('button', { type: 'button', text: 'Leave it', onclick: () => dialog.close() }), yes));
    const dialog = h('dialog', { class: 'narrow', 'aria-label': title }, form);
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      yes.disabled = true;
      wrong.textContent = '';
      try {
        await act();
        done = true;
        dialog.close();
      } catch (error) {
        wrong.textContent = words(error);
        yes.disabled = false;
      }
    });
    dialog.addEventListener('close', () => resolve(done));
    show(dialog);
    yes.focus();
  });
}

/** Asks for a name and password, and logs in with them. */
export function askLogin(login) {
  const wrong = h('p', { class: 'wrong', role: 'alert' });
  const user = h('input', { name: 'user', autocomplete: 'username', required: true, autocapitalize: 'none', spellcheck: 'false' });
  const password = h('input', { name: 'password', type: 'password', autocomplete: 'current-password', required: true });
  const button = h('button', { class: 'main', type: 'submit', text: 'Log in' });
  const form = h('form', { method: 'dialog' }, h('h2', { text: 'Log in to Carpool' }),
    h('p', { class: 'soft', text: 'As one of admin_users or stats_users, with the password of the console.' }),
    h('label', {}, 'User', user), h('label', {}, 'Password', password), wrong,
    h('div', { class: 'row' }, h('button', { type: 'button', text: 'Cancel', onclick: () => dialog.close() }), button));
  const dialog = h('dialog', { class: 'narrow', 'aria-label': 'Log in' }, form);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    button.disabled = true;
    wrong.textContent = '';
    try {
      await login(user.value, password.value);
      dialog.close();
    } catch (error) {
      wrong.textContent = words(error);
      password.select();
    }
    button.disabled = false;
  });
  show(dialog);
}

const SHORTCUTS = [
  ['1 … 8', 'go to a section'], ['/', 'search'], ['↑ ↓ PgUp PgDn Home End', 'move in a list'], ['Enter', 'open a row; on a heading, sort by it'],
  ['← →', 'read values of the chart that has the focus'], ['p', 'stop and start refreshing'], ['t', 'light, dark, or as the system'], ['Esc', 'close, or clear the search'], ['?', 'this help'],
];

export function showHelp() {
  const list = SHORTCUTS.flatMap(([keys, text]) => [h('dt', {}, keys.split(' ').flatMap((key) => [h('kbd', { text: key }), ' '])), h('dd', { text })]);
  const dialog = h('dialog', { 'aria-label': 'Keyboard shortcuts' }, h('div', { class: 'inside' }, h('h2', { text: 'Keyboard shortcuts' }), h('dl', {}, list),
    h('div', { class: 'row' }, h('button', { class: 'main', type: 'button', text: 'Close', onclick: () => dialog.close() }))));
  show(dialog);
}
