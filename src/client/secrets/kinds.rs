//! Which kinds of secrets there are: unknown users pretend to have the usual one, so that they are asked the same, and
//! answered in the same time, as those who are known.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::auth::{SecretKind, StoredSecret, Verifiers};
use crate::config::{AuthType, Config};

/// See the module.
#[derive(Debug)]
pub(super) struct Kinds {
    /// What most users of the configuration have.
    configured: AtomicU8,
    /// What was looked up last.
    found: AtomicU8,
}

impl Default for Kinds {
    fn default() -> Self {
        Self { configured: AtomicU8::new(SCRAM), found: AtomicU8::new(SCRAM) }
    }
}

const SCRAM: u8 = 0;
const PLAIN: u8 = 1;
const MD5: u8 = 2;

const fn number(kind: SecretKind) -> u8 {
    match kind {
        SecretKind::Scram => SCRAM,
        SecretKind::Plain => PLAIN,
        SecretKind::Md5 => MD5,
    }
}

impl Kinds {
    /// Counts those of the configuration.
    pub(super) fn note_configured(&self, config: &Config) {
        let mut counts = [0_usize; 3];
        for kind in secrets(config).map(|(_, secret)| secret.kind()) {
            counts[usize::from(number(kind))] += 1;
        }
        let usual = (SCRAM..=MD5).rev().max_by_key(|kind| counts[usize::from(*kind)]).unwrap_or(SCRAM);
        self.configured.store(usual, Ordering::Relaxed);
    }

    /// One was looked up.
    pub(super) fn note_found(&self, kind: SecretKind) {
        self.found.store(number(kind), Ordering::Relaxed);
    }

    /// What an unknown user has, where unknown ones are looked up and where not.
    pub(super) fn usual(&self, is_looked_up: bool) -> SecretKind {
        let kinds = if is_looked_up { &self.found } else { &self.configured };
        match kinds.load(Ordering::Relaxed) {
            PLAIN => SecretKind::Plain,
            MD5 => SecretKind::Md5,
            _ => SecretKind::Scram,
        }
    }
}

fn secrets(config: &Config) -> impl Iterator<Item = (&crate::names::UserName, StoredSecret)> {
    let with_password = config.users.iter().filter_map(|(name, user)| Some((name, user.password.as_ref()?)));
    with_password.map(|(name, password)| (name, StoredSecret::parse(password))).filter(|(_, secret)| !secret.is_empty())
}

/// Whether there is something to [`derive`].
#[must_use]
pub fn needs_deriving(config: &Config) -> bool {
    let by_scram = matches!(config.pooler.auth_type, AuthType::ScramSha256 | AuthType::Hba);
    by_scram && secrets(config).any(|(_, secret)| secret.kind() == SecretKind::Plain)
}

/// Derives what SCRAM needs of plain passwords, a millisecond for each: a first login that had to would take longer than
/// an unknown user's.
pub fn derive(config: &Config, verifiers: &Verifiers) {
    for (user, secret) in secrets(config) {
        if let StoredSecret::Plain(password) = secret {
            let _ = verifiers.of_password(user, &password);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Password;
    use crate::config::{Secret, User};

    const MD5_TEXT: &str = "md5a1c2cced0c3bcb0923524fd5300c40be";

    fn config(secrets: &[&str]) -> Config {
        let mut config = Config::default();
        for (at, secret) in secrets.iter().enumerate() {
            let user = User { password: Some(Secret::new(secret)), ..User::default() };
            config.users.insert(format!("user{at}").into(), user);
        }
        config
    }

    #[test]
    fn the_usual_kind_is_what_most_have() {
        let verifier = Verifiers::new(&mut rand::rng()).of_password(&"x".into(), &Password::new(b"x"));
        let scram = verifier.encode();
        let usual = |secrets: &[&str]| {
            let kinds = Kinds::default();
            kinds.note_configured(&config(secrets));
            kinds.usual(false)
        };
        assert_eq!(usual(&[]), SecretKind::Scram);
        assert_eq!(usual(&["a", MD5_TEXT, "b", ""]), SecretKind::Plain);
        assert_eq!(usual(&[MD5_TEXT, "", ""]), SecretKind::Md5, "no secret is of no kind");
        assert_eq!(usual(&[&scram, &scram, "a", MD5_TEXT]), SecretKind::Scram);
        assert_eq!(usual(&[&scram, MD5_TEXT, "a", MD5_TEXT]), SecretKind::Md5);
        // The safer one of two.
        assert_eq!(usual(&[&scram, MD5_TEXT]), SecretKind::Scram);
    }

    #[test]
    fn verifiers_are_there_before_the_first_login() {
        let mut config = config(&["secret", MD5_TEXT]);
        config.pooler.auth_type = AuthType::Md5;
        assert!(!needs_deriving(&config));
        config.pooler.auth_type = AuthType::ScramSha256;
        assert!(needs_deriving(&config));
        let verifiers = Verifiers::new(&mut rand::rng());
        derive(&config, &verifiers);
        assert!(verifiers.has(&"user0".into()) && !verifiers.has(&"user1".into()));
    }
}
