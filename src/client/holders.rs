//! Who holds a pool's servers while others wait: one look at its clients, for errors, SHOW BLOCKERS and the detection of
//! starvation. It goes through all clients, so it is for rare occasions: once per tick of a pool where somebody has waited
//! too long, and when asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Context;
use super::registry::{ClientKind, ClientShared, Phase};
use crate::names::{ClientId, UserName};
use crate::net::Peer;
use crate::pool::Pool;
use crate::pool::starvation::{self, Application, Seat, Starving};
use crate::server::ServerShared;
use crate::server::pins::Pinned;

/// How many holders an error names.
const NAMED: usize = 3;

/// What somebody does with a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// A request runs.
    Active,
    /// A transaction is open, and nothing asked.
    IdleInTransaction,
    /// The server is kept between transactions.
    Pinned,
    /// It is Carpool's own: the listening connection, or the one that runs `auth_query`.
    Own(&'static str),
    /// It is about to be given back, or its client has left.
    Leaving,
}

impl Doing {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::IdleInTransaction => "idle in transaction",
            Self::Pinned => "pinned",
            Self::Own(what) => what,
            Self::Leaving => "leaving",
        }
    }
}

/// One that holds a server.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Who: a client, or one of Carpool's own connections.
    pub client: ClientId,
    /// The client; `None` for Carpool's own, and for one that has left.
    pub who: Option<Application>,
    /// From where.
    pub peer: Option<Peer>,
    /// What it has.
    pub server: Arc<ServerShared>,
    /// For how long.
    pub held: Duration,
    /// What it does with it.
    pub doing: Doing,
    /// For how long it has done that.
    pub since: Duration,
    /// Why it keeps the server between transactions, if it does.
    pub pinned: Option<Pinned>,
    /// The text of what it has begun last, where that is tracked (`track_statements`).
    pub statement: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Look {
    /// Those who have a server; the longest first.
    pub holders: Vec<Holder>,
    /// Whose connections wait, and how many.
    pub waiting: BTreeMap<Application, u32>,
    /// Whether the pool starves, and who in it.
    pub starving: Vec<Starving>,
    size: u32,
}

fn application(client: &ClientShared) -> Application {
    let host = match client.peer {
        Peer::Tcp(addr) => Some(addr.ip().to_canonical()),
        Peer::Unix => None,
    };
    let name = client.settings.lock().application_name().unwrap_or_default().to_owned();
    Application { name, user: client.user.clone(), host }
}

/// What of a client is looked at.
struct Seen {
    who: Application,
    peer: Peer,
    phase: Phase,
    since: Duration,
}

/// A look at a pool now.
#[must_use]
pub fn look(context: &Context, pool: &Pool, now: Instant) -> Look {
    let held = pool.held();
    let holders: HashMap<ClientId, ()> =
        held.iter().filter_map(|held| Some((held.holder.as_ref()?.client, ()))).collect();
    let mut seen = HashMap::new();
    let mut waiting: BTreeMap<Application, u32> = BTreeMap::new();
    context.registry.for_each(|client| {
        if client.kind != ClientKind::Pooled || client.database != pool.name {
            return;
        }
        let (phase, since) = client.phase(now, context.started);
        if holders.contains_key(&client.id) {
            seen.insert(client.id, Seen { who: application(client), peer: client.peer, phase, since });
        } else if phase == Phase::Waiting {
            *waiting.entry(application(client)).or_default() += 1;
        }
    });
    let holders: Vec<_> = held
        .into_iter()
        .filter_map(|held| {
            let by = held.holder?;
            let statement = by.statement.as_ref().and_then(|statement| statement.query());
            let held_for = now.saturating_duration_since(by.since);
            Some(Holder { statement, ..holder(by.client, seen.remove(&by.client), held.server, held_for) })
        })
        .collect();
    let size = pool.size();
    let seats: Vec<_> = holders.iter().map(Holder::seat).collect();
    let starving = starvation::starving(&seats, &waiting, size);
    Look { holders, waiting, starving, size }
}

fn holder(client: ClientId, seen: Option<Seen>, server: Arc<ServerShared>, held: Duration) -> Holder {
    let pinned = server.pinned.get();
    let own = match client {
        ClientId::LISTENER => Some("listens for all clients"),
        ClientId::LOOKUP => Some("runs auth_query"),
        ClientId::DIAGNOSIS => Some("asks for what blocks the others"),
        _ => None,
    };
    let (doing, since) = match (&seen, own) {
        (_, Some(what)) => (Doing::Own(what), held),
        (Some(seen), None) => {
            let doing = match seen.phase {
                Phase::IdleInTransaction => Doing::IdleInTransaction,
                Phase::Idle if pinned.is_some() => Doing::Pinned,
                Phase::Idle | Phase::Login => Doing::Leaving,
                Phase::Active | Phase::Waiting => Doing::Active,
            };
            (doing, seen.since)
        }
        (None, None) => (Doing::Leaving, Duration::ZERO),
    };
    let (who, peer) = seen.map(|seen| (seen.who, seen.peer)).unzip();
    Holder { client, who, peer, server, held, doing, since, pinned, statement: None }
}

impl Holder {
    fn seat(&self) -> Seat {
        let still = matches!(self.doing, Doing::IdleInTransaction | Doing::Pinned).then_some(self.since);
        // One that is leaving holds its server, and something moves.
        let application = match self.doing {
            Doing::Own(_) => None,
            _ => Some(self.who.clone().unwrap_or_else(|| self.unknown())),
        };
        Seat { application, still }
    }

    fn unknown(&self) -> Application {
        Application { name: String::new(), user: self.server.user.clone(), host: None }
    }

    /// As whom it has logged in; the server's role, where it isn't known.
    #[must_use]
    pub fn user(&self) -> &UserName {
        self.who.as_ref().map_or(&self.server.user, |who| &who.user)
    }

    /// Its `application_name`.
    #[must_use]
    pub fn application(&self) -> &str {
        self.who.as_ref().map_or("", |who| &who.name)
    }

    /// Why it keeps the server between transactions; empty if it doesn't.
    #[must_use]
    pub fn reasons(&self) -> String {
        self.pinned.as_ref().map(|pinned| pinned.reasons.names()).unwrap_or_default()
    }

    /// Who it is and what it does, for an error.
    fn words(&self) -> String {
        let held = self.held.as_secs_f64();
        if let Doing::Own(what) = self.doing {
            return format!("the connection that {what} for {held:.1} s");
        }
        let application = match self.application() {
            "" => String::new(),
            name => format!(", application \"{name}\""),
        };
        let doing = match self.doing {
            Doing::IdleInTransaction | Doing::Pinned => {
                format!(", {} since {:.1} s", self.doing.as_str(), self.since.as_secs_f64())
            }
            _ => String::new(),
        };
        format!("{} (user \"{}\"{application}) for {held:.1} s{doing}", self.client, self.user())
    }
}

impl Look {
    /// Who holds the servers, for an error: sentences.
    #[must_use]
    pub fn sentences(&self) -> String {
        let size = self.size;
        let mut text = match self.holders.len() {
            0 => format!("None of {size} is in use."),
            n => {
                let longest: Vec<_> = self.holders.iter().take(NAMED).map(Holder::words).collect();
                format!("{n} of {size} are in use, longest by: {}.", longest.join("; "))
            }
        };
        if !self.starving.is_empty() {
            text.push(' ');
            text.push_str(&starvation::sentence(&self.starving));
        }
        text
    }
}
