// Tries logins with node-postgres; see logins.py for cases and outcomes.
'use strict'
const fs = require('node:fs')
const { Client } = require('pg')

const AT_ONCE = 4
const SQLSTATE = /^[0-9A-Z]{5}$/

function tls(of) {
  if (of.sslmode === 'disable') return false
  const client = of.sslcert && { cert: fs.readFileSync(of.sslcert), key: fs.readFileSync(of.sslkey) }
  if (of.sslmode === 'require') return { rejectUnauthorized: false, ...client }
  return { ca: fs.readFileSync(of.sslrootcert), servername: 'localhost', ...client }
}

async function outcome(of) {
  const { port, user, dbname: database } = of
  const client = new Client({
    host: '127.0.0.1', port, user, password: of.password ?? '', database, ssl: tls(of), connectionTimeoutMillis: 30_000,
  })
  client.on('error', () => {}) // what comes behind a failed login
  try {
    await client.connect()
    const { rows } = await client.query('SELECT current_user')
    return `${rows[0].current_user} ${client.connection.stream.encrypted ? 'tls' : 'plain'}`
  } catch (error) {
    return SQLSTATE.test(error.code ?? '') && error.severity ? error.code : 'client'
  } finally {
    await client.end().catch(() => {})
  }
}

async function main() {
  const cases = JSON.parse(fs.readFileSync(0, 'utf8'))
  const outcomes = new Array(cases.length)
  let next = 0
  const worker = async () => {
    while (next < cases.length) {
      const at = next++
      outcomes[at] = await outcome(cases[at])
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  process.stdout.write(JSON.stringify(outcomes))
}

main()
