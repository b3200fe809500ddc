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
  // connect() itself doesn't notice when the server hangs up in the handshake of TLS.
  const hungUp = new Promise((_, reject) => client.once('end', () => reject(new Error('the server hung up'))))
  hungUp.catch(() => {})
  try {
    await Promise.race([client.connect(), hungUp])
    const { rows } = await client.query('SELECT current_user')
    const seen = `${rows[0].current_user} ${client.connection.stream.encrypted ? 'tls' : 'plain'}`
    await client.end()
    return seen
  } catch (error) {
    // Its end() would wait for ever for a connection that never came about.
    client.connection.stream.destroy()
    return SQLSTATE.test(error.code ?? '') && error.severity ? error.code : 'client'
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
