//! Signed tokens (JSON Web Tokens, RFC 7519) in the place of a password: is this one good, and whose is it?
//!
//! Only what `auth_type = jwt` needs: compact form, RS256 and ES256. The algorithm belongs to the key, never to the
//! token: one that names another is refused, `none` and the symmetric ones among them. What isn't known and must be
//! (`crit`) is refused. Signatures are `ring`'s.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::jwt::{JwtKey, JwtKeyKind, JwtRules};

/// Why a token isn't taken; for the log only.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JwtError {
    /// It isn't three parts of base64url, or one of them isn't the JSON that it should be.
    #[error("not a signed token: {0}")]
    Malformed(&'static str),
    /// Its header asks for something that isn't known.
    #[error("the token has critical extensions")]
    Critical,
    /// No key of `auth_jwks_file` has its name, or it has none and there are several.
    #[error("no key of auth_jwks_file is meant by the token's kid")]
    UnknownKey,
    /// Its header names another algorithm than the key's.
    #[error("the token's alg is not {0}, which the key is for")]
    WrongAlgorithm(&'static str),
    /// The signature isn't by that key.
    #[error("the signature is not by the key")]
    WrongSignature,
    /// It has run out.
    #[error("the token has expired")]
    Expired,
    /// It isn't valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// A claim is missing, or of the wrong type.
    #[error("the claim {0} is missing, or not what it must be")]
    Claim(Claim),
    /// It comes from somebody else.
    #[error("the token is not by auth_jwt_issuer")]
    WrongIssuer,
    /// It is for somebody else.
    #[error("the token is not for auth_jwt_audience")]
    WrongAudience,
}

/// The name of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim(String);

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Checks a token at the time `now` (seconds since 1970) and gives the user's name that it has.
///
/// # Errors
/// Why it isn't taken.
pub fn verify(token: &[u8], rules: &JwtRules, now: u64) -> Result<String, JwtError> {
    let token = std::str::from_utf8(token).map_err(|_| JwtError::Malformed("it is not text"))?;
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed("it has no parts"))?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed("it has two parts"))?;
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed("its header is no JSON object"))?;
    if header.crit.is_some() {
        return Err(JwtError::Critical);
    }
    let key = choose(&rules.keys, header.kid.as_deref())?;
    check_signature(key, &header.alg, signed.as_bytes(), &decode(signature)?)?;
    let claims = serde_json::from_slice(&decode(claims)?);
    check_claims(&claims.map_err(|_| JwtError::Malformed("its claims are no JSON object"))?, rules, now)
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed("a part is not base64url"))
}

/// A token without a `kid` is by the only key.
fn choose<'k>(keys: &'k [JwtKey], id: Option<&str>) -> Result<&'k JwtKey, JwtError> {
    match (id, keys) {
        (None, [only]) => Ok(only),
        (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)).ok_or(JwtError::UnknownKey),
        _ => Err(JwtError::UnknownKey),
    }
}

fn check_signature(key: &JwtKey, algorithm: &str, signed: &[u8], given: &[u8]) -> Result<(), JwtError> {
    let own = match key.kind {
        JwtKeyKind::Rsa { .. } => "RS256",
        JwtKeyKind::P256(_) => "ES256",
    };
    if algorithm != own {
        return Err(JwtError::WrongAlgorithm(own));
    }
    let checked = match &key.kind {
        JwtKeyKind::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }.verify(
            &signature::RSA_PKCS1_2048_8192_SHA256,
            signed,
            given,
        ),
        JwtKeyKind::P256(point) => {
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, given)
        }
    };
    checked.map_err(|_| JwtError::WrongSignature)
}

fn check_claims(claims: &Map<String, Value>, rules: &JwtRules, now: u64) -> Result<String, JwtError> {
    let wrong = |name: &str| JwtError::Claim(Claim(name.to_owned()));
    let now = i128::from(now);
    let leeway = i128::from(rules.leeway.as_secs());
    let expires = seconds(claims.get("exp")).ok_or_else(|| wrong("exp"))?;
    if expires + leeway <= now {
        return Err(JwtError::Expired);
    }
    if let Some(begins) = claims.get("nbf") {
        if seconds(Some(begins)).ok_or_else(|| wrong("nbf"))? > now + leeway {
            return Err(JwtError::NotYetValid);
        }
    }
    if claims.get("iss").and_then(Value::as_str) != Some(&rules.issuer) {
        return Err(JwtError::WrongIssuer);
    }
    let is_ours = |value: &Value| value.as_str().is_some_and(|name| rules.audience.iter().any(|own| own == name));
    let is_for_us = match claims.get("aud") {
        Some(Value::Array(several)) => several.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if !is_for_us {
        return Err(JwtError::WrongAudience);
    }
    let user = claims.get(&rules.user_claim).and_then(Value::as_str).filter(|name| !name.is_empty());
    user.map(str::to_owned).ok_or_else(|| wrong(&rules.user_claim))
}

/// A time in seconds since 1970, which may have a fraction.
fn seconds(value: Option<&Value>) -> Option<i128> {
    let value = value?;
    #[expect(clippy::cast_possible_truncation, reason = "a number beyond i128 becomes its end")]
    let rounded = || value.as_f64().filter(|number| number.is_finite()).map(|number| number.floor() as i128);
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    // Far beyond any date sums could overflow.
    whole.or_else(rounded).map(|number| number.clamp(i64::MIN.into(), i64::MAX.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::Duration;

    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct Signer {
        pair: EcdsaKeyPair,
        random: SystemRandom,
    }

    static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::new);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
            Self { pair, random }
        }

        fn key(&self, id: Option<&str>) -> JwtKey {
            let point = self.pair.public_key().as_ref().to_vec();
            JwtKey { id: id.map(str::to_owned), kind: JwtKeyKind::P256(point) }
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn rules(keys: Vec<JwtKey>) -> JwtRules {
        JwtRules {
            keys,
            issuer: "https://issuer".into(),
            audience: vec!["carpool".into(), "other".into()],
            user_claim: "sub".into(),
            leeway: Duration::from_secs(30),
        }
    }

    fn claims() -> Value {
        json!({ "iss": "https://issuer", "aud": "carpool", "sub": "ann", "exp": NOW + 60 })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    /// What comes of these claims, signed right.
    fn judged(claims: &Value) -> Result<String, JwtError> {
        let token = SIGNER.sign(&json!({ "alg": "ES256", "typ": "JWT" }), claims);
        verify(token.as_bytes(), &rules(vec![SIGNER.key(None)]), NOW)
    }

    #[test]
    fn claims_are_checked() {
        assert_eq!(judged(&claims()).as_deref(), Ok("ann"));
        let missing = |name: &str| Err(JwtError::Claim(Claim(name.to_owned())));
        for (claims, expected) in [
            (with("aud", json!(["x", "other"])), Ok("ann".to_owned())),
            (with("aud", json!(["x"])), Err(JwtError::WrongAudience)),
            (with("aud", json!("carpool2")), Err(JwtError::WrongAudience)),
            (with("aud", json!(null)), Err(JwtError::WrongAudience)),
            (with("iss", json!("https://issuer/")), Err(JwtError::WrongIssuer)),
            (with("iss", json!(["https://issuer"])), Err(JwtError::WrongIssuer)),
            (with("exp", json!(NOW - 29)), Ok("ann".to_owned())),
            (with("exp", json!(NOW - 30)), Err(JwtError::Expired)),
            (with("exp", json!(NOW as f64 + 0.5)), Ok("ann".to_owned())),
            (with("exp", json!(1e300)), Ok("ann".to_owned())),
            (with("exp", json!(-1)), Err(JwtError::Expired)),
            (with("exp", json!((NOW + 9).to_string())), missing("exp")),
            (with("exp", json!(null)), missing("exp")),
            (with("nbf", json!(NOW + 30)), Ok("ann".to_owned())),
            (with("nbf", json!(NOW + 31)), Err(JwtError::NotYetValid)),
            (with("nbf", json!("soon")), missing("nbf")),
            (with("sub", json!("")), missing("sub")),
            (with("sub", json!(7)), missing("sub")),
        ] {
            assert_eq!(judged(&claims), expected, "{claims}");
        }
        let mut other = rules(vec![SIGNER.key(None)]);
        other.user_claim = "email".into();
        let token = SIGNER.sign(&json!({ "alg": "ES256" }), &with("email", json!("ann@x")));
        assert_eq!(verify(token.as_bytes(), &other, NOW).as_deref(), Ok("ann@x"));
    }

    #[test]
    fn the_header_decides_nothing() {
        let rules = rules(vec![SIGNER.key(Some("a")), Signer::new().key(Some("b"))]);
        for (header, expected) in [
            (json!({ "alg": "ES256", "kid": "a" }), Ok("ann".to_owned())),
            (json!({ "alg": "ES256", "kid": "b" }), Err(JwtError::WrongSignature)),
            (json!({ "alg": "ES256", "kid": "c" }), Err(JwtError::UnknownKey)),
            (json!({ "alg": "ES256" }), Err(JwtError::UnknownKey)),
            (json!({ "alg": "none", "kid": "a" }), Err(JwtError::WrongAlgorithm("ES256"))),
            (json!({ "alg": "HS256", "kid": "a" }), Err(JwtError::WrongAlgorithm("ES256"))),
            (json!({ "alg": "RS256", "kid": "a" }), Err(JwtError::WrongAlgorithm("ES256"))),
            (json!({ "alg": "es256", "kid": "a" }), Err(JwtError::WrongAlgorithm("ES256"))),
            (json!({ "alg": "ES256", "kid": "a", "crit": ["exp"] }), Err(JwtError::Critical)),
            (json!({ "kid": "a" }), Err(JwtError::Malformed("its header is no JSON object"))),
        ] {
            assert_eq!(verify(SIGNER.sign(&header, &claims()).as_bytes(), &rules, NOW), expected, "{header}");
        }
    }

    #[test]
    fn an_unsigned_token_is_nothing() {
        let rules = rules(vec![SIGNER.key(None)]);
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let bare = format!("{}.{}.", part(json!({ "alg": "none" })), part(claims()));
        assert_eq!(verify(bare.as_bytes(), &rules, NOW), Err(JwtError::WrongAlgorithm("ES256")));
        let empty = format!("{}.{}.", part(json!({ "alg": "ES256" })), part(claims()));
        assert_eq!(verify(empty.as_bytes(), &rules, NOW), Err(JwtError::WrongSignature));
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let key = SIGNER.key(None);
        let JwtKeyKind::P256(point) = &key.kind else { panic!("{key:?}") };
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "HS256" })), part(claims()));
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(point).unwrap();
        mac.update(signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        assert_eq!(verify(token.as_bytes(), &rules(vec![key]), NOW), Err(JwtError::WrongAlgorithm("ES256")));
    }

    /// The example of RFC 7515, appendix A.2, whose claims aren't ours.
    #[test]
    fn rsa_signatures_of_the_rfc() {
        const MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-\
             yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-\
             UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkM\
             Ls91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp\
             0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJ\
             dbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_\
             dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_I\
             oypGlUPQGe77Rw";
        let modulus = URL_SAFE_NO_PAD.decode(MODULUS).unwrap();
        let kind = JwtKeyKind::Rsa { modulus, exponent: vec![1, 0, 1] };
        let rules = rules(vec![JwtKey { id: None, kind }]);
        assert_eq!(verify(TOKEN.as_bytes(), &rules, NOW), Err(JwtError::Expired));
        assert_eq!(verify(TOKEN.as_bytes(), &rules, 1_300_819_379), Err(JwtError::WrongIssuer));
        let forged = TOKEN.replacen("eyJpc3MiOiJqb2UiLA0K", "eyJpc3MiOiJqb3UiLA0K", 1);
        assert_eq!(verify(forged.as_bytes(), &rules, NOW), Err(JwtError::WrongSignature));
    }

    proptest! {
        #[test]
        fn never_panics(token in prop::collection::vec(any::<u8>(), 0..60), text in "[A-Za-z0-9._-]{0,60}") {
            let rules = rules(vec![SIGNER.key(None)]);
            prop_assert!(verify(&token, &rules, NOW).is_err() && verify(text.as_bytes(), &rules, NOW).is_err());
        }

        #[test]
        fn no_changed_byte_is_taken(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
            let token = SIGNER.sign(&json!({ "alg": "ES256" }), &claims());
            let mut changed = token.clone();
            let at = at.index(token.len());
            changed.replace_range(at..=at, &to);
            // The last character has bits that don't count, which base64 refuses unless they are zero.
            prop_assume!(changed != token);
            prop_assert!(verify(changed.as_bytes(), &rules(vec![SIGNER.key(None)]), NOW).is_err());
        }
    }
}
