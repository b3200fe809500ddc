//! What HTTP shows to those who have not logged in: `http_anonymous`.

/// How much of the dashboard and its `/api` needs no login. `/metrics`, `/healthz` and `/readyz` never need one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum HttpAnonymous {
    /// Nothing.
    None,
    /// Numbers of pools, and names of databases, users and applications.
    #[default]
    Status,
    /// All that a user of `stats_users` sees: clients, their addresses and the settings, too.
    Read,
}

impl HttpAnonymous {
    /// All.
    pub const ALL: [Self; 3] = [Self::None, Self::Status, Self::Read];
    /// The words of the configuration, in the same order.
    pub const WORDS: [&'static str; 3] = ["none", "status", "read"];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}
