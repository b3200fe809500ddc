//! `/api/clients` and `/api/servers`: sorted, searched and cut to a page here, so that ten thousand clients cost the
//! browser and the wire no more than fifty.

use std::cmp::Ordering as Order;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::super::Admin;
use super::super::collect::{View, own_name};
use crate::client::registry::{CancelSlot, ClientKind, ClientShared, Phase};
use crate::names::{ClientId, ServerId};
use crate::net::Peer;
use crate::protocol::settings::Settings;
use crate::server::ServerShared;

/// Rows of a page, at most.
const MOST_ROWS: usize = 500;
/// Characters of what is searched for, at most.
const MOST_SEARCHED: usize = 100;

/// What of a list is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Query {
    /// The column to sort by.
    sort: String,
    descending: bool,
    /// In lower case; empty: everything.
    search: String,
    offset: usize,
    limit: usize,
}

impl Query {
    /// From the part of a URL after the question mark. What isn't understood is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Self { sort: String::new(), descending: false, search: String::new(), offset: 0, limit: 100 };
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "sort" => query.sort = value.into_owned(),
                "dir" => query.descending = value == "desc",
                "search" => query.search = value.chars().take(MOST_SEARCHED).flat_map(char::to_lowercase).collect(),
                "offset" => query.offset = value.parse().unwrap_or(0),
                "limit" => query.limit = value.parse().unwrap_or(query.limit).min(MOST_ROWS),
                _ => {}
            }
        }
        query
    }

    /// The page of these rows, in order: those that are found, sorted by the column, then by number.
    fn page<R>(
        &self,
        rows: Vec<R>,
        has: impl Fn(&R, &str) -> bool,
        compare: impl Fn(&R, &R) -> Order,
        id: impl Fn(&R) -> u64,
    ) -> (Vec<R>, Page) {
        let total = rows.len();
        let words: Vec<_> = self.search.split_whitespace().collect();
        let is_found = |row: &R| words.iter().all(|word| has(row, word));
        let mut found: Vec<_> = rows.into_iter().filter(is_found).collect();
        found.sort_by(|a, b| {
            let by_column = compare(a, b);
            let by_column = if self.descending { by_column.reverse() } else { by_column };
            by_column.then_with(|| id(a).cmp(&id(b)))
        });
        let page = Page { total, matched: found.len(), offset: self.offset };
        (found.into_iter().skip(self.offset).take(self.limit).collect(), page)
    }
}

/// Where a page is in the whole.
#[derive(Serialize, PartialEq, Eq, Debug)]
struct Page {
    /// All rows.
    total: usize,
    /// Those that fit the search.
    matched: usize,
    offset: usize,
}

#[derive(Serialize)]
struct List<R> {
    #[serde(flatten)]
    page: Page,
    rows: Vec<R>,
}

/// Whether `text` has `word`, which is in lower case, in whichever case.
fn contains(text: &str, word: &str) -> bool {
    if text.is_ascii() {
        let mut places = text.as_bytes().windows(word.len().max(1));
        return places.any(|place| place.eq_ignore_ascii_case(word.as_bytes()));
    }
    text.to_lowercase().contains(word)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn age(now: SystemTime, at: SystemTime) -> u64 {
    now.duration_since(at).unwrap_or_default().as_secs()
}

/// A client as it was looked at; what costs is made only for rows that are shown.
struct Client {
    shared: Arc<ClientShared>,
    settings: Arc<Settings>,
    state: &'static str,
    state_time: Duration,
    held: Option<Duration>,
    server: Option<Arc<ServerShared>>,
    pinned: String,
}

/// One of `/api/clients`. Times in microseconds or seconds, as the names say.
#[derive(Serialize)]
struct ClientRow {
    id: u64,
    client: String,
    user: String,
    database: String,
    application: String,
    address: String,
    state: &'static str,
    state_us: u64,
    /// For how long it has had its server.
    held_us: Option<u64>,
    server: Option<String>,
    server_pid: Option<u32>,
    /// Why it keeps the server between transactions.
    pinned: String,
    connected_s: u64,
    prepared: u32,
    tls: bool,
    kind: &'static str,
}

impl Client {
    fn new(shared: Arc<ClientShared>, epoch: Instant) -> Self {
        // Looking at ten thousand takes long enough for the first to have gone on.
        let now = Instant::now();
        let (phase, state_time) = shared.phase(now, epoch);
        let server = match &*shared.cancel.lock() {
            CancelSlot::Running(server) | CancelSlot::Replaying { server, .. } => Some(Arc::clone(server)),
            CancelSlot::Idle | CancelSlot::Waiting => None,
        };
        let pinned = server.as_ref().and_then(|server| server.pinned.get());
        let state = match phase {
            Phase::Login => "login",
            Phase::Idle => "idle",
            Phase::Waiting => "waiting",
            Phase::Active => "active",
            Phase::IdleInTransaction => "idle in transaction",
        };
        // A session of the console notes no phases.
        let state = if shared.kind == ClientKind::Console { "idle" } else { state };
        let settings = Arc::clone(&shared.settings.lock());
        Self {
            held: shared.transaction_time(now, epoch),
            pinned: pinned.map(|pinned| pinned.reasons.names()).unwrap_or_default(),
            state_time: if state == "idle" { since_request(&shared, now, epoch) } else { state_time },
            settings,
            state,
            server,
            shared,
        }
    }

    fn application(&self) -> &str {
        self.settings.get("application_name").unwrap_or_default()
    }

    fn address(&self) -> String {
        match self.shared.peer() {
            peer @ Peer::Tcp(_) => peer.to_string(),
            Peer::Unix => "unix socket".to_owned(),
        }
    }

    /// Whether a word of a search is somewhere in it.
    fn has(&self, word: &str) -> bool {
        let texts =
            [self.shared.user.as_str(), self.shared.database.as_str(), self.application(), self.state, &self.pinned];
        // What has to be written first comes last.
        texts.into_iter().any(|text| contains(text, word))
            || contains(&self.shared.id.to_string(), word)
            || contains(&self.address(), word)
    }

    fn compare(&self, other: &Self, column: &str) -> Order {
        let (a, b) = (&self.shared, &other.shared);
        match column {
            "user" => a.user.cmp(&b.user),
            "database" => a.database.cmp(&b.database),
            "application" => self.application().cmp(other.application()),
            "address" => self.place().cmp(&other.place()),
            "state" => self.state.cmp(other.state),
            "state_us" => self.state_time.cmp(&other.state_time),
            "held_us" => self.held.cmp(&other.held),
            "server" => self.server.as_ref().map(|s| s.id.0).cmp(&other.server.as_ref().map(|s| s.id.0)),
            "pinned" => self.pinned.cmp(&other.pinned),
            // The longest connected came first.
            "connected_s" => b.connected().cmp(&a.connected()),
            "prepared" => a.prepared().cmp(&b.prepared()),
            _ => a.id.cmp(&b.id),
        }
    }

    fn place(&self) -> Option<(std::net::IpAddr, u16)> {
        match self.shared.peer() {
            Peer::Tcp(address) => Some((address.ip().to_canonical(), address.port())),
            Peer::Unix => None,
        }
    }

    fn row(self, clock: SystemTime) -> ClientRow {
        ClientRow {
            id: self.shared.id.0,
            client: self.shared.id.to_string(),
            user: self.shared.user.to_string(),
            database: self.shared.database.to_string(),
            application: self.application().to_owned(),
            address: self.address(),
            state: self.state,
            state_us: micros(self.state_time),
            held_us: self.held.map(micros),
            server_pid: self.server.as_ref().map(|server| server.key.pid),
            server: self.server.as_ref().map(|server| server.id.to_string()),
            connected_s: age(clock, self.shared.connected()),
            prepared: self.shared.prepared(),
            tls: self.shared.tls.is_some(),
            kind: match self.shared.kind {
                ClientKind::Pooled => "pooled",
                ClientKind::Console => "console",
                ClientKind::PhysicalReplication => "physical replication",
                ClientKind::LogicalReplication => "logical replication",
            },
            pinned: self.pinned,
        }
    }
}

/// How long ago a client that does nothing has asked for something.
fn since_request(client: &ClientShared, now: Instant, epoch: Instant) -> Duration {
    match client.last_request(epoch) {
        Some(at) => now.saturating_duration_since(at),
        None => SystemTime::now().duration_since(client.connected()).unwrap_or_default(),
    }
}

/// `/api/clients`.
pub(super) fn clients(admin: &Admin, query: &Query) -> serde_json::Result<String> {
    let (clock, context) = (SystemTime::now(), &admin.context);
    let all = context.registry.all().into_iter().map(|shared| Client::new(shared, context.started)).collect();
    let compare = |a: &Client, b: &Client| a.compare(b, &query.sort);
    let (rows, page) = query.page(all, Client::has, compare, |client| client.shared.id.0);
    serde_json::to_string(&List { page, rows: rows.into_iter().map(|client| client.row(clock)).collect() })
}

/// One of `/api/servers`.
#[derive(Serialize)]
struct ServerRow {
    id: u64,
    server: String,
    user: String,
    database: String,
    address: String,
    pid: u32,
    state: &'static str,
    /// Of the client that has it.
    application: String,
    client: Option<String>,
    client_id: Option<u64>,
    /// Since it was lent, or is idle.
    state_us: Option<u64>,
    pinned: String,
    pinned_s: Option<u64>,
    connected_s: u64,
    prepared: u32,
    tls: bool,
    /// It is closed as soon as it comes free.
    outdated: bool,
}

impl ServerRow {
    fn has(&self, word: &str) -> bool {
        let texts = [&self.user, &self.database, &self.application, &self.address, &self.pinned, &self.server];
        texts.into_iter().any(|text| contains(text, word))
            || contains(self.state, word)
            || self.client.as_ref().is_some_and(|client| contains(client, word))
            || contains(&self.pid.to_string(), word)
    }

    fn compare(&self, other: &Self, column: &str) -> Order {
        match column {
            "user" => self.user.cmp(&other.user),
            "database" => self.database.cmp(&other.database),
            "application" => self.application.cmp(&other.application),
            "address" => self.address.cmp(&other.address),
            "pid" => self.pid.cmp(&other.pid),
            "state" => self.state.cmp(other.state),
            "state_us" => self.state_us.cmp(&other.state_us),
            "client" => self.client_id.cmp(&other.client_id),
            "pinned" => self.pinned.cmp(&other.pinned),
            "connected_s" => self.connected_s.cmp(&other.connected_s),
            "prepared" => self.prepared.cmp(&other.prepared),
            _ => self.id.cmp(&other.id),
        }
    }
}

/// `/api/servers`.
pub(super) fn servers(admin: &Admin, query: &Query) -> serde_json::Result<String> {
    let (view, clock) = (View::new(admin), SystemTime::now());
    let mut names: HashMap<ClientId, Arc<Settings>> = HashMap::new();
    admin.context.registry.for_each(|client| {
        names.insert(client.id, Arc::clone(&client.settings.lock()));
    });
    let mut rows = Vec::new();
    for pool in &view.pools {
        let idle = pool.idle_servers();
        for server in pool.servers() {
            let row = server_row(&view, &server, &idle, &names, clock);
            rows.push(ServerRow { database: pool.name.to_string(), outdated: pool.is_outdated(&server), ..row });
        }
    }
    let compare = |a: &ServerRow, b: &ServerRow| a.compare(b, &query.sort);
    let (rows, page) = query.page(rows, ServerRow::has, compare, |server| server.id);
    serde_json::to_string(&List { page, rows })
}

fn server_row(
    view: &View<'_>,
    server: &ServerShared,
    idle: &HashMap<ServerId, Instant>,
    names: &HashMap<ClientId, Arc<Settings>>,
    clock: SystemTime,
) -> ServerRow {
    let state = view.server_state(server, idle);
    let holder = state.holder.map(|(client, _)| client);
    let own = holder.and_then(own_name);
    let client = holder.filter(|_| own.is_none());
    let settings = client.and_then(|client| names.get(&client));
    let application = own.or_else(|| settings.and_then(|s| s.get("application_name"))).unwrap_or_default();
    let since = state.holder.map(|(_, since)| since).or(state.idle_since);
    let (pinned, pinned_s) = view.pinned(server);
    ServerRow {
        id: server.id.0,
        server: server.id.to_string(),
        user: server.user.to_string(),
        database: String::new(),
        address: server.target.to_string(),
        pid: server.key.pid,
        state: state.name,
        application: application.to_owned(),
        client: client.map(|client| client.to_string()),
        client_id: client.map(|client| client.0),
        state_us: since.map(|since| micros(view.now.saturating_duration_since(since))),
        pinned,
        pinned_s,
        connected_s: age(clock, server.connected),
        prepared: server.prepared.load(std::sync::atomic::Ordering::Relaxed),
        tls: server.encryption.is_some(),
        outdated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str, rows: &[(u64, &str)]) -> (Vec<u64>, Page) {
        let (rows, page) = Query::parse(query).page(
            rows.to_vec(),
            |(_, text), word| contains(text, word),
            |a, b| a.1.cmp(b.1),
            |(id, _)| *id,
        );
        (rows.into_iter().map(|(id, _)| id).collect(), page)
    }

    #[test]
    fn pages_of_what_is_found_in_order() {
        let rows = [(1, "web ä"), (2, "batch"), (3, "web b"), (4, "WEB A"), (5, "batch")];
        assert_eq!(page("", &rows).0, [4, 2, 5, 3, 1]);
        let (ids, place) = page("search=web&sort=text&dir=desc&limit=2", &rows);
        assert_eq!((ids, place), (vec![1, 3], Page { total: 5, matched: 3, offset: 0 }));
        let (ids, place) = page("search=Web&offset=2&dir=desc", &rows);
        assert_eq!((ids, place), (vec![4], Page { total: 5, matched: 3, offset: 2 }));
        assert_eq!(page("search=%C3%84", &rows).0, [1], "in any case of any script");
        assert_eq!(page("search=bat+ch", &rows).0, [2, 5], "all words");
        assert_eq!(page("search=web+ch", &rows).1, Page { total: 5, matched: 0, offset: 0 });
        assert_eq!(page("offset=99999999999999999999&limit=x", &rows).0.len(), 5);
        assert_eq!(page("offset=18446744073709551615", &rows).0.len(), 0);
        // Equals are in the order of their numbers, whichever way.
        let equal = page("dir=desc&search=batch", &rows).0;
        assert_eq!(equal, [2, 5]);
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        let query = Query::parse(&format!("limit=1000000&search={}", "x".repeat(5_000)));
        assert_eq!((query.limit, query.search.len()), (MOST_ROWS, MOST_SEARCHED));
    }
}
