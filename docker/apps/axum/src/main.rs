//! The recipes API with axum, tokio-postgres and a bb8 pool.
//!
//! `db` is the pool and its SQL, `api` the routes.

mod api;
mod db;

use std::env;
use std::error::Error;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let var = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());

    let pool = db::connect(
        &env::var("DATABASE_URL").map_err(|_| "DATABASE_URL isn't set")?,
        &var("APP_TIME_ZONE", "UTC"),
        var("POOL_SIZE", "20").parse()?,
    )
    .await?;
    let listener = TcpListener::bind((var("HOST", "127.0.0.1"), var("PORT", "8000").parse()?)).await?;
    tracing::info!(address = %listener.local_addr()?, "listening");

    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, api::router(pool))
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        })
        .await?;
    Ok(())
}
