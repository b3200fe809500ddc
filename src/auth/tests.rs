//! Both drivers against each other: [`ServerAuth`] plays the client that logs in to [`ClientAuth`].

use super::sasl::{InitialResponse, MAX_CLIENT_MESSAGE, Mechanisms};
use super::scram::client::ScramClientError;
use super::*;
use crate::config::{AuthType, Secret};
use crate::error::ClientError;
use crate::names::UserName;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

const MD5: &str = "md5a1c2cced0c3bcb0923524fd5300c40be";
const SCRAM: &str = "SCRAM-SHA-256$4096:sSPH3ClElxUm3mAsK/k09g==$AjVBrdRb3Cr4AO4jP8xutJfdoKWUCwJ1pFtjXL4cRRU=:pYTlh3CudnqPCA8S/XvxPVbMG/Wrm6xBA9wasT7/AOM=";

fn rng() -> StdRng {
    StdRng::seed_from_u64(3)
}

fn verifiers() -> Verifiers {
    Verifiers::new(&mut rng())
}

/// The user whose name is in `MD5`; its password is `secret` in all three forms.
fn user() -> UserName {
    UserName::from("h")
}

fn stored(text: &str) -> StoredSecret {
    StoredSecret::parse(&Secret::new(text))
}

fn password(text: &str) -> ServerCredentials {
    ServerCredentials::Password { password: Password::new(text.as_bytes()), keys: None }
}

fn client_side(credentials: ServerCredentials) -> ServerAuth {
    ServerAuth::new(&user(), credentials, ChannelBinding::None, &mut rng())
}

fn split(body: &[u8]) -> (u32, &[u8]) {
    let (code, rest) = body.split_first_chunk().unwrap();
    (u32::from_be_bytes(*code), rest)
}

fn sent(step: ClientStep) -> (Vec<u8>, ClientAuth) {
    match step {
        ClientStep::Send(body, next) => (body, next),
        other => panic!("{other:?}"),
    }
}

fn answered(step: Result<ServerStep, ServerAuthError>) -> (Vec<u8>, ServerAuth) {
    match step {
        Ok(ServerStep::Send(body, next)) => (body, next),
        other => panic!("{other:?}"),
    }
}

fn start(policy: &Policy, account: Account<'_>) -> ClientStep {
    ClientAuth::start(policy, &user(), account, &verifiers(), &mut rng())
}

/// What came of a login, and the code and length of every message on the way, the client's with code 'p'.
struct Login {
    result: Result<(Proven, Option<ScramKeys>), AuthFailure>,
    shape: Vec<(u32, usize)>,
}

fn login(auth_type: AuthType, account: Account<'_>, credentials: ServerCredentials) -> Login {
    login_with(&auth_type.into(), account, credentials)
}

fn login_with(policy: &Policy, account: Account<'_>, credentials: ServerCredentials) -> Login {
    let mut client = ServerAuth::new(&user(), credentials, policy.binding.clone(), &mut StdRng::seed_from_u64(4));
    let mut step = start(policy, account);
    let mut shape = Vec::new();
    loop {
        match step {
            ClientStep::Send(body, next) => {
                let (code, rest) = split(&body);
                let (answer, next_client) = answered(client.step(code, rest));
                shape.push((code, rest.len()));
                shape.push((u32::from(b'p'), answer.len()));
                client = next_client;
                step = next.step(&answer);
            }
            ClientStep::Done { last_message, proven } => {
                if let Some(body) = last_message {
                    let (code, rest) = split(&body);
                    let Ok(ServerStep::Wait(next)) = client.step(code, rest) else {
                        panic!("the client isn't content");
                    };
                    client = next;
                }
                let Ok(ServerStep::Done(keys)) = client.step(code::OK, b"") else {
                    panic!("the client isn't content");
                };
                let result = Ok((proven, keys));
                return Login { result, shape };
            }
            ClientStep::Failed(failure) => {
                let result = Err(failure);
                return Login { result, shape };
            }
        }
    }
}

/// What was proven, or why not: `n`othing, `p`assword, `k`eys.
fn outcome(auth_type: AuthType, secret: &str, given: &str) -> Result<char, FailureReason> {
    let secret = stored(secret);
    let account = Account::Known(Some(&secret));
    match login(auth_type, account, password(given)).result {
        Ok((Proven::Nothing, _)) => Ok('n'),
        Ok((Proven::Password { password, .. }, _)) => {
            assert_eq!(password.expose(), given.as_bytes());
            Ok('p')
        }
        Ok((Proven::Keys(keys), derived)) => {
            assert_eq!(keys.verifier().encode(), derived.unwrap().verifier().encode());
            Ok('k')
        }
        Err(failure) => Err(failure.reason()),
    }
}

#[test]
fn each_method_with_each_secret() {
    use FailureReason::{OnlyMd5Secret, WrongPassword};
    for (auth_type, secret, expected) in [
        (AuthType::Plain, "secret", Ok('p')),
        (AuthType::Plain, MD5, Ok('p')),
        (AuthType::Plain, SCRAM, Ok('p')),
        (AuthType::Md5, "secret", Ok('n')),
        (AuthType::Md5, MD5, Ok('n')),
        (AuthType::Md5, SCRAM, Ok('k')),
        (AuthType::ScramSha256, "secret", Ok('n')),
        (AuthType::ScramSha256, MD5, Err(OnlyMd5Secret)),
        (AuthType::ScramSha256, SCRAM, Ok('k')),
        (AuthType::Trust, "secret", Ok('n')),
        (AuthType::Any, "secret", Ok('n')),
    ] {
        let name = format!("{auth_type:?} {secret}");
        assert_eq!(outcome(auth_type, secret, "secret"), expected, "{name}");
        if expected == Ok('n') && matches!(auth_type, AuthType::Trust | AuthType::Any) {
            continue;
        }
        let wrong = outcome(auth_type, secret, "Secret");
        assert_eq!(wrong, expected.and(Err(WrongPassword)), "{name}");
        // Whoever has read the file of secrets must not get in with what stands in it.
        if secret != "secret" {
            assert!(outcome(auth_type, secret, secret).is_err(), "{name}");
        }
    }
}

#[test]
fn trust_needs_a_known_user_and_any_does_not() {
    let done = |auth_type: AuthType, account| {
        let step = start(&auth_type.into(), account);
        matches!(step, ClientStep::Done { last_message: None, .. })
    };
    assert!(done(AuthType::Trust, Account::Known(None)));
    assert!(!done(AuthType::Trust, Account::Unknown));
    assert!(done(AuthType::Any, Account::Unknown));
    let failed = login(AuthType::Trust, Account::Unknown, ServerCredentials::None);
    let error = ClientError::from(failed.result.unwrap_err());
    assert_eq!(error.message, "role \"h\" does not exist");
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    for (auth_type, secret) in [
        (AuthType::Plain, "other"),
        (AuthType::Plain, MD5),
        (AuthType::Plain, SCRAM),
        (AuthType::Md5, "other"),
        (AuthType::Md5, MD5),
        (AuthType::Md5, SCRAM),
        (AuthType::ScramSha256, "other"),
        (AuthType::ScramSha256, MD5),
        (AuthType::ScramSha256, SCRAM),
    ] {
        let secret = stored(secret);
        let policy = Policy { decoy: secret.kind(), ..auth_type.into() };
        let attempt = |account| {
            let login = login_with(&policy, account, password("wrong"));
            let failure = login.result.unwrap_err();
            let reason = failure.reason();
            (reason, login.shape, ClientError::from(failure))
        };
        let known = attempt(Account::Known(Some(&secret)));
        for (account, reason) in [
            (Account::Unknown, FailureReason::UnknownUser),
            (Account::Known(None), FailureReason::NoPassword),
            (Account::Known(Some(&stored(""))), FailureReason::NoPassword),
        ] {
            let other = attempt(account);
            assert_eq!(other.0, reason, "the log says it");
            assert_eq!(other.1, known.1, "{policy:?}");
            assert_eq!(format!("{:?}", other.2), format!("{:?}", known.2));
        }
        assert_eq!(known.2.code, crate::error::SqlState::INVALID_PASSWORD);
        assert_eq!(known.2.message, "password authentication failed for user \"h\"");
    }
}

#[test]
fn an_unknown_users_salt_stays_the_same() {
    let verifiers = verifiers();
    let plain = stored("secret");
    let mut number = 0;
    let mut salt = |account: Account<'_>| {
        number += 1;
        let mut rng = StdRng::seed_from_u64(number);
        let policy = AuthType::ScramSha256.into();
        let step = ClientAuth::start(&policy, &user(), account, &verifiers, &mut rng);
        let first = InitialResponse::encode("SCRAM-SHA-256", b"n,,n=,r=x");
        let (body, _) = sent(sent(step).1.step(&first));
        let text = String::from_utf8(body[4..].to_vec()).unwrap();
        let (nonce, salt) = text.split_once(',').unwrap();
        (nonce.to_owned(), salt.to_owned())
    };
    let tries = [salt(Account::Unknown), salt(Account::Unknown), salt(Account::Known(Some(&plain)))];
    assert!(tries.iter().all(|(_, salt)| *salt == tries[0].1));
    assert_ne!(tries[0].0, tries[1].0);
}

#[test]
fn an_empty_password_never_logs_in() {
    let empty = stored("");
    for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        let login = login(auth_type, Account::Known(Some(&empty)), password(""));
        assert!(login.result.is_err(), "{auth_type:?}");
    }
}

#[test]
fn an_initial_response_may_come_later() {
    let secret = stored(SCRAM);
    let step = start(&AuthType::ScramSha256.into(), Account::Known(Some(&secret)));
    let (_, server) = sent(step);
    let (body, server) = sent(server.step(b"SCRAM-SHA-256\0\xff\xff\xff\xff"));
    assert_eq!(split(&body), (code::SASL_CONTINUE, &b""[..]));
    let (body, _) = sent(server.step(b"n,,n=,r=x"));
    assert!(split(&body).1.starts_with(b"r=x"));
}

#[test]
fn what_is_wrong_with_a_password_message() {
    let fails = |auth_type: AuthType, body: &[u8]| {
        let secret = stored("secret");
        let (_, server) = sent(start(&auth_type.into(), Account::Known(Some(&secret))));
        match server.step(body) {
            ClientStep::Failed(failure) => failure.reason(),
            other => panic!("{other:?}"),
        }
    };
    let mut long = vec![b'x'; MAX_PASSWORD_MESSAGE];
    long.push(0);
    for auth_type in [AuthType::Plain, AuthType::Md5] {
        assert_eq!(fails(auth_type, b"\0"), FailureReason::EmptyPassword);
        for body in [&b""[..], b"secret", b"secret\0\0", b"sec\0ret\0", &long] {
            let reason = fails(auth_type, body);
            assert_eq!(reason, FailureReason::InvalidPasswordMessage);
        }
    }
    let long = vec![b'x'; MAX_CLIENT_MESSAGE + 1];
    let reason = fails(AuthType::ScramSha256, &long);
    assert_eq!(reason, FailureReason::Sasl(sasl::SaslError::TooLong));
    assert!(matches!(fails(AuthType::ScramSha256, b"SCRAM-SHA-256\0\0\0\0\0"), FailureReason::Scram(_)));
}

/// Each message a client sends, cut at every byte, ends the login.
#[test]
fn messages_of_a_client_cut_anywhere() {
    for (auth_type, secret) in [(AuthType::Plain, "secret"), (AuthType::Md5, MD5), (AuthType::ScramSha256, SCRAM)] {
        let secret = stored(secret);
        let begin = || start(&auth_type.into(), Account::Known(Some(&secret)));
        // The keys of the stored secret, so that no round of this test derives anything.
        let keys = match &secret {
            StoredSecret::Scram(verifier) => verifier.check_password(b"secret"),
            _ => None,
        };
        let mut answers: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut client = client_side(match &keys {
                Some(keys) => ServerCredentials::ScramKeys(keys.clone()),
                None => password("secret"),
            });
            let mut step = begin();
            for answer in &answers {
                let (body, server) = sent(step);
                let (code, rest) = split(&body);
                client = answered(client.step(code, rest)).1;
                step = server.step(answer);
            }
            let ClientStep::Send(body, _) = step else {
                assert!(matches!(step, ClientStep::Done { .. }));
                break;
            };
            let (code, rest) = split(&body);
            let (right, _) = answered(client.step(code, rest));
            for end in 0..right.len() {
                let mut step = begin();
                for answer in &answers {
                    step = sent(step).1.step(answer);
                }
                let cut = sent(step).1.step(&right[..end]);
                assert!(matches!(cut, ClientStep::Failed(_)), "{auth_type:?} {end}");
            }
            answers.push(right);
        }
        assert!(!answers.is_empty());
    }
}

#[test]
fn credentials_come_from_the_secret_or_the_login() {
    let keys = || ScramKeys::derive(b"secret", b"salt", 1);
    let seen = || Proven::Password { password: Password::new(b"seen"), keys: Some(keys()) };
    for (secret, proven, expected) in [
        (Some("plain"), Proven::Nothing, "a password"),
        (Some("plain"), seen(), "a password"),
        (Some(MD5), Proven::Nothing, "only an md5 secret"),
        (Some(MD5), seen(), "a password"),
        (Some(SCRAM), Proven::Keys(keys()), "only SCRAM keys"),
        (Some(SCRAM), seen(), "a password"),
        (None, seen(), "a password"),
        (None, Proven::Nothing, "no password"),
        (Some(""), Proven::Nothing, "no password"),
    ] {
        let secret = secret.map(stored);
        let credentials = ServerCredentials::new(secret.as_ref(), &proven);
        assert_eq!(kind(&credentials), expected);
    }
    let secret = stored(SCRAM);
    assert!(matches!(ServerCredentials::new(Some(&secret), &Proven::Nothing), ServerCredentials::ScramSecret));
}

fn kind(credentials: &ServerCredentials) -> &'static str {
    match credentials {
        ServerCredentials::None => "no password",
        ServerCredentials::Password { .. } => "a password",
        ServerCredentials::Md5Hash(_) => "only an md5 secret",
        ServerCredentials::ScramKeys(_) => "only SCRAM keys",
        ServerCredentials::ScramSecret => "a SCRAM secret",
    }
}

#[test]
fn what_is_missing_is_named() {
    let scram = Mechanisms::encode(&["SCRAM-SHA-256"]);
    let keys = || ServerCredentials::ScramKeys(ScramKeys::derive(b"secret", b"salt", 1));
    let hash = || ServerCredentials::Md5Hash(Md5Secret::from_bytes([0; 16]));
    for (credentials, code, body, text) in [
        (
            hash(),
            code::SASL,
            &scram[..],
            "server requests SCRAM-SHA-256 authentication but only an md5 secret is known for user \"h\"",
        ),
        (
            ServerCredentials::None,
            code::SASL,
            &scram,
            "server requests SCRAM-SHA-256 authentication but no password is known for user \"h\"",
        ),
        (
            ServerCredentials::ScramSecret,
            code::SASL,
            &scram,
            "server requests SCRAM-SHA-256 authentication but only a SCRAM secret, whose keys no client's SCRAM login has shown yet, is known for user \"h\"",
        ),
        (
            keys(),
            code::MD5_PASSWORD,
            b"salt",
            "server requests md5 password authentication but nothing but SCRAM keys is known for user \"h\"",
        ),
        (
            hash(),
            code::CLEARTEXT_PASSWORD,
            b"",
            "server requests cleartext password authentication but only an md5 secret is known for user \"h\"",
        ),
        (keys(), code::GSS, b"", "server requests GSSAPI authentication for user \"h\", which is not supported"),
        (keys(), 99, b"", "server requests unknown (99) authentication for user \"h\", which is not supported"),
        (
            keys(),
            code::SASL,
            b"OAUTHBEARER\0X\x1b\0\0",
            "server requests SASL OAUTHBEARER/X\\x1b authentication for user \"h\", which is not supported",
        ),
    ] {
        let error = client_side(credentials).step(code, body).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    let nul = client_side(password("a\0b"));
    let error = nul.step(code::CLEARTEXT_PASSWORD, b"").unwrap_err();
    assert_eq!(error, ServerAuthError::NulInPassword(user()));
}

/// Every state of a login to a server, and the codes that may come there.
fn server_states() -> Vec<(&'static str, ServerAuth, &'static [u32])> {
    let keys = stored_keys();
    let scram = |credentials| answered(client_side(credentials).step(code::SASL, SCRAM_OFFER));
    let StoredSecret::Scram(verifier) = stored(SCRAM) else {
        panic!("a SCRAM secret");
    };
    let credentials = || ServerCredentials::ScramKeys(keys.clone());
    let (initial, first) = scram(credentials());
    let (_, same_first) = scram(credentials());
    let (_, again) = scram(credentials());
    let server = scram::server::ServerFirst::new(verifier, ChannelBinding::None, &mut rng());
    let initial = InitialResponse::parse(&initial).unwrap();
    let message = initial.response.unwrap();
    let (server, server_first) = server.client_first(scram::server::Mechanism::Scram, message).unwrap();
    let (client_final, last) = answered(first.step(code::SASL_CONTINUE, &server_first));
    let (_, same_last) = answered(same_first.step(code::SASL_CONTINUE, &server_first));
    let verified = server.client_final(&client_final).unwrap();
    let Ok(ServerStep::Wait(done)) = last.step(code::SASL_FINAL, &verified.server_final) else {
        panic!("the signature is right");
    };
    let sent = |code, rest: &[u8]| answered(client_side(password("secret")).step(code, rest)).1;
    vec![
        ("password", sent(code::CLEARTEXT_PASSWORD, b""), &[code::OK]),
        ("md5", sent(code::MD5_PASSWORD, b"salt"), &[code::OK]),
        ("first", again, &[code::SASL_CONTINUE]),
        ("final", same_last, &[code::SASL_FINAL]),
        ("done", done, &[code::OK]),
        ("start", client_side(credentials()), &[code::OK, code::SASL]),
    ]
}

const SCRAM_OFFER: &[u8] = b"SCRAM-SHA-256\0\0";

fn stored_keys() -> ScramKeys {
    let StoredSecret::Scram(verifier) = stored(SCRAM) else {
        panic!("a SCRAM secret");
    };
    verifier.check_password(b"secret").unwrap()
}

#[test]
fn no_message_of_a_server_out_of_order() {
    let states = server_states().len();
    for (index, code) in (0..states).flat_map(|index| (0..14).map(move |code| (index, code))) {
        let (name, state, allowed) = server_states().swap_remove(index);
        if allowed.contains(&code) {
            continue;
        }
        // Before anything was asked for, a method that isn't spoken or a body that is too short has its own error.
        let answers = [code::SASL_CONTINUE, code::SASL_FINAL, code::GSS_CONTINUE];
        let error = state.step(code, b"").unwrap_err();
        if name == "start" && !answers.contains(&code) {
            continue;
        }
        assert!(
            matches!(error, ServerAuthError::OutOfOrder { code: named, .. } if named == code),
            "{name} {code}: {error}"
        );
    }
}

#[test]
fn a_server_that_skips_the_proof_is_refused() {
    for (name, state, _) in server_states() {
        let result = state.step(code::OK, b"");
        let refused = matches!(result, Err(ServerAuthError::OutOfOrder { .. }));
        assert_eq!(refused, matches!(name, "first" | "final"), "{name}");
    }
}

#[test]
fn bodies_of_a_server_have_their_length() {
    for (code, body) in [
        (code::OK, &b"x"[..]),
        (code::CLEARTEXT_PASSWORD, b"x"),
        (code::MD5_PASSWORD, b""),
        (code::MD5_PASSWORD, b"abc"),
        (code::MD5_PASSWORD, b"abcde"),
        (code::SASL, b""),
        (code::SASL, b"SCRAM-SHA-256"),
        (code::SASL, b"SCRAM-SHA-256\0"),
        (code::SASL, &[b'x'; 100_000]),
    ] {
        let result = client_side(password("secret")).step(code, body);
        assert!(
            matches!(result, Err(ServerAuthError::Malformed { .. } | ServerAuthError::Sasl(_))),
            "{code} {result:?}"
        );
    }
    let (_, first) = answered(client_side(password("x")).step(code::SASL, SCRAM_OFFER));
    let result = first.step(code::SASL_CONTINUE, &[b'x'; 100_000]);
    assert!(matches!(result, Err(ServerAuthError::Malformed { .. })));
}

#[test]
fn passed_through_keys_of_another_secret_are_named() {
    let keys = ScramKeys::derive(b"secret", b"another salt", 4096);
    let (initial, client) = answered(client_side(ServerCredentials::ScramKeys(keys)).step(code::SASL, SCRAM_OFFER));
    let secret = stored(SCRAM);
    let policy = AuthType::ScramSha256.into();
    let (_, server) = sent(start(&policy, Account::Known(Some(&secret))));
    let (body, _) = sent(server.step(&initial));
    let (code, rest) = split(&body);
    let error = client.step(code, rest).unwrap_err();
    let expected = ScramClientError::AnotherSecret;
    assert!(matches!(error, ServerAuthError::Scram { error, .. } if error == expected));
}

#[test]
fn keys_pass_from_the_client_to_the_server() {
    let secret = stored(SCRAM);
    let account = Account::Known(Some(&secret));
    for auth_type in [AuthType::ScramSha256, AuthType::Plain] {
        let (proven, _) = login(auth_type, account, password("secret")).result.unwrap();
        let credentials = ServerCredentials::new(Some(&secret), &proven);
        let (_, keys) = login(AuthType::ScramSha256, account, credentials).result.unwrap();
        assert!(keys.is_some());
    }
}

#[test]
fn channel_binding_inside_tls() {
    let secret = stored(SCRAM);
    let policy = Policy { binding: ChannelBinding::TlsServerEndPoint(vec![5; 32]), ..AuthType::ScramSha256.into() };
    let account = Account::Known(Some(&secret));
    let bound = login_with(&policy, account, password("secret"));
    assert!(bound.result.is_ok());
    let offer = Mechanisms::encode(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    assert_eq!(bound.shape[0], (code::SASL, offer.len()));
}

#[test]
fn debug_shows_no_secret() {
    let secret = stored("hunter2");
    for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        let policy = auth_type.into();
        let (_, server) = sent(start(&policy, Account::Known(Some(&secret))));
        let client = client_side(password("hunter2"));
        let shown = format!("{server:?} {client:?} {:?}", password("hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("***"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a client sends in whatever order, without the password it isn't let in.
    #[test]
    fn nobody_guesses_their_way_in(
        auth in 0usize..3,
        bodies in proptest::collection::vec(
            prop_oneof![
                any::<Vec<u8>>(),
                Just(b"SCRAM-SHA-256\0\xff\xff\xff\xff".to_vec()),
                Just(b"n,,n=,r=x".to_vec()),
                Just(InitialResponse::encode("SCRAM-SHA-256", b"n,,n=,r=x")),
                "c=biws,r=x[a-z]{0,5},p=[A-Z]{43}=".prop_map(String::into_bytes),
            ],
            0..5,
        ),
    ) {
        let auth_type = [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256][auth];
        let secret = stored(if auth == 1 { MD5 } else { "a long enough password" });
        let mut step = start(&auth_type.into(), Account::Known(Some(&secret)));
        for body in bodies {
            match step {
                ClientStep::Send(_, next) => step = next.step(&body),
                ClientStep::Done { .. } => prop_assert!(false, "let in"),
                ClientStep::Failed(_) => break,
            }
        }
    }

    /// A server that knows nothing never gets through a SCRAM exchange.
    #[test]
    fn an_impostor_never_gets_through(
        messages in proptest::collection::vec((9u32..14, any::<Vec<u8>>()), 0..4),
        skip in 0u32..14,
    ) {
        let mut state = answered(client_side(password("secret")).step(code::SASL, SCRAM_OFFER)).1;
        for (code, rest) in messages.iter().map(|(code, rest)| (*code, &rest[..])).chain([(skip, &b""[..])]) {
            match state.step(code, rest) {
                Ok(ServerStep::Send(_, next)) => state = next,
                Ok(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
                Err(_) => break,
            }
        }
    }
}
