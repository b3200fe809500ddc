//! The md5 challenge: the client sends `md5` and the hex of `md5(hex(md5(password ‖ user)) ‖ salt)`.
//!
//! Both sides need only the inner hash, an [`Md5Secret`].

use ::md5::{Digest, Md5};

use super::secret::Md5Secret;
use subtle::ConstantTimeEq;

/// Bytes of the random salt in an `AuthenticationMD5Password`.
pub const SALT_LEN: usize = 4;

/// md5 of the parts put together.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().into()
}

/// The answer to a challenge: 35 characters, without the NUL that ends it on the wire.
#[must_use]
pub fn respond(secret: &Md5Secret, salt: [u8; SALT_LEN]) -> [u8; 35] {
    let outer = hash(&[&hex(secret.expose()), &salt]);
    let mut response = [0; 35];
    response[..3].copy_from_slice(b"md5");
    response[3..].copy_from_slice(&hex(&outer));
    response
}

/// Whether `response` is the answer to the challenge; compares in constant time.
#[must_use]
pub fn verify(secret: &Md5Secret, salt: [u8; SALT_LEN], response: &[u8]) -> bool {
    respond(secret, salt)[..].ct_eq(response).into()
}

fn hex(hash: &[u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|index| {
        let byte = hash[index / 2];
        let digit = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
        DIGITS[usize::from(digit)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secret::Password;
    use crate::names::UserName;
    use proptest::prelude::*;

    #[test]
    fn known_answer() {
        let secret = Md5Secret::of_password(&UserName::from("md5_user"), &Password::new(b"password"));
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let response = respond(&secret, salt);
        assert_eq!(&response, b"md562af4dd09bbb41884907a838a3233294");
        assert!(verify(&secret, salt, &response));
    }

    #[test]
    fn only_the_whole_answer_is_right() {
        let secret = Md5Secret::from_bytes([7; 16]);
        let salt = *b"salt";
        let response = respond(&secret, salt);
        for end in 0..response.len() {
            assert!(!verify(&secret, salt, &response[..end]));
            let mut wrong = response;
            wrong[end] ^= 1;
            assert!(!verify(&secret, salt, &wrong));
        }
        assert!(!verify(&secret, *b"tlas", &response));
        assert!(!verify(&secret, salt, &[&response[..], b"\0"].concat()));
    }

    proptest! {
        #[test]
        fn answers_as_postgres_protocol(user: String, password: Vec<u8>, salt: [u8; 4]) {
            let secret = Md5Secret::of_password(&UserName::from(user.as_str()), &Password::new(&password));
            let theirs = postgres_protocol::authentication::md5_hash(user.as_bytes(), &password, salt);
            prop_assert_eq!(&respond(&secret, salt)[..], theirs.as_bytes());
        }
    }
}
