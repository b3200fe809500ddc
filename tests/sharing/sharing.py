#!/usr/bin/env python3
"""Three applications share one pool: Django with psycopg2, Starlette with asyncpg, axum with tokio-postgres and bb8.

Loads the demo application's tables over --direct, starts the three with DATABASE_URL=--pooled, each in a time
zone of its own, lets clients of each ask all at once, and compares every reply with what PostgreSQL says
over the direct connection. PostgreSQL is asked every 100 ms how many server connections there are. Exits 0 when
every reply was right, each client of each application made progress and the servers were never too many.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import apps
import clients
import servers
import truth as postgres

TIME_ZONES = {"django": "Asia/Tokyo", "starlette": "America/New_York", "axum": "Europe/Berlin"}
COMMON_TIME_ZONE = "Asia/Kathmandu"
COMPARED_RECIPES = 40
AXUM = apps.APPS / "axum"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--direct", required=True, metavar="URL", help="PostgreSQL itself; the database is overwritten")
    parser.add_argument("--pooled", required=True, metavar="URL", help="the same database through the pooler")
    parser.add_argument("--seconds", type=float, default=30, metavar="N", help="after a warm-up of 5 (default 30)")
    parser.add_argument("--axum", type=Path, metavar="PATH", help="the built recipes-axum (default: cargo builds it)")
    parser.add_argument("--clients", type=int, default=50, metavar="N", help="of each application (default 50)")
    parser.add_argument("--max-servers", type=int, default=25, metavar="N", help="default 25")
    parser.add_argument("--django-workers", type=int, default=12, metavar="N", help="gunicorn workers (default 12)")
    return parser.parse_args()


def build_axum():
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=AXUM, check=True)
    return AXUM / "target" / "release" / "recipes-axum"


async def same_json(options, truth, http):
    """In one time zone and without load, all answer a recipe with the same JSON, PostgreSQL's, and refuse alike."""
    names = [*TIME_ZONES, *(f"axum-{variant}" for variant in apps.AXUM_VARIANTS)]
    made = apps.make(options.pooled, dict.fromkeys(names, COMMON_TIME_ZONE), options.axum, 2)
    failures = []
    async with apps.running(made, http) as started:
        for user in truth.users[:: len(truth.users) // COMPARED_RECIPES]:
            id = max(truth.owned[user["id"]])
            foreign = next(other for other in truth.recipe_ids if other not in truth.owned[user["id"]])
            expected = {"time_zone": COMMON_TIME_ZONE, "user": user, **truth.recipe(COMMON_TIME_ZONE, id)}
            expected["recipe"]["reaction_count"] = truth.reaction_counts[id]
            for app in started:
                status, text = await ask(http, app, id, truth.tokens[user["id"]])
                found = clients.difference(json.loads(text), expected) if status == 200 else text
                if found:
                    failures.append(f"{app.name} alone, recipe {id}: status {status}: {found[:300]}")
                for what, recipe, token, right in (
                    ("a recipe of others", foreign, truth.tokens[user["id"]], 404),
                    ("an expired session", id, truth.expired[0], 401),
                    ("no session", id, "", 401),
                ):
                    status, text = await ask(http, app, recipe, token)
                    if status != right:
                        failures.append(f"{app.name} alone, {what}: status {status}, not {right}: {text[:300]}")
    return failures


async def ask(http, app, id, token):
    """Status and body of the reply to a request for recipe `id`."""
    headers = {"Cookie": f"session={token}"}
    async with http.get(f"{app.url}/api/v1/recipes", params={"id": id}, headers=headers) as reply:
        return reply.status, await reply.text()


async def share(options, truth, reactions, http):
    """The load on all three at once: the result of each by its name, and the seconds that were timed."""
    made = apps.make(options.pooled, TIME_ZONES, options.axum, options.django_workers)
    async with apps.running(made, http) as started:
        timed_from = time.monotonic() + clients.WARM_UP
        results = await asyncio.gather(
            *(clients.drive(app, truth, reactions, options.clients, options.seconds) for app in started)
        )
        return {app.name: result for app, result in zip(started, results, strict=True)}, time.monotonic() - timed_from


def check_writes(options, reactions):
    """Every POST that was answered is a row, as it was answered, and no other row is there."""
    failures = []
    for name, zone in TIME_ZONES.items():
        rows = postgres.posted_reactions(options.direct, zone)
        for app, reply in reactions.posted:
            row = rows.get(reply["id"])
            if app.name == name and row != [reply[key] for key in ("recipe_id", "user_id", "emoji", "created_at")]:
                failures.append(f"{name} answered the reaction {reply}, PostgreSQL has {row}")
    if len(rows) != len(reactions.posted):
        failures.append(f"{len(reactions.posted)} reactions were answered, PostgreSQL has {len(rows)}")
    for id, counter, count in postgres.counters_that_disagree(options.direct):
        failures.append(f"recipe {id} counts {counter} reactions and has {count}")
    return failures


def check_results(options, results):
    failures = []
    for name, result in results.items():
        if result.error_count:
            failures.append(f"{name}: {result.error_count} wrong or failed replies")
        stuck = [number for number in range(options.clients) if not result.per_client[number]]
        if stuck:
            failures.append(f"{name}: {len(stuck)} of {options.clients} clients made no progress")
    return failures


def check_servers(options, sampler):
    if sampler.failure:
        return [f"pg_stat_activity: {sampler.failure}"]
    if not sampler.samples:
        return ["pg_stat_activity was never sampled"]
    if sampler.most > options.max_servers:
        return [f"{sampler.most} server connections, more than {options.max_servers}"]
    return []


def report(results, sampler, reactions, elapsed):
    columns = "{:<12}{:<18}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}  {}"
    print(
        columns.format("application", "time zone", "timed", "per s", "p50 ms", "p99 ms", "max ms", "errors", "replies")
    )
    for name, result in results.items():
        times = sorted(result.latencies) or [float("nan")]
        quantiles = [round(1000 * times[int((len(times) - 1) * share)], 1) for share in (0.5, 0.99, 1)]
        rate = round(len(result.latencies) / elapsed)
        replies = " ".join(f"{status}:{count}" for status, count in sorted(result.statuses.items()))
        errors = result.error_count
        print(columns.format(name, TIME_ZONES[name], len(result.latencies), rate, *quantiles, errors, replies))
    print(
        f"servers: at most {sampler.most} in {sampler.samples} samples (longest gap {sampler.longest_gap:.2f} s); "
        f"reactions written: {len(reactions.posted)}"
    )
    for result in results.values():
        for error in result.errors:
            print(f"  {error}")


async def run(options):
    truth = postgres.Truth(options.direct, [COMMON_TIME_ZONE, *TIME_ZONES.values()])
    reactions = clients.Reactions(truth.reaction_counts)
    with servers.Sampler(options.direct) as sampler:
        timeout = aiohttp.ClientTimeout(total=clients.REQUEST_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
            failures = await same_json(options, truth, http)
            print(
                f"same JSON from all variants for {COMPARED_RECIPES} recipes: {'NO' if failures else 'yes'}", flush=True
            )
            results, elapsed = await share(options, truth, reactions, http)
    report(results, sampler, reactions, elapsed)
    failures += check_results(options, results)
    failures += check_writes(options, reactions)
    return failures + check_servers(options, sampler)


async def until_signalled(work):
    """Runs `work`; SIGINT and SIGTERM cancel it, so that its children are stopped."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main():
    options = arguments()
    options.axum = (options.axum or build_axum()).resolve()
    if not options.axum.is_file():
        raise SystemExit(f"sharing: no such file: {options.axum}")
    postgres.load(options.direct)
    if not postgres.time_zones_are_distinct(options.direct, TIME_ZONES.values()):
        raise SystemExit("sharing: this PostgreSQL lacks time zones that tell the applications apart")
    try:
        failures = asyncio.run(until_signalled(run(options)))
    except asyncio.CancelledError:
        raise SystemExit("sharing: interrupted") from None
    except (TimeoutError, RuntimeError, aiohttp.ClientError) as error:
        failures = [str(error) or type(error).__name__]
    for failure in failures[:30]:
        print(f"FAILED: {failure}", file=sys.stderr)
    print("sharing: failed" if failures else "sharing: ok")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
