//! What goes through TLS is what goes without it.

use std::process::Stdio;

use crate::drivers::{node, python};
use crate::harness::postgres::default_bin;
use crate::harness::raw::{bind, execute, message, parse, query, sync};
use crate::harness::tls::{Authority, Files, client_config, postgres, proxy};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// Both sides encrypted.
struct World {
    postgres: Postgres,
    carpool: Carpool,
    /// Adds TLS for raw clients.
    proxy: u16,
    root: String,
    _files: Files,
}

impl World {
    fn new(database: &str) -> Self {
        let (authority, files) = (Authority::new("root"), Files::new());
        let identity = authority.issue("localhost", &["localhost"]);
        let postgres = postgres(&default_bin(), &files, &identity, None);
        let root = files.write("root.crt", &authority.pem());
        let pooler = files.pooler(&identity, "require")
            + &format!("server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{root}\"\n");
        let setup = Setup::pooler(&pooler).database(&format!("host = \"localhost\"\n{database}"));
        let carpool = Carpool::before(&postgres, &postgres.new_database(), &setup);
        let proxy = proxy(carpool.port, client_config(&authority));
        Self { postgres, carpool, proxy, root, _files: files }
    }

    fn client(&self) -> Raw {
        Raw::login(self.proxy, "postgres", &self.carpool.database)
    }
}

/// Cancels a query through `port`.
pub fn cancel(carpool: &Carpool, port: u16) {
    let mut client = Raw::login(port, "postgres", &carpool.database);
    let key = client.key.clone();
    client.query("begin");
    client.send(&query("select pg_sleep(1000) /* to be cancelled */"));
    let mut observer = Raw::login(port, "postgres", &carpool.database);
    eventually("the query runs", || {
        let running = "select count(*) from pg_stat_activity where query like '%to be cancelled%' \
                       and state = 'active' and pid <> pg_backend_pid()";
        (observer.value(running) == "1").then_some(())
    });
    Raw::cancel(port, &key);
    let replies = client.until_ready();
    let error = replies.iter().find(|m| m.tag == b'E').unwrap_or_else(|| panic!("{replies:?}"));
    assert_eq!(error.field('C').as_deref(), Some("57014"));
}

#[test]
fn cancel_requests() {
    let world = World::new("");
    cancel(&world.carpool, world.proxy);
    // libpq before version 17 sends them in the clear, whatever the session has.
    let mut client = world.client();
    let key = client.key.clone();
    client.send(&query("select pg_sleep(1000)"));
    let busy = "select count(*) from pg_stat_activity where query = 'select pg_sleep(1000)' and state = 'active'";
    eventually("the query runs", || (world.postgres.sql("postgres", busy) == "1").then_some(()));
    Raw::cancel(world.carpool.port, &key);
    assert!(client.until_ready().iter().any(|m| m.field('C').as_deref() == Some("57014")));
}

#[test]
fn large_results_and_parameters() {
    let world = World::new("pool_size = 1");
    let mut client = world.client();
    // More than any buffer, in one row and in many.
    let replies = client.query("select repeat('x', 30000000)");
    let row = replies.iter().find(|m| m.tag == b'D').unwrap();
    assert_eq!(row.columns()[0].as_ref().map(String::len), Some(30_000_000));
    let replies = client.query("select i, repeat('y', 100) from generate_series(1, 100000) i");
    let rows: Vec<_> = replies.iter().filter(|m| m.tag == b'D').collect();
    assert_eq!(rows.len(), 100_000);
    assert!(rows.iter().zip(1..).all(|(row, i)| row.columns()[0] == Some(i.to_string())));
    let long = "z".repeat(5_000_000);
    client.send_all(&[parse("", "select md5($1), length($1)"), bind("", "", &[&long]), execute("", 0), sync()]);
    let replies = client.until_ready();
    assert_eq!(replies.iter().find(|m| m.tag == b'D').unwrap().columns()[1], Some("5000000".into()));
}

#[test]
fn copy_in_and_out() {
    let world = World::new("pool_size = 1");
    let mut client = world.client();
    client.query("create table bulk (i int, t text)");
    client.send(&query("copy bulk from stdin"));
    assert_eq!(client.read().tag, b'G');
    for i in 0..2000 {
        let lines: String = (0..100).map(|j| format!("{}\t{}\n", i * 100 + j, "w".repeat(j))).collect();
        client.send(&message('d', lines.as_bytes()));
    }
    client.send(&message('c', b""));
    assert!(client.until_ready().iter().all(|m| m.tag != b'E'));
    assert_eq!(client.value("select count(*) || ' ' || sum(i)::text from bulk"), "200000 19999900000");
    let replies = client.query("copy bulk to stdout");
    assert_eq!(replies.iter().filter(|m| m.tag == b'd').count(), 200_000);
}

#[test]
fn one_who_does_not_read_holds_nobody_up() {
    let world = World::new("pool_size = 2");
    let mut idler = world.client();
    idler.send(&query("select repeat('x', 1000) from generate_series(1, 100000)"));
    let mut other = world.client();
    for _ in 0..50 {
        assert_eq!(other.value("select 1"), "1");
    }
    // What was kept back comes whole and in order.
    let replies = idler.until_ready();
    assert_eq!(replies.iter().filter(|m| m.tag == b'D').count(), 100_000);
    assert_eq!(idler.value("select 2"), "2");
}

#[test]
fn long_pipelines() {
    let world = World::new("pool_size = 1");
    let mut client = world.client();
    let mut messages = vec![parse("s", "select $1::int * 2"), sync()];
    for i in 0..5000 {
        messages.extend([bind("", "s", &[&i.to_string()]), execute("", 0)]);
        if i % 100 == 99 {
            messages.push(sync());
        }
    }
    let sender = messages.concat();
    let mut stream = client.stream().try_clone().unwrap();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &sender).unwrap());
    let mut rows = Vec::new();
    for _ in 0..51 {
        rows.extend(client.until_ready().into_iter().filter(|m| m.tag == b'D'));
    }
    sending.join().unwrap();
    let doubled: Vec<_> = rows.iter().map(|row| row.columns()[0].clone().unwrap().parse::<i32>().unwrap()).collect();
    assert_eq!(doubled, (0..5000).map(|i| i * 2).collect::<Vec<_>>());
}

const PSYCOPG: &str = r#"
import sys, DRIVER as driver
conn = driver.connect(sys.argv[1])
cur = conn.cursor()
for i in range(20):
    cur.execute("select %s::int + 1, current_setting('application_name')", (i,))
    assert cur.fetchone() == (i + 1, 'encrypted'), i
    conn.commit()
cur.execute("select repeat('x', 3000000)")
assert len(cur.fetchone()[0]) == 3000000
conn.close()
"#;

const ASYNCPG: &str = r#"
import asyncio, ssl, sys, asyncpg
async def main():
    context = ssl.create_default_context(cafile=sys.argv[2])
    conn = await asyncpg.connect(sys.argv[1], ssl=context)
    for i in range(20):
        assert await conn.fetchval("select $1::int + 1", i) == i + 1
    assert len(await conn.fetchval("select repeat('x', 3000000)")) == 3000000
    try:
        await conn.fetch("select pg_sleep(1000)", timeout=0.2)
    except asyncio.TimeoutError:
        pass
    assert await conn.fetchval("select 5") == 5
    await conn.close()
asyncio.run(main())
"#;

const NODE: &str = r"
const { Client } = require('pg')
const fs = require('node:fs')
;(async () => {
  const ssl = { ca: fs.readFileSync(process.argv[2]).toString(), servername: 'localhost' }
  const client = new Client({ connectionString: process.argv[1], ssl })
  await client.connect()
  for (let i = 0; i < 20; i++) {
    const { rows } = await client.query({ name: 's', text: 'select $1::int + 1 as n', values: [i] })
    if (rows[0].n !== i + 1) throw new Error('wrong')
  }
  const { rows } = await client.query(`select repeat('x', 3000000) as x`)
  if (rows[0].x.length !== 3000000) throw new Error('short')
  await client.end()
})().catch((e) => { console.error(e); process.exit(1) })
";

fn succeeds(mut command: std::process::Command) {
    let output = command.current_dir(crate::drivers::root().join("tests/drivers")).stdin(Stdio::null()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

fn url(world: &World, parameters: &str) -> String {
    format!("postgresql://postgres@localhost:{}/{}?{parameters}", world.carpool.port, world.carpool.database)
}

#[test]
fn drivers_with_libpq() {
    let world = World::new("");
    for (driver, parameters) in [
        ("psycopg", "sslmode=verify-full"),
        ("psycopg2", "sslmode=verify-full"),
        // libpq 17 and later.
        ("psycopg", "sslmode=verify-full&sslnegotiation=direct"),
        ("psycopg2", "sslmode=verify-full&sslnegotiation=direct"),
    ] {
        let mut command = python();
        let parameters = format!("{parameters}&sslrootcert={}&application_name=encrypted", world.root);
        command.arg("-c").arg(PSYCOPG.replace("DRIVER", driver)).arg(url(&world, &parameters));
        succeeds(command);
    }
}

#[test]
fn asyncpg() {
    let world = World::new("");
    let mut command = python();
    command.arg("-c").arg(ASYNCPG).arg(url(&world, "")).arg(&world.root);
    succeeds(command);
}

#[test]
fn node_postgres() {
    let world = World::new("");
    let mut command = node();
    command.arg("-e").arg(NODE).arg(url(&world, "").trim_end_matches('?')).arg(&world.root);
    succeeds(command);
}

#[test]
fn tokio_postgres_with_channel_binding() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let lines = files.pooler(&identity, "require") + "auth_type = \"scram-sha-256\"\n";
    let carpool = Carpool::start(&Setup::pooler(&lines));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host("localhost").port(carpool.port).dbname(&carpool.database);
        config.user("scram_user").password("scram_user");
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        config.channel_binding(tokio_postgres::config::ChannelBinding::Require);
        let connector = tokio_postgres_rustls::MakeRustlsConnect::new(client_config(&authority));
        let (client, connection) = config.connect(connector.clone()).await.unwrap();
        let connection = tokio::spawn(connection);
        let row = client.query_one("select $1::int + 1", &[&41]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 42);
        let token = client.cancel_token();
        let sleeping = client.batch_execute("select pg_sleep(1000)");
        let cancelling = async {
            let postgres = Postgres::shared();
            let busy = format!(
                "select count(*) from pg_stat_activity where datname = '{}' and query = 'select pg_sleep(1000)'",
                carpool.database
            );
            while postgres.sql("postgres", &busy) != "1" {
                tokio::task::yield_now().await;
            }
            token.cancel_query(connector).await.unwrap();
        };
        let (slept, ()) = tokio::join!(sleeping, cancelling);
        assert_eq!(slept.unwrap_err().code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
        drop(client);
        connection.await.unwrap().unwrap();
    });
}
