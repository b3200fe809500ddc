//! tokio-postgres, bb8 and sqlx: the same on a direct connection and pooled, several at once, each with a schema
//! and settings of its own.

#![expect(clippy::disallowed_methods, reason = "the tests' own runtime keeps timers")]

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bb8_postgres::PostgresConnectionManager;
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, Row};
use tokio_postgres::{Client, Config, NoTls};

use super::among_others;
use crate::harness::{PATIENCE, Postgres, Setup};

const ZONES: [&str; 4] = ["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin"];

/// What one worker is.
#[derive(Clone)]
struct Worker {
    number: usize,
    port: u16,
    database: String,
    direct: bool,
}

impl Worker {
    fn schema(&self) -> String {
        format!("w{}", self.number)
    }

    fn zone(&self) -> &'static str {
        ZONES[self.number % ZONES.len()]
    }

    /// A comment that finds its queries in `pg_stat_activity`.
    fn marker(&self) -> String {
        format!("/* {} w{} {} */", self.database, self.number, self.direct)
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").dbname(&self.database);
        config.application_name(format!("worker {}", self.number));
        config.options(format!("-c search_path={} -c TimeZone={}", self.schema(), self.zone()));
        config
    }
}

/// Runs `check` for each worker directly and then for all at once through Carpool, and compares.
fn compare<F: Future<Output = Vec<String>> + Send + 'static>(check: fn(Worker) -> F) {
    among_others(Setup::default(), |carpool, _| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let worker = |number, direct| {
            let port = if direct { Postgres::shared().port } else { carpool.port };
            Worker { number, port, database: carpool.database.clone(), direct }
        };
        runtime.block_on(async {
            let mut wanted = Vec::new();
            for number in 0..ZONES.len() {
                let direct = tokio::time::timeout(2 * PATIENCE, check(worker(number, true))).await;
                wanted.push(direct.expect("the direct connection hangs"));
            }
            assert_ne!(wanted[0], wanted[1]);
            let pooled: Vec<_> = (0..ZONES.len()).map(|n| tokio::spawn(check(worker(n, false)))).collect();
            for (number, (want, got)) in wanted.into_iter().zip(pooled).enumerate() {
                let got = tokio::time::timeout(2 * PATIENCE, got).await.expect("a worker hangs").unwrap();
                for (step, (want, got)) in want.iter().zip(&got).enumerate() {
                    assert_eq!(got, want, "worker {number}, step {step}");
                }
                assert_eq!(got.len(), want.len());
            }
        });
    });
}

async fn connect(worker: &Worker) -> Client {
    let (client, connection) = worker.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn text(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{} {}", e.code().code(), e.message()))
}

async fn schema(client: &Client, worker: &Worker) {
    let schema = worker.schema();
    let sql = format!("drop schema if exists {schema} cascade; create schema {schema}");
    client.batch_execute(&sql).await.unwrap();
    client
        .batch_execute("create table item(id int primary key, name text); create type mood as enum ('sad', 'happy')")
        .await
        .unwrap();
    let insert = client.prepare("insert into item values ($1, $2)").await.unwrap();
    for i in 0..50i32 {
        client.execute(&insert, &[&i, &format!("{schema} {i}")]).await.unwrap();
    }
}

async fn tokio_postgres_check(worker: Worker) -> Vec<String> {
    let mut seen = Vec::new();
    let mut client = connect(&worker).await;
    schema(&client, &worker).await;
    statements(&client, &mut seen).await;
    pipelined(&client, &mut seen).await;
    transactions(&mut client, &mut seen).await;
    copies(&client, &mut seen).await;
    cancels(&worker, &mut seen).await;
    seen
}

async fn statements(client: &Client, seen: &mut Vec<String>) {
    let by_id = client.prepare("select name from item where id = $1").await.unwrap();
    // A type that the driver has to look up.
    let mood = client
        .prepare("select ($1::text)::mood, current_setting('TimeZone'), current_setting('search_path')")
        .await
        .unwrap();
    seen.push(format!("{:?}", mood.columns().iter().map(|c| c.type_().name().to_owned()).collect::<Vec<_>>()));
    for i in 0..10i32 {
        let row = client.query_one(&by_id, &[&i]).await.unwrap();
        seen.push(row.get(0));
        let row = client.query_one("select count(*), $1::text from item where id < $2", &[&"x", &i]).await.unwrap();
        seen.push(format!("{} {}", row.get::<_, i64>(0), row.get::<_, &str>(1)));
        let row = client.query_one(&mood, &[&"happy"]).await.unwrap();
        seen.push(format!("{} {}", row.get::<_, &str>(1), row.get::<_, &str>(2)));
        for bad in ["select * from missing", "select 1 / 0"] {
            seen.push(text(&client.query(bad, &[]).await.unwrap_err()));
        }
    }
    let simple = client.simple_query("show timezone; select 1; show application_name").await.unwrap();
    seen.push(format!("{simple:?}"));
    let error = client.simple_query("select 1; select 1/0; select 2").await.unwrap_err();
    seen.push(text(&error));
}

async fn pipelined(client: &Client, seen: &mut Vec<String>) {
    let by_id = client.prepare("select name from item where id = $1").await.unwrap();
    let queries = (0..50i32).map(|i| {
        let by_id = &by_id;
        async move {
            let error = if i % 7 == 0 { client.query("select 1 / ($1::int - $1)", &[&i]).await.err() } else { None };
            let row = client.query_one(by_id, &[&i]).await.unwrap();
            let prepared = client.query_one("select current_setting('application_name')", &[]).await.unwrap();
            format!("{} {} {:?}", row.get::<_, &str>(0), prepared.get::<_, &str>(0), error.map(|e| text(&e)))
        }
    });
    seen.extend(futures_util::future::join_all(queries).await);
}

async fn transactions(client: &mut Client, seen: &mut Vec<String>) {
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute("insert into item values (100, 'kept')", &[]).await.unwrap();
    let inner = transaction.transaction().await.unwrap();
    seen.push(text(&inner.execute("insert into item values (100, 'twice')", &[]).await.unwrap_err()));
    inner.rollback().await.unwrap();
    let portal = transaction.bind("select id from item order by id", &[]).await.unwrap();
    loop {
        let rows = transaction.query_portal(&portal, 20).await.unwrap();
        seen.push(format!("{:?}", rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>()));
        if rows.is_empty() {
            break;
        }
    }
    transaction.batch_execute("set local timezone to 'Asia/Kathmandu'").await.unwrap();
    let row = transaction.query_one("show timezone", &[]).await.unwrap();
    seen.push(row.get(0));
    transaction.commit().await.unwrap();
    let transaction = client.build_transaction().read_only(true).start().await.unwrap();
    seen.push(text(&transaction.execute("delete from item", &[]).await.unwrap_err()));
    // Dropped: the driver rolls back without waiting.
    drop(transaction);
    let row = client.query_one("select count(*), current_setting('TimeZone') from item", &[]).await.unwrap();
    seen.push(format!("{} {}", row.get::<_, i64>(0), row.get::<_, &str>(1)));
}

async fn copies(client: &Client, seen: &mut Vec<String>) {
    let mut sink = pin!(client.copy_in("copy item from stdin").await.unwrap());
    for i in 0..2000 {
        sink.send(bytes::Bytes::from(format!("{}\tcopied {i}\n", 1000 + i))).await.unwrap();
    }
    seen.push(sink.finish().await.unwrap().to_string());
    let rows = client.copy_out("copy (select * from item where id >= 1000 order by id) to stdout").await.unwrap();
    let rows: Vec<bytes::Bytes> = rows.try_collect().await.unwrap();
    seen.push(format!("{:?}", rows.concat()));
    {
        // Dropped unfinished: the driver fails the copy.
        let mut sink = pin!(client.copy_in::<_, bytes::Bytes>("copy item from stdin").await.unwrap());
        sink.send(bytes::Bytes::from("5000\tnever\n")).await.unwrap();
    }
    let mut sink = pin!(client.copy_in("copy item from stdin").await.unwrap());
    sink.send(bytes::Bytes::from("x\ty\n")).await.unwrap();
    seen.push(text(&sink.finish().await.unwrap_err()));
    seen.push(client.execute("delete from item where id >= 1000", &[]).await.unwrap().to_string());
}

/// Each on a connection of its own: PostgreSQL sends its signal twice, and this driver doesn't wait until it has
/// done so, so that the next query may be cancelled, too.
async fn cancels(worker: &Worker, seen: &mut Vec<String>) {
    let direct = Worker { port: Postgres::shared().port, ..worker.clone() };
    let watch = connect(&direct).await;
    let sleeping = "select 1 from pg_stat_activity where wait_event = 'PgSleep' and query like '%' || $1 || '%'";
    for _ in 0..2 {
        let client = connect(worker).await;
        let sql = format!("select pg_sleep(600) {}", worker.marker());
        let query = client.simple_query(&sql);
        let cancel = async {
            while watch.query(sleeping, &[&worker.marker()]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            client.cancel_token().cancel_query(NoTls).await.unwrap();
        };
        let (result, ()) = futures_util::future::join(query, cancel).await;
        seen.push(text(&result.unwrap_err()));
        let alive = || client.simple_query("select 'alive'");
        let late = |e: &tokio_postgres::Error| e.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED);
        match alive().await {
            Err(error) if late(&error) => alive().await.unwrap(),
            replies => replies.unwrap(),
        };
    }
}

async fn bb8_check(worker: Worker) -> Vec<String> {
    schema(&connect(&worker).await, &worker).await;
    let manager = PostgresConnectionManager::new(worker.config(), NoTls);
    let pool = bb8::Pool::builder().max_size(5).test_on_check_out(true).build(manager).await.unwrap();
    let uses = (0..10i32).map(|n| {
        let pool = pool.clone();
        async move {
            let mut seen = Vec::new();
            for i in 0..8 {
                let mut client = pool.get().await.unwrap();
                let row = client.query_one("select name from item where id = $1", &[&(n + i)]).await.unwrap();
                seen.push(row.get::<_, String>(0));
                let transaction = client.transaction().await.unwrap();
                let statement = transaction.prepare("select $1::int, current_setting('search_path')").await.unwrap();
                let row = transaction.query_one(&statement, &[&i]).await.unwrap();
                seen.push(format!("{} {}", row.get::<_, i32>(0), row.get::<_, &str>(1)));
                transaction.rollback().await.unwrap();
            }
            seen
        }
    });
    futures_util::future::join_all(uses).await.concat()
}

async fn sqlx_check(worker: Worker) -> Vec<String> {
    let schema = worker.schema();
    let options = PgConnectOptions::new().host("127.0.0.1").port(worker.port).username("postgres");
    let options = options.database(&worker.database).application_name(&schema).options([("search_path", &schema)]);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    pool.execute(format!("drop schema if exists {schema} cascade; create schema {schema}").as_str()).await.unwrap();
    pool.execute("create table item(id int primary key, name text)").await.unwrap();
    for i in 0..30i32 {
        let insert = sqlx::query("insert into item values ($1, $2)").bind(i).bind(format!("{schema} {i}"));
        insert.execute(&pool).await.unwrap();
    }
    let uses = (0..6i32).map(|n| sqlx_use(pool.clone(), n));
    let mut seen = futures_util::future::join_all(uses).await.concat();
    let mut rows = sqlx::query("select id from item order by id").fetch(&pool);
    while let Some(row) = rows.next().await {
        seen.push(row.unwrap().get::<i32, _>(0).to_string());
    }
    drop(rows);
    pool.close().await;
    seen
}

async fn sqlx_use(pool: PgPool, n: i32) -> Vec<String> {
    let mut seen = Vec::new();
    for i in 0..6i32 {
        let name: String =
            sqlx::query_scalar("select name from item where id = $1").bind(n + i).fetch_one(&pool).await.unwrap();
        let state = "select concat_ws(' ', current_setting('search_path'), current_setting('TimeZone'), $1::int)";
        let state: String = sqlx::query_scalar(state).bind(i).fetch_one(&pool).await.unwrap();
        let error = sqlx::query("select 1 / $1").bind(0).execute(&pool).await.unwrap_err();
        let error = error.into_database_error().unwrap();
        seen.push(format!("{name} {state} {} {error}", error.code().unwrap()));
        let mut transaction = pool.begin().await.unwrap();
        let insert = || sqlx::query("insert into item values ($1, 'transient')").bind(1000 + n);
        seen.push(insert().execute(&mut *transaction).await.unwrap().rows_affected().to_string());
        let mut savepoint = transaction.begin().await.unwrap();
        seen.push(insert().execute(&mut *savepoint).await.unwrap_err().to_string());
        savepoint.rollback().await.unwrap();
        let count = sqlx::query_scalar::<_, i64>("select count(*) from item where id = $1").bind(1000 + n);
        seen.push(count.fetch_one(&mut *transaction).await.unwrap().to_string());
        if i % 2 == 0 {
            transaction.rollback().await.unwrap();
        }
        // Else dropped: the driver rolls back when the connection is used next.
    }
    seen
}

#[test]
fn tokio_postgres() {
    compare(tokio_postgres_check);
}

#[test]
fn bb8() {
    compare(bb8_check);
}

#[test]
fn sqlx() {
    compare(sqlx_check);
}
