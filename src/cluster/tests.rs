//! What follows from answers of two hosts.

use super::*;
use crate::config::Host;
use crate::server::ask::Standing;

fn policy(attrs: SessionAttrs, max_lag: Duration) -> Policy {
    let target = |port| Target { host: Host::Tcp("127.0.0.1".into()), port };
    let longest_rest = Duration::from_secs(15);
    Policy { hosts: [target(1), target(2)].into(), balance: LoadBalance::Disable, attrs, max_lag, longest_rest }
}

fn on(timeline: u32, standby: bool) -> Standing {
    let (timeline, position, upstream) = (Some(timeline), Some(100), standby.then_some(timeline));
    Standing { standby, timeline, upstream, position, system: Some(7), ..Standing::default() }
}

/// Both have answered this. Says whether that changes anything.
fn told(cluster: &Cluster, policy: &Policy, said: [Standing; 2]) -> bool {
    let now = Instant::now();
    let answer = |said| Answer::Said { said, asked: now, answered: now };
    let finding = |said| Finding { answer: answer(said), door: Door::Open, error: None };
    cluster.checked(policy, &said.map(finding), now)
}

/// The order of a login's last pass, and why others aren't in it.
fn order(cluster: &Cluster, policy: &Policy) -> (Vec<usize>, Vec<String>) {
    let attrs = *policy.passes().last().unwrap();
    let order = cluster.order(policy, attrs, true, &[None, None]);
    let known = cluster.known.lock();
    let reasons = (0..2).filter_map(|at| known.why_barred(at, policy)).map(|error| error.to_string());
    (order, reasons.collect())
}

#[test]
fn no_login_goes_to_a_deposed_primary_and_no_connection_stays_there() {
    for attrs in [SessionAttrs::Primary, SessionAttrs::ReadWrite, SessionAttrs::PreferStandby] {
        let policy = policy(attrs, Duration::ZERO);
        let cluster = Cluster::new("app", &policy);
        assert!(told(&cluster, &policy, [on(1, false), on(2, false)]), "{attrs:?}");
        let why = "server 127.0.0.1:1 says that it is the primary, which 127.0.0.1:2 is".to_owned();
        assert_eq!(order(&cluster, &policy), (vec![1], vec![why]), "{attrs:?}");
        assert!(cluster.is_unfit(0) && !cluster.is_unfit(1), "{attrs:?}");
        assert!(cluster.is_no_good(0) && !cluster.is_no_good(1), "{attrs:?}");
        assert!(!told(&cluster, &policy, [on(1, false), on(2, false)]), "nothing new");
        // A pause changes nothing of that; without checks nothing follows from the last one.
        cluster.unwatched(&policy, false);
        assert!(cluster.is_unfit(0) && cluster.is_no_good(0), "{attrs:?}");
        cluster.unwatched(&policy, true);
        assert!(!cluster.is_unfit(0) && !cluster.is_no_good(0), "{attrs:?}");
        assert_eq!(order(&cluster, &policy), (vec![0, 1], vec![]), "{attrs:?}");
    }
    // Who takes any host takes this one.
    let policy = policy(SessionAttrs::Any, Duration::ZERO);
    let cluster = Cluster::new("app", &policy);
    told(&cluster, &policy, [on(1, false), on(2, false)]);
    assert_eq!(order(&cluster, &policy), (vec![0, 1], vec![]));
    assert!(!cluster.is_unfit(0) && !cluster.is_no_good(0));
}

#[test]
fn no_login_goes_to_a_standby_that_is_astray() {
    for (attrs, lag) in [
        (SessionAttrs::Standby, 0),
        (SessionAttrs::ReadOnly, 0),
        (SessionAttrs::PreferStandby, 0),
        (SessionAttrs::Standby, 9),
    ] {
        let policy = policy(attrs, Duration::from_secs(lag));
        let cluster = Cluster::new("app", &policy);
        told(&cluster, &policy, [on(1, true), on(2, false)]);
        let (order, why) = order(&cluster, &policy);
        assert!(!order.contains(&0), "{attrs:?}: {order:?}");
        assert_eq!(why[0], "server 127.0.0.1:1 is a standby that does not follow the primary, 127.0.0.1:2");
        assert!(cluster.is_unfit(0) && cluster.is_no_good(0), "{attrs:?}");
        assert_eq!(cluster.hosts(&policy)[0].state(), "astray");
        assert!(told(&cluster, &policy, [on(2, true), on(2, false)]), "it is back");
        assert!(!cluster.is_unfit(0) && !cluster.is_no_good(0), "{attrs:?}");
        assert_eq!(cluster.hosts(&policy)[0].state(), "up");
    }
}

/// Only a login that succeeds shows that there is no need to leave a host alone.
#[test]
fn answers_on_connections_from_before_keep_a_rest_and_its_reason() {
    let policy = policy(SessionAttrs::Primary, Duration::ZERO);
    let cluster = Cluster::new("app", &policy);
    told(&cluster, &policy, [on(1, false), on(1, true)]);
    assert_eq!(cluster.doubtful(Duration::from_secs(60)), [false, false]);
    let began = Instant::now();
    let answer = Answer::Said { said: on(1, false), asked: began, answered: began };
    let late = Arc::new(LoginError::Timeout { target: policy.first(), timeout: Duration::from_secs(1) });
    let other = || Finding { answer, door: Door::Untried, error: None };
    let shut = Finding { answer, door: Door::Shut, error: Some(Arc::clone(&late)) };
    assert!(cluster.checked(&policy, &[shut, other()], began));
    assert_eq!(cluster.doubtful(Duration::from_secs(60)), [true, false]);
    cluster.checked(&policy, &[other(), other()], began);
    let host = &cluster.hosts(&policy)[0];
    assert_eq!((host.state(), host.health.failures), ("down", 1));
    assert_eq!(host.last_error.as_ref().map(ToString::to_string), Some(late.to_string()));
    told(&cluster, &policy, [on(1, false), on(1, true)]);
    let host = &cluster.hosts(&policy)[0];
    assert_eq!((host.state(), host.last_error.is_none()), ("up", true));
}
