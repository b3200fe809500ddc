//! The connection that runs `auth_query`: a user of the pool apart from clients' users, even from one of the same name.
//!
//! So nothing that a client sent or set was ever on such a server, and nothing of it gets to a client. It counts in
//! the pool's size like all others, makes room for them when it is idle, and there is at most one for each role.

use std::sync::Arc;

use super::{Pool, PoolUser};
use crate::auth::ServerCredentials;
use crate::names::UserName;

/// Its `application_name`.
pub const NAME: &str = "carpool auth_query";
/// Its servers at most.
const SERVERS: u32 = 1;

impl Pool {
    /// The pool's user that looks accounts up as the role `name`. Credentials given here are the newest ones.
    pub fn lookup_user(&self, name: &UserName, credentials: ServerCredentials) -> Arc<PoolUser> {
        let mut users = self.users.lock();
        if let Some(user) = users.lookups.get(name) {
            user.renew(credentials);
            return Arc::clone(user);
        }
        let user = self.new_user(name, credentials, Some(SERVERS), true);
        users.lookups.insert(name.clone(), Arc::clone(&user));
        users.list.push(Arc::clone(&user));
        user
    }

    /// Whether any server was ever logged in to: then the database exists.
    #[must_use]
    pub fn was_reached(&self) -> bool {
        self.totals().server_logins > 0
    }
}

impl PoolUser {
    /// What its servers are told at login.
    pub(super) fn startup_parameters(&self) -> Vec<(String, String)> {
        match self.looks_up {
            true => vec![("application_name".into(), NAME.into())],
            false => Vec::new(),
        }
    }
}
