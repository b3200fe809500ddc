// Numbers and times as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** 1234567 as 1,234,567; small ones with a digit behind the point. */
export function number(n) {
  if (n === null || n === undefined) return '–';
  if (n > 0 && n < 10 && !Number.isInteger(n)) return n.toFixed(1);
  return whole.format(n);
}

/** 12,300 as 12.3k. */
export function brief(n) {
  if (n === null || n === undefined) return '–';
  if (n >= 1e9) return `${+(n / 1e9).toPrecision(3)}G`;
  if (n >= 1e6) return `${+(n / 1e6).toPrecision(3)}M`;
  if (n >= 1e4) return `${+(n / 1e3).toPrecision(3)}k`;
  return number(n);
}

/** Microseconds, with the unit that fits. */
export function micros(us) {
  if (us === null || us === undefined) return '–';
  if (us === 0) return '0';
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 999_500) return `${trim(us / 1000)} ms`;
  if (us < 59_500_000) return `${trim(us / 1e6)} s`;
  return seconds(us / 1e6);
}

const trim = (n) => (n < 10 ? +n.toFixed(2) : n < 100 ? +n.toFixed(1) : Math.round(n));

/** Seconds as 3 s, 4m 5s, 6h 7m, 8d 9h. */
export function seconds(s) {
  if (s === null || s === undefined) return '–';
  const n = Math.floor(s);
  if (n < 60) return `${n} s`;
  if (n < 3600) return `${Math.floor(n / 60)}m ${n % 60}s`;
  if (n < 86_400) return `${Math.floor(n / 3600)}h ${Math.floor((n % 3600) / 60)}m`;
  return `${Math.floor(n / 86_400)}d ${Math.floor((n % 86_400) / 3600)}h`;
}

/** 1 change, 2 changes. */
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

export const percent = (share) => `${Math.round(share * 100)} %`;

const two = (n) => String(n).padStart(2, '0');

/** The time of day. */
export function clock(ms, withSeconds = true) {
  const at = new Date(ms);
  const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return withSeconds ? `${minutes}:${two(at.getSeconds())}` : minutes;
}
