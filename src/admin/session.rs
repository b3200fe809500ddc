//! One console session's side of the protocol, simple and extended: a message in, bytes out. Knows no socket.
//!
//! Every command stands alone. A transaction block is kept only as what drivers see of it: the state in
//! ReadyForQuery, and portals that outlive a Sync.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::command::{self, Command, Shutdown};
use super::encode::{self, Formats};
use super::operator::Operator;
use super::portal::{self, Portal};
use super::show::Show;
use super::{Admin, Failure, Order, record, waits};
use crate::client::registry::ClientShared;
use crate::config::Plan;
use crate::error::{ClientError, Severity, SqlState};
use crate::wire::backend::{self, TransactionStatus, tag as reply};
use crate::wire::frame::{Fields, FrameError};
use crate::wire::frontend::{self, Target, tag};

/// Prepared statements of a session, and portals of it, at most.
const NAMED_LIMIT: usize = 256;
/// Commands in one simple query, at most.
const COMMANDS_LIMIT: usize = 8;
/// The error code of a portal that isn't there.
const INVALID_CURSOR_NAME: SqlState = SqlState("34000");
/// The error code of a command that can't be carried out as things are.
const NOT_IN_STATE: SqlState = SqlState("55000");

const HELP: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
	SHOW HOSTS|PINS|SHARES|BUDGET|BLOCKERS|PAUSED|AUDIT|WAITS|STATEMENTS|ADVICE
\tSHOW PEERS|PEER_POOLS
\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSET key = arg
\tRELOAD
\tUPGRADE
\tRESET_WAITS
\tRECORD <client_id>
\tPAUSE [<db>] [TIMEOUT <time>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tSUSPEND
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]";

/// Whether a session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It does.
    Continue,
    /// The client has said goodbye.
    Terminate,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    admin: Arc<Admin>,
    client: Arc<ClientShared>,
    is_admin: bool,
    statements: HashMap<Box<[u8]>, Command>,
    portals: HashMap<Box<[u8]>, Portal>,
    /// An error was answered: everything up to Sync is dropped.
    skipping: bool,
    in_block: bool,
}

impl Session {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(admin: Arc<Admin>, client: Arc<ClientShared>, is_admin: bool) -> Self {
        let (statements, portals) = (HashMap::new(), HashMap::new());
        Self { admin, client, is_admin, statements, portals, skipping: false, in_block: false }
    }

    /// Takes a message and appends what is to be answered.
    ///
    /// # Errors
    /// Those that end the session.
    pub async fn message(&mut self, message: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Flow, ClientError> {
        self.client.note_request(Instant::now(), self.admin.context.started);
        let taken = match message {
            tag::TERMINATE => return Ok(Flow::Terminate),
            tag::SYNC => {
                self.skipping = false;
                self.put_ready(out);
                return Ok(Flow::Continue);
            }
            _ if self.skipping => return Ok(Flow::Continue),
            tag::QUERY => {
                let text = frontend::query(body)?;
                let ran = self.query(&String::from_utf8_lossy(text), out).await;
                return self.answered(ran, out);
            }
            tag::FUNCTION_CALL => {
                let text = "function calls are not supported by the console";
                let refused = Err(ClientError::error(SqlState::FEATURE_NOT_SUPPORTED, text));
                return self.answered(refused, out);
            }
            tag::PARSE => self.parse(body, out),
            tag::BIND => self.bind(body, out),
            tag::DESCRIBE => self.describe(body, out),
            tag::EXECUTE => self.execute(body, out).await,
            tag::CLOSE => self.close(body, out),
            // Answers go out at once; copy data without a copy is dropped, as PostgreSQL drops it.
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(()),
            other => {
                let text = format!("invalid frontend message type {other}");
                return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text));
            }
        };
        if let Err(error) = taken {
            put_or_end(error, out)?;
            self.skipping = true;
        }
        Ok(Flow::Continue)
    }

    /// Ends the answer to a simple query.
    fn answered(&mut self, ran: Result<(), ClientError>, out: &mut Vec<u8>) -> Result<Flow, ClientError> {
        if let Err(error) = ran {
            put_or_end(error, out)?;
        }
        self.put_ready(out);
        Ok(Flow::Continue)
    }

    fn put_ready(&mut self, out: &mut Vec<u8>) {
        if !self.in_block {
            // Portals live as long as their transaction.
            self.portals.clear();
        }
        backend::put_ready(out, if self.in_block { TransactionStatus::InBlock } else { TransactionStatus::Idle });
    }

    async fn query(&mut self, text: &str, out: &mut Vec<u8>) -> Result<(), ClientError> {
        // As in PostgreSQL, a simple query does away with the unnamed ones.
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        let parts = command::split(text);
        if parts.len() > COMMANDS_LIMIT {
            let text = format!("more than {COMMANDS_LIMIT} commands in one query");
            return Err(ClientError::error(SqlState::PROGRAM_LIMIT_EXCEEDED, text));
        }
        if parts.is_empty() {
            backend::put_empty(out, reply::EMPTY_QUERY_RESPONSE);
        }
        for part in parts {
            let mut portal = Portal::new(command::parse(part)?, Formats::default());
            if let Command::Show(_) = portal.command {
                portal.describe(out);
            }
            self.run(&mut portal, 0, out).await?;
        }
        Ok(())
    }

    fn parse(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ClientError> {
        let (name, rest) = frontend::parse(body)?;
        let text = Fields::new(tag::PARSE, rest).cstr()?;
        let text = String::from_utf8_lossy(text);
        let parts = command::split(&text);
        if parts.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(ClientError::error(SqlState::SYNTAX_ERROR, text));
        }
        let command = command::parse(parts.first().copied().unwrap_or_default())?;
        if !name.is_empty() && self.statements.contains_key(name) {
            let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
            return Err(ClientError::error(SqlState::DUPLICATE_STATEMENT, text));
        }
        room(self.statements.len())?;
        self.statements.insert(name.into(), command);
        self.client.note_prepared(self.statements.len());
        backend::put_empty(out, reply::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ClientError> {
        let (portal, statement, at) = frontend::bind_names(body).ok_or(FrameError::Body(tag::BIND))?;
        let command = self.statement(statement)?.clone();
        let codes = result_formats(&body[at..])?;
        let formats = Formats::new(&codes, portal::columns(&command))?;
        room(self.portals.len())?;
        self.portals.insert(portal.into(), Portal::new(command, formats));
        backend::put_empty(out, reply::BIND_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, ClientError> {
        self.statements.get(name).ok_or_else(|| no_statement(name))
    }

    fn describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ClientError> {
        match frontend::target(tag::DESCRIBE, body)? {
            Target::Statement(name) => {
                let command = self.statement(name)?;
                encode::put_no_parameters(out);
                portal::describe(command, &Formats::default(), out);
            }
            Target::Portal(name) => self.portals.get(name).ok_or_else(|| no_portal(name))?.describe(out),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ClientError> {
        let mut fields = Fields::new(tag::EXECUTE, body);
        let (name, limit) = (fields.cstr()?, fields.u32()?);
        fields.end()?;
        // A negative number means all, too.
        let limit = i32::try_from(limit).unwrap_or(0).unsigned_abs();
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        self.run(&mut portal, limit as usize, out).await?;
        self.portals.insert(name.into(), portal);
        Ok(())
    }

    fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ClientError> {
        match frontend::target(tag::CLOSE, body)? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        self.client.note_prepared(self.statements.len());
        backend::put_empty(out, reply::CLOSE_COMPLETE);
        Ok(())
    }

    /// Carries out a command and appends its rows and end, but for the description of the rows.
    async fn run(&mut self, portal: &mut Portal, limit: usize, out: &mut Vec<u8>) -> Result<(), ClientError> {
        self.admin.count_command();
        if portal.command.is_for_admins() && !self.is_admin {
            return Err(
                ClientError::error(SqlState::PROTOCOL_VIOLATION, "admin access needed").hint("See admin_users.")
            );
        }
        let done = match &portal.command {
            Command::Empty => {
                backend::put_empty(out, reply::EMPTY_QUERY_RESPONSE);
                return Ok(());
            }
            &Command::Show(show) => {
                if show == Show::Advice {
                    self.admin.advice().await;
                }
                self.show(show, portal, limit, out);
                return Ok(());
            }
            Command::Help => {
                encode::put_notice(out, "Console usage", Some(HELP));
                "SHOW"
            }
            Command::SetIgnored => {
                encode::put_notice(out, "SET ignored", None);
                "SET"
            }
            Command::Set(key, value) => {
                let (key, value) = (key.clone(), value.clone());
                self.order("SET", Order::Set(key.clone(), value.clone())).await?;
                backend::put_command_complete(out, &format!("SET {key}={value}"));
                return Ok(());
            }
            Command::Nothing(done) => done,
            Command::Begin(done) | Command::EndBlock(done) => {
                self.in_block = matches!(portal.command, Command::Begin(_));
                done
            }
            Command::Deallocate(name) => self.deallocate(name.as_deref())?,
            Command::Discard => {
                self.deallocate(None)?;
                "DISCARD ALL"
            }
            Command::Reload => {
                let plan = self.order("RELOAD", Order::Reload).await?;
                if !plan.is_empty() {
                    encode::put_notice(out, "configuration changed", Some(&plan.to_string()));
                }
                "RELOAD"
            }
            Command::Upgrade => {
                self.order("UPGRADE", Order::Upgrade).await?;
                "UPGRADE"
            }
            Command::Shutdown(wait) => {
                self.order("SHUTDOWN", stop_order(*wait)).await?;
                "SHUTDOWN"
            }
            Command::Operate(operation, database) => {
                self.admin.operate(*operation, database.as_deref(), &Operator::Console(&self.client)).await?;
                operation.name()
            }
            Command::KillClient(id) => self.kill_client(id)?,
            Command::Record(id) => self.record(id, out).await?,
            Command::ResetWaits => waits::reset(&self.admin),
        };
        backend::put_command_complete(out, done);
        Ok(())
    }

    /// Has a client's flight record be written, and says where.
    async fn record(&self, id: &str, out: &mut Vec<u8>) -> Result<&'static str, ClientError> {
        info!(client = %self.client.id, user = %self.client.user, "RECORD {id} command issued");
        let path = record::record(&self.admin, id).await?;
        encode::put_notice(out, &format!("written to {path}"), None);
        Ok("RECORD")
    }

    /// Appends rows that this user may see.
    fn show(&self, show: Show, portal: &mut Portal, limit: usize, out: &mut Vec<u8>) {
        if let Some(text) = waits::remark(show, &self.admin) {
            encode::put_notice(out, &text, None);
        }
        let rows = || match self.is_admin {
            true => show.rows(&self.admin),
            false => waits::hide(show, show.rows(&self.admin), self.client.user.as_str()),
        };
        portal.fetch(show, limit, rows, out);
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<&'static str, ClientError> {
        let done = match name {
            None => {
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            Some(name) => {
                self.statements.remove(name.as_bytes()).ok_or_else(|| no_statement(name.as_bytes()))?;
                "DEALLOCATE"
            }
        };
        self.client.note_prepared(self.statements.len());
        Ok(done)
    }

    async fn order(&self, name: &str, order: Order) -> Result<Plan, ClientError> {
        info!(client = %self.client.id, user = %self.client.user, "{name} command issued");
        self.admin.control.order(order).await.map_err(|why| {
            let refused = || ClientError::error(SqlState::PROTOCOL_VIOLATION, why.to_string());
            match &why {
                // Admins may read it all: the errors of a configuration never have its values' secrets.
                Failure::Reload(why) => {
                    let text = format!("{name} failed, see logs for additional details");
                    ClientError::error(SqlState::CONFIG_FILE_ERROR, text).detail(why)
                }
                Failure::Upgrade(why) => ClientError::error(NOT_IN_STATE, "UPGRADE failed, all goes on as before")
                    .detail(why)
                    .hint("See upgrade_timeout and the log."),
                Failure::Set(_) => refused().hint("SHOW CONFIG lists the settings, and which of them can be changed."),
                Failure::Gone => refused(),
            }
        })
    }

    fn kill_client(&self, id: &str) -> Result<&'static str, ClientError> {
        let Ok(id) = id.parse::<u64>() else {
            let text = "invalid client pointer supplied";
            return Err(
                ClientError::error(SqlState::PROTOCOL_VIOLATION, text).hint("SHOW CLIENTS gives it in the column id.")
            );
        };
        if !self.admin.kill_client(id, &Operator::Console(&self.client)) {
            return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, "client not found"));
        }
        Ok("KILL_CLIENT")
    }
}

/// Appends an error, unless it ends the session.
fn put_or_end(error: ClientError, out: &mut Vec<u8>) -> Result<(), ClientError> {
    if error.severity == Severity::Fatal {
        return Err(error);
    }
    backend::put_error(out, &error);
    Ok(())
}

/// The format codes at the end of a Bind whose names were read.
fn result_formats(rest: &[u8]) -> Result<Vec<u16>, ClientError> {
    let mut fields = Fields::new(tag::BIND, rest);
    let codes = |fields: &mut Fields<'_>| {
        let n = u16_of(fields)?;
        (0..n).map(|_| u16_of(fields)).collect::<Result<Vec<_>, FrameError>>()
    };
    codes(&mut fields)?;
    let parameters = u16_of(&mut fields)?;
    if parameters > 0 {
        let text = format!("bind message supplies {parameters} parameters, but the command requires 0");
        return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, text));
    }
    let results = codes(&mut fields)?;
    fields.end()?;
    Ok(results)
}

fn u16_of(fields: &mut Fields<'_>) -> Result<u16, FrameError> {
    Ok(u16::from_be_bytes([fields.u8()?, fields.u8()?]))
}

fn room(taken: usize) -> Result<(), ClientError> {
    if taken < NAMED_LIMIT {
        return Ok(());
    }
    let text = format!("more than {NAMED_LIMIT} prepared statements or portals in a console session");
    Err(ClientError::error(SqlState::PROGRAM_LIMIT_EXCEEDED, text))
}

fn no_statement(name: &[u8]) -> ClientError {
    let text = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
    ClientError::error(SqlState::INVALID_STATEMENT_NAME, text)
}

fn no_portal(name: &[u8]) -> ClientError {
    let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    ClientError::error(INVALID_CURSOR_NAME, text)
}

const fn stop_order(wait: Shutdown) -> Order {
    match wait {
        Shutdown::Now => Order::StopNow,
        Shutdown::WaitForServers => Order::StopAfterTransactions,
        Shutdown::WaitForClients => Order::StopAfterClients,
    }
}

#[cfg(test)]
mod tests;
