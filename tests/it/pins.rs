//! Clients that keep their server between transactions: who can see it, who is told, and keeping one by hand.

use crate::harness::console::{rows, value};
use crate::harness::postgres::free_port;
use crate::harness::raw::{V3_0, bind, execute, parse, query, startup, sync};
use crate::harness::{Carpool, Message, Raw, Setup, eventually, http};

const PIN: &str = "create temp table kept (a int)";

/// SHOW PINS, once there are so many.
fn pins(carpool: &Carpool, n: usize) -> Vec<Vec<(String, String)>> {
    eventually(&format!("{n} pins"), || Some(rows(carpool, "SHOW PINS")).filter(|rows| rows.len() == n))
}

fn succeeds(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

#[test]
fn pins_are_seen_with_reason_and_age() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")));
    let name = carpool.database.as_str();
    let mut client =
        Raw::login_with(carpool.port, &[("user", "postgres"), ("database", name), ("application_name", "nightly")]);
    assert_eq!(rows(&carpool, "SHOW PINS").len(), 0);
    succeeds(&client.query(PIN));
    let row = pins(&carpool, 1).remove(0);
    let pid = client.value("select pg_backend_pid()");
    for (column, want) in [
        ("database", name),
        ("user", "postgres"),
        ("application_name", "nightly"),
        ("server_pid", &pid),
        ("reasons", "temporary object"),
        ("last_command", "CREATE TABLE"),
    ] {
        assert_eq!(value(&row, column), want, "{column}");
    }
    assert!(value(&row, "seconds").parse::<u32>().unwrap() < 30);
    succeeds(&client.query("insert into kept values (1), (2)"));
    succeeds(&client.query("select pg_advisory_lock(7)"));
    eventually("both reasons", || {
        let row = pins(&carpool, 1).remove(0);
        (value(&row, "reasons") == "temporary object, advisory lock" && value(&row, "last_command") == "SELECT")
            .then_some(())
    });
    for command in ["SHOW CLIENTS", "SHOW SERVERS"] {
        let row = rows(&carpool, command).remove(0);
        let last: Vec<_> = row.iter().rev().take(2).map(|(name, _)| name.as_str()).collect();
        assert_eq!(last, ["pinned_seconds", "pinned"], "at the end of {command}");
        assert_eq!(value(&row, "pinned"), "temporary object, advisory lock", "{command}");
        assert!(value(&row, "pinned_seconds").parse::<u32>().unwrap() < 30, "{command}");
    }
    let (_, metrics) = http(port, "GET", "/metrics");
    for line in [
        format!("carpool_pinned_servers{{database=\"{name}\",reason=\"temporary object\"}} 1\n"),
        format!("carpool_pinned_servers{{database=\"{name}\",reason=\"advisory lock\"}} 0\n"),
        format!("carpool_pinned_servers_limit{{database=\"{name}\"}} 20\n"),
        format!("carpool_transactions_pinned_total{{database=\"{name}\"}} 3\n"),
        format!("carpool_pin_waits_total{{database=\"{name}\"}} 0\n"),
    ] {
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let (_, json) = http(port, "GET", "/api/pools");
    assert!(json.contains("\"pinned\":{\"temporary object\":1}"), "{json}");
    assert!(json.contains("\"servers_pinned\":1"), "{json}");
    succeeds(&client.query("drop table kept; select pg_advisory_unlock(7)"));
    pins(&carpool, 0);
    let row = rows(&carpool, "SHOW CLIENTS").remove(0);
    assert_eq!((value(&row, "pinned"), value(&row, "pinned_seconds")), ("", ""));
}

#[test]
fn a_client_that_leaves_is_no_pin_any_more() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    succeeds(&client.query(PIN));
    pins(&carpool, 1);
    drop(client);
    pins(&carpool, 0);
    assert_eq!(rows(&carpool, "SHOW SERVERS").iter().filter(|row| !value(row, "pinned").is_empty()).count(), 0);
}

/// `pool_size` 2 allows one pin.
#[test]
fn who_waits_for_a_pin_is_told_who_has_them() {
    let port = free_port();
    let setup = Setup::pooler(&format!("http_port = {port}\nquery_wait_timeout = 0.3")).database("pool_size = 2");
    let carpool = Carpool::start(&setup);
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    succeeds(&holder.query(PIN));
    let row = pins(&carpool, 1).remove(0);
    other.send(&query("select pg_advisory_lock(1)"));
    let error = other.until_closed().remove(0);
    assert_eq!(error.field('M').as_deref(), Some("query_wait_timeout"));
    assert_eq!(error.field('C').as_deref(), Some("53300"));
    let detail = error.field('D').unwrap();
    assert!(detail.contains(value(&row, "client")) && detail.contains("temporary object"), "{detail}");
    assert!(detail.contains("1 of 1 are kept"), "{detail}");
    assert!(error.field('H').unwrap().contains("max_pinned"), "{error:?}");
    let (_, metrics) = http(port, "GET", "/metrics");
    assert!(metrics.contains(&format!("carpool_pin_waits_total{{database=\"{}\"}} 1\n", carpool.database)));
}

/// The permit goes to who is going to keep a server, before its transaction has ended.
#[test]
fn who_waits_for_a_pin_is_told_of_open_transactions() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 0.3").database("pool_size = 2"));
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    holder.query("begin");
    succeeds(&holder.query(PIN));
    other.send(&query("select pg_advisory_lock(1)"));
    let detail = other.until_closed().remove(0).field('D').unwrap();
    assert!(detail.contains("0 of 1 are kept so, 1 are going to be by open transactions"), "{detail}");
    assert!(detail.ends_with("longest by: nobody."), "{detail}");
    holder.query("rollback");
    pins(&carpool, 0);
}

#[test]
fn who_waits_for_a_server_is_told_what_is_pinned() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 0.3").database("pool_size = 1"));
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    succeeds(&holder.query(PIN));
    pins(&carpool, 1);
    other.send(&query("select 1"));
    let detail = other.until_closed()[0].field('D').unwrap();
    assert!(detail.contains("1 are kept between transactions (temporary object 1); see SHOW PINS"), "{detail}");
}

/// One who has the permit and waits for a server, and those who have the servers and wait for the permit, must not
/// wait for each other.
#[test]
fn permits_and_servers_do_not_wait_for_each_other() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")).database("pool_size = 2"));
    let waits = |n: u32| {
        let line = format!("carpool_pin_waits_total{{database=\"{}\"}} {n}\n", carpool.database);
        eventually("they wait for permits", || http(port, "GET", "/metrics").1.contains(&line).then_some(()));
    };
    let [mut holder, mut first, mut second, mut third] = std::array::from_fn(|_| carpool.client());
    succeeds(&holder.query(PIN));
    pins(&carpool, 1);
    first.send(&query("create temp table one (a int)"));
    waits(1);
    succeeds(&second.query("begin"));
    second.send(&query("create temp table two (a int)"));
    waits(2);
    third.send(&query("begin"));
    eventually("it waits for a server", || {
        let clients = rows(&carpool, "SHOW CLIENTS");
        (clients.iter().filter(|row| value(row, "state") == "waiting").count() == 2).then_some(())
    });
    // The server goes to the third, the permit to the first.
    succeeds(&holder.query("discard all"));
    succeeds(&third.until_ready());
    third.send(&query("create temp table three (a int)"));
    succeeds(&second.until_ready());
    succeeds(&second.query("rollback"));
    succeeds(&third.until_ready());
    succeeds(&third.query("rollback"));
    succeeds(&first.until_ready());
}

/// A request that waits for a pin gives it up when its client goes.
#[test]
fn a_client_that_leaves_while_it_waits_for_a_pin_is_noticed() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    succeeds(&holder.query(PIN));
    pins(&carpool, 1);
    other.send(&query("select pg_advisory_lock(1)"));
    let waiting = |carpool: &Carpool| {
        let clients = rows(carpool, "SHOW CLIENTS");
        clients.iter().filter(|row| value(row, "state") == "waiting").count()
    };
    eventually("it waits", || (waiting(&carpool) == 1).then_some(()));
    drop(other);
    eventually("it is gone", || (waiting(&carpool) == 0).then_some(()));
}

/// Nobody keeps a server.
fn released(carpool: &Carpool) {
    eventually("all servers are free", || {
        let servers = rows(carpool, "SHOW SERVERS");
        servers.iter().all(|row| value(row, "state") == "idle" && value(row, "pinned").is_empty()).then_some(())
    });
}

/// One client keeps its server by hand, whatever others do.
fn kept(carpool: &Carpool, client: &mut Raw) {
    assert_eq!(value(&pins(carpool, 1)[0], "reasons"), "by hand");
    let before = client.value("select pg_backend_pid()");
    let mut other = carpool.client();
    succeeds(&other.query("begin; select 1"));
    assert_ne!(other.value("select pg_backend_pid()"), before);
    assert_eq!(client.value("select pg_backend_pid()"), before);
    succeeds(&other.query("commit"));
}

#[test]
fn a_client_keeps_its_server_by_hand() {
    let setup = Setup::default().database("pool_size = 2");
    for on in ["set carpool.pin = on", "SET SESSION \"Carpool\".pin TO 'tru'", "set carpool.pin=1; select 1"] {
        let carpool = Carpool::start(&setup);
        let mut client = carpool.client();
        released(&carpool);
        succeeds(&client.query(on));
        kept(&carpool, &mut client);
        succeeds(&client.query("set carpool.pin = off"));
        released(&carpool);
        assert_eq!(client.value("show carpool.pin"), "off");
        released(&carpool);
    }
}

/// Nobody knows what the server was kept for, so nothing of it is left when another gets it.
#[test]
fn a_server_kept_by_hand_is_reset() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let postgres = crate::harness::Postgres::shared();
    postgres.sql(
        &carpool.database,
        "create function hide() returns trigger language plpgsql as 'begin create temp table hidden (a int); return new; end';
         create table seen (a int); create trigger hide before insert on seen for each row execute function hide()",
    );
    let (mut client, mut other) = (carpool.client(), carpool.client());
    succeeds(&client.query("set carpool.pin = on"));
    // What a trigger does isn't seen.
    succeeds(&client.query("insert into seen values (1)"));
    succeeds(&client.query("insert into hidden values (1)"));
    succeeds(&client.query("insert into hidden values (1)"));
    succeeds(&client.query("reset carpool.pin"));
    assert_eq!(other.error("select * from hidden"), "42P01");
}

#[test]
fn keeping_by_hand_is_transactional() {
    let setup = Setup::default().database("pool_size = 2");
    let carpool = Carpool::start(&setup);
    let mut client = carpool.client();
    for sql in ["begin; set carpool.pin = on; rollback", "begin; set local carpool.pin = on; commit"] {
        succeeds(&client.query(sql));
        released(&carpool);
        assert_eq!(rows(&carpool, "SHOW PINS").len(), 0, "{sql}");
    }
    succeeds(&client.query("begin"));
    succeeds(&client.query("set carpool.pin = on"));
    succeeds(&client.query("commit"));
    kept(&carpool, &mut client);
    succeeds(&client.query("begin; set carpool.pin = off; rollback"));
    kept(&carpool, &mut client);
    succeeds(&client.query("reset all"));
    released(&carpool);
    succeeds(&client.query("select set_config('carpool.pin', 'on', false)"));
    kept(&carpool, &mut client);
    succeeds(&client.query("discard all"));
    released(&carpool);
}

#[test]
fn keeping_by_hand_over_the_extended_protocol() {
    let setup = Setup::default().database("pool_size = 2");
    let carpool = Carpool::start(&setup);
    let mut client = carpool.client();
    let run = |client: &mut Raw, name: &str, sql: &str| {
        client.send_all(&[parse(name, sql), bind("", name, &[]), execute("", 0), sync()]);
        client.until_ready()
    };
    for (name, other) in [("", ""), ("on", "off")] {
        succeeds(&run(&mut client, name, "set carpool.pin = on"));
        kept(&carpool, &mut client);
        succeeds(&run(&mut client, other, "set carpool.pin = off"));
        released(&carpool);
        let bad = format!("{name}bad");
        let replies = run(&mut client, if name.is_empty() { "" } else { &bad }, "set carpool.pin = banana");
        let error = replies.iter().find(|m| m.tag == b'E').unwrap();
        assert_eq!(error.field('C').as_deref(), Some("22023"), "{error:?}");
    }
}

#[test]
fn a_value_that_is_not_on_or_off_is_an_error() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    for (sql, name) in [
        ("set carpool.pin = banana", "carpool.pin"),
        ("set carpool.pin to '10'", "carpool.pin"),
        ("select 1; set carpool.pin_notice = 'x'; select 2", "carpool.pin_notice"),
    ] {
        let replies = client.query(sql);
        let error = replies.iter().find(|m| m.tag == b'E').unwrap_or_else(|| panic!("{sql}: {replies:?}"));
        let text = format!("parameter \"{name}\" requires a Boolean value");
        assert_eq!((error.field('C').as_deref(), error.field('M')), (Some("22023"), Some(text)), "{sql}");
    }
    assert_eq!(client.error("show carpool.pin"), "42704", "nothing was set");
    succeeds(&client.query("begin"));
    assert_eq!(client.error("set carpool.pin = banana"), "22023");
    assert_eq!(client.error("select 1"), "25P02", "the transaction has failed");
    succeeds(&client.query("rollback"));
    let login = [("user", "postgres"), ("database", carpool.database.as_str()), ("options", "-c carpool.pin=banana")];
    assert_eq!(refused(carpool.port, &login), "22023");
}

/// The code of the error that a login ends in.
fn refused(port: u16, parameters: &[(&str, &str)]) -> String {
    let mut raw = Raw::connect(port);
    raw.send(&startup(V3_0, parameters));
    raw.finish_login().expect("an error").field('C').unwrap()
}

#[test]
fn a_startup_parameter_keeps_the_server() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let login = [("user", "postgres"), ("database", carpool.database.as_str()), ("options", "-c carpool.pin=on")];
    let mut client = Raw::login_with(carpool.port, &login);
    succeeds(&client.query("select 1"));
    kept(&carpool, &mut client);
    succeeds(&client.query("set carpool.pin = off"));
    released(&carpool);
    succeeds(&client.query("reset carpool.pin"));
    kept(&carpool, &mut client);
    succeeds(&client.query("discard all"));
    kept(&carpool, &mut client);
}

/// `pool_size` 2 allows one pin: the second waits for it, and gets it when the first gives it up.
#[test]
fn keeping_by_hand_counts_for_the_budget() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut one, mut two, mut plain) = (carpool.client(), carpool.client(), carpool.client());
    succeeds(&one.query("set carpool.pin = on"));
    two.send(&query("set carpool.pin = on"));
    eventually("it waits", || {
        let clients = rows(&carpool, "SHOW CLIENTS");
        clients.iter().any(|row| value(row, "state") == "waiting").then_some(())
    });
    succeeds(&plain.query("select 1"));
    succeeds(&one.query("set carpool.pin = off"));
    succeeds(&two.until_ready());
    assert_eq!(value(&pins(&carpool, 1)[0], "reasons"), "by hand");
    // One who has it only from set_config(), or from startup, waits with its next request.
    succeeds(&one.query("select set_config('carpool.pin', 'on', false)"));
    eventually("it has no server", || {
        rows(&carpool, "SHOW SERVERS").iter().any(|row| value(row, "state") == "idle").then_some(())
    });
    one.send(&query("select 1"));
    eventually("it waits", || {
        let clients = rows(&carpool, "SHOW CLIENTS");
        clients.iter().any(|row| value(row, "state") == "waiting").then_some(())
    });
    drop(two);
    succeeds(&one.until_ready());
}

#[test]
fn without_a_budget_nothing_is_kept_by_hand() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2\nmax_pinned = 0"));
    let mut client = carpool.client();
    let replies = client.query("set carpool.pin = on");
    assert_eq!(replies[0].field('C').as_deref(), Some("53400"), "{replies:?}");
    assert!(replies[0].field('H').unwrap().contains("max_pinned"));
    assert_eq!(client.error("select 1; set carpool.pin = yes"), "53400");
    client.send_all(&[parse("", "set carpool.pin = on"), bind("", "", &[]), execute("", 0), sync()]);
    let replies = client.until_ready();
    assert!(replies.iter().any(|m| m.tag == b'E' && m.field('C').as_deref() == Some("53400")), "{replies:?}");
    succeeds(&client.query("set carpool.pin = off"));
    succeeds(&client.query("select set_config('carpool.pin', 'on', false)"));
    released(&carpool);
    client.send(&query("select 1"));
    assert_eq!(client.until_closed()[0].field('C').as_deref(), Some("53400"));
}

#[test]
fn in_session_mode_it_changes_nothing() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2\npool_mode = \"session\"\nmax_pinned = 0"));
    let mut client = carpool.client();
    succeeds(&client.query("set carpool.pin = on"));
    succeeds(&client.query("select 1"));
    assert_eq!(client.error("set carpool.pin = banana"), "22023");
    assert_eq!(rows(&carpool, "SHOW PINS").len(), 0);
}

/// The messages of the notices in an answer, each in front of ReadyForQuery and behind the answer's own messages.
fn notices(replies: &[Message]) -> Vec<String> {
    let notices: Vec<_> = replies.iter().filter(|m| m.tag == b'N').collect();
    let text = |m: &&Message| {
        assert_eq!((m.field('S').as_deref(), m.field('C').as_deref()), (Some("NOTICE"), Some("00000")));
        assert!(m.field('H').unwrap().contains("max_pinned"));
        m.field('M').unwrap()
    };
    if !notices.is_empty() {
        assert_eq!(replies[replies.len() - 2].tag, b'N', "{replies:?}");
    }
    notices.iter().map(text).collect()
}

#[test]
fn who_asks_is_told_of_pins_once() {
    let ask = |setup: &Setup, first: &str| {
        let carpool = Carpool::start(setup);
        let mut client = carpool.client();
        succeeds(&client.query(first));
        assert_eq!(notices(&client.query(PIN)), Vec::<String>::new());
        pins(&carpool, 1);
        let mut told = notices(&client.query("select 1"));
        told.extend(notices(&client.query("select pg_advisory_lock(1)")));
        eventually("both reasons", || value(&pins(&carpool, 1)[0], "reasons").contains("advisory lock").then_some(()));
        client.send_all(&[parse("", "select 1"), bind("", "", &[]), execute("", 0), sync()]);
        told.extend(notices(&client.until_ready()));
        told.extend(notices(&client.query("drop table kept; select pg_advisory_unlock(1)")));
        pins(&carpool, 0);
        succeeds(&client.query(PIN));
        pins(&carpool, 1);
        told.extend(notices(&client.query("select 1")));
        told
    };
    let both = [
        "carpool: this session keeps its server connection: temporary object",
        "carpool: this session keeps its server connection: advisory lock",
    ];
    let on = Setup::pooler("pin_notice = true");
    assert_eq!(ask(&on, "select 1"), both);
    assert_eq!(ask(&Setup::default().database("pin_notice = true"), "select 1"), both);
    assert_eq!(ask(&Setup::default(), "set carpool.pin_notice = on"), both);
    let none = Vec::<String>::new();
    assert_eq!(ask(&Setup::default(), "select 1"), none);
    assert_eq!(ask(&on, "set carpool.pin_notice = off"), none);
    assert_eq!(ask(&on, "set client_min_messages = warning"), none);
    assert_eq!(ask(&on.clone().database("pin_notice = false"), "select 1"), none);
}
