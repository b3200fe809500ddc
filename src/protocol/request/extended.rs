//! Parse, Bind, Describe, Close, Execute.

use std::borrow::Cow;
use std::sync::Arc;

use super::prepare::{Fit, Found, nonexistent};
use super::{ClientPath, NAMES_LIMIT, OWN, Runs, Step, body, check_size, pass};
use crate::error::ClientError;
use crate::protocol::pipeline::{
    ClientUndo, Describes, ErrorText, Extra, Fate, Kind, Meant, Request, ServerUndo, Undo,
};
use crate::protocol::session::{Taint, Taints};
use crate::protocol::sql::Effect;
use crate::protocol::statements::{DUMMY, Named, Presence, SERVER_PREFIX, Statement, Told, significant};
use crate::wire::backend::{TransactionStatus, tag as reply};
use crate::wire::frame::{self, FrameError, HEADER_LEN, Header};
use crate::wire::frontend::{self, Target, tag};

impl ClientPath<'_> {
    pub(super) fn parse(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        check_size(header, self.max_packet_size)?;
        let Some(body) = body(input, at, header.body_len) else { return Ok(Step::More) };
        let (name, rest) = frontend::parse(body)?;
        let key = significant(name);
        let pipeline = &self.server.pipeline;
        // Which settings it will be read under is known soon, where all that went before has been synced.
        let settles = self.server.unsettled && !pipeline.is_open() && !pipeline.is_answered();
        if !name.is_empty() && (settles || pipeline.uncertain(key, 0)) {
            return Ok(Step::Blocked);
        }
        self.server.retry.stop();
        let taken = pass(input, at, header, true);
        if self.client.statements.named.contains_key(key) || self.server.by_sql.contains(key) {
            // The server is to find the duplicate itself, after whatever else is wrong with the text.
            self.prepare_dummy(input, 0);
            frontend::put_parse(self.to_server.own(input), DUMMY, rest);
            self.server.pipeline.push(Request::renamed(Kind::Parse, name));
            return Ok(taken);
        }
        let context = self.context();
        let known = self.client.statements.unnamed.as_ref().filter(|s| s.is(rest, &context));
        let statement = known.cloned().unwrap_or_else(|| self.tables.statements.intern(rest, &context));
        // Later it could be too late: within a batch nothing can be put in front, nor can the server go meanwhile.
        if !self.server.pipeline.is_open() {
            if self.must_be_fresh(statement.taint) {
                return Ok(Step::Fresh);
            }
            if self.must_ask(statement.taint) == Some(Step::PinsToListen) {
                return Ok(Step::PinsToListen);
            }
            if self.must_listen(statement.ends) {
                return Ok(Step::Listens);
            }
            self.show_own_statements(input, statement.ends);
        }
        if name.is_empty() {
            self.parse_unnamed(input, at, header, statement);
            return Ok(taken);
        }
        if self.server.pipeline.uncertain(key, statement.id) {
            return Ok(Step::Blocked);
        }
        self.parse_shared(input, &statement, ClientUndo::named(key, None));
        self.client.statements.named.insert(key.into(), Named { statement, told: Told::Nothing });
        Ok(taken)
    }

    /// Has the client's Parse be of a statement that the server has, or gets now, by its name on servers. Says whether it
    /// was answered in the server's place.
    pub(super) fn parse_shared(&mut self, input: &[u8], statement: &Arc<Statement>, undo: ClientUndo) -> bool {
        self.server.counts.client_parses += 1;
        let presence = self.server.statements.touch(statement);
        if presence == Presence::Current && self.may_insert_parse(statement) {
            self.server.counts.hits += 1;
            self.server.pipeline.push(Request::insert(reply::PARSE_COMPLETE, undo));
            return true;
        }
        if presence != Presence::Missing {
            self.close_on_server(input, statement.id);
        }
        self.ensure_run_by(input, statement);
        let rest = self.rest_for_server(statement).into_owned();
        self.prepare(input, statement, &rest, Fate::Forward, undo);
        false
    }

    /// Whether a Parse of what the server has can be answered in its place: not where it could fail, since the
    /// transaction has failed or may have, or since a table that it names may be gone.
    fn may_insert_parse(&self, statement: &Statement) -> bool {
        self.server.statements.is_fresh(statement, self.tables.statements.epoch()) && self.may_answer_parse()
    }

    /// The part of this that isn't about the statement.
    pub(super) fn may_answer_parse(&self) -> bool {
        let pipeline = &self.server.pipeline;
        // A temporary table hides another, which what was parsed before may read. What is asked about may be there.
        let hides = self.server.left().has(Taint::Temporary) || self.server.probe.is_some();
        // Should one of Carpool's own queries fail, no more is answered at all.
        let settled = !pipeline.awaits_ready() && !pipeline.runs() || pipeline.is_own();
        let failed = pipeline.status() == TransactionStatus::Failed;
        settled && !failed && !hides && !self.server.schema_changed && !self.server.partial
    }

    pub(super) fn bind(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let start = at + HEADER_LEN;
        let here = &input[start..input.len().min(start + header.body_len)];
        let Some((portal, name, names_len)) = frontend::bind_names(&here[..here.len().min(NAMES_LIMIT)]) else {
            let all = here.len() == header.body_len || here.len() >= NAMES_LIMIT;
            return if all { Err(FrameError::Body(tag::BIND).into()) } else { Ok(Step::More) };
        };
        let idle = self.server.pipeline.is_idle() || self.server.retry.is_expected();
        let found = self.find(input, name);
        if let Found::Known(named) = &found {
            let taint = self.may_leave_prepared(&named.statement);
            if self.must_be_fresh(taint) {
                return Ok(Step::Fresh);
            }
            if let Some(step) = self.must_ask(taint) {
                return Ok(step);
            }
        }
        if let Some(step) = self.must_find_bound(&found, here, header.body_len, names_len) {
            return Ok(step);
        }
        if let Found::Known(named @ Named { told: Told::Nothing | Told::Shape(_), .. }) = &found {
            // Else it may have to wait for replies, and with each of these for more of them.
            self.show_own_statements(input, named.statement.ends);
        }
        let parses = self.server.counts.server_parses;
        let (sent_name, request): (Option<Cow<'_, [u8]>>, _) = match &found {
            Found::Blocked => return Ok(Step::Blocked),
            Found::Unknown if name.starts_with(SERVER_PREFIX) => {
                (Some(nonexistent(name).into()), Request::renamed(Kind::Bind, name))
            }
            Found::Unknown => (None, Request::forward(Kind::Bind)),
            Found::Known(named) if !named.statement.own.is_empty() && self.refused(&named.statement.own).is_some() => {
                let error = self.refused(&named.statement.own).map(|(_, refusal)| ErrorText::Own(refusal));
                let extra = Extra { error, ..Extra::default() };
                (Some(nonexistent(OWN).into()), Request::forward(Kind::Bind).with(extra))
            }
            Found::Known(named) if self.must_listen(named.statement.ends) => return Ok(Step::Listens),
            Found::Known(named) => match self.bind_known(input, name, portal, named, idle) {
                None => return Ok(Step::Blocked),
                Some(bind) => bind,
            },
        };
        self.server.counts.binds += u32::from(!name.is_empty());
        self.server.counts.hits += u32::from(!name.is_empty() && parses == self.server.counts.server_parses);
        self.server.pipeline.push(request);
        let rest = self.bound_with_processes(&found, here, names_len);
        let Some(sent_name) = sent_name.or_else(|| rest.is_some().then_some(Cow::Borrowed(name))) else {
            return Ok(self.forward(input, at, header, Kind::Bind));
        };
        let rest = rest.as_deref().unwrap_or(&here[names_len..]);
        let out = self.to_server.own(input);
        let from = out.len();
        let names = portal.len() + sent_name.len() + 2;
        frame::header(out, tag::BIND, names + rest.len() + header.body_len - here.len());
        frame::put_cstr(out, portal);
        frame::put_cstr(out, &sent_name);
        out.extend_from_slice(rest);
        let remaining = header.body_len - here.len();
        if remaining == 0 {
            self.server.retry.record(Kind::Bind, &out[from..]);
        } else {
            self.server.retry.stop();
        }
        Ok(Step::Taken { consumed: HEADER_LEN + here.len(), remaining, forward: true })
    }

    /// Bind of a statement that the client has: by what name it is sent (`None`: as it is) and how it is noted.
    /// `None` when replies must arrive first.
    fn bind_known<'n>(
        &mut self,
        input: &[u8],
        name: &[u8],
        portal: &[u8],
        named: &'n Named,
        idle: bool,
    ) -> Option<(Option<Cow<'n, [u8]>>, Request)> {
        let statement = &named.statement;
        if let Some(target) = statement.effect.target() {
            if self.server.pipeline.uncertain(significant(target), 0) {
                return None;
            }
        }
        self.server.retry.stop();
        let request = Request::forward(Kind::Bind);
        if name.is_empty() && !self.is_reused(statement) {
            self.ensure_unnamed(input, statement);
            self.prepare_to_run(input, statement, portal);
            return Some((None, request));
        }
        match self.ensure_fit(input, named) {
            Fit::Blocked => None,
            Fit::Changed => {
                let extra = Extra { error: Some(ErrorText::Changed), ..Extra::default() };
                Some((Some(nonexistent(b"changed").into()), request.with(extra)))
            }
            Fit::Fits { injected } => {
                self.prepare_to_run(input, statement, portal);
                let plain = statement.effect == Effect::None && !self.may_leave(statement.runs()).has(Taint::Sequences);
                if idle && !injected && named.told == Told::Nothing && plain {
                    self.server.retry.begin(statement);
                }
                let undo = Undo { server: ServerUndo::Uses(statement.id), ..Undo::default() };
                Some((Some(statement.server_name().into()), Request { undo, ..request }))
            }
        }
    }

    pub(super) fn describe(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        check_size(header, NAMES_LIMIT)?;
        let Some(body) = body(input, at, header.body_len) else { return Ok(Step::More) };
        let Target::Statement(name) = frontend::target(header.tag, body)? else {
            self.server.pipeline.push(Request::forward(Kind::DescribePortal));
            return Ok(self.forward(input, at, header, Kind::DescribePortal));
        };
        self.server.retry.stop();
        let mut request = Request::forward(Kind::DescribeStatement);
        match self.find(input, name) {
            Found::Blocked => return Ok(Step::Blocked),
            Found::Known(Named { statement, .. }) if name.is_empty() && self.is_reused(&statement) => {
                self.ensure_named(input, &statement);
                frontend::put_statement_target(self.to_server.own(input), tag::DESCRIBE, statement.server_name());
                request.undo.server = ServerUndo::Uses(statement.id);
            }
            Found::Known(named) if name.is_empty() => {
                self.ensure_unnamed(input, &named.statement);
                self.to_server.forward(input, at..at + header.total_len());
            }
            Found::Known(Named { statement, .. }) => {
                self.ensure_named(input, &statement);
                frontend::put_statement_target(self.to_server.own(input), tag::DESCRIBE, statement.server_name());
                let key = significant(name);
                if let Some(named) = self.client.statements.named.get_mut(key) {
                    named.told = Told::Asked;
                }
                let name = Some(key.into());
                let describes = Describes { statement, name, expected: None, shape: Vec::new() };
                request = request.with(Extra { describes: Some(describes), ..Extra::default() });
            }
            Found::Unknown if name.starts_with(SERVER_PREFIX) => {
                request = Request::renamed(Kind::DescribeStatement, name);
                frontend::put_statement_target(self.to_server.own(input), tag::DESCRIBE, &nonexistent(name));
            }
            Found::Unknown => self.to_server.forward(input, at..at + header.total_len()),
        }
        self.server.pipeline.push(request);
        Ok(pass(input, at, header, true))
    }

    pub(super) fn close(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        check_size(header, NAMES_LIMIT)?;
        let Some(body) = body(input, at, header.body_len) else { return Ok(Step::More) };
        let mut request = Request::forward(Kind::Close);
        match frontend::target(header.tag, body)? {
            Target::Portal(_) => {}
            Target::Statement(b"") => {
                request.undo = Undo {
                    client: ClientUndo::Unnamed(self.client.statements.unnamed.take()),
                    server: ServerUndo::unnamed(self.server.statements.unnamed.take()),
                };
            }
            Target::Statement(name) => return Ok(self.close_named(input, at, header, significant(name))),
        }
        self.server.pipeline.push(request);
        Ok(self.forward(input, at, header, Kind::Close))
    }

    /// The server keeps the statement, which may be others', too.
    fn close_named(&mut self, input: &[u8], at: usize, header: Header, name: &[u8]) -> Step {
        if self.server.pipeline.uncertain(name, 0) {
            return Step::Blocked;
        }
        self.server.retry.stop();
        let may_be = self.server.left().has(Taint::SqlPrepare) || self.server.by_sql.contains(name);
        let by_sql = may_be && !name.starts_with(SERVER_PREFIX);
        if by_sql && !self.client.statements.named.contains_key(name) {
            self.server.touch(Taints::NONE, Taint::SqlPrepare.into(), &[]);
            let known = self.server.by_sql.remove(name);
            let server = if known {
                ServerUndo::ClosedBySql(Box::new(Meant { name: name.into(), before: None }))
            } else {
                ServerUndo::None
            };
            let undo = Undo { server, ..Undo::default() };
            self.server.pipeline.push(Request { undo, ..Request::forward(Kind::Close) });
            return self.pass_on(input, at, header);
        }
        let undo = match self.client.statements.named.remove(name) {
            Some(old) => ClientUndo::named(name, Some(old)),
            None => ClientUndo::None,
        };
        if self.server.partial {
            frontend::put_statement_target(self.to_server.own(input), tag::CLOSE, DUMMY);
            let undo = Undo { client: undo, server: ServerUndo::None };
            self.server.pipeline.push(Request { undo, ..Request::forward(Kind::Close) });
        } else {
            self.server.pipeline.push(Request::insert(reply::CLOSE_COMPLETE, undo));
        }
        pass(input, at, header, true)
    }

    pub(super) fn execute(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let mut request = Request::forward(Kind::Execute);
        if self.server.portals.0.is_empty() {
            self.server.pipeline.push(request);
            return Ok(self.forward(input, at, header, Kind::Execute));
        }
        check_size(header, NAMES_LIMIT)?;
        let Some(body) = body(input, at, header.body_len) else { return Ok(Step::More) };
        let waits = match self.server.portals.0.get(frontend::portal(body)?) {
            None => false,
            Some(Runs::AndWaits) => true,
            Some(Runs::Makes(name)) => {
                request = request.with(Extra { makes: vec![significant(name).into()], ..Extra::default() });
                true
            }
            Some(Runs::Creates) => {
                request = request.with(Extra { creates: true, ..Extra::default() });
                false
            }
            Some(Runs::ForgetsSequences) => {
                request = request.with(Extra { forgets_sequences: true, ..Extra::default() });
                true
            }
            Some(Runs::Defaults(names)) => {
                request = request.with(Extra { defaults: names.clone(), ..Extra::default() });
                true
            }
            Some(Runs::Forgets(name)) => {
                request = request.with(Extra { forget: vec![Some(name.clone())], ..Extra::default() });
                true
            }
            Some(Runs::Unknown(name)) => {
                request = request.with(Extra { error: Some(ErrorText::Name(name.clone())), ..Extra::default() });
                false
            }
            Some(Runs::Renamed(name)) => {
                let (error, forget) = (Some(ErrorText::Name(name.clone())), vec![Some(significant(name).into())]);
                request = request.with(Extra { error, forget, ..Extra::default() });
                self.server.by_sql.contains(significant(name))
            }
        };
        self.server.retry.stop();
        self.server.pipeline.push(request);
        let step = self.pass_on(input, at, header);
        if waits {
            // What comes next depends on how this ends, so the server is asked to say so now.
            frontend::put_empty(self.to_server.own(input), tag::FLUSH);
            self.server.hold = true;
        }
        Ok(step)
    }
}
