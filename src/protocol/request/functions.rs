//! What running a text may leave behind, the functions that it calls counted.

use std::sync::atomic::Ordering;

use super::{ClientPath, Tables};
use crate::protocol::sequences::Advances;
use crate::protocol::session::Taints;
use crate::protocol::sql::Reading;
use crate::protocol::statements::Statement;

/// What is read from a text, or known of a prepared one, that matters when it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs<'a> {
    /// What it says itself.
    pub(super) taint: Taints,
    /// Unless not at all, it may run code that isn't in it.
    pub(super) advances: Advances,
    /// The functions that it calls.
    pub(super) functions: &'a [Box<str>],
}

impl<'a> Runs<'a> {
    /// Of a text.
    pub(super) fn of(reading: &'a Reading) -> Self {
        Self { taint: reading.taint, advances: reading.advances, functions: &reading.functions }
    }
}

impl Statement {
    /// What matters when it runs.
    pub(super) fn runs(&self) -> Runs<'_> {
        Runs { taint: self.taint, advances: self.advances, functions: &self.functions }
    }
}

impl Tables {
    /// Takes over `strict_session_state`.
    pub fn set_strict(&self, strict: bool) {
        self.strict.store(strict, Ordering::Relaxed);
        // Who reads sequence values isn't always seen.
        self.sequences_read.fetch_or(strict, Ordering::Relaxed);
    }

    /// `strict_session_state`.
    #[must_use]
    pub fn strict(&self) -> bool {
        self.strict.load(Ordering::Relaxed)
    }
}

impl ClientPath<'_> {
    /// What may be left behind when it has run.
    pub(super) fn may_leave(&self, runs: Runs<'_>) -> Taints {
        let mut taint = runs.taint;
        let unseen = runs.advances != Advances::No;
        if runs.functions.is_empty() && !unseen {
            return taint;
        }
        let strict = self.tables.strict();
        if strict && unseen {
            taint |= Taints::ASKABLE;
        }
        for name in runs.functions {
            let class = self.tables.functions.class(name).filter(|_| !self.server.functions_changed);
            taint |= class.map_or(Taints::ASKABLE, |class| class.taint(strict));
        }
        taint
    }

    /// Notes that it runs. `taint` is what [`Self::may_leave`] said.
    pub(super) fn note_run(&mut self, runs: Runs<'_>, taint: Taints) {
        // Functions may change settings, and advance sequences.
        let calls = taint != runs.taint;
        self.server.sequences.note(if calls { Advances::Likely } else { runs.advances });
        self.server.unsettled |= calls;
        if runs.functions.is_empty() {
            return;
        }
        self.server.called = true;
        let table = &self.tables.functions;
        for name in runs.functions.iter().filter(|name| table.class(name).is_none()) {
            self.server.unknown_functions.note(name, table);
        }
    }
}
