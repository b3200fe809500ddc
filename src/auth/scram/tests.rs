//! Both sides against each other, against rust-postgres, and against values from RFC 7677 and PostgreSQL 15.

use super::client::{self, ScramCredentials};
use super::server::{Mechanism, ScramError, ServerFirst};
use super::*;
use crate::auth::secret::Password;
use postgres_protocol::authentication::sasl;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

/// Runs an exchange between both sides of this module.
fn run(
    verifier: &ScramVerifier,
    credentials: ScramCredentials,
    bindings: [&ChannelBinding; 2],
) -> Result<[ScramKeys; 2], ScramError> {
    let server = ServerFirst::new(Arc::new(verifier.clone()), bindings[0].clone(), &mut rng());
    let offers = |name: &str| server.mechanisms().contains(&name);
    let start = client::start(credentials, bindings[1], offers, nonce(&mut rng())).unwrap();
    let mechanism = server.choose(start.mechanism.as_bytes())?;
    let (server, server_first) = server.client_first(mechanism, &start.client_first)?;
    let (client, client_final) = start.state.server_first(&server_first).unwrap();
    let verified = server.client_final(&client_final)?;
    let keys = client.server_final(&verified.server_final).unwrap();
    Ok([verified.keys, keys])
}

fn password(text: &[u8]) -> ScramCredentials {
    ScramCredentials::Password(Password::new(text), None)
}

#[test]
fn rfc_7677_example() {
    let keys = ScramKeys::derive(b"pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
    let client_first = b"n=user,r=rOprNGfwEbeRWgbNEkqO";
    let server_first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let client_final = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let message = AuthMessage([client_first, server_first, client_final]);
    let proof = xor(&keys.client_key, &message.signed_with(&keys.verifier().stored_key));
    assert_eq!(STANDARD.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert_eq!(STANDARD.encode(message.signed_with(&keys.server_key)), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

/// Secrets made by `CREATE ROLE … PASSWORD` in PostgreSQL 15: ASCII, Cyrillic, a character that SASLprep drops, one
/// that it decomposes, a non-ASCII space, a forbidden control character, mixed directions, and an unassigned one.
#[test]
fn secrets_of_postgresql_15() {
    for (password, secret) in [
        (
            "secret",
            "SCRAM-SHA-256$4096:sSPH3ClElxUm3mAsK/k09g==$AjVBrdRb3Cr4AO4jP8xutJfdoKWUCwJ1pFtjXL4cRRU=:pYTlh3CudnqPCA8S/XvxPVbMG/Wrm6xBA9wasT7/AOM=",
        ),
        (
            "секрет",
            "SCRAM-SHA-256$4096:hZnR/xob5v7gXGSgRf6mpA==$/DA2Qwsxm/nSutjS97tOidQQRpf1LmDQRUzXMkaNi0Q=:CHSYtZx3nTE8V88+GI3Yzr5ancsYJ3FzsZ1Fx2kJUFI=",
        ),
        (
            "I\u{ad}X",
            "SCRAM-SHA-256$4096:O2DyIthy17L2AVK+TAqgLA==$W3ZCZxBs/8SPZ5NkwhfqxSUCBmxRGrYRjCVfJ4m2dOM=:NZhTz0VMa54w7DsJmJUBQtvG6xWMH+YzrFBc2gMGZ7g=",
        ),
        (
            "\u{2168}",
            "SCRAM-SHA-256$4096:GWsZJulmvKzjIpDd/CY9SA==$2BzqQq36m1GeGVuVd3HQ6dHFwP8J8I+hsaA/Rp2Txus=:U1UePFU/QRneDG2sE6q13HkA6qSNGSdBeeGWutIcS+U=",
        ),
        (
            "pass\u{a0}word",
            "SCRAM-SHA-256$4096:NFBC3s7g3lcgx10FEphmxQ==$w4XrMAH+uyBHtqPYZehScFePdHod0zHcYO/Q0qW0qR0=:GYnqOlL3P8xw/kkZerK6yRf19xaTGWv5MTFqzn0e6xI=",
        ),
        (
            "a\u{7}b",
            "SCRAM-SHA-256$4096:VsQucTODVqZrVGvHOnwo3A==$9EUO55pB7p46dLqsl/PScBvCbbbRnAhxCMFFiRXUdfg=:9zBPes1Tnfgh7VQkzFM9Vg8gbl4yB6AzIj31ANna1ok=",
        ),
        (
            "\u{627}x",
            "SCRAM-SHA-256$4096:BcdMvcjtRZnjSzMdXXF2jQ==$x9u8oMf+sfa2NZRhAZRwk0v3LOZo0cgXWX8Ym4mNEe4=:OPpEEBFiR5iYZRqZOJu+9dOoMg8koSMMigLbmG1bgCM=",
        ),
        (
            "\u{221}",
            "SCRAM-SHA-256$4096:gDlzc2C1/10+WopSmVM/ZA==$Vnx5QQ5yl3hQztVk65fe3CCNVTtnJxfBGL1MeZrO6qs=:q7yLcLjJgPzhoHbEQcuWcQG7EGUuYU/0keNACfmXpUI=",
        ),
    ] {
        let verifier = ScramVerifier::parse(secret).unwrap();
        let keys = verifier.check_password(password.as_bytes());
        let keys = keys.unwrap_or_else(|| panic!("{password:?}"));
        assert_eq!(keys.verifier().encode(), secret, "{password:?}");
    }
}

#[test]
fn saslprep_falls_back_to_the_bytes() {
    for raw in [&b"\xff\xfe"[..], "\u{ad}".as_bytes(), b"a\x07b", b"", b"plain"] {
        assert_eq!(&*saslprep(raw), raw);
    }
    assert_eq!(&*saslprep("\u{2168}\u{a0}".as_bytes()), b"IX ");
}

#[test]
fn both_sides_agree_and_keys_pass_through() {
    let verifier = ScramKeys::derive(b"secret", b"salt of 16 bytes", 5).verifier();
    let tls = ChannelBinding::TlsServerEndPoint(vec![9; 32]);
    for binding in [&ChannelBinding::None, &tls] {
        let [learned, derived] = run(&verifier, password(b"secret"), [binding; 2]).unwrap();
        assert_eq!(learned.client_key, derived.client_key);
        assert_eq!(learned.server_key, derived.server_key);
        run(&verifier, ScramCredentials::Keys(learned), [binding; 2]).unwrap();
        let error = run(&verifier, password(b"other"), [binding; 2]).unwrap_err();
        assert_eq!(error, ScramError::WrongProof);
    }
}

#[test]
fn a_relayed_channel_binding_is_noticed() {
    let verifier = ScramKeys::derive(b"secret", b"salt", 1).verifier();
    let ours = ChannelBinding::TlsServerEndPoint(vec![1; 32]);
    let theirs = ChannelBinding::TlsServerEndPoint(vec![2; 32]);
    assert_eq!(run(&verifier, password(b"secret"), [&ours, &theirs]).unwrap_err(), ScramError::ChannelBindingMismatch);
    assert!(run(&verifier, password(b"secret"), [&ours, &ChannelBinding::None]).is_ok());
}

/// Runs rust-postgres' client against the server's side; the keys if both are content.
fn run_rust_postgres(
    verifier: &ScramVerifier,
    password: &[u8],
    mechanism: Mechanism,
    bindings: (ChannelBinding, sasl::ChannelBinding),
) -> Result<ScramKeys, ScramError> {
    let mut client = sasl::ScramSha256::new(password, bindings.1);
    let server = ServerFirst::new(Arc::new(verifier.clone()), bindings.0, &mut rng());
    let (server, message) = server.client_first(mechanism, client.message())?;
    client.update(&message).unwrap();
    let verified = server.client_final(client.message())?;
    client.finish(&verified.server_final).unwrap();
    Ok(verified.keys)
}

#[test]
fn rust_postgres_logs_in() {
    let verifier = ScramVerifier::parse(&postgres_protocol::password::scram_sha_256(b"secret"));
    let verifier = verifier.unwrap();
    let none = || ChannelBinding::None;
    let tls = || ChannelBinding::TlsServerEndPoint(vec![3; 32]);
    for (mechanism, bindings) in [
        (Mechanism::Scram, (none(), sasl::ChannelBinding::unsupported())),
        (Mechanism::Scram, (none(), sasl::ChannelBinding::unrequested())),
        (Mechanism::ScramPlus, (tls(), sasl::ChannelBinding::tls_server_end_point(vec![3; 32]))),
    ] {
        let keys = run_rust_postgres(&verifier, b"secret", mechanism, bindings).unwrap();
        assert_eq!(keys.verifier().encode(), verifier.encode());
    }
    let bindings = (none(), sasl::ChannelBinding::unsupported());
    let error = run_rust_postgres(&verifier, b"Secret", Mechanism::Scram, bindings).unwrap_err();
    assert_eq!(error, ScramError::WrongProof);
}

#[test]
fn debug_shows_no_keys() {
    let keys = ScramKeys::derive(b"secret", b"salt", 1);
    let shown = format!("{keys:?} {:?}", keys.verifier());
    assert_eq!(shown, "ScramKeys(***) ScramVerifier(***)");
}

proptest! {
    #[test]
    fn any_password_works_and_another_does_not(mine: Vec<u8>, other: Vec<u8>, salt: [u8; 16], rounds in 1u32..4) {
        let verifier = ScramKeys::derive(&mine, &salt, rounds).verifier();
        let bindings = [&ChannelBinding::None; 2];
        prop_assert!(run(&verifier, password(&mine), bindings).is_ok());
        if saslprep(&mine) != saslprep(&other) {
            prop_assert!(run(&verifier, password(&other), bindings).is_err());
        }
        prop_assert_eq!(ScramVerifier::parse(&verifier.encode()).unwrap().encode(), verifier.encode());
    }

    #[test]
    fn iterations_are_plain_decimals(text in "[0-9+ -]{0,12}") {
        let parsed = parse_iterations(text.as_bytes());
        if let Some(number) = parsed {
            prop_assert_eq!(number.to_string(), text);
        }
    }
}
