//! PgBouncer's format.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn ini_errors(text: &str) -> Vec<String> {
    errors(text, Format::Ini)
}

/// Every setting of PgBouncer's documentation, at its default there.
const ALL_AT_THEIR_DEFAULTS: &str = "\
[pgbouncer]
logfile =
pidfile =
listen_addr =
listen_port = 6432
unix_socket_dir = /tmp
unix_socket_mode = 0777
unix_socket_group =
user =
pool_mode = session
max_client_conn = 100
default_pool_size = 20
min_pool_size = 0
reserve_pool_size = 0
reserve_pool_timeout = 5.0
max_db_connections = 0
max_db_client_connections = 0
max_user_connections = 0
max_user_client_connections = 0
server_round_robin = 0
track_extra_parameters = IntervalStyle
ignore_startup_parameters =
peer_id = 0
disable_pqexec = 0
application_name_add_host = 0
conffile =
service_name = pgbouncer
job_name = pgbouncer
stats_period = 60
max_prepared_statements = 200
scram_iterations = 4096
auth_type = md5
auth_hba_file =
auth_ident_file =
auth_file =
auth_user =
auth_query = SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin
auth_dbname =
auth_ldap_options =
syslog = 0
syslog_ident = pgbouncer
syslog_facility = daemon
log_connections = 1
log_disconnections = 1
log_pooler_errors = 1
log_stats = 1
verbose = 0
admin_users =
stats_users =
server_reset_query = DISCARD ALL
server_reset_query_always = 0
server_check_delay = 30.0
server_check_query = <empty>
server_fast_close = 0
server_lifetime = 3600.0
server_idle_timeout = 600.0
server_connect_timeout = 15.0
server_login_retry = 15.0
client_login_timeout = 60.0
autodb_idle_timeout = 3600.0
pool_idle_timeout = 0
dns_max_ttl = 15.0
dns_nxdomain_ttl = 15.0
dns_zone_check_period = 0.0
resolv_conf =
query_wait_notify = 5
login_notify_message =
client_tls_sslmode = disable
client_tls_key_file =
client_tls_cert_file =
client_tls_ca_file =
client_tls_protocols = secure
client_tls_ciphers = default
client_tls13_ciphers =
client_tls_ecdhcurve = auto
client_tls_dheparams = auto
server_tls_sslmode = prefer
server_tls_ca_file =
server_tls_key_file =
server_tls_cert_file =
server_tls_protocols = secure
server_tls_ciphers = default
server_tls13_ciphers =
query_timeout = 0.0
query_wait_timeout = 120.0
cancel_wait_timeout = 10.0
client_idle_timeout = 0.0
idle_transaction_timeout = 0.0
transaction_timeout = 0.0
suspend_timeout = 10
pkt_buf = 4096
max_packet_size = 2147483647
listen_backlog = 128
sbuf_loopcnt = 5
so_reuseport = 0
tcp_defer_accept = 1
tcp_socket_buffer = 0
tcp_keepalive = 1
tcp_keepcnt = 0
tcp_keepidle = 0
tcp_keepintvl = 0
tcp_user_timeout = 0
[databases]
a = dbname=x host=/tmp port=5432 user=u password=p pool_size=20 min_pool_size=0 reserve_pool_size=0 connect_query='select 1' pool_mode=session query_wait_timeout=120 load_balance_hosts=round-robin max_db_connections=0 max_db_client_connections=0 server_lifetime=3600 client_encoding=UTF8 datestyle=ISO timezone=UTC application_name=x
[users]
u = pool_size=20 reserve_pool_size=0 pool_mode=session max_user_connections=0 query_timeout=0 query_wait_timeout=-1 idle_transaction_timeout=0 transaction_timeout=0 client_idle_timeout=0 max_user_client_connections=0
";

#[test]
fn every_setting_is_known() {
    let config = ini(ALL_AT_THEIR_DEFAULTS);
    assert_eq!(config.pooler, Pooler::defaults(Format::Ini));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn defaults_are_pgbouncers() {
    let config = ini("[databases]\na =\n* = host=h\n[pgbouncer]\n");
    let pooler = &config.pooler;
    assert_eq!((pooler.pool_mode, pooler.auth_type), (PoolMode::Session, AuthType::Md5));
    assert_eq!((pooler.default_pool_size, pooler.max_client_conn, pooler.listen_backlog), (20, 100, 128));
    assert_eq!((pooler.listen_addr.len(), pooler.unix_socket_dir.as_deref()), (0, Some(Path::new("/tmp"))));
    let a = &config.databases["a"];
    assert_eq!((a.pool_size, a.user_pool_size), (UNLIMITED, Some(20)));
    assert_eq!(a.host, [Host::Unix("/tmp".into())]);
    assert_eq!(config.fallback.unwrap().host, [Host::Tcp("h".into())]);
}

#[test]
fn sizes_mean_what_they_do_in_pgbouncer() {
    let config = ini("[pgbouncer]\ndefault_pool_size = 5\nmax_db_connections = 50\nmin_pool_size = 8\n\
                      max_user_connections = 9\nmax_db_client_connections = 70\n\
                      [databases]\na =\nb = pool_size=7 max_db_connections=30 max_db_client_connections=10\n\
                      c = pool_size=0 max_db_connections=0 min_pool_size=1\nd = pool_size=-1 max_db_connections=-1\n\
                      [users]\nu = pool_size=3 max_user_connections=4\nv = pool_size=0 max_user_connections=0\n");
    let sizes = |name: &str| {
        let database = &config.databases[name];
        (database.pool_size, database.user_pool_size, database.min_pool_size, database.max_client_connections)
    };
    assert_eq!(sizes("a"), (50, Some(5), 5, 70));
    assert_eq!(sizes("b"), (30, Some(7), 7, 10));
    assert_eq!(sizes("c"), (50, None, 1, 70));
    assert_eq!(sizes("d"), (50, Some(5), 5, 70));
    assert_eq!(config.users["u"].pool_size, Some(3));
    assert_eq!(config.users["u"].max_user_connections, 4);
    assert_eq!(config.users["v"].pool_size, Some(UNLIMITED));
    assert_eq!(config.users["v"].max_user_connections, 9);
    let config = ini("[pgbouncer]\ndefault_pool_size = 0\n[databases]\na =");
    assert_eq!((config.databases["a"].pool_size, config.databases["a"].user_pool_size), (UNLIMITED, None));
}

#[test]
fn times_mean_what_they_do_in_pgbouncer() {
    let config = ini("[pgbouncer]\nserver_lifetime = 0\nserver_check_delay = 0\nserver_connect_timeout = 0\n\
                      query_timeout = 2.5\nclient_idle_timeout = 10min\nquery_wait_timeout = 0\n\
                      [databases]\na = server_lifetime=0 query_wait_timeout=0\nb = server_lifetime=9 query_wait_timeout=-1\n\
                      [users]\nu = query_timeout=0 transaction_timeout=7\n");
    let pooler = &config.pooler;
    // A server is used once; checked each time; and a connect still ends.
    assert_eq!(pooler.server_lifetime, Duration::from_micros(1));
    assert_eq!(pooler.server_check_delay, Duration::from_micros(1));
    assert_eq!(pooler.server_connect_timeout, Duration::from_secs(86_400));
    assert_eq!(pooler.query_timeout, Duration::from_millis(2500));
    assert_eq!(pooler.client_idle_timeout, Duration::from_secs(600));
    assert_eq!(pooler.query_wait_timeout, Duration::ZERO);
    let (a, b) = (&config.databases["a"], &config.databases["b"]);
    assert_eq!((a.server_lifetime, a.query_wait_timeout), (None, Some(Duration::ZERO)));
    assert_eq!((b.server_lifetime, b.query_wait_timeout), (Some(Duration::from_secs(9)), None));
    let user = &config.users["u"];
    assert_eq!((user.query_timeout, user.transaction_timeout), (None, Some(Duration::from_secs(7))));
    let unchecked = ini("[pgbouncer]\nserver_check_query =\n").pooler;
    assert_eq!(unchecked.server_check_delay, Duration::ZERO);
}

#[test]
fn values_are_read_as_c_does() {
    let config =
        ini("[pgbouncer]\nunix_socket_mode = 0700\nlisten_port = 0x1931\nlog_stats = 0\nlog_connections = 5\n\
                      pool_mode = Transaction\nauth_type = SCRAM-SHA-256\nlisten_addr = 127.0.0.1, ::1 ,\n");
    let pooler = &config.pooler;
    assert_eq!((pooler.unix_socket_mode, pooler.listen_port), (0o700, 6449));
    assert_eq!((pooler.log_stats, pooler.log_connections), (false, true));
    assert_eq!((pooler.pool_mode, pooler.auth_type), (PoolMode::Transaction, AuthType::ScramSha256));
    assert_eq!(pooler.listen_addr, ["127.0.0.1", "::1"]);
}

#[test]
fn carpools_own_settings_are_taken() {
    let config = ini("[pgbouncer]\nhttp_port = 9187\nworker_threads = 2\nshutdown_timeout = 5s\n");
    assert_eq!((config.pooler.http_port, config.pooler.worker_threads), (Some(9187), 2));
}

#[test]
fn databases_as_pgbouncer_writes_them() {
    let config = ini("[pgbouncer]\n[databases]\n\
                      forced = host=localhost port=300 user=baz password='it''s a secret' client_encoding=UNICODE \
                      datestyle=ISO connect_query='SELECT 1'\n\
                      \"odd name\" = dbname=x\n'other name' = dbname=y\n\
                      twice = dbname=first\ntwice = host=h\n");
    let forced = &config.databases["forced"];
    assert_eq!(forced.places().collect::<Vec<_>>(), [(Host::Tcp("localhost".into()), 300)]);
    assert_eq!(
        (forced.user.clone(), forced.password.clone()),
        (Some("baz".into()), Some(Secret::new("it's a secret")))
    );
    assert_eq!(forced.connect_query.as_deref(), Some("SELECT 1"));
    let parameters: Vec<_> = forced.startup_parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(parameters, ["client_encoding=UNICODE", "datestyle=ISO"]);
    assert_eq!(config.databases["odd name"].dbname.as_deref(), Some("x"));
    assert_eq!(config.databases["other name"].dbname.as_deref(), Some("y"));
    assert_eq!(
        (&config.databases["twice"].dbname, &config.databases["twice"].host),
        (&None, &vec![Host::Tcp("h".into())])
    );
}

#[test]
fn all_errors_at_once_each_with_its_place() {
    let text = "[pgbouncer]
listen_port = x
pool_mode = sesion
auth_type = kerberos
lisen_addr = *
auth_dbname = x
client_tls_sslmode = require
[databases]
a = host=h pol_size=3
b = host=h port=0 auth_query='x'
c = host=@x host=h,@i
pgbouncer = host=h
e = host=h user_pool_size=3
[users]
u = password=x
v = pool_mode=x
!
";
    let expected = [
        "c.ini:2: pgbouncer.listen_port: expected a whole number",
        "c.ini:3: pgbouncer.pool_mode: \"sesion\" is not one of session, transaction, statement",
        "c.ini:4: pgbouncer.auth_type: \"kerberos\" is not one of trust, any, plain, md5, scram-sha-256, hba, \
         peer, ldap, pam, jwt, cert",
        "c.ini:5: pgbouncer.lisen_addr: unknown setting; did you mean listen_addr?",
        "c.ini:6: pgbouncer.auth_dbname: there is no \"x\" in [databases]",
        "c.ini:9: databases.a.pol_size: unknown setting; did you mean pool_size?",
        "c.ini:10: databases.b.port: 0 is out of range (1 to 65535)",
        "c.ini:10: databases.b.auth_query: asks for nobody: the user's name is $1",
        "c.ini:11: databases.c.host: abstract unix sockets are not supported yet",
        "c.ini:12: databases.pgbouncer: this name is the admin console's",
        "c.ini:13: databases.e.user_pool_size: unknown setting; did you mean pool_size?",
        "c.ini:15: users.u.password: unknown setting",
        "c.ini:16: users.v.pool_mode: \"x\" is not one of session, transaction, statement",
        "c.ini:17: expected key = value, [section], %include or a comment",
        "c.ini: pgbouncer.client_tls_key_file: must be set for TLS with clients (client_tls_sslmode)",
    ];
    assert_eq!(ini_errors(text), expected);
}

#[test]
fn a_broken_file() {
    for (text, errors) in [
        ("", &["c.ini: has no section [pgbouncer]"][..]),
        ("x = 1\n[pgbouncer]", &["c.ini:1: x: stands before the first [section]"]),
        (
            "[pgbouncer\n[pgbouncer]\n!",
            &["c.ini:1: a section without its ]", "c.ini:3: expected key = value, [section], %include or a comment"],
        ),
        ("[pgbouncer]\n[pooler]\nx = 1", &["c.ini:2: pooler: unknown section; did you mean [pgbouncer]?"]),
        (
            "[pgbouncer]\n[databases]\na = host",
            &["c.ini:3: databases.a: expected key=value pairs; a value with spaces stands in '…'"],
        ),
        (
            "[pgbouncer]\nunix_socket_dir =\nlisten_addr = *\n[databases]\na =",
            &["c.ini:5: databases.a: has no host, and unix_socket_dir is empty"],
        ),
        (
            "[pgbouncer]\nauth_type = any\n[databases]\na =",
            &["c.ini:4: databases.a.user: must be set with auth_type any, which does not know who the client is"],
        ),
    ] {
        assert_eq!(ini_errors(text), errors, "{text}");
    }
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let config = ini("[pgbouncer]\npkt_buf = 8192\nresolv_conf = /y\ndns_max_ttl = 3\n\
                      [databases]\na = reserve_pool=3 load_balance_hosts=disable\n[users]\nu = query_wait_timeout=4\n");
    let keys: BTreeSet<_> = config.warnings.iter().map(|warning| warning.split(": ").nth(1).unwrap()).collect();
    let expected =
        ["pgbouncer.pkt_buf", "pgbouncer.resolv_conf", "pgbouncer.dns_max_ttl", "users.u.query_wait_timeout"];
    assert_eq!(keys, BTreeSet::from(expected));
    assert!(config.warnings.iter().any(|w| w == "c.ini:2: pgbouncer.pkt_buf: has no effect: buffers fit themselves"));
}

#[test]
fn peers_are_read() {
    let config = ini("[pgbouncer]\npeer_id = 3\n[peers]\n1 = host=/tmp/x port=7000\n2 = host=b pool_size=3\n");
    assert_eq!(config.pooler.peer_id, 3);
    let one = Peer { host: Some(Host::Unix("/tmp/x".into())), port: 7000, pool_size: 20 };
    let two = Peer { host: Some(Host::Tcp("b".into())), port: 6432, pool_size: 3 };
    assert_eq!(config.peers, BTreeMap::from([(1, one), (2, two)]));
    let errors =
        ini_errors("[pgbouncer]\npeer_id = 16384\n[peers]\n0 = host=a\nx = host=a\n3 = port=1\n4 = host=a dbname=b\n");
    assert_eq!(errors.len(), 5, "{errors:?}");
    let keys: Vec<_> = errors.iter().map(|error| error.split(": ").nth(1).unwrap()).collect();
    for key in ["pgbouncer.peer_id", "peers.0", "peers.x", "peers.3", "peers.4.dbname"] {
        assert!(keys.contains(&key), "{keys:?}");
    }
}

#[test]
fn the_main_section_starts_again() {
    let config = ini("[pgbouncer]\nmax_client_conn = 7\n[databases]\na =\n[pgbouncer]\nlisten_port = 7000\n");
    assert_eq!((config.pooler.max_client_conn, config.pooler.listen_port), (100, 7000));
    assert!(config.warnings[0].starts_with("c.ini:5: pgbouncer: starts again"), "{:?}", config.warnings);
}

#[test]
fn includes() {
    let directory = directory(&[
        ("main.ini", "[databases]\n%include DIR/dbs.ini\nlast = host=l\n[pgbouncer]\n%include DIR/main settings.ini\n"),
        ("dbs.ini", "a = host=a\n[users]\nu = pool_size=1\n[databases]\nb = host=b\n"),
        ("main settings.ini", "listen_port = 7001\n"),
        ("loop.ini", "[pgbouncer]\n%include DIR/loop2.ini\n"),
        ("loop2.ini", "%include DIR/loop.ini\n"),
        ("wrong.ini", "[pgbouncer]\n%include DIR/none.ini\n%include DIR/broken.ini\n"),
        ("broken.ini", "\nlisten_port = x\n"),
    ]);
    let config = Config::load(&directory.join("main.ini")).unwrap();
    assert_eq!(config.pooler.listen_port, 7001);
    assert_eq!(config.databases.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["a", "b", "last"]);
    assert_eq!(config.users["u"].pool_size, Some(1));
    let error = |name: &str| Config::load(&directory.join(name)).unwrap_err().to_string();
    assert!(error("loop.ini").contains("loop2.ini:1: %include /"), "{}", error("loop.ini"));
    assert!(error("loop.ini").contains("files include each other"), "{}", error("loop.ini"));
    assert!(error("wrong.ini").contains("none.ini: cannot be read: No such file"), "{}", error("wrong.ini"));
    std::fs::write(directory.join("none.ini"), "").unwrap();
    let place = format!("{}:2: pgbouncer.listen_port: ", directory.join("broken.ini").display());
    assert!(error("wrong.ini").contains(&place), "{}", error("wrong.ini"));
}

proptest! {
    #[test]
    fn never_panics(text in "(\\PC|[\\[\\]%='\"\n\r; ]){0,80}") {
        let _ = load(&text, Format::Ini);
        let _ = load(&format!("[pgbouncer]\n[databases]\na = {text}"), Format::Ini);
    }

    #[test]
    fn secrets_stay_out_of_errors(secret in "[a-z]{12}", broken in 0..7) {
        let connection = match broken {
            0 => format!("password='{secret}"),
            1 => format!("password=my {secret}"),
            2 => format!("password=my {secret}=1"),
            3 => format!("pasword={secret}"),
            4 => format!("password='{secret}'x"),
            5 => format!("port={secret}"),
            _ => secret.clone(),
        };
        let text = format!("[pgbouncer]\n[databases]\na = host=h {connection}\n");
        prop_assert!(!ini_errors(&text).concat().contains(&secret));
    }
}
