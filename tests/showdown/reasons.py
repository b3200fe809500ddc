"""The part of the report about why the article's axum app was slower than Starlette. It says what the figures say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plots
from article import FIGURES
from form import Block, Table, milliseconds

# One change after another, each with what it is.
CHANGES = {
    "plain-unchecked": "without bb8's question",
    "prepared": "statements prepared once",
    "pipelined": "what needn't wait sent at once",
    "single": "one statement",
    "single-8": "a pool of 8 in place of 20",
}
# What differs by less than this part can't be told from noise.
NOISE = 0.05


def why_blocks(why: dict[str, Any], directory: Path) -> list[Block]:
    steps = {step["key"]: step for step in why["steps"]}
    return [
        "## Why the article's axum app was slower than Starlette",
        why_text(why, steps),
        steps_table(why),
        (plots.reasons(why, directory), "Requests a second by variant, on loopback and over a network"),
        columns_text(why),
        changes_text(steps),
        tls_text(steps),
    ]


def why_text(why: dict[str, Any], steps: dict[str, Any]) -> str:
    plain, prepared, starlette = steps["plain"], steps["prepared"], steps["starlette"]
    return (
        f"{reason(plain, prepared, starlette)} The author saw the app at {FIGURES['axum'].cpu} % of a core, "
        f'so it was waiting. tokio-postgres keeps no statements: `client.query("SELECT …")` prepares one, waits for '
        f"the answer, runs it, waits, and closes it, and bb8 asks before each use whether the connection lives. So the "
        f"nine queries of a request take {plain['round_trips']:.0f} round trips. asyncpg keeps prepared statements by "
        f"itself, and takes {starlette['round_trips']:.0f} for the same, with the reset that its pool does. A "
        f"connection is held for the whole request, so that a pool of *n* gives at most *n* / (round trips × time of "
        f"one) requests a second. {articles_network(plain, starlette)}\n\nOn loopback, where a round trip takes "
        f"{why['loopback_ms']:.2f} ms, round trips are CPU time: {plain['near']['per_second']:.0f} requests/s as "
        f"written at first, {prepared['near']['per_second']:.0f} with prepared statements, Starlette "
        f"{starlette['near']['per_second']:.0f}. A relay makes a network of {why['network_ms']:.1f} ms of it: "
        f"{plain['far']['per_second']:.0f} as written, {prepared['far']['per_second']:.0f} prepared, Starlette "
        f"{starlette['far']['per_second']:.0f}. " + verdict(plain["far"]["per_second"], starlette["far"]["per_second"])
    )


def reason(plain: dict[str, Any], prepared: dict[str, Any], starlette: dict[str, Any]) -> str:
    """What the run shows of it."""
    trips = plain["round_trips"] > starlette["round_trips"] > 0
    helps = times(prepared, plain, "far") > 1 + NOISE
    cpu, theirs = plain["cpu_ms"]["app"], starlette["cpu_ms"]["app"]
    if trips and helps:
        tokio = f", not because of Tokio: a request takes {cpu:.2f} ms of axum's CPU and {theirs:.2f} ms of Starlette's"
        return f"Because of round trips{tokio if cpu < theirs else ''}."
    return (
        f"Round trips are the likely reason, {plain['round_trips']:.0f} of them to Starlette's "
        f"{starlette['round_trips']:.0f}, but this run doesn't show it: with half of them axum is no faster over a "
        f"network."
    )


def articles_network(plain: dict[str, Any], starlette: dict[str, Any]) -> str:
    # Milliseconds that a round trip took the article's apps, were waiting for it all that they did.
    axum_trip = 1000 * 20 / FIGURES["axum"].per_second / plain["round_trips"]
    starlette_trip = 1000 * 25 / FIGURES["starlette"].per_second / starlette["round_trips"]
    alike = max(axum_trip, starlette_trip) / min(axum_trip, starlette_trip) < 1.5
    return (
        f"The article's {FIGURES['axum'].per_second} requests/s from 20 connections are round trips of "
        f"{axum_trip:.1f} ms, and its {FIGURES['starlette'].per_second} from at most 25 are {starlette_trip:.1f} ms: "
        + ("about the same network." if alike else "more than round trips must have made the difference.")
    )


def verdict(plain: float, starlette: float) -> str:
    article = FIGURES["starlette"].per_second / FIGURES["axum"].per_second
    if starlette > plain:
        return f"Starlette is {starlette / plain:.1f} times as fast there; in the article it was {article:.1f} times."
    return (
        f"In the article Starlette was {article:.1f} times as fast; here Python's CPU time weighs more than the round "
        f"trips, since there is too little of it. CPU per request and the bounds below show what a free machine would "
        f"do."
    )


def steps_table(why: dict[str, Any]) -> Table:
    network = f"over {why['network_ms']:.1f} ms"
    head = [
        "variant",
        "what",
        "pool",
        "round trips",
        "requests/s",
        "p99",
        f"{network}: requests/s",
        "p99",
        "bound",
    ]
    table = [[*head, "CPU per request: app", "pooler", "PostgreSQL"]]
    for step in why["steps"]:
        at_work = min(step["connections"], 25)
        bound = 1000 * at_work / (step["round_trips"] * why["network_ms"])
        table.append(
            [
                step["key"],
                step["what"],
                str(step["connections"]),
                f"{step['round_trips']:.1f}",
                f"{step['near']['per_second']:.0f}",
                milliseconds(step["near"]["percentiles"]["99"]),
                f"{step['far']['per_second']:.0f}",
                milliseconds(step["far"]["percentiles"]["99"]),
                f"{bound:.0f}",
                *(f"{step['cpu_ms'][who]:.2f} ms" for who in ("app", "pooler", "postgres")),
            ]
        )
    return table


def columns_text(why: dict[str, Any]) -> str:
    relays = [step["relay_ms"] for step in why["steps"] if "relay_ms" in step]
    relay = f" ({min(relays):.2f} to {max(relays):.2f} ms for a request)" if relays else ""
    return (
        "Round trips are those that the relay counted; *bound* is what connections, round trips and network allow, by "
        f"the formula above. What is missing to it is CPU time, the relay's own{relay} included. CPU per request is "
        "that of the run on loopback."
    )


def times(step: dict[str, Any], other: dict[str, Any], where: str) -> float:
    return step[where]["per_second"] / max(other[where]["per_second"], 0.1)


def both(step: dict[str, Any], other: dict[str, Any]) -> str:
    return f"×{times(step, other, 'near'):.2f} and ×{times(step, other, 'far'):.2f}"


def changes_text(steps: dict[str, Any]) -> str:
    plain, starlette = steps["plain"], steps["starlette"]
    last, changes = plain, []
    for key, what in CHANGES.items():
        if key in steps:
            changes.append(f"{what} {both(steps[key], last)}")
            last = steps[key]
    axums = [step for key, step in steps.items() if not key.startswith("starlette")]
    near, far = (max(axums, key=lambda step: step[where]["per_second"]) for where in ("near", "far"))
    text = (
        f"**The fastest.** Each change makes the one before it so much faster, on loopback and over the network: "
        f"{'; '.join(changes)}. Fastest on loopback is `{near['key']}`, {times(near, plain, 'near'):.1f} times as fast "
        f"as written at first and {times(near, starlette, 'near'):.1f} times as Starlette; over the network "
        f"`{far['key']}`, {times(far, plain, 'far'):.1f} and {times(far, starlette, 'far'):.1f} times."
    )
    if "single-8" in steps:
        text += " `axum-fast` in the other tables is `single-8`."
    if "plain-50" in steps:
        text += (
            f" Connections alone do less: 50 in place of 20 make the first one {both(steps['plain-50'], plain)} as "
            f"fast. No more than 25 are ever at work, which is what HAProxy lets through and the servers that the "
            f"pooler has."
        )
    return text


def tls_text(steps: dict[str, Any]) -> str:
    without, with_it = steps["starlette"], steps["starlette-tls"]
    more = sum(with_it["cpu_ms"].values()) - sum(without["cpu_ms"].values())
    trips = with_it["round_trips"] - without["round_trips"]
    cost = (
        f"what it costs is CPU, {more:.2f} ms for a request of Starlette's"
        if more > NOISE * sum(without["cpu_ms"].values())
        else "what it costs in CPU can't be told from noise in this run"
    )
    same = (
        "It adds no round trips to a request, since a connection is made once"
        if trips < 0.5
        else f"It adds {trips:.1f} round trips to a request, where connections are made anew"
    )
    return (
        f"**TLS** alone isn't the reason. {same}; {cost}, and the article's axum had CPU left. Between "
        f"Starlette and the pooler it makes {with_it['near']['per_second']:.0f} requests/s of "
        f"{without['near']['per_second']:.0f}, over the network {with_it['far']['per_second']:.0f} of "
        f"{without['far']['per_second']:.0f}."
    )
