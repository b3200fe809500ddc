//! What a text uses of its session: for the readiness audit, which tells how an application fares in transaction mode.

use super::session::{Taint, Taints};
use super::settings::Settings;
use super::sql::{self, Effect};

/// Statements that run what isn't in the text.
pub const OUT_OF_SIGHT: &str = "code out of sight";
/// DISCARD ALL and the like.
pub const RESET: &str = "reset";
/// Named statements by the protocol's Parse.
pub const PREPARED: &str = "protocol-level prepared statement";

/// What Carpool makes of a kind of session state, in transaction mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handling {
    /// It follows the client to every server.
    Replayed,
    /// Clients have it in common.
    Shared,
    /// The client keeps its server.
    Pinned,
    /// It ends with the transaction, the server being reset (`max_pinned = 0`).
    Reset,
    /// The client keeps its server, which is closed afterwards.
    Closed,
    /// The server is asked afterwards what there is.
    Asked,
}

impl Handling {
    /// The word of SHOW AUDIT.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Shared => "shared",
            Self::Pinned => "pinned",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Asked => "asked",
        }
    }
}

/// What is made of a kind, and what an operator can do about it.
#[must_use]
pub fn judge(kind: &str, may_pin: bool) -> (Handling, &'static str) {
    let Some(taint) = Taint::ALL.into_iter().find(|taint| taint.as_str() == kind) else {
        return match kind {
            PREPARED => (Handling::Shared, "Nothing to do."),
            RESET => {
                (Handling::Replayed, "Not needed: Carpool cleans up; turn it off in the driver's pool to save a query.")
            }
            _ => (Handling::Asked, "Each run costs a question to the server; look at what it leaves behind."),
        };
    };
    if Taints::LASTING.has(taint) {
        return (Handling::Closed, "Use a database with pool_mode session for it: its servers cannot be used again.");
    }
    let advice = match taint {
        Taint::Listen if may_pin => {
            return (Handling::Shared, "One server listens for all clients; in a pool of fewer than 3 each keeps one.");
        }
        Taint::Setting | Taint::Named | Taint::SessionUser => return (Handling::Replayed, "Nothing to do."),
        Taint::Temporary => "Use ON COMMIT DROP or drop it soon; see max_pinned.",
        Taint::AdvisoryLock => {
            "Use pg_advisory_xact_lock() where the lock may end with the transaction; see max_pinned."
        }
        Taint::HeldCursor => "Use a cursor within a transaction, or close it soon; see max_pinned.",
        Taint::SqlPrepare => "Use the driver's prepared statements, which are shared; see max_pinned.",
        _ => "A server is kept until the client leaves or resets its session; see max_pinned.",
    };
    match may_pin {
        true => (Handling::Pinned, advice),
        false => (Handling::Reset, "It ends with the transaction: allow pins, see max_pinned."),
    }
}

/// What a text uses: kinds, with details where there are some.
#[must_use]
pub fn uses(text: &[u8]) -> Vec<(&'static str, String)> {
    // With no setting that follows the client, all are named.
    let reading = sql::read(text, &Settings::default());
    let mut found: Vec<_> = reading.names.iter().map(|name| (Taint::Named.as_str(), name.to_string())).collect();
    let mut taint = reading.taint;
    if taint.and(Taints::ASKABLE) == Taints::ASKABLE {
        found.push((OUT_OF_SIGHT, first_word(text)));
        taint = taint.without(Taints::ASKABLE);
    }
    let plain = taint.without(Taint::Named.into());
    found.extend(plain.iter().map(|taint| (taint.as_str(), String::new())));
    let all = reading.mentions.iter().any(|mention| mention.name.is_none());
    match reading.effect {
        Effect::ForgetAll | Effect::ResetAll => found.push((RESET, first_word(text) + " ALL")),
        Effect::Several if all || reading.resets => found.push((RESET, "among other statements".to_owned())),
        _ => {}
    }
    found.sort();
    found.dedup();
    found
}

/// In upper case, short.
fn first_word(text: &[u8]) -> String {
    let word = match sql::Lexer::new(text).next() {
        Some(sql::Token::Word(word)) if word.len() <= 16 => word,
        _ => b"",
    };
    String::from_utf8_lossy(word).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        uses(text.as_bytes()).into_iter().map(|(kind, detail)| format!("{kind}:{detail}")).collect()
    }

    #[test]
    fn kinds_and_details() {
        for (text, want) in [
            ("select 1", &[][..]),
            ("begin; set local timezone = 'x'; commit", &[]),
            ("set timezone = 'UTC'", &["settings:timezone"]),
            ("SET search_path TO a, b; set My.Tenant = '5'", &["settings:my.tenant", "settings:search_path"]),
            ("select set_config('app.user', $1, false)", &["settings:app.user"]),
            ("set role app", &["session user:"]),
            ("create temp table t (a int); listen x", &["listen:", "temporary object:"]),
            ("select pg_advisory_lock(1)", &["advisory lock:"]),
            ("declare c cursor with hold for select 1", &["held cursor:"]),
            ("prepare p as select 1", &["prepared statement:"]),
            ("load 'x'", &["unknown state:"]),
            ("select dblink_connect('x')", &["lasting state:"]),
            ("do $$begin end$$", &["code out of sight:DO"]),
            ("discard all", &["reset:DISCARD ALL"]),
            ("Reset All", &["reset:RESET ALL"]),
            ("deallocate all", &["reset:DEALLOCATE ALL"]),
            ("select 1; deallocate all", &["reset:among other statements"]),
        ] {
            assert_eq!(found(text), want, "{text}");
        }
    }

    #[test]
    fn every_kind_is_judged() {
        for taint in Taints::PINNING.without(Taints::LASTING).iter() {
            let want = if taint == Taint::Listen { Handling::Shared } else { Handling::Pinned };
            assert_eq!(judge(taint.as_str(), true).0, want, "{taint:?}");
            assert_eq!(judge(taint.as_str(), false).0, Handling::Reset, "{taint:?}");
        }
        for taint in Taints::MOVABLE.iter() {
            assert_eq!(judge(taint.as_str(), false).0, Handling::Replayed, "{taint:?}");
        }
        assert_eq!(judge(Taint::Lasting.as_str(), true).0, Handling::Closed);
        assert_eq!(judge(PREPARED, true).0, Handling::Shared);
        assert_eq!(judge(OUT_OF_SIGHT, true).0, Handling::Asked);
    }
}
