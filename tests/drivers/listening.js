// node-postgres: clients that listen, each of which gets all notifications in order.
'use strict'
const assert = require('node:assert')
const { Client } = require('pg')

const [url, direct] = process.argv.slice(2)
const NUMBERS = 200

async function listener(number) {
  const client = new Client({ connectionString: url })
  await client.connect()
  const got = []
  const done = new Promise((resolve) => {
    client.on('notification', ({ channel, payload }) => {
      if (channel !== 'numbers') return
      got.push(Number(payload))
      if (got.length === NUMBERS) resolve()
    })
  })
  await client.query('LISTEN numbers')
  await client.query(`LISTEN "own ${number}"`)
  return { client, got, done }
}

async function main() {
  const listeners = await Promise.all(Array.from({ length: 10 }, (_, i) => listener(i)))
  const writer = new Client({ connectionString: direct })
  await writer.connect()
  for (let i = 0; i < NUMBERS; i++) await writer.query("select pg_notify('numbers', $1)", [String(i)])
  for (const { client, got, done } of listeners) {
    await done
    assert.deepStrictEqual(got, Array.from({ length: NUMBERS }, (_, i) => i))
    await client.query('UNLISTEN *')
    await client.end()
  }
  await writer.end()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
