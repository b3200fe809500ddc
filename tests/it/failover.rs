//! The primary dies under load, and its standby is promoted: nothing is lost or run twice, and how long it takes.
//!
//! `make failover` runs more rounds, and prints what docs/failover.md has.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{carpool, replicated};
use crate::harness::{Carpool, Postgres, Raw, eventually};

const WRITERS: usize = 6;
const POOL: usize = 3;

/// What a writer was told.
#[derive(Default)]
struct Written {
    /// Numbers whose commit was acknowledged, and when.
    known: Vec<(usize, Instant)>,
    /// Numbers that may have been written.
    doubtful: Vec<usize>,
}

/// Writes rows `(client, 1)`, `(client, 2)`, … until it is told to stop.
fn write(carpool: &Carpool, number: usize, stop: &AtomicBool, done: &AtomicUsize) -> Written {
    let mut written = Written::default();
    let mut client = carpool.client();
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let replies = client.query(&format!("insert into t values ({number}, {n})"));
        match replies.iter().find(|message| message.tag == b'E') {
            None => {
                written.known.push((n, Instant::now()));
                done.fetch_add(1, Ordering::Relaxed);
            }
            Some(error) => {
                let code = error.field('C').unwrap();
                assert!(code.starts_with("57P") || code == "08006", "{error:?}");
                written.doubtful.push(n);
            }
        }
    }
    written
}

/// The first moment at which a standby says that it is one no more.
fn promoted(standby: &Postgres) -> Instant {
    let mut client = Raw::login(standby.port, "postgres", "postgres");
    while client.value("select pg_is_in_recovery()") == "t" {
        std::thread::sleep(Duration::from_millis(1));
    }
    Instant::now()
}

/// How long a failover took, as clients saw it.
struct Round {
    /// From the primary's end to the standby's promotion, which is none of Carpool's business.
    promotion: Duration,
    /// From there to the first commit, and until each writer had one.
    first: Duration,
    all: Duration,
}

/// No row twice, none lost whose commit was acknowledged, none that nobody has sent.
fn check(standby: &Postgres, database: &str, written: &[Written]) {
    for (number, Written { known, doubtful }) in written.iter().enumerate() {
        let rows = standby.sql(database, &format!("select n from t where client = {number} order by n"));
        let rows: Vec<usize> = rows.lines().map(|n| n.parse().unwrap()).collect();
        let known: Vec<usize> = known.iter().map(|(n, _)| *n).collect();
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "twice: {rows:?}");
        assert!(known.iter().all(|n| rows.binary_search(n).is_ok()), "lost: {known:?} {rows:?}");
        assert!(rows.iter().all(|n| known.contains(n) || doubtful.contains(n)), "{rows:?}");
        // What was under way when the primary died has failed, and no more: at most once for each server there was.
        assert!(doubtful.len() <= POOL, "{doubtful:?}");
    }
}

fn fail_over() -> Round {
    let (primary, standby, database) = replicated();
    primary.sql("postgres", "alter system set synchronous_commit = on");
    primary.sql("postgres", "alter system set synchronous_standby_names = 's1'");
    primary.sql("postgres", "select pg_reload_conf()");
    eventually("replication is synchronous", || {
        (primary.sql("postgres", "select sync_state from pg_stat_replication") == "sync").then_some(())
    });
    let lines = format!("target_session_attrs = \"primary\"\npool_size = {POOL}");
    let carpool = carpool(&primary, &database, "", &[primary.port, standby.port], &lines);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let progress = |what: &str| {
        let from = done.load(Ordering::Relaxed);
        eventually(what, || (done.load(Ordering::Relaxed) > from + 100).then_some(()));
    };
    let (written, died, promoted) = std::thread::scope(|scope| {
        let writer = |number| {
            let (carpool, stop, done) = (&carpool, &stop, &done);
            scope.spawn(move || write(carpool, number, stop, done))
        };
        let writers: Vec<_> = (0..WRITERS).map(writer).collect();
        progress("writes on the first primary");
        let watch = scope.spawn(|| promoted(&standby));
        primary.control(&["stop", "-s", "-m", "immediate"]);
        let died = Instant::now();
        standby.control(&["promote", "-s", "-w"]);
        let promoted = watch.join().unwrap();
        progress("writes on the second primary");
        stop.store(true, Ordering::Relaxed);
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (written, died, promoted)
    });
    check(&standby, &database, &written);
    carpool.logs("server connections go to another host now");
    let first = |written: &Written| written.known.iter().map(|(_, at)| *at).find(|at| *at > died);
    let firsts: Vec<_> = written.iter().map(|written| first(written).expect("each writer goes on")).collect();
    let since = |at: Option<&Instant>| at.unwrap().saturating_duration_since(promoted);
    let promotion = promoted.saturating_duration_since(died);
    Round { promotion, first: since(firsts.iter().min()), all: since(firsts.iter().max()) }
}

/// Median and range, milliseconds.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |at: usize| times[at].as_millis();
    let middle = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2;
    format!("median {} ms, {} to {} ms", middle.as_millis(), ms(0), ms(times.len() - 1))
}

#[test]
fn a_failover_loses_nothing_and_runs_nothing_twice() {
    let rounds = std::env::var("CARPOOL_FAILOVER_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let rounds: Vec<Round> = (0..rounds)
        .map(|number| {
            let round = fail_over();
            let Round { promotion, first, all } = &round;
            println!("{number}: promoted after {promotion:?}, first commit {first:?} later, of all writers {all:?}");
            round
        })
        .collect();
    println!("from the primary's end to the promotion: {}", summary(rounds.iter().map(|r| r.promotion).collect()));
    println!("from the promotion to the first commit: {}", summary(rounds.iter().map(|r| r.first).collect()));
    println!("until each of {WRITERS} writers had one: {}", summary(rounds.iter().map(|r| r.all).collect()));
}
