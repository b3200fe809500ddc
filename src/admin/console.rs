//! The admin console: PgBouncer's commands over the PostgreSQL protocol.

use crate::client::login::Console;

/// Serves one console session to its end.
pub async fn serve(console: Console) {
    drop(console);
}
