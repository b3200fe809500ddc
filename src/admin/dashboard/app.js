// The frame: sections by the URL's hash, refreshing, logging in, keys, light and dark.

import { knowMe, login, logout, Lost, Refused, session } from './api.js';
import { askLogin, showHelp, toast, words } from './dialog.js';
import { h, setText } from './dom.js';
import { clock, seconds } from './format.js';
import { Config } from './config.js';
import { Advisor, Holders, Statements, Waits } from './insight.js';
import { Clients, Servers } from './lists.js';
import { Overview } from './overview.js';

/** Each with the level that it needs. */
const SECTIONS = [
  ['overview', 'Overview', Overview, 'status'], ['clients', 'Clients', Clients, 'read'], ['servers', 'Servers', Servers, 'read'], ['waits', 'Waits', Waits, 'status'],
  ['statements', 'Statements', Statements, 'status'], ['advisor', 'Advisor', Advisor, 'status'], ['holders', 'Holders', Holders, 'read'], ['config', 'Config', Config, 'read'],
];
const LEVELS = ['none', 'status', 'read', 'admin'];
const EVERY = 2000;
const PATIENCE = 10_000;

const find = (id) => document.getElementById(id);
const [main, tabs, link, hold, theme, account, who] = ['main', 'tabs', 'link', 'hold', 'theme', 'account', 'who'].map(find);

const views = new Map();
let current = null;
let timer = null;
let asking = null;
let held = false;
let lastAnswer = null;
let started = null;

const may = (level) => LEVELS.indexOf(session.level) >= LEVELS.indexOf(level);

function sectionOfUrl() {
  const wanted = location.hash.slice(1);
  return SECTIONS.find(([id]) => id === wanted) ?? SECTIONS[0];
}

/** Shows the section of the URL. */
function go() {
  const [id, label, View, level] = sectionOfUrl();
  for (const tab of tabs.children) {
    if (tab.hash === `#${id}`) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  tabs.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  document.title = `${label} · Carpool`;
  current?.leave?.();
  if (!may(level)) {
    current = null;
    asking?.abort();
    main.replaceChildren(h('div', { class: 'card' }, h('div', { class: 'empty stack' }, h('p', { text: `${label} needs a login.` }),
      h('p', {}, h('button', { class: 'main', type: 'button', text: 'Log in', onclick: logIn })))));
    return;
  }
  if (!views.has(id)) {
    const view = new View();
    view.onError = failed;
    view.onStart = (at) => { started = at; };
    views.set(id, view);
  }
  current = views.get(id);
  main.replaceChildren(current.element);
  refresh();
}

function say(kind, text) {
  link.className = `link ${kind}`;
  setText(link, text);
}

function failed(error) {
  if (error.name === 'AbortError') return;
  if (error instanceof Refused && error.status === 401) {
    // The session is over, or a reload has changed what is shown without one.
    knowMe().then(showAccount).then(go).catch(() => {});
    return;
  }
  main.classList.add('stale');
  const since = lastAnswer ? `; what is shown is of ${clock(lastAnswer)}` : '';
  say('lost', error instanceof Lost ? `Connection to Carpool lost, trying again${since}` : `${words(error)}${since}`);
  if (!(error instanceof Lost) && !(error instanceof Refused)) console.error(error);
}

/** Asks for what the section shows, and again after a while. */
async function refresh() {
  clearTimeout(timer);
  asking?.abort();
  if (!current || document.hidden) return;
  const question = new AbortController();
  asking = question;
  const late = setTimeout(() => question.abort(new Lost('no answer')), PATIENCE);
  const view = current;
  try {
    await view.refresh(question.signal);
    if (question !== asking) return;
    lastAnswer = Date.now();
    main.classList.remove('stale');
    showLink();
  } catch (error) {
    if (question.signal.reason instanceof Lost) failed(question.signal.reason);
    else if (question === asking) failed(error);
  } finally {
    clearTimeout(late);
  }
  if (question === asking && !held) timer = setTimeout(refresh, EVERY);
}

function showLink() {
  if (held) say('idle', `Paused at ${clock(lastAnswer ?? Date.now())}`);
  else say('', started ? `Live · up ${seconds((Date.now() - started) / 1000)}` : 'Live');
}

function toggleHold() {
  held = !held;
  hold.setAttribute('aria-pressed', String(held));
  setText(hold, held ? 'Resume' : 'Pause');
  clearTimeout(timer);
  if (held) showLink();
  else refresh();
}

function showAccount() {
  setText(who, session.user ? `${session.user} · ${session.level === 'admin' ? 'admin' : 'read only'}` : '');
  setText(account, session.user ? 'Log out' : 'Log in');
  setText(find('version'), session.version);
}

function logIn() {
  askLogin(async (user, password) => {
    await login(user, password);
    showAccount();
    redraw();
  });
}

/** Views are made anew: what they offer depends on who one is. */
function redraw() {
  views.clear();
  go();
}

async function toggleAccount() {
  if (!session.user) {
    logIn();
    return;
  }
  try {
    await logout();
  } catch (error) {
    toast(words(error), true);
  }
  showAccount();
  redraw();
}

const THEMES = ['auto', 'light', 'dark'];
const isDark = matchMedia('(prefers-color-scheme: dark)');

function chosenTheme() {
  try {
    return THEMES.find((name) => name === localStorage.getItem('theme')) ?? 'auto';
  } catch {
    return 'auto';
  }
}

function applyTheme(choice = chosenTheme()) {
  document.documentElement.dataset.theme = choice === 'auto' ? (isDark.matches ? 'dark' : 'light') : choice;
  setText(theme, { auto: '◐ Auto', light: '☀ Light', dark: '☾ Dark' }[choice]);
  theme.setAttribute('aria-label', `Colours: ${choice}`);
}

function nextTheme() {
  const choice = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  try {
    localStorage.setItem('theme', choice);
  } catch {
    // Then it holds until the page is left.
  }
  applyTheme(choice);
}

function pressed(event) {
  const typing = event.target.matches?.('input, select, textarea');
  if (event.key === 'Escape' && typing && event.target.value && event.target.type === 'search') {
    event.target.value = '';
    event.target.dispatchEvent(new Event('input'));
    event.preventDefault();
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const section = SECTIONS[Number(event.key) - 1];
  if (section) location.hash = section[0];
  else if (event.key === '/' && current?.search) current.search.focus();
  else if (event.key === 'p') toggleHold();
  else if (event.key === 't') nextTheme();
  else if (event.key === '?') showHelp();
  else return;
  event.preventDefault();
}

async function start() {
  applyTheme();
  isDark.addEventListener('change', () => applyTheme());
  tabs.append(...SECTIONS.map(([id, label], index) => h('a', { href: `#${id}`, text: label, 'aria-keyshortcuts': String(index + 1) })));
  hold.addEventListener('click', toggleHold);
  theme.addEventListener('click', nextTheme);
  account.addEventListener('click', toggleAccount);
  find('help').addEventListener('click', showHelp);
  document.addEventListener('keydown', pressed);
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      clearTimeout(timer);
      asking?.abort();
    } else if (!held) refresh();
  });
  addEventListener('hashchange', go);
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    main.focus();
  });
  for (;;) {
    try {
      await knowMe();
      break;
    } catch (error) {
      failed(error);
      await new Promise((resolve) => setTimeout(resolve, EVERY));
    }
  }
  showAccount();
  go();
}

start();
