// Answers as Carpool gives them with everything switched on, so that the views can be looked at whatever is.

const time = (total, p50, p99) => ({ total_us: total, p50_us: p50, p99_us: p99 });

function group(by, name, database, transactions, scale) {
  return {
    by, database, name, transactions, queue: time(41_000_000 * scale, 900, 48_000), replay: time(2_100_000 * scale, 60, 900), server: time(96_000_000 * scale, 8_200, 61_000),
    client: time(23_000_000 * scale, 300, 140_000), backpressure: time(1_300_000 * scale, 0, 2_100),
  };
}

export const waits = {
  tracking: true, since_s: 812.4, groups: [
    group('pool', 'shop', 'shop', 812_345, 1), group('pool', 'billing', 'billing', 9_120, 0.2), group('user', 'web', 'shop', 700_120, 0.9), group('user', 'worker', 'shop', 112_225, 0.3),
    group('application', 'web-1', 'shop', 402_120, 0.5), group('application', 'queue-worker', 'shop', 112_225, 0.3), group('application', '', 'billing', 9_120, 0.2),
  ],
};

const parts = (queue, replay, server, client, backpressure) => ({ queue, replay, server, client, backpressure });

export const statements = {
  tracking: true, left_out: 14, statements: [
    { database: 'shop', user: 'web', query: 'SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.state = $1 AND o.created_at > $2 ORDER BY o.created_at DESC LIMIT $3', calls: 912_000, mean_us: 4_210, p99_us: 32_000, total_us: parts(31e6, 1e6, 62e6, 4e6, 2e5) },
    { database: 'shop', user: 'web', query: 'UPDATE carts SET items = items || $1, touched_at = now() WHERE id = $2', calls: 120_300, mean_us: 1_800, p99_us: 9_000, total_us: parts(4e6, 2e5, 11e6, 1e6, 0) },
    { database: 'shop', user: 'worker', query: 'SELECT pg_advisory_xact_lock($1)', calls: 8_120, mean_us: 91_000, p99_us: 410_000, total_us: parts(9e6, 1e5, 740e6, 2e6, 0) },
    { database: 'billing', user: 'reports', query: 'SELECT date_trunc($1, paid_at) AS day, sum(amount) FROM payments GROUP BY 1', calls: 96, mean_us: 810_000, p99_us: 2_400_000, total_us: parts(1e6, 0, 77e6, 4e5, 12e6) },
  ],
};

const curve = Array.from({ length: 40 }, (_, index) => {
  const size = index + 1;
  const wait = Math.round(2_000_000 / size ** 2.4);
  return { size, wait_p50_us: Math.round(wait / 20), wait_p99_us: wait, wait_p99_low_us: Math.round(wait * 0.6), wait_p99_high_us: Math.round(wait * 1.8), utilization: Math.min(1, 7 / size), throughput: Math.min(1800, size * 260) };
});

export const advice = {
  target: 'p99 wait < 5ms', pools: [
    { database: 'shop', size: 12, recommended: 17, low: 14, high: 21, verdict: 'With 17 servers the p99 wait would be about 4.1 ms; the present 12 are 5 too few for the target.', trace: { transactions: 812_345, seconds: 812 }, measured: { wait_p50_us: 900, wait_p99_us: 48_000, utilization: 0.83, throughput: 1_000 }, contention: { model: 'usl', sigma: 0.021, kappa: 0.0004, room: null, growth: 1.21, growth_low: 1.1, growth_high: 1.4, is_known: true, observed: [{ servers: 6, hold_us: 9000, transactions: 90_000 }] }, sizes: curve },
    { database: 'billing', size: 6, recommended: null, low: 1, high: 6, verdict: 'There is too little traffic to say anything yet.', trace: { transactions: 96, seconds: 812 }, measured: { wait_p50_us: 0, wait_p99_us: 0, utilization: 0.03, throughput: 1 }, contention: { model: 'none', sigma: 0, kappa: 0, room: null, growth: 1, growth_low: 1, growth_high: 1, is_known: false, observed: [] }, sizes: [] },
  ],
};

export const blockers = {
  pools: [
    { database: 'shop', waiting: 23, max_wait_us: 4_200_000, starved_by: 'All 12 servers are held by connections of "queue-worker", of which 3 wait for another one: each waits for the others.', holders: [
      { client: 'C-00002a', user: 'worker', application: 'queue-worker', server: 'S-000003', server_pid: 4123, held_us: 9_100_000, state: 'idle in transaction', pinned: '', query: 'SELECT * FROM jobs WHERE id = $1 FOR UPDATE', blocked_by: [] },
      { client: 'C-00002b', user: 'worker', application: 'queue-worker', server: 'S-000004', server_pid: 4124, held_us: 8_300_000, state: 'active', pinned: '', query: 'UPDATE jobs SET state = $1 WHERE id = $2', blocked_by: [4123] },
      { client: 'C-000019', user: 'web', application: 'importer', server: 'S-000001', server_pid: 4121, held_us: 61_000_000, state: 'pinned', pinned: 'temporary object', query: null, blocked_by: [] },
    ] },
    { database: 'billing', waiting: 0, max_wait_us: 0, starved_by: null, holders: [] },
  ],
};
