//! `docs/pgbouncer-settings.md`: what becomes of each setting of PgBouncer 1.25, as the tables have it.
//!
//! After a change of the tables: `CARPOOL_WRITE_DOCS=1 cargo test --lib settings_of_pgbouncer` writes it anew.

use std::fmt::Write as _;

use super::*;
use crate::config::foreign::{self, Foreign};
use crate::config::sections::{DATABASE, USER};
use crate::config::settings::{POOLER, Setting};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pgbouncer-settings.md");

/// The names of 1.25: `[pgbouncer]`.
const GLOBAL: &str = "admin_users application_name_add_host auth_dbname auth_file auth_hba_file auth_ident_file \
    auth_ldap_options auth_query auth_type auth_user autodb_idle_timeout cancel_wait_timeout client_idle_timeout \
    client_login_timeout client_tls13_ciphers client_tls_ca_file client_tls_cert_file client_tls_ciphers \
    client_tls_dheparams client_tls_ecdhcurve client_tls_key_file client_tls_protocols client_tls_sslmode conffile \
    default_pool_size disable_pqexec dns_max_ttl dns_nxdomain_ttl dns_zone_check_period idle_transaction_timeout \
    ignore_startup_parameters job_name listen_addr listen_backlog listen_port log_connections log_disconnections \
    log_pooler_errors log_stats logfile max_client_conn max_db_client_connections max_db_connections max_packet_size \
    max_prepared_statements max_user_client_connections max_user_connections min_pool_size peer_id pidfile pkt_buf \
    pool_mode query_timeout query_wait_notify query_wait_timeout reserve_pool_size reserve_pool_timeout resolv_conf \
    sbuf_loopcnt scram_iterations server_check_delay server_check_query server_connect_timeout server_fast_close \
    server_idle_timeout server_lifetime server_login_retry server_reset_query server_reset_query_always \
    server_round_robin server_tls13_ciphers server_tls_ca_file server_tls_cert_file server_tls_ciphers \
    server_tls_key_file server_tls_protocols server_tls_sslmode service_name so_reuseport stats_period stats_users \
    suspend_timeout syslog syslog_facility syslog_ident tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle \
    tcp_keepintvl tcp_socket_buffer tcp_user_timeout track_extra_parameters transaction_timeout unix_socket_dir \
    unix_socket_group unix_socket_mode user verbose";

/// Of a database.
const OF_DATABASE: &str = "dbname host port user password auth_user auth_query auth_dbname pool_size min_pool_size \
    reserve_pool_size reserve_pool connect_query pool_mode load_balance_hosts max_db_connections \
    max_db_client_connections server_lifetime client_encoding datestyle timezone application_name";

/// Of a user.
const OF_USER: &str = "pool_size reserve_pool_size pool_mode max_user_connections query_timeout idle_transaction_timeout \
    transaction_timeout client_idle_timeout max_user_client_connections";

/// One row for each name.
fn rows<T>(names: &str, table: &'static [Setting<T>], foreign: &[Foreign]) -> String {
    let mut text = "| setting | | |\n|---|---|---|\n".to_owned();
    for name in names.split_whitespace() {
        let setting = table.iter().find(|setting| setting.is_named(name, Format::Ini));
        let (fate, note) = match (setting, foreign::find(foreign, name)) {
            (Some(setting), _) if setting.name != name => ("honoured", format!("as `{}` in TOML", setting.name)),
            (Some(setting), _) => ("honoured", setting.doc.to_owned()),
            // Taken out before the tables are asked.
            (None, _) if name == "max_db_connections" => {
                ("honoured", "the default of a database's `pool_size` in TOML, its total over all users".into())
            }
            (None, Some(foreign)) => foreign.fate_and_reason(),
            (None, None) => panic!("{name} is neither a setting nor known to be none"),
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "| `{name}` | {fate} | {} |", note.replace('|', "\\|"));
    }
    text
}

#[test]
fn settings_of_pgbouncer_are_accounted_for() {
    let text = format!(
        "# PgBouncer's settings\n\n\
         What becomes of each setting of PgBouncer 1.25 in a `pgbouncer.ini`. *Honoured*: it does what it does there; \
         where TOML has another name for it, that is given. *No effect*: it is taken, with a warning where it isn't at \
         its default. *Refused*: a file that sets it to something else than its default isn't loaded, since leaving it \
         out would be unsafe. A test keeps this list complete and true.\n\n\
         ## [pgbouncer]\n\n{}\n## [databases]\n\n{}\n## [users]\n\n{}\n\
         ## [peers]\n\n*Honoured*: `host`, `port`, `pool_size`. Peers are all Carpool: PgBouncer's keys look otherwise.\n",
        rows(GLOBAL, POOLER, foreign::POOLER),
        rows(OF_DATABASE, DATABASE, foreign::DATABASE),
        rows(OF_USER, USER, foreign::USER),
    );
    if std::env::var_os("CARPOOL_WRITE_DOCS").is_some() {
        std::fs::write(PATH, &text).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap();
    // Notes may be older; what becomes of a setting may not.
    let fates = |text: &str| {
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| row.split('|').take(3).collect::<String>()).collect::<Vec<_>>()
    };
    let what = "docs/pgbouncer-settings.md is not up to date, see above in this file";
    assert_eq!(fates(&written), fates(&text), "{what}");
}
