//! Members, their servers and PostgreSQL as a model: whatever is cut off, frozen or killed, and in whatever order things happen, PostgreSQL
//! never has more sessions of theirs than the size.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::ledger::{Backend, Claim, Ledger, MemberId, TURN, divide};
use super::member::{BEAT, DEAD, LEASE, Local, Member, Round, Seen, Step};

const SIZE: u32 = 5;
const LOGIN_LIMIT: Duration = Duration::from_secs(60);

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Told,
    /// It is done, but the answer is lost.
    Untold,
    /// It never arrives.
    Lost,
    /// It arrives after whatever comes next.
    Late,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Want(usize, u32),
    Read(usize),
    Write(usize, Outcome),
    /// The answer to its last write arrives.
    Hear(usize),
    /// A late write arrives.
    Arrive,
    /// A login begins; PostgreSQL may let it in without asking for anything.
    BeginLogin(usize, bool),
    /// The oldest login gets on: PostgreSQL lets it in, then the member has it.
    GoOnLogin(usize),
    FailLogin(usize),
    /// A server begins to close; its slot comes free when PostgreSQL has hung up, or by `GiveUp`.
    Close(usize),
    GiveUp(usize),
    Freeze(usize),
    Thaw(usize),
    Cut(usize),
    Heal(usize),
    /// The process is gone, and another takes its place.
    Kill(usize),
    /// Somebody else's session begins or ends.
    Stranger(bool),
    Pass(u64),
    /// So many rounds of all.
    Rounds(u32),
}

/// A session, or what may become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Session {
    backend: Backend,
    owner: usize,
    /// It is let in.
    is_in: bool,
}

#[derive(Debug)]
struct Process {
    member: Option<Member>,
    size: u32,
    limit: u32,
    need: u32,
    want: u32,
    logins: Vec<u32>,
    servers: Vec<u32>,
    closing: Vec<u32>,
    unsure: u32,
    frozen: bool,
    cut: bool,
    seen: Option<(Seen, Instant)>,
    /// A write whose answer isn't there yet: what it was, when it was sent, and the answer.
    sent: Option<(Step, Instant, bool)>,
    /// A slot has come free since the last look.
    freed: bool,
    link: Backend,
}

impl Process {
    fn slots(&self) -> u32 {
        u32::try_from(self.logins.len() + self.servers.len() + self.closing.len()).unwrap()
    }

    fn local(&self) -> Local {
        Local {
            slots: self.slots(),
            logins: u32::try_from(self.logins.len()).unwrap(),
            need: self.need,
            want: self.want.max(self.need),
            servers: self.servers.clone(),
            unsure: self.unsure,
        }
    }
}

struct World {
    begin: Instant,
    /// Microseconds.
    clock: u64,
    version: u64,
    ledger: Ledger,
    sessions: Vec<Session>,
    late: Vec<(u64, Ledger)>,
    processes: Vec<Process>,
    next: u32,
    next_member: u64,
    /// `pg_terminate_backend()` is allowed.
    may_end: bool,
}

const STRANGER: usize = usize::MAX;

impl World {
    fn new(processes: usize) -> Self {
        let mut world = Self {
            begin: Instant::now(),
            clock: 1_000_000_000_000,
            version: 1,
            ledger: Ledger::default(),
            sessions: Vec::new(),
            late: Vec::new(),
            processes: Vec::new(),
            next: 1,
            next_member: 1,
            may_end: true,
        };
        for _ in 0..processes {
            let process = world.process();
            world.processes.push(process);
        }
        world
    }

    fn process(&mut self) -> Process {
        let (need, want) = (0, 0);
        let link = self.backend();
        Process {
            member: None,
            size: SIZE,
            limit: 0,
            need,
            want,
            logins: Vec::new(),
            servers: Vec::new(),
            closing: Vec::new(),
            unsure: 0,
            frozen: false,
            cut: false,
            seen: None,
            sent: None,
            freed: false,
            link,
        }
    }

    fn backend(&mut self) -> Backend {
        self.next += 1;
        Backend(self.next, i64::try_from(self.clock).unwrap())
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_micros(self.clock)
    }

    /// Sessions that PostgreSQL has, of the members'.
    fn count(&self) -> u32 {
        u32::try_from(self.sessions.iter().filter(|s| s.is_in && s.owner != STRANGER).count()).unwrap()
    }

    fn apply(&mut self, version: u64, ledger: &Ledger) -> bool {
        let done = self.version == version;
        if done {
            self.version += 1;
            self.ledger = ledger.clone();
        }
        done
    }

    fn read(&mut self, at: usize) {
        if self.processes[at].frozen || self.processes[at].cut {
            return;
        }
        let backends: Vec<Backend> = self.sessions.iter().filter(|s| s.is_in).map(|s| s.backend).collect();
        let seen = Seen {
            version: self.version,
            ledger: self.ledger.clone(),
            now: i64::try_from(self.clock).unwrap(),
            login_limit: LOGIN_LIMIT,
            link: self.processes[at].link,
            backends,
        };
        self.processes[at].seen = Some((seen, self.now()));
    }

    fn write(&mut self, at: usize, outcome: Outcome) {
        let process = &mut self.processes[at];
        let Some((seen, asked)) = process.seen.take().filter(|_| !process.frozen) else { return };
        if let (Some(_), Some(member)) = (process.sent.take(), process.member.as_mut()) {
            member.doubt();
        }
        process.freed = false;
        if process.member.is_none() {
            if process.slots() > 0 {
                return;
            }
            self.next_member += 1;
            process.member = Some(Member::new(MemberId(self.next_member), format!("{at}")));
        }
        process.limit = process.limit.min(process.slots());
        let local = process.local();
        let Some(member) = process.member.as_mut() else { return };
        let round = member.look(&seen, &local, process.size, asked);
        process.unsure = 0;
        match round {
            Round::Lost(end) => {
                process.member = None;
                process.sent = None;
                process.limit = 0;
                self.end(&end);
            }
            Round::Step(step) => self.step(at, &step, seen.version, outcome),
        }
    }

    fn step(&mut self, at: usize, step: &Step, version: u64, outcome: Outcome) {
        let sent = self.now();
        if !self.processes[at].cut {
            self.end(&step.end);
        }
        let process = &mut self.processes[at];
        let Some(ledger) = &step.write else {
            process.limit = step.after;
            return;
        };
        let arrives = !process.cut && matches!(outcome, Outcome::Told | Outcome::Untold);
        let done = arrives && self.apply(version, ledger);
        if !self.processes[at].cut && outcome == Outcome::Late {
            self.late.push((version, ledger.clone()));
        }
        let process = &mut self.processes[at];
        let Some(member) = process.member.as_mut() else { return };
        match outcome {
            Outcome::Told if !process.cut => process.sent = Some((step.clone(), sent, done)),
            _ => member.doubt(),
        }
    }

    fn hear(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let heard = if process.frozen || process.cut { None } else { process.sent.take() };
        // Else somebody else was first.
        if let (Some((step, sent, true)), Some(member)) = (heard, process.member.as_mut()) {
            member.confirmed(sent);
            process.limit = if process.freed { step.after.min(process.slots()) } else { step.after };
        }
    }

    fn come_free(&mut self, at: usize) {
        let process = &mut self.processes[at];
        process.freed = true;
        process.limit = process.limit.min(process.slots());
    }

    /// `pg_terminate_backend()`.
    fn end(&mut self, end: &[Backend]) {
        assert!(end.iter().all(|backend| !self.sessions.iter().any(|s| s.owner == STRANGER && s.backend == *backend)));
        if self.may_end {
            self.sessions.retain(|session| !end.contains(&session.backend));
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Want(at, need) => {
                let process = &mut self.processes[at];
                // What it has in use it needs as well.
                process.need = need.max(u32::try_from(process.servers.len()).unwrap().min(need + 1));
                process.want = need.max(process.want.saturating_sub(1));
            }
            Act::Read(at) => self.read(at),
            Act::Write(at, outcome) => self.write(at, outcome),
            Act::Hear(at) => self.hear(at),
            Act::Arrive => {
                if let Some((version, ledger)) = self.late.pop() {
                    self.apply(version, &ledger);
                }
            }
            Act::BeginLogin(at, trusts) => self.begin_login(at, trusts),
            Act::GoOnLogin(at) => self.go_on(at),
            Act::FailLogin(at) => {
                if !self.processes[at].frozen && !self.processes[at].logins.is_empty() {
                    self.abort(at);
                }
            }
            Act::Close(at) => {
                let process = &mut self.processes[at];
                if !process.frozen && !process.servers.is_empty() {
                    let pid = process.servers.remove(0);
                    process.closing.push(pid);
                }
            }
            Act::GiveUp(at) => {
                let process = &mut self.processes[at];
                if !process.frozen {
                    process.unsure += u32::try_from(process.closing.len()).unwrap();
                    process.closing.clear();
                    self.come_free(at);
                }
            }
            Act::Freeze(at) => self.processes[at].frozen = true,
            Act::Thaw(at) => self.processes[at].frozen = false,
            Act::Cut(at) => self.processes[at].cut = true,
            Act::Heal(at) => self.processes[at].cut = false,
            Act::Kill(at) => self.kill(at),
            Act::Stranger(comes) => {
                if comes {
                    let backend = self.backend();
                    self.sessions.push(Session { backend, owner: STRANGER, is_in: true });
                } else {
                    self.sessions.retain(|session| session.owner != STRANGER);
                }
            }
            Act::Pass(millis) => self.clock += millis * 1000,
            Act::Rounds(count) => (0..count).for_each(|_| self.go_round()),
        }
        self.settle();
    }

    fn begin_login(&mut self, at: usize, trusts: bool) {
        let now = self.now();
        let process = &self.processes[at];
        let may = process.member.as_ref().and_then(Member::lease).is_some_and(|lease| now < lease);
        if process.frozen || !may || process.slots() >= process.limit {
            return;
        }
        let (backend, cut) = (self.backend(), self.processes[at].cut);
        if !cut {
            self.sessions.push(Session { backend, owner: at, is_in: trusts });
        }
        self.processes[at].logins.push(backend.0);
    }

    fn go_on(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if process.frozen || process.cut || process.logins.is_empty() {
            return;
        }
        let pid = process.logins[0];
        match self.sessions.iter_mut().find(|session| session.backend.0 == pid) {
            Some(session) if session.is_in => {
                process.logins.remove(0);
                // One that a member has begun which isn't there any more is closed at once.
                match process.member {
                    Some(_) => process.servers.push(pid),
                    None => process.closing.push(pid),
                }
            }
            Some(session) => session.is_in = true,
            None => self.abort(at),
        }
    }

    /// The oldest login fails, without the server having said so.
    fn abort(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let pid = process.logins.remove(0);
        process.unsure += 1;
        if !process.cut {
            self.sessions.retain(|session| session.backend.0 != pid);
        }
    }

    fn kill(&mut self, at: usize) {
        let (old, new) = (self.processes[at].cut, self.process());
        let old_process = std::mem::replace(&mut self.processes[at], new);
        if !old {
            let pids: BTreeSet<u32> =
                old_process.logins.into_iter().chain(old_process.servers).chain(old_process.closing).collect();
            self.sessions.retain(|session| !pids.contains(&session.backend.0));
        }
    }

    /// What happens by itself.
    fn settle(&mut self) {
        let (now, clock) = (self.now(), i64::try_from(self.clock).unwrap());
        // PostgreSQL gives up logins that take too long.
        let limit = i64::try_from(LOGIN_LIMIT.as_micros()).unwrap();
        self.sessions.retain(|session| session.is_in || clock - session.backend.1 < limit);
        for at in 0..self.processes.len() {
            if self.processes[at].frozen {
                continue;
            }
            let lapsed = self.processes[at].member.as_ref().and_then(Member::lease).is_none_or(|lease| now >= lease);
            while lapsed && !self.processes[at].logins.is_empty() {
                self.abort(at);
            }
            let process = &mut self.processes[at];
            if process.member.is_none() {
                let given_up = std::mem::take(&mut process.servers);
                process.closing.extend(given_up);
            }
            if !process.cut {
                // Closed on either side.
                let gone = std::mem::take(&mut process.closing);
                self.sessions.retain(|session| !gone.contains(&session.backend.0));
                let (sessions, before) = (&self.sessions, process.servers.len());
                process.servers.retain(|pid| sessions.iter().any(|session| session.backend.0 == *pid));
                if !gone.is_empty() || process.servers.len() < before {
                    self.come_free(at);
                }
            }
        }
    }

    /// PostgreSQL notices that nobody is at the other end of sessions.
    fn end_unknown(&mut self) {
        let known: BTreeSet<u32> =
            self.processes.iter().flat_map(|process| process.servers.iter().chain(&process.logins)).copied().collect();
        let is_noted = |backend| self.ledger.members.iter().any(|entry| entry.servers.contains(&backend));
        self.sessions.retain(|session| known.contains(&session.backend.0) || is_noted(session.backend));
    }

    /// A round of each, with logins and closings as pools do them.
    fn go_round(&mut self) {
        for at in 0..self.processes.len() {
            for act in [Act::Read(at), Act::Write(at, Outcome::Told), Act::Hear(at)] {
                self.act(act);
            }
            for _ in 0..2 * self.processes[at].logins.len() {
                self.act(Act::GoOnLogin(at));
            }
            let over = self.processes[at].slots().saturating_sub(self.processes[at].limit);
            (0..over).for_each(|_| self.act(Act::Close(at)));
            while self.processes[at].slots() < self.processes[at].limit.min(self.processes[at].need) {
                let before = self.processes[at].slots();
                self.act(Act::BeginLogin(at, false));
                self.act(Act::GoOnLogin(at));
                self.act(Act::GoOnLogin(at));
                if self.processes[at].slots() == before {
                    break;
                }
            }
            assert!(self.count() <= SIZE);
        }
        self.act(Act::Pass(250));
    }
}

fn acts(processes: usize) -> impl Strategy<Value = Vec<Act>> {
    let at = 0..processes;
    let outcome = prop_oneof![
        8 => Just(Outcome::Told),
        1 => Just(Outcome::Untold),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::Late),
    ];
    let pass = prop_oneof![3 => 1_u64..1000, 1 => 1000_u64..20_000, 1 => Just(61_000_u64)];
    let one = prop_oneof![
        4 => (at.clone(), prop_oneof![1 => 0_u32..4, 2 => 4_u32..7]).prop_map(|(at, need)| Act::Want(at, need)),
        3 => (1_u32..12).prop_map(Act::Rounds),
        8 => at.clone().prop_map(Act::Read),
        8 => (at.clone(), outcome).prop_map(|(at, outcome)| Act::Write(at, outcome)),
        6 => at.clone().prop_map(Act::Hear),
        1 => Just(Act::Arrive),
        6 => (at.clone(), any::<bool>()).prop_map(|(at, trusts)| Act::BeginLogin(at, trusts)),
        8 => at.clone().prop_map(Act::GoOnLogin),
        1 => at.clone().prop_map(Act::FailLogin),
        2 => at.clone().prop_map(Act::Close),
        1 => at.clone().prop_map(Act::GiveUp),
        1 => at.clone().prop_map(Act::Freeze),
        2 => at.clone().prop_map(Act::Thaw),
        1 => at.clone().prop_map(Act::Cut),
        2 => at.clone().prop_map(Act::Heal),
        1 => at.prop_map(Act::Kill),
        1 => any::<bool>().prop_map(Act::Stranger),
        4 => pass.prop_map(Act::Pass),
    ];
    // A member reads and writes in one go mostly, else too little comes about.
    let round = (0..processes).prop_map(|at| vec![Act::Read(at), Act::Write(at, Outcome::Told), Act::Hear(at)]);
    let login = (0..processes).prop_map(|at| vec![Act::BeginLogin(at, false), Act::GoOnLogin(at), Act::GoOnLogin(at)]);
    let some = prop_oneof![3 => one.prop_map(|act| vec![act]), 1 => round, 1 => login];
    prop::collection::vec(some, 1..120).prop_map(|acts| acts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn there_are_never_more_than_the_size(acts in acts(3)) {
        let mut world = World::new(3);
        for act in acts {
            world.act(act);
            prop_assert!(world.count() <= SIZE, "{} sessions after {act:?}: {:?}\n{:?}", world.count(), world.ledger, world.sessions);
        }
    }

    #[test]
    fn parts_are_what_is_wanted(
        size in 0_u32..30,
        claims in prop::collection::vec((0_u32..12, 0_u32..12, 0_u64..3000), 1..8),
    ) {
        let claims: Vec<Claim> = claims
            .into_iter()
            .map(|(want, held, without)| Claim { want, held, without: Duration::from_millis(if held == 0 { without } else { 0 }) })
            .collect();
        let parts = divide(size, &claims);
        let sum: u32 = parts.iter().sum();
        let (wanted, held): (u32, u32) = claims.iter().fold((0, 0), |sum, claim| (sum.0 + claim.want, sum.1 + claim.held));
        prop_assert!(sum <= size);
        prop_assert!(sum >= size.min(wanted) && sum <= wanted.max(held).max(sum.min(wanted + held)));
        for (part, claim) in parts.iter().zip(&claims) {
            // Nobody has two less than somebody else who has no more than it wants, and lacks something.
            let others = parts.iter().zip(&claims).filter(|(part, claim)| **part <= claim.want);
            let most = others.map(|(part, _)| *part).max().unwrap_or(0);
            prop_assert!(*part >= claim.want || *part + 1 >= most, "{parts:?} of {claims:?}");
        }
    }
}

proptest! {
    // Each takes hundreds of rounds.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_is_given_out_in_the_end(acts in acts(3), wants in prop::collection::vec(0_u32..7, 3)) {
        let mut world = World::new(3);
        for act in acts {
            world.act(act);
        }
        world.act(Act::Stranger(false));
        for (at, want) in wants.iter().enumerate() {
            world.act(Act::Thaw(at));
            world.act(Act::Heal(at));
            world.processes[at].want = *want;
            world.processes[at].need = *want;
        }
        // Whatever was cut off or killed is over after a while; sessions of which nobody knows only PostgreSQL's keepalive ends.
        for _ in 0..300 {
            world.go_round();
        }
        world.end_unknown();
        for _ in 0..300 {
            world.go_round();
        }
        let all = wants.iter().sum::<u32>().min(SIZE);
        let mut served = [true; 3];
        for _ in 0..40 {
            world.go_round();
            for (at, served) in served.iter_mut().enumerate() {
                *served &= !world.processes[at].servers.is_empty() || wants[at] == 0;
            }
        }
        prop_assert!(world.count() >= all, "{} of {all}: {:?}\n{:?}", world.count(), world.ledger, world.processes);
        prop_assert!(served.iter().all(|served| *served), "{:?}", world.ledger);
    }
}

impl World {
    /// Members that know each other, of which the first has so many servers, all written down, and no more grants.
    fn with_servers(servers: u32) -> Self {
        let mut world = Self::new(3);
        world.act(Act::Want(0, servers));
        world.act(Act::Rounds(3));
        assert_eq!(world.processes[0].servers.len(), servers as usize);
        assert_eq!(world.ledger.held(), servers);
        world
    }

    fn run(&mut self, acts: &[Act]) {
        acts.iter().for_each(|act| self.act(*act));
    }

    fn needs(&mut self, at: usize, need: u32) {
        (self.processes[at].need, self.processes[at].want) = (need, need);
    }

    /// As many logins as the member may begin.
    fn log_in(&mut self, at: usize) {
        for _ in 0..=SIZE {
            self.run(&[Act::BeginLogin(at, true), Act::GoOnLogin(at)]);
        }
        assert!(self.count() <= SIZE, "{} sessions", self.count());
    }
}

#[test]
fn of_two_who_write_at_the_same_time_one_has_nothing() {
    let mut world = World::with_servers(0);
    world.needs(0, SIZE);
    world.needs(1, SIZE);
    world.run(&[Act::Read(0), Act::Read(1), Act::Write(0, Outcome::Told), Act::Write(1, Outcome::Told)]);
    world.run(&[Act::Hear(0), Act::Hear(1)]);
    world.log_in(0);
    world.log_in(1);
    assert_eq!((world.processes[0].servers.len(), world.processes[1].servers.len()), (SIZE as usize, 0));
}

#[test]
fn what_a_late_write_may_take_away_is_not_used() {
    let mut world = World::with_servers(0);
    world.needs(0, SIZE);
    world.run(&[Act::Read(0), Act::Write(0, Outcome::Told), Act::Hear(0)]);
    // It needs nothing of it any more, and the word of that is on its way; then it does.
    world.processes[0].need = 0;
    world.run(&[Act::Read(0), Act::Write(0, Outcome::Late)]);
    world.needs(0, SIZE);
    world.run(&[Act::Read(0), Act::Write(0, Outcome::Lost), Act::Arrive]);
    world.needs(1, SIZE);
    world.run(&[Act::Read(1), Act::Write(1, Outcome::Told), Act::Hear(1)]);
    world.log_in(1);
    world.log_in(0);
}

#[test]
fn servers_that_were_given_up_count_until_they_are_gone() {
    let mut world = World::with_servers(SIZE);
    world.run(&[Act::Cut(0)]);
    (0..SIZE).for_each(|_| world.act(Act::Close(0)));
    world.run(&[Act::GiveUp(0), Act::Heal(0)]);
    world.needs(0, 0);
    world.needs(1, SIZE);
    world.run(&[Act::Rounds(3)]);
    assert!(world.processes[1].servers.is_empty(), "they are there yet");
    world.run(&[Act::Rounds(40)]);
    assert_eq!(world.processes[1].servers.len(), SIZE as usize, "they were ended");
}

#[test]
fn what_can_not_be_ended_counts_until_it_ends() {
    let mut world = World::with_servers(SIZE);
    world.may_end = false;
    world.run(&[Act::Freeze(0)]);
    world.needs(1, SIZE);
    world.run(&[Act::Rounds(100), Act::Pass(61_000), Act::Rounds(10)]);
    assert!(world.processes[1].servers.is_empty());
    let ended = world.processes[0].servers[..2].to_vec();
    world.sessions.retain(|session| !ended.contains(&session.backend.0));
    world.run(&[Act::Rounds(3)]);
    assert_eq!(world.processes[1].servers.len(), 2);
}

#[test]
fn so_do_those_that_nobody_has_written_down() {
    let mut world = World::with_servers(0);
    world.needs(0, SIZE);
    world.run(&[Act::Read(0), Act::Write(0, Outcome::Told), Act::Hear(0)]);
    world.log_in(0);
    world.run(&[Act::Cut(0)]);
    (0..SIZE).for_each(|_| world.act(Act::Close(0)));
    world.run(&[Act::GiveUp(0), Act::Heal(0)]);
    world.needs(0, 0);
    world.needs(1, SIZE);
    world.run(&[Act::Rounds(100), Act::Pass(300_000), Act::Rounds(3)]);
    assert!(world.processes[1].servers.is_empty() && world.count() == SIZE);
    world.end_unknown();
    world.run(&[Act::Rounds(3)]);
    assert_eq!(world.processes[1].servers.len(), SIZE as usize);
}

#[test]
fn a_slot_that_came_free_may_be_written_down_as_one_that_was() {
    let mut world = World::with_servers(SIZE);
    world.run(&[Act::Close(0)]);
    let ended = world.processes[0].limit;
    assert_eq!(ended, SIZE - 1);
    world.log_in(0);
    assert_eq!(world.count(), SIZE - 1, "not before a look at the ledger");
    // Of what was written down, one is gone: there is nothing else.
    world.run(&[Act::Freeze(0)]);
    world.needs(1, SIZE);
    world.run(&[Act::Rounds(80)]);
    assert_eq!(world.processes[1].servers.len(), SIZE as usize);
}

#[test]
fn what_nobody_else_wants_stays_where_it_is() {
    let claim = |want, held| Claim { want, held, without: Duration::ZERO };
    assert_eq!(divide(6, &[claim(1, 6), claim(0, 0)]), [6, 0]);
    assert_eq!(divide(6, &[claim(1, 6), claim(3, 0)]), [3, 3]);
    assert_eq!(divide(6, &[claim(9, 6), claim(9, 0), claim(1, 0)]), [3, 2, 1]);
    assert_eq!(divide(0, &[claim(1, 0)]), [0]);
    assert_eq!(divide(5, &[]), Vec::<u32>::new());
}

#[test]
fn with_fewer_servers_than_members_each_has_its_turn() {
    let claim = |held, without| Claim { want: 3, held, without };
    assert_eq!(divide(1, &[claim(1, Duration::ZERO), claim(0, TURN / 2), claim(0, Duration::ZERO)]), [1, 0, 0]);
    assert_eq!(divide(1, &[claim(1, Duration::ZERO), claim(0, TURN), claim(0, TURN * 2)]), [0, 0, 1]);
}

#[test]
fn bounds_fit_together() {
    assert!(BEAT * 3 < LEASE && LEASE < DEAD);
}
