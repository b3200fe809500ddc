//! Who has logged in to the dashboard. Pure: time and randomness come in as arguments.
//!
//! A session is known by a random number, which the browser has as a cookie that scripts can't read; here is only its
//! hash. What changes something needs the session's token in a header as well, which a page of another site can't get.
//! Invariants: at most [`MOST`] sessions; none is used [`IDLE`] after its last use, or [`LONGEST`] after its login.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::names::UserName;

/// Sessions at once. One more ends the one that was used last the longest ago.
const MOST: usize = 256;
/// How long one lives without being used.
pub(super) const IDLE: Duration = Duration::from_secs(30 * 60);
/// How long one lives.
pub(super) const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
/// Random bytes of a cookie and a token.
const RANDOM: usize = 32;

/// What a secret was at the login, in a form that says nothing of it.
pub(super) type Mark = [u8; 32];

#[derive(Clone, Debug)]
struct Session {
    user: UserName,
    mark: Mark,
    token: String,
    began: Instant,
    used: Instant,
}

/// A session that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// As whom.
    pub(super) user: UserName,
    /// What changes need.
    pub(super) token: String,
}

impl Found {
    /// Whether this is the session's token.
    pub(super) fn has_token(&self, token: &[u8]) -> bool {
        self.token.as_bytes().ct_eq(token).into()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

fn hash(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie).into()
}

fn hex(rng: &mut impl CryptoRng) -> String {
    let mut bytes = [0; RANDOM];
    rng.fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sessions {
    /// Begins one. Gives its cookie.
    pub(super) fn open(&self, user: &UserName, mark: Mark, now: Instant, rng: &mut impl CryptoRng) -> (String, Found) {
        let (cookie, token) = (hex(rng), hex(rng));
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| session.is_alive(now));
        if sessions.len() >= MOST {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key);
            oldest.and_then(|key| sessions.remove(&key));
        }
        let found = Found { user: user.clone(), token: token.clone() };
        sessions.insert(hash(&cookie), Session { user: user.clone(), mark, token, began: now, used: now });
        (cookie, found)
    }

    /// The session of a cookie, unless it is over, or `holds` says no to its user and mark: then it ends.
    pub(super) fn find(&self, cookie: &str, now: Instant, holds: impl Fn(&UserName, &Mark) -> bool) -> Option<Found> {
        let mut sessions = self.0.lock();
        let key = hash(cookie);
        let session = sessions.get_mut(&key)?;
        if !session.is_alive(now) || !holds(&session.user, &session.mark) {
            sessions.remove(&key);
            return None;
        }
        session.used = now;
        Some(Found { user: session.user.clone(), token: session.token.clone() })
    }

    /// Ends one.
    pub(super) fn close(&self, cookie: &str) {
        self.0.lock().remove(&hash(cookie));
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE && now.saturating_duration_since(self.began) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sessions: &Sessions, now: Instant) -> (String, Found) {
        sessions.open(&"anna".into(), [1; 32], now, &mut rand::rng())
    }

    fn is_there(sessions: &Sessions, cookie: &str, now: Instant) -> bool {
        sessions.find(cookie, now, |_, _| true).is_some()
    }

    #[test]
    fn a_cookie_finds_its_session_and_no_other() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (cookie, opened) = open(&sessions, now);
        let (other, _) = open(&sessions, now);
        assert_eq!(sessions.find(&cookie, now, |_, _| true), Some(opened.clone()));
        assert!(opened.has_token(opened.token.as_bytes()));
        assert!(!opened.has_token(b"") && !opened.has_token(cookie.as_bytes()));
        for forged in ["", "x", &cookie[1..], &format!("{cookie} "), &cookie.to_uppercase()] {
            assert!(!is_there(&sessions, forged, now), "{forged}");
        }
        sessions.close(&cookie);
        assert!(!is_there(&sessions, &cookie, now) && is_there(&sessions, &other, now));
    }

    #[test]
    fn sessions_end_when_unused_and_in_any_case() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let (cookie, _) = open(&sessions, start);
        let mut now = start;
        while now + IDLE / 2 < start + LONGEST {
            now += IDLE / 2;
            assert!(is_there(&sessions, &cookie, now));
        }
        assert!(!is_there(&sessions, &cookie, start + LONGEST));
        let (cookie, _) = open(&sessions, start);
        assert!(!is_there(&sessions, &cookie, start + IDLE));
        assert!(!is_there(&sessions, &cookie, start), "it doesn't come back");
    }

    #[test]
    fn one_that_no_longer_holds_is_over() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (cookie, _) = open(&sessions, now);
        assert!(sessions.find(&cookie, now, |user, mark| user.as_str() == "anna" && *mark == [2; 32]).is_none());
        assert!(!is_there(&sessions, &cookie, now));
    }

    #[test]
    fn sessions_are_bounded() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let all: Vec<_> = (0..MOST as u64 + 3).map(|i| open(&sessions, start + Duration::from_millis(i)).0).collect();
        let now = start + Duration::from_secs(1);
        let alive = all.iter().map(|cookie| is_there(&sessions, cookie, now)).collect::<Vec<_>>();
        assert_eq!(alive.iter().filter(|alive| **alive).count(), MOST);
        assert!(!alive[..3].contains(&true), "the oldest went");
    }
}
