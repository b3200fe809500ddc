//! Who waits gets servers in turn with others: `share_by` and `share_weights`.

use std::time::Duration;

use crate::harness::raw::query;
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually, http};

fn client(carpool: &Carpool, user: &str, application: &str) -> Raw {
    let parameters = [("user", user), ("database", &carpool.database), ("application_name", application)];
    Raw::login_with(carpool.port, &parameters)
}

/// Rows of SHOW SHARES: group, weight, servers, waiting, and waits.
fn shares(carpool: &Carpool) -> Vec<[String; 5]> {
    let text = carpool.console("SHOW SHARES");
    let row = |line: &str| {
        let columns: Vec<_> = line.split('|').map(str::to_owned).collect();
        [3, 4, 5, 6, 9].map(|at| columns[at].clone())
    };
    text.lines().map(row).collect()
}

fn waiting(carpool: &Carpool) -> usize {
    let text = carpool.console("SHOW POOLS");
    text.lines().map(|line| line.split('|').nth(3).unwrap().parse::<usize>().unwrap()).sum()
}

fn wait_for_waiting(carpool: &Carpool, clients: usize) {
    eventually(&format!("{clients} clients wait"), || (waiting(carpool) == clients).then_some(()));
}

fn succeed(client: &mut Raw) {
    let replies = client.until_ready();
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

/// One has the only server for a while, many of the same kind wait, then a few of another. In which order they got it.
fn order_of(carpool: &Carpool, flood: impl Fn() -> Raw, few: impl Fn() -> Raw) -> String {
    Postgres::shared().sql(
        &carpool.database,
        "create table served(place serial, n int); grant all on served, served_place_seq to public",
    );
    let mut holder = flood();
    let mut crowd: Vec<_> = (0..20).map(|_| flood()).collect();
    crowd.extend((0..3).map(|_| few()));
    holder.query("begin");
    for (n, client) in crowd.iter_mut().enumerate() {
        client.send(&query(&format!("insert into served(n) values ({n})")));
        wait_for_waiting(carpool, n + 1);
    }
    // What it has had by then is more than three inserts take.
    holder.query("select pg_sleep(0.5)");
    holder.query("commit");
    crowd.iter_mut().for_each(succeed);
    Postgres::shared().sql(&carpool.database, "select string_agg(n::text, ' ' order by place) from served")
}

fn numbers(order: impl IntoIterator<Item = i32>) -> String {
    order.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
}

/// The few come next, each group in its own order. A group that has waited for a second gets one server at least.
fn is_fair(order: &str) {
    let places: Vec<i32> = order.split(' ').map(|n| n.parse().unwrap()).collect();
    let (few, flood): (Vec<_>, Vec<_>) = places.iter().partition(|&&n| n >= 20);
    assert_eq!((few, flood), ((20..23).collect(), (0..20).collect()), "{order}");
    let last = places.iter().position(|&n| n == 22).unwrap();
    assert!(last < 6, "{order}");
}

#[test]
fn a_few_clients_of_one_application_do_not_wait_behind_a_flood_of_another() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nshare_by = \"application_name\""));
    let order = order_of(&carpool, || client(&carpool, "app", "batch"), || client(&carpool, "app", "web"));
    is_fair(&order);
    // The same by another user, who shares nothing with them but the pool.
    let rows = shares(&carpool);
    let row = |name: &str| rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no {name} in {rows:?}"));
    assert_eq!(row("web")[1..], ["1", "0", "0", "3"]);
    assert_eq!(row("batch")[1..], ["1", "0", "0", "20"]);
}

#[test]
fn users_that_one_role_serves_share_by_their_own_names() {
    let setup = Setup::pooler("share_by = \"user\"").database("pool_size = 1\nuser = \"postgres\"");
    let carpool = Carpool::start(&setup);
    let order = order_of(&carpool, || client(&carpool, "app", "same"), || client(&carpool, "postgres", "same"));
    is_fair(&order);
}

#[test]
fn without_it_the_first_to_come_is_the_first_to_be_served() {
    let carpool = Carpool::start(&Setup::pooler("share_by = \"user\"").database("pool_size = 1\nshare_by = \"none\""));
    let order = order_of(&carpool, || client(&carpool, "app", "batch"), || client(&carpool, "app", "web"));
    assert_eq!(order, numbers(0..23));
    assert_eq!(carpool.console("SHOW SHARES"), "");
}

/// `SET application_name` moves a client to another group.
#[test]
fn the_name_that_counts_is_the_one_that_a_client_has_now() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nshare_by = \"application_name\""));
    let renamed = || {
        let mut renamed = client(&carpool, "app", "batch");
        renamed.query("set application_name = 'web'");
        renamed
    };
    let order = order_of(&carpool, || client(&carpool, "app", "batch"), renamed);
    is_fair(&order);
}

#[test]
fn it_is_seen_and_a_reload_changes_it_while_clients_wait() {
    let http_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = "pool_size = 1\nshare_by = \"application_name\"\nshare_weights = { web = 3 }";
    let setup = Setup::pooler(&format!("http_port = {http_port}")).database(lines);
    let carpool = Carpool::start(&setup);
    let mut holder = client(&carpool, "app", "batch");
    holder.query("begin");
    let mut crowd: Vec<_> = ["batch", "web", "web", "other \"q\""].map(|name| client(&carpool, "app", name)).into();
    for (n, client) in crowd.iter_mut().enumerate() {
        client.send(&query("select 1"));
        wait_for_waiting(&carpool, n + 1);
    }
    let rows = shares(&carpool);
    let now = |rows: &[[String; 5]]| rows.iter().map(|row| row[..4].join(" ")).collect::<Vec<_>>();
    assert_eq!(now(&rows), ["batch 1 1 1", "web 3 0 2", "other \"q\" 1 0 1"]);
    let (_, metrics) = http(http_port, "GET", "/metrics");
    let labels = format!("{{database=\"{}\",user=\"app\",group=\"web\"}}", carpool.database);
    assert!(metrics.contains(&format!("carpool_share_clients_waiting{labels} 2\n")), "{metrics}");
    assert!(metrics.contains("group=\"other \\\"q\\\"\"} 1\n"), "{metrics}");
    // What is waiting stays so, and is served.
    let changed = setup.database("pool_size = 1\nshare_by = \"user\"\nshare_weights = { web = 7, batch = 2 }");
    let text = changed.toml(Postgres::shared(), &carpool.database);
    std::fs::write(&carpool.config, text.replace("listen_port = 0", &format!("listen_port = {}", carpool.port)))
        .unwrap();
    carpool.console("RELOAD");
    eventually("the weights have changed", || {
        (now(&shares(&carpool))[0..2] == ["batch 2 1 1", "web 7 0 2"]).then_some(())
    });
    let mut late = client(&carpool, "app", "batch");
    late.send(&query("select 1"));
    wait_for_waiting(&carpool, 5);
    assert!(now(&shares(&carpool)).contains(&"app 1 0 1".to_owned()));
    holder.query("commit");
    crowd.iter_mut().for_each(succeed);
    succeed(&mut late);
    assert_eq!(waiting(&carpool), 0);
    // Servers that were lent to a group are no more, however they came back.
    eventually("no group has any", || shares(&carpool).iter().all(|row| row[2] == "0").then_some(()));
}

/// Each way in which a server comes back: reset, closed, its client gone.
#[test]
fn no_server_stays_on_a_groups_account() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 4\nshare_by = \"application_name\""));
    let mut kept = client(&carpool, "app", "a");
    kept.query("create temporary table t(n int)");
    let mut left = client(&carpool, "app", "b");
    left.query("begin");
    let mut ended = client(&carpool, "app", "c");
    ended.query("begin");
    let held = |name: &str| shares(&carpool).iter().find(|row| row[0] == name).map(|row| row[2].clone());
    for name in ["a", "b", "c"] {
        assert_eq!(held(name).as_deref(), Some("1"), "{name}");
    }
    kept.query("drop table t");
    drop(left);
    ended.send(&query("select pg_terminate_backend(pg_backend_pid())"));
    ended.until_closed();
    eventually("none has any", || shares(&carpool).iter().all(|row| row[2] == "0").then_some(()));
}

#[test]
fn a_wait_ends_after_query_wait_timeout_in_every_group() {
    let setup = Setup::pooler("query_wait_timeout = 1").database("pool_size = 1\nshare_by = \"application_name\"");
    let carpool = Carpool::start(&setup);
    let mut holder = client(&carpool, "app", "batch");
    holder.query("begin");
    let mut crowd: Vec<_> = ["batch", "web", "web"].map(|name| client(&carpool, "app", name)).into();
    crowd.iter_mut().for_each(|client| client.send(&query("select 1")));
    for client in &mut crowd {
        let error = client.until_closed().into_iter().find(|m| m.tag == b'E').unwrap();
        assert!(error.field('M').unwrap().contains("query_wait_timeout"), "{error:?}");
        assert!(error.field('H').unwrap().contains("share_by"), "{error:?}");
    }
    assert!(shares(&carpool).iter().all(|row| row[3] == "0"));
    holder.query("commit");
    holder.stream().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(client(&carpool, "app", "web").value("select 7"), "7");
}
