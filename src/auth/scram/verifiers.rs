//! Verifiers for users who have no SCRAM secret: derived from a plain password, or made up for unknown users.
//!
//! Salts come from a random key of this process and the user's name, so an unknown user is given the same salt at
//! each try and looks like a known one. One [`Verifiers`] serves the whole process and lives across reloads (a new
//! one would change the salts). It keeps at most [`MAX_CACHED`] derivations and holds its lock only to look one up.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rand::CryptoRng;

use super::{DEFAULT_ITERATIONS, Key, SALT_LEN, ScramKeys, ScramVerifier, hmac_sha256, same};
use crate::auth::secret::{Md5Secret, Password, SecretKind, StoredSecret};
use crate::names::UserName;

/// Derived verifiers kept at once.
pub const MAX_CACHED: usize = 4096;

/// The process's key for salts, and the verifiers already derived from plain passwords.
pub struct Verifiers {
    key: Key,
    cached: Mutex<HashMap<UserName, Cached>>,
    /// Of those that are derived or made up: the two must look alike.
    iterations: AtomicU32,
}

struct Cached {
    /// Keyed hash of the password, to notice that it was changed.
    password: Key,
    verifier: Arc<ScramVerifier>,
}

impl Verifiers {
    /// Draws the process's key.
    pub fn new(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut key = Key::default();
        rng.fill_bytes(&mut key);
        Self { key, cached: Mutex::default(), iterations: AtomicU32::new(DEFAULT_ITERATIONS) }
    }

    /// Changes the iteration count of verifiers that don't come from a SCRAM secret.
    pub fn set_iterations(&self, iterations: u32) {
        // What is derived meanwhile with the old count is found out by its count.
        self.iterations.store(iterations, Ordering::Relaxed);
    }

    fn iterations(&self) -> u32 {
        self.iterations.load(Ordering::Relaxed)
    }

    /// The verifier of a user whose plain password is known: from the cache, else derived, about a millisecond.
    ///
    /// Call it for every such user when a configuration is loaded, away from the threads that do I/O: a first
    /// login that has to derive takes that much longer than an unknown user's, which an attacker could measure.
    #[must_use]
    pub fn of_password(&self, user: &UserName, password: &Password) -> Arc<ScramVerifier> {
        let (digest, iterations) = (self.keyed("password", user, password.expose()), self.iterations());
        if let Some(cached) = self.cached.lock().get(user) {
            if same(&cached.password, &digest) && cached.verifier.iterations == iterations {
                return Arc::clone(&cached.verifier);
            }
        }
        let verifier = Arc::new(ScramKeys::derive(password.expose(), &self.salt(user), iterations).verifier());
        self.keep(user, digest, Arc::clone(&verifier));
        verifier
    }

    /// Whether the verifier of a user is in the cache.
    #[cfg(test)]
    pub(crate) fn has(&self, user: &UserName) -> bool {
        self.cached.lock().contains_key(user)
    }

    fn keep(&self, user: &UserName, password: Key, verifier: Arc<ScramVerifier>) {
        let mut cached = self.cached.lock();
        if cached.len() >= MAX_CACHED && !cached.contains_key(user) {
            // Any will do: an evicted verifier is derived again, with the same salt.
            if let Some(victim) = cached.keys().next().cloned() {
                cached.remove(&victim);
            }
        }
        cached.insert(user.clone(), Cached { password, verifier });
    }

    /// A verifier that no password fits, always the same one for a name.
    #[must_use]
    pub fn decoy(&self, user: &UserName) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations(),
            salt: self.salt(user)[..].into(),
            stored_key: self.keyed("stored", user, b""),
            server_key: self.keyed("server", user, b""),
        }
    }

    /// A secret that no password fits, of the kind asked for. Checking a password against it takes the work that a
    /// real secret of that kind takes.
    #[must_use]
    pub fn decoy_secret(&self, user: &UserName, kind: SecretKind) -> StoredSecret {
        match kind {
            SecretKind::Plain => StoredSecret::Plain(Password::new(&self.keyed("plain", user, b""))),
            SecretKind::Md5 => {
                let [hash @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.keyed("md5", user, b"");
                StoredSecret::Md5(Md5Secret::from_bytes(hash))
            }
            SecretKind::Scram => StoredSecret::Scram(Arc::new(self.decoy(user))),
        }
    }

    /// The same for a user's plain password and for the user's absence.
    fn salt(&self, user: &UserName) -> [u8; SALT_LEN] {
        let key = self.keyed("salt", user, b"");
        std::array::from_fn(|index| key[index])
    }

    fn keyed(&self, purpose: &str, user: &UserName, rest: &[u8]) -> Key {
        // Neither a purpose nor a name from a startup packet holds a NUL, so no two inputs run together.
        let parts: [&[u8]; 5] = [purpose.as_bytes(), b"\0", user.as_str().as_bytes(), b"\0", rest];
        hmac_sha256(&self.key, &parts)
    }
}

impl fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifiers(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn verifiers() -> Verifiers {
        Verifiers::new(&mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn decoys_look_like_derived_ones() {
        let verifiers = verifiers();
        let user = UserName::from("anna");
        let real = verifiers.of_password(&user, &Password::new(b"secret"));
        let decoy = verifiers.decoy(&user);
        assert_eq!(real.salt, decoy.salt);
        assert_eq!(real.iterations, decoy.iterations);
        assert!(real.check_password(b"secret").is_some());
        assert!(decoy.check_password(b"secret").is_none());
        assert_eq!(decoy.encode(), verifiers.decoy(&user).encode());
        assert_ne!(decoy.salt, verifiers.decoy(&UserName::from("berta")).salt);
        let other_process = Verifiers::new(&mut StdRng::seed_from_u64(2));
        assert_ne!(decoy.salt, other_process.decoy(&user).salt);
    }

    #[test]
    fn a_changed_password_is_noticed() {
        let verifiers = verifiers();
        let user = UserName::from("anna");
        let old = verifiers.of_password(&user, &Password::new(b"old"));
        let new = verifiers.of_password(&user, &Password::new(b"new"));
        assert!(old.check_password(b"old").is_some());
        assert!(new.check_password(b"old").is_none());
        assert!(new.check_password(b"new").is_some());
        assert_eq!(verifiers.cached.lock().len(), 1);
    }

    #[test]
    fn known_and_unknown_users_have_the_same_count() {
        let verifiers = Verifiers::new(&mut StdRng::seed_from_u64(1));
        let (user, password) = (UserName::from("u"), Password::new(b"p"));
        for count in [1000, 4096, 1000] {
            verifiers.set_iterations(count);
            let counts = [verifiers.of_password(&user, &password).iterations, verifiers.decoy(&"x".into()).iterations];
            assert_eq!(counts, [count; 2]);
        }
    }

    #[test]
    fn the_cache_is_bounded() {
        let verifiers = verifiers();
        let verifier = Arc::new(verifiers.decoy(&UserName::from("x")));
        for number in 0..=MAX_CACHED {
            let user = UserName::from(format!("user{number}"));
            verifiers.keep(&user, Key::default(), Arc::clone(&verifier));
            assert!(verifiers.cached.lock().contains_key(&user));
        }
        assert_eq!(verifiers.cached.lock().len(), MAX_CACHED);
    }
}
