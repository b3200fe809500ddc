//! Who a user is, as far as Carpool can tell: from the configuration, else by `auth_query`.
//!
//! A question runs on a server of the pool that no client's state was ever on (`pool::lookup`), one at a time for
//! each database, in front of which all who wait for the same answer stand together ([`book`] keeps the books). Nothing
//! but the user's name goes into it. Whoever isn't found stays unknown, and is never anybody else.

pub mod book;
pub mod kinds;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::warn;

use super::Context;
use crate::auth::{self, Proven, SecretKind, ServerCredentials, StoredSecret};
use crate::config::{AuthType, Config, Secret};
use crate::error::{ClientError, SqlState};
use crate::names::{ClientId, DatabaseName, UserName};
use crate::net::world;
use crate::pool::sharing::Asker;
use crate::pool::{Checkout, Lease, Pool};
use crate::server::QueryError;
use crate::server::ask::Row;
use book::{Asked, Book, Kept, Waiter};

/// Questions in a row before the server goes back to the pool, so that others get it.
const BATCH: usize = 64;
/// A user who isn't there may be made at any moment: that answer holds no longer than this.
const UNKNOWN_TTL: Duration = Duration::from_secs(2);
/// A secret that is younger than this isn't asked for again when a password doesn't fit.
const FRESH: Duration = Duration::from_secs(1);
/// How often the pool is looked for when it was replaced while one waited for a server.
const POOL_TRIES: usize = 3;

/// Membership as PostgreSQL sees it for `+role` in `pg_hba.conf`: direct or not, superusers no exception.
const MEMBER_QUERY: &str = "\
    WITH RECURSIVE roles(oid) AS ( \
        SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1 \
        UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN roles r ON m.member OPERATOR(pg_catalog.=) r.oid \
    ) SELECT 1 FROM roles JOIN pg_catalog.pg_roles USING (oid) WHERE rolname = $2";

/// What is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Question {
    /// The secret of a user.
    Secret(UserName),
    /// Whether a user is a member of a role.
    Member(UserName, UserName),
}

/// What is answered.
#[derive(Clone, Debug)]
enum Answer {
    /// There is no such user.
    Unknown,
    /// A user, with its secret if it has a valid one.
    User(Option<StoredSecret>),
    /// See [`Question::Member`].
    Member(bool),
}

type Outcome = Result<Kept<Answer>, ClientError>;

#[derive(Debug)]
struct Waiting(oneshot::Sender<Outcome>);

impl Waiter for Waiting {
    fn is_waiting(&self) -> bool {
        !self.0.is_closed()
    }
}

type Shared = Mutex<Book<Question, Answer, Waiting>>;

/// Where, as whom and how users are looked up.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Source {
    database: DatabaseName,
    user: UserName,
    query: Arc<str>,
}

impl Source {
    /// For clients of a database, if the configuration has them looked up.
    fn of(config: &Config, database: &str) -> Option<Self> {
        let pooler = &config.pooler;
        let own = config.database(database).map(|(own, _)| own);
        let user = own.and_then(|own| own.auth_user.as_ref()).or(pooler.auth_user.as_ref())?;
        let query = own.and_then(|own| own.auth_query.as_deref()).unwrap_or(&pooler.auth_query);
        let place = own.and_then(|own| own.auth_dbname.as_ref()).or(pooler.auth_dbname.as_ref());
        // Without a place it is the client's database, which must be one.
        let place = place.cloned().or_else(|| own.map(|_| DatabaseName::from(database)))?;
        Some(Self { database: place, user: user.clone(), query: query.into() })
    }
}

/// What was looked up, by where.
#[derive(Debug, Default)]
pub struct Secrets {
    sources: DashMap<Source, Arc<Shared>>,
    kinds: kinds::Kinds,
}

/// What is known of a user who logs in.
#[derive(Debug)]
pub struct Known {
    is_known: bool,
    secret: Option<StoredSecret>,
    looked_up: Option<LookedUp>,
}

#[derive(Debug)]
struct LookedUp {
    source: Source,
    question: Question,
    since: Instant,
}

impl Known {
    /// What the configuration alone says.
    #[must_use]
    pub fn configured(config: &Config, user: &UserName) -> Self {
        let configured = config.users.get(user);
        let secret = configured.and_then(|u| u.password.as_ref()).map(StoredSecret::parse);
        Self { is_known: configured.is_some(), secret, looked_up: None }
    }

    /// As authentication takes it.
    #[must_use]
    pub fn account(&self) -> auth::Account<'_> {
        if self.is_known { auth::Account::Known(self.secret.as_ref()) } else { auth::Account::Unknown }
    }

    /// The secret, if the user has one.
    #[must_use]
    pub const fn secret(&self) -> Option<&StoredSecret> {
        self.secret.as_ref()
    }

    /// A password didn't fit, or the server refused it: what was looked up may be old, and is asked for again next
    /// time. Gives true where that can make a difference.
    pub fn doubt(&self, context: &Context) -> bool {
        let Some(LookedUp { source, question, since }) = &self.looked_up else { return false };
        if world::now().saturating_duration_since(*since) < FRESH {
            return false;
        }
        if let Some(shared) = context.secrets.sources.get(source) {
            shared.lock().forget(question, *since);
        }
        true
    }
}

/// What is known of `user`, who wants `database`: the configuration's word, else `auth_query`'s.
///
/// # Errors
/// When the user had to be looked up and couldn't be. The text is the same for all users.
pub async fn find(
    context: &Arc<Context>,
    config: &Config,
    user: &UserName,
    database: &DatabaseName,
) -> Result<Known, ClientError> {
    let configured = config.users.get(user);
    let secret = configured.and_then(|u| u.password.as_ref()).map(StoredSecret::parse);
    let source = match secret {
        None if config.pooler.auth_type != AuthType::Any => Source::of(config, database.as_str()),
        _ => None,
    };
    let Some(source) = source else {
        return Ok(Known { is_known: configured.is_some(), secret, looked_up: None });
    };
    let question = Question::Secret(user.clone());
    let Kept { answer, since, .. } = ask(context, &source, &question).await?;
    let (is_known, secret) = match answer {
        Answer::User(secret) => (true, secret),
        Answer::Unknown | Answer::Member(_) => (configured.is_some(), None),
    };
    Ok(Known { is_known, secret, looked_up: Some(LookedUp { source, question, since }) })
}

/// Whether `user` is a member of `role`, directly or not, in the cluster that users of `database` are looked up in.
///
/// # Errors
/// When it can't be found out; `None` where the configuration has nobody looked up.
pub async fn is_member(
    context: &Arc<Context>,
    config: &Config,
    database: &DatabaseName,
    user: &UserName,
    role: &UserName,
) -> Result<Option<bool>, ClientError> {
    let Some(source) = Source::of(config, database.as_str()) else { return Ok(None) };
    let question = Question::Member(user.clone(), role.clone());
    let Kept { answer, .. } = ask(context, &source, &question).await?;
    Ok(Some(matches!(answer, Answer::Member(true))))
}

async fn ask(context: &Arc<Context>, source: &Source, question: &Question) -> Outcome {
    if context.pools.find(source.database.as_str()).is_some_and(|pool| pool.is_disabled()) {
        let text = format!("authentication database \"{}\" is disabled", source.database);
        return Err(ClientError::fatal(SqlState::CANNOT_CONNECT_NOW, text).hint("ENABLE on the console allows it."));
    }
    let shared = Arc::clone(&context.secrets.sources.entry(source.clone()).or_default());
    let (told, answer) = oneshot::channel();
    let must_serve = {
        let mut book = shared.lock();
        if let Some(kept) = book.known(question, world::now()) {
            return Ok(kept.clone());
        }
        book.wait(question.clone(), Waiting(told))
    };
    if must_serve {
        let (context, source) = (Arc::clone(context), source.clone());
        let service = Service { context, source, shared, dismissed: false };
        world::spawn(Box::pin(service.run()));
    }
    answer.await.unwrap_or_else(|_| Err(refusal(SqlState::ADMIN_SHUTDOWN, "it was not answered")))
}

/// What the client is told. It isn't logged in, so who holds the servers, say, is for the log alone.
fn refusal(code: SqlState, why: &'static str) -> ClientError {
    ClientError::fatal(code, format!("auth_query failed: {why}"))
        .hint("See auth_query, auth_user and auth_dbname; the log of Carpool has the reason.")
}

impl Secrets {
    /// Forgets all that was looked up: the configuration has changed, or somebody wants it anew.
    pub fn forget_all(&self) {
        self.sources.retain(|_, shared| {
            let mut book = shared.lock();
            book.forget_all();
            !book.is_empty()
        });
    }

    /// Notes what is in a configuration.
    pub fn note_configured(&self, config: &Config) {
        self.kinds.note_configured(config);
    }

    /// The kind of secret that unknown users of a database pretend to have.
    #[must_use]
    pub fn decoy(&self, config: &Config, database: &str) -> SecretKind {
        self.kinds.usual(Source::of(config, database).is_some())
    }
}

/// Asks the questions of one source, as long as there are any.
struct Service {
    context: Arc<Context>,
    source: Source,
    shared: Arc<Shared>,
    /// The book knows that nobody serves it any more.
    dismissed: bool,
}

impl Drop for Service {
    /// Nobody waits for ever, whatever becomes of the task.
    fn drop(&mut self) {
        if !self.dismissed {
            self.give_up(&refusal(SqlState::ADMIN_SHUTDOWN, "it was not answered"));
        }
    }
}

fn tell(waiting: Vec<Waiting>, outcome: &Outcome) {
    for Waiting(told) in waiting {
        // It may have gone meanwhile.
        drop(told.send(outcome.clone()));
    }
}

impl Service {
    async fn run(mut self) {
        loop {
            let (pool, mut lease) = match self.server().await {
                Ok(found) => found,
                Err(error) => return self.no_server(&error),
            };
            for _ in 0..BATCH {
                let next = self.shared.lock().next_question();
                let Some(asked) = next else {
                    self.dismissed = true;
                    return;
                };
                if !self.put(&pool, &mut lease, asked).await {
                    lease.close();
                    break;
                }
            }
        }
    }

    /// A server of the pool, logged in as `auth_user`.
    async fn server(&self) -> Result<(Arc<Pool>, Lease), ClientError> {
        for _ in 0..POOL_TRIES {
            let config = self.context.config.load_full();
            let Some(pool) = self.context.pools.get(self.source.database.as_str(), &config) else { break };
            let user = pool.lookup_user(&self.source.user, self.credentials(&config));
            match pool.checkout(&user, &Asker::itself(ClientId::LOOKUP), world::now()) {
                Checkout::Now(lease) => return Ok((pool, lease)),
                Checkout::Wait(granted) => {
                    // Else the pool was replaced.
                    if let Ok(granted) = granted.await {
                        return granted.map(|lease| (pool, lease));
                    }
                }
            }
        }
        Err(ClientError::fatal(SqlState::INVALID_CATALOG_NAME, "the database is not in the configuration"))
    }

    fn credentials(&self, config: &Config) -> ServerCredentials {
        let of_user = config.users.get(&self.source.user).and_then(|user| user.password.as_ref());
        let forced = config.database(self.source.database.as_str()).map(|(database, _)| database);
        let of_database =
            forced.filter(|d| d.user.as_ref() == Some(&self.source.user)).and_then(|d| d.password.as_ref());
        let secret = of_user.or(of_database).map(StoredSecret::parse);
        ServerCredentials::new(secret.as_ref(), &Proven::Nothing)
    }

    fn no_server(&mut self, error: &ClientError) {
        self.log(&format!("no server connection: {error}. {}", error.detail.as_deref().unwrap_or_default()));
        let code = match error.code {
            kept @ (SqlState::CANNOT_CONNECT_NOW | SqlState::TOO_MANY_CONNECTIONS) => kept,
            _ => SqlState::CONNECTION_FAILURE,
        };
        let why = match error.code {
            SqlState::TOO_MANY_CONNECTIONS => "no server connection came free for it (query_wait_timeout)",
            _ => "there is no server connection for it",
        };
        self.give_up(&refusal(code, why));
        let secrets = &self.context.secrets;
        self.context.pools.forget_unreached(self.source.database.as_str(), &self.context.config.load());
        secrets.sources.remove_if(&self.source, |_, shared| shared.lock().is_empty());
    }

    fn give_up(&mut self, error: &ClientError) {
        self.dismissed = true;
        let waiting = self.shared.lock().fail_all();
        tell(waiting, &Err(error.clone()));
    }

    fn log(&self, what: &str) {
        warn!(database = %self.source.database, user = %self.source.user, "auth_query: {what}");
    }

    /// Asks one question. Gives whether the server is as good as before.
    async fn put(&self, pool: &Pool, lease: &mut Lease, asked: Asked<Question>) -> bool {
        let Some(server) = lease.server() else { return false };
        let (sql, parameters): (&str, &[&str]) = match &asked.question {
            Question::Secret(user) => (&self.source.query, &[user.as_str()]),
            Question::Member(user, role) => (MEMBER_QUERY, &[user.as_str(), role.as_str()]),
        };
        let timeout = pool.spec.load().connect_timeout;
        let rows = server.ask(sql, parameters, &pool.tables.settings, timeout).await;
        let is_fit = matches!(rows, Ok(_) | Err(QueryError::Refused { .. })) && server.is_clean();
        let answer = rows
            .map_err(|error| error.to_string())
            .and_then(|rows| read(&asked.question, &rows).map_err(|error| error.to_owned()));
        match answer {
            Ok((answer, holds_for)) => self.answer(asked, answer, holds_for),
            Err(error) => {
                self.log(&error);
                let waiting = self.shared.lock().fail(&asked);
                tell(waiting, &Err(refusal(SqlState::CONFIG_FILE_ERROR, "it gave no answer that makes sense")));
            }
        }
        is_fit
    }

    fn answer(&self, asked: Asked<Question>, answer: Answer, holds_for: Duration) {
        if let Answer::User(Some(secret)) = &answer {
            self.context.secrets.kinds.note_found(secret.kind());
        }
        let ttl = self.context.config.load().pooler.auth_query_cache_ttl.min(holds_for);
        let now = world::now();
        let until = now.checked_add(ttl).unwrap_or(now);
        let (waiting, kept) = self.shared.lock().answer(asked, answer, now, until);
        tell(waiting, &Ok(kept));
    }
}

/// What the rows say, and how long it holds at most.
fn read(question: &Question, rows: &[Row]) -> Result<(Answer, Duration), &'static str> {
    let Question::Secret(user) = question else {
        return Ok((Answer::Member(!rows.is_empty()), Duration::MAX));
    };
    let row = match rows {
        [] => return Ok((Answer::Unknown, UNKNOWN_TTL)),
        [row] => row,
        _ => return Err("it gave more than one row for a name"),
    };
    let (name, secret, left) = match row.as_slice() {
        [name, secret] => (name, secret, None),
        [name, secret, left] => (name, secret, left.as_deref()),
        _ => return Err("expected 2 columns, name and secret, or 3 with the seconds that it is good for"),
    };
    // Whoever is somebody else there must not come in under this name, nor under the other one.
    if name.as_deref() != Some(user.as_str().as_bytes()) {
        return Err("it answered with another name than the one that was asked for");
    }
    let secret = secret.as_deref().map(|text| std::str::from_utf8(text).map_err(|_| "the secret is not UTF-8 text"));
    let holds_for = left.map_or(Ok(Duration::MAX), seconds)?;
    let secret = secret.transpose()?.filter(|text| !text.is_empty() && !holds_for.is_zero());
    let holds_for = if secret.is_some() { holds_for } else { UNKNOWN_TTL };
    Ok((Answer::User(secret.map(|text| StoredSecret::parse(&Secret::new(text)))), holds_for))
}

/// The third column: for how long a secret is good; nothing for one whose time is over.
fn seconds(text: &[u8]) -> Result<Duration, &'static str> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<f64>().ok());
    let number = number.filter(|n| !n.is_nan()).ok_or("the third column is not a number of seconds")?;
    Ok(Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[Option<&str>]) -> Row {
        columns.iter().map(|column| column.map(|text| text.as_bytes().to_vec())).collect()
    }

    fn read_rows(rows: &[&[Option<&str>]]) -> Result<(Answer, Duration), &'static str> {
        let rows: Vec<_> = rows.iter().map(|columns| row(columns)).collect();
        read(&Question::Secret("anna".into()), &rows)
    }

    #[test]
    fn what_rows_say() {
        let (answer, holds) = read_rows(&[&[Some("anna"), Some("pw")]]).unwrap();
        assert!(matches!(answer, Answer::User(Some(StoredSecret::Plain(_)))));
        assert_eq!(holds, Duration::MAX);
        assert!(matches!(read_rows(&[]), Ok((Answer::Unknown, UNKNOWN_TTL))));
        for none in [&[Some("anna"), None][..], &[Some("anna"), Some("")], &[Some("anna"), None, Some("60")]] {
            assert!(matches!(read_rows(&[none]), Ok((Answer::User(None), UNKNOWN_TTL))), "{none:?}");
        }
        for (left, expected) in
            [("60", Some(60.0)), ("1.5", Some(1.5)), ("0", None), ("-3", None), ("Infinity", Some(f64::MAX))]
        {
            let (answer, holds) = read_rows(&[&[Some("anna"), Some("pw"), Some(left)]]).unwrap();
            let has_secret = matches!(answer, Answer::User(Some(_)));
            assert_eq!(has_secret.then(|| holds.as_secs_f64().min(1e9)), expected.map(|n: f64| n.min(1e9)), "{left}");
        }
    }

    #[test]
    fn what_makes_no_sense() {
        let anna: &[Option<&str>] = &[Some("anna"), Some("pw")];
        for rows in [
            &[anna, anna][..],
            &[&[Some("anna")]],
            &[&[]],
            &[&[Some("anna"), Some("pw"), None, None]],
            // CVE-2015-6817 and its like.
            &[&[None, Some("pw")]],
            &[&[Some("Anna"), Some("pw")]],
            &[&[Some(""), Some("pw")]],
            &[&[Some("postgres"), Some("pw")]],
            &[&[Some("anna"), Some("pw"), Some("soon")]],
            &[&[Some("anna"), Some("pw"), Some("NaN")]],
        ] {
            assert!(read_rows(rows).is_err(), "{rows:?}");
        }
    }

    #[test]
    fn where_users_are_looked_up() {
        let mut config = Config::default();
        let source = |config: &Config, database: &str| {
            Source::of(config, database).map(|s| format!("{} {} {}", s.database, s.user, s.query))
        };
        config.databases.insert("a".into(), crate::config::Database::default());
        assert_eq!(source(&config, "a"), None);
        config.pooler.auth_user = Some("boss".into());
        config.pooler.auth_query = "q".into();
        assert_eq!(source(&config, "a").as_deref(), Some("a boss q"));
        assert_eq!(source(&config, "nowhere"), None);
        assert_eq!(source(&config, "pgbouncer"), None);
        config.fallback = Some(crate::config::Database::default());
        assert_eq!(source(&config, "nowhere").as_deref(), Some("nowhere boss q"));
        config.pooler.auth_dbname = Some("a".into());
        assert_eq!(source(&config, "pgbouncer").as_deref(), Some("a boss q"));
        let own = crate::config::Database {
            auth_user: Some("other".into()),
            auth_query: Some("p".into()),
            auth_dbname: Some("b".into()),
            ..Default::default()
        };
        config.databases.insert("b".into(), own);
        assert_eq!(source(&config, "b").as_deref(), Some("b other p"));
    }
}
