"""The report, as markdown and HTML, from plain data."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import plots
from article import FIGURES

Table = list[list[str]]
# Text, a table, or the name of a picture with what it shows.
Block = str | Table | tuple[str, str]


def write(results: dict[str, Any], directory: Path) -> None:
    blocks = content(results, directory)
    (directory / "report.md").write_text("\n\n".join(map(markdown, blocks)) + "\n", encoding="utf-8")
    (directory / "report.html").write_text(PAGE.format(body="\n".join(map(as_html, blocks))), encoding="utf-8")


# --- Content ---------------------------------------------------------------------------------------------


def content(results: dict[str, Any], directory: Path) -> list[Block]:
    about, cells = results["about"], results["cells"]
    poolers = {cell["pooler"]: cell["pooler_name"] for cell in cells}
    blocks: list[Block] = ["# The showdown: sync and async applications on one pool", introduction(about, cells)]
    alone = [cell for cell in cells if cell["cell"] != "all"]
    if alone:
        blocks += ["## Each application alone", beside_the_article(alone, poolers)]
        blocks.append((plots.throughput(cells, poolers, directory), "Requests a second of each application"))
        blocks += [ALONE_NOTE, details(alone)]
    at_once = [cell for cell in cells if cell["cell"] == "all"]
    if at_once:
        blocks += ["## All at once on the one pool", all_at_once(at_once, alone), at_once_note(about)]
    blocks += ["## What the poolers take", pooler_costs(cells)]
    if results.get("flood"):
        blocks += flood_blocks(results["flood"], about, directory)
    if results["why"]:
        blocks += why_blocks(results["why"], directory)
    blocks.append("## Over time")
    for key, name in poolers.items():
        own = [cell for cell in cells if cell["pooler"] == key]
        blocks.append((plots.latencies(own, key, name, directory), f"Latencies, {name}"))
        blocks.append((plots.over_time(own, key, name, directory), f"CPU, memory and connections over time, {name}"))
    return blocks


def introduction(about: dict[str, Any], cells: list[dict[str, Any]]) -> str:
    notes = {f" {cell['pooler_name']} runs in {cell['note']}." for cell in cells if cell["note"]}
    foreign = max(cell["foreign"] for cell in cells)
    busy = (
        f" Other programs took up to {foreign} % of a core meanwhile, so compare within a run rather than across runs."
        if foreign > 20
        else ""
    )
    failed = sum(app["failed"] for cell in cells for app in cell["apps"].values())
    return (
        f'The system of the article "Sync to Async Python for Speed" (2022) on one machine: oha, HAProxy (at most '
        f"{about['max_requests']} requests in each application), the applications of `docker/apps`, a pooler with "
        f"{about['pool']} server connections, PostgreSQL. Each request of `GET /api/v1/recipes` takes the session from "
        f"a cookie, sets the time zone, and loads a recipe with all that belongs to it. All applications give the same "
        f"JSON, which is checked before each measurement.\n\n{about['date']}, {about['processor']}, {about['cores']} "
        f"cores, which the load generator has its share of; PostgreSQL {about['postgres']}, HAProxy "
        f"{about['haproxy']}, {about['oha']}. {about['seconds']:g} seconds for each cell, {about['clients']} clients "
        f"for each application. Requests that failed: {failed}.{busy}" + "".join(sorted(notes))
    )


def beside_the_article(cells: list[dict[str, Any]], poolers: dict[str, str]) -> Table:
    """The article's table beside today's."""
    head = ["", "requests/s: article", *poolers.values(), "peak CPU: article", *poolers.values()]
    table = [[*head, "peak memory: article", *poolers.values()]]
    for app in dict.fromkeys(cell["cell"] for cell in cells):
        measured = {cell["pooler"]: cell["apps"][app] for cell in cells if cell["cell"] == app}
        figure = FIGURES.get(app)
        row = [app]
        for own, theirs, unit in (
            ("per_second", figure and figure.per_second, ""),
            ("cpu_peak", figure and figure.cpu, " %"),
            ("memory_peak", figure and figure.memory, " MB"),
        ):
            row.append(f"{theirs:g}{unit}" if theirs else "–")
            row += [f"{measured[key][own]:.0f}{unit}" if key in measured else "–" for key in poolers]
        table.append(row)
    return table


ALONE_NOTE = (
    "CPU is in percent of one core, of the application with all its processes, the highest mean of a second. Memory is "
    "the sum of resident sizes, as psrecord gives it: what processes share counts for each of them; in the next table "
    "*own memory* counts it once. `axum` is as one would write it at first, `axum-fast` as the section on it below "
    "finds best."
)


def details(cells: list[dict[str, Any]]) -> Table:
    table = [["", "pooler", "requests/s", "p50", "p90", "p99", "longest", "mean CPU", "own memory", "most connections"]]
    for app in dict.fromkeys(cell["cell"] for cell in cells):
        for cell in cells:
            if cell["cell"] == app:
                data = cell["apps"][app]
                table.append(
                    [
                        app,
                        cell["pooler_name"],
                        f"{data['per_second']:.0f}",
                        *(milliseconds(data["percentiles"][p]) for p in ("50", "90", "99")),
                        milliseconds(data["longest"]),
                        f"{data['cpu_mean']:.0f} %",
                        f"{data['proportional']:.0f} MB",
                        str(cell["pool"]["most"]),
                    ]
                )
    return table


def all_at_once(cells: list[dict[str, Any]], alone: list[dict[str, Any]]) -> Table:
    table = [["pooler", "", "requests/s", "alone", "p50", "p90", "p99", "p99 alone", "peak CPU", "most connections"]]
    for cell in cells:
        for app, data in cell["apps"].items():
            own = next((c["apps"][app] for c in alone if c["pooler"] == cell["pooler"] and c["cell"] == app), None)
            table.append(
                [
                    cell["pooler_name"],
                    app,
                    f"{data['per_second']:.0f}",
                    f"{own['per_second']:.0f}" if own else "–",
                    *(milliseconds(data["percentiles"][p]) for p in ("50", "90", "99")),
                    milliseconds(own["percentiles"]["99"]) if own else "–",
                    f"{data['cpu_peak']:.0f} %",
                    str(cell["pool"]["most"]),
                ]
            )
    return table


def at_once_note(about: dict[str, Any]) -> str:
    return (
        f"Each application has its own {about['clients']} clients and its own connections to the pooler, 45 in all. A "
        f"pooler gives all of them together {about['pool']} server connections at most; without one PostgreSQL has a "
        f"process for each. The cores are shared by all, so that each has less than alone."
    )


def pooler_costs(cells: list[dict[str, Any]]) -> Table:
    table = [
        ["pooler", "load", "requests/s", "pooler's CPU", "per request", "its memory", "PostgreSQL's CPU", "per request"]
    ]
    for cell in cells:
        rate = sum(app["per_second"] for app in cell["apps"].values())
        pooler, postgres = cell["others"].get("pooler"), cell["others"]["postgres"]
        table.append(
            [
                cell["pooler_name"],
                "all at once" if cell["cell"] == "all" else cell["cell"],
                f"{rate:.0f}",
                f"{pooler['cpu_mean']:.0f} %" if pooler else "–",
                f"{1e4 * pooler['cpu_mean'] / rate:.0f} µs" if pooler else "–",
                f"{pooler['memory_peak']:.0f} MB" if pooler else "–",
                f"{postgres['cpu_mean']:.0f} %",
                f"{1e4 * postgres['cpu_mean'] / rate:.0f} µs",
            ]
        )
    return table


# --- Flood -------------------------------------------------------------------------------------------------


def flood_blocks(rows: list[dict[str, Any]], about: dict[str, Any], directory: Path) -> list[Block]:
    return [
        "## One floods the pool: who waits",
        flood_text(rows, about),
        flood_table(rows),
        (plots.flood(rows, directory), "The sync application's latencies, alone and beside the flood"),
    ]


def flood_text(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    flood = about["flood"]
    return (
        f"axum with as many connections as requests sends {flood['clients']} requests at once, all the time, while "
        f"Django serves {flood['few']} clients with its {flood['few']} workers. Between Carpool and PostgreSQL is a "
        f"network of {flood['network_ms']:.0f} ms a round trip, so that servers are short and processors aren't. First "
        f"come, first served (`share_by = \"none\"`), each of Django's queries waits behind hundreds of axum's. With "
        f"`share_by` the groups that wait get servers in turn, and Django's p99 is "
        + " and ".join(
            f"{ratio(row, rows):.2f} times what it is alone by `{row['share_by']}`"
            for row in rows
            if not row["alone"] and row["share_by"] != "none"
        )
        + f", where without it is {next(ratio(row, rows) for row in rows if not row['alone']):.1f} times."
    )


def ratio(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    alone = next(row for row in rows if row["alone"])
    return p99(row) / p99(alone)


def p99(row: dict[str, Any]) -> float:
    return row["apps"]["django"]["percentiles"]["99"]


def flood_table(rows: list[dict[str, Any]]) -> Table:
    table = [["share_by", "flood", "django: requests/s", "p50", "p90", "p99", "p99, alone = 1", "axum: requests/s", "p50"]]
    for row in rows:
        sync, flood = row["apps"]["django"], row["apps"].get("axum")
        table.append(
            [
                "–" if row["alone"] else row["share_by"],
                "yes" if flood else "no",
                f"{sync['per_second']:.1f}",
                *(milliseconds(sync["percentiles"][p]) for p in ("50", "90", "99")),
                f"{ratio(row, rows):.2f}",
                f"{flood['per_second']:.0f}" if flood else "–",
                milliseconds(flood["percentiles"]["50"]) if flood else "–",
            ]
        )
    return table


# --- Why ---------------------------------------------------------------------------------------------------


def why_blocks(why: dict[str, Any], directory: Path) -> list[Block]:
    steps = {step["key"]: step for step in why["steps"]}
    return [
        "## Why the article's axum app was slower than Starlette",
        why_text(why, steps),
        steps_table(why),
        (plots.reasons(why, directory), "Requests a second by variant, on loopback and over a network"),
        fastest_text(steps),
        tls_text(steps),
    ]


def why_text(why: dict[str, Any], steps: dict[str, Any]) -> str:
    plain, prepared, starlette = steps["plain"], steps["prepared"], steps["starlette"]
    # Milliseconds that a round trip took the article's apps, were waiting for it all that they did.
    axum_trip = 1000 * 20 / FIGURES["axum"].per_second / plain["round_trips"]
    starlette_trip = 1000 * 25 / FIGURES["starlette"].per_second / starlette["round_trips"]
    return (
        f"Not because of Tokio: because of round trips. The author saw the app at {FIGURES['axum'].cpu} % of a core, "
        f'so it was waiting. tokio-postgres keeps no statements: `client.query("SELECT …")` prepares one, waits for '
        f"the answer, runs it, waits, and closes it, and bb8 asks before each use whether the connection lives. So the "
        f"nine queries of a request take {plain['round_trips']:.0f} round trips. asyncpg keeps prepared statements by "
        f"itself, and takes {starlette['round_trips']:.0f} for the same, with the reset that its pool does. A "
        f"connection is held for the whole request, so that a pool of *n* gives at most *n* / (round trips × time of "
        f"one) requests a second. The article's {FIGURES['axum'].per_second} requests/s from 20 connections are round "
        f"trips of {axum_trip:.1f} ms, and its {FIGURES['starlette'].per_second} from at most 25 are "
        f"{starlette_trip:.1f} ms: the same network.\n\nOn loopback, where a round trip takes {why['loopback_ms']:.2f} "
        f"ms, round trips are CPU time: {plain['near']['per_second']:.0f} requests/s as written at first, "
        f"{prepared['near']['per_second']:.0f} with prepared statements, Starlette "
        f"{starlette['near']['per_second']:.0f}. A relay makes a network of {why['network_ms']:.1f} ms of it: "
        f"{plain['far']['per_second']:.0f} as written, {prepared['far']['per_second']:.0f} prepared, Starlette "
        f"{starlette['far']['per_second']:.0f}. " + verdict(plain["far"]["per_second"], starlette["far"]["per_second"])
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
        "connections",
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


def fastest_text(steps: dict[str, Any]) -> str:
    plain = steps["plain"]
    axums = [step for key, step in steps.items() if not key.startswith("starlette")]
    near = max(axums, key=lambda step: step["near"]["per_second"])
    far = max(axums, key=lambda step: step["far"]["per_second"])
    return (
        f"Round trips are those that the relay counted; *bound* is what connections, round trips and network allow, by "
        f"the formula above; CPU is that of the run on loopback. A bigger pool helps over a network only, and no "
        f"further than HAProxy's 25 requests and the pooler's 25 servers. Fastest on loopback is `{near['key']}` "
        f"({near['near']['per_second'] / plain['near']['per_second']:.1f} times as written), over a network "
        f"`{far['key']}` ({far['far']['per_second'] / plain['far']['per_second']:.1f} times)."
    )


def tls_text(steps: dict[str, Any]) -> str:
    without, with_it = steps["starlette"], steps["starlette-tls"]
    more = sum(with_it["cpu_ms"].values()) - sum(without["cpu_ms"].values())
    return (
        f"**TLS** makes everybody slower, not one slower than the other: it costs CPU, {more:.2f} ms for a request of "
        f"Starlette's with its {without['round_trips']:.0f} round trips, and adds round trips only where a connection "
        f"is made. Between Starlette and the pooler it makes {with_it['near']['per_second']:.0f} requests/s of "
        f"{without['near']['per_second']:.0f}, over the network {with_it['far']['per_second']:.0f} of "
        f"{without['far']['per_second']:.0f}."
    )


# --- Form ------------------------------------------------------------------------------------------------


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def markdown(block: Block) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, tuple):
        name, alt = block
        return f"![{alt}]({name}.png)"
    head, *rows = block
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_html(block: Block) -> str:
    if isinstance(block, tuple):
        name, alt = block
        picture = f'<img src="{name}.svg" alt="{html.escape(alt)}">'
        return f'<figure>{picture}<figcaption>{html.escape(alt)} (<a href="{name}.png">PNG</a>)</figcaption></figure>'
    if isinstance(block, list):
        head, *rows = block
        cells = "".join(f"<th>{inline(cell)}</th>" for cell in head)
        body = "\n".join("<tr>" + "".join(f"<td>{inline(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f'<div class="wide"><table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    if block.startswith("#"):
        level = len(block) - len(block.lstrip("#"))
        return f"<h{level}>{inline(block.lstrip('# '))}</h{level}>"
    return "\n".join(f"<p>{inline(paragraph)}</p>" for paragraph in block.split("\n\n"))


def inline(text: str) -> str:
    """The little markdown that the texts above use."""
    for mark, tag in (("`", "code"), ("**", "strong"), ("*", "em")):
        parts = text.split(mark) if tag != "code" else html.escape(text, quote=False).split(mark)
        if len(parts) % 2 == 0:
            continue
        text = "".join(f"<{tag}>{part}</{tag}>" if odd % 2 else part for odd, part in enumerate(parts))
    return text


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The showdown</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }}
th {{ background: #f6f6f6; vertical-align: bottom; }}
td:first-child, th:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; height: auto; }}
figcaption {{ font-size: 14px; color: #666; }}
code {{ background: #f2f2f2; padding: 0 .2em; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
