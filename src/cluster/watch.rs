//! What the hosts of a pool say of themselves, asked from time to time, and which of them may be used by that. Pure.
//!
//! How far a standby is behind is told in two ways, of which each is an upper bound; the less counts. By positions: what the primary had
//! written when it was asked the standby has replayed, so it is behind by no more than the time since then. That holds
//! on an idle primary and needs no clocks that agree. And by the standby's last replayed commit, which is more exact on a busy
//! one. Where no primary was ever seen the standby's word must do: nothing received waits to be replayed.
//!
//! A standby of the primary that was replaced has the same system identifier, and goes on. It is told by the timeline that it is sent,
//! or, for want of a role that is told so, by what its control file has reached, which may be minutes late: that alone
//! says nothing where no other primary is left to follow. And by positions: nobody can have replayed more than the one it follows has written later.
//!
//! Invariant: of several hosts that say that they are the primary one at most is used for writing, and never one whose
//! timeline is older than one that was seen before. A standby that may follow another primary than that isn't used.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::hosts::Hosts;
use crate::config::{Role, SessionAttrs};
use crate::server::ask::Standing as Said;

/// Positions of the primary that are remembered.
const REMEMBERED: usize = 512;
/// Failed checks in a row after which idle connections to a host are closed.
const DEAD: u32 = 2;

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Answer {
    /// It was answered.
    Said {
        /// What.
        said: Said,
        /// When it was asked.
        asked: Instant,
        /// When it had answered.
        answered: Instant,
    },
    /// The host is there, but doesn't answer this.
    Refused,
    /// It isn't there.
    Failed,
}

/// What is known of one host.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Checked {
    /// When it answered last.
    pub at: Option<Instant>,
    /// What.
    pub said: Option<Said>,
    /// How far it is behind, if it is a standby and that can be told.
    pub lag: Option<Duration>,
    /// Questions in a row that it didn't answer.
    pub failures: u32,
}

impl Checked {
    /// What it said, if it answered the last question.
    fn now(&self) -> Option<Said> {
        self.said.filter(|_| self.failures == 0)
    }

    fn is(&self, standby: bool) -> bool {
        self.now().is_some_and(|said| said.standby == standby)
    }

    /// The highest timeline that it is known to have reached.
    fn reached(&self) -> Option<u32> {
        self.said.and_then(|said| said.timeline.max(said.upstream))
    }

    fn position(&self) -> Option<u64> {
        self.said.and_then(|said| said.position)
    }
}

/// Sets of hosts, a bit each.
pub type Set = u32;

/// What follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Standbys that are too far behind, or may be.
    pub lagging: Set,
    /// Those that say that they are the primary, and aren't.
    pub deposed: Set,
    /// Standbys that follow another than the primary, or may.
    pub astray: Set,
    /// Connections to these are closed when they come free.
    pub unfit: Set,
    /// Idle connections to these are closed.
    pub dead: Set,
}

/// What the log is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Split {
    /// Several say that they are the primary: the one that is used, and the others.
    Torn(usize, Vec<usize>),
    /// None that does is on a timeline as high as one that was seen before.
    Stale(Vec<usize>),
    /// It's over.
    Healed,
    /// Standbys that follow another than the primary.
    Astray(Vec<usize>),
    /// Such that follow it now.
    Back(Vec<usize>),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Watch {
    hosts: Vec<Checked>,
    primary: Option<usize>,
    system: Option<u64>,
    /// The highest timeline that was seen.
    timeline: Option<u32>,
    /// Where the primary was when it was asked, the newest at the end.
    history: VecDeque<(Instant, u64)>,
    /// The highest timeline that a standby was on.
    followed: Option<u32>,
    /// Standbys that don't follow the primary, whether that matters or not.
    astray: Set,
    verdict: Verdict,
    has_begun: bool,
}

/// Whether a set has a host.
#[must_use]
pub const fn has(set: Set, at: usize) -> bool {
    at < Set::BITS as usize && set & (1 << at) != 0
}

fn set_of(hosts: impl Iterator<Item = usize>) -> Set {
    hosts.filter(|at| *at < Set::BITS as usize).fold(0, |set, at| set | 1 << at)
}

impl Watch {
    /// Of so many hosts, of which nothing is known. Where `limited`, standbys' lag matters.
    #[must_use]
    pub fn new(count: usize, limited: bool) -> Self {
        let lagging = if limited { set_of(0..count) } else { 0 };
        Self {
            hosts: vec![Checked::default(); count],
            primary: None,
            system: None,
            timeline: None,
            history: VecDeque::new(),
            followed: None,
            astray: 0,
            verdict: Verdict { lagging, ..Verdict::default() },
            has_begun: false,
        }
    }

    /// Each host.
    #[must_use]
    pub fn hosts(&self) -> &[Checked] {
        &self.hosts
    }

    /// What followed from the last answers.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the hosts have been asked.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Which host is the primary.
    #[must_use]
    pub const fn primary(&self) -> Option<usize> {
        self.primary
    }

    /// Timelines that were seen don't count any more.
    pub fn forget(&mut self) {
        (self.timeline, self.followed, self.system, self.astray) = (None, None, None, 0);
    }

    /// Nobody is asked for the time being: what standbys said of their lag doesn't count any more when that goes on.
    pub fn pause(&mut self, limited: bool) {
        self.has_begun = false;
        if limited {
            self.verdict.lagging = set_of(self.all());
        }
    }

    /// All hosts were asked at about the same time: what they said, in the order of the list. `limit` is how far a
    /// standby may be behind; zero: however far. `known` is what logins have met.
    pub fn answered(&mut self, answers: &[Answer], attrs: SessionAttrs, limit: Duration, known: &Hosts) -> Vec<Split> {
        self.has_begun = true;
        let positions: Vec<_> = self.hosts.iter().map(Checked::position).collect();
        for (host, answer) in self.hosts.iter_mut().zip(answers) {
            match *answer {
                Answer::Said { said, answered, .. } => {
                    *host = Checked { at: Some(answered), said: Some(said), lag: None, failures: 0 };
                }
                // It says nothing of its role: what it was doesn't count any more.
                Answer::Refused => *host = Checked::default(),
                Answer::Failed => (host.failures, host.lag) = (host.failures.saturating_add(1), None),
            }
        }
        let before = self.verdict;
        let claims = self.elect();
        self.note_timeline();
        self.astray = set_of(self.all().filter(|at| self.is_astray(*at, positions[*at], claims)));
        // Who wants any host, or a standby, doesn't write to the wrong one by that.
        let matters = !matches!(attrs, SessionAttrs::Any | SessionAttrs::Standby | SessionAttrs::ReadOnly);
        let deposed = if matters { claims } else { 0 };
        self.note_position(answers);
        self.measure();
        let lagging = if limit.is_zero() { 0 } else { self.lagging(limit) };
        let astray = if attrs.is_for_standbys() { self.astray } else { 0 };
        self.verdict = Verdict { lagging, deposed, astray, ..Verdict::default() };
        self.verdict.unfit = self.unfit(attrs, known);
        self.verdict.dead = self.dead(attrs, known);
        self.news(before)
    }

    fn all(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.hosts.len()
    }

    /// Decides who is the primary. Gives the others that say they are.
    fn elect(&mut self) -> Set {
        let claims: Vec<usize> = self.all().filter(|at| self.hosts[*at].is(false)).collect();
        let said = |at: usize| self.hosts[at].said;
        let system = |at: usize| said(at).and_then(|said| said.system);
        let timeline = |at: usize| said(at).and_then(|said| said.timeline);
        // Another cluster takes the place of the known one when nothing is left of that.
        let is_known = |at: usize| self.system.is_none() || system(at).is_none() || system(at) == self.system;
        let is_left = self.is_left();
        let is_own = |at: &usize| !is_left || is_known(*at);
        let highest = if is_left { self.timeline } else { None };
        let is_current = |at: &usize| timeline(*at).is_none() || timeline(*at) >= highest;
        let fit = claims.iter().copied().filter(is_own).filter(is_current);
        // Among equals the one that has been used, else the first of the list.
        let chosen = fit.max_by_key(|at| (timeline(*at), self.primary == Some(*at), std::cmp::Reverse(*at)));
        if let Some(at) = chosen {
            let (system, timeline) = (system(at), timeline(at));
            // Positions go on from timeline to timeline, but those of the old one may be beyond where the new one began.
            if self.primary != Some(at) || (timeline.is_some() && timeline != self.timeline) {
                self.history.clear();
            }
            if self.system.is_some() && system.is_some() && system != self.system {
                (self.followed, self.astray) = (None, 0);
            }
            self.primary = Some(at);
            self.system = system.or(self.system);
            self.timeline = timeline.or(highest);
        }
        set_of(claims.into_iter().filter(|at| chosen != Some(*at)))
    }

    /// Whether there is anything of the known cluster.
    fn is_left(&self) -> bool {
        let system = |host: &Checked| host.said.and_then(|said| said.system);
        self.system.is_none() || self.hosts.iter().any(|host| system(host) == self.system)
    }

    /// Whether a standby follows another than the primary, or may, where these others say that they are the primary. It
    /// was `before` when it was asked last.
    fn is_astray(&self, at: usize, before: Option<u64>, rivals: Set) -> bool {
        let host = &self.hosts[at];
        let Some(said) = host.now() else { return has(self.astray, at) };
        if !said.standby {
            return false;
        }
        if said.system.is_some() && said.system != self.system && self.system.is_some() && self.is_left() {
            return true;
        }
        // Of one that was made anew in between neither position is too high.
        let own = before.min(said.position);
        let is_beyond = |other: usize| own > self.hosts[other].position().or(own);
        if self.primary.filter(|primary| self.hosts[*primary].is(false)).is_some_and(is_beyond) {
            return true;
        }
        // The primary's timeline, or one that another standby was on already.
        let Some(current) = self.timeline.max(self.followed) else { return false };
        if host.reached() >= Some(current) {
            return false;
        }
        let follows_no_rival = rivals != 0 && self.all().filter(|at| has(rivals, *at)).all(is_beyond);
        said.upstream.is_some() || ((rivals != 0 || has(self.astray, at)) && !follows_no_rival)
    }

    fn note_timeline(&mut self) {
        let is_own =
            |host: &&Checked| host.now().is_some_and(|said| self.system.is_none() || said.system == self.system);
        let standbys = self.hosts.iter().filter(|host| host.is(true)).filter(is_own);
        self.followed = self.followed.max(standbys.filter_map(Checked::reached).max());
    }

    /// What has changed.
    fn news(&self, before: Verdict) -> Vec<Split> {
        let Verdict { deposed, astray, .. } = self.verdict;
        let list = |set: Set| self.all().filter(|at| has(set, *at)).collect::<Vec<_>>();
        let mut news = Vec::new();
        if before.deposed != deposed {
            news.push(self.split(deposed));
        }
        if astray & !before.astray != 0 {
            news.push(Split::Astray(list(astray & !before.astray)));
        }
        let back = before.astray & !astray & set_of(self.all().filter(|at| self.hosts[*at].is(true)));
        if back != 0 {
            news.push(Split::Back(list(back)));
        }
        news
    }

    fn split(&self, deposed: Set) -> Split {
        let others: Vec<usize> = self.all().filter(|at| has(deposed, *at)).collect();
        match self.primary.filter(|at| self.hosts[*at].is(false) && !has(deposed, *at)) {
            _ if deposed == 0 => Split::Healed,
            Some(primary) => Split::Torn(primary, others),
            None => Split::Stale(others),
        }
    }

    fn note_position(&mut self, answers: &[Answer]) {
        let answer = self.primary.and_then(|at| answers.get(at));
        let Some(Answer::Said { said, asked, .. }) = answer else { return };
        let Some(position) = said.position.filter(|_| !said.standby) else { return };
        match self.history.back_mut() {
            // Nothing was written in between.
            Some((at, last)) if *last == position => *at = *asked,
            _ => self.history.push_back((*asked, position)),
        }
        if self.history.len() > REMEMBERED {
            self.history.pop_front();
        }
    }

    /// How far each standby is behind.
    fn measure(&mut self) {
        for (at, host) in self.hosts.iter_mut().enumerate() {
            let Checked { at: Some(answered), said: Some(said), failures: 0, .. } = *host else { continue };
            // Behind whom? Nothing can be said of one that follows another.
            if said.standby && !has(self.astray, at) {
                host.lag = lag(&self.history, &said, answered);
            }
        }
    }

    fn lagging(&self, limit: Duration) -> Set {
        let far = |at: &usize| {
            let host = &self.hosts[*at];
            !host.is(false) && host.lag.is_none_or(|lag| lag > limit)
        };
        set_of(self.all().filter(far))
    }

    /// Whose connections are to go.
    fn unfit(&self, attrs: SessionAttrs, known: &Hosts) -> Set {
        let Verdict { lagging, deposed, astray, .. } = self.verdict;
        let poor = lagging | astray;
        let ready = |at: usize| self.hosts[at].is(true) && !has(poor, at) && known.list()[at].failures == 0;
        let a_standby_is_ready = self.all().any(ready);
        let is_unfit = |at: &usize| {
            let Some(said) = self.hosts[*at].now() else { return false };
            let is_refused = match attrs {
                SessionAttrs::PreferStandby if !said.standby => a_standby_is_ready || has(deposed, *at),
                SessionAttrs::Primary | SessionAttrs::ReadWrite => has(deposed, *at),
                _ => false,
            };
            is_refused || is_wrong(attrs, said.standby, known.list()[*at].role) || (said.standby && has(poor, *at))
        };
        set_of(self.all().filter(is_unfit))
    }

    /// Hosts that don't answer, where another could serve.
    fn dead(&self, attrs: SessionAttrs, known: &Hosts) -> Set {
        let fits = |at: usize| self.hosts[at].now().is_some_and(|said| attrs.fits(known.role(at, said.standby)));
        if !self.all().any(fits) {
            return 0;
        }
        set_of(self.all().filter(|at| self.hosts[*at].failures >= DEAD))
    }
}

/// Whether a host that is this can't be what is wanted. Whether a primary's sessions begin read-only differs from role to
/// role of its clients: that one found it so closes nobody else's connections.
fn is_wrong(attrs: SessionAttrs, standby: bool, known: Option<Role>) -> bool {
    match attrs {
        SessionAttrs::Any | SessionAttrs::PreferStandby => false,
        SessionAttrs::ReadWrite | SessionAttrs::Primary => standby,
        SessionAttrs::Standby => !standby,
        SessionAttrs::ReadOnly => !standby && known.is_none_or(|role| !role.read_only),
    }
}

/// How far a standby that said this at `answered` is behind a primary that was at these positions.
fn lag(history: &VecDeque<(Instant, u64)>, said: &Said, answered: Instant) -> Option<Duration> {
    let Some((newest, _)) = history.back() else {
        return if said.caught_up { Some(Duration::ZERO) } else { said.replayed };
    };
    let covered = history.iter().rev().find(|(_, position)| said.position.is_some_and(|own| own >= *position));
    let by_position = covered.map(|(at, _)| match at == newest {
        // It has all that is known of, however long ago the primary was last seen.
        true => Duration::ZERO,
        false => answered.saturating_duration_since(*at),
    });
    match (by_position, said.replayed) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn primary(timeline: u32, position: u64) -> Said {
        let (position, timeline, system) = (Some(position), Some(timeline), Some(7));
        Said { position, timeline, system, ..Said::default() }
    }

    fn standby(position: u64, replayed: Option<u64>) -> Said {
        let (position, system, replayed) = (Some(position), Some(7), replayed.map(ms));
        Said { standby: true, position, system, replayed, ..Said::default() }
    }

    /// A watch and a clock.
    struct Stand {
        watch: Watch,
        now: Instant,
        attrs: SessionAttrs,
        limit: Duration,
    }

    impl Stand {
        fn new(count: usize, attrs: SessionAttrs) -> Self {
            Self { watch: Watch::new(count, false), now: Instant::now(), attrs, limit: Duration::ZERO }
        }

        /// Two seconds later all are asked; `None`: no answer.
        fn round(&mut self, answers: &[Option<Said>]) -> Vec<Split> {
            self.now += ms(2000);
            let said = |said| Answer::Said { said, asked: self.now, answered: self.now + ms(1) };
            let answers: Vec<_> = answers.iter().map(|answer| answer.map_or(Answer::Failed, said)).collect();
            self.watch.answered(&answers, self.attrs, self.limit, &Hosts::new(answers.len()))
        }

        fn lag(&self, at: usize) -> Option<u64> {
            self.watch.hosts()[at].lag.map(|lag| u64::try_from(lag.as_millis()).unwrap())
        }
    }

    #[test]
    fn on_an_idle_primary_nobody_is_behind() {
        let mut stand = Stand::new(2, SessionAttrs::Any);
        for _ in 0..5 {
            stand.round(&[Some(primary(1, 100)), Some(standby(100, Some(3_600_000)))]);
            assert_eq!(stand.lag(1), Some(0));
        }
        // One that was cut off before a write is: by the time since it had all that there was.
        stand.round(&[Some(primary(1, 200)), Some(standby(100, Some(3_600_000)))]);
        assert_eq!(stand.lag(1), Some(2001));
        for seconds in 2..9 {
            stand.round(&[Some(primary(1, 200)), Some(standby(100, Some(3_600_000)))]);
            assert_eq!(stand.lag(1), Some(seconds * 2000 + 1));
        }
        stand.round(&[Some(primary(1, 200)), Some(standby(200, Some(0)))]);
        assert_eq!(stand.lag(1), Some(0));
        assert_eq!(stand.lag(0), None);
    }

    #[test]
    fn on_a_busy_one_the_last_commit_is_more_exact() {
        let mut stand = Stand::new(2, SessionAttrs::Any);
        stand.round(&[Some(primary(1, 100)), Some(standby(90, Some(7)))]);
        assert_eq!(stand.lag(1), Some(7));
        stand.round(&[Some(primary(1, 200)), Some(standby(190, Some(8)))]);
        assert_eq!(stand.lag(1), Some(8));
        stand.round(&[Some(primary(1, 300)), Some(standby(290, None))]);
        assert_eq!(stand.lag(1), Some(2001));
        stand.round(&[Some(primary(1, 400)), Some(standby(1, None))]);
        assert_eq!(stand.lag(1), None, "further than anything that is known");
    }

    #[test]
    fn without_the_primary_its_last_position_counts() {
        let mut stand = Stand::new(3, SessionAttrs::Any);
        stand.round(&[Some(primary(1, 100)), Some(standby(100, None)), Some(standby(50, None))]);
        for _ in 0..5 {
            stand.round(&[None, Some(standby(100, None)), Some(standby(50, None))]);
            assert_eq!((stand.lag(1), stand.lag(2)), (Some(0), None));
        }
        // Where there never was one, the standby's word.
        let mut stand = Stand::new(1, SessionAttrs::Any);
        stand.round(&[Some(standby(5, Some(70)))]);
        assert_eq!(stand.lag(0), Some(70));
        stand.round(&[Some(Said { caught_up: true, ..standby(5, Some(70)) })]);
        assert_eq!(stand.lag(0), Some(0));
        stand.round(&[Some(standby(5, None))]);
        assert_eq!(stand.lag(0), None);
    }

    #[test]
    fn a_standby_too_far_behind_is_not_used() {
        let mut stand = Stand::new(3, SessionAttrs::PreferStandby);
        stand.limit = ms(100);
        let (p, near, far) = (Some(primary(1, 9)), Some(standby(9, None)), Some(standby(8, Some(101))));
        stand.round(&[p, near, far]);
        assert_eq!(stand.watch.verdict(), Verdict { lagging: 0b100, unfit: 0b101, ..Verdict::default() });
        stand.round(&[p, far, far]);
        assert_eq!(stand.watch.verdict(), Verdict { lagging: 0b110, unfit: 0b110, ..Verdict::default() });
        // How far a host is that doesn't answer nobody knows; its connections may be fine for all that.
        stand.round(&[p, near, None]);
        assert_eq!(stand.watch.verdict(), Verdict { lagging: 0b100, unfit: 0b001, ..Verdict::default() });
        assert_eq!(Watch::new(3, true).verdict().lagging, 0b111, "before anybody was asked");
        stand.watch.pause(true);
        assert_eq!((stand.watch.verdict().lagging, stand.watch.has_begun()), (0b111, false));
        assert!(!has(0, 0) && has(1 << 31, 31) && !has(u32::MAX, 32));
    }

    #[test]
    fn connections_to_a_host_of_another_role_go() {
        for (attrs, unfit) in [
            (SessionAttrs::Any, 0),
            (SessionAttrs::Primary, 0b10),
            (SessionAttrs::ReadWrite, 0b10),
            (SessionAttrs::Standby, 0b01),
            (SessionAttrs::ReadOnly, 0b01),
            (SessionAttrs::PreferStandby, 0b01),
        ] {
            let mut stand = Stand::new(2, attrs);
            stand.round(&[Some(primary(1, 1)), Some(standby(1, None))]);
            assert_eq!(stand.watch.verdict().unfit, unfit, "{attrs:?}");
        }
        let mut stand = Stand::new(2, SessionAttrs::PreferStandby);
        stand.round(&[Some(primary(1, 1)), None]);
        assert_eq!(stand.watch.verdict().unfit, 0, "no standby is there");
    }

    #[test]
    fn idle_connections_to_a_dead_host_go_where_another_serves() {
        let mut stand = Stand::new(2, SessionAttrs::Any);
        stand.round(&[None, Some(standby(1, None))]);
        assert_eq!(stand.watch.verdict().dead, 0, "once may be chance");
        stand.round(&[None, Some(standby(1, None))]);
        assert_eq!(stand.watch.verdict().dead, 0b01);
        stand.round(&[None, None]);
        assert_eq!(stand.watch.verdict().dead, 0);
    }

    #[test]
    fn the_primary_that_was_promoted_last_counts() {
        let mut stand = Stand::new(2, SessionAttrs::Primary);
        assert_eq!(stand.round(&[Some(primary(1, 9)), Some(standby(9, None))]), []);
        assert_eq!(stand.round(&[Some(primary(1, 9)), Some(primary(2, 5))]), [Split::Torn(1, vec![0])]);
        assert_eq!(stand.watch.verdict(), Verdict { deposed: 0b01, unfit: 0b01, ..Verdict::default() });
        assert_eq!(stand.round(&[Some(primary(1, 9)), Some(primary(2, 5))]), [], "told once");
        // Should it go away the old one isn't the primary again.
        assert_eq!(stand.round(&[Some(primary(1, 9)), None]), []);
        assert_eq!((stand.watch.verdict().deposed, stand.watch.verdict().unfit), (0b01, 0b01));
        assert_eq!(stand.round(&[Some(standby(9, None)), Some(primary(2, 5))]), [Split::Healed]);
        assert_eq!(stand.round(&[Some(primary(3, 9)), None]), [], "a promotion");
        assert_eq!(stand.watch.primary(), Some(0));
        // A restart of Carpool, or an operator who knows better, may forget.
        assert_eq!(stand.round(&[Some(primary(1, 9)), None]), [Split::Stale(vec![0])]);
        stand.watch.forget();
        assert_eq!(stand.round(&[Some(primary(1, 9)), None]), [Split::Healed]);
    }

    #[test]
    fn of_equals_the_one_that_was_used() {
        let mut stand = Stand::new(2, SessionAttrs::ReadWrite);
        stand.round(&[None, Some(primary(1, 5))]);
        assert_eq!(stand.round(&[Some(primary(1, 9)), Some(primary(1, 5))]), [Split::Torn(1, vec![0])]);
        let mut stand = Stand::new(2, SessionAttrs::ReadWrite);
        assert_eq!(stand.round(&[Some(primary(1, 5)), Some(primary(1, 5))]), [Split::Torn(0, vec![1])]);
        // Where any host will do nobody's connections go.
        let mut stand = Stand::new(2, SessionAttrs::Any);
        stand.round(&[Some(primary(1, 5)), Some(primary(1, 5))]);
        assert_eq!(stand.watch.verdict().unfit, 0);
    }

    #[test]
    fn it_depends_on_what_is_wanted_whether_a_deposed_one_goes() {
        for (attrs, deposed) in [
            (SessionAttrs::Any, 0),
            (SessionAttrs::Standby, 0),
            (SessionAttrs::ReadOnly, 0),
            (SessionAttrs::Primary, 0b01),
            (SessionAttrs::ReadWrite, 0b01),
            (SessionAttrs::PreferStandby, 0b01),
        ] {
            let mut stand = Stand::new(2, attrs);
            let news = stand.round(&[Some(primary(1, 5)), Some(primary(2, 5))]);
            assert_eq!(news.is_empty(), deposed == 0, "{attrs:?}: {news:?}");
            assert_eq!(stand.watch.verdict().deposed, deposed, "{attrs:?}");
            // Who wants no primary has no connection to keep to either.
            let unfit = if attrs.is_for_standbys() && attrs != SessionAttrs::PreferStandby { 0b11 } else { deposed };
            assert_eq!(stand.watch.verdict().unfit, unfit, "{attrs:?}");
        }
    }

    #[test]
    fn another_cluster_is_not_the_primary() {
        let other = Some(Said { system: Some(8), ..primary(9, 9) });
        let mut stand = Stand::new(3, SessionAttrs::Primary);
        stand.round(&[None, Some(primary(1, 5)), None]);
        assert_eq!(stand.round(&[other, Some(primary(1, 5)), None]), [Split::Torn(1, vec![0])]);
        // Nor when the primary is gone, as long as a standby of it is there.
        stand.round(&[other, None, Some(standby(5, None))]);
        assert_eq!(stand.watch.verdict().deposed, 0b001);
        // When all belong to another, it is the one now, whatever its timeline.
        let other = Some(Said { system: Some(8), ..primary(1, 9) });
        let others_standby = Some(Said { system: Some(8), ..standby(9, None) });
        assert_eq!(stand.round(&[other, others_standby, others_standby]), [Split::Healed]);
        assert_eq!((stand.watch.primary(), stand.watch.verdict().unfit), (Some(0), 0b110));
    }

    #[test]
    fn a_promotion_is_seen_without_the_server_telling() {
        // PostgreSQL before 14 reports no role; nor does this one say which timeline it is on.
        let silent = |said: Said| Some(Said { position: None, timeline: None, system: None, ..said });
        let mut stand = Stand::new(2, SessionAttrs::Primary);
        stand.round(&[silent(primary(1, 1)), silent(standby(1, None))]);
        assert_eq!(stand.watch.verdict().unfit, 0b10);
        stand.round(&[silent(standby(1, None)), silent(primary(1, 1))]);
        assert_eq!((stand.watch.verdict().unfit, stand.watch.primary()), (0b01, Some(1)));
        let mut stand = Stand::new(1, SessionAttrs::Standby);
        stand.round(&[silent(standby(1, None))]);
        assert_eq!(stand.watch.verdict().unfit, 0);
        stand.round(&[silent(primary(1, 1))]);
        assert_eq!(stand.watch.verdict().unfit, 0b1);
    }

    /// A standby that has reached `timeline` by its control file, and says what it is sent if it may.
    fn on(timeline: u32, upstream: Option<u32>, position: u64) -> Option<Said> {
        Some(Said { timeline: Some(timeline), upstream, ..standby(position, None) })
    }

    fn astray(stand: &Stand) -> Set {
        stand.watch.verdict().astray
    }

    #[test]
    fn a_standby_of_the_old_primary_is_not_used() {
        for attrs in [SessionAttrs::PreferStandby, SessionAttrs::Standby, SessionAttrs::ReadOnly] {
            let mut stand = Stand::new(3, attrs);
            let old = Some(primary(1, 9));
            assert_eq!(stand.round(&[old, on(1, Some(1), 9), on(1, Some(1), 9)]), []);
            // The first standby is promoted. What the other is sent isn't told, then it is.
            let news = stand.round(&[old, Some(primary(2, 9)), on(1, None, 9)]);
            assert!(news.contains(&Split::Astray(vec![2])), "{news:?}");
            assert_eq!((astray(&stand), stand.lag(2)), (0b100, None));
            assert!(has(stand.watch.verdict().unfit, 2), "its connections go");
            stand.round(&[old, Some(primary(2, 9)), on(1, Some(1), 9)]);
            assert_eq!(astray(&stand), 0b100);
            // Though nobody says any more that it is the primary, and though it doesn't answer itself.
            for answer in [on(1, Some(1), 9), None, on(1, None, 9)] {
                stand.round(&[None, Some(primary(2, 9)), answer]);
                assert_eq!(astray(&stand), 0b100, "{answer:?}");
            }
            stand.round(&[None, None, on(1, None, 9)]);
            assert_eq!(astray(&stand), 0b100);
            let news = stand.round(&[None, Some(primary(2, 9)), on(2, None, 9)]);
            assert_eq!((news, astray(&stand)), (vec![Split::Back(vec![2])], 0));
        }
        for attrs in [SessionAttrs::Any, SessionAttrs::Primary, SessionAttrs::ReadWrite] {
            let mut stand = Stand::new(2, attrs);
            stand.round(&[Some(primary(2, 9)), on(1, Some(1), 9)]);
            assert_eq!(astray(&stand), 0, "{attrs:?} doesn't ask for a standby's data");
        }
    }

    #[test]
    fn a_failover_without_a_split_leaves_standbys_in_use() {
        let mut stand = Stand::new(3, SessionAttrs::PreferStandby);
        stand.round(&[Some(primary(1, 9)), on(1, None, 9), on(1, None, 9)]);
        for _ in 0..3 {
            // A control file may tell of a new timeline minutes later.
            assert_eq!(stand.round(&[None, Some(primary(2, 9)), on(1, None, 9)]), []);
            assert_eq!(astray(&stand), 0);
        }
        // The old one is back as a standby, not yet of the new one, and then it is.
        stand.round(&[on(1, Some(1), 9), Some(primary(2, 9)), on(1, Some(2), 9)]);
        assert_eq!(astray(&stand), 0b001);
        stand.round(&[on(1, Some(2), 9), Some(primary(2, 9)), on(1, Some(2), 9)]);
        assert_eq!(astray(&stand), 0);
        // Where no primary is in the list another standby has the timeline.
        let mut stand = Stand::new(2, SessionAttrs::Standby);
        stand.round(&[on(1, Some(1), 9), on(1, Some(2), 9)]);
        assert_eq!(astray(&stand), 0b01);
        // An operator who knows better.
        stand.round(&[on(1, None, 9), None]);
        assert_eq!(astray(&stand), 0b01);
        stand.watch.forget();
        stand.round(&[on(1, None, 9), None]);
        assert_eq!(astray(&stand), 0);
    }

    #[test]
    fn positions_tell_whom_a_standby_follows() {
        let mut stand = Stand::new(3, SessionAttrs::Standby);
        // In one round it may have been asked later than its primary.
        stand.round(&[Some(primary(1, 9)), on(1, None, 11), None]);
        assert_eq!(astray(&stand), 0);
        stand.round(&[Some(primary(1, 11)), on(1, None, 12), None]);
        assert_eq!(astray(&stand), 0);
        stand.round(&[Some(primary(1, 11)), on(1, None, 12), None]);
        assert_eq!(astray(&stand), 0b010, "it has what its primary hasn't written");
        // It is made anew.
        stand.round(&[Some(primary(1, 11)), on(1, None, 10), None]);
        assert_eq!(astray(&stand), 0);
        // Two primaries: what one of them hasn't written is the other's.
        stand.round(&[Some(primary(1, 20)), on(1, None, 20), Some(primary(2, 30))]);
        assert_eq!(astray(&stand), 0b010);
        stand.round(&[Some(primary(1, 20)), on(1, None, 30), Some(primary(2, 30))]);
        assert_eq!(astray(&stand), 0b010);
        stand.round(&[Some(primary(1, 20)), on(1, None, 30), Some(primary(2, 30))]);
        assert_eq!(astray(&stand), 0);
    }

    #[test]
    fn a_standby_of_another_cluster_is_not_used() {
        let mut stand = Stand::new(3, SessionAttrs::PreferStandby);
        let other = |said: Said| Some(Said { system: Some(8), ..said });
        let own = [Some(primary(1, 9)), Some(standby(9, None))];
        stand.round(&[own[0], own[1], other(standby(9, None))]);
        assert_eq!(astray(&stand), 0b100);
        // All of another: that is the one now.
        stand.round(&[other(primary(1, 9)), other(standby(9, None)), other(standby(9, None))]);
        assert_eq!(astray(&stand), 0);
    }

    /// One primary that was promoted (host 1) and one that goes on (host 0), each writing; a standby (host 2) of one of them.
    #[derive(Clone, Copy, Debug)]
    struct Step {
        written: (u64, u64),
        /// How much of what it could have replayed it hasn't.
        behind: u64,
        old_answers: bool,
        is_told: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        let numbers = (0..3_u64, 0..3_u64, 0..3_u64);
        (numbers, any::<bool>(), any::<bool>()).prop_map(|((old, new, behind), old_answers, is_told)| Step {
            written: (old, new),
            behind,
            old_answers,
            is_told,
        })
    }

    proptest! {
        #[test]
        fn whom_a_standby_follows(
            follows_old in any::<bool>(),
            steps in proptest::collection::vec(step(), 1..30),
            told_late in 0..30_usize,
        ) {
            let mut stand = Stand::new(3, SessionAttrs::Standby);
            let (mut old, mut new, mut own) = (100, 100, 100);
            let (mut must, mut was_split) = (false, false);
            for (n, step) in steps.into_iter().enumerate() {
                old += step.written.0;
                new += step.written.1;
                let (leader, timeline) = if follows_old { (old, 1) } else { (new, 2) };
                own = own.max(leader - step.behind.min(leader - own));
                let control = if n >= told_late { timeline } else { 1 };
                let upstream = step.is_told.then_some(timeline);
                let former = step.old_answers.then(|| primary(1, old));
                was_split |= step.old_answers;
                stand.round(&[former, Some(primary(2, new)), on(control, upstream, own)]);
                must |= follows_old && (step.old_answers || step.is_told);
                let is = has(astray(&stand), 2);
                prop_assert!(is || !must, "it follows the old one");
                let may = follows_old || (was_split && control == 1 && upstream.is_none());
                prop_assert!(!is || may, "it follows the new one");
                prop_assert_eq!(stand.watch.primary(), Some(1));
            }
        }
    }
}
