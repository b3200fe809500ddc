//! The same cases with tokio-postgres and rustls.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::World;

const AT_ONCE: usize = 4;

/// What comes of the cases, see `tests/drivers/logins.py`.
pub fn outcomes(cases: &Value, world: &World) -> Vec<String> {
    use futures_util::StreamExt;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = cases.as_array().unwrap().iter().map(|case| outcome(case, world));
    runtime.block_on(futures_util::stream::iter(all).buffered(AT_ONCE).collect())
}

async fn outcome(case: &Value, world: &World) -> String {
    let text = |name: &str| case[name].as_str();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(u16::try_from(case["port"].as_u64().unwrap()).unwrap());
    config.user(text("user").unwrap()).dbname(text("dbname").unwrap()).password(text("password").unwrap());
    config.connect_timeout(Duration::from_secs(30));
    // rustls always verifies.
    config.ssl_mode(match text("sslmode") {
        Some("disable") => SslMode::Disable,
        Some("prefer") => SslMode::Prefer,
        _ => SslMode::Require,
    });
    match config.connect(MakeRustlsConnect::new(world.client_config(text("sslcert").is_some()))).await {
        Ok((client, connection)) => {
            let connection = tokio::spawn(connection);
            let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
            // It says nothing of TLS itself.
            let tls = match config.get_ssl_mode() {
                SslMode::Disable => false,
                SslMode::Prefer => world.tls,
                _ => true,
            };
            drop(client);
            drop(connection.await);
            format!("{} {}", row.get::<_, &str>(0), if tls { "tls" } else { "plain" })
        }
        Err(error) => error.code().map_or("client", |code| code.code()).to_owned(),
    }
}
