//! The ledger of a budget: what each Carpool that takes part has, wants, and has logged in. One row of a table in the database itself,
//! which is changed only by who has read its present version, so every change is decided by one of them, from all of it. Pure.
//!
//! Invariant: what all members hold together is at most the size, and a member has no server that it doesn't hold.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a member that gets nothing, there being fewer servers than members, waits until it is its turn.
pub(super) const TURN: Duration = Duration::from_secs(1);

/// A process that takes part, for as long as the others count on it; a random number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One of the server's processes: its number, and when it began (microseconds since 1970 by the server's clock; 0: it isn't told), since
/// numbers are used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Backend(pub u32, pub i64);

/// What is written of a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Who it is.
    pub id: MemberId,
    /// For people: where it runs.
    pub name: String,
    /// Another number each time that the member writes.
    pub beat: u64,
    /// The size of the budget, as the member's configuration says.
    pub size: u32,
    /// How many servers it could use at the moment.
    pub want: u32,
    /// How many it may have: slots of its pool.
    pub held: u32,
    /// Its connection to this ledger, which isn't part of the budget.
    pub link: Option<Backend>,
    /// Its servers, as far as they are known: the last ones may be missing.
    pub servers: Vec<Backend>,
    /// When it was last written, microseconds by the server's clock.
    pub written: i64,
    /// Since when it wants some and holds none, by the same clock.
    pub without: Option<i64>,
    /// When the others gave it up, by the same clock: it may begin nothing any more, and what it holds is freed as its servers end.
    pub condemned: Option<i64>,
}

/// All members, by number.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// In the order of their numbers.
    pub members: Vec<Entry>,
}

/// What one member could use, and has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// How many it could use.
    pub want: u32,
    /// How many it holds.
    pub held: u32,
    /// For how long it has wanted some and held none.
    pub without: Duration,
}

impl Ledger {
    /// Of a member.
    #[must_use]
    pub fn of(&self, id: MemberId) -> Option<&Entry> {
        self.members.iter().find(|entry| entry.id == id)
    }

    /// Writes down what there is to say of a member.
    pub fn set(&mut self, entry: Entry) {
        match self.members.binary_search_by_key(&entry.id, |entry| entry.id) {
            Ok(at) => self.members[at] = entry,
            Err(at) => self.members.insert(at, entry),
        }
    }

    /// What all hold together.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.members.iter().fold(0, |sum, entry| sum.saturating_add(entry.held))
    }

    /// The size: the smallest that a member goes by, so that a change of the configuration is right while it goes round.
    #[must_use]
    pub fn size(&self, own: u32) -> u32 {
        let others = self.members.iter().filter(|entry| entry.condemned.is_none()).map(|entry| entry.size);
        others.min().unwrap_or(own).min(own)
    }
}

/// Each member's part of `size`: as many as it wants, where they want more than there are, equal parts of them; what nobody wants stays
/// with those who have it.
#[must_use]
pub fn divide(size: u32, claims: &[Claim]) -> Vec<u32> {
    let mut parts = vec![0_u32; claims.len()];
    let mut left = size;
    loop {
        let unmet: Vec<usize> = (0..claims.len()).filter(|&at| parts[at] < claims[at].want).collect();
        let Some(each) = u32::try_from(unmet.len()).ok().and_then(|unmet| left.checked_div(unmet)) else { break };
        if each == 0 {
            spread(left, unmet, claims, &mut parts);
            left = 0;
            break;
        }
        for at in unmet {
            let more = each.min(claims[at].want - parts[at]);
            parts[at] += more;
            left -= more;
        }
    }
    for (part, claim) in parts.iter_mut().zip(claims) {
        let kept = claim.held.saturating_sub(*part).min(left);
        *part += kept;
        left -= kept;
    }
    parts
}

/// One more for as many as there are left. Who has nothing comes first once it has waited for its turn, else nothing changes hands without need.
fn spread(left: u32, mut unmet: Vec<usize>, claims: &[Claim], parts: &mut [u32]) {
    let is_due = |at: usize| parts[at] == 0 && claims[at].without >= TURN;
    unmet.sort_by_key(|&at| {
        let due = is_due(at);
        let waited = if due { claims[at].without } else { Duration::ZERO };
        (!due, std::cmp::Reverse(waited), std::cmp::Reverse(claims[at].held), at)
    });
    for at in unmet.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        parts[at] += 1;
    }
}
