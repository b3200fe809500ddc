//! Whose turn it is, as the configuration has it (`share_by`): which group a client belongs to, and what groups have.

use std::sync::atomic::Ordering;

use super::line::GroupCounts;
use super::spec::Spec;
use super::{Pool, Pooled};
use crate::config::ShareBy;
use crate::names::{ClientId, UserName};
use crate::net::world;
use crate::protocol::ClientState;

/// Who asks for a server.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The client.
    pub client: ClientId,
    /// As whom it logged in; `None`: Carpool itself.
    pub user: Option<&'a UserName>,
    /// What it has set up, where that is known.
    pub state: Option<&'a ClientState>,
}

impl Asker<'_> {
    /// Carpool itself, for all clients.
    #[must_use]
    pub const fn itself(client: ClientId) -> Self {
        Self { client, user: None, state: None }
    }
}

impl Spec {
    /// The part of the slots that a role has, in relation to others.
    pub(super) fn user_weight(&self, name: &UserName) -> u32 {
        match self.share_by {
            ShareBy::User => self.share_weights.get(name.as_str()).copied().unwrap_or(1),
            ShareBy::None | ShareBy::ApplicationName => 1,
        }
    }
}

impl Pool {
    /// The name of the group that shares with others; `None`: all are one.
    pub(super) fn group_name<'a>(&self, asker: &Asker<'a>) -> Option<&'a str> {
        match self.hot.share_by.load(Ordering::Relaxed) {
            by if by == ShareBy::None as u8 => None,
            by if by == ShareBy::User as u8 => asker.user.map(UserName::as_str),
            _ => asker.state.and_then(|state| state.settings.application_name()),
        }
    }

    /// The groups that share its servers, by the role that these are logged in as.
    #[must_use]
    pub fn groups(&self) -> Vec<(UserName, Vec<GroupCounts>)> {
        let users = self.users.lock().list.clone();
        let queue = self.queue.lock();
        users.iter().map(|user| (user.name.clone(), queue.groups(user.index))).collect()
    }
}

impl Pooled {
    /// It isn't lent to a group any more, if it was.
    pub(super) fn end_loan(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.pool.queue.lock().take_back(self.user.index, loan, world::now());
        }
    }
}
