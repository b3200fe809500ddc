//! Rows as JSON, the same in every variant that builds it here.

use serde_json::{Value, json};
use tokio_postgres::Row;

/// The reply to `GET /api/v1/recipes`.
pub fn body_json(user: &Row, recipe: &Row, parts: &Parts) -> Value {
    json!({
        "time_zone": recipe.get::<_, &str>("time_zone"),
        "user": { "id": user.get::<_, i64>("id"), "name": user.get::<_, &str>("name") },
        "recipe": recipe_json(recipe),
        "ingredients": parts.ingredients.iter().map(ingredient_json).collect::<Vec<_>>(),
        "sections": parts.sections.iter().map(section_json).collect::<Vec<_>>(),
        "steps": parts.steps.iter().map(step_json).collect::<Vec<_>>(),
        "notes": notes_json(&parts.notes),
        "timeline_events": parts.events.iter().map(event_json).collect::<Vec<_>>(),
    })
}

/// What belongs to a recipe, as the rows of one query each.
pub struct Parts {
    pub ingredients: Vec<Row>,
    pub sections: Vec<Row>,
    pub steps: Vec<Row>,
    /// Each note once for each of its reactions, at least once.
    pub notes: Vec<Row>,
    pub events: Vec<Row>,
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
