"""The API. What a request sets on its connection holds for the queries after it, as with any PostgreSQL connection."""

import json
from functools import wraps
from itertools import groupby

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Func, Q, TextField, Value
from django.db.models.functions import Now
from django.http import JsonResponse
from django.views.decorators.http import require_GET, require_POST

from .models import Ingredient, Membership, Note, Reaction, Recipe, Section, Session, Step, TimelineEvent

TIME_ZONE = Func(Value("TimeZone"), function="current_setting", output_field=TextField())
EMOJI_MAX = 16


def reply(body, status=200):
    return JsonResponse(body, status=status, json_dumps_params={"ensure_ascii": False})


def failure(status, message):
    return reply({"error": message}, status)


@require_GET
def healthz(_request):
    return reply({"status": "ok"})


def signed_in(view):
    """Gives the view the user of the session cookie, and the connection the time zone."""

    @wraps(view)
    def wrapper(request, *args, **kwargs):
        token = request.COOKIES.get("session")
        if not token:
            return failure(401, "no session")
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE %s", [settings.APP_TIME_ZONE])
        sessions = Session.objects.filter(token=token, expires_at__gt=Now())
        user = sessions.values(id=F("user_id"), name=F("user__name")).first()
        if user is None:
            return failure(401, "unknown session")
        return view(request, user, *args, **kwargs)

    return wrapper


def owned_recipes(user):
    """The recipes of the user and of its teams."""
    teams = list(Membership.objects.filter(user=user["id"]).values_list("team_id", flat=True))
    return Recipe.objects.filter(Q(owner_user=user["id"]) | Q(owner_team__in=teams))


@require_GET
@signed_in
def recipe(request, user):
    """A random recipe of the user or its teams, or the one that `id` names."""
    recipes = owned_recipes(user)
    if "id" in request.GET:
        try:
            recipes = recipes.filter(id=int(request.GET["id"]))
        except ValueError:
            return failure(400, "id must be a number")
    found = (
        recipes.order_by("?")
        .values(
            "id",
            "owner_user_id",
            "owner_team_id",
            "title",
            "description",
            "servings",
            "reaction_count",
            "created_at",
            time_zone=TIME_ZONE,
        )
        .first()
    )
    if found is None:
        return failure(404, "no such recipe")
    return reply({"time_zone": found.pop("time_zone"), "user": user, "recipe": found, **parts(found["id"])})


def parts(recipe_id):
    """What belongs to a recipe, one query each."""

    def rows(model, *columns, order):
        return list(model.objects.filter(recipe=recipe_id).order_by(order).values(*columns))

    return {
        "ingredients": rows(Ingredient, "id", "position", "name", "quantity", "unit", order="position"),
        "sections": rows(Section, "id", "position", "title", order="position"),
        "steps": rows(Step, "id", "section_id", "position", "body", "minutes", order="position"),
        "notes": notes(recipe_id),
        "timeline_events": rows(TimelineEvent, "id", "kind", "happened_at", order="id"),
    }


def notes(recipe_id):
    """The notes, each with its reactions, from one outer join."""
    note = ("id", "author_id", "body", "created_at")
    reaction = ("id", "user_id", "emoji", "created_at")
    rows = (
        Note.objects.filter(recipe=recipe_id)
        .order_by("id", "reactions__id")
        .values_list(*note, *(f"reactions__{column}" for column in reaction))
    )
    return [
        {
            **dict(zip(note, head, strict=True)),
            "reactions": [dict(zip(reaction, row[4:], strict=True)) for row in joined if row[4] is not None],
        }
        for head, joined in groupby(rows, key=lambda row: row[:4])
    ]


@require_POST
@signed_in
def react(request, user, recipe_id):
    """Adds the user's reaction to one of its recipes; the row and the counter change together."""
    emoji = read_emoji(request.body)
    if emoji is None:
        return failure(400, f"emoji must be a text of 1 to {EMOJI_MAX} characters")
    with transaction.atomic():
        if not owned_recipes(user).filter(id=recipe_id).exists():
            return failure(404, "no such recipe")
        added = Reaction.objects.create(recipe_id=recipe_id, user_id=user["id"], emoji=emoji)
        Recipe.objects.filter(id=recipe_id).update(reaction_count=F("reaction_count") + 1)
        body = (
            Reaction.objects.filter(id=added.id)
            .values("id", "recipe_id", "user_id", "emoji", "created_at", time_zone=TIME_ZONE)
            .get()
        )
    return reply(body, 201)


def read_emoji(body):
    try:
        emoji = json.loads(body)["emoji"]
    except (ValueError, KeyError, TypeError):
        return None
    return emoji if isinstance(emoji, str) and 1 <= len(emoji) <= EMOJI_MAX else None
