//! Two round trips: what needn't wait for each other's reply is sent at once.
//!
//! tokio-postgres sends a query when its future is first polled; `biased` polls them in the order of the text, so that
//! the time zone comes first.

use axum::Router;
use axum::extract::{Json, Query, State};
use axum::routing::get;
use axum_extra::extract::CookieJar;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use crate::api::{Which, healthz, session_token};
use crate::db::{Connection, Connections, PartStatements, Prepared};
use crate::failure::Failure;
use crate::json::{Parts, body_json};
use crate::sql;

pub struct Statements {
    user: Statement,
    recipe: Statement,
    parts: PartStatements,
}

impl Prepared for Statements {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            user: client.prepare(sql::SELECT_USER).await?,
            recipe: client.prepare(sql::SELECT_RECIPE_BY_TOKEN).await?,
            parts: PartStatements::prepare(client).await?,
        })
    }
}

pub fn router(pool: Connections<Statements>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/api/v1/recipes", get(get_recipe)).with_state(pool)
}

async fn get_recipe(
    State(pool): State<Connections<Statements>>,
    cookies: CookieJar,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Failure> {
    let token = session_token(&cookies)?;
    let connection = pool.get().await?;
    let Connection { client, statements: Statements { user, recipe, parts }, .. } = &*connection;

    let token: &(dyn ToSql + Sync) = &token;
    let (of_user, of_recipe) = ([token], [token, &which.id]);
    let ((), user, recipe) = tokio::try_join!(
        biased;
        connection.set_time_zone(),
        client.query_opt(user, &of_user),
        client.query_opt(recipe, &of_recipe),
    )?;
    let user = user.ok_or(Failure::Unauthorized("unknown session"))?;
    let recipe = recipe.ok_or(Failure::NotFound)?;
    let id: &[&(dyn ToSql + Sync)] = &[&recipe.get::<_, i64>("id")];
    let (ingredients, sections, steps, notes, events) = tokio::try_join!(
        client.query(&parts.ingredients, id),
        client.query(&parts.sections, id),
        client.query(&parts.steps, id),
        client.query(&parts.notes, id),
        client.query(&parts.events, id),
    )?;
    let parts = Parts { ingredients, sections, steps, notes, events };
    Ok(Json(body_json(&user, &recipe, &parts)))
}
