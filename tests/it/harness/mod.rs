//! What the tests run against: throw-away PostgreSQL clusters, the real `carpool` binary, raw protocol clients.
//!
//! Everything listens on ports that the system or a retry finds, so that tests run in parallel, and everything
//! ends with the test process, however that ends.

pub mod carpool;
pub mod console;
pub mod http;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod tls;

use std::time::{Duration, Instant};

pub use carpool::{Carpool, Setup};
pub use http::http;
pub use postgres::{Gate, Postgres};
pub use raw::{Message, Raw};

/// How long anything may take before a test says that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
///
/// # Panics
/// When it hasn't after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
