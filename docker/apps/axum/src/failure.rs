//! Why a request isn't answered with what it asked for, and how it is told so.

use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request isn't answered with what it asked for.
pub enum Failure {
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
