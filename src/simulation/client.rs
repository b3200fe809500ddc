//! Clients: they ask, and hold each answer against what it must be.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::model::{Expect, Group, Model};
use super::stage::Stage;
use crate::net::listener::Accepted;
use crate::net::stream::Stream;
use crate::net::{Peer, simulated, timer, world};
use crate::pooler::accept;
use crate::wire::startup::{self, CancelKey};
use crate::wire::{backend, frame, frontend};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The errors that a client may get where servers fail.
const OF_FAULTS: [&str; 5] = ["57P01", "57P03", "53300", "08006", "08000"];

/// The connection is over.
struct Gone;

struct Client<'a> {
    stage: &'a Rc<Stage>,
    stream: Stream,
    model: Model,
    input: Vec<u8>,
    key: Option<CancelKey>,
}

/// One client after the other, until all come to their ends.
pub(super) async fn run(stage: Rc<Stage>) {
    while !stage.is_stopping() {
        let id = stage.next_client();
        let mut client =
            Client { stage: &stage, stream: connect(&stage), model: Model::new(id), input: vec![], key: None };
        let ended = client.live().await;
        stage.note(|| format!("client {id} {}", if ended.is_ok() { "leaves" } else { "is sent away" }));
        stage.is_gone(id);
        drop(client);
        if stage.once_in(2) {
            timer::sleep(stage.time(50_000)).await;
        }
    }
    stage.clients.set(stage.clients.get() - 1);
}

fn connect(stage: &Stage) -> Stream {
    let (near, stream) = simulated::connection();
    let peer = Peer::Tcp(SocketAddr::from(([10, 0, 0, 1], 1)));
    world::spawn(accept::admit(Arc::clone(&stage.admin), Accepted { stream, peer, local: None }));
    near
}

impl Client<'_> {
    async fn live(&mut self) -> Result<(), Gone> {
        self.log_in().await?;
        for _ in 0..self.stage.below(40) {
            if self.stage.is_stopping() {
                break;
            }
            if self.stage.once_in(4) {
                timer::sleep(self.stage.time(20_000)).await;
            }
            let batch = if self.stage.once_in(4) { 1 + self.stage.below(4) } else { 1 };
            let groups: Vec<_> = (0..batch).map(|_| self.model.group(self.stage)).collect();
            if self.stage.fails_once_in(60) {
                return self.vanish(&groups).await;
            }
            self.ask(&groups).await?;
        }
        if self.model.status != b'I' && (!self.stage.faults || self.stage.once_in(2)) {
            let group = self.model.end();
            self.ask(&[group]).await?;
        }
        if self.stage.once_in(2) {
            let mut message = Vec::new();
            frontend::put_empty(&mut message, frontend::tag::TERMINATE);
            self.stage.is_gone(self.model.id);
            let _ = self.stream.write_all(&message).await;
        }
        Ok(())
    }

    /// Leaves at any byte of its requests.
    async fn vanish(&mut self, groups: &[Group]) -> Result<(), Gone> {
        let mut bytes: Vec<u8> = groups.iter().flat_map(|group| group.bytes.iter().copied()).collect();
        bytes.truncate(usize::try_from(self.stage.below(bytes.len() as u64 + 1)).unwrap());
        let _ = self.stream.write_all(&bytes).await;
        if self.stage.once_in(2) {
            timer::sleep(self.stage.time(3_000)).await;
        }
        Ok(())
    }

    async fn log_in(&mut self) -> Result<(), Gone> {
        let (database, user) = self.stage.logs_in(self.model.id);
        let mut parameters = vec![("user", user.to_owned()), ("database", database.to_owned())];
        for (name, chances) in [("application_name", 2), ("DateStyle", 6)] {
            if self.stage.once_in(chances) {
                let value = self.model.value();
                self.model.values.insert(name, Some(value.clone()));
                parameters.push((name, value));
            }
        }
        let mut message = Vec::new();
        let parameters = parameters.iter().map(|(name, value)| (*name, value.as_str()));
        startup::put_startup(&mut message, startup::PROTOCOL_3_0, parameters);
        if self.stage.fails_once_in(40) {
            message.truncate(usize::try_from(self.stage.below(message.len() as u64)).unwrap());
            let _ = self.stream.write_all(&message).await;
            return Err(Gone);
        }
        self.stage.note(|| format!("client {} logs in to {database} as {user}", self.model.id));
        self.stream.write_all(&message).await.map_err(|_| Gone)?;
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                backend::tag::AUTHENTICATION => assert_eq!(body, [0; 4]),
                backend::tag::BACKEND_KEY_DATA => {
                    let key = backend::backend_key_data(&body).unwrap();
                    self.stage.is_in(self.model.id, key.pid);
                    self.key = Some(key);
                }
                backend::tag::READY_FOR_QUERY => return Ok(()),
                backend::tag::ERROR_RESPONSE => return Err(self.failed(&body).await),
                backend::tag::PARAMETER_STATUS => self.parameter(&body),
                other => panic!("client {} got {} at its login", self.model.id, char::from(other)),
            }
        }
    }

    async fn ask(&mut self, groups: &[Group]) -> Result<(), Gone> {
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.bytes.iter().copied()).collect();
        self.stage.note(|| format!("client {} asks {}", self.model.id, bytes.escape_ascii()));
        if self.stream.write_all(&bytes).await.is_err() {
            // It is told why first.
            return self.until_gone().await;
        }
        if self.stage.fails_once_in(12) {
            self.cancel();
        }
        let mut strict = true;
        for group in groups {
            match strict {
                true => strict = self.answered(group).await?,
                false => drop(self.until_ready().await?),
            }
        }
        Ok(())
    }

    fn cancel(&self) {
        let Some(key) = &self.key else { return };
        let mut message = Vec::new();
        startup::put_cancel(&mut message, key);
        let (stage, id) = (Rc::clone(self.stage), self.model.id);
        self.stage.spawn(async move {
            timer::sleep(stage.time(5_000)).await;
            stage.note(|| format!("client {id} cancels"));
            stage.cancel_wanted(id);
            let mut stream = connect(&stage);
            let _ = stream.write_all(&message).await;
            if !stage.once_in(4) {
                // As PostgreSQL, it hangs up when it is done.
                let _ = stream.read(&mut [0; 16]).await;
            }
        });
    }

    /// Reads the answer to a group. False: it was another one than it should have been, for a good reason.
    async fn answered(&mut self, group: &Group) -> Result<bool, Gone> {
        let mut expected = group.expect.iter();
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                backend::tag::PARAMETER_STATUS => {
                    self.parameter(&body);
                    continue;
                }
                backend::tag::NOTICE_RESPONSE => continue,
                _ => {}
            }
            let expect = expected.next();
            let row = || String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned();
            let fits = match (expect, tag) {
                (Some(Expect::Kind(kind)), tag) => *kind == tag,
                (Some(Expect::Row(value)), b'D') => *value == row(),
                (Some(Expect::Unsure(name)), b'D') => {
                    let value = row();
                    let fits = self.model.is_own(name, &value);
                    // Unless it has set it behind this, in the same batch.
                    let known = self.model.values.get_mut(name).filter(|_| self.model.status == b'I');
                    if let Some(unknown @ None) = known {
                        *unknown = Some(value);
                    }
                    fits
                }
                (Some(Expect::Error(code)), b'E') => error_code(&body) == *code,
                (Some(Expect::Ready(status)), b'Z') => [*status] == *body,
                _ => false,
            };
            if fits && tag == b'Z' {
                self.stage.note_reply();
                return Ok(true);
            }
            if fits {
                continue;
            }
            if tag == b'E' {
                let end = self.failed(&body).await;
                if is_fatal(&body) {
                    return Err(end);
                }
                let status = self.until_ready().await?;
                self.model.doubt(status);
                return Ok(false);
            }
            let (id, tag, body) = (self.model.id, char::from(tag), body.escape_ascii());
            panic!("client {id} got {tag} {body} for {expect:?} of {group:?}");
        }
    }

    /// Reads on after something has failed: what comes must still be its own.
    async fn until_ready(&mut self) -> Result<u8, Gone> {
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                b'Z' => {
                    self.model.doubt(body[0]);
                    return Ok(body[0]);
                }
                b'E' if is_fatal(&body) => return Err(self.failed(&body).await),
                b'D' => {
                    let value = String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned();
                    let own = value.parse::<u64>().is_ok_and(|tag| tag / super::model::TAGS == self.model.id)
                        || super::model::SETTINGS.iter().any(|name| self.model.is_own(name, &value));
                    assert!(own, "client {} got a row that isn't its own: {value}", self.model.id);
                }
                b'S' => self.parameter(&body),
                _ => {}
            }
        }
    }

    /// An error that it didn't ask for.
    async fn failed(&mut self, body: &[u8]) -> Gone {
        let (code, id) = (error_code(body), self.model.id);
        self.stage.note(|| format!("client {id} gets {}", body.escape_ascii()));
        let cancelled = code == "57014" && self.stage.has_cancelled(id);
        let fine = cancelled || self.stage.faults && OF_FAULTS.contains(&code.as_str());
        assert!(fine, "client {id} got an error: {}", body.escape_ascii());
        if is_fatal(body) {
            let end = self.until_end().await;
            assert!(end, "client {id} got more after its end");
        }
        Gone
    }

    /// Whether nothing but the end comes.
    async fn until_end(&mut self) -> bool {
        let mut rest = [0; 16];
        self.input.is_empty() && matches!(self.stream.read(&mut rest).await, Ok(0) | Err(_))
    }

    async fn until_gone(&mut self) -> Result<(), Gone> {
        while let Ok((tag, body)) = self.next().await {
            if tag == b'E' && is_fatal(&body) {
                return Err(self.failed(&body).await);
            }
        }
        Err(Gone)
    }

    /// The parameters that it is told are its own.
    fn parameter(&self, body: &[u8]) {
        let (name, value) = backend::parameter_status(body).unwrap();
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        if super::model::SETTINGS.contains(&&*name) {
            let id = self.model.id;
            assert!(self.model.is_own(&name, &value), "client {id} is told that {name} is {value}");
        }
    }

    /// The next message.
    async fn next(&mut self) -> Result<(u8, Vec<u8>), Gone> {
        loop {
            if let Some((header, body)) = frame::whole(&self.input).unwrap() {
                let body = body.to_vec();
                self.input.drain(..header.total_len());
                return Ok((header.tag, body));
            }
            if self.stage.once_in(50) {
                timer::sleep(self.stage.time(200_000)).await;
            }
            let read = timer::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            let Ok(read) = read else { panic!("client {} waits for ever", self.model.id) };
            if !matches!(read, Ok(1..)) {
                let id = self.model.id;
                assert!(self.stage.faults, "client {id} lost its connection: {read:?}");
                return Err(Gone);
            }
        }
    }
}

fn error_code(body: &[u8]) -> String {
    String::from_utf8_lossy(backend::error_field(body, b'C').unwrap_or_default()).into_owned()
}

fn is_fatal(body: &[u8]) -> bool {
    backend::error_field(body, b'V').or_else(|| backend::error_field(body, b'S')) == Some(b"FATAL")
}
