//! Signed tokens in the place of a password.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::{Rules, told, with_password};
use crate::harness::tls::Files;
use crate::harness::{Carpool, Setup, eventually};

/// Who makes tokens.
pub struct Issuer {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl Issuer {
    pub fn new(id: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self { pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap(), id }
    }

    pub fn jwks(&self) -> String {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y }] }).to_string()
    }

    pub fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "ES256", "kid": self.id })), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub fn claims(user: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({ "iss": "https://idp", "aud": ["carpool"], "sub": user, "exp": now + 600 })
}

pub fn settings(files: &Files) -> String {
    let jwks = files.path("jwks").display().to_string();
    format!("auth_jwks_file = \"{jwks}\"\nauth_jwt_issuer = \"https://idp\"\nauth_jwt_audience = \"carpool\"\n")
}

#[test]
fn a_token_lets_its_user_in() {
    let (files, issuer) = (Files::new(), Issuer::new("one"));
    files.write("jwks", &issuer.jwks());
    let setup = Setup::pooler(&format!("auth_type = \"jwt\"\n{}", settings(&files))).database("user = \"app\"");
    let carpool = Carpool::start(&setup);
    let login = |user: &str, token: &str| with_password(&carpool, user, &carpool.database, token);
    // Nobody needs to be known beforehand.
    assert!(login("ann", &issuer.token(&claims("ann"))).is_none(), "{}", carpool.log());
    let mut late = claims("ann");
    late["exp"] = json!(1_000_000_000);
    let mut other = claims("ann");
    other["aud"] = json!("else");
    for (token, reason) in [
        (issuer.token(&claims("bob")), "which is not that user"),
        (issuer.token(&late), "has expired"),
        (issuer.token(&other), "not for auth_jwt_audience"),
        (Issuer::new("one").token(&claims("ann")), "signature"),
        (Issuer::new("two").token(&claims("ann")), "kid"),
        ("password".to_owned(), "not a signed token"),
    ] {
        let before = carpool.log().len();
        let error = login("ann", &token).unwrap_or_else(|| panic!("{reason}: in"));
        assert_eq!(told(&error), ("28000".to_owned(), "JWT authentication failed for user \"ann\"".to_owned()));
        eventually("the log has the reason", || carpool.log()[before..].contains(reason).then_some(()));
        assert!(!carpool.log().contains(&token) || token == "password", "the token is in the log");
    }
    // A changed key holds from the reload on.
    let next = Issuer::new("next");
    files.write("jwks", &next.jwks());
    carpool.signal("HUP");
    eventually("the new key holds", || login("ann", &next.token(&claims("ann"))).is_none().then_some(()));
    assert!(login("ann", &issuer.token(&claims("ann"))).is_some());
}

#[test]
fn by_line_and_by_map() {
    let (files, issuer) = (Files::new(), Issuer::new("one"));
    files.write("jwks", &issuer.jwks());
    let hba = "host all app all jwt map=mail\nhost all all all reject\n";
    let rules = Rules::start(hba, "mail /^(.*)@example\\.com$ \\1\n", &settings(&files), "");
    let database = rules.carpool.database.clone();
    let login = |claim: &str| with_password(&rules.carpool, "app", &database, &issuer.token(&claims(claim)));
    assert!(login("app@example.com").is_none(), "{}", rules.carpool.log());
    for other in ["app", "app@example.org", "bob@example.com"] {
        assert_eq!(told(&login(other).unwrap()).0, "28000", "{other}");
    }
}
