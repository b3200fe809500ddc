//! The readiness audit: what applications use of their sessions, in every mode.

use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, describe, execute, parse, sync};
use crate::harness::{Carpool, Message, Raw, Setup, eventually, http};

fn client(carpool: &Carpool, application: &str) -> Raw {
    let login = [("user", "app"), ("database", carpool.database.as_str()), ("application_name", application)];
    Raw::login_with(carpool.port, &login)
}

/// SHOW AUDIT as `application kind/detail uses/sessions/pins handling`, over either protocol.
fn audit(carpool: &Carpool, extended: bool) -> Vec<String> {
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    let replies = if extended {
        console.send_all(&[parse("", "SHOW AUDIT"), bind("", "", &[]), describe('P', ""), execute("", 0), sync()]);
        console.until_ready()
    } else {
        console.query("show audit;")
    };
    let line = |m: &Message| {
        let row: Vec<_> = m.columns().into_iter().map(Option::unwrap).collect();
        assert_eq!((row[0].as_str(), row[1].as_str()), (carpool.database.as_str(), "app"));
        assert!(row[9].ends_with('.'), "an advice: {row:?}");
        format!("{} {}/{} {}/{}/{} {}", row[2], row[3], row[4], row[5], row[6], row[7], row[8])
    };
    replies.iter().filter(|m| m.tag == b'D').map(line).collect()
}

fn succeeds(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

/// What two applications do; one `pins`.
fn work(carpool: &Carpool, pins: bool) -> [Raw; 3] {
    let mut clients = [client(carpool, "web"), client(carpool, "web"), client(carpool, "jobs")];
    let [one, two, jobs] = &mut clients;
    for web in [one, two] {
        succeeds(&web.query("set timezone = 'Asia/Tokyo'"));
        succeeds(&web.query("set statement_timeout = '7s'; select set_config('my.tenant', '5', false)"));
        succeeds(&web.query("select 1"));
        for _ in 0..2 {
            web.send_all(&[parse("", "set statement_timeout = '8s'"), bind("", "", &[]), execute("", 0), sync()]);
            succeeds(&web.until_ready());
        }
    }
    jobs.send_all(&[parse("lock", "select pg_advisory_lock(1)"), sync()]);
    succeeds(&jobs.until_ready());
    for _ in 0..2 {
        jobs.send_all(&[bind("", "lock", &[]), execute("", 0), sync()]);
        succeeds(&jobs.until_ready());
    }
    eventually("the pin", || (!pins || !carpool.console("SHOW PINS").is_empty()).then_some(()));
    succeeds(&jobs.query("do $$begin end$$"));
    succeeds(&jobs.query("discard all"));
    clients
}

fn expected(pins: u32, locks: &str) -> Vec<String> {
    [
        format!("jobs advisory lock/ {locks}"),
        "jobs code out of sight/DO 1/1/0 asked".to_owned(),
        "jobs protocol-level prepared statement/ 1/1/0 shared".to_owned(),
        "jobs reset/DISCARD ALL 1/1/0 replayed".to_owned(),
        "web settings/my.tenant 2/2/0 replayed".to_owned(),
        "web settings/statement_timeout 6/2/0 replayed".to_owned(),
        "web settings/timezone 2/2/0 replayed".to_owned(),
    ]
    .into_iter()
    .map(|line| line.replace("PINS", &pins.to_string()))
    .collect()
}

#[test]
fn every_mode_is_audited() {
    for (mode, pins) in [("transaction", 1), ("session", 0), ("statement", 1)] {
        let carpool = Carpool::start(&Setup::pooler(&format!("audit = true\npool_mode = \"{mode}\"")));
        let _clients = work(&carpool, pins > 0);
        let want = expected(pins, "2/1/PINS pinned");
        let lines = eventually(mode, || Some(audit(&carpool, false)).filter(|lines| *lines == want));
        assert_eq!(audit(&carpool, true), lines);
    }
}

#[test]
fn without_pins_state_ends_with_the_transaction() {
    let carpool = Carpool::start(&Setup::pooler("audit = true").database("max_pinned = 0"));
    let _clients = work(&carpool, false);
    assert_eq!(audit(&carpool, false), expected(0, "2/1/PINS reset"));
}

#[test]
fn a_reload_begins_and_ends_it_for_all() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}\naudit = false")));
    let mut web = client(&carpool, "web");
    succeeds(&web.query("set timezone = 'UTC'"));
    assert_eq!(audit(&carpool, false), Vec::<String>::new());
    let reload = |from: &str, to: &str| {
        let toml = std::fs::read_to_string(&carpool.config).unwrap();
        std::fs::write(&carpool.config, toml.replace(from, to)).unwrap();
        carpool.console("RELOAD");
    };
    reload("audit = false", "audit = true");
    succeeds(&web.query("set timezone = 'UTC'"));
    succeeds(&web.query("set application_name = 'renamed'"));
    succeeds(&web.query("listen x"));
    let want = [
        "renamed listen/ 1/1/0 shared",
        "web settings/application_name 1/1/0 replayed",
        "web settings/timezone 1/1/0 replayed",
    ];
    eventually("it is audited", || (audit(&carpool, false) == want).then_some(()));
    let (status, json) = http(port, "GET", "/api/audit");
    assert_eq!(status, 200);
    assert!(json.contains("\"enabled\":true"), "{json}");
    assert!(
        json.contains("\"kind\":\"settings\",\"detail\":\"timezone\",\"uses\":1,\"sessions\":1,\"pins\":0"),
        "{json}"
    );
    reload("audit = true", "audit = false");
    succeeds(&web.query("set timezone = 'UTC'"));
    assert_eq!(audit(&carpool, false), want);
    assert!(http(port, "GET", "/api/audit").1.contains("\"enabled\":false"));
}
