//! Commands about the servers of databases: PAUSE, RESUME, RECONNECT, KILL, WAIT_CLOSE, DISABLE, ENABLE.
//!
//! What has to wait looks again and again, within the session of the console that asked: that session's end, or a
//! cancel request for it, ends the waiting. A pause that has begun stays, as in PgBouncer, unless the wait for it was
//! cancelled or its own limit has passed: then it is undone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Admin;
use super::command::Operation;
use super::operator::Operator;
use crate::client::cancel;
use crate::client::login::CONSOLE_DATABASES;
use crate::client::registry::{ClientKind, ClientShared, order};
use crate::error::{ClientError, SqlState};
use crate::names::{ClientId, DatabaseName};
use crate::net::timer;
use crate::pool::Pool;
use crate::pool::control::Pauser;
use crate::stats::table::{Row, Value, row};

/// How often what is waited for is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How waiting has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waited {
    /// It is so.
    Done,
    /// It can't come any more: somebody else has taken back what it was about.
    Void,
    /// Not within the limit.
    TimedOut,
    /// The console's user has cancelled it.
    Cancelled,
}

/// What a look shows.
pub(super) enum Look {
    Done,
    NotYet,
    Void,
}

/// What an operation is about.
enum Scope {
    All,
    One(Arc<Pool>),
}

impl Scope {
    fn pools(&self, admin: &Admin) -> Vec<Arc<Pool>> {
        match self {
            Self::All => admin.context.pools.all(),
            // A reload may have put another in its place.
            Self::One(pool) => admin.context.pools.find(pool.name.as_str()).into_iter().collect(),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::All => "all databases".to_owned(),
            Self::One(pool) => format!("database \"{}\"", pool.name),
        }
    }
}

impl Admin {
    /// Carries an operation out.
    ///
    /// # Errors
    /// Why it could not be, in PgBouncer's words where it has them.
    pub(super) async fn operate(
        &self,
        operation: Operation,
        database: Option<&str>,
        by: &Operator<'_>,
    ) -> Result<(), ClientError> {
        let name = operation.name();
        let about = database.map_or_else(String::new, |database| format!(" '{database}'"));
        info!("{name}{about} command issued by {by}");
        let pools = &self.context.pools;
        let frozen = pools.is_paused() || self.is_suspended();
        match operation {
            Operation::Pause(_) | Operation::Kill | Operation::Suspend if frozen => return Err(already_paused()),
            _ => {}
        }
        match operation {
            Operation::Pause(limit) => self.pause(self.scope(database, "pause")?, limit, by).await,
            Operation::Resume => self.resume(database),
            Operation::Reconnect => {
                let scope = self.scope(database, "reconnect")?;
                let _changing = pools.changing();
                for pool in scope.pools(self) {
                    pool.cluster.forget_timelines();
                    pool.reconnect();
                }
                Ok(())
            }
            Operation::Kill => {
                self.kill(&self.scope(database, "kill")?);
                Ok(())
            }
            Operation::WaitClose => self.wait_close(&self.scope(database, "wait in")?, by).await,
            Operation::Disable | Operation::Enable => {
                let disable = operation == Operation::Disable;
                let Some(database) = database else {
                    return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, "a database is required"));
                };
                self.one(database, "disable")?.set_disabled(disable);
                Ok(())
            }
            Operation::Suspend => self.suspend(by).await,
        }
    }

    fn scope(&self, database: Option<&str>, verb: &str) -> Result<Scope, ClientError> {
        database.map_or(Ok(Scope::All), |database| self.one(database, verb).map(Scope::One))
    }

    /// The pool of a database that there is, or that `*` can serve.
    fn one(&self, database: &str, verb: &str) -> Result<Arc<Pool>, ClientError> {
        if CONSOLE_DATABASES.contains(&database) {
            let text = format!("cannot {verb} admin db: {database}");
            return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, text));
        }
        let context = &self.context;
        context.pools.get(database, &context.config.load()).ok_or_else(|| no_such_database(database))
    }

    async fn pause(&self, scope: Scope, limit: Option<Duration>, by: &Operator<'_>) -> Result<(), ClientError> {
        let is_new = self.set_paused(&scope, true);
        let look = || {
            let pools = scope.pools(self);
            let is_paused = match &scope {
                Scope::All => self.context.pools.is_paused(),
                Scope::One(_) => pools.iter().all(|pool| pool.is_paused_by(Pauser::Database)),
            };
            let names: Vec<_> = pools.iter().map(|pool| pool.name.clone()).collect();
            match is_paused {
                false => Look::Void,
                true if pools.iter().any(|pool| pool.slots() > 0) || self.replicates(&names) => Look::NotYet,
                true => Look::Done,
            }
        };
        if let Look::NotYet = look() {
            info!("waiting for servers to be released by {}", self.held_up_by(&scope));
        }
        let waited = self.wait(by, limit, look).await;
        let holders = match waited {
            Waited::Done => return Ok(()),
            _ => self.held_up_by(&scope),
        };
        let about = scope.words();
        if waited != Waited::Void && is_new {
            self.set_paused(&scope, false);
            warn!("PAUSE of {about} was undone, servers were still in use by {holders}");
        }
        let text = match waited {
            Waited::TimedOut => format!("not all servers of {about} came free within {:?}", limit.unwrap_or_default()),
            Waited::Cancelled => "canceling statement due to user request".to_owned(),
            _ => format!("the pause of {about} was ended by RESUME"),
        };
        let undone = if waited != Waited::Void && is_new { "The pause was undone. " } else { "" };
        Err(ClientError::error(SqlState::QUERY_CANCELED, text)
            .detail(format!("{undone}Servers were in use by {holders}."))
            .hint("SHOW PAUSED lists who keeps a pool from being paused; KILL ends them, as does KILL_CLIENT one."))
    }

    /// Says whether this changes anything.
    fn set_paused(&self, scope: &Scope, paused: bool) -> bool {
        let pools = &self.context.pools;
        if let Scope::All = scope {
            return if paused { pools.pause() } else { pools.resume() };
        }
        let _changing = pools.changing();
        let set = |pool: &Arc<Pool>| match paused {
            true => pool.pause(Pauser::Database),
            false => pool.resume(Pauser::Database),
        };
        scope.pools(self).iter().map(set).fold(false, |any, new| any | new)
    }

    /// Whether a client has a replication connection to one of these, which no pool counts.
    fn replicates(&self, databases: &[DatabaseName]) -> bool {
        let mut found = false;
        self.context.registry.for_each(|client| {
            let replicates = matches!(client.kind, ClientKind::PhysicalReplication | ClientKind::LogicalReplication);
            found |= replicates && databases.contains(&client.database);
        });
        found
    }

    /// Who keeps servers, for a log line or an error.
    fn held_up_by(&self, scope: &Scope) -> String {
        let now = Instant::now();
        let pools = scope.pools(self);
        let busy: Vec<_> = pools.iter().filter(|pool| pool.slots() > 0).collect();
        match busy.as_slice() {
            [] => "replication connections".to_owned(),
            [one] => one.holders(now),
            many => many.iter().map(|p| format!("{}: {}", p.name, p.holders(now))).collect::<Vec<_>>().join("; "),
        }
    }

    fn resume(&self, database: Option<&str>) -> Result<(), ClientError> {
        if !self.is_accepting() {
            return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, "pooler is shutting down"));
        }
        let pools = &self.context.pools;
        let Some(database) = database else {
            let (resumed, unfrozen) = (pools.resume(), self.unsuspend());
            if resumed || unfrozen {
                return Ok(());
            }
            let alone = pools.all();
            let alone = alone.iter().filter(|pool| pool.is_paused_by(Pauser::Database));
            let alone: Vec<_> = alone.map(|pool| format!("\"{}\"", pool.name)).collect();
            let error = ClientError::error(SqlState::PROTOCOL_VIOLATION, "pooler is not paused/suspended");
            return Err(match alone.is_empty() {
                true => error,
                false => error.hint(format!("Paused by name, and to be resumed so: {}.", alone.join(", "))),
            });
        };
        let _changing = pools.changing();
        let pool = pools.find(database).ok_or_else(|| no_such_database(database))?;
        if !pool.resume(Pauser::Database) {
            let text = format!("database {database} is not paused");
            return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, text));
        }
        Ok(())
    }

    /// Pauses, and ends whoever is there. Servers whose queries run are cancelled and closed.
    fn kill(&self, scope: &Scope) {
        let changing = self.context.pools.changing();
        let pools = scope.pools(self);
        for pool in &pools {
            pool.pause(Pauser::Database);
        }
        drop(changing);
        let error = |database: &DatabaseName| {
            ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "database removed")
                .detail(format!("KILL of database \"{database}\" was issued on the console."))
        };
        let names: Vec<_> = pools.iter().map(|pool| pool.name.clone()).collect();
        self.context.registry.for_each(|client| {
            if client.kind != ClientKind::Console && names.contains(&client.database) {
                client.end(order::END_NOW, error(&client.database));
            }
        });
        // Those who log in are in no registry yet.
        for pool in &pools {
            pool.fail_waiting(&error(&pool.name));
        }
    }

    /// Ends a client, by its number. Says whether it was there.
    pub(super) fn kill_client(&self, id: u64, by: &Operator<'_>) -> bool {
        let client = self.client_numbered(id);
        if let Some(client) = &client {
            client.end(order::END_NOW, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "admin forced disconnect"));
            info!("KILL_CLIENT {id} command issued by {by}");
        }
        client.is_some()
    }

    /// Cancels what a client runs or waits for. Says whether there was anything; `None` without such a client.
    pub(super) fn cancel_client(&self, id: u64, by: &Operator<'_>) -> Option<bool> {
        let client = self.client_numbered(id)?;
        let any = cancel::spawn_for(&self.context, &client);
        info!("cancel of client {id} asked for by {by}");
        Some(any)
    }

    fn client_numbered(&self, id: u64) -> Option<Arc<ClientShared>> {
        self.context.registry.find_by_id(ClientId(id))
    }

    async fn wait_close(&self, scope: &Scope, by: &Operator<'_>) -> Result<(), ClientError> {
        let look = || match scope.pools(self).iter().any(|pool| !pool.outdated().is_empty()) {
            true => Look::NotYet,
            false => Look::Done,
        };
        match self.wait(by, None, look).await {
            Waited::Done => Ok(()),
            _ => {
                let text = "canceling statement due to user request";
                Err(ClientError::error(SqlState::QUERY_CANCELED, text)
                    .detail(format!("Servers were in use by {}.", self.held_up_by(scope))))
            }
        }
    }

    /// Waits for a look to show that it is done, unless whoever asked cancels it.
    pub(super) async fn wait(&self, by: &Operator<'_>, limit: Option<Duration>, look: impl Fn() -> Look) -> Waited {
        let begun = Instant::now();
        by.begin_wait();
        let waited = loop {
            match look() {
                Look::Done => break Waited::Done,
                Look::Void => break Waited::Void,
                Look::NotYet => {}
            }
            if by.has_cancelled() {
                break Waited::Cancelled;
            }
            if limit.is_some_and(|limit| begun.elapsed() >= limit) {
                break Waited::TimedOut;
            }
            timer::sleep(LOOK).await;
        };
        by.end_wait();
        waited
    }

    /// SHOW PAUSED: paused databases, with a row for each server that holds the pause up.
    pub(super) fn paused(&self) -> Vec<Row> {
        let now = Instant::now();
        let mut rows = Vec::new();
        for pool in self.context.pools.all() {
            let Some(paused) = pool.paused_for(now) else { continue };
            let waiting: u32 = pool.counts().iter().map(|(_, counts)| counts.waiting).sum();
            let row = |rest: [Value; 5]| {
                let first = row![pool.name.to_string(), paused.as_secs(), waiting];
                first.into_iter().chain(rest).collect::<Row>()
            };
            let held = pool.held();
            if held.is_empty() {
                rows.push(row([const { Value::Null }; 5]));
            }
            for held in held {
                let holder = held.holder.as_ref();
                rows.push(row([
                    holder.map(|h| h.client.to_string()).into(),
                    holder.map(|h| h.client.0).into(),
                    held.server.user.to_string().into(),
                    held.server.key.pid.into(),
                    holder.map(|h| now.saturating_duration_since(h.since).as_secs()).into(),
                ]));
            }
        }
        rows
    }
}

pub(super) fn already_paused() -> ClientError {
    ClientError::error(SqlState::PROTOCOL_VIOLATION, "already suspended/paused").hint("RESUME ends it.")
}

fn no_such_database(database: &str) -> ClientError {
    ClientError::error(SqlState::PROTOCOL_VIOLATION, format!("no such database: {database}"))
        .hint("SHOW DATABASES lists them.")
}
