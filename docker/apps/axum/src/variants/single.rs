//! One round trip: PostgreSQL builds the reply, and the application passes it on.

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum_extra::extract::CookieJar;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use crate::api::{Which, healthz, session_token};
use crate::db::{Connection, Connections, Prepared};
use crate::failure::Failure;
use crate::sql;

pub struct Reply(Statement);

impl Prepared for Reply {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        client.prepare(sql::SELECT_REPLY).await.map(Self)
    }
}

pub fn router(pool: Connections<Reply>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/api/v1/recipes", get(get_recipe)).with_state(pool)
}

async fn get_recipe(
    State(pool): State<Connections<Reply>>,
    cookies: CookieJar,
    Query(which): Query<Which>,
) -> Result<impl IntoResponse, Failure> {
    let token = session_token(&cookies)?;
    let connection = pool.get().await?;
    let Connection { client, statements: Reply(reply), .. } = &*connection;

    let parameters: [&(dyn ToSql + Sync); 2] = [&token, &which.id];
    let ((), row) = tokio::try_join!(
        biased;
        connection.set_time_zone(),
        client.query_opt(reply, &parameters),
    )?;
    let row = row.ok_or(Failure::Unauthorized("unknown session"))?;
    let body: Option<String> = row.get(0);
    Ok(([(CONTENT_TYPE, "application/json")], body.ok_or(Failure::NotFound)?))
}
