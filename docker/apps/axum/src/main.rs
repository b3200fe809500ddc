//! The recipes API with axum, tokio-postgres and a bb8 pool.
//!
//! `api` has the routes, `variants` other ways to the same replies, `db` the pool, `sql` what is asked, `json` and
//! `failure` what is answered.

mod api;
mod db;
mod failure;
mod json;
mod sql;
mod variants;

use std::env;
use std::error::Error;
use std::str::FromStr;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use variants::{pipelined, plain, single};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let variant = var("VARIANT", "prepared".to_owned())?;
    let options = db::Options {
        url: env::var("DATABASE_URL").map_err(|_| "DATABASE_URL isn't set")?,
        time_zone: var("APP_TIME_ZONE", "UTC".to_owned())?,
        size: var("POOL_SIZE", 20)?,
        test_on_check_out: var("TEST_ON_CHECK_OUT", variant == "plain")?,
    };
    let router = router(&variant, &options).await?;
    let listener = TcpListener::bind((var("HOST", "127.0.0.1".to_owned())?, var("PORT", 8000)?)).await?;
    tracing::info!(address = %listener.local_addr()?, variant, "listening");

    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        })
        .await?;
    Ok(())
}

async fn router(variant: &str, options: &db::Options) -> Result<Router, Box<dyn Error>> {
    Ok(match variant {
        "prepared" => api::router(db::connect(options).await?),
        "plain" => plain::router(db::connect(options).await?),
        "pipelined" => pipelined::router(db::connect(options).await?),
        "single" => single::router(db::connect(options).await?),
        _ => return Err(format!("VARIANT is {variant}, not prepared, plain, pipelined or single").into()),
    })
}

/// The environment's value, or `default` where there is none.
fn var<T: FromStr>(name: &str, default: T) -> Result<T, Box<dyn Error>> {
    match env::var(name) {
        Ok(value) => value.parse().map_err(|_| format!("{name} is {value}, which doesn't fit").into()),
        Err(_) => Ok(default),
    }
}
