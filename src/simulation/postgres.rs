//! PostgreSQL: the model of a backend that the protocol's tests have, behind a connection, with what can go wrong.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::stage::Stage;
use crate::error::{ClientError, SqlState};
use crate::net::stream::Stream;
use crate::net::timer;
use crate::protocol::request::tests::backend::Backend;
use crate::wire::frontend::tag;
use crate::wire::startup::{self, CancelKey, Secret, StartupPacket};
use crate::wire::{backend, frame};

/// How a server ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Death {
    /// It says why.
    Fatal,
    /// It closes.
    Closed,
    /// The connection breaks.
    Reset,
}

/// A server as the others see it.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) database: String,
    pub(super) user: String,
    secret: [u8; 4],
    death: Cell<Option<Death>>,
    changed: Notify,
    /// Whose query it runs.
    runs: Cell<Option<u64>>,
    cancelled: Cell<bool>,
    /// It has been sent a request.
    pub(super) is_used: Cell<bool>,
    pub(super) is_logged_in: Cell<bool>,
}

impl Control {
    /// Ends it.
    pub(super) fn die(&self, death: Death) {
        self.death.set(Some(death));
        self.changed.notify_one();
    }
}

/// Forgets the server at its end.
struct Entry {
    stage: Rc<Stage>,
    pid: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.stage.backends.borrow_mut().remove(&self.pid);
    }
}

struct Session {
    stage: Rc<Stage>,
    stream: Stream,
    pid: u32,
    control: Rc<Control>,
    backend: Backend,
    input: Vec<u8>,
    /// How much of `input` was looked at.
    seen: usize,
    /// Whose transaction, or requests, it has.
    owner: Option<u64>,
    /// Requests of the extended protocol before their Sync.
    is_open: bool,
    _entry: Entry,
}

/// The session is over.
struct Over;

type Done = Result<(), Over>;

/// Serves a connection.
pub(super) async fn serve(stage: Rc<Stage>, mut stream: Stream) {
    let mut input = Vec::new();
    let packet = loop {
        if let Some(len) = frame::peek_startup(&input).unwrap() {
            if input.len() >= len {
                break startup::parse(&input.drain(..len).collect::<Vec<_>>()).unwrap();
            }
        }
        if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
            return;
        }
    };
    match packet {
        StartupPacket::Cancel(key) => cancel(&stage, &key),
        StartupPacket::Startup(startup) => {
            assert!(input.is_empty(), "bytes behind the startup packet");
            let parameter = |name| startup.parameter(name).unwrap_or_default().to_owned();
            let place = (parameter("database"), parameter("user"));
            if let Some(mut session) = log_in(stage, stream, place).await {
                let _ = session.run().await;
                session.stage.note(|| format!("server {} ends", session.pid));
            }
        }
        other => panic!("{other:?}"),
    }
}

fn cancel(stage: &Stage, key: &CancelKey) {
    let found = stage.backends.borrow().get(&key.pid).cloned();
    let Some(control) = found.filter(|control| control.secret == *key.secret) else { return };
    stage.note(|| format!("server {} is told to cancel, runs {:?}", key.pid, control.runs.get()));
    if let Some(client) = control.runs.get() {
        stage.cancel_hits(client);
        control.cancelled.set(true);
        control.changed.notify_one();
    }
}

async fn log_in(stage: Rc<Stage>, mut stream: Stream, (database, user): (String, String)) -> Option<Session> {
    if stage.once_in(3) {
        timer::sleep(stage.time(20_000)).await;
    }
    if stage.fails_once_in(30) {
        // It says nothing until the other end has had enough.
        let _ = stream.read(&mut [0; 16]).await;
        return None;
    }
    let mut hello = Vec::new();
    if stage.fails_once_in(15) {
        let code = if stage.once_in(2) { SqlState::CANNOT_CONNECT_NOW } else { SqlState::TOO_MANY_CONNECTIONS };
        backend::put_error(&mut hello, &ClientError::fatal(code, "not now"));
        let _ = stream.write_all(&hello).await;
        return None;
    }
    let pid = stage.next_pid();
    let secret = u32::try_from(stage.below(1 << 32)).unwrap().to_be_bytes();
    let control = Rc::new(Control { database, user, secret, ..Control::default() });
    let model = Backend::new(&stage.database, &[]);
    backend::put_authentication(&mut hello, &[0; 4]);
    for (name, value) in model.reported() {
        backend::put_parameter_status(&mut hello, name.as_bytes(), value.as_bytes());
    }
    backend::put_parameter_status(&mut hello, b"server_version", b"15.0");
    backend::put_backend_key(&mut hello, &CancelKey { pid, secret: Secret::Short(secret) });
    backend::put_ready(&mut hello, backend::TransactionStatus::Idle);
    stage.backends.borrow_mut().insert(pid, Rc::clone(&control));
    let entry = Entry { stage: Rc::clone(&stage), pid };
    stream.write_all(&hello).await.ok()?;
    control.is_logged_in.set(true);
    stage.note(|| format!("server {pid} is logged in"));
    let (input, seen, owner, is_open) = (Vec::new(), 0, None, false);
    Some(Session { stage, stream, pid, control, backend: model, input, seen, owner, is_open, _entry: entry })
}

impl Session {
    async fn run(&mut self) -> Done {
        loop {
            self.run_whole().await?;
            if self.is_free() {
                self.owner = None;
            }
            self.read().await?;
        }
    }

    /// Whether nothing is owed, and there is no transaction.
    fn is_free(&self) -> bool {
        self.backend.is_idle() && !self.is_open && self.input.is_empty()
    }

    /// Runs what is there of whole messages.
    async fn run_whole(&mut self) -> Done {
        while let Some((header, body)) = frame::whole(&self.input).unwrap() {
            let (message, body) = (header.tag, body.to_vec());
            if message == tag::TERMINATE {
                return Err(Over);
            }
            self.control.is_used.set(true);
            self.stage.check_servers(&self.control.database);
            self.stage.note(|| format!("server {} runs {} {}", self.pid, char::from(message), body.escape_ascii()));
            let whole: Vec<u8> = self.input.drain(..header.total_len()).collect();
            self.seen = self.seen.saturating_sub(whole.len());
            if matches!(message, tag::QUERY | tag::EXECUTE) {
                self.take_time().await?;
            }
            self.is_open = !matches!(message, tag::QUERY | tag::SYNC)
                && (self.is_open || !matches!(message, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL));
            if self.control.cancelled.replace(false) {
                self.backend.cancelled(message);
            } else {
                self.backend.feed(&whole);
            }
            self.write().await?;
        }
        Ok(())
    }

    /// A query runs, for as long as it takes.
    async fn take_time(&mut self) -> Done {
        let time = match self.stage.below(40) {
            0..6 => 3_000,
            6 => 400_000,
            7 if self.stage.faults => 10_000_000,
            _ => return self.check_death().await,
        };
        self.control.runs.set(self.owner);
        let sleep = timer::sleep(self.stage.time(time));
        tokio::select! {
            biased;
            () = self.control.changed.notified() => {}
            () = sleep => {}
        }
        self.control.runs.set(None);
        self.check_death().await
    }

    async fn check_death(&mut self) -> Done {
        let Some(death) = self.control.death.get() else { return Ok(()) };
        self.stage.note_loss();
        self.stage.note(|| format!("server {} dies: {death:?}", self.pid));
        match death {
            Death::Fatal => {
                let mut message = Vec::new();
                let error = ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection");
                backend::put_error(&mut message, &error);
                let _ = self.stream.write_all(&message).await;
            }
            Death::Closed => {}
            Death::Reset => self.reset(),
        }
        Err(Over)
    }

    fn reset(&mut self) {
        if let Stream::Simulated(stream) = &mut self.stream {
            stream.reset();
        }
    }

    async fn write(&mut self) -> Done {
        let mut output = std::mem::take(&mut self.backend.output);
        if output.is_empty() {
            return Ok(());
        }
        if self.control.death.get() == Some(Death::Reset) {
            // At any byte.
            output.truncate(usize::try_from(self.stage.below(output.len() as u64)).unwrap());
            let _ = self.stream.write_all(&output).await;
            return self.check_death().await;
        }
        let last = match output.len() {
            n if n > 6 && self.stage.once_in(3) => output.split_off(n - 6),
            _ => Vec::new(),
        };
        self.stream.write_all(&output).await.map_err(|_| Over)?;
        if !last.is_empty() {
            timer::sleep(self.stage.time(2_000)).await;
            // Whoever comes before the end of this has come too early.
            self.look().await?;
            self.stream.write_all(&last).await.map_err(|_| Over)?;
        }
        Ok(())
    }

    /// Reads what is there.
    async fn look(&mut self) -> Done {
        let (stream, mut buf) = (&mut self.stream, [0; 2048]);
        let read = std::future::poll_fn(|cx| Poll::Ready(stream.poll_read_into(cx, &mut buf))).await;
        match read {
            Poll::Ready(Ok(n @ 1..)) => {
                self.input.extend_from_slice(&buf[..n]);
                self.check_owner();
                Ok(())
            }
            Poll::Ready(Ok(_) | Err(_)) => Err(Over),
            Poll::Pending => Ok(()),
        }
    }

    async fn read(&mut self) -> Done {
        let n = loop {
            tokio::select! {
                biased;
                () = self.control.changed.notified() => {}
                n = self.stream.read_buf(&mut self.input) => break n,
            }
            self.control.cancelled.set(false);
            self.check_death().await?;
        };
        if !matches!(n, Ok(1..)) {
            return Err(Over);
        }
        self.check_owner();
        Ok(())
    }

    /// Nobody else's requests come before it is free.
    fn check_owner(&mut self) {
        while let Some((header, body)) = frame::whole(&self.input[self.seen..]).unwrap() {
            let client = client_of(header.tag, body);
            let invented = body.windows(3).any(|part| part == b"X\0\0");
            assert!(!invented, "the rest of a message was invented: {}", body.escape_ascii());
            let what = format!("{} {}", char::from(header.tag), body.escape_ascii());
            self.seen += header.total_len();
            let Some(client) = client else { continue };
            self.stage.check_place(client, &self.control, self.pid);
            let owner = *self.owner.get_or_insert(client);
            assert_eq!(owner, client, "server {} has changed hands too early: {what}", self.pid);
        }
    }
}

/// Who has sent this, if it says so: see [`super::model`].
fn client_of(message: u8, body: &[u8]) -> Option<u64> {
    if !matches!(message, tag::QUERY | tag::PARSE | tag::BIND) {
        return None;
    }
    let text = String::from_utf8_lossy(body);
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
    numbers.map(|number| number / super::model::TAGS).find(|client| *client > 0)
}
