//! `carpool ready`: whether a running Carpool takes clients, for health checks where there is neither curl nor a shell.

use std::path::Path;
use std::time::Duration;

use crate::config::Config;

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the Carpool with this configuration, or at this URL.
///
/// # Errors
/// Why it isn't ready, or that there was no answer within three seconds.
pub fn ask(target: &str) -> Result<(), String> {
    let url = match target.contains("://") {
        true => target.trim_end_matches('/').to_owned(),
        false => of_file(Path::new(target))?,
    };
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).max_redirects(0).proxy(None).build().into();
    match agent.get(format!("{url}/readyz")).call() {
        Ok(_) => Ok(()),
        Err(ureq::Error::StatusCode(503)) => Err(format!("{url} is stopping")),
        Err(error) => Err(format!("{url}: {error}")),
    }
}

fn of_file(path: &Path) -> Result<String, String> {
    let config = Config::load(path).map_err(|errors| errors.to_string())?;
    let Some(port) = config.pooler.http_port else {
        return Err(format!("{}: http_port is off", path.display()));
    };
    Ok(match config.pooler.http_addr.as_str() {
        "*" | "0.0.0.0" | "::" => format!("http://127.0.0.1:{port}"),
        ip6 if ip6.contains(':') => format!("http://[{ip6}]:{port}"),
        host => format!("http://{host}:{port}"),
    })
}
