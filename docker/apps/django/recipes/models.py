"""The tables of ../../schema.sql. They aren't Django's to create: every model is unmanaged."""

from django.db import models
from django.db.models.functions import Now


class RenderedTimestamp(models.DateTimeField):
    """A timestamptz that PostgreSQL renders as text, in the time zone of the session."""

    def select_format(self, compiler, sql, params):
        return f"{sql}::text", params


class User(models.Model):
    name = models.TextField()

    class Meta:
        managed = False
        db_table = "users"


class Team(models.Model):
    name = models.TextField()

    class Meta:
        managed = False
        db_table = "teams"


class Membership(models.Model):
    user = models.ForeignKey(User, models.CASCADE)
    team = models.ForeignKey(Team, models.CASCADE)

    class Meta:
        managed = False
        db_table = "memberships"


class Session(models.Model):
    token = models.TextField(primary_key=True)
    user = models.ForeignKey(User, models.CASCADE)
    expires_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "sessions"


class Recipe(models.Model):
    owner_user = models.ForeignKey(User, models.CASCADE, null=True)
    owner_team = models.ForeignKey(Team, models.CASCADE, null=True)
    title = models.TextField()
    description = models.TextField()
    servings = models.IntegerField()
    reaction_count = models.IntegerField()
    created_at = RenderedTimestamp()

    class Meta:
        managed = False
        db_table = "recipes"


class Ingredient(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)
    position = models.IntegerField()
    name = models.TextField()
    quantity = models.FloatField(null=True)
    unit = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "ingredients"


class Section(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)
    position = models.IntegerField()
    title = models.TextField()

    class Meta:
        managed = False
        db_table = "sections"


class Step(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)
    section = models.ForeignKey(Section, models.CASCADE)
    position = models.IntegerField()
    body = models.TextField()
    minutes = models.IntegerField()

    class Meta:
        managed = False
        db_table = "steps"


class Note(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)
    author = models.ForeignKey(User, models.CASCADE)
    body = models.TextField()
    created_at = RenderedTimestamp()

    class Meta:
        managed = False
        db_table = "notes"


class Reaction(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)
    note = models.ForeignKey(Note, models.CASCADE, null=True, related_name="reactions")
    user = models.ForeignKey(User, models.CASCADE)
    emoji = models.TextField()
    created_at = RenderedTimestamp(db_default=Now())

    class Meta:
        managed = False
        db_table = "reactions"


class TimelineEvent(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)
    kind = models.TextField()
    happened_at = RenderedTimestamp()

    class Meta:
        managed = False
        db_table = "timeline_events"
