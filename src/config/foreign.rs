//! PgBouncer's settings that Carpool doesn't have: known by name, so that a `pgbouncer.ini` loads with a warning
//! for each that has no effect, and not at all where leaving one out would be unsafe.

/// What becomes of a setting that isn't at its default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It has no effect; a warning says why.
    NoEffect,
    /// It is an error.
    Refused,
}

/// A setting of PgBouncer's that isn't one of Carpool's.
pub(super) struct Foreign {
    /// Its name.
    pub(super) name: &'static str,
    /// PgBouncer's default, which nothing needs to be said about.
    default: &'static str,
    fate: Fate,
    /// Why.
    reason: &'static str,
}

/// What is to be said about a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// It has no effect.
    Warning(String),
    /// It can't be honoured.
    Error(String),
}

impl Foreign {
    /// What becomes of it, and why, for the documentation.
    #[cfg(test)]
    pub(super) fn fate_and_reason(&self) -> (&'static str, String) {
        match self.fate {
            Fate::NoEffect => ("no effect", self.reason.to_owned()),
            Fate::Refused => ("refused", self.reason.to_owned()),
        }
    }

    /// What becomes of it, behind its name.
    pub(super) fn explain(&self) -> String {
        match self.fate {
            Fate::NoEffect => format!("has no effect: {}", self.reason),
            Fate::Refused => format!("cannot be set: {}", self.reason),
        }
    }

    /// Judges a value; `None` is one without a text, such as a list.
    pub(super) fn judge(&self, value: Option<&str>) -> Verdict {
        let given = value.unwrap_or("a list");
        let numbers = (given.parse::<f64>(), self.default.parse::<f64>());
        let same_number = matches!(numbers, (Ok(a), Ok(b)) if a.total_cmp(&b).is_eq());
        // What is off, or left empty, asks for nothing.
        let is_off = given.is_empty() || given.eq_ignore_ascii_case("disable");
        let is_default = is_off || given.eq_ignore_ascii_case(self.default) || same_number;
        match (is_default, self.fate == Fate::NoEffect) {
            (true, _) => Verdict::Fine,
            (false, true) => Verdict::Warning(format!("has no effect: {}", self.reason)),
            (false, false) => Verdict::Error(self.reason.to_owned()),
        }
    }
}

/// Finds a setting.
pub(super) fn find<'f>(among: &'f [Foreign], name: &str) -> Option<&'f Foreign> {
    among.iter().find(|foreign| foreign.name == name)
}

const fn no_effect(name: &'static str, default: &'static str, reason: &'static str) -> Foreign {
    Foreign { name, default, fate: Fate::NoEffect, reason }
}

const fn refused(name: &'static str, default: &'static str, reason: &'static str) -> Foreign {
    Foreign { name, default, fate: Fate::Refused, reason }
}

const DNS: &str = "the system resolves host names, at each connect";
const RESERVE: &str = "the database's reserve is for all its users; see reserve_pool_size";
const SERVICE: &str = "it names a service of Windows";
/// For TOML alone: an ini file has it.
const TOTAL: &str = "here pool_size (default_pool_size) is a database's total, and user_pool_size one user's share";

/// Of `[pgbouncer]` and `[pooler]`.
pub(super) static POOLER: &[Foreign] = &[
    no_effect("conffile", "", "a reload reads the file that Carpool was started with"),
    refused("disable_pqexec", "0", "clients may send simple queries"),
    no_effect("dns_max_ttl", "15", DNS),
    no_effect("dns_nxdomain_ttl", "15", DNS),
    no_effect("dns_zone_check_period", "0", DNS),
    no_effect("job_name", "pgbouncer", SERVICE),
    no_effect("login_notify_message", "", "clients are sent no notice"),
    refused("max_db_connections", "0", TOTAL),
    no_effect("pkt_buf", "4096", "buffers fit themselves"),
    no_effect("pool_idle_timeout", "0", "empty pools are kept"),
    no_effect("resolv_conf", "", DNS),
    no_effect("sbuf_loopcnt", "5", "connections take turns by themselves"),
    no_effect("service_name", "pgbouncer", SERVICE),
];

/// Of a database.
pub(super) static DATABASE: &[Foreign] = &[refused("max_db_connections", "", TOTAL)];

/// Of a user.
pub(super) static USER: &[Foreign] = &[
    no_effect("query_wait_timeout", "-1", "the database's or the global query_wait_timeout holds for all users"),
    no_effect("reserve_pool_size", "0", RESERVE),
];
