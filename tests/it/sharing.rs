//! Django under gunicorn, Starlette with asyncpg and axum with bb8 on one pool of 25, all at once.

use std::path::PathBuf;

use crate::drivers::{python, root};
use crate::harness::postgres::run;
use crate::harness::{Carpool, Postgres, Setup};

/// How long the three run, seconds.
const SECONDS: &str = "60";

#[test]
fn three_apps_share_one_pool() {
    let axum = std::env::var_os("CARPOOL_TEST_AXUM").map(PathBuf::from);
    let axum = axum.unwrap_or_else(|| root().join("target/apps/release/recipes-axum"));
    assert!(axum.exists(), "{} is missing: `make test` builds it", axum.display());
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let carpool = Carpool::before(&postgres, &database, &Setup::default());
    let direct = format!("postgresql://postgres@127.0.0.1:{}/{database}", postgres.port);
    let pooled = format!("postgresql://postgres@127.0.0.1:{}/{database}", carpool.port);
    let mut command = python();
    command.arg(root().join("tests/sharing/sharing.py")).args(["--direct", &direct, "--pooled", &pooled]);
    run(command.args(["--seconds", SECONDS, "--max-servers", "25", "--axum"]).arg(axum));
}
