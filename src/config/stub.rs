use super::*;
#[derive(Debug)]
pub struct ConfigErrors;
impl std::fmt::Display for ConfigErrors { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("x") } }
impl Config {
    pub fn load(_: &std::path::Path) -> Result<Self, ConfigErrors> { Self::from_database_url("") }
    /// All global settings, by name.
    pub fn entries(&self) -> Vec<Entry> { Vec::new() }
    pub fn to_toml(&self) -> String { String::new() }
    pub fn from_database_url(_: &str) -> Result<Self, ConfigErrors> {
        let v = |k: &str, d: &str| std::env::var(k).unwrap_or(d.into());
        let db = Database { host: Host::Tcp("127.0.0.1".into()), port: v("T_PORT", "5599").parse().unwrap(), pool_size: v("T_SIZE", "25").parse().unwrap(), ..Default::default() };
        let pooler = Pooler { auth_type: AuthType::Trust, listen_port: v("T_LISTEN", "6432").parse().unwrap(), worker_threads: v("T_WORKERS", "0").parse().unwrap(), admin_users: vec!["postgres".into()], http_port: std::env::var("T_HTTP").ok().and_then(|p| p.parse().ok()), ..Default::default() };
        let mut users = BTreeMap::new();
        users.insert("postgres".into(), User::default());
        users.insert("alice".into(), User { password: Some(Secret::new("alice")), ..Default::default() });
        Ok(Config { pooler, databases: BTreeMap::new(), fallback: Some(db), users })
    }
}
