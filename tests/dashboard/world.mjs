// What the check runs against: a throw-away PostgreSQL, Carpool in front of it, and clients with real load.

import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import pg from 'pg';

const PATIENCE = 30_000;

/** Chromium's, for a machine of its own, without a screen or a network. */
export const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Waits until `condition` gives something; fails when it hasn't in time. */
export async function eventually(what, condition, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${patience} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** PostgreSQL refuses to run as root. */
function unprivileged() {
  if (process.getuid() !== 0) return {};
  const id = (flag) => Number(execFileSync('id', [flag, 'postgres']).toString());
  return { uid: id('-u'), gid: id('-g') };
}

function newestPostgres() {
  const root = '/usr/lib/postgresql';
  const majors = fs.readdirSync(root).filter((name) => fs.existsSync(path.join(root, name, 'bin/initdb')));
  return path.join(root, majors.sort((a, b) => a - b).at(-1), 'bin');
}

export class World {
  /** `carpool`: the binary. */
  static async start(carpool) {
    const world = new World();
    world.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'carpool-dashboard-'));
    const owner = unprivileged();
    if (owner.uid) fs.chownSync(world.dir, owner.uid, owner.gid);
    fs.chmodSync(world.dir, 0o755);
    const bin = newestPostgres();
    const data = path.join(world.dir, 'data');
    execFileSync(path.join(bin, 'initdb'), ['--no-sync', '-A', 'trust', '-U', 'postgres', '-E', 'UTF8', '--locale=C', '-D', data], { ...owner, stdio: 'ignore', cwd: '/' });
    world.pgPort = await freePort();
    world.postgres = spawn(path.join(bin, 'postgres'), ['-D', data, '-p', world.pgPort, '-k', world.dir, '-c', 'fsync=off', '-c', 'max_connections=200', '-c', 'autovacuum=off'], { ...owner, stdio: 'ignore', cwd: '/' });
    await eventually('PostgreSQL runs', () => world.direct('postgres', 'select 1').then(() => true, () => false));
    await world.direct('postgres', 'create database shop');
    await world.direct('postgres', 'create database billing');
    await world.direct('postgres', 'create role web login; create role worker login; create role reports login');
    [world.port, world.http] = [await freePort(), await freePort()];
    world.config = path.join(world.dir, 'carpool.toml');
    world.configure('query_wait_timeout = 120');
    world.log = '';
    world.carpool = spawn(carpool, [world.config], { stdio: ['ignore', 'ignore', 'pipe'] });
    world.carpool.stderr.on('data', (text) => { world.log = (world.log + text).slice(-20_000); });
    await eventually('Carpool runs', () => fetch(`${world.url}/readyz`).then((answer) => answer.ok, () => false));
    return world;
  }

  get url() {
    return `http://127.0.0.1:${this.http}`;
  }

  configure(lines) {
    fs.writeFileSync(this.config, `[pooler]
listen_port = ${this.port}
unix_socket_dir = "${this.dir}"
http_port = ${this.http}
auth_type = "trust"
max_client_conn = 12000
log_connections = false
log_disconnections = false
admin_users = ["boss"]
stats_users = ["viewer"]
${lines}
[databases.shop]
host = "127.0.0.1"
port = ${this.pgPort}
pool_size = 12
[databases.billing]
host = "127.0.0.1"
port = ${this.pgPort}
pool_size = 6
[users.boss]
password = "b0ss-secret"
[users.viewer]
password = "v1ewer-secret"
[users.postgres]
[users.web]
[users.worker]
[users.reports]
`);
  }

  async direct(database, sql) {
    const client = new pg.Client({ host: '127.0.0.1', port: this.pgPort, user: 'postgres', database });
    await client.connect();
    try {
      return await client.query(sql);
    } finally {
      await client.end();
    }
  }

  async client(database, user, application) {
    const client = new pg.Client({ host: '127.0.0.1', port: this.port, user, database, application_name: application });
    client.on('error', (error) => { client.ended ??= error; });
    await client.connect();
    return client;
  }

  /** Clients that work: more than the pool of `shop` has servers, one that keeps its own, one that idles in a transaction. */
  async load() {
    this.working = true;
    const loop = async (database, user, application, sql, pause) => {
      const client = await this.client(database, user, application);
      while (this.working && !client.ended) {
        await client.query(sql()).catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, pause() * Math.random()));
      }
      await client.end().catch(() => {});
    };
    const wave = () => (Math.floor(Date.now() / 9000) % 3 === 0 ? 4 : 60);
    const loops = [];
    for (let i = 0; i < 28; i += 1) loops.push(loop('shop', 'web', `web-${i % 4}`, () => `select pg_sleep(${(Math.random() * 0.02).toFixed(4)})`, wave));
    for (let i = 0; i < 5; i += 1) loops.push(loop('billing', 'worker', 'queue-worker', () => `select count(*) from generate_series(1, ${Math.floor(Math.random() * 30_000)})`, () => 40));
    for (let i = 0; i < 4; i += 1) loops.push(loop('billing', 'reports', 'nightly-report', () => 'select pg_sleep(0.03)', () => 200));
    this.loops = Promise.all(loops);
    this.pinned = await this.client('shop', 'web', 'importer');
    await this.pinned.query('create temporary table staging (x int)');
    this.lazy = await this.client('shop', 'reports', 'left-open');
    await this.lazy.query('begin');
    await this.lazy.query('select 1');
  }

  /** Idle clients, many: sockets that have logged in and say nothing. */
  async idle(count) {
    const pairs = ['user', 'web', 'database', 'shop', 'application_name', 'idle'].flatMap((text) => [Buffer.from(text), Buffer.from([0])]);
    const body = Buffer.concat([Buffer.from([0, 3, 0, 0]), ...pairs, Buffer.from([0])]);
    const startup = Buffer.concat([Buffer.alloc(4), body]);
    startup.writeUInt32BE(startup.length, 0);
    const socketPath = path.join(this.dir, `.s.PGSQL.${this.port}`);
    const login = () => new Promise((resolve, reject) => {
      const socket = net.connect(socketPath, () => socket.write(startup));
      socket.on('data', (bytes) => {
        // ReadyForQuery is the last message of a greeting.
        if (bytes.length >= 6 && bytes[bytes.length - 6] === 0x5a) resolve(socket);
      });
      socket.on('error', reject);
      socket.on('close', () => reject(new Error('a login was refused')));
    });
    this.sockets ??= [];
    while (this.sockets.length < count) {
      const batch = Math.min(100, count - this.sockets.length);
      this.sockets.push(...await Promise.all(Array.from({ length: batch }, login)));
    }
  }

  async rest() {
    this.working = false;
    await this.loops;
    await Promise.all([this.pinned, this.lazy].map((client) => client?.end().catch(() => {})));
    for (const socket of this.sockets ?? []) socket.destroy();
  }

  async stop() {
    await this.rest().catch(() => {});
    for (const [child, signal] of [[this.carpool, 'SIGQUIT'], [this.postgres, 'SIGINT']]) {
      if (!child || child.exitCode !== null) continue;
      const over = new Promise((resolve) => child.once('exit', resolve));
      child.kill(signal);
      await over;
    }
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}
