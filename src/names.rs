//! The names that identify things: users, databases, clients.
//!
//! Newtypes, so that a user name can't be passed where a database name is meant. Cheap to clone.

use std::fmt;
use std::sync::Arc;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Keeps the other's memory, where both are the same name: clients of a pool needn't have one each.
            pub fn share(&mut self, other: &Self) {
                if self == other {
                    self.0 = Arc::clone(&other.0);
                }
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name_type!(
    /// A PostgreSQL role name as the client or the configuration gives it.
    UserName
);
name_type!(
    /// The name of a database as clients ask for it (a key of `[databases]`), not the name on the server.
    DatabaseName
);

/// One client connection, unique for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientId(pub u64);

impl ClientId {
    /// In place of a client, for a pool's listening connection.
    pub const LISTENER: Self = Self(0);
    /// In place of a client, for the connection that runs `auth_query`.
    pub const LOOKUP: Self = Self(u64::MAX);
    /// In place of a client, for a pool's diagnostic connection.
    pub const DIAGNOSIS: Self = Self(u64::MAX - 1);
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C-{:06x}", self.0)
    }
}

/// One server connection, unique for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServerId(pub u64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S-{:06x}", self.0)
    }
}
