//! The table of `[pooler]`: each setting once. It feeds both readers, SHOW CONFIG, `to_toml` and the test of
//! `config.example.toml`.

use std::time::Duration;

use super::document::Raw;
use super::field::{Field, Value};
use super::kind::Kind;
use super::{Format, HttpAnonymous, MOST_PEERS, Pooler, ShareBy};
use crate::tls::SslMode;

/// One setting of `T`.
pub(super) struct Setting<T: 'static> {
    /// Its name in TOML; PgBouncer's where it has one.
    pub(super) name: &'static str,
    /// Another name in TOML.
    pub(super) alias: Option<&'static str>,
    /// Its name in an ini file, if it can be set there.
    pub(super) ini_name: Option<&'static str>,
    /// What it may be.
    pub(super) kind: Kind,
    /// The text (or number) that says "not set", for a field that can be.
    pub(super) unset: Option<&'static str>,
    /// PgBouncer's default, where it isn't the field's.
    pub(super) ini_default: Option<&'static str>,
    /// What PgBouncer's `0` is here, where that means something else.
    pub(super) ini_zero: Option<&'static str>,
    /// Whether `0`, like a negative number, means "as the global setting" in an ini file.
    pub(super) ini_zero_inherits: bool,
    /// Whether a reload can change it.
    pub(super) changeable: bool,
    /// What it does, in one line.
    pub(super) doc: &'static str,
    /// Its value.
    pub(super) get: fn(&T) -> Value,
    put: fn(&mut T, Value) -> bool,
}

impl<T> Setting<T> {
    /// A setting that both formats know by this name.
    pub(super) const fn new(
        (name, doc): (&'static str, &'static str),
        kind: Kind,
        get: fn(&T) -> Value,
        put: fn(&mut T, Value) -> bool,
    ) -> Self {
        let (alias, unset, ini_default, ini_zero) = (None, None, None, None);
        let (ini_name, ini_zero_inherits, changeable) = (Some(name), false, true);
        Self { name, alias, ini_name, kind, unset, ini_default, ini_zero, ini_zero_inherits, changeable, doc, get, put }
    }

    /// With another name in TOML.
    pub(super) const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    /// With another name in an ini file, or none.
    pub(super) const fn ini_name(mut self, name: Option<&'static str>) -> Self {
        self.ini_name = name;
        self
    }

    /// With a text that says "not set".
    pub(super) const fn unset(mut self, text: &'static str) -> Self {
        self.unset = Some(text);
        self
    }

    /// With PgBouncer's default.
    const fn ini(mut self, default: &'static str) -> Self {
        self.ini_default = Some(default);
        self
    }

    /// With another meaning of PgBouncer's `0`.
    const fn ini_zero(mut self, meaning: &'static str) -> Self {
        self.ini_zero = Some(meaning);
        self
    }

    /// With `0` for "as the global setting" in an ini file.
    pub(super) const fn ini_zero_inherits(mut self) -> Self {
        self.ini_zero_inherits = true;
        self
    }

    /// Only read at start.
    const fn fixed(mut self) -> Self {
        self.changeable = false;
        self
    }

    /// Whether this is the setting of that name.
    pub(super) fn is_named(&self, key: &str, format: Format) -> bool {
        match format {
            Format::Toml => self.name == key || self.alias == Some(key),
            Format::Ini => self.ini_name.is_some_and(|name| name == key || self.alias == Some(key)),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(&self, raw: &Raw, format: Format) -> Result<Value, String> {
        if self.unset.is_some() && raw.as_text().as_deref() == self.unset {
            return Ok(Value::Unset);
        }
        match (self.ini_zero, raw) {
            (Some(meaning), Raw::Text(text)) if format == Format::Ini && is_zero(text) => {
                self.kind.parse(&Raw::Text(meaning.into()), format)
            }
            _ => self.kind.parse(raw, format),
        }
    }

    /// Sets the field.
    ///
    /// # Errors
    /// When the field's type can't hold the value, which the kind should have seen.
    pub(super) fn store(&self, target: &mut T, value: Value) -> Result<(), String> {
        if (self.put)(target, value) { Ok(()) } else { Err("not a possible value".into()) }
    }

    /// The value as an ini file has it.
    pub(super) fn text(&self, of: &T) -> String {
        match (self.get)(of) {
            Value::Unset => self.unset.unwrap_or_default().into(),
            value => self.kind.to_text(&value),
        }
    }
}

fn is_zero(text: &str) -> bool {
    text.parse::<f64>() == Ok(0.0)
}

/// Sets a field from a value of its kind.
pub(super) fn write<F: Field>(field: &mut F, value: Value) -> bool {
    F::from_value(value).map(|value| *field = value).is_some()
}

/// A setting that is the field of the same name.
macro_rules! setting {
    ($owner:ty, $field:ident, $kind:expr, $doc:expr) => {
        $crate::config::settings::Setting::<$owner>::new(
            (stringify!($field), $doc),
            $kind,
            |owner| $crate::config::field::Field::to_value(&owner.$field),
            |owner, value| $crate::config::settings::write(&mut owner.$field, value),
        )
    };
}
pub(super) use setting;

macro_rules! pooler {
    ($field:ident, $kind:expr, $doc:expr) => {
        setting!(Pooler, $field, $kind, $doc)
    };
}

/// A wait that PgBouncer lets be endless ends after a day here.
const ENDLESS: &str = "1d";
/// What comes closest to "each time" where 0 means "never".
const AT_ONCE: &str = "1us";
/// The shortest time that a step which must end can be given.
const SHORTEST: Duration = Duration::from_millis(1);

/// Syslog's facilities, as PgBouncer knows them.
const FACILITIES: [&str; 12] = [
    "auth", "authpriv", "daemon", "user", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// `[pooler]`, in the order of `config.example.toml`.
pub(super) static POOLER: &[Setting<Pooler>] = &[
    pooler!(listen_addr, Kind::List, "Addresses to listen on, by number or name; \"*\" is all. Empty: no TCP.")
        .ini("")
        .fixed(),
    pooler!(listen_port, Kind::Number(0, 65535), "Port for clients, also the suffix of the unix socket's name.")
        .fixed(),
    pooler!(unix_socket_dir, Kind::Path, "Directory of the unix socket .s.PGSQL.PORT. Empty: none.")
        .unset("")
        .ini("/tmp")
        .fixed(),
    pooler!(unix_socket_mode, Kind::FileMode, "Permissions of the unix socket, in octal.").fixed(),
    pooler!(unix_socket_group, Kind::Text, "Group of the unix socket. Empty: the process's.").unset("").fixed(),
    pooler!(user, Kind::Text, "User of the system that Carpool becomes when root starts it. Empty: it stays.")
        .unset("")
        .fixed(),
    pooler!(pidfile, Kind::Path, "File that has the process number while Carpool runs. Empty: none.").unset("").fixed(),
    pooler!(
        http_addr,
        Kind::Text,
        "Address for HTTP: /metrics (Prometheus), / (dashboard), /api, /healthz and /readyz."
    )
    .fixed(),
    pooler!(http_port, Kind::Number(0, 65535), "Port for HTTP. 0: off.").unset("0").fixed(),
    pooler!(
        http_anonymous,
        Kind::Word(&HttpAnonymous::WORDS),
        "What the dashboard shows without a login: none, status (pools), or read (clients and settings, too)."
    ),
    pooler!(
        http_hosts,
        Kind::List,
        "Names with a dot by which browsers reach the dashboard, as behind a proxy. Addresses need none."
    ),
    pooler!(listen_backlog, Kind::Number(1, 65535), "Connections that may wait to be accepted.").ini("128").fixed(),
    pooler!(so_reuseport, Kind::Flag, "Let several processes listen on the same port (SO_REUSEPORT).").fixed(),
    pooler!(worker_threads, Kind::Number(0, 1024), "Worker threads. 0: one for every two cores, at most 4.").fixed(),
    pooler!(
        peer_id,
        Kind::Number(0, MOST_PEERS),
        "Who this Carpool is among those of [peers], to whom cancel requests for their sessions are passed on. 0: nobody."
    )
    .fixed(),
    pooler!(max_client_conn, Kind::Number(1, i32::MAX as u32), "Client connections in total.").ini("100"),
    pooler!(
        max_client_conn_per_address,
        Kind::ANY_NUMBER,
        "Connections from one address (of IPv6: from one network /64), those not logged in among them. 0: no limit."
    ),
    pooler!(
        max_login_connections,
        Kind::Number(1, i32::MAX as u32),
        "Connections that have not proved who they are; over it, the one that is silent for longest is closed."
    ),
    pooler!(pool_mode, Kind::PoolMode, "When a server is free again: after the transaction, session or statement.")
        .ini("session"),
    pooler!(
        default_pool_size,
        Kind::Size,
        "Server connections of a database, over all its users, unless it has a pool_size of its own."
    )
    .ini("20"),
    pooler!(min_pool_size, Kind::ANY_NUMBER, "Server connections that a database keeps open when idle."),
    pooler!(
        reserve_pool_size,
        Kind::ANY_NUMBER,
        "Server connections on top of a pool's size while a client has waited for reserve_pool_timeout. 0: none."
    ),
    pooler!(reserve_pool_timeout, Kind::Time, "How long a client waits before the reserve is used. 0: never."),
    pooler!(
        autodb_idle_timeout,
        Kind::Time,
        "Forget a pool of the \"*\" database that nobody used for so long. 0: never."
    ),
    pooler!(
        max_concurrent_logins,
        Kind::Number(1, 1024),
        "Logins to one database's server under way at the same time."
    ),
    pooler!(
        max_db_client_connections,
        Kind::ANY_NUMBER,
        "Client connections to one database, unless it has a limit of its own. 0: no limit."
    ),
    pooler!(
        max_user_client_connections,
        Kind::ANY_NUMBER,
        "Client connections of one user, unless it has a limit of its own. 0: no limit."
    ),
    pooler!(
        max_user_connections,
        Kind::ANY_NUMBER,
        "Server connections of one user over all databases, unless it has a limit of its own. 0: no limit."
    ),
    pooler!(
        share_by,
        Kind::Word(&ShareBy::WORDS),
        "Who waits gets servers in turn by user or application_name; none: first come, first served."
    ),
    pooler!(share_weights, Kind::Weights, "What these users or applications may have, in relation to others' 1."),
    pooler!(
        auth_type,
        Kind::AuthType,
        "How clients log in: scram-sha-256, md5 (SCRAM where the secret is), plain, cert, trust, any, hba, peer, ldap, pam, jwt."
    )
    .ini("md5"),
    pooler!(
        scram_iterations,
        Kind::Number(1, 100_000),
        "Iterations of SCRAM for users whose secret is a plain password; a SCRAM secret has its own."
    ),
    pooler!(
        auth_file,
        Kind::Path,
        "Further users, in the format of PgBouncer's userlist.txt; [users] wins, setting by setting."
    )
    .unset(""),
    pooler!(
        auth_hba_file,
        Kind::Path,
        "With auth_type hba: who may connect from where and how, in the format of pg_hba.conf."
    )
    .unset(""),
    pooler!(auth_ident_file, Kind::Path, "Identity maps of auth_hba_file, in the format of pg_ident.conf.").unset(""),
    pooler!(
        auth_ldap_options,
        Kind::Secret,
        "With auth_type ldap: the server and how users are found there, as options of an hba line."
    )
    .unset(""),
    pooler!(auth_jwks_file, Kind::Path, "With auth_type jwt: the keys of the issuer, a JSON Web Key Set.").unset(""),
    pooler!(auth_jwt_issuer, Kind::Text, "Who must have issued a token (its claim iss).").unset(""),
    pooler!(auth_jwt_audience, Kind::List, "For whom a token must be (its claim aud): one of these."),
    pooler!(auth_jwt_user_claim, Kind::Text, "The claim of a token that has the user's name."),
    pooler!(auth_jwt_leeway, Kind::Time, "How far the issuer's clock may differ, at most 5 minutes."),
    pooler!(auth_user, Kind::Text, "Looks up users without a password here, as this role, by auth_query.").unset(""),
    pooler!(auth_query, Kind::Text, "What it asks: $1 is the name; one row with name and secret is the answer."),
    pooler!(auth_dbname, Kind::Text, "In which of [databases] it asks; without it, in the one that the client wants.")
        .unset(""),
    pooler!(
        auth_query_cache_ttl,
        Kind::Time,
        "How long an answer of auth_query holds. 0: for logins at the same time only."
    ),
    pooler!(
        client_tls_sslmode,
        Kind::Word(&SslMode::WORDS),
        "TLS with clients: disable, allow or prefer (if they ask), require, verify-ca or verify-full (with a certificate)."
    ),
    pooler!(client_tls_key_file, Kind::Path, "Private key for TLS with clients, in PEM.").unset(""),
    pooler!(
        client_tls_cert_file,
        Kind::Path,
        "Certificate of that key, in PEM, followed by those between it and its authority."
    )
    .unset(""),
    pooler!(client_tls_ca_file, Kind::Path, "Authorities that certificates of clients must come from, in PEM.")
        .unset(""),
    pooler!(client_tls_protocols, Kind::Text, "Protocols: tlsv1.2, tlsv1.3; secure or all is both."),
    pooler!(client_tls_ciphers, Kind::Text, "Ciphers of TLS 1.2, by OpenSSL's names; default is all that there are."),
    pooler!(client_tls13_ciphers, Kind::Text, "Ciphers of TLS 1.3. Empty: all that there are."),
    pooler!(client_tls_ecdhcurve, Kind::Text, "Curves: X25519, prime256v1, secp384r1; auto is all."),
    pooler!(client_tls_dheparams, Kind::Text, "For PgBouncer's files alone: keys are exchanged by curves only."),
    pooler!(admin_users, Kind::List, "Users who may run all commands on the console (the database pgbouncer)."),
    pooler!(stats_users, Kind::List, "Users who may run SHOW on the console."),
    pooler!(
        server_tls_sslmode,
        Kind::Word(&SslMode::WORDS),
        "TLS to servers over TCP: disable, allow, prefer, require, verify-ca, verify-full, as in libpq."
    ),
    pooler!(server_tls_ca_file, Kind::Path, "Authorities that certificates of servers must come from, in PEM.")
        .unset(""),
    pooler!(server_tls_key_file, Kind::Path, "Private key to show servers who Carpool is, in PEM.").unset(""),
    pooler!(server_tls_cert_file, Kind::Path, "Certificate of that key, in PEM.").unset(""),
    pooler!(server_tls_protocols, Kind::Text, "Protocols: tlsv1.2, tlsv1.3; secure or all is both."),
    pooler!(server_tls_ciphers, Kind::Text, "Ciphers of TLS 1.2, by OpenSSL's names; default is all that there are."),
    pooler!(server_tls13_ciphers, Kind::Text, "Ciphers of TLS 1.3. Empty: all that there are."),
    pooler!(server_idle_timeout, Kind::Time, "Close a server connection that nobody used for so long. 0: never."),
    pooler!(server_lifetime, Kind::Time, "Close a server connection of this age when it comes free. 0: never.")
        .ini_zero(AT_ONCE),
    pooler!(server_connect_timeout, Kind::Bound(SHORTEST), "How long a connect and login to a server may take.")
        .ini_zero(ENDLESS),
    pooler!(server_login_retry, Kind::Time, "Longest pause between logins after some have failed."),
    pooler!(
        health_check_interval,
        Kind::Time,
        "How often each of several hosts is asked for its role, by one connection to each. 0: never."
    ),
    pooler!(health_check_timeout, Kind::Bound(SHORTEST), "How long a host may take to answer that before it is down."),
    pooler!(server_check_query, Kind::CheckQuery, "Query that checks an idle server before use. <empty>: a bare Sync."),
    pooler!(server_check_delay, Kind::Time, "Check a server that was idle for longer than this. 0: never.")
        .ini_zero(AT_ONCE),
    pooler!(server_reset_query, Kind::Text, "Query that cleans a server up when a client leaves, in session mode."),
    pooler!(server_reset_query_always, Kind::Flag, "Run server_reset_query in the other modes too."),
    pooler!(server_round_robin, Kind::Flag, "Use idle server connections in turn, not the one used last first."),
    pooler!(
        server_fast_close,
        Kind::Flag,
        "In session mode, end idle clients whose server connection is to be replaced (RECONNECT, a reload)."
    ),
    pooler!(
        strict_session_state,
        Kind::Flag,
        "Ask for session state after every transaction that may change it out of sight (triggers, views, …)."
    ),
    pooler!(
        reuse_unnamed_statements,
        Kind::Flag,
        "Have PostgreSQL parse an unnamed statement once per connection, as a prepared one, when its text comes again."
    ),
    pooler!(
        diagnostic_connection,
        Kind::Flag,
        "Keep one server connection of each pool, within pool_size, to ask who blocks whom while clients wait."
    ),
    pooler!(
        show_query_text,
        Kind::Flag,
        "Show the texts of statements in SHOW BLOCKERS and on the dashboard, where they are known."
    ),
    pooler!(query_wait_timeout, Kind::Time, "How long a client may wait for a server. 0: no limit."),
    pooler!(query_wait_notify, Kind::Time, "Send clients a notice when they have waited for so long. 0: never."),
    pooler!(query_timeout, Kind::Time, "How long a query may run. 0: no limit."),
    pooler!(idle_transaction_timeout, Kind::Time, "How long a client may sit idle in a transaction. 0: no limit."),
    pooler!(transaction_timeout, Kind::Time, "How long a transaction may take. 0: no limit."),
    pooler!(client_idle_timeout, Kind::Time, "How long a client may sit idle outside of one. 0: no limit."),
    pooler!(client_login_timeout, Kind::Time, "How long a client may take to log in. 0: no limit."),
    pooler!(cancel_wait_timeout, Kind::Bound(SHORTEST), "How long a cancel request may wait and run.")
        .ini_zero(ENDLESS),
    pooler!(shutdown_timeout, Kind::Time, "How long running transactions may take after SIGTERM."),
    pooler!(
        upgrade_timeout,
        Kind::Bound(SHORTEST),
        "How long a new process may take until it is ready to take over, before the old one goes on."
    ),
    pooler!(
        upgrade_drain_timeout,
        Kind::Time,
        "How long clients that can't be handed to a new process may stay with the old one."
    ),
    pooler!(
        stop_waits_for_clients,
        Kind::Flag,
        "SIGTERM waits until all clients have left, SIGINT until transactions have ended, as in PgBouncer."
    )
    .ini("1"),
    pooler!(
        suspend_timeout,
        Kind::Time,
        "How long clients may take to read what waits for them on SUSPEND. 0: no limit."
    ),
    pooler!(
        max_prepared_statements,
        Kind::ANY_NUMBER,
        "Prepared statements kept on each server connection. 0: names aren't tracked."
    ),
    pooler!(
        max_packet_size,
        Kind::Number(1024, i32::MAX as u32),
        "Largest message of a client that has to be held whole, in bytes."
    )
    .ini("2147483647"),
    pooler!(ignore_startup_parameters, Kind::List, "Startup parameters that are dropped instead of set."),
    pooler!(
        application_name_add_host,
        Kind::Flag,
        "Add the client's address and port to the application_name that it starts with."
    ),
    pooler!(track_extra_parameters, Kind::List, "Further parameters that follow the client, beside the reported ones.")
        .ini("IntervalStyle")
        .fixed(),
    pooler!(pin_notice, Kind::Flag, "Send clients a notice when they begin to keep their server between transactions."),
    pooler!(
        audit,
        Kind::Flag,
        "Record what session state clients use, for SHOW AUDIT: is an app ready for transaction mode?"
    ),
    pooler!(
        track_waits,
        Kind::Flag,
        "Keep where the time of transactions goes, by database, user and application, for SHOW WAITS."
    ),
    pooler!(
        track_statements,
        Kind::Flag,
        "Keep it by normalized statement, too, for SHOW STATEMENTS; implies track_waits."
    ),
    pooler!(
        flight_recorder,
        Kind::Number(0, 65_536),
        "Keep the last so many protocol events of each connection, without contents, for carpool replay. 0: none."
    ),
    pooler!(
        flight_recorder_dir,
        Kind::Path,
        "Where they are written to when the protocol is broken, or by RECORD on the console."
    )
    .unset(""),
    pooler!(advisor, Kind::Flag, "Record the demand on pools, for SHOW ADVICE: what size should they have?"),
    pooler!(advisor_target, Kind::Target, "What a size has to fulfil: the part of all waits for a server, and their bound."),
    pooler!(
        advisor_window,
        Kind::Bound(Duration::from_secs(10)),
        "How far back the record goes; it takes at most 1.3 MB for each database, however long it is."
    ),
    pooler!(
        auto_pool_size_delay,
        Kind::Bound(Duration::from_secs(1)),
        "A pool that sizes itself (pool_size = \"auto\") shrinks when that was advised for so long."
    ),
    pooler!(log_connections, Kind::Flag, "Log logins."),
    pooler!(log_disconnections, Kind::Flag, "Log disconnections, with the reason."),
    pooler!(log_pooler_errors, Kind::Flag, "Log errors that clients are told."),
    pooler!(log_stats, Kind::Flag, "Log a line of statistics every stats_period."),
    pooler!(
        log_slow_transactions,
        Kind::Time,
        "Log transactions that take so long, with the time spent waiting, on the server and with the client. 0: none."
    ),
    pooler!(
        otlp_endpoint,
        Kind::Text,
        "Export a span of each transaction to this URL by OTLP over HTTP (JSON), such as http://localhost:4318."
    )
    .unset(""),
    pooler!(
        otlp_sampling,
        Kind::Number(0, 100),
        "Percent of the transactions without a traceparent in their text that get a span."
    ),
    pooler!(
        stats_period,
        Kind::Bound(Duration::from_secs(1)),
        "Period of the averages in SHOW STATS and of log_stats."
    ),
    pooler!(verbose, Kind::Number(0, 9), "Log more: 1 or 2, as -v and -vv."),
    pooler!(logfile, Kind::Path, "Log to this file, too; opened again at each reload. Empty: none.").unset(""),
    pooler!(syslog, Kind::Flag, "Log to the system's log, too."),
    pooler!(syslog_ident, Kind::Text, "Name in the system's log.").ini("pgbouncer"),
    pooler!(
        syslog_facility,
        Kind::Word(&FACILITIES),
        "Facility in the system's log: daemon, user, auth, authpriv, local0 to local7."
    ),
    pooler!(core_dumps, Kind::Flag, "Let the system write core dumps, which hold passwords.").fixed(),
    pooler!(
        tcp_defer_accept,
        Kind::Flag,
        "Leave connections to the system until their first bytes are there, for a second or two (TCP_DEFER_ACCEPT; Linux)."
    ),
    pooler!(tcp_keepalive, Kind::Flag, "TCP keepalive, for clients and servers."),
    pooler!(tcp_keepidle, Kind::ANY_NUMBER, "Seconds of silence before the first probe. 0: the system's."),
    pooler!(tcp_keepintvl, Kind::ANY_NUMBER, "Seconds between probes. 0: the system's."),
    pooler!(
        tcp_keepcnt,
        Kind::ANY_NUMBER,
        "Probes without an answer before the connection is given up. 0: the system's."
    ),
    pooler!(
        tcp_user_timeout,
        Kind::ANY_NUMBER,
        "Milliseconds that sent data may stay unacknowledged (TCP_USER_TIMEOUT). 0: the system's."
    ),
    pooler!(tcp_socket_buffer, Kind::ANY_NUMBER, "Bytes of the system's buffers for each socket. 0: the system's."),
];

impl Pooler {
    /// What a setting is when a file of this format doesn't name it.
    #[must_use]
    pub fn defaults(format: Format) -> Self {
        let mut pooler = Self::default();
        if format == Format::Ini {
            for setting in POOLER {
                let default = setting.ini_default.map(|text| setting.parse(&Raw::Text(text.into()), Format::Ini));
                // A test sees to it that they all can be stored.
                if let Some(Ok(value)) = default {
                    (setting.put)(&mut pooler, value);
                }
            }
        }
        pooler
    }
}
