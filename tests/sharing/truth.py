"""What PostgreSQL itself says, asked over a direct connection: what every reply is compared with."""

import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psycopg2

APPS = Path(__file__).resolve().parents[2] / "docker" / "apps"
MARK = "demo application"

# The body of GET /api/v1/recipes, less `time_zone`, `user` and `recipe.reaction_count`. It is written apart
# from the queries of the applications on purpose.
RECIPES = """
    SELECT r.id, json_build_object(
        'recipe', json_build_object(
            'id', r.id, 'owner_user_id', r.owner_user_id, 'owner_team_id', r.owner_team_id, 'title', r.title,
            'description', r.description, 'servings', r.servings, 'created_at', r.created_at::text),
        'ingredients', (
            SELECT coalesce(json_agg(json_build_object('id', i.id, 'position', i.position, 'name', i.name,
                'quantity', i.quantity, 'unit', i.unit) ORDER BY i.position), '[]')
            FROM ingredients i WHERE i.recipe_id = r.id),
        'sections', (
            SELECT coalesce(json_agg(json_build_object('id', s.id, 'position', s.position, 'title', s.title)
                ORDER BY s.position), '[]')
            FROM sections s WHERE s.recipe_id = r.id),
        'steps', (
            SELECT coalesce(json_agg(json_build_object('id', s.id, 'section_id', s.section_id,
                'position', s.position, 'body', s.body, 'minutes', s.minutes) ORDER BY s.position), '[]')
            FROM steps s WHERE s.recipe_id = r.id),
        'notes', (
            SELECT coalesce(json_agg(json_build_object('id', n.id, 'author_id', n.author_id, 'body', n.body,
                'created_at', n.created_at::text, 'reactions', (
                    SELECT coalesce(json_agg(json_build_object('id', x.id, 'user_id', x.user_id, 'emoji', x.emoji,
                        'created_at', x.created_at::text) ORDER BY x.id), '[]')
                    FROM reactions x WHERE x.note_id = n.id)) ORDER BY n.id), '[]')
            FROM notes n WHERE n.recipe_id = r.id),
        'timeline_events', (
            SELECT coalesce(json_agg(json_build_object('id', e.id, 'kind', e.kind, 'happened_at', e.happened_at::text)
                ORDER BY e.id), '[]')
            FROM timeline_events e WHERE e.recipe_id = r.id)
    )::text FROM recipes r"""

OWNED = """
    SELECT users.id, array_agg(recipes.id) FROM users JOIN recipes ON recipes.owner_user_id = users.id
        OR recipes.owner_team_id IN (SELECT team_id FROM memberships WHERE user_id = users.id)
    GROUP BY users.id"""


@contextmanager
def connect(url):
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def load(url):
    """Fills the database with the demo application's tables; refuses one that holds anything else."""
    with connect(url) as cursor:
        cursor.execute("SELECT obj_description(to_regclass('public.recipes'), 'pg_class')")
        (mark,) = cursor.fetchone()
        cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        if cursor.fetchone()[0] > 0 and mark != MARK:
            raise SystemExit("sharing: the database holds other tables; give an empty one")
        for name in ("schema.sql", "seed.sql"):
            cursor.execute((APPS / name).read_text(encoding="utf-8"))


class Truth:
    """The seeded data: who owns what, and each recipe as every time zone renders it."""

    def __init__(self, url, time_zones):
        with connect(url) as cursor:
            cursor.execute("SELECT id, name FROM users ORDER BY id")
            self.users = [{"id": id, "name": name} for id, name in cursor]
            cursor.execute("SELECT user_id, token FROM sessions WHERE expires_at > now()")
            self.tokens = dict(cursor.fetchall())
            cursor.execute("SELECT token FROM sessions WHERE expires_at <= now()")
            self.expired = [token for (token,) in cursor]
            cursor.execute(OWNED)
            self.owned = {user: frozenset(recipes) for user, recipes in cursor}
            cursor.execute("SELECT id, reaction_count FROM recipes")
            self.reaction_counts = dict(cursor.fetchall())
            self._recipes = {}
            for zone in set(time_zones):
                cursor.execute("SELECT set_config('TimeZone', %s, false)", [zone])
                cursor.execute(RECIPES)
                self._recipes[zone] = dict(cursor.fetchall())
        self.recipe_ids = sorted(self.reaction_counts)

    def recipe(self, time_zone, id):
        """The body for recipe `id`, less `time_zone`, `user` and `recipe.reaction_count`."""
        return json.loads(self._recipes[time_zone][id])


def posted_reactions(url, time_zone):
    """Reactions to recipes by id: (recipe, user, emoji, time as `time_zone` renders it)."""
    with connect(url) as cursor:
        cursor.execute("SELECT set_config('TimeZone', %s, false)", [time_zone])
        cursor.execute("SELECT id, recipe_id, user_id, emoji, created_at::text FROM reactions WHERE note_id IS NULL")
        return {id: row for id, *row in cursor}


def counters_that_disagree(url):
    """Recipes whose counter isn't the number of their reactions."""
    with connect(url) as cursor:
        cursor.execute("SELECT recipe_id FROM reactions WHERE note_id IS NULL")
        rows = Counter(id for (id,) in cursor)
        cursor.execute("SELECT id, reaction_count FROM recipes")
        return [(id, counter, rows[id]) for id, counter in cursor if counter != rows[id]]


def time_zones_are_distinct(url, time_zones):
    """Whether an instant of winter and one of summer look different in each zone, so that a mix-up would show."""
    with connect(url) as cursor:
        rendered = set()
        for zone in time_zones:
            cursor.execute("SELECT set_config('TimeZone', %s, false)", [zone])
            cursor.execute("SELECT timestamptz '2024-01-01Z'::text, timestamptz '2024-07-01Z'::text")
            rendered.add(cursor.fetchone())
        return len(rendered) == len(time_zones)
