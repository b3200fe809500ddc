//! Which of several hosts a login tries, in which order, and which of them rest. Pure: times and chance come from outside.
//!
//! A host is left alone for a while when a login to it failed, for longer each time and if it took long (up to a bound); the first login
//! afterwards tries it, others prefer the rest of the list until that one has ended. One that answers but has another role
//! than is wanted rests for a moment only, since roles change. One that said no to this login alone (a wrong password) doesn't
//! rest: others may get in.
//!
//! Invariant: every host that doesn't rest is in the order once.

use std::time::{Duration, Instant};

use crate::config::{LoadBalance, Role, SessionAttrs};

/// The first rest of a host to which a login failed; it doubles.
pub const FIRST_REST: Duration = Duration::from_millis(100);
/// For how long a host isn't asked again that had another role than is wanted.
pub const ROLE_REST: Duration = Duration::from_millis(500);
/// A login that takes longer has others prefer other hosts.
const SLOW: Duration = Duration::from_millis(500);
/// A host rests for so many times as long as the login took that failed, at least.
const SLOWNESS: u32 = 4;

/// What became of a login to a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It succeeded; the role, if it is known.
    In(Option<Role>),
    /// The host is alive, and has this role, which isn't wanted.
    Unwanted(Role),
    /// It refused this login, not all.
    Refused,
    /// It failed.
    Failed,
    /// Nobody waited for its end.
    Abandoned,
}

/// What a health check says of a host's logins. One that has asked on a connection from before says nothing of them: the
/// processes behind connections answer on while the one that takes logins hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// None was tried, or this one alone was refused.
    Untried,
    /// One succeeded.
    Open,
    /// One failed.
    Shut,
}

/// What is new about a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It answers again.
    Up,
    /// It doesn't any more.
    Down,
    /// It has this role, and had another.
    Role(Role),
}

/// What is known of one host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// Failed logins in a row.
    pub failures: u32,
    /// Failed logins since the start.
    pub failed: u64,
    /// Logins since the start.
    pub logins: u64,
    /// What it was when it last said so.
    pub role: Option<Role>,
    /// It is left alone until then.
    pub rests_until: Option<Instant>,
    failed_at: Option<Instant>,
    /// When it said what it is.
    role_at: Option<Instant>,
    /// When it answered a login.
    entered_at: Option<Instant>,
    /// Logins under way.
    attempts: u32,
    /// Since when there has been no answer to any of them.
    waiting_since: Option<Instant>,
}

impl Health {
    /// Whether it has another role than this, as far as is known.
    #[must_use]
    pub fn is_unwanted(&self, attrs: SessionAttrs) -> bool {
        self.role.is_some_and(|role| !attrs.fits(role))
    }

    /// From when on a login may try it.
    fn ready_at(&self, attrs: SessionAttrs) -> Option<Instant> {
        let asked = self.role_at.filter(|_| self.is_unwanted(attrs)).map(|at| at + ROLE_REST);
        self.rests_until.max(asked)
    }

    fn is_ready(&self, attrs: SessionAttrs, now: Instant) -> bool {
        self.ready_at(attrs).is_none_or(|at| at <= now)
    }

    /// No login to it is under way without an answer for long, nor did the last one fail, nor was it longer ago than this.
    fn is_open(&self, now: Instant, longest: Duration) -> bool {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        self.failures == 0 && !self.is_slow(now) && since(self.entered_at).is_some_and(|ago| ago < longest)
    }

    fn is_slow(&self, now: Instant) -> bool {
        self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) > SLOW)
    }

    /// It has answered a login.
    fn answer(&mut self, role: Option<Role>, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        if self.failures > 0 {
            news.push(News::Up);
        }
        (self.failures, self.failed_at, self.rests_until) = (0, None, None);
        self.entered_at = Some(now);
        news.extend(self.be(role, now));
        news
    }

    /// It has said what it is.
    fn be(&mut self, role: Option<Role>, now: Instant) -> Option<News> {
        let role = role?;
        self.role_at = Some(now);
        self.role.replace(role).is_some_and(|before| before != role).then_some(News::Role(role))
    }

    fn fail(&mut self, (began, now): (Instant, Instant), longest: Duration, spread: f64) -> Vec<News> {
        // What was under way together fails together, which is one failure.
        if self.failed_at.is_some_and(|failed_at| began < failed_at) {
            return Vec::new();
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        let rest = FIRST_REST.saturating_mul(1 << (self.failures - 1).min(16));
        // What takes long to fail costs more.
        let rest = rest.max(now.saturating_duration_since(began) * SLOWNESS).min(longest.max(FIRST_REST));
        self.rests_until = Some(now + rest.mul_f64(1.0 - spread.clamp(0.0, 1.0) / 4.0));
        if self.failures == 1 { vec![News::Down] } else { Vec::new() }
    }

    /// The less, the sooner it is tried.
    fn rank(&self, attrs: SessionAttrs, now: Instant) -> u8 {
        if self.is_slow(now) || (self.failures > 0 && self.attempts > 0) {
            return 2;
        }
        u8::from(self.is_unwanted(attrs))
    }
}

/// The hosts of a pool.
#[derive(Clone, Debug)]
pub struct Hosts {
    list: Vec<Health>,
    turn: usize,
    /// Where the last login succeeded.
    last: Option<usize>,
    failovers: u64,
}

impl Hosts {
    /// So many, of which nothing is known.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { list: vec![Health::default(); count], turn: 0, last: None, failovers: 0 }
    }

    /// What is known of each.
    #[must_use]
    pub fn list(&self) -> &[Health] {
        &self.list
    }

    /// What a host is that has just said whether it is a standby. Whether a primary's sessions begin read-only differs from
    /// role to role of its clients, so that is what a login has met.
    #[must_use]
    pub fn role(&self, at: usize, standby: bool) -> Role {
        let known = self.list[at].role.is_some_and(|role| !role.standby && role.read_only);
        Role { standby, read_only: standby || known }
    }

    /// Whether each one's failures keep logins away.
    #[must_use]
    pub fn resting(&self) -> Vec<bool> {
        self.list.iter().map(|host| host.failures > 0).collect()
    }

    /// How often logins have gone to another host since the one before couldn't be used any more.
    #[must_use]
    pub const fn failovers(&self) -> u64 {
        self.failovers
    }

    /// The hosts to try for a server of this kind, in this order. `random` gives a number below its argument.
    pub fn order(
        &mut self,
        balance: LoadBalance,
        attrs: SessionAttrs,
        now: Instant,
        mut random: impl FnMut(usize) -> usize,
    ) -> Vec<usize> {
        let count = self.list.len();
        let mut order: Vec<usize> = (0..count).collect();
        match balance {
            LoadBalance::Disable => {}
            LoadBalance::RoundRobin => {
                order.rotate_left(self.turn % count.max(1));
                self.turn = self.turn.wrapping_add(1);
            }
            LoadBalance::Random => (1..count).for_each(|at| order.swap(at, random(at + 1))),
        }
        order.retain(|at| self.list[*at].is_ready(attrs, now));
        order.sort_by_key(|at| self.list[*at].rank(attrs, now));
        order
    }

    /// All hosts, those that rest for the shortest time first: for a login that can't wait.
    #[must_use]
    pub fn by_readiness(&self, attrs: SessionAttrs) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_key(|at| self.list[*at].ready_at(attrs));
        order
    }

    /// When a login may be begun again after one found no host. Of hosts that can't be used something else will tell.
    #[must_use]
    pub fn next_attempt(&self, attrs: SessionAttrs, now: Instant, is_barred: impl Fn(usize) -> bool) -> Instant {
        let hosts = self.list.iter().enumerate().filter(|(at, _)| !is_barred(*at));
        let ready = hosts.map(|(_, host)| host.ready_at(attrs).unwrap_or(now));
        ready.min().unwrap_or(now + ROLE_REST).max(now + FIRST_REST)
    }

    /// A login to this host begins.
    pub fn begin(&mut self, at: usize, now: Instant) {
        let host = &mut self.list[at];
        host.attempts += 1;
        host.waiting_since.get_or_insert(now);
    }

    /// A login to this host, begun at `began`, has ended. A rest lasts for at most `longest`; `spread`, 0 to 1, is how much
    /// of a quarter is taken off it.
    pub fn end(
        &mut self,
        at: usize,
        outcome: Outcome,
        (began, now): (Instant, Instant),
        longest: Duration,
        spread: f64,
    ) -> Vec<News> {
        let host = &mut self.list[at];
        host.attempts = host.attempts.saturating_sub(1);
        if host.attempts == 0 {
            host.waiting_since = None;
        } else if !matches!(outcome, Outcome::Failed | Outcome::Abandoned) {
            host.waiting_since = Some(now);
        }
        let mut news = Vec::new();
        match outcome {
            Outcome::Abandoned => return news,
            Outcome::Failed => {
                host.failed += 1;
                return host.fail((began, now), longest, spread);
            }
            Outcome::In(_) => host.logins += 1,
            Outcome::Unwanted(_) | Outcome::Refused => {}
        }
        let role = match outcome {
            Outcome::In(role) => role,
            Outcome::Unwanted(role) => Some(role),
            _ => None,
        };
        news.extend(host.answer(role, now));
        news
    }

    /// Of which hosts it has to be found out whether they take logins, where that is to be known at least every `longest`.
    #[must_use]
    pub fn doubtful(&self, now: Instant, longest: Duration) -> Vec<bool> {
        self.list.iter().map(|host| !host.is_open(now, longest)).collect()
    }

    /// A health check, begun at `began`, has ended: the host has said what it is, or hasn't. Only a login ends the
    /// rest that logins have brought about. The rest as with [`Hosts::end`].
    pub fn checked(
        &mut self,
        at: usize,
        (role, door): (Option<Role>, Door),
        times: (Instant, Instant),
        longest: Duration,
        spread: f64,
    ) -> Vec<News> {
        let host = &mut self.list[at];
        if door == Door::Open {
            return host.answer(role, times.1);
        }
        let mut news: Vec<News> = host.be(role, times.1).into_iter().collect();
        if door == Door::Shut {
            news.extend(host.fail(times, longest, spread));
        }
        news
    }

    /// A login has succeeded on this host. Says whether the one before it can't be used any more.
    pub fn settle(&mut self, at: usize, attrs: SessionAttrs) -> bool {
        let before = self.last.replace(at).filter(|before| *before != at);
        let moved = before.is_some_and(|before| {
            let host = &self.list[before];
            host.failures > 0 || host.is_unwanted(attrs)
        });
        self.failovers += u64::from(moved);
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRIMARY: Role = Role { standby: false, read_only: false };
    const STANDBY: Role = Role { standby: true, read_only: true };
    const LONGEST: Duration = Duration::from_secs(15);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Hosts and a clock.
    struct Stand {
        hosts: Hosts,
        now: Instant,
    }

    impl Stand {
        fn new(count: usize) -> Self {
            Self { hosts: Hosts::new(count), now: Instant::now() }
        }

        fn pass(&mut self, millis: u64) {
            self.now += ms(millis);
        }

        fn login(&mut self, at: usize, outcome: Outcome) -> Vec<News> {
            self.hosts.begin(at, self.now);
            self.hosts.end(at, outcome, (self.now, self.now), LONGEST, 0.0)
        }

        fn order(&mut self, attrs: SessionAttrs) -> Vec<usize> {
            self.hosts.order(LoadBalance::Disable, attrs, self.now, |_| 0)
        }
    }

    #[test]
    fn hosts_take_turns_or_not() {
        let mut stand = Stand::new(3);
        let mut firsts = |balance, random: usize| {
            let order = |stand: &mut Stand| {
                stand.hosts.order(balance, SessionAttrs::Any, stand.now, |below| random.min(below - 1))[0]
            };
            (0..4).map(|_| order(&mut stand)).collect::<Vec<_>>()
        };
        assert_eq!(firsts(LoadBalance::Disable, 0), [0, 0, 0, 0]);
        assert_eq!(firsts(LoadBalance::RoundRobin, 0), [0, 1, 2, 0]);
        // Chance decides.
        assert_ne!(firsts(LoadBalance::Random, 0), firsts(LoadBalance::Random, 9));
    }

    #[test]
    fn a_host_that_fails_rests_for_longer_each_time() {
        let mut stand = Stand::new(2);
        for rest in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000] {
            let news = stand.login(0, Outcome::Failed);
            assert_eq!(news, if rest == 100 { vec![News::Down] } else { vec![] });
            assert_eq!(stand.order(SessionAttrs::Any), [1], "it rests");
            stand.pass(rest - 1);
            assert_eq!(stand.order(SessionAttrs::Any), [1], "it rests for {rest} ms");
            stand.pass(1);
            assert_eq!(stand.order(SessionAttrs::Any), [0, 1], "and no longer than that");
        }
        assert_eq!(stand.hosts.list()[0].failures, 10);
        assert_eq!(stand.login(0, Outcome::In(None)), [News::Up]);
        assert_eq!(stand.hosts.list()[0].failures, 0);
        stand.login(0, Outcome::Failed);
        stand.pass(100);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1], "from the start again");
    }

    #[test]
    fn one_login_at_a_time_tries_a_host_that_had_failed() {
        let mut stand = Stand::new(2);
        stand.login(0, Outcome::Failed);
        stand.pass(100);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1]);
        stand.hosts.begin(0, stand.now);
        assert_eq!(stand.order(SessionAttrs::Any), [1, 0]);
        let now = stand.now;
        stand.hosts.end(0, Outcome::In(None), (now, now), LONGEST, 0.0);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1]);
    }

    #[test]
    fn a_host_that_hangs_is_tried_last() {
        let mut stand = Stand::new(2);
        stand.hosts.begin(0, stand.now);
        stand.pass(500);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1]);
        stand.pass(1);
        assert_eq!(stand.order(SessionAttrs::Any), [1, 0]);
        // Another that succeeds there shows that it doesn't hang.
        stand.login(0, Outcome::In(None));
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1]);
    }

    #[test]
    fn a_host_that_took_long_to_fail_rests_for_longer() {
        let mut stand = Stand::new(2);
        let began = stand.now;
        stand.hosts.begin(0, began);
        stand.pass(2_000);
        stand.hosts.end(0, Outcome::Failed, (began, stand.now), LONGEST, 0.0);
        stand.pass(7_999);
        assert_eq!(stand.order(SessionAttrs::Any), [1]);
        stand.pass(1);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1]);
    }

    #[test]
    fn failures_at_the_same_time_are_one() {
        let mut stand = Stand::new(1);
        let began = stand.now;
        (0..4).for_each(|_| stand.hosts.begin(0, began));
        stand.pass(10);
        for _ in 0..4 {
            stand.hosts.end(0, Outcome::Failed, (began, stand.now), LONGEST, 0.0);
        }
        let host = stand.hosts.list()[0];
        assert_eq!((host.failures, host.failed), (1, 4));
    }

    #[test]
    fn roles_are_looked_for_where_they_were_last() {
        let mut stand = Stand::new(3);
        stand.login(0, Outcome::Unwanted(STANDBY));
        stand.login(1, Outcome::In(Some(PRIMARY)));
        assert!(!stand.hosts.settle(1, SessionAttrs::Primary));
        assert_eq!(stand.order(SessionAttrs::Primary), [1, 2], "it has just been asked");
        stand.pass(500);
        assert_eq!(stand.order(SessionAttrs::Primary), [1, 2, 0]);
        assert_eq!(stand.order(SessionAttrs::Standby), [0, 2, 1]);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1, 2]);
        // The primary dies, the standby is promoted.
        stand.login(1, Outcome::Failed);
        assert_eq!(stand.login(0, Outcome::In(Some(PRIMARY))), [News::Role(PRIMARY)]);
        assert!(stand.hosts.settle(0, SessionAttrs::Primary));
        assert_eq!(stand.hosts.failovers(), 1);
        assert!(!stand.hosts.settle(0, SessionAttrs::Primary));
        assert_eq!(stand.order(SessionAttrs::Primary), [0, 2]);
    }

    #[test]
    fn a_refused_login_rests_nobody() {
        let mut stand = Stand::new(1);
        stand.login(0, Outcome::Refused);
        assert_eq!(stand.order(SessionAttrs::Any), [0]);
        assert_eq!(stand.hosts.next_attempt(SessionAttrs::Any, stand.now, |_| false), stand.now + FIRST_REST);
        assert_eq!(stand.hosts.next_attempt(SessionAttrs::Any, stand.now, |_| true), stand.now + ROLE_REST);
    }

    #[test]
    fn checks_count_as_logins_do_but_are_none() {
        let mut stand = Stand::new(2);
        let check = |stand: &mut Stand, role, door| {
            let now = stand.now;
            stand.hosts.checked(0, (role, door), (now, now), LONGEST, 0.0)
        };
        assert_eq!(check(&mut stand, None, Door::Shut), [News::Down]);
        assert_eq!(stand.order(SessionAttrs::Any), [1]);
        stand.pass(1);
        assert_eq!(check(&mut stand, None, Door::Shut), []);
        let host = stand.hosts.list()[0];
        assert_eq!((host.failures, host.failed, host.logins), (2, 0, 0));
        assert_eq!(check(&mut stand, Some(PRIMARY), Door::Open), [News::Up]);
        assert_eq!(check(&mut stand, Some(STANDBY), Door::Untried), [News::Role(STANDBY)]);
        assert_eq!(stand.order(SessionAttrs::Primary), [1]);
        assert_eq!(stand.order(SessionAttrs::Any), [0, 1], "no rest");
        assert_eq!(stand.hosts.list()[0].logins, 0);
    }

    #[test]
    fn what_is_said_on_an_old_connection_ends_no_rest() {
        let mut stand = Stand::new(2);
        stand.login(0, Outcome::Failed);
        for _ in 0..5 {
            let now = stand.now;
            assert_eq!(stand.hosts.checked(0, (Some(PRIMARY), Door::Untried), (now, now), LONGEST, 0.0), []);
            assert_eq!(stand.order(SessionAttrs::Any), [1], "it rests");
            assert_eq!(stand.hosts.checked(0, (None, Door::Untried), (now, now), LONGEST, 0.0), []);
        }
        assert_eq!(stand.hosts.list()[0].failures, 1);
        // It says what it is, and takes no logins for all that.
        stand.pass(100);
        let now = stand.now;
        assert_eq!(
            stand.hosts.checked(0, (Some(STANDBY), Door::Shut), (now, now), LONGEST, 0.0),
            [News::Role(STANDBY)]
        );
        assert_eq!(stand.order(SessionAttrs::Any), [1]);
        assert_eq!((stand.hosts.list()[0].failures, stand.hosts.list()[0].role), (2, Some(STANDBY)));
    }

    #[test]
    fn a_host_is_in_doubt_until_it_has_answered_a_login() {
        let every = ms(1000);
        let mut stand = Stand::new(1);
        let doubtful = |stand: &Stand| stand.hosts.doubtful(stand.now, every)[0];
        assert!(doubtful(&stand), "at the start");
        for answer in [Outcome::In(None), Outcome::Unwanted(STANDBY), Outcome::Refused] {
            stand.login(0, answer);
            assert!(!doubtful(&stand), "{answer:?}");
            stand.pass(999);
            assert!(!doubtful(&stand));
            stand.pass(1);
            assert!(doubtful(&stand), "that was long ago");
        }
        let now = stand.now;
        stand.hosts.checked(0, (Some(PRIMARY), Door::Untried), (now, now), LONGEST, 0.0);
        assert!(doubtful(&stand));
        stand.hosts.checked(0, (Some(PRIMARY), Door::Open), (now, now), LONGEST, 0.0);
        assert!(!doubtful(&stand));
        stand.login(0, Outcome::Failed);
        assert!(doubtful(&stand), "the last one has failed");
        stand.login(0, Outcome::In(None));
        stand.hosts.begin(0, stand.now);
        stand.pass(500);
        assert!(!doubtful(&stand));
        stand.pass(1);
        assert!(doubtful(&stand), "one has no answer");
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Failed),
            Just(Outcome::Refused),
            Just(Outcome::Abandoned),
            Just(Outcome::In(None)),
            Just(Outcome::In(Some(PRIMARY))),
            Just(Outcome::Unwanted(STANDBY)),
        ]
    }

    proptest! {
        #[test]
        fn what_holds_of_every_order(
            count in 1..5_usize,
            steps in proptest::collection::vec((0..5_usize, outcome(), 0..3_000_u64, any::<bool>(), 0..6_usize, 0..3_usize), 0..40),
        ) {
            let mut stand = Stand::new(count);
            let mut under_way = Vec::new();
            for (at, outcome, millis, ends, attrs, balance) in steps {
                let at = at % count;
                stand.hosts.begin(at, stand.now);
                under_way.push((at, outcome, stand.now));
                stand.pass(millis);
                if ends {
                    for (at, outcome, began) in under_way.drain(..) {
                        stand.hosts.end(at, outcome, (began, stand.now), LONGEST, 0.5);
                    }
                    prop_assert!(stand.hosts.list().iter().all(|host| host.attempts == 0 && host.waiting_since.is_none()));
                }
                let (attrs, now) = (SessionAttrs::ALL[attrs], stand.now);
                let order = stand.hosts.order(LoadBalance::ALL[balance], attrs, now, |below| millis as usize % below);
                let list = stand.hosts.list().to_vec();
                for (at, host) in list.iter().enumerate() {
                    let times = order.iter().filter(|o| **o == at).count();
                    prop_assert_eq!(times, usize::from(host.is_ready(attrs, now)));
                    prop_assert!(host.ready_at(attrs).is_none_or(|until| until <= now + LONGEST));
                    prop_assert_eq!(host.failures == 0, host.rests_until.is_none());
                }
                let ranks: Vec<_> = order.iter().map(|at| list[*at].rank(attrs, now)).collect();
                prop_assert!(ranks.is_sorted());
                prop_assert_eq!(stand.hosts.by_readiness(attrs).len(), count);
                let next = stand.hosts.next_attempt(attrs, now, |_| false);
                prop_assert!(next >= now + FIRST_REST && next <= now + LONGEST);
            }
        }
    }
}
