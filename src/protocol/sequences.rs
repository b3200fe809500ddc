//! Whose the sequence values are that a session remembers (`currval`, `lastval`).
//!
//! PostgreSQL remembers them for its session, transactions and rollbacks regardless, and only `DISCARD` forgets
//! them. A client must not read what another's `nextval` left: before it reads, they are forgotten, unless they are
//! its own.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that nobody has had, not 0.
#[must_use]
pub fn new_tenant() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What may be there of sequence values on one server. All else than what is known to leave sequences alone counts
/// as having advanced one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sequences {
    /// Who has the server, or had it last; 0: nobody yet.
    tenant: u64,
    /// The tenant may have advanced one.
    advanced: bool,
    /// Somebody before it may have.
    foreign: bool,
    /// Somebody before it has had the server.
    worn: bool,
}

impl Sequences {
    /// A client gets the server.
    pub const fn lend_to(&mut self, client: u64) {
        if self.tenant != client {
            self.worn |= self.tenant != 0;
            self.tenant = client;
            self.foreign |= self.advanced;
            self.advanced = false;
        }
    }

    /// The tenant runs something; `advances`: that may advance a sequence.
    pub const fn note(&mut self, advances: bool) {
        self.advanced |= advances;
    }

    /// There may be values of somebody else's and none of the tenant's own: they can be forgotten.
    #[must_use]
    pub const fn only_foreign(&self) -> bool {
        self.foreign && !self.advanced
    }

    /// The tenant has run something that may have advanced one.
    #[must_use]
    pub const fn has_own(&self) -> bool {
        self.advanced
    }

    /// Others have used the server before.
    #[must_use]
    pub const fn is_worn(&self) -> bool {
        self.worn
    }

    /// The tenant takes it as it is.
    pub const fn accept(&mut self) {
        self.worn = false;
    }

    /// All are forgotten before anything else runs.
    pub const fn forget(&mut self) {
        self.foreign = false;
        self.advanced = false;
    }

    /// The client itself has had all forgotten, also what it may have left on other servers: it is another tenant
    /// from now on.
    #[must_use]
    pub fn forget_for_client(&mut self) -> u64 {
        *self = Self { tenant: new_tenant(), worn: self.worn, ..Self::default() };
        self.tenant
    }

    /// They weren't forgotten after all, or nobody can tell whose they are.
    pub const fn distrust(&mut self) {
        self.foreign = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_worn_once_a_second_client_has_it() {
        let mut sequences = Sequences::default();
        sequences.lend_to(1);
        sequences.lend_to(1);
        assert!(!sequences.is_worn());
        let again = sequences.forget_for_client();
        sequences.lend_to(again);
        assert!(!sequences.is_worn(), "it is the same client");
        sequences.lend_to(2);
        assert!(sequences.is_worn());
        sequences.forget();
        assert!(sequences.is_worn());
        sequences.accept();
        sequences.lend_to(1);
        assert!(sequences.is_worn());
    }

    #[test]
    fn values_are_foreign_once_another_has_the_server() {
        let mut sequences = Sequences::default();
        sequences.lend_to(1);
        sequences.lend_to(2);
        assert!(!sequences.only_foreign(), "1 advanced none");
        sequences.note(true);
        sequences.lend_to(2);
        assert!(!sequences.foreign, "they are its own");
        sequences.lend_to(1);
        assert!(sequences.only_foreign());
        sequences.note(false);
        assert!(sequences.only_foreign());
        sequences.note(true);
        assert!(sequences.foreign && !sequences.only_foreign());
        sequences.lend_to(2);
        assert!(sequences.only_foreign(), "1's may hide those that 2 left before");
        sequences.forget();
        sequences.lend_to(1);
        assert!(!sequences.foreign);
    }
}
