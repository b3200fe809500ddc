//! The straightforward way: the client is given SQL. For each query it prepares a statement, waits, runs it, waits,
//! and closes it.

use axum::Router;
use axum::extract::{Json, Query, State};
use axum::routing::get;
use axum_extra::extract::CookieJar;
use serde_json::Value;
use tokio_postgres::types::ToSql;

use crate::api::{Which, healthz, session_token};
use crate::db::Connections;
use crate::failure::Failure;
use crate::json::{Parts, body_json};
use crate::sql;

pub fn router(pool: Connections<()>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/api/v1/recipes", get(get_recipe)).with_state(pool)
}

async fn get_recipe(
    State(pool): State<Connections<()>>,
    cookies: CookieJar,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Failure> {
    let token = session_token(&cookies)?;
    let connection = pool.get().await?;
    let client = &connection.client;

    connection.set_time_zone().await?;
    let user = client.query_opt(sql::SELECT_USER, &[&token]).await?;
    let user = user.ok_or(Failure::Unauthorized("unknown session"))?;
    let user_id: i64 = user.get("id");
    let teams = client.query(sql::SELECT_TEAMS, &[&user_id]).await?;
    let teams: Vec<i64> = teams.iter().map(|row| row.get("team_id")).collect();
    let recipe = client.query_opt(sql::SELECT_RECIPE, &[&user_id, &teams, &which.id]).await?;
    let recipe = recipe.ok_or(Failure::NotFound)?;
    let id: &(dyn ToSql + Sync) = &recipe.get::<_, i64>("id");
    let parts = Parts {
        ingredients: client.query(sql::SELECT_INGREDIENTS, &[id]).await?,
        sections: client.query(sql::SELECT_SECTIONS, &[id]).await?,
        steps: client.query(sql::SELECT_STEPS, &[id]).await?,
        notes: client.query(sql::SELECT_NOTES, &[id]).await?,
        events: client.query(sql::SELECT_EVENTS, &[id]).await?,
    };
    Ok(Json(body_json(&user, &recipe, &parts)))
}
