//! Rare events by kind: errors, pins, refused logins. Kinds are few and known beforehand, whatever clients do.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The classes of PostgreSQL's SQLSTATEs:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const CLASSES: [&str; 44] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25",
    "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57",
    "58", "72", "F0", "HV", "P0", "XX",
];

/// The class of an SQLSTATE. Functions can raise any code: those of classes that PostgreSQL doesn't have are "other".
#[must_use]
pub fn class_of(code: &[u8]) -> &'static str {
    let class = code.get(..2).unwrap_or_default();
    CLASSES.iter().find(|known| known.as_bytes() == class).copied().unwrap_or("other")
}

/// Why a login was refused, in one word, by the SQLSTATE that the client was told.
#[must_use]
pub fn refusal_of(code: &str) -> &'static str {
    match code {
        "28P01" => "password",
        "28000" | "42501" => "not_allowed",
        "3D000" => "no_database",
        "53300" | "53400" => "limit",
        "57P01" | "57P03" => "unavailable",
        "08P01" => "protocol",
        "08006" | "08001" | "08004" => "server",
        "22023" | "42704" | "55P02" => "parameter",
        _ => "other",
    }
}

/// The reasons for which logins fail.
pub const REFUSALS: [&str; 12] = [
    "password",
    "not_allowed",
    "no_database",
    "limit",
    "unavailable",
    "protocol",
    "server",
    "parameter",
    "other",
    "timeout",
    "lost",
    "tls",
];

/// How often each kind of event was.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    /// Counts one.
    pub fn count(&self, kind: &'static str) {
        *self.0.lock().entry(kind).or_default() += 1;
    }

    /// Those that were.
    #[must_use]
    pub fn read(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().clone()
    }
}

/// What happens in one pool.
#[derive(Debug, Default)]
pub struct Happenings {
    /// Errors of servers that clients were told, by class.
    pub server_errors: Tally,
    /// Sessions that Carpool ended with an error of its own, by SQLSTATE.
    pub ended: Tally,
    /// Clients that began to keep their server, by reason.
    pub pins: Tally,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_functions_are_no_labels_of_their_own() {
        assert_eq!(class_of(b"23505"), "23");
        assert_eq!(class_of(b"XX000"), "XX");
        for odd in [&b"ZZ123"[..], b"2", b"", b"\xff\xff000"] {
            assert_eq!(class_of(odd), "other");
        }
    }

    #[test]
    fn reasons_are_those_that_are_listed() {
        for code in ["28P01", "28000", "3D000", "53300", "57P03", "08P01", "08006", "22023", "XX000"] {
            assert!(REFUSALS.contains(&refusal_of(code)), "{code}");
        }
    }

    #[test]
    fn events_are_counted_by_kind() {
        let tally = Tally::default();
        ["a", "b", "a"].into_iter().for_each(|kind| tally.count(kind));
        assert_eq!(tally.read().into_iter().collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
    }
}
