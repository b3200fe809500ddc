"""The recipes API with Starlette and an asyncpg pool, whose statement cache is on (asyncpg's default)."""

import json
import os
from contextlib import asynccontextmanager
from itertools import groupby

import asyncpg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

APP_TIME_ZONE = os.environ.get("APP_TIME_ZONE", "UTC")
POOL_SIZE = int(os.environ.get("POOL_SIZE", "20"))
EMOJI_MAX = 16

# SET takes no parameters.
SET_TIME_ZONE = "SET TIME ZONE '{}'".format(APP_TIME_ZONE.replace("'", "''"))
SELECT_USER = """
    SELECT users.id, users.name FROM sessions JOIN users ON users.id = sessions.user_id
    WHERE sessions.token = $1 AND sessions.expires_at > now()"""
SELECT_TEAMS = "SELECT team_id FROM memberships WHERE user_id = $1"
SELECT_RECIPE = """
    SELECT id, owner_user_id, owner_team_id, title, description, servings, reaction_count,
           created_at::text, current_setting('TimeZone') AS time_zone
    FROM recipes
    WHERE (owner_user_id = $1 OR owner_team_id = ANY ($2::bigint[])) AND ($3::bigint IS NULL OR id = $3)
    ORDER BY random() LIMIT 1"""
SELECT_INGREDIENTS = "SELECT id, position, name, quantity, unit FROM ingredients WHERE recipe_id = $1 ORDER BY position"
SELECT_SECTIONS = "SELECT id, position, title FROM sections WHERE recipe_id = $1 ORDER BY position"
SELECT_STEPS = "SELECT id, section_id, position, body, minutes FROM steps WHERE recipe_id = $1 ORDER BY position"
SELECT_NOTES = """
    SELECT notes.id, notes.author_id, notes.body, notes.created_at::text,
           reactions.id AS reaction_id, reactions.user_id, reactions.emoji, reactions.created_at::text AS reacted_at
    FROM notes LEFT JOIN reactions ON reactions.note_id = notes.id
    WHERE notes.recipe_id = $1 ORDER BY notes.id, reactions.id"""
SELECT_EVENTS = "SELECT id, kind, happened_at::text FROM timeline_events WHERE recipe_id = $1 ORDER BY id"
INSERT_REACTION = """
    INSERT INTO reactions (recipe_id, user_id, emoji) VALUES ($1, $2, $3)
    RETURNING id, recipe_id, user_id, emoji, created_at::text, current_setting('TimeZone') AS time_zone"""
COUNT_REACTION = "UPDATE recipes SET reaction_count = reaction_count + 1 WHERE id = $1"


async def healthz(_request):
    return JSONResponse({"status": "ok"})


async def sign_in(request, connection):
    """The user of the session cookie; sets the connection's time zone."""
    await connection.execute(SET_TIME_ZONE)
    user = await connection.fetchrow(SELECT_USER, request.cookies["session"])
    if user is None:
        raise HTTPException(401, "unknown session")
    return dict(user)


async def find_recipe(connection, user, recipe_id=None):
    """A random recipe of the user or its teams, or the one that `recipe_id` names."""
    teams = [row["team_id"] for row in await connection.fetch(SELECT_TEAMS, user["id"])]
    recipe = await connection.fetchrow(SELECT_RECIPE, user["id"], teams, recipe_id)
    if recipe is None:
        raise HTTPException(404, "no such recipe")
    return dict(recipe)


async def get_recipe(request):
    require_cookie(request)
    recipe_id = request.query_params.get("id")
    try:
        recipe_id = None if recipe_id is None else int(recipe_id)
    except ValueError:
        raise HTTPException(400, "id must be a number") from None
    async with request.state.pool.acquire() as connection:
        user = await sign_in(request, connection)
        recipe = await find_recipe(connection, user, recipe_id)

        async def rows(query):
            return [dict(row) for row in await connection.fetch(query, recipe["id"])]

        body = {
            "time_zone": recipe.pop("time_zone"),
            "user": user,
            "recipe": recipe,
            "ingredients": await rows(SELECT_INGREDIENTS),
            "sections": await rows(SELECT_SECTIONS),
            "steps": await rows(SELECT_STEPS),
            "notes": with_reactions(await connection.fetch(SELECT_NOTES, recipe["id"])),
            "timeline_events": await rows(SELECT_EVENTS),
        }
    return JSONResponse(body)


def with_reactions(rows):
    """The notes, each with its reactions, from the rows of their outer join."""
    return [
        {
            **note,
            "reactions": [
                {
                    "id": row["reaction_id"],
                    "user_id": row["user_id"],
                    "emoji": row["emoji"],
                    "created_at": row["reacted_at"],
                }
                for row in joined
                if row["reaction_id"] is not None
            ],
        }
        for note, joined in groupby(rows, key=lambda row: dict(list(row.items())[:4]))
    ]


async def add_reaction(request):
    """Adds the user's reaction to one of its recipes; the row and the counter change together."""
    require_cookie(request)
    emoji = read_emoji(await request.body())
    recipe_id = request.path_params["recipe_id"]
    async with request.state.pool.acquire() as connection:
        user = await sign_in(request, connection)
        async with connection.transaction():
            await find_recipe(connection, user, recipe_id)
            added = await connection.fetchrow(INSERT_REACTION, recipe_id, user["id"], emoji)
            await connection.execute(COUNT_REACTION, recipe_id)
    return JSONResponse(dict(added), 201)


def require_cookie(request):
    if not request.cookies.get("session"):
        raise HTTPException(401, "no session")


def read_emoji(body):
    try:
        emoji = json.loads(body)["emoji"]
    except (ValueError, KeyError, TypeError):
        emoji = None
    if not isinstance(emoji, str) or not 1 <= len(emoji) <= EMOJI_MAX:
        raise HTTPException(400, f"emoji must be a text of 1 to {EMOJI_MAX} characters")
    return emoji


async def failure(_request, error):
    return JSONResponse({"error": error.detail}, error.status_code)


@asynccontextmanager
async def lifespan(_app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=POOL_SIZE) as pool:
        yield {"pool": pool}


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/api/v1/recipes", get_recipe),
        Route("/api/v1/recipes/{recipe_id:int}/reactions", add_reaction, methods=["POST"]),
    ],
    exception_handlers={HTTPException: failure},
    lifespan=lifespan,
)
