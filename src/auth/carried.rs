//! What logs in to servers, on its way to another process of the same Carpool, over a socket that only the two have.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Md5Secret, Password, ScramKeys, ServerCredentials};

/// [`ServerCredentials`] as plain data.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub enum CarriedCredentials {
    /// See there.
    None,
    /// The password, and keys derived from it.
    Password(Vec<u8>, Option<CarriedKeys>),
    /// See there.
    Md5([u8; 16]),
    /// See there.
    Keys(CarriedKeys),
    /// See there.
    ScramSecret,
}

/// [`ScramKeys`] as plain data.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct CarriedKeys {
    iterations: u32,
    salt: Vec<u8>,
    client_key: [u8; 32],
    server_key: [u8; 32],
}

impl From<&ScramKeys> for CarriedKeys {
    fn from(keys: &ScramKeys) -> Self {
        let (iterations, salt, client_key, server_key) = keys.parts();
        Self { iterations, salt: salt.to_vec(), client_key: *client_key, server_key: *server_key }
    }
}

impl From<&CarriedKeys> for ScramKeys {
    fn from(keys: &CarriedKeys) -> Self {
        Self::from_parts(keys.iterations, &keys.salt, keys.client_key, keys.server_key)
    }
}

impl From<&ServerCredentials> for CarriedCredentials {
    fn from(credentials: &ServerCredentials) -> Self {
        match credentials {
            ServerCredentials::None => Self::None,
            ServerCredentials::Password { password, keys } => {
                Self::Password(password.expose().to_vec(), keys.as_ref().map(CarriedKeys::from))
            }
            ServerCredentials::Md5Hash(hash) => Self::Md5(*hash.expose()),
            ServerCredentials::ScramKeys(keys) => Self::Keys(keys.into()),
            ServerCredentials::ScramSecret => Self::ScramSecret,
        }
    }
}

impl From<CarriedCredentials> for ServerCredentials {
    fn from(carried: CarriedCredentials) -> Self {
        match &carried {
            CarriedCredentials::None => Self::None,
            CarriedCredentials::Password(password, keys) => {
                Self::Password { password: Password::new(password), keys: keys.as_ref().map(ScramKeys::from) }
            }
            CarriedCredentials::Md5(hash) => Self::Md5Hash(Md5Secret::from_bytes(*hash)),
            CarriedCredentials::Keys(keys) => Self::ScramKeys(keys.into()),
            CarriedCredentials::ScramSecret => Self::ScramSecret,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(credentials: &ServerCredentials) -> ServerCredentials {
        let json = serde_json::to_vec(&CarriedCredentials::from(credentials)).unwrap();
        serde_json::from_slice::<CarriedCredentials>(&json).unwrap().into()
    }

    #[test]
    fn credentials_arrive_as_they_left() {
        let keys = ScramKeys::derive(b"secret", b"salt", 4096);
        let same =
            |other: &ScramKeys| other.fits(b"salt", 4096) && other.verifier().encode() == keys.verifier().encode();
        let password = Password::new(b"se\xffcret");
        let with_keys = ServerCredentials::Password { password, keys: Some(keys.clone()) };
        assert!(matches!(carry(&with_keys), ServerCredentials::Password { password, keys: Some(keys) }
            if password.expose() == b"se\xffcret" && same(&keys)));
        assert!(
            matches!(carry(&ServerCredentials::ScramKeys(keys.clone())), ServerCredentials::ScramKeys(k) if same(&k))
        );
        let hash = ServerCredentials::Md5Hash(Md5Secret::from_bytes([7; 16]));
        assert!(matches!(carry(&hash), ServerCredentials::Md5Hash(hash) if *hash.expose() == [7; 16]));
        assert!(matches!(carry(&ServerCredentials::None), ServerCredentials::None));
        assert!(matches!(carry(&ServerCredentials::ScramSecret), ServerCredentials::ScramSecret));
    }
}
