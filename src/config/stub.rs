use super::*;
#[derive(Debug)]
pub struct ConfigErrors;
impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl Config {
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigErrors> {
        let mut c = Self::from_database_url("")?;
        let t: toml::Table =
            std::fs::read_to_string(path).map_err(|_| ConfigErrors)?.parse().map_err(|_| ConfigErrors)?;
        let p = t["pooler"].as_table().unwrap();
        let int = |t: &toml::Table, k: &str| t.get(k).and_then(|v| v.as_integer());
        let secs = |t: &toml::Table, k: &str| {
            t.get(k).and_then(|v| v.as_float().or(v.as_integer().map(|i| i as f64))).map(Duration::from_secs_f64)
        };
        c.pooler.listen_port = int(p, "listen_port").unwrap_or(6432) as u16;
        let mode = |s: &str| match s {
            "session" => PoolMode::Session,
            "statement" => PoolMode::Statement,
            _ => PoolMode::Transaction,
        };
        if let Some(m) = p.get("pool_mode") {
            c.pooler.pool_mode = mode(m.as_str().unwrap());
        }
        c.pooler.auth_type = match p.get("auth_type").and_then(|v| v.as_str()) {
            Some("md5") => AuthType::Md5,
            Some("plain") => AuthType::Plain,
            Some("scram-sha-256") => AuthType::ScramSha256,
            _ => AuthType::Trust,
        };
        if let Some(v) = secs(p, "query_wait_timeout") {
            c.pooler.query_wait_timeout = v;
        }
        if let Some(v) = secs(p, "client_login_timeout") {
            c.pooler.client_login_timeout = v;
        }
        if let Some(v) = secs(p, "query_timeout") {
            c.pooler.query_timeout = v;
        }
        if let Some(v) = secs(p, "idle_transaction_timeout") {
            c.pooler.idle_transaction_timeout = v;
        }
        if let Some(v) = secs(p, "client_idle_timeout") {
            c.pooler.client_idle_timeout = v;
        }
        if let Some(v) = secs(p, "transaction_timeout") {
            c.pooler.transaction_timeout = v;
        }
        if let Some(v) = secs(p, "server_idle_timeout") {
            c.pooler.server_idle_timeout = v;
        }
        if let Some(v) = secs(p, "server_lifetime") {
            c.pooler.server_lifetime = v;
        }
        if let Some(v) = secs(p, "server_connect_timeout") {
            c.pooler.server_connect_timeout = v;
        }
        if let Some(v) = secs(p, "shutdown_timeout") {
            c.pooler.shutdown_timeout = v;
        }
        if let Some(v) = int(p, "max_client_conn") {
            c.pooler.max_client_conn = v as u32;
        }
        if let Some(v) = int(p, "max_prepared_statements") {
            c.pooler.max_prepared_statements = v as u32;
        }
        if let Some(v) = p.get("unix_socket_dir") {
            c.pooler.unix_socket_dir = Some(v.as_str().unwrap().into());
        }
        c.fallback = None;
        c.users.clear();
        for (name, d) in t["databases"].as_table().unwrap() {
            let d = d.as_table().unwrap();
            let host = d.get("host").and_then(|v| v.as_str()).unwrap_or("127.0.0.1");
            let host = if host.starts_with('/') { Host::Unix(host.into()) } else { Host::Tcp(host.into()) };
            let db = Database {
                host,
                port: int(d, "port").unwrap_or(5432) as u16,
                pool_size: int(d, "pool_size").unwrap_or(25) as u32,
                min_pool_size: int(d, "min_pool_size").unwrap_or(0) as u32,
                pool_mode: d.get("pool_mode").map(|m| mode(m.as_str().unwrap())),
                user: d.get("user").map(|v| v.as_str().unwrap().into()),
                password: d.get("password").map(|v| Secret::new(v.as_str().unwrap())),
                ..Default::default()
            };
            c.databases.insert(name.as_str().into(), db);
        }
        for (name, u) in t["users"].as_table().unwrap() {
            let u = u.as_table().unwrap();
            let user =
                User { password: u.get("password").map(|v| Secret::new(v.as_str().unwrap())), ..Default::default() };
            c.users.insert(name.as_str().into(), user);
        }
        Ok(c)
    }
    /// All global settings, by name.
    pub fn entries(&self) -> Vec<Entry> {
        Vec::new()
    }
    pub fn to_toml(&self) -> String {
        String::new()
    }
    pub fn from_database_url(_: &str) -> Result<Self, ConfigErrors> {
        let v = |k: &str, d: &str| std::env::var(k).unwrap_or(d.into());
        let db = Database {
            host: Host::Tcp("127.0.0.1".into()),
            port: v("T_PORT", "5599").parse().unwrap(),
            pool_size: v("T_SIZE", "25").parse().unwrap(),
            ..Default::default()
        };
        let pooler = Pooler {
            auth_type: AuthType::Trust,
            listen_port: v("T_LISTEN", "6432").parse().unwrap(),
            worker_threads: v("T_WORKERS", "0").parse().unwrap(),
            admin_users: vec!["postgres".into()],
            http_port: std::env::var("T_HTTP").ok().and_then(|p| p.parse().ok()),
            ..Default::default()
        };
        let mut users = BTreeMap::new();
        users.insert("postgres".into(), User::default());
        users.insert("alice".into(), User { password: Some(Secret::new("alice")), ..Default::default() });
        Ok(Config { pooler, databases: BTreeMap::new(), fallback: Some(db), users })
    }
}
