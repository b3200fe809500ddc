//! Which processes clients mean by the numbers that they and others got at login.
//!
//! Its own is the server at hand. That of another client of the same database is the server that it has at this moment,
//! if any. PostgreSQL decides whether it may be signalled, and the signal may come at any time: so that server never
//! changes hands any more, and ends with what its client has begun on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::registry::{CancelSlot, ClientShared};
use super::{Relay, Work};
use crate::protocol::numbers::Process;
use crate::server::ServerShared;

impl Relay {
    /// Finds the processes that the request at hand asks for.
    #[cold]
    pub(super) fn find_processes(&mut self) -> bool {
        let registered = &self.registered;
        let (own, registry) = (&registered.shared, &registered.context().registry);
        let Work::Active(active) = &mut self.work else { return true };
        let Some(server) = active.lease.server() else { return true };
        let (here, pid) = (&server.shared, server.state.pid);
        if let Some(numbers) = &mut server.state.numbers {
            numbers.answer(|number| {
                if number == own.key.pid {
                    return Some(Process { pid, own: true });
                }
                let other = registry.numbered(number).filter(|other| other.database == own.database)?;
                process_of(&other, here).map(|pid| Process { pid, own: false })
            });
        }
        true
    }
}

/// The process that has another client's session, where that is of the PostgreSQL that the caller's server is of.
fn process_of(other: &ClientShared, here: &ServerShared) -> Option<u32> {
    let slot = other.cancel.lock();
    let (CancelSlot::Running(server) | CancelSlot::Replaying { server, .. }) = &*slot else { return None };
    let same = server.target == here.target && server.addresses.1.map(|a| a.ip()) == here.addresses.1.map(|a| a.ip());
    if !same || Arc::as_ptr(server) == std::ptr::from_ref(here) {
        return None;
    }
    // Under its client's lock: it isn't given back before this is seen.
    server.doomed.store(true, Ordering::Release);
    Some(server.key.pid)
}
