"""The report, as markdown and HTML, from plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plots
from article import FIGURES
from form import PAGE, Block, Table, as_html, markdown, milliseconds
from reasons import why_blocks


def write(results: dict[str, Any], directory: Path) -> list[str]:
    """Gives the names of the files that it has written."""
    blocks = content(results, directory)
    (directory / "report.md").write_text("\n\n".join(map(markdown, blocks)) + "\n", encoding="utf-8")
    (directory / "report.html").write_text(PAGE.format(body="\n".join(map(as_html, blocks))), encoding="utf-8")
    pictures = [block[0] for block in blocks if isinstance(block, tuple)]
    return ["report.md", "report.html", *(f"{name}.{form}" for name in pictures for form in ("png", "svg"))]


# --- Content ---------------------------------------------------------------------------------------------


def content(results: dict[str, Any], directory: Path) -> list[Block]:
    about, cells = results["about"], results["cells"]
    poolers = {cell["pooler"]: cell["pooler_name"] for cell in cells}
    measured = cells + results.get("flood", [])
    blocks: list[Block] = ["# The showdown: sync and async applications on one pool"]
    blocks.append(introduction(about, measured, results["why"].get("steps", [])))
    alone = [cell for cell in cells if cell["cell"] != "all"]
    if alone:
        blocks += ["## Each application alone", beside_the_article(alone), ALONE_NOTE]
        blocks.append((plots.throughput(cells, poolers, directory), "Requests a second of each application"))
    at_once = [cell for cell in cells if cell["cell"] == "all"]
    if at_once:
        blocks += ["## All at once on the one pool", all_at_once(at_once, alone), at_once_note(at_once, about)]
    blocks += ["## What the poolers take", pooler_costs(cells)]
    if results.get("flood"):
        blocks += flood_blocks(results["flood"], about, directory)
        blocks += cost_blocks(results.get("cost", []))
    if results["why"]:
        blocks += why_blocks(results["why"], directory)
    blocks.append("## Over time")
    for key, name in poolers.items():
        own = [cell for cell in cells if cell["pooler"] == key]
        blocks.append((plots.latencies(own, key, name, directory), f"Latencies, {name}"))
        blocks.append((plots.over_time(own, key, name, directory), f"CPU, memory and connections over time, {name}"))
    return blocks


def introduction(about: dict[str, Any], cells: list[dict[str, Any]], steps: list[dict[str, Any]]) -> str:
    notes = {f" {cell['pooler_name']} runs in {cell['note']}." for cell in cells if cell.get("note")}
    foreign = max(cell["foreign"] for cell in cells)
    busy = (
        f" Other programs took up to {foreign} % of a core meanwhile, so compare within a run rather than across runs."
        if foreign > 20
        else ""
    )
    failed = sum(app["failed"] for cell in cells for app in cell["apps"].values())
    failed += sum(step[where].get("failed", 0) for step in steps for where in ("near", "far"))
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


def beside_the_article(cells: list[dict[str, Any]]) -> Table:
    """The article's table beside today's."""
    table = [["", "pooler", "requests/s", "p50", "p90", "p99", "longest", "peak CPU", "mean", "peak memory", "own"]]
    table[0].append("most connections")
    for app in dict.fromkeys(cell["cell"] for cell in cells):
        if figure := FIGURES.get(app):
            row = [app, "the article (2022)", f"{figure.per_second:g}", *["–"] * 4, f"{figure.cpu:g} %", "–"]
            table.append([*row, f"{figure.memory:g} MB", "–", "–"])
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
                        f"{data['cpu_peak']:.0f} %",
                        f"{data['cpu_mean']:.0f} %",
                        f"{data['memory_peak']:.0f} MB",
                        f"{data['proportional']:.0f} MB",
                        str(cell["pool"]["most"]),
                    ]
                )
    return table


ALONE_NOTE = (
    "Latencies are of whole requests, the wait before HAProxy's limit included. CPU is in percent of one core, of the "
    "application with all its processes; the peak is the highest mean of a second. Memory is the sum of resident "
    "sizes, as psrecord gives it: what processes share counts for each of them; *own* counts it once. `axum` is as one "
    "would write it at first, `axum-fast` its variant with one round trip and 8 connections."
)


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


def at_once_note(cells: list[dict[str, Any]], about: dict[str, Any]) -> str:
    connections = sum(about["connections"].get(app, 0) for app in cells[0]["apps"])
    return (
        f"Each application has its own {about['clients']} clients and its own connections to the pooler, {connections} "
        f"in all. A pooler gives all of them together {about['pool']} server connections at most; without one "
        f"PostgreSQL has a process for each. The cores are shared by all."
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
        (
            plots.over_time([row | {"cell": flood_title(row)} for row in rows], "flood", "The flood", directory),
            "CPU, memory, connections and clients that wait over time, by share_by",
        ),
    ]


def flood_title(row: dict[str, Any]) -> str:
    return "django alone" if row["alone"] else f"flood, {row['share_by']}"


def flood_text(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    flood = about["flood"]
    shared = [row for row in rows if not row["alone"] and row["share_by"] != "none"]
    kept = all(ratio(row, rows) <= 2 for row in shared)
    return (
        f"axum with as many connections as requests sends {flood['clients']} requests at once, all the time, while "
        f"Django serves {flood['few']} clients with its {flood['few']} workers, {flood['seconds']:g} seconds each. "
        f"Between Carpool and PostgreSQL is a network of {flood['network_ms']:.0f} ms a round trip, so that servers "
        f"are short and processors aren't. First come, first served (`share_by = \"none\"`), each of Django's queries "
        f"waits behind those of axum that came before. With `share_by` the groups that wait get servers in turn, and "
        f"Django's p99 is "
        + " and ".join(f"{ratio(row, rows):.2f} times what it is alone by `{row['share_by']}`" for row in shared)
        + f", where without it is {next(ratio(row, rows) for row in rows if not row['alone']):.1f} times. "
        + ("So it stays within twice." if kept else "**That is more than twice**, which it is to stay within.")
        + " How it works is told in `docs/sharing.md`."
    )


def ratio(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    alone = next(row for row in rows if row["alone"])
    return p99(row) / p99(alone)


def p99(row: dict[str, Any]) -> float:
    return row["apps"]["django"]["percentiles"]["99"]


def flood_table(rows: list[dict[str, Any]]) -> Table:
    head = ["share_by", "flood", "django: requests", "a second", "p50", "p90", "p99", "p99, alone = 1"]
    table = [[*head, "axum: requests/s", "p50", "p99"]]
    for row in rows:
        sync, flood = row["apps"]["django"], row["apps"].get("axum")
        table.append(
            [
                "–" if row["alone"] else row["share_by"],
                "yes" if flood else "no",
                str(sync["requests"]),
                f"{sync['per_second']:.1f}",
                *(milliseconds(sync["percentiles"][p]) for p in ("50", "90", "99")),
                f"{ratio(row, rows):.2f}",
                f"{flood['per_second']:.0f}" if flood else "–",
                *(milliseconds(flood["percentiles"][p]) if flood else "–" for p in ("50", "99")),
            ]
        )
    return table


def cost_blocks(rows: list[dict[str, Any]]) -> list[Block]:
    """What sharing costs while nobody waits."""
    if not rows:
        return []
    head = ["share_by", "instructions per transaction", "more", "CPU per transaction", "lowest", "highest"]
    table = [head]
    without = rows[0]
    for row in rows:
        more = row["instructions"] - without["instructions"]
        table.append(
            [
                row["share_by"],
                str(row["instructions"]),
                f"{more:+d}" if row is not without else "–",
                *(f"{cpu:.1f} µs" for cpu in (row["cpu_us"], min(row["rounds_us"]), max(row["rounds_us"]))),
            ]
        )
    return [cost_text(rows), table]


def cost_text(rows: list[dict[str, Any]]) -> str:
    without, *shared = rows
    most = max(shared, key=lambda row: row["instructions"])
    part = most["instructions"] / without["instructions"] - 1
    # Where the ranges of the rounds meet, the difference is none that could be told.
    meet = all(
        min(row["rounds_us"]) <= max(without["rounds_us"]) and min(without["rounds_us"]) <= max(row["rounds_us"])
        for row in shared
    )
    more = (
        f"at most {most['instructions'] - without['instructions']} more of Carpool's own instructions "
        f"({100 * part:.1f} %), for finding the group and counting its servers"
        if part > 0
        else "no instruction more"
    )
    return (
        f"**While nobody waits**, sharing costs a transaction (`SELECT 1`) {more}, counted by valgrind, which no load "
        f"of the machine changes. CPU, the kernel's included, is the median of {len(without['rounds_us'])} rounds in "
        f"turns with {without['clients']} clients, who never wait: "
        + ("the ranges meet, so that there is no difference to be seen." if meet else "the ranges don't meet.")
    )
