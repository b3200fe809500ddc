//! What a ledger that anybody may have written can lead to.

use std::time::Duration;

use super::ledger::{Backend, MemberId};
use super::member::{DEAD, Local, Member, Round, Seen};
use crate::net::world;

/// A member reads this ledger at three moments, and writes what it thinks right, first as one that is in it.
pub fn ledger(text: &str) {
    let Ok(mut ledger) = serde_json::from_str::<super::Ledger>(text) else { return };
    let id = ledger.members.first().map_or(MemberId(1), |entry| entry.id);
    let mut member = Member::new(id, "here".into());
    let begin = world::now();
    for (version, after) in [Duration::ZERO, DEAD, 4 * DEAD].into_iter().enumerate() {
        let version = version as u64;
        let backends: Vec<Backend> =
            ledger.members.iter().flat_map(|entry| entry.servers.iter().copied()).step_by(2).collect();
        let link = Backend(1, 1);
        let login_limit = Duration::from_secs(60);
        let seen = Seen { version, ledger: ledger.clone(), now: 1 << 50, login_limit, link, backends };
        let local = Local { slots: 1, logins: 1, need: 3, want: 3, servers: vec![], unsure: 1 };
        let Round::Step(step) = member.look(&seen, &local, 4, begin + after) else { return };
        assert!(step.after <= 4, "more than there is");
        member.confirmed(begin + after);
        ledger = step.write.unwrap_or(ledger);
    }
}
