//! What fuzzing feeds: every reader of bytes that strangers send or files hold. No target may panic, hang, or take more
//! memory than its input. `fuzz/` runs them under libFuzzer, the tests over seeds, regressions and mutations of both.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::admin::command;
use crate::auth::jwt;
use crate::auth::scram::ChannelBinding;
use crate::auth::{
    Account, ClientAuth, ClientStep, Policy, ScramKeys, SecretKind, ServerAuth, ServerCredentials, ServerStep,
    StoredSecret, Verifiers,
};
use crate::client::startup::requested_settings;
use crate::config::jwt::{JwtKey, JwtKeyKind, JwtRules};
use crate::config::{self, AuthType, Secret};
use crate::names::UserName;
use crate::net;
use crate::protocol::settings::Settings;
use crate::protocol::{audit, request, sql};
use crate::replay::timeline;
use crate::stats::advisor::{advise, format};
use crate::stats::flight::Record;
use crate::tls::certificate::{self, Peer, ServerNames};
use crate::wire::startup::StartupPacket;
use crate::wire::{backend, frame, frontend, startup};

/// Takes any input.
pub type Target = fn(&[u8]);

/// The targets, by name.
pub const TARGETS: [(&str, Target); 16] = [
    ("frame", frames),
    ("startup", startup_packets),
    ("sasl", logins),
    ("toml", |data| with_text(data, crate::config::fuzzing::toml)),
    ("ini", |data| with_text(data, crate::config::fuzzing::ini)),
    ("userlist", |data| with_text(data, crate::config::fuzzing::userlist)),
    ("sql", texts),
    ("hba", |data| with_text(data, crate::config::fuzzing::hba)),
    ("pipeline", request::tests::operations),
    ("tls", tls_connections),
    ("certificate", certificates),
    ("jwt", tokens),
    ("console", |data| with_text(data, commands)),
    ("trace", |data| with_text(data, traces)),
    ("flight", flight_records),
    ("ledger", |data| with_text(data, crate::pool::budget::fuzzing::ledger)),
];

fn with_text(data: &[u8], read: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
}

/// Messages in both directions.
fn frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((header, body))) = frame::whole(rest) {
        let _ = (frontend::parse(body), frontend::query(body), frontend::bind_names(body), frontend::portal(body));
        let _ = (frontend::target(header.tag, body), backend::ready_for_query(body), backend::data_row(body));
        let _ = (backend::parameter_status(body), backend::backend_key_data(body), backend::notification(body));
        let _ = (backend::error_field(body, b'M'), backend::is_fatal(body));
        rest = &rest[header.total_len()..];
    }
    let _ = frame::peek(rest);
}

/// Packets before the protocol proper.
fn startup_packets(data: &[u8]) {
    let Ok(Some(len)) = frame::peek_startup(data) else { return };
    if let Some(packet) = data.get(..len) {
        if let Ok(StartupPacket::Startup(startup)) = startup::parse(packet) {
            let _ = (requested_settings(&startup), startup.extensions().count());
        }
    }
}

/// Whole exchanges, on both sides: the input is the messages of the other one, each with its length in front.
fn logins(data: &[u8]) {
    let _ = std::str::from_utf8(data).map(|text| StoredSecret::parse(&Secret::new(text)));
    let mut rng = StdRng::seed_from_u64(1);
    let (verifiers, user) = (Verifiers::new(&mut rng), UserName::from("user"));
    let secret = verifiers.decoy_secret(&user, SecretKind::Scram);
    for auth in [AuthType::ScramSha256, AuthType::Md5] {
        let policy = Policy::from(auth);
        let mut step = ClientAuth::start(&policy, &user, Account::Known(Some(&secret)), &verifiers, &mut rng);
        for message in messages(data) {
            step = match step {
                ClientStep::Send(_, auth) => auth.step(message),
                ended => ended,
            };
        }
        // Nobody knows this secret.
        assert!(!matches!(step, ClientStep::Done { .. }));
    }
    let keys = ScramKeys::derive(b"password", b"salt", 1);
    let mut auth = Some(ServerAuth::new(&user, ServerCredentials::ScramKeys(keys), ChannelBinding::None, &mut rng));
    for message in messages(data) {
        let Some(now) = auth.take() else { break };
        let code = u32::from(message.first().copied().unwrap_or_default());
        auth = match now.step(code, message.get(1..).unwrap_or_default()) {
            Ok(ServerStep::Send(_, next) | ServerStep::Wait(next)) => Some(next),
            Ok(ServerStep::Done(_)) | Err(_) => None,
        };
    }
}

fn messages(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (&len, behind) = rest.split_first()?;
        let (message, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        Some(message)
    })
}

/// Texts of queries.
fn texts(data: &[u8]) {
    let _ = (sql::read(data, &Settings::default()), sql::is_plain(data), audit::uses(data));
}

/// Both ends of an encrypted connection.
fn tls_connections(data: &[u8]) {
    static CONFIGS: LazyLock<Option<net::tls::fuzzing::Configs>> = LazyLock::new(net::tls::fuzzing::Configs::new);
    match &*CONFIGS {
        Some(configs) => configs.play(data),
        None => unreachable!("the key is a good one"),
    }
}

/// Certificates of the other side.
fn certificates(data: &[u8]) {
    let _ = (Peer::read(data, false), certificate::server_end_point(data), certificate::is_in_time(data, 1 << 31));
    if let Some(names) = ServerNames::read(data) {
        let _ = ["localhost", "a.example.com", "127.0.0.1", "::1", ""].map(|host| names.fits(host));
    }
}

/// Tokens as strangers send them, claims that the issuer has signed, and the issuer's keys.
fn tokens(data: &[u8]) {
    static SIGNER: LazyLock<Option<(EcdsaKeyPair, SystemRandom)>> = LazyLock::new(|| {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok()?;
        Some((EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).ok()?, random))
    });
    let (Some((pair, random)), Some((&kind, rest))) = (&*SIGNER, data.split_first()) else { return };
    let rules = JwtRules {
        keys: vec![JwtKey { id: None, kind: JwtKeyKind::P256(pair.public_key().as_ref().to_vec()) }],
        issuer: "https://issuer".into(),
        audience: vec!["carpool".into()],
        user_claim: "sub".into(),
        leeway: Duration::from_secs(30),
    };
    match kind % 3 {
        0 => assert!(jwt::verify(rest, &rules, 1 << 31).is_err(), "nobody has signed it"),
        1 => with_text(rest, crate::config::fuzzing::key_set),
        _ => {
            let part = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
            let signed = format!("{}.{}", part(b"{\"alg\":\"ES256\"}"), part(rest));
            let Ok(signature) = pair.sign(random, signed.as_bytes()) else { return };
            let token = format!("{signed}.{}", part(signature.as_ref()));
            let names_a_user = !matches!(jwt::verify(token.as_bytes(), &rules, 1 << 31), Ok(user) if user.is_empty());
            assert!(names_a_user, "nobody is let in without a name");
        }
    }
}

/// What is typed at the console.
fn commands(text: &str) {
    for part in command::split(text) {
        let _ = command::parse(part);
    }
}

/// What `carpool advise` reads.
fn traces(text: &str) {
    for trace in format::read(text).unwrap_or_default() {
        let advice = advise(&trace, &config::Target::default(), 4);
        assert!(advice.sizes.len() <= 4, "sizes that weren't asked for");
    }
}

/// What `carpool replay` reads.
fn flight_records(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        assert!(timeline(&record).lines().count() >= record.events.len(), "events are missing");
        assert!(Record::decode(&record.encode()).is_ok(), "what is written can be read");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;
    use std::path::Path;
    use std::time::Instant;

    /// Mutations of each seed.
    const ROUNDS: usize = 400;
    /// In the environment: how long each target is fed on, seconds, without what libFuzzer needs.
    const SECONDS: &str = "CARPOOL_FUZZ_SECONDS";
    /// Bytes that matter to some reader.
    const TOKENS: [&[u8]; 16] = [
        b"\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x04",
        b"'",
        b"\"",
        b"$$",
        b"/*",
        b"--",
        b"\\",
        b"=",
        b"[",
        b"]",
        b"\n",
        b",",
        b"{",
        b"SCRAM-SHA-256\0",
    ];

    fn files(directory: &str, target: &str) -> Vec<Vec<u8>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory).join(target);
        let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    fn mutated(mut bytes: Vec<u8>, other: &[u8], rng: &mut StdRng) -> Vec<u8> {
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, rng.random()),
                3 => bytes.truncate(at),
                4 => drop(bytes.splice(at..at, TOKENS[rng.random_range(0..TOKENS.len())].iter().copied())),
                _ => bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]),
            }
            bytes.truncate(4096);
        }
        bytes
    }

    /// Feeds one target; gives the number of inputs.
    fn feed((name, target): (&str, Target), seeds: &[Vec<u8>], rounds: usize, rng: &mut StdRng) -> usize {
        let feed = |input: &[u8]| {
            let done = std::panic::catch_unwind(|| target(input));
            assert!(done.is_ok(), "{name}: b\"{}\"", input.escape_ascii());
        };
        for seed in seeds {
            feed(seed);
            for _ in 0..rounds {
                let other = &seeds[rng.random_range(0..seeds.len())];
                feed(&mutated(seed.clone(), other, rng));
            }
        }
        seeds.len() * (rounds + 1)
    }

    #[test]
    fn seeds_regressions_and_their_mutations() {
        let seconds = std::env::var(SECONDS).map_or(0, |text| text.parse().unwrap());
        for (number, (name, target)) in TARGETS.into_iter().enumerate() {
            let mut rng = StdRng::seed_from_u64(number as u64);
            let seeds = [files("seeds", name), files("regressions", name)].concat();
            assert!(!seeds.is_empty(), "{name} has no seeds");
            // Whole histories of clients and servers, and handshakes, take their time.
            let rounds = if matches!(name, "pipeline" | "tls") { ROUNDS / 20 } else { ROUNDS };
            let mut count = feed((name, target), &seeds, rounds, &mut rng);
            let end = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < end {
                count += feed((name, target), &seeds, 20, &mut rng);
            }
            println!("{name}: {count} inputs");
        }
    }
}
