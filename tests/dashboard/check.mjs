// The dashboard in headless Chromium, with real load through Carpool: `make dashboard-check`.
//
//   node tests/dashboard/check.mjs [--carpool BINARY] [--clients N] [--chromium BINARY] [--page DIRECTORY]
//
// With --page the parts of the page come from there, so that they can be worked on without a build.

import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import * as recorded from './recorded.mjs';
import { eventually, FLAGS, World } from './world.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const { values: options } = parseArgs({ options: {
  carpool: { type: 'string', default: path.join(root, 'target/debug/carpool') },
  chromium: { type: 'string', default: '/usr/bin/chromium' },
  clients: { type: 'string', default: '10000' },
  page: { type: 'string' },
} });
const shots = path.join(root, 'target/dashboard');

let failures = 0;
const measured = [];

function expect(condition, what) {
  if (!condition) throw new Error(what);
}

async function step(name, test) {
  const begun = Date.now();
  try {
    await test();
    console.log(`ok    ${name} (${Date.now() - begun} ms)`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL  ${name}: ${error.stack.split('\n').slice(0, 4).join('\n      ')}`);
    await page.screenshot({ path: path.join(shots, `failed-${failures}.png`) }).catch(() => {});
    await page.keyboard.press('Escape').catch(() => {});
  }
}

async function shot(name, more = {}) {
  const raw = (await page.locator('main').innerText()).match(/.*(\[object|undefined|NaN|\bnull\b).*/);
  expect(!raw, `${name} shows what nobody has put into words: ${raw?.[0]}`);
  await page.screenshot({ path: path.join(shots, `${name}.png`), ...more });
}
const texts = (selector) => page.locator(selector).allTextContents();
const shows = (selector, text) => eventually(`${selector} has ${text}`, async () => (await texts(selector)).join('\n').includes(text));
const refreshed = () => page.waitForResponse((answer) => answer.url().includes('/api/') && answer.ok());

async function open(section) {
  await page.locator(`#tabs a[href="#${section}"]`).click();
  await shows('#tabs a[aria-current]', section[0].toUpperCase() + section.slice(1));
}

async function search(text) {
  await page.locator('main input[type=search]').fill(text);
}

fs.rmSync(shots, { recursive: true, force: true });
fs.mkdirSync(shots, { recursive: true });
const world = await World.start(options.carpool);
const browser = await chromium.launch({ executablePath: options.chromium, args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, colorScheme: 'light' });
if (options.page) await context.route('**/dashboard/*', (route) => route.fulfill({ path: path.join(options.page, path.basename(route.request().url())) }));
let page = await context.newPage();
const complaints = [];
page.on('console', (message) => message.type() === 'error' && !/status of (401|404|409|429|403)/.test(message.text()) && complaints.push(message.text()));
page.on('pageerror', (error) => complaints.push(String(error)));
const foreign = [];
page.on('request', (request) => request.url().startsWith(world.url) || request.url().startsWith('data:') || foreign.push(request.url()));

try {
  await world.load();
  await page.goto(world.url);

  await step('without a login there are pools, and no clients', async () => {
    await shows('main table', 'shop');
    await open('clients');
    await shows('main', 'Clients needs a login');
    expect(!(await page.content()).includes('127.0.0.1:'), 'an address shows');
  });

  await step('a wrong password is refused, a right one taken', async () => {
    await page.locator('#account').click();
    await page.fill('input[name=user]', 'boss');
    await page.fill('input[name=password]', 'wrong');
    await page.keyboard.press('Enter');
    await shows('dialog [role=alert]', 'wrong user or password');
    await shot('login');
    await page.fill('input[name=password]', 'b0ss-secret');
    await page.keyboard.press('Enter');
    await shows('#who', 'boss · admin');
    await shows('main tbody', 'C-');
  });

  await step('the overview follows the load', async () => {
    await open('overview');
    await eventually('waiting clients show', async () => Number((await texts('.tiles li:nth-child(2) b'))[0]) > 0);
    await eventually('the charts have lines', async () => (await page.locator('.chart path.line').first().getAttribute('d'))?.split('L').length > 3);
    await shows('main', 'temporary object · shop');
    const before = await page.evaluate(() => { document.querySelector('main table').dataset.mark = 'same'; return document.querySelectorAll('main tbody tr').length; });
    await refreshed();
    expect(before >= 2 && await page.evaluate(() => document.querySelector('main table').dataset.mark === 'same'), 'a refresh makes the table anew');
  });

  await step('every section opens without a complaint', async () => {
    for (const section of ['clients', 'servers', 'waits', 'statements', 'advisor', 'holders', 'config', 'overview']) {
      await open(section);
      await eventually(`${section} shows something`, async () => (await page.locator('main').innerText()).length > 25);
    }
    await open('statements');
    await shows('main', 'Not switched on: set track_statements');
    expect(complaints.length === 0, complaints.join('\n'));
  });

  await step('clients are sorted by a click and by the keyboard', async () => {
    await open('clients');
    const users = async () => (await texts('main tbody tr[data-id] td:nth-child(2)')).filter(Boolean);
    await page.getByRole('button', { name: 'User', exact: true }).click();
    await eventually('sorted upwards', async () => { const all = await users(); return all.length > 10 && all.join() === [...all].sort().join(); });
    await page.getByRole('button', { name: 'User', exact: true }).press('Enter');
    await eventually('sorted downwards', async () => { const all = await users(); return all[0] === 'worker' && all.join() === [...all].sort().reverse().join(); });
    expect(await page.locator('th[aria-sort]').getAttribute('aria-sort') === 'descending', 'aria-sort');
  });

  await step('a search finds, and finds nothing', async () => {
    await page.keyboard.press('Escape');
    await page.locator('main').focus();
    await page.keyboard.press('/');
    await page.keyboard.type('importer');
    await eventually('one row', async () => await page.locator('main tbody tr[data-id]').count() === 1);
    await shows('main', 'pinned');
    await search('no such thing');
    await shows('main .empty', 'Nothing fits');
    await search('');
  });

  await step('a client is cancelled, then killed, and is gone', async () => {
    const victim = await world.client('shop', 'reports', 'victim');
    const query = victim.query('select pg_sleep(60)').catch((error) => error);
    await search('victim');
    await eventually('it is found', async () => await page.locator('main tbody tr[data-id]').count() === 1);
    await shows('main tbody tr[data-id]', 'active');
    await page.getByRole('button', { name: /^Cancel C-/ }).click();
    await page.getByRole('button', { name: 'Cancel query' }).click();
    expect((await query).code === '57014', 'the query was cancelled');
    await page.locator('main tbody tr[data-id]').click();
    await shows('dialog', 'reports');
    await shot('client');
    await page.locator('dialog').getByRole('button', { name: /^Kill C-/ }).click();
    await page.locator('dialog').getByRole('button', { name: 'Kill', exact: true }).click();
    await eventually('it has heard of it', () => victim.ended);
    expect(victim.ended.code === '57P01', `code ${victim.ended.code}`);
    await shows('main .empty', 'Nothing fits');
    await shows('#toasts', 'was killed');
    await search('');
  });

  await step('servers show who has them', async () => {
    await open('servers');
    await search('left-open');
    await eventually('it is found', async () => await page.locator('main tbody tr[data-id]').count() === 1);
    await shows('main tbody', 'left-open');
    await search('');
    await shot('servers');
  });

  await step('a pool is paused and resumed', async () => {
    await open('overview');
    await page.getByRole('button', { name: 'Pause billing' }).click();
    await page.locator('dialog button[type=submit]').click();
    await shows('main tbody', 'paused');
    await page.getByRole('button', { name: 'Resume billing' }).click();
    await page.locator('dialog button[type=submit]').click();
    await eventually('it is resumed', async () => !(await texts('main tbody')).join().includes('paused'));
  });

  await step('the reload plan is shown, then done', async () => {
    world.configure('query_wait_timeout = 90');
    await open('config');
    await search('query_wait_timeout');
    await shows('main tbody', '120');
    await page.getByRole('button', { name: 'Show reload plan' }).click();
    await shows('.plan', 'query_wait_timeout 120 -> 90');
    await shot('config');
    await page.getByRole('button', { name: 'Reload: 1 change' }).click();
    await shows('main tbody', '90');
    const all = await page.content();
    expect(!all.includes('-secret'), 'a secret shows');
    await search('');
  });

  await step('waits, statements, advice and holders as they are when switched on', async () => {
    const answers = { waits: recorded.waits, statements: recorded.statements, advice: recorded.advice, blockers: recorded.blockers };
    for (const [name, json] of Object.entries(answers)) await page.route(`**/api/${name}`, (route) => route.fulfill({ json }));
    await open('waits');
    await shows('main tbody', 'shop');
    await page.getByRole('button', { name: 'By application' }).click();
    await shows('main tbody', 'queue-worker');
    await shot('waits');
    await open('statements');
    await shows('main tbody', 'pg_advisory_xact_lock');
    await search('carts');
    await eventually('one is left', async () => await page.locator('main tbody tr').count() === 1);
    await search('');
    await shot('statements');
    await open('advisor');
    await shows('main', '5 too few');
    await shows('.chart', 'recommended 17');
    await shot('advisor');
    await open('holders');
    await shows('main .notice.bad', 'each waits for the others');
    await shot('holders');
    for (const name of Object.keys(answers)) await page.unroute(`**/api/${name}`);
  });

  await step('waits, statements, advice and holders of this very load', async () => {
    world.configure('query_wait_timeout = 90\ntrack_waits = true\ntrack_statements = true\nadvisor = true\nshow_query_text = true');
    await open('config');
    await page.getByRole('button', { name: 'Show reload plan' }).click();
    await page.getByRole('button', { name: 'Reload: 4 changes' }).click();
    await shows('#toasts', 'Reloaded');
    await open('waits');
    await shows('main tbody', 'shop');
    await page.getByRole('button', { name: 'By application' }).click();
    await shows('main tbody', 'queue-worker');
    await shot('waits-live');
    await open('statements');
    await shows('main tbody', 'select pg_sleep($1)');
    await shows('main tbody', 'generate_series($1, $2)');
    await shot('statements-live');
    await open('holders');
    await shows('main tbody', 'left-open');
    await shows('main tbody', 'select pg_sleep($1)');
    await shot('holders-live');
    await open('advisor');
    await eventually('advice, once there is enough to go by', async () => !(await texts('main')).join().includes('812k') && /recommended \d+/.test((await texts('.chart')).join()), 90_000);
    await shot('advisor-live');
  });

  await step('charts are read by pointer, keyboard and as a table', async () => {
    await open('overview');
    await eventually('some history', async () => (await page.locator('.chart path.line').first().getAttribute('d'))?.split('L').length > 8);
    await page.locator('.chart svg').first().hover({ position: { x: 300, y: 60 } });
    await shows('.keys', 'at ');
    await page.mouse.move(0, 0);
    await page.locator('.chart svg').nth(1).focus();
    await page.keyboard.press('ArrowLeft');
    await shows('.keys', 'at ');
    expect((await page.locator('.chart svg').nth(1).getAttribute('aria-label')).includes('latest: waiting'), 'an accessible name');
    await page.getByRole('button', { name: 'Throughput as a table' }).click();
    expect(await page.locator('.chart-table tbody tr').count() > 5, 'rows of numbers');
    await page.getByRole('button', { name: 'Throughput as a table' }).click();
    await page.getByRole('button', { name: '1 hour' }).click();
    await page.getByRole('button', { name: '10 min' }).click();
  });

  await step('light and dark', async () => {
    await eventually('some more history', async () => (await page.locator('.chart path.line').first().getAttribute('d'))?.split('L').length > 40, 120_000);
    await shot('overview-light');
    await page.emulateMedia({ colorScheme: 'dark' });
    await eventually('dark as the system', () => page.evaluate(() => document.documentElement.dataset.theme === 'dark'));
    await shot('overview-dark');
    await page.keyboard.press('t');
    expect(await page.evaluate(() => document.documentElement.dataset.theme) === 'light', 'light by choice');
    await page.keyboard.press('t');
    await page.keyboard.press('t');
    await page.emulateMedia({ colorScheme: 'light' });
  });

  await step('the keyboard alone does', async () => {
    await page.locator('main').focus();
    await page.keyboard.press('2');
    await shows('#tabs a[aria-current]', 'Clients');
    await eventually('rows', async () => await page.locator('main tbody tr[data-id]').count() > 5);
    await page.keyboard.press('/');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    expect(await page.evaluate(() => document.activeElement.dataset.index) === '2', 'the third row has the focus');
    await refreshed();
    expect(await page.evaluate(() => document.activeElement.dataset.index) === '2', 'a refresh takes the focus');
    await page.keyboard.press('Enter');
    await shows('dialog', 'Connected');
    await page.keyboard.press('Escape');
    expect(await page.locator('dialog[open]').count() === 0, 'Escape closes');
    await page.keyboard.press('End');
    await eventually('the last row', () => page.evaluate(() => Number(document.activeElement.dataset.index) > 20));
    await page.keyboard.press('?');
    await shows('dialog', 'Keyboard shortcuts');
    await page.keyboard.press('Escape');
  });

  await step('at the width of a phone nothing but tables moves sideways', async () => {
    await page.setViewportSize({ width: 390, height: 844 });
    for (const section of ['clients', 'servers', 'waits', 'statements', 'advisor', 'holders', 'config', 'overview']) {
      await open(section);
      await page.waitForTimeout(400);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      expect(over <= 0, `${section} is ${over} px too wide`);
      await shot(`phone-${section}`);
    }
    await page.setViewportSize({ width: 1280, height: 860 });
  });

  await step('a hidden page asks nothing', async () => {
    const hide = (hidden) => page.evaluate((is) => {
      Object.defineProperty(document, 'hidden', { value: is, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
    await hide(true);
    let asked = 0;
    const count = () => { asked += 1; };
    page.on('request', count);
    await page.waitForTimeout(5000);
    page.off('request', count);
    expect(asked === 0, `${asked} requests`);
    const again = refreshed();
    await hide(false);
    await again;
  });

  await step(`${options.clients} idle clients`, async () => {
    await world.idle(Number(options.clients));
    await open('clients');
    await eventually('all are counted', async () => Number((await texts('main .bar-line [role=status]'))[0].replace(/\D/g, '')) >= Number(options.clients), 60_000);
    const rows = await page.locator('main tbody tr[data-id]').count();
    expect(rows < 120, `${rows} rows are in the page`);
    const ask = (query) => page.evaluate(async (text) => {
      const times = [];
      let size = 0;
      for (let i = 0; i < 9; i += 1) {
        const begun = performance.now();
        const answer = await fetch(`/api/clients?${text}`);
        size = (await answer.text()).length;
        times.push(performance.now() - begun);
      }
      return { median: times.sort((a, b) => a - b)[4], size };
    }, query);
    for (const query of ['sort=id&limit=60', 'sort=application&dir=desc&limit=60&offset=5000', 'sort=user&search=idle&limit=60']) {
      const { median, size } = await ask(query);
      measured.push(`/api/clients?${query}: ${median.toFixed(1)} ms, ${(size / 1024).toFixed(1)} KiB`);
    }
    const frames = await page.evaluate(async () => {
      const scroller = document.querySelector('.scroller');
      const times = [];
      for (let i = 0; i < 60; i += 1) {
        const begun = performance.now();
        scroller.scrollTop += 5000;
        await new Promise(requestAnimationFrame);
        times.push(performance.now() - begun);
      }
      return { most: Math.max(...times), median: times.sort((a, b) => a - b)[30] };
    });
    measured.push(`scrolling through them: a frame takes ${frames.median.toFixed(1)} ms, at most ${frames.most.toFixed(1)} ms`);
    const row = Math.floor(Number(options.clients) * 0.44);
    const filled = await page.evaluate(async (wanted) => {
      const begun = performance.now();
      document.querySelector('.scroller').scrollTop = wanted * 34;
      for (;;) {
        await new Promise(requestAnimationFrame);
        const first = document.querySelector(`tr[data-index="${wanted + 3}"]`);
        if (first) return performance.now() - begun;
        if (performance.now() - begun > 10_000) return null;
      }
    }, row);
    expect(filled !== null, 'the rows in sight never came');
    measured.push(`a jump to row ${row} shows it after ${filled.toFixed(0)} ms`);
    expect(filled < 1500, `${filled} ms`);
    await refreshed();
    expect(await page.evaluate(() => document.querySelector('.scroller').scrollTop) === row * 34, 'a refresh moves the list');
    await page.evaluate(() => { document.querySelector('.scroller').scrollTop = 0; });
    await search('web-1');
    await eventually('found', async () => (await texts('main .bar-line [role=status]'))[0].includes(' of '));
    await search('');
    await eventually('all again', async () => !(await texts('main .bar-line [role=status]'))[0].includes(' of '));
    await page.getByRole('button', { name: 'State', exact: true }).click();
    await eventually('sorted by state', async () => (await texts('main tbody tr[data-id] td:nth-child(5)'))[0] === 'active');
    await page.locator('main tbody tr[data-id]').nth(3).click();
    await page.keyboard.press('Escape');
    await shot('clients');
  });

  await step('a user of stats_users sees it all and can do nothing', async () => {
    await page.locator('#account').click();
    await shows('#account', 'Log in');
    await page.locator('#account').click();
    await page.fill('input[name=user]', 'viewer');
    await page.fill('input[name=password]', 'v1ewer-secret');
    await page.keyboard.press('Enter');
    await shows('#who', 'viewer · read only');
    await open('clients');
    await eventually('rows', async () => await page.locator('main tbody tr[data-id]').count() > 5);
    expect(await page.getByRole('button', { name: /^Kill/ }).count() === 0, 'a button to kill');
  });

  await step('a lost connection is told, and found again', async () => {
    expect(complaints.length === 0, complaints.join('\n'));
    await page.route('**/api/**', (route) => route.abort());
    await shows('#link', 'Connection to Carpool lost');
    expect(await page.evaluate(() => document.querySelector('main').classList.contains('stale')), 'what is shown looks stale');
    await shot('lost');
    await page.unroute('**/api/**');
    await shows('#link', 'Live');
  });

  await step('nobody else was asked', async () => expect(foreign.length === 0, foreign.join('\n')));
} finally {
  await browser.close();
  await world.stop();
}
measured.forEach((line) => console.log(`      ${line}`));
console.log(failures ? `${failures} failed` : `all is well; screenshots are in ${path.relative(process.cwd(), shots) || '.'}`);
process.exitCode = failures ? 1 : 0;
