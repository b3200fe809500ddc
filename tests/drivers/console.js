// The console with node-postgres: simple and prepared queries, a pool, errors, and the commands that change something.
// Run as `node console.js URL_OF_THE_CONSOLE DATABASE`.
'use strict'
const assert = require('node:assert')
const { Client, Pool } = require('pg')

const [url, database] = process.argv.slice(2)
const SHOWS = (
  'active_sockets audit clients config databases dns_hosts dns_zones fds lists mem paused peers peer_pools pins pools ' +
  'servers sockets state stats stats_averages stats_totals totals users version'
).split(' ')

async function code(promise) {
  try {
    await promise
  } catch (error) {
    return error.code
  }
  return null
}

async function main() {
  const console_ = new Client({ connectionString: url })
  await console_.connect()
  for (const what of SHOWS) {
    const simple = await console_.query(`SHOW ${what};`)
    const prepared = await console_.query({ name: what, text: `SHOW ${what}` })
    assert.deepEqual(simple.fields.map((f) => [f.name, f.dataTypeID]), prepared.fields.map((f) => [f.name, f.dataTypeID]))
    assert.equal(simple.command, 'SHOW')
  }
  const several = await console_.query('SHOW STATE; SHOW VERSION')
  assert.equal(several.length, 2)
  assert.match(several[1].rows[0].version, /^Carpool /)

  assert.equal((await console_.query("SET server_lifetime = '90'")).command, 'SET')
  const { rows } = await console_.query('SHOW CONFIG')
  assert.equal(rows.find((row) => row.key === 'server_lifetime').value, '90')
  assert.equal(await code(console_.query('SET listen_addr = x')), '08P01')
  assert.equal(await code(console_.query('NONSENSE')), '08P01')
  assert.equal(await code(console_.query({ text: 'NONSENSE', values: [] })), '08P01')
  const notices = []
  console_.on('notice', (notice) => notices.push(notice.detail))
  await console_.query('RELOAD')
  assert.deepEqual(notices, ['pooler.server_lifetime: 90 -> 3600'])

  const pool = new Pool({ connectionString: url.replace('/pgbouncer', `/${database}`), max: 4 })
  await Promise.all([1, 2, 3, 4].map(() => pool.query('SELECT 1')))
  await console_.query(`PAUSE ${database}`)
  const waiting = Promise.all([1, 2, 3, 4].map((n) => pool.query('SELECT $1::int AS n', [n])))
  for (;;) {
    const { rows } = await console_.query('SHOW PAUSED')
    if (rows[0].cl_waiting === 4) break
  }
  await console_.query(`RESUME ${database}`)
  assert.deepEqual((await waiting).map((result) => result.rows[0].n), [1, 2, 3, 4])

  const lost = []
  pool.on('error', (error) => lost.push(error.code))
  await console_.query('KILL')
  while (lost.length < pool.totalCount + lost.length && lost.length < 4) await new Promise((r) => setImmediate(r))
  assert.deepEqual(new Set(lost), new Set(['57P01']))
  const later = pool.query("SELECT 'again' AS text")
  await console_.query(`RESUME ${database}`)
  assert.equal((await later).rows[0].text, 'again')
  await pool.end()
  await console_.end()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
