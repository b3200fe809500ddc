//! The routes, with statements that are prepared once per connection.

use axum::Router;
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum_extra::extract::CookieJar;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row, Statement};

use crate::db::{self, Statements};
use crate::failure::Failure;
use crate::json::{Parts, body_json};
use crate::sql;

type Connection = db::Connection<Statements>;
type Connections = db::Connections<Statements>;

const EMOJI_MAX: usize = 16;

pub fn router(pool: Connections) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/api/v1/recipes", get(get_recipe))
        .route("/api/v1/recipes/{id}/reactions", post(add_reaction))
        .with_state(pool)
}

pub async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Which recipe: any, without an id.
#[derive(Deserialize)]
pub struct Which {
    pub id: Option<i64>,
}

async fn get_recipe(
    State(pool): State<Connections>,
    cookies: CookieJar,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Failure> {
    let token = session_token(&cookies)?;
    let connection = pool.get().await?;
    let Connection { client, statements, .. } = &*connection;

    let user = sign_in(&connection, token).await?;
    let recipe = find_recipe(client, statements, user.get("id"), which.id).await?;
    let id: i64 = recipe.get("id");
    let rows = async |statement: &Statement| client.query(statement, &[&id]).await;
    let parts = Parts {
        ingredients: rows(&statements.parts.ingredients).await?,
        sections: rows(&statements.parts.sections).await?,
        steps: rows(&statements.parts.steps).await?,
        notes: rows(&statements.parts.notes).await?,
        events: rows(&statements.parts.events).await?,
    };
    Ok(Json(body_json(&user, &recipe, &parts)))
}

#[derive(Deserialize)]
struct NewReaction {
    emoji: String,
}

/// Adds the user's reaction to one of its recipes; the row and the counter change together.
async fn add_reaction(
    State(pool): State<Connections>,
    cookies: CookieJar,
    Path(id): Path<i64>,
    Json(NewReaction { emoji }): Json<NewReaction>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let token = session_token(&cookies)?;
    if !(1..=EMOJI_MAX).contains(&emoji.chars().count()) {
        return Err(Failure::BadRequest(format!("emoji must be a text of 1 to {EMOJI_MAX} characters")));
    }
    let mut connection = pool.get().await?;
    let user: i64 = sign_in(&connection, token).await?.get("id");

    let Connection { client, statements, .. } = &mut *connection;
    let transaction = client.transaction().await?;
    find_recipe(&transaction, statements, user, Some(id)).await?;
    let added = transaction.query_one(sql::INSERT_REACTION, &[&id, &user, &emoji]).await?;
    transaction.execute(sql::COUNT_REACTION, &[&id]).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, Json(reaction_json(&added))))
}

pub fn session_token(cookies: &CookieJar) -> Result<&str, Failure> {
    match cookies.get("session").map(|cookie| cookie.value()) {
        None | Some("") => Err(Failure::Unauthorized("no session")),
        Some(token) => Ok(token),
    }
}

/// The user of the session cookie; sets the connection's time zone.
async fn sign_in(connection: &Connection, token: &str) -> Result<Row, Failure> {
    connection.set_time_zone().await?;
    let user = connection.client.query_opt(&connection.statements.user, &[&token]).await?;
    user.ok_or(Failure::Unauthorized("unknown session"))
}

/// A random recipe of the user or its teams, or the one that `id` names.
async fn find_recipe(
    client: &impl GenericClient,
    statements: &Statements,
    user: i64,
    id: Option<i64>,
) -> Result<Row, Failure> {
    let teams = client.query(&statements.teams, &[&user]).await?;
    let teams: Vec<i64> = teams.iter().map(|row| row.get("team_id")).collect();
    client.query_opt(&statements.recipe, &[&user, &teams, &id]).await?.ok_or(Failure::NotFound)
}

fn reaction_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "recipe_id": row.get::<_, i64>("recipe_id"),
        "user_id": row.get::<_, i64>("user_id"),
        "emoji": row.get::<_, &str>("emoji"),
        "created_at": row.get::<_, &str>("created_at"),
        "time_zone": row.get::<_, &str>("time_zone"),
    })
}
