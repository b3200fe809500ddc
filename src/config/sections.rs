//! The tables of `[databases.NAME]` and `[users.NAME]`.
//!
//! PgBouncer's `pool_size` of a database caps one user's connections, and `max_db_connections` all of them; here
//! `user_pool_size` and `pool_size` do. So the same fields have other names in an ini file.

use super::field::{Field, Value};
use super::kind::{AUTO, Kind};
use super::settings::{Setting, setting, write};
use super::{Database, LoadBalance, Peer, ReadOnlyRoute, SessionAttrs, ShareBy, User};
use crate::tls::{BindingMode, SslMode, SslNegotiation};

macro_rules! database {
    ($field:ident, $kind:expr, $doc:expr) => {
        setting!(Database, $field, $kind, $doc)
    };
}

/// A setting that is kept as a startup parameter.
macro_rules! startup_parameter {
    ($name:literal, $doc:expr) => {
        Setting::<Database>::new(
            ($name, $doc),
            Kind::Text,
            |database| database.startup_parameters.get($name).map_or(Value::Unset, Field::to_value),
            |database, value| {
                let mut text = None;
                let stored = write::<Option<String>>(&mut text, value);
                if let Some(text) = text {
                    database.startup_parameters.insert($name.into(), text);
                }
                stored
            },
        )
        .unset("")
    };
}

/// `[peers.ID]`, in the order of `config.example.toml`.
pub(super) static PEER: &[Setting<Peer>] = &[
    setting!(Peer, host, Kind::Host, "Name or address of the peer, or the directory of its unix socket.").unset(""),
    setting!(Peer, port, Kind::Number(1, 65535), "Port of the peer."),
    setting!(Peer, pool_size, Kind::Number(1, 65535), "Cancel requests that are passed on to it at a time."),
];

/// `[databases.NAME]`, in the order of `config.example.toml`.
pub(super) static DATABASE: &[Setting<Database>] = &[
    database!(
        host,
        Kind::Hosts,
        "Name or address of the server, or the directory of its unix socket. Several stand with commas between them."
    ),
    database!(port, Kind::Ports, "Port of the server; of several hosts, one for all or one for each (\"5432,5433\")."),
    database!(
        load_balance_hosts,
        Kind::Word(&LoadBalance::WORDS),
        "Which of several hosts a new connection goes to: round-robin (each in turn), random, disable (the first)."
    ),
    database!(
        target_session_attrs,
        Kind::Word(&SessionAttrs::WORDS),
        "What a server has to be: any, read-write, read-only, primary, standby, prefer-standby; others are not used."
    ),
    database!(
        read_only_route,
        Kind::Word(&ReadOnlyRoute::WORDS),
        "Clients may ask for NAME@ro: off, standby (standbys only), prefer-standby (without one, the primary)."
    ),
    database!(
        max_replica_lag,
        Kind::Time,
        "A standby that is further behind is not used. 0: however far it is. Needs health_check_interval."
    ),
    database!(dbname, Kind::Text, "Name of the database on the server; without it, the name that clients use.")
        .unset(""),
    database!(user, Kind::Text, "Log in to the server as this user for everybody.").unset(""),
    database!(password, Kind::Secret, "Password to log in to the server with; without it, the user's own.").unset(""),
    database!(auth_user, Kind::Text, "Looks up users without a password here; see the global auth_user.").unset(""),
    database!(auth_query, Kind::Text, "What it asks; see the global auth_query.").unset(""),
    database!(auth_dbname, Kind::Text, "In which database it asks; see the global auth_dbname.").unset(""),
    database!(
        server_tls_sslmode,
        Kind::Word(&SslMode::WORDS),
        "TLS to the server: disable, allow, prefer, require, verify-ca, verify-full."
    ),
    database!(
        server_tls_ca_file,
        Kind::Path,
        "Authorities that its certificate must come from; without it, the global ones."
    )
    .unset(""),
    database!(
        sslnegotiation,
        Kind::Word(&SslNegotiation::WORDS),
        "How TLS begins: postgres (asked for), or direct (at once; PostgreSQL 17 and later)."
    ),
    database!(
        channel_binding,
        Kind::Word(&BindingMode::WORDS),
        "Bind SCRAM logins to the TLS connection: disable, prefer, require."
    ),
    Setting::<Database>::new(
        ("pool_size", "Server connections at most, over all users."),
        Kind::AutoSize,
        |database| match database.auto_pool_size {
            true => Value::Text(AUTO.into()),
            false => Value::Number(database.pool_size),
        },
        |database, value| {
            database.auto_pool_size = matches!(value, Value::Text(_));
            database.auto_pool_size || write(&mut database.pool_size, value)
        },
    )
    .ini_name(Some("max_db_connections"))
    .ini_zero_inherits(),
    database!(
        min_auto_pool_size,
        Kind::Number(1, 10_000),
        "With pool_size = \"auto\" the pool has this size at least."
    ),
    database!(max_auto_pool_size, Kind::Number(1, 10_000), "With pool_size = \"auto\" the pool has this size at most."),
    database!(
        shared_pool_size,
        Kind::Number(0, 10_000),
        "Server connections that several Carpools may have together, each at most its pool_size. 0: not shared."
    ),
    database!(
        shared_pool_user,
        Kind::Text,
        "Keeps the books of shared_pool_size, in the table carpool_budget on the server; without it, user does."
    )
    .unset(""),
    database!(user_pool_size, Kind::ANY_NUMBER, "One user's share of them at most. 0: the whole pool.")
        .unset("0")
        .ini_name(Some("pool_size")),
    database!(min_pool_size, Kind::ANY_NUMBER, "Server connections kept open when idle."),
    database!(
        reserve_pool_size,
        Kind::ANY_NUMBER,
        "Server connections on top of pool_size while a client has waited for reserve_pool_timeout. 0: none."
    )
    .alias("reserve_pool"),
    database!(
        max_pinned,
        Kind::ANY_NUMBER,
        "Servers that clients may keep between transactions for what can't be moved (temporary tables, …). 0: none."
    ),
    database!(
        share_by,
        Kind::Word(&ShareBy::WORDS),
        "Who waits gets servers in turn by user or application_name; none: first come, first served."
    ),
    database!(share_weights, Kind::Weights, "What these users or applications may have, in relation to others' 1."),
    database!(pin_notice, Kind::Flag, "Send clients a notice when they begin to keep their server."),
    database!(
        strict_session_state,
        Kind::Flag,
        "Ask for session state after every transaction that may change it out of sight (triggers, views, …)."
    ),
    database!(
        reuse_unnamed_statements,
        Kind::Flag,
        "Have PostgreSQL parse an unnamed statement once per connection, as a prepared one, when its text comes again."
    ),
    database!(
        diagnostic_connection,
        Kind::Flag,
        "Keep one server connection, within pool_size, to ask who blocks whom while clients wait."
    ),
    database!(pool_mode, Kind::PoolMode, "When a server is free again."),
    database!(max_client_connections, Kind::ANY_NUMBER, "Client connections at most. 0: no limit.")
        .alias("max_db_client_connections")
        .ini_name(Some("max_db_client_connections"))
        .ini_zero_inherits(),
    database!(server_lifetime, Kind::Time, "Close a server connection of this age when it comes free. 0: never.")
        .ini_zero_inherits(),
    database!(query_wait_timeout, Kind::Time, "How long a client may wait for a server. 0: no limit."),
    database!(connect_query, Kind::Text, "SQL that is run on each new server connection.").unset(""),
    startup_parameter!("application_name", "Value that sessions start with, unless the client brings its own."),
    startup_parameter!("client_encoding", "Value that sessions start with, unless the client brings its own."),
    startup_parameter!("datestyle", "Value that sessions start with, unless the client brings its own."),
    startup_parameter!("timezone", "Value that sessions start with, unless the client brings its own."),
];

macro_rules! user {
    ($field:ident, $kind:expr, $doc:expr) => {
        setting!(User, $field, $kind, $doc)
    };
}

/// `[users.NAME]`, in the order of `config.example.toml`.
pub(super) static USER: &[Setting<User>] = &[
    user!(password, Kind::Secret, "Password, in plain, as md5… or as SCRAM-SHA-256$….").unset("").ini_name(None),
    user!(pool_mode, Kind::PoolMode, "When a server is free again, whatever the database says."),
    user!(pool_size, Kind::Size, "Server connections in one pool at most."),
    user!(max_user_connections, Kind::ANY_NUMBER, "Server connections over all databases at most. 0: no limit.")
        .ini_zero_inherits(),
    user!(max_client_connections, Kind::ANY_NUMBER, "Client connections at most. 0: no limit.")
        .alias("max_user_client_connections")
        .ini_name(Some("max_user_client_connections"))
        .ini_zero_inherits(),
    user!(query_timeout, Kind::Time, "How long a query may run. 0: no limit.").ini_zero_inherits(),
    user!(idle_transaction_timeout, Kind::Time, "How long a client may sit idle in a transaction. 0: no limit.")
        .ini_zero_inherits(),
    user!(transaction_timeout, Kind::Time, "How long a transaction may take. 0: no limit.").ini_zero_inherits(),
    user!(client_idle_timeout, Kind::Time, "How long a client may sit idle outside of one. 0: no limit.")
        .ini_zero_inherits(),
];
