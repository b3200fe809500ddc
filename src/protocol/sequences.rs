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

/// Whether a text advances a sequence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Advances {
    /// It is known to leave sequences alone.
    #[default]
    No,
    /// A view or trigger may.
    Maybe,
    /// It names `nextval` or `setval`, or inserts rows, whose columns may have it as their default.
    Likely,
}

/// What may be there of sequence values on one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sequences {
    /// Who has the server, or had it last; 0: nobody yet.
    tenant: u64,
    /// Whether the tenant has advanced one.
    advanced: Advances,
    /// Somebody before it may have.
    foreign: bool,
    /// Somebody before it has had the server.
    worn: bool,
}

impl Sequences {
    /// Of a server that others have used, and that has forgotten all values.
    #[must_use]
    pub fn of_used() -> Self {
        Self { worn: true, ..Self::default() }
    }

    /// A client gets the server.
    pub const fn lend_to(&mut self, client: u64) {
        if self.tenant != client {
            self.worn |= self.tenant != 0;
            self.tenant = client;
            self.foreign |= self.has_own();
            self.advanced = Advances::No;
        }
    }

    /// The tenant runs something.
    pub fn note(&mut self, advances: Advances) {
        self.advanced = self.advanced.max(advances);
    }

    /// Whose values are likely to be there, and may yet be read: they last while nobody else has the server.
    #[must_use]
    pub const fn kept_for(&self) -> Option<u64> {
        if matches!(self.advanced, Advances::Likely) { Some(self.tenant) } else { None }
    }

    /// The tenant is gone.
    pub const fn leave(&mut self) {
        self.foreign |= self.has_own();
        self.advanced = Advances::No;
    }

    /// There may be values of somebody else's and none of the tenant's own: they can be forgotten.
    #[must_use]
    pub const fn only_foreign(&self) -> bool {
        self.foreign && !self.has_own()
    }

    /// The tenant has run something that may have advanced one.
    #[must_use]
    pub const fn has_own(&self) -> bool {
        !matches!(self.advanced, Advances::No)
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
        self.advanced = Advances::No;
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
        sequences.note(Advances::Maybe);
        sequences.lend_to(2);
        assert!(!sequences.foreign, "they are its own");
        sequences.lend_to(1);
        assert!(sequences.only_foreign());
        sequences.note(Advances::No);
        assert!(sequences.only_foreign());
        sequences.note(Advances::Maybe);
        assert!(sequences.foreign && !sequences.only_foreign());
        sequences.lend_to(2);
        assert!(sequences.only_foreign(), "1's may hide those that 2 left before");
        sequences.forget();
        sequences.lend_to(1);
        assert!(!sequences.foreign);
    }

    #[test]
    fn values_are_kept_for_who_has_likely_advanced_some() {
        let mut sequences = Sequences::default();
        sequences.lend_to(1);
        sequences.note(Advances::Maybe);
        assert_eq!(sequences.kept_for(), None);
        sequences.note(Advances::Likely);
        sequences.note(Advances::Maybe);
        sequences.lend_to(1);
        assert_eq!(sequences.kept_for(), Some(1));
        let mut left = sequences;
        left.leave();
        assert!(left.kept_for().is_none() && left.only_foreign());
        let mut forgotten = sequences;
        let again = forgotten.forget_for_client();
        assert!(forgotten.kept_for().is_none() && !forgotten.foreign && again != 1);
        sequences.lend_to(2);
        assert!(sequences.kept_for().is_none() && sequences.only_foreign());
    }
}
