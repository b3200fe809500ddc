//! The routes.

use axum::Router;
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum_extra::extract::CookieJar;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row, Statement};

use crate::db::{self, Connection, Connections, Statements};

const EMOJI_MAX: usize = 16;

pub fn router(pool: Connections) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .route("/api/v1/recipes", get(get_recipe))
        .route("/api/v1/recipes/{id}/reactions", post(add_reaction))
        .with_state(pool)
}

/// Why a request isn't answered with what it asked for.
enum Failure {
    Unauthorized(&'static str),
    NotFound,
    BadRequest(String),
    /// The client learns nothing of it; the log does.
    Database(String),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
    }
}

impl From<bb8::RunError<tokio_postgres::Error>> for Failure {
    fn from(error: bb8::RunError<tokio_postgres::Error>) -> Self {
        Self::Database(format!("no connection: {error}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Unauthorized(message) => (StatusCode::UNAUTHORIZED, message.to_owned()),
            Self::NotFound => (StatusCode::NOT_FOUND, "no such recipe".to_owned()),
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, message),
            Self::Database(error) => {
                tracing::error!(error, "database");
                (StatusCode::INTERNAL_SERVER_ERROR, "database error".to_owned())
            }
        };
        (status, Json(json!({ "error": message }))).into_response()
    }
}

#[derive(Deserialize)]
struct Which {
    id: Option<i64>,
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
    Ok(Json(json!({
        "time_zone": recipe.get::<_, &str>("time_zone"),
        "user": { "id": user.get::<_, i64>("id"), "name": user.get::<_, &str>("name") },
        "recipe": recipe_json(&recipe),
        "ingredients": rows(&statements.ingredients).await?.iter().map(ingredient_json).collect::<Vec<_>>(),
        "sections": rows(&statements.sections).await?.iter().map(section_json).collect::<Vec<_>>(),
        "steps": rows(&statements.steps).await?.iter().map(step_json).collect::<Vec<_>>(),
        "notes": notes_json(&rows(&statements.notes).await?),
        "timeline_events": rows(&statements.events).await?.iter().map(event_json).collect::<Vec<_>>(),
    })))
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
    let added = transaction.query_one(db::INSERT_REACTION, &[&id, &user, &emoji]).await?;
    transaction.execute(db::COUNT_REACTION, &[&id]).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, Json(reaction_json(&added))))
}

fn session_token(cookies: &CookieJar) -> Result<&str, Failure> {
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

fn recipe_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "owner_user_id": row.get::<_, Option<i64>>("owner_user_id"),
        "owner_team_id": row.get::<_, Option<i64>>("owner_team_id"),
        "title": row.get::<_, &str>("title"),
        "description": row.get::<_, &str>("description"),
        "servings": row.get::<_, i32>("servings"),
        "reaction_count": row.get::<_, i32>("reaction_count"),
        "created_at": row.get::<_, &str>("created_at"),
    })
}

fn ingredient_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "position": row.get::<_, i32>("position"),
        "name": row.get::<_, &str>("name"),
        "quantity": row.get::<_, Option<f64>>("quantity"),
        "unit": row.get::<_, Option<&str>>("unit"),
    })
}

fn section_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "position": row.get::<_, i32>("position"),
        "title": row.get::<_, &str>("title"),
    })
}

fn step_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "section_id": row.get::<_, i64>("section_id"),
        "position": row.get::<_, i32>("position"),
        "body": row.get::<_, &str>("body"),
        "minutes": row.get::<_, i32>("minutes"),
    })
}

/// The notes, each with its reactions, from the rows of their outer join.
fn notes_json(rows: &[Row]) -> Vec<Value> {
    rows.chunk_by(|one, next| one.get::<_, i64>("id") == next.get::<_, i64>("id"))
        .map(|joined| {
            let note = &joined[0];
            let reactions = joined.iter().filter(|row| row.get::<_, Option<i64>>("reaction_id").is_some());
            json!({
                "id": note.get::<_, i64>("id"),
                "author_id": note.get::<_, i64>("author_id"),
                "body": note.get::<_, &str>("body"),
                "created_at": note.get::<_, &str>("created_at"),
                "reactions": reactions.map(note_reaction_json).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn note_reaction_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("reaction_id"),
        "user_id": row.get::<_, i64>("user_id"),
        "emoji": row.get::<_, &str>("emoji"),
        "created_at": row.get::<_, &str>("reacted_at"),
    })
}

fn event_json(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "kind": row.get::<_, &str>("kind"),
        "happened_at": row.get::<_, &str>("happened_at"),
    })
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
