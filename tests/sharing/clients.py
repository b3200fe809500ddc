"""The load: clients of one application, each of which checks every reply that it gets."""

import asyncio
import random
import time
from collections import Counter

import aiohttp

REQUEST_TIMEOUT = 30  # seconds
WARM_UP = 5  # seconds: replies are checked but not timed, while workers start and pools fill
ERRORS_KEPT = 20
EMOJI = {"django": "🎸", "starlette": "⭐", "axum": "🪓"}


class Reactions:
    """How many reactions a recipe may show: at least those whose POST had been answered when it was asked for,
    at most those whose POST has begun."""

    def __init__(self, base):
        self._base = base
        self._begun = Counter()
        self._done = Counter()
        self.posted = []  # (app, reply)

    def begin(self, recipe):
        self._begun[recipe] += 1

    def done(self, recipe, app, reply):
        self._done[recipe] += 1
        self.posted.append((app, reply))

    def answered(self):
        return dict(self._done)

    def may_show(self, recipe, count, answered_before):
        base = self._base[recipe]
        return base + answered_before.get(recipe, 0) <= count <= base + self._begun[recipe]


class Result:
    """What came of one application's load."""

    def __init__(self, measured_from):
        self.measured_from = measured_from
        self.latencies = []
        self.statuses = Counter()
        self.errors = []
        self.error_count = 0
        self.per_client = Counter()

    def error(self, text):
        self.error_count += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(text)


class Wrong(Exception):
    """A reply that isn't what it must be."""


def difference(got, expected, path=""):
    """The first place where two JSON values differ, or None."""
    if isinstance(got, dict) and isinstance(expected, dict) and got.keys() == expected.keys():
        pairs = ((f"{path}.{key}", got[key], expected[key]) for key in expected)
    elif isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        pairs = ((f"{path}[{index}]", *both) for index, both in enumerate(zip(got, expected, strict=True)))
    else:
        return None if got == expected else f"{path or 'body'} is {str(got)[:200]!r}, not {str(expected)[:200]!r}"
    return next(filter(None, (difference(one, other, where) for where, one, other in pairs)), None)


class Client:
    """One browser: a user at a time, a request after the other."""

    def __init__(self, number, app, http, truth, reactions, result):
        self.number = number
        self.app = app
        self.http = http
        self.truth = truth
        self.reactions = reactions
        self.result = result
        self.random = random.Random(f"{app.name} {number}")

    async def run(self, until):
        kinds = [
            self.any_recipe,
            self.one_recipe,
            self.foreign_recipe,
            self.bad_session,
            self.react,
            self.foreign_react,
        ]
        while time.monotonic() < until:
            kind = self.random.choices(kinds, weights=[70, 10, 3, 2, 12, 3])[0]
            user = self.random.choice(self.truth.users)
            try:
                await kind(user)
                self.result.per_client[self.number] += 1
            except (TimeoutError, Wrong, aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
                self.result.error(f"{self.app.name} {kind.__name__} user {user['id']}: {type(error).__name__} {error}")
                await asyncio.sleep(0.05)

    async def any_recipe(self, user):
        await self.get_and_check(user, {})

    async def one_recipe(self, user):
        id = self.random.choice(sorted(self.truth.owned[user["id"]]))
        await self.get_and_check(user, {"id": id}, id)

    async def foreign_recipe(self, user):
        await self.request("GET", "/api/v1/recipes", self.cookie(user), 404, params={"id": self.foreign_id(user)})

    async def bad_session(self, _user):
        tokens = [None, "", "nobody", self.random.choice(self.truth.expired)]
        await self.request("GET", "/api/v1/recipes", self.random.choice(tokens), 401)

    async def react(self, user):
        id = self.random.choice(sorted(self.truth.owned[user["id"]]))
        emoji = EMOJI[self.app.name]
        self.reactions.begin(id)
        body = await self.request(
            "POST", f"/api/v1/recipes/{id}/reactions", self.cookie(user), 201, json={"emoji": emoji}
        )
        self.reactions.done(id, self.app, body)
        expected = {"recipe_id": id, "user_id": user["id"], "emoji": emoji, "time_zone": self.app.time_zone}
        self.require_equal({key: body.get(key) for key in expected}, expected)

    async def foreign_react(self, user):
        path = f"/api/v1/recipes/{self.foreign_id(user)}/reactions"
        await self.request("POST", path, self.cookie(user), 404, json={"emoji": EMOJI[self.app.name]})

    async def get_and_check(self, user, params, id=None):
        answered_before = self.reactions.answered()
        body = await self.request("GET", "/api/v1/recipes", self.cookie(user), 200, params=params)
        self.check(body, user, id, answered_before)

    def check(self, body, user, id, answered_before):
        got = body["recipe"]["id"]
        if got not in self.truth.owned[user["id"]]:
            raise Wrong(f"recipe {got} isn't the user's")
        if id not in (None, got):
            raise Wrong(f"recipe {got} instead of {id}")
        count = body["recipe"].pop("reaction_count")
        if not self.reactions.may_show(got, count, answered_before):
            raise Wrong(f"recipe {got} shows {count} reactions")
        expected = {"time_zone": self.app.time_zone, "user": user, **self.truth.recipe(self.app.time_zone, got)}
        self.require_equal(body, expected)

    @staticmethod
    def require_equal(got, expected):
        found = difference(got, expected)
        if found:
            raise Wrong(found)

    async def request(self, method, path, token, status, **options):
        headers = {} if token is None else {"Cookie": f"session={token}"}
        began = time.monotonic()
        async with self.http.request(method, self.app.url + path, headers=headers, **options) as reply:
            text = await reply.text()
        if began >= self.result.measured_from:
            self.result.latencies.append(time.monotonic() - began)
        self.result.statuses[reply.status] += 1
        if reply.status != status:
            raise Wrong(f"{method} {path} {options}: status {reply.status}, not {status}: {text[:300]}")
        return await reply.json()

    def cookie(self, user):
        return self.truth.tokens[user["id"]]

    def foreign_id(self, user):
        while True:
            id = self.random.choice(self.truth.recipe_ids)
            if id not in self.truth.owned[user["id"]]:
                return id


async def drive(app, truth, reactions, clients, seconds):
    """Runs the clients of one application for WARM_UP and then `seconds`; each has a connection of its own."""
    began = time.monotonic()
    until = began + WARM_UP + seconds
    result = Result(began + WARM_UP)
    connector = aiohttp.TCPConnector(limit=clients, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
        await asyncio.gather(
            *(Client(number, app, http, truth, reactions, result).run(until) for number in range(clients))
        )
    return result
