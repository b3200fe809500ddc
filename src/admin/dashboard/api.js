// Asking Carpool, and what goes wrong with that.

/** Carpool's own refusal; `status` is HTTP's, `hint` names the setting. */
export class Refused extends Error {
  constructor(status, text, hint) {
    super(text);
    this.status = status;
    this.hint = hint ?? '';
  }
}

/** Carpool can't be reached. */
export class Lost extends Error {}

/** Who has logged in, as /api/session has it. */
export let session = { user: null, level: 'none', anonymous: 'none', token: null, version: '' };

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: 'no-store', credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Lost(error.message);
  }
  const text = await answer.text().catch(() => { throw new Lost('the answer broke off'); });
  let json = null;
  try {
    json = JSON.parse(text);
  } catch {
    // Not every refusal is JSON.
  }
  if (!answer.ok) throw new Refused(answer.status, json?.error ?? text.trim(), json?.hint);
  return json;
}

/** Reads. */
export const get = (path, signal) => ask(path, { signal });

/** Changes something; carries the token that shows it to be this page's wish. */
export function post(path, body) {
  const headers = { 'X-Carpool-Token': session.token ?? '' };
  if (body) headers['Content-Type'] = 'application/json';
  return ask(path, { method: 'POST', headers, body: body && JSON.stringify(body) });
}

/** Finds out who one is. */
export async function knowMe() {
  session = await get('/api/session');
  return session;
}

export async function login(user, password) {
  session = await post('/api/login', { user, password });
  return session;
}

export async function logout() {
  await post('/api/logout').catch((error) => {
    if (!(error instanceof Refused)) throw error;
  });
  return knowMe();
}

export const isAdmin = () => session.level === 'admin';
