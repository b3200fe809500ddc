//! Which statements of a session run, for [`super::meter`]: found by their text, those of prepared ones when they are bound.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use crate::client::registry::ClientShared;
use crate::protocol::ClientState;
use crate::protocol::settings::Settings;
use crate::protocol::sql::{normal, shape};
use crate::protocol::statements::significant;
use crate::stats::statements::{Data, Entry, Statements, TEXT_LIMIT};
use crate::stats::waits::Meter;
use crate::wire::{frame, frontend};

/// How many statements a session finds without looking among all, by text or number and by normalized text each.
const KEPT: usize = 8;
/// How many named portals are known at once.
const PORTALS: usize = 64;
/// Text of fast-path calls, of which only a number is known.
const FUNCTION_CALL: &[u8] = b"<function call>";
/// Of messages that were too long to be held.
const TOO_LONG: &[u8] = b"<text too long to be read>";

/// Keys are compared without the texts: nobody may choose them.
static HASH: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

type Kept = [Option<(u64, Arc<Entry>)>; KEPT];

/// See the module.
#[derive(Debug)]
pub(super) struct Tracker {
    database: Box<str>,
    user: Box<str>,
    /// Stands for both.
    seed: u64,
    /// When the last transaction began.
    settings: Arc<Settings>,
    backslashes: bool,
    by_text: Kept,
    by_form: Kept,
    /// The normalized text at hand.
    form: Vec<u8>,
    /// What the unnamed portal runs.
    unnamed: Option<Arc<Entry>>,
    named: Vec<(Box<[u8]>, Arc<Entry>)>,
    /// Sent, and not known to have ended.
    running: VecDeque<Option<Arc<Entry>>>,
}

fn find(kept: &Kept, key: u64) -> Option<Arc<Entry>> {
    let (known, entry) = kept[slot(key)].as_ref()?;
    (*known == key && !entry.is_gone()).then(|| Arc::clone(entry))
}

const fn slot(key: u64) -> usize {
    // The remainder is small.
    (key % KEPT as u64) as usize
}

impl Tracker {
    pub(super) fn new(shared: &ClientShared) -> Self {
        let (database, user) = (shared.database.as_str(), shared.user.as_str());
        Self {
            seed: HASH.hash_one((database, user)),
            database: database.into(),
            user: user.into(),
            settings: Arc::default(),
            backslashes: false,
            by_text: Kept::default(),
            by_form: Kept::default(),
            form: Vec::new(),
            unnamed: None,
            named: Vec::new(),
            running: VecDeque::new(),
        }
    }

    /// The client has got a server: nothing is in flight.
    pub(super) fn clear(&mut self) {
        self.running.clear();
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self, settings: &Arc<Settings>) {
        self.named.clear();
        if Arc::ptr_eq(&self.settings, settings) {
            return;
        }
        self.settings = Arc::clone(settings);
        let backslashes = settings.get("standard_conforming_strings") == Some("off");
        if backslashes != self.backslashes {
            // The same texts are others now.
            (self.backslashes, self.by_text) = (backslashes, Kept::default());
        }
    }

    fn key(&self, what: impl Hash) -> u64 {
        let mut hasher = HASH.build_hasher();
        hasher.write_u64(self.seed);
        what.hash(&mut hasher);
        hasher.finish()
    }

    /// What a query's text is known by. Texts that differ in plain constants alone are known by the same.
    fn text_key(&mut self, text: &[u8]) -> u64 {
        self.form.clear();
        if !self.backslashes && shape::shape(text, &mut self.form) { self.key(&self.form[..]) } else { self.key(text) }
    }

    /// The statement of a text that is known by `key`.
    fn entry(&mut self, key: u64, text: &[u8], all: &Statements) -> Arc<Entry> {
        if let Some(entry) = find(&self.by_text, key) {
            return entry;
        }
        self.form.clear();
        normal::canonical(text, self.backslashes, &mut self.form);
        let form = self.key(&self.form);
        let entry = find(&self.by_form, form).unwrap_or_else(|| {
            let query = || normal::readable(text, self.backslashes, TEXT_LIMIT);
            all.entry(form, || Data::new(&self.database, &self.user, query()))
        });
        self.by_form[slot(form)] = Some((form, Arc::clone(&entry)));
        self.by_text[slot(key)] = Some((key, Arc::clone(&entry)));
        entry
    }

    /// Notes a message that was taken: the beginning of it at least. `skips`: nothing of it was sent, since a request
    /// before it has failed. Returns the statement that it has begun, if it is known.
    pub(super) fn message(
        &mut self,
        message: &[u8],
        skips: bool,
        client: &ClientState,
        all: &Statements,
    ) -> Option<&Arc<Entry>> {
        let header = frame::peek(message).ok()??;
        let body = &message[frame::HEADER_LEN..];
        let begun = match header.tag {
            _ if skips => return None,
            frontend::tag::QUERY => {
                let text = if body.len() == header.body_len { frontend::query(body).ok() } else { None };
                let text = text.unwrap_or(TOO_LONG);
                let key = self.text_key(text);
                Some(self.entry(key, text, all))
            }
            frontend::tag::FUNCTION_CALL => Some(self.entry(self.key(FUNCTION_CALL), FUNCTION_CALL, all)),
            frontend::tag::BIND => {
                self.bind(body, client, all);
                return None;
            }
            frontend::tag::EXECUTE => {
                let portal = body.split(|&b| b == 0).next().unwrap_or_default();
                let named =
                    || self.named.iter().find(|(name, _)| **name == *portal).map(|(_, entry)| Arc::clone(entry));
                if portal.is_empty() { self.unnamed.clone() } else { named() }
            }
            _ => return None,
        };
        self.running.push_back(begun);
        self.running.back()?.as_ref()
    }

    fn bind(&mut self, body: &[u8], client: &ClientState, all: &Statements) {
        let Some((portal, name, _)) = frontend::bind_names(body) else { return };
        let statement = match name {
            b"" => client.statements.unnamed.as_ref(),
            name => client.statements.named.get(significant(name)).map(|named| &named.statement),
        };
        let entry = statement.map(|statement| {
            let text = statement.rest().split(|&b| b == 0).next().unwrap_or_default();
            self.entry(self.key(statement.id), text, all)
        });
        if portal.is_empty() {
            self.unnamed = entry;
            return;
        }
        self.named.retain(|(known, _)| **known != *portal);
        if let Some(entry) = entry.filter(|_| self.named.len() < PORTALS) {
            self.named.push((portal.into(), entry));
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// After an error so many were skipped, in front of `left` others.
    pub(super) fn skip(&mut self, (skipped, left): (usize, usize)) {
        let end = self.running.len().saturating_sub(left);
        self.running.drain(end.saturating_sub(skipped)..end);
    }

    /// All but `left` have ended: counts them, with the time since the last ones did.
    pub(super) fn settle(&mut self, left: usize, meter: &mut Meter) {
        let ended = self.running.len().saturating_sub(left);
        if ended == 0 {
            return;
        }
        let (mut share, other) = meter.take_pending().divide(ended as u64);
        for entry in self.running.drain(..ended) {
            if let Some(entry) = entry {
                entry.count(&share);
            }
            share = other;
        }
    }
}
