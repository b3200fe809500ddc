//! Calls that signal processes by the numbers that clients got at login, see [`crate::protocol::numbers`].

use std::sync::Arc;

use super::prepare::Found;
use super::{ClientPath, NAMES_LIMIT, Step};
use crate::protocol::numbers::{Argument, Numbers};
use crate::protocol::session::{Taint, Taints};
use crate::protocol::statements::Statement;

impl ClientPath<'_> {
    /// Whether a query must wait until it is known what the numbers in its text mean.
    pub(super) fn must_find_constants(&mut self, arguments: &[Argument]) -> bool {
        !arguments.is_empty() && self.must_find(arguments.iter().filter_map(Argument::constant).collect())
    }

    fn must_find(&mut self, numbers: Vec<u32>) -> bool {
        let known = self.server.numbers.as_ref().is_some_and(|known| known.answers(&numbers));
        let must = !known && !numbers.is_empty();
        if must {
            self.server.numbers = Some(Box::new(Numbers::ask(numbers)));
        }
        must
    }

    /// A query's text as the server must get it, if otherwise than the client sent it.
    pub(super) fn with_processes(&mut self, text: &[u8], arguments: &[Argument]) -> Option<Vec<u8>> {
        if arguments.is_empty() {
            return None;
        }
        let numbers = self.server.numbers.take()?;
        let calls: Vec<_> = arguments.iter().filter_map(|call| Some((call.ends, call.constant()?))).collect();
        self.note_end(&numbers, &calls);
        numbers.in_text(text, arguments)
    }

    /// Should the server end now, the client has ended it.
    fn note_end(&mut self, numbers: &Numbers, calls: &[(bool, u32)]) {
        if numbers.ends_own(calls) {
            self.server.touch(Taint::EndsServer.into(), Taints::NONE, &[]);
        }
    }

    /// What must be done before an execution, of which `here` is there of a Bind body of `len` bytes, whose names end at
    /// `names`. A long one isn't looked at.
    pub(super) fn must_find_bound(&mut self, found: &Found, here: &[u8], len: usize, names: usize) -> Option<Step> {
        let Found::Known(named) = found else { return None };
        if named.statement.numbers.is_empty() || len > NAMES_LIMIT {
            return None;
        }
        if here.len() < len {
            return Some(Step::More);
        }
        let calls = named.statement.calls().numbers(&here[names..]);
        if self.must_find(calls.iter().map(|(_, number)| *number).collect()) {
            return Some(Step::Numbers);
        }
        if let Some(numbers) = self.server.numbers.take() {
            self.note_end(&numbers, &calls);
            self.server.numbers = Some(numbers);
        }
        None
    }

    /// The text of a prepared statement, as the server must get it for an execution.
    pub(super) fn text_with_processes(&self, statement: &Statement) -> Option<Vec<u8>> {
        let numbers = self.server.numbers.as_ref()?;
        numbers.in_text(statement.rest().split(|&b| b == 0).next()?, &statement.numbers)
    }

    /// A Bind body behind its names, as the server must get it, if otherwise than the client sent it. What was found out
    /// was for this execution.
    pub(super) fn bound_with_processes(&mut self, found: &Found, here: &[u8], names: usize) -> Option<Vec<u8>> {
        self.server.numbers.as_ref()?;
        let numbers = self.server.numbers.take()?;
        let Found::Known(named) = found else { return None };
        let statement = Arc::clone(&named.statement);
        numbers.in_parameters(here.get(names..)?, &statement.calls())
    }
}
