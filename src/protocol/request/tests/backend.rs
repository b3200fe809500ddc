//! A model of a PostgreSQL backend: parses what it is sent and answers as PostgreSQL 15 would, in a tiny SQL.
//! Replies wait, as PostgreSQL's do, until Sync, Flush, the end of a simple query or the start of a COPY.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::protocol::settings::canonical_name;
use crate::wire::backend::tag as reply;
use crate::wire::frame;
use crate::wire::frontend::tag;

/// What all backends of one database see.
#[derive(Debug, Default)]
pub(crate) struct Database {
    /// How often the table behind `select shape` was altered: its column's name and value.
    pub(crate) version: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Sql {
    Empty,
    /// Its number.
    Select(String),
    /// As many rows.
    Rows(u32),
    /// The settings under which it was parsed.
    Literal,
    /// One row of the altered table, by which statement.
    Shape(&'static str),
    Parameter,
    Fails,
    Notice,
    /// `nextval`, which gives this.
    Next(String),
    /// What the session's last `nextval` gave.
    Last,
    ForgetSequences,
    Insert,
    Alter,
    Begin,
    Commit,
    Rollback,
    Show(String),
    Set {
        name: String,
        value: String,
        local: bool,
    },
    /// A function that sets a parameter which isn't reported.
    Hide(String),
    /// A function that sets DateStyle, out of the pooler's sight.
    Sneak(String),
    ResetAll,
    Reset(String),
    Deallocate(Option<String>),
    DiscardAll,
    Prepare(String, Box<Sql>),
    /// SQL-level EXECUTE.
    ByName(String),
    Listen,
    /// May fail before or after CopyInResponse.
    CopyIn {
        missing: bool,
        frozen: bool,
    },
    CopyOut,
    /// The pooler's question about the session.
    Probe(String),
}

#[derive(Clone, Debug)]
struct Statement {
    sql: Sql,
    /// Prepared by SQL.
    by_sql: bool,
    parameters: Vec<u32>,
    /// The value of DateStyle when it was parsed.
    literal: String,
    /// The table's version when it was parsed.
    version: u32,
}

#[derive(Clone, Debug)]
struct Portal {
    statement: Statement,
    values: Vec<Vec<u8>>,
    sent: u32,
    done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Idle,
    Block,
    Failed,
}

#[derive(Debug)]
struct Copy {
    extended: bool,
    rows: u32,
    /// What of a simple query is still to run.
    then: Vec<Sql>,
}

struct Failure {
    code: &'static str,
    text: String,
    routine: &'static str,
}

fn failure(code: &'static str, text: impl Into<String>) -> Failure {
    Failure { code, text: text.into(), routine: "fake" }
}

fn aborted() -> Failure {
    failure("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

type Done = Result<(), Failure>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Backend {
    database: Rc<RefCell<Database>>,
    input: Vec<u8>,
    held: Vec<u8>,
    /// What has been sent.
    pub(crate) output: Vec<u8>,
    status: Status,
    skipping: bool,
    named: HashMap<Vec<u8>, Statement>,
    unnamed: Option<Statement>,
    portals: HashMap<Vec<u8>, Portal>,
    copy: Option<Copy>,
    defaults: BTreeMap<String, String>,
    settings: BTreeMap<String, String>,
    /// At the transaction's start, to be restored by ROLLBACK.
    before: Option<BTreeMap<String, String>>,
    /// Values to be restored at the transaction's end.
    local: BTreeMap<String, String>,
    told: BTreeMap<String, String>,
    /// State that only a reset removes.
    pub(crate) leftovers: Vec<(&'static str, String)>,
    queries: u32,
    /// What the last `nextval` gave.
    last: Option<String>,
    /// Something was executed since the last Sync.
    executed: bool,
}

/// How the parameters are spelled that are reported.
const REPORTED: [&str; 2] = ["application_name", "DateStyle"];

impl Backend {
    /// A session whose startup packet gave `startup`.
    pub(crate) fn new(database: &Rc<RefCell<Database>>, startup: &[(&str, &str)]) -> Self {
        let mut defaults: BTreeMap<_, _> = REPORTED.iter().map(|n| (n.to_lowercase(), "default".to_owned())).collect();
        // One that isn't reported.
        defaults.insert("foo".to_owned(), "0".to_owned());
        defaults.extend(startup.iter().map(|(n, v)| (n.to_lowercase(), (*v).to_owned())));
        Self {
            database: Rc::clone(database),
            input: Vec::new(),
            held: Vec::new(),
            output: Vec::new(),
            status: Status::Idle,
            skipping: false,
            named: HashMap::new(),
            unnamed: None,
            portals: HashMap::new(),
            copy: None,
            settings: defaults.clone(),
            told: defaults.clone(),
            defaults,
            before: None,
            local: BTreeMap::new(),
            leftovers: Vec::new(),
            queries: 0,
            last: None,
            executed: false,
        }
    }

    /// The reported parameters.
    pub(crate) fn reported(&self) -> Vec<(String, String)> {
        REPORTED.iter().map(|n| ((*n).to_owned(), self.settings[&n.to_lowercase()].clone())).collect()
    }

    /// Statements that don't bear a name of the pooler's.
    pub(crate) fn foreign_statements(&self) -> usize {
        self.named.keys().filter(|n| !n.starts_with(b"carpool_")).count()
    }

    /// The ids in the pooler's names of statements, without the one that is only there to be deallocated.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let text = |n: &Vec<u8>| String::from_utf8(n.clone()).unwrap();
        self.named.keys().map(|n| text(n)["carpool_".len()..].parse().unwrap()).filter(|&id| id != 0).collect()
    }

    /// Takes bytes and answers what is complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some((header, body)) = frame::whole(&input[at..]).unwrap() {
            at += header.total_len();
            self.message(header.tag, body);
        }
        self.input = input[at..].to_vec();
    }

    fn flush(&mut self) {
        self.output.append(&mut self.held);
    }

    fn put(&mut self, message: u8, body: &[u8]) {
        frame::message(&mut self.held, message, |b| b.extend_from_slice(body));
    }

    fn message(&mut self, message: u8, body: &[u8]) {
        if self.copy.is_some() {
            return self.copy_message(message, body);
        }
        if self.skipping && message != tag::SYNC {
            return;
        }
        let done = match message {
            tag::QUERY => return self.query(body),
            tag::FUNCTION_CALL => return self.function(body),
            tag::SYNC => {
                self.skipping = false;
                if self.status == Status::Idle {
                    self.end_transaction(true);
                }
                return self.ready();
            }
            tag::FLUSH => {
                self.flush();
                Ok(())
            }
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(()),
            tag::PARSE => self.parse(body),
            tag::BIND => self.bind(body),
            tag::DESCRIBE => self.describe(body),
            tag::CLOSE => {
                let name = cstr(&body[1..]).to_vec();
                match (body[0], name.is_empty()) {
                    (b'S', true) => self.unnamed = None,
                    (b'S', false) => drop(self.named.remove(&name)),
                    _ => drop(self.portals.remove(&name)),
                }
                self.put(reply::CLOSE_COMPLETE, b"");
                Ok(())
            }
            tag::EXECUTE => self.execute(body),
            other => panic!("message {other}"),
        };
        if let Err(failure) = done {
            self.fail(&failure);
            self.skipping = true;
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let mut body = Vec::new();
        for (field, value) in
            [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', failure.code), (b'M', &failure.text), (b'R', failure.routine)]
        {
            body.push(field);
            frame::put_cstr(&mut body, value.as_bytes());
        }
        body.push(0);
        self.put(reply::ERROR_RESPONSE, &body);
        self.copy = None;
        if self.status == Status::Idle {
            self.end_transaction(false);
        } else {
            self.status = Status::Failed;
            // Settings go back at once, portals only can't be run any more.
            self.restore();
        }
        // PostgreSQL sends errors on at once.
        self.flush();
    }

    /// In the place of running a message that is a query or an Execute: somebody has cancelled it.
    #[cfg(test)]
    pub(crate) fn cancelled(&mut self, message: u8) {
        if self.skipping || self.copy.is_some() {
            return;
        }
        self.fail(&failure("57014", "canceling statement due to user request"));
        match message {
            tag::QUERY => {
                self.unnamed = None;
                self.ready();
            }
            _ => self.skipping = true,
        }
    }

    /// Whether there is no transaction.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.status == Status::Idle && !self.skipping && self.copy.is_none()
    }

    fn restore(&mut self) {
        self.local.clear();
        if let Some(before) = self.before.take() {
            self.settings = before;
        }
    }

    fn end_transaction(&mut self, commit: bool) {
        self.executed = false;
        if commit {
            let local = std::mem::take(&mut self.local);
            self.settings.extend(local);
            self.before = None;
        } else {
            self.restore();
        }
        self.portals.clear();
    }

    fn ready(&mut self) {
        for name in REPORTED {
            let value = self.settings[&name.to_lowercase()].clone();
            if self.told.insert(name.to_lowercase(), value.clone()).as_ref() != Some(&value) {
                let body = [name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat();
                self.put(reply::PARAMETER_STATUS, &body);
            }
        }
        let status = match self.status {
            Status::Idle => b"I",
            Status::Block => b"T",
            Status::Failed => b"E",
        };
        self.put(reply::READY_FOR_QUERY, status);
        self.flush();
    }

    fn complete(&mut self, command: &str) {
        let body = [command.as_bytes(), b"\0"].concat();
        self.put(reply::COMMAND_COMPLETE, &body);
    }

    fn parse(&mut self, body: &[u8]) -> Done {
        let name = cstr(body).to_vec();
        let rest = &body[name.len() + 1..];
        let text = cstr(rest);
        let types: Vec<u32> =
            rest[text.len() + 3..].chunks(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]])).collect();
        if name.is_empty() {
            self.unnamed = None;
        }
        let mut list = match text.starts_with(b"/* carpool */") {
            true => vec![Sql::Probe(String::from_utf8(text.to_vec()).unwrap())],
            false => read(text)?,
        };
        if list.len() > 1 {
            return Err(failure("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let sql = list.pop().unwrap_or(Sql::Empty);
        self.refuse_aborted(&sql)?;
        let statement = self.analyze(sql, &types)?;
        if self.named.contains_key(&name) {
            let name = String::from_utf8_lossy(&name);
            return Err(failure("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            self.named.insert(name, statement);
        }
        self.put(reply::PARSE_COMPLETE, b"");
        Ok(())
    }

    fn analyze(&self, sql: Sql, types: &[u32]) -> Result<Statement, Failure> {
        if sql == Sql::Select("nothing".into()) {
            return Err(failure("42703", "column \"nothing\" does not exist"));
        }
        let mut parameters = types.to_vec();
        if sql == Sql::Parameter && parameters.is_empty() {
            parameters.push(23);
        }
        let version = self.database.borrow().version;
        Ok(Statement { sql, by_sql: false, parameters, literal: self.settings["datestyle"].clone(), version })
    }

    fn refuse_aborted(&self, sql: &Sql) -> Done {
        let allowed = matches!(sql, Sql::Empty | Sql::Commit | Sql::Rollback);
        if self.status == Status::Failed && !allowed { Err(aborted()) } else { Ok(()) }
    }

    /// The one way in which the model isn't PostgreSQL: in a failed transaction the pooler can't prepare what a
    /// server lacks, so that what PostgreSQL would still say about a statement isn't known.
    fn refuse_aborted_early(&self, statement: &Statement) -> Done {
        self.refuse_aborted(&statement.sql)
    }

    fn statement(&self, name: &[u8]) -> Result<&Statement, Failure> {
        if name.is_empty() {
            return self.unnamed.as_ref().ok_or_else(|| failure("26000", "unnamed prepared statement does not exist"));
        }
        let text = || format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
        self.named.get(name).ok_or_else(|| failure("26000", text()))
    }

    fn portal(&self, name: &[u8]) -> Result<&Portal, Failure> {
        let text = || format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
        self.portals.get(name).ok_or_else(|| failure("34000", text()))
    }

    fn bind(&mut self, body: &[u8]) -> Done {
        let portal = cstr(body).to_vec();
        let name = cstr(&body[portal.len() + 1..]).to_vec();
        let values = values(&body[portal.len() + name.len() + 2..]);
        let statement = self.statement(&name)?.clone();
        self.refuse_aborted_early(&statement)?;
        let wanted = statement.parameters.len();
        if values.len() != wanted {
            let name = String::from_utf8_lossy(&name);
            return Err(failure(
                "08P01",
                format!(
                    "bind message supplies {} parameters, but prepared statement \"{name}\" requires {wanted}",
                    values.len()
                ),
            ));
        }
        self.refuse_aborted(&statement.sql)?;
        if matches!(statement.sql, Sql::Shape(_)) && statement.version != self.database.borrow().version {
            let text = "cached plan must not change result type";
            return Err(Failure { routine: "RevalidateCachedQuery", ..failure("0A000", text) });
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            let text = format!("cursor \"{}\" already exists", String::from_utf8_lossy(&portal));
            return Err(failure("42P03", text));
        }
        self.portals.insert(portal, Portal { statement, values, sent: 0, done: false });
        self.put(reply::BIND_COMPLETE, b"");
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Done {
        let name = cstr(&body[1..]).to_vec();
        let of_statement = body[0] == b'S';
        let statement =
            if of_statement { self.statement(&name)?.clone() } else { self.portal(&name)?.statement.clone() };
        if of_statement {
            self.refuse_aborted_early(&statement)?;
        }
        let row = row_description(&statement);
        if self.status == Status::Failed && row.is_some() {
            return Err(aborted());
        }
        if of_statement {
            let mut body = u16::try_from(statement.parameters.len()).unwrap().to_be_bytes().to_vec();
            statement.parameters.iter().for_each(|p| body.extend_from_slice(&p.to_be_bytes()));
            self.put(reply::PARAMETER_DESCRIPTION, &body);
        }
        match row {
            Some(row) => self.put(reply::ROW_DESCRIPTION, &row),
            None => self.put(reply::NO_DATA, b""),
        }
        Ok(())
    }

    fn execute(&mut self, body: &[u8]) -> Done {
        let name = cstr(body).to_vec();
        let max = u32::from_be_bytes(body[name.len() + 1..].try_into().unwrap());
        let mut portal = self.portal(&name)?.clone();
        if portal.statement.sql == Sql::Empty {
            self.put(reply::EMPTY_QUERY_RESPONSE, b"");
            return Ok(());
        }
        self.refuse_aborted(&portal.statement.sql)?;
        let selects = row_description(&portal.statement).is_some();
        if portal.done && !selects {
            return Err(failure("55000", format!("portal \"{}\" cannot be run", String::from_utf8_lossy(&name))));
        }
        if let Sql::CopyIn { .. } = portal.statement.sql {
            self.portals.get_mut(&name).unwrap().done = true;
            return self.copy_in(&portal.statement.sql, true, Vec::new());
        }
        if self.before.is_none() {
            self.before = Some(self.settings.clone());
        }
        if !selects {
            self.run(&portal.statement)?;
        } else if self.rows(&mut portal, max)? {
            self.portals.insert(name, portal);
            self.put(reply::PORTAL_SUSPENDED, b"");
            return Ok(());
        }
        // Some are committed at once, and their portals gone.
        self.executed = !matches!(portal.statement.sql, Sql::Begin | Sql::Commit | Sql::Rollback | Sql::DiscardAll);
        if self.executed || portal.statement.sql == Sql::Begin {
            portal.done = true;
            self.portals.insert(name, portal);
        }
        Ok(())
    }

    /// Sends rows, all or `max`. Says whether the portal is suspended.
    fn rows(&mut self, portal: &mut Portal, max: u32) -> Result<bool, Failure> {
        if portal.statement.sql == Sql::Fails {
            return Err(failure("22012", "division by zero"));
        }
        let all = match portal.statement.sql {
            Sql::Rows(n) => n,
            _ => 1,
        };
        if portal.statement.sql == Sql::Notice && !portal.done {
            self.put(reply::NOTICE_RESPONSE, b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
            self.flush();
        }
        let left = if portal.done { 0 } else { all - portal.sent };
        match &portal.statement.sql {
            Sql::Hide(value) if left > 0 => {
                let value = value.clone();
                self.set("foo", &value, false);
            }
            Sql::Next(value) if left > 0 => self.last = Some(value.clone()),
            Sql::Last if self.last.is_none() => {
                return Err(failure("55000", "lastval is not yet defined in this session"));
            }
            _ => {}
        }
        let now = if max == 0 { left } else { left.min(max) };
        for _ in 0..now {
            portal.sent += 1;
            let value = self.value(portal);
            let mut row = vec![0, 1];
            row.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            row.extend_from_slice(&value);
            self.put(reply::DATA_ROW, &row);
        }
        if max != 0 && now == max {
            return Ok(true);
        }
        self.complete(&format!("SELECT {now}"));
        Ok(false)
    }

    fn value(&self, portal: &Portal) -> Vec<u8> {
        match &portal.statement.sql {
            Sql::Select(n) => n.clone().into_bytes(),
            Sql::Rows(_) => portal.sent.to_string().into_bytes(),
            Sql::Literal => portal.statement.literal.clone().into_bytes(),
            Sql::Shape(of) => format!("{of}{}", portal.statement.version).into_bytes(),
            Sql::Parameter => portal.values[0].clone(),
            Sql::Show(name) => self.settings[name].clone().into_bytes(),
            Sql::Next(value) => value.clone().into_bytes(),
            Sql::Last => self.last.clone().unwrap_or_default().into_bytes(),
            _ => b"row".to_vec(),
        }
    }

    /// Runs what gives no rows.
    fn run(&mut self, statement: &Statement) -> Done {
        let command = match &statement.sql {
            Sql::Insert => "INSERT 0 1".to_owned(),
            Sql::Alter => {
                self.database.borrow_mut().version += 1;
                "ALTER TABLE".to_owned()
            }
            Sql::Begin => {
                if self.status == Status::Idle {
                    self.status = Status::Block;
                }
                "BEGIN".to_owned()
            }
            Sql::Commit | Sql::Rollback => {
                let commit = statement.sql == Sql::Commit && self.status != Status::Failed;
                self.end_transaction(commit);
                self.status = Status::Idle;
                if commit { "COMMIT" } else { "ROLLBACK" }.to_owned()
            }
            Sql::Set { name, .. } if !self.settings.contains_key(name) => {
                return Err(failure("42704", format!("unrecognized configuration parameter \"{name}\"")));
            }
            Sql::Set { name, value, local } => {
                self.set(name, value, *local);
                "SET".to_owned()
            }
            Sql::Sneak(value) => {
                self.set("datestyle", value, false);
                "INSERT 0 1".to_owned()
            }
            Sql::Reset(name) => {
                let value = self.defaults.get(name).cloned();
                let Some(value) = value else {
                    return Err(failure("42704", format!("unrecognized configuration parameter \"{name}\"")));
                };
                self.set(name, &value, false);
                "RESET".to_owned()
            }
            Sql::ResetAll => {
                self.settings = self.defaults.clone();
                self.local.clear();
                "RESET".to_owned()
            }
            Sql::Deallocate(name) => self.deallocate(name.as_deref())?,
            Sql::DiscardAll => self.discard_all()?,
            Sql::ForgetSequences => {
                self.last = None;
                "DISCARD SEQUENCES".to_owned()
            }
            Sql::Prepare(name, sql) => self.prepare(name, sql)?,
            Sql::Listen => {
                self.leftovers.push(("listen", "x".to_owned()));
                "LISTEN".to_owned()
            }
            Sql::CopyOut => self.copy_out(),
            Sql::Probe(text) => {
                self.probed(text);
                return Ok(());
            }
            other => panic!("{other:?}"),
        };
        self.complete(&command);
        Ok(())
    }

    fn discard_all(&mut self) -> Result<String, Failure> {
        if self.status != Status::Idle || self.queries > 1 || self.executed {
            return Err(failure("25001", "DISCARD ALL cannot run inside a transaction block"));
        }
        self.named.clear();
        self.portals.clear();
        self.leftovers.clear();
        self.last = None;
        self.settings = self.defaults.clone();
        self.before = None;
        self.local.clear();
        Ok("DISCARD ALL".to_owned())
    }

    fn by_name(&self, name: &str) -> Result<Statement, Failure> {
        let statement = self.statement(name.as_bytes())?.clone();
        if statement.sql != Sql::Insert && row_description(&statement).is_none() {
            return Err(failure("0A000", "the model doesn't run this by name"));
        }
        Ok(statement)
    }

    fn prepare(&mut self, name: &str, sql: &Sql) -> Result<String, Failure> {
        let statement = Statement { by_sql: true, ..self.analyze(sql.clone(), &[])? };
        if self.named.contains_key(name.as_bytes()) {
            return Err(failure("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.named.insert(name.as_bytes().to_vec(), statement);
        Ok("PREPARE".to_owned())
    }

    fn copy_out(&mut self) -> String {
        self.put(reply::COPY_OUT_RESPONSE, b"\0\0\0");
        self.put(reply::COPY_DATA, b"Z\0\0\0\x05I");
        self.put(reply::COPY_DATA, b"two\n");
        self.put(reply::COPY_DONE, b"");
        "COPY 2".to_owned()
    }

    fn set(&mut self, name: &str, value: &str, local: bool) {
        if local {
            // Outside a transaction block it ends at once.
            let was = self.settings[name].clone();
            self.local.entry(name.to_owned()).or_insert(was);
        } else {
            self.local.remove(name);
        }
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<String, Failure> {
        let Some(name) = name else {
            self.named.clear();
            return Ok("DEALLOCATE ALL".to_owned());
        };
        match self.named.remove(name.as_bytes()) {
            Some(_) => Ok("DEALLOCATE".to_owned()),
            None => Err(failure("26000", format!("prepared statement \"{name}\" does not exist"))),
        }
    }

    /// The pooler asks what there is of session state.
    fn probed(&mut self, text: &str) {
        for part in text.trim_start_matches("/* carpool */ ").split(" UNION ALL ") {
            if let Some(functions) = part.strip_prefix("SELECT 'f'") {
                let asked = functions.split("ARRAY[").last().unwrap();
                if asked.contains("'hide'") {
                    self.probe_row(&("f", "hide".to_owned(), Some("a".to_owned())));
                }
                continue;
            }
            let constants: Vec<_> = part.split('\'').skip(1).step_by(2).collect();
            match constants.as_slice() {
                ["s", "session"] => {
                    let differ = self.settings.iter().filter(|(name, value)| self.defaults.get(*name) != Some(value));
                    let rows: Vec<_> =
                        differ.map(|(n, v)| ("s", canonical_name(n).to_owned(), Some(v.clone()))).collect();
                    rows.into_iter().for_each(|row| self.probe_row(&row));
                }
                ["s", "role", ..] => self.probe_row(&("s", "role".to_owned(), Some("none".to_owned()))),
                // It has no functions with a source.
                ["c", ..] => {}
                ["s", names @ ..] if part.contains("unnest") => {
                    for name in names {
                        let value = self.settings.get(*name).cloned();
                        self.probe_row(&("s", (*name).to_owned(), value));
                    }
                }
                ["s", name, ..] => {
                    let value = self.settings.get(*name).cloned();
                    self.probe_row(&("s", (*name).to_owned(), value));
                }
                ["p", kind @ "prepared statement", ..] if self.named.values().any(|s| s.by_sql) => {
                    self.probe_row(&("p", (*kind).to_owned(), Some(String::new())));
                }
                ["p", kind, ..] if self.leftovers.iter().any(|(k, _)| k == kind) => {
                    self.probe_row(&("p", (*kind).to_owned(), Some(String::new())));
                }
                ["l", ..] if self.leftovers.iter().any(|(k, _)| *k == "listen") => {
                    self.probe_row(&("l", "channel".to_owned(), Some(String::new())));
                }
                ["p" | "l", ..] => {}
                other => panic!("{other:?}"),
            }
        }
        self.complete("SELECT 1");
    }

    fn probe_row(&mut self, (kind, name, value): &(&str, String, Option<String>)) {
        let mut body = vec![0, 3];
        for column in [Some(*kind), Some(name.as_str()), value.as_deref()] {
            let len = column.map_or(u32::MAX, |c| u32::try_from(c.len()).unwrap());
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(column.unwrap_or_default().as_bytes());
        }
        self.put(reply::DATA_ROW, &body);
    }

    fn query(&mut self, body: &[u8]) {
        self.unnamed = None;
        if body.starts_with(b"/* carpool */") {
            let text = String::from_utf8(cstr(body).to_vec()).unwrap();
            self.put(reply::ROW_DESCRIPTION, b"\0\0");
            self.probed(&text);
            return self.ready();
        }
        let list = match read(cstr(body)) {
            Ok(list) => list,
            Err(failure) => {
                self.fail(&failure);
                return self.ready();
            }
        };
        self.queries = u32::try_from(list.len()).unwrap();
        if list.is_empty() {
            self.put(reply::EMPTY_QUERY_RESPONSE, b"");
        } else {
            self.portals.remove(&b""[..]);
        }
        self.run_list(list);
    }

    fn run_list(&mut self, list: Vec<Sql>) {
        let mut list = list.into_iter();
        while let Some(sql) = list.next() {
            if let Sql::CopyIn { .. } = sql {
                let rest = list.collect();
                if let Err(failure) = self.refuse_aborted(&sql).and_then(|()| self.copy_in(&sql, false, rest)) {
                    self.fail(&failure);
                    break;
                }
                return;
            }
            if let Err(failure) = self.run_simple(sql) {
                self.fail(&failure);
                break;
            }
        }
        self.queries = 0;
        if self.status == Status::Idle {
            self.end_transaction(true);
        }
        self.ready();
    }

    fn run_simple(&mut self, sql: Sql) -> Done {
        self.refuse_aborted(&sql)?;
        let statement = match &sql {
            Sql::ByName(name) => self.by_name(name)?,
            _ => self.analyze(sql, &[])?,
        };
        if self.before.is_none() {
            self.before = Some(self.settings.clone());
        }
        let Some(row) = row_description(&statement) else { return self.run(&statement) };
        if statement.sql == Sql::Parameter {
            return Err(failure("42P02", "there is no parameter $1"));
        }
        self.put(reply::ROW_DESCRIPTION, &row);
        let mut portal = Portal { statement, values: Vec::new(), sent: 0, done: false };
        self.rows(&mut portal, 0).map(|_| ())
    }

    fn function(&mut self, body: &[u8]) {
        if self.status == Status::Failed {
            self.fail(&aborted());
        } else if body[..4] == [0; 4] {
            self.fail(&failure("42883", "function with OID 0 does not exist"));
        } else {
            self.put(reply::FUNCTION_CALL_RESPONSE, &[0xff; 4]);
        }
        if self.status == Status::Idle {
            self.end_transaction(true);
        }
        self.ready();
    }

    fn copy_in(&mut self, sql: &Sql, extended: bool, then: Vec<Sql>) -> Done {
        let Sql::CopyIn { missing, frozen } = sql else { unreachable!() };
        if *missing {
            return Err(failure("42P01", "relation \"missing\" does not exist"));
        }
        self.put(reply::COPY_IN_RESPONSE, b"\0\0\0");
        self.flush();
        if *frozen {
            return Err(failure("55000", "cannot perform COPY FREEZE"));
        }
        self.copy = Some(Copy { extended, rows: 0, then });
        Ok(())
    }

    fn copy_message(&mut self, message: u8, body: &[u8]) {
        let Some(copy) = &mut self.copy else { return };
        let failed = match message {
            tag::COPY_DATA if body == b"bad\n" => failure("22P02", "invalid input syntax"),
            tag::COPY_DATA => return copy.rows += 1,
            tag::COPY_FAIL => failure("57014", "COPY from stdin failed"),
            tag::SYNC | tag::FLUSH => return,
            tag::COPY_DONE => {
                let Some(copy) = self.copy.take() else { return };
                self.complete(&format!("COPY {}", copy.rows));
                if !copy.extended {
                    self.run_list(copy.then);
                }
                return;
            }
            other => panic!("message {other} while copying"),
        };
        let extended = copy.extended;
        self.fail(&failed);
        self.skipping = extended;
        if !extended {
            self.queries = 0;
            self.ready();
        }
    }
}

fn cstr(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|&b| b == 0).unwrap()]
}

/// The parameter values of a Bind, after the names; formats aren't looked at.
fn values(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut number = |size: usize| {
        let (head, tail) = rest.split_at(size);
        rest = tail;
        head.to_vec()
    };
    let formats = number(2);
    number(2 * usize::from(u16::from_be_bytes([formats[0], formats[1]])));
    let count = number(2);
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes([count[0], count[1]]) {
        let len = number(4);
        values.push(number(u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize));
    }
    values
}

fn row_description(statement: &Statement) -> Option<Vec<u8>> {
    let (name, oid) = match &statement.sql {
        Sql::Select(_) | Sql::Hide(_) | Sql::Rows(_) | Sql::Fails | Sql::Notice => ("n".to_owned(), 23),
        Sql::Literal | Sql::Show(_) | Sql::Next(_) | Sql::Last => ("text".to_owned(), 25),
        Sql::Shape(of) => (format!("{of}{}", statement.version), 25),
        Sql::Parameter => ("p".to_owned(), statement.parameters[0]),
        _ => return None,
    };
    let mut body = vec![0, 1];
    frame::put_cstr(&mut body, name.as_bytes());
    body.extend_from_slice(&[0, 0, 0, 7, 0, 1]);
    body.extend_from_slice(&oid.to_be_bytes());
    body.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    Some(body)
}

/// Reads a list of statements; blank ones count for nothing.
fn read(text: &[u8]) -> Result<Vec<Sql>, Failure> {
    let text = std::str::from_utf8(text).unwrap();
    text.split(';').map(str::trim).filter(|t| !t.is_empty() && !t.starts_with("--")).map(read_one).collect()
}

fn read_one(text: &str) -> Result<Sql, Failure> {
    let words: Vec<_> = text.split_whitespace().collect();
    let unquoted = |name: &str| match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_lowercase(),
    };
    let lower: Vec<_> = words.iter().map(|w| w.to_lowercase()).collect();
    let lower: Vec<_> = lower.iter().map(String::as_str).collect();
    let value = |v: &str| v.trim_matches('\'').to_owned();
    Ok(match lower.as_slice() {
        ["select", "rows"] => Sql::Rows(3),
        ["select", "literal"] => Sql::Literal,
        ["select", "shape"] => Sql::Shape("column"),
        ["select", "other"] => Sql::Shape("other"),
        ["select", "$1"] => Sql::Parameter,
        ["select", "1/0"] => Sql::Fails,
        ["select", "notice"] => Sql::Notice,
        ["select", "lastval()"] => Sql::Last,
        ["select", n] if n.starts_with("hide(") => Sql::Hide(n[5..n.len() - 1].to_owned()),
        ["select", n] if n.starts_with("nextval") => Sql::Next((*n).to_owned()),
        ["discard", "sequences"] => Sql::ForgetSequences,
        ["select", n] => Sql::Select((*n).to_owned()),
        ["insert"] => Sql::Insert,
        ["insert", value] => Sql::Sneak((*value).to_owned()),
        ["alter", ..] => Sql::Alter,
        ["begin"] => Sql::Begin,
        ["commit"] => Sql::Commit,
        ["rollback"] => Sql::Rollback,
        ["show", name @ ("datestyle" | "application_name" | "foo")] => Sql::Show((*name).to_owned()),
        ["set", "local", name, _, v] => Sql::Set { name: unquoted(name), value: value(v), local: true },
        ["reset", "all"] => Sql::ResetAll,
        ["reset", name] => Sql::Reset(unquoted(name)),
        ["set", name, _, v] => Sql::Set { name: unquoted(name), value: value(v), local: false },
        ["deallocate" | "discard", "all"] | ["deallocate", "prepare", "all"] => {
            if lower[0] == "discard" {
                Sql::DiscardAll
            } else {
                Sql::Deallocate(None)
            }
        }
        ["deallocate", "prepare", _] => Sql::Deallocate(Some(unquoted(words[2]))),
        ["deallocate", _] => Sql::Deallocate(Some(unquoted(words[1]))),
        ["prepare", _, "as", ..] => Sql::Prepare(unquoted(words[1]), Box::new(read_one(&words[3..].join(" "))?)),
        ["execute", _] => Sql::ByName(unquoted(words[1])),
        ["listen", _] => Sql::Listen,
        ["copy", table, "from", "stdin"] => Sql::CopyIn { missing: *table == "missing", frozen: *table == "frozen" },
        ["copy", _, "to", "stdout"] => Sql::CopyOut,
        _ => return Err(failure("42601", format!("syntax error at or near \"{text}\""))),
    })
}
