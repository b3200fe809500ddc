// Pictures of a running Carpool's dashboard, section by section, light and dark:
//
//   node tests/dashboard/pictures.mjs URL DIRECTORY --user USER --password PASSWORD [--chromium BINARY] [--after SECONDS]

import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { FLAGS } from './world.mjs';

const { values: options, positionals: [url, directory] } = parseArgs({ allowPositionals: true, options: {
  user: { type: 'string' },
  password: { type: 'string' },
  chromium: { type: 'string', default: '/usr/bin/chromium' },
  // How much history the charts are to have.
  after: { type: 'string', default: '20' },
} });
const SECTIONS = ['clients', 'servers', 'waits', 'statements', 'advisor', 'holders', 'overview'];

fs.mkdirSync(directory, { recursive: true });
const browser = await chromium.launch({ executablePath: options.chromium, args: FLAGS });
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, colorScheme: 'light' });
  // It may not be there yet.
  for (const deadline = Date.now() + 60_000; ;) {
    try {
      await page.goto(url);
      break;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await page.waitForTimeout(200);
    }
  }
  await page.locator('#account').click();
  await page.fill('input[name=user]', options.user);
  await page.fill('input[name=password]', options.password);
  await page.keyboard.press('Enter');
  await page.locator('#who').getByText('admin').waitFor();
  const points = Math.floor(Number(options.after) / 2);
  await page.waitForFunction((wanted) => document.querySelector('.chart path.line')?.getAttribute('d').split('L').length > wanted, points, { timeout: 600_000 });
  for (const section of SECTIONS) {
    const answered = page.waitForResponse((answer) => answer.url().includes('/api/') && answer.ok());
    await page.locator(`#tabs a[href="#${section}"]`).click();
    await answered;
    await page.waitForFunction(() => document.querySelector('main').innerText.length > 200 || document.querySelector('main .empty'));
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: path.join(directory, `${section}-${colorScheme}.png`) });
    }
  }
} finally {
  await browser.close();
}
