//! The connection that runs `auth_query`: a user of the pool apart from clients' users, even from one of the same name.
//!
//! So nothing that a client sent or set was ever on such a server, and nothing of it gets to a client. It counts in
//! the pool's size like all others, makes room for them when it is idle, and there is at most one for each role.

use std::sync::Arc;

use super::{Pool, PoolUser, Purpose, diagnosis};
use crate::auth::ServerCredentials;
use crate::names::UserName;

/// Its `application_name`.
pub const NAME: &str = "carpool auth_query";
/// Its servers at most.
const SERVERS: u32 = 1;

impl Pool {
    /// The pool's user that looks accounts up as the role `name`. Credentials given here are the newest ones.
    pub fn lookup_user(&self, name: &UserName, credentials: ServerCredentials) -> Arc<PoolUser> {
        self.user_apart(name, credentials, Purpose::Lookup)
    }

    /// A user of the pool that no client has, as the role `name`.
    pub(super) fn user_apart(
        &self,
        name: &UserName,
        credentials: ServerCredentials,
        purpose: Purpose,
    ) -> Arc<PoolUser> {
        let mut users = self.users.lock();
        if let Some(user) = users.apart.get(&(purpose, name.clone())) {
            user.renew(credentials);
            return Arc::clone(user);
        }
        let user = self.new_user(name, credentials, Some(SERVERS), purpose);
        users.apart.insert((purpose, name.clone()), Arc::clone(&user));
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
        let name = match self.purpose {
            Purpose::Clients => return Vec::new(),
            Purpose::Lookup => NAME,
            Purpose::Diagnosis => diagnosis::NAME,
        };
        vec![("application_name".into(), name.into())]
    }
}
