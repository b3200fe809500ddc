//! Sequence values that a client may yet read (`currval`, `lastval`) last while nobody else has its server. Where
//! values are read at all, a client gets the server back that has its own, and others take one that has nobody's, as
//! long as there are enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::queue::{Claim, UserIndex};
use super::{Pool, PoolUser, Pooled};
use crate::protocol::ClientState;

impl Pool {
    /// An idle server for a client, unless others wait already; since when it is idle; and whether a login is to be
    /// begun, whose slot is taken, so that next time there is one for each.
    pub(super) fn take_idle(
        &self,
        queue: &mut super::PoolQueue,
        user: UserIndex,
        client: Option<&ClientState>,
        now: Instant,
    ) -> Option<(Box<Pooled>, Instant, bool)> {
        let settings = client.map(|client| &client.settings);
        #[expect(clippy::borrowed_box, reason = "what the queue holds")]
        let suits = |pooled: &Box<Pooled>| settings.is_some_and(|s| Arc::ptr_eq(&pooled.server.state.settings, s));
        if !self.tables.sequences_read.load(Ordering::Relaxed) {
            return queue.take_idle(user, suits).map(|(pooled, since)| (pooled, since, false));
        }
        let tenant = client.map(|client| client.tenant);
        let (pooled, since, claim) =
            queue.take_unclaimed(user, suits, |pooled| match pooled.server.state.sequences.kept_for() {
                None => Claim::Nobodys,
                kept if kept == tenant => Claim::Own,
                _ => Claim::Others,
            })?;
        let grows = claim == Claim::Others && self.may_login(now) && queue.spare_login(user);
        Some((pooled, since, grows))
    }

    /// A client has ended: nobody will read its sequence values.
    pub fn tenant_left(&self, user: &PoolUser, tenant: u64) {
        if !self.tables.sequences_read.load(Ordering::Relaxed) {
            return;
        }
        for pooled in self.queue.lock().idle_of(user.index) {
            let sequences = &mut pooled.server.state.sequences;
            if sequences.kept_for() == Some(tenant) {
                sequences.leave();
            }
        }
    }
}
