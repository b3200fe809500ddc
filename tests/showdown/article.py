"""What the article "Sync to Async Python for Speed" (2022) measured: `oha -z 1m -c 50` on one endpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    stack: str
    per_second: float
    # Percent of one core, at most.
    cpu: float
    # MB, at most.
    memory: float


FIGURES = {
    "django": Measured("gunicorn (5 workers), Django, psycopg2", 58, 48, 276),
    "starlette": Measured("gunicorn (2 uvicorn workers), Starlette, asyncpg", 495, 160, 143),
    "axum": Measured("axum, tokio-postgres, bb8 (20 connections)", 267, 53, 15),
}
# Connections of each app there, as far as the article tells.
POOL = 25
