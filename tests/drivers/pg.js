// node-postgres: named statements, its pipeline mode, cursors, COPY, cancel. As the Python scripts: each worker
// does the same on a direct connection and through Carpool, all workers at once, and must see the same.
'use strict'
const assert = require('node:assert')
const { once } = require('node:events')
const { pipeline: streamTo } = require('node:stream/promises')
const { Readable } = require('node:stream')
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')

const [url, direct] = process.argv.slice(2)
const PATIENCE = 30_000
const ZONES = ['UTC', 'Asia/Tokyo', 'America/New_York', 'Europe/Berlin']

function settings(worker, more = {}) {
  return {
    connectionString: worker.url,
    application_name: `worker ${worker.number}`,
    options: `-c search_path=w${worker.number} -c TimeZone=${ZONES[worker.number]}`,
    ...more,
  }
}

async function connected(worker, more) {
  const client = new Client(settings(worker, more))
  await client.connect()
  return client
}

async function attempt(seen, promise) {
  try {
    const result = await promise
    seen.push([result.command, result.rowCount, result.rows])
  } catch (error) {
    seen.push([error.code, error.message, error.position, error.detail])
  }
}

async function until(condition, what) {
  const deadline = Date.now() + PATIENCE
  while (!(await condition())) {
    assert(Date.now() < deadline, `not in time: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

async function check(worker) {
  const seen = []
  const client = await connected(worker)
  await client.query(`drop schema if exists w${worker.number} cascade`)
  await client.query(`create schema w${worker.number}`)
  await client.query('create table item(id int primary key, name text, at timestamptz)')
  for (let i = 0; i < 50; i++) {
    await client.query({ name: 'insert', text: 'insert into item values ($1, $2, $3)', values: [i, `w${worker.number} ${i}`, new Date(1.7e12 + i * 1e7)] })
  }
  await statements(client, seen)
  await transactions(client, seen)
  await cursors(client, seen)
  await copies(client, seen)
  await cancels(client, worker, seen)
  await client.end()
  await pipelines(worker, seen)
  await pools(worker, seen)
  return seen
}

async function statements(client, seen) {
  for (let i = 0; i < 10; i++) {
    // Every worker has its own tables, and these names are everybody's.
    await attempt(seen, client.query({ name: 's1', text: 'select id, name, at::text from item where id = $1', values: [i] }))
    await attempt(seen, client.query({ name: 's0', text: 'select count(*), current_setting($1) from item', values: ['TimeZone'] }))
    await attempt(seen, client.query('select $1::int + $2::int as sum', [i, 1]))
    await attempt(seen, client.query({ text: 'select $1::text', values: ['binary'], binary: true, rowMode: 'array' }))
  }
  await attempt(seen, client.query('select 1; select 2').then((r) => r[1]))
  await attempt(seen, client.query('set timezone to \'Australia/Sydney\''))
  await attempt(seen, client.query({ name: 's0', text: 'select count(*), current_setting($1) from item', values: ['TimeZone'] }))
  await attempt(seen, client.query({ name: 'bad', text: 'select * from missing where id = $1', values: [1] }))
  await attempt(seen, client.query({ name: 'bad2', text: 'select 1 / $1::int', values: [0] }))
  await attempt(seen, client.query({ name: 'bad2', text: 'select 1 / $1::int', values: [1] }))
  // Queued by the driver, one after the other.
  await Promise.all(Array.from({ length: 30 }, (_, i) => attempt(seen, client.query({ name: 's1', text: 'select id, name, at::text from item where id = $1', values: [i] }))))
}

async function transactions(client, seen) {
  for (const text of ['begin', "insert into item values (1000, 'x')", 'savepoint a', "insert into item values (1000, 'y')", 'rollback to a', "set local timezone to 'Asia/Tokyo'", 'show timezone', 'rollback', 'show timezone', 'select count(*) from item']) {
    await attempt(seen, client.query(text))
  }
}

async function cursors(client, seen) {
  await client.query('begin')
  const cursor = client.query(new Cursor('select id, name from item where id < $1 order by id', [30]))
  seen.push(await cursor.read(7), await cursor.read(100))
  await cursor.close()
  const failing = client.query(new Cursor('select 1 / (10 - id) from item order by id'))
  await attempt(seen, failing.read(5).then((rows) => ({ rows })))
  await attempt(seen, failing.read(20).then((rows) => ({ rows })))
  await failing.close().catch(() => {})
  await attempt(seen, client.query('rollback'))
}

async function copies(client, seen) {
  const into = client.query(copyFrom('copy item(id, name) from stdin'))
  await streamTo(Readable.from(Array.from({ length: 3000 }, (_, i) => `${100000 + i}\tcopied ${i}\n`)), into)
  seen.push(into.rowCount)
  const chunks = []
  for await (const chunk of client.query(copyTo('copy (select id, name from item where id >= 100000 order by id) to stdout'))) chunks.push(chunk)
  seen.push(Buffer.concat(chunks).toString())
  await streamTo(Readable.from(['x\ty\n']), client.query(copyFrom('copy item(id, name) from stdin'))).catch((error) => seen.push([error.code, error.message]))
  await attempt(seen, client.query('delete from item where id >= 100000'))
}

async function cancels(client, worker, seen) {
  const marker = `/* w${worker.number} ${process.pid} ${worker.url === direct} */`
  const watch = new Client(direct)
  await watch.connect()
  const sleeps = async () => (await watch.query("select 1 from pg_stat_activity where wait_event = 'PgSleep' and query like '%' || $1 || '%'", [marker])).rowCount === 1
  for (let i = 0; i < 2; i++) {
    const query = attempt(seen, client.query(`select pg_sleep(600) ${marker}`))
    await until(sleeps, 'the query sleeps')
    const canceller = new Client(worker.url)
    // What Client.cancel does, of the query that was sent last.
    const connection = canceller.connection
    connection.on('error', () => {})
    connection.connect(canceller.port, canceller.host)
    await once(connection, 'connect')
    // PostgreSQL hangs up when it has sent its signals.
    const closed = once(connection.stream, 'close')
    connection.cancel(client.processID, client.secretKey)
    await Promise.all([query, closed])
    await attempt(seen, client.query("select 'alive' as state"))
  }
  await watch.end()
}

async function pipelines(worker, seen) {
  const client = await connected(worker, { pipeline: true })
  for (let round = 0; round < 3; round++) {
    const replies = Array.from({ length: 40 }, (_, i) => {
      const mine = []
      const query = i % 3 ? { name: `p${i % 5}`, text: `select name, ${i % 5} as n from item where id = $1`, values: [i] } : i % 2 ? { text: 'select $1::int', values: [i] } : `select ${i} as i, current_setting('TimeZone')`
      return attempt(mine, client.query(query)).then(() => mine)
    })
    seen.push(...(await Promise.all(replies)))
  }
  const mixed = ['begin', { name: 'p1', text: 'select name, 1 as n from item where id = $1', values: [1] }, 'select 1 / 0', { name: 'late', text: 'select $1::text', values: ['x'] }, 'rollback', { name: 'late', text: 'select $1::text', values: ['x'] }]
  const replies = mixed.map((query) => {
    const mine = []
    return attempt(mine, client.query(query)).then(() => mine)
  })
  seen.push(...(await Promise.all(replies)))
  await client.end()
}

async function pools(worker, seen) {
  const pool = new Pool(settings(worker, { max: 4 }))
  const use = async (n) => {
    const mine = []
    for (let i = 0; i < 8; i++) {
      const client = await pool.connect()
      await attempt(mine, client.query('begin'))
      await attempt(mine, client.query({ name: 'pooled', text: 'select name from item where id = $1', values: [(n + i) % 50] }))
      await attempt(mine, client.query('commit'))
      client.release()
      await attempt(mine, pool.query("select current_setting('search_path') as path, current_setting('application_name') as name"))
    }
    return mine
  }
  seen.push(...(await Promise.all(Array.from({ length: 8 }, (_, n) => use(n)))))
  await pool.end()
}

async function main() {
  const numbers = [0, 1, 2, 3]
  const wanted = []
  for (const number of numbers) wanted.push(await check({ number, url: direct }))
  assert.notDeepStrictEqual(wanted[0], wanted[1])
  const got = await Promise.all(numbers.map((number) => check({ number, url })))
  for (const number of numbers) {
    for (const [step, want] of wanted[number].entries()) {
      assert.deepStrictEqual(got[number][step], want, `worker ${number}, step ${step}`)
    }
    assert.strictEqual(got[number].length, wanted[number].length)
  }
  console.log(`${numbers.length} workers agree on ${wanted.flat().length} steps`)
}

const overdue = setTimeout(() => {
  console.error('it hangs')
  process.exit(1)
}, 4 * PATIENCE)
main().then(
  () => clearTimeout(overdue),
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
