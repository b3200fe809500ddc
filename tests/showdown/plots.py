"""The pictures of the report, each as PNG and SVG."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from article import FIGURES
from cells import EDGES
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

# Distinct for the colour-blind, too (Okabe and Ito).
COLOURS = {
    "django": "#009E73",
    "starlette": "#0072B2",
    "axum": "#D55E00",
    "axum-fast": "#CC79A7",
    "pooler": "#000000",
    "postgres": "#999999",
}
POOLER_COLOURS = {"article": "#BBBBBB", "carpool": "#0072B2", "pgbouncer": "#E69F00", "direct": "#999999"}
SECONDS = "seconds"

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.titlesize": 10,
        "legend.frameon": False,
        # Text stays text: smaller, and found by a search.
        "svg.fonttype": "none",
        # The same results give the same file.
        "svg.hashsalt": "showdown",
    }
)


def save(figure: Figure, directory: Path, name: str) -> str:
    png = directory / f"{name}.png"
    figure.savefig(png, dpi=110)
    # A palette is enough, and half of the size. With fewer colours thin lines lose theirs.
    with Image.open(png) as picture:
        picture.convert("RGB").quantize(256).save(png, optimize=True)
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return name


def throughput(cells: list[dict[str, Any]], poolers: dict[str, str], directory: Path) -> str:
    """Requests a second of each application alone, and the article's."""
    apps = list(dict.fromkeys(cell["cell"] for cell in cells if cell["cell"] in cell["apps"]))
    series = {"article": {app: FIGURES[app].per_second for app in apps if app in FIGURES}}
    for cell in cells:
        if cell["cell"] in cell["apps"]:
            series.setdefault(cell["pooler"], {})[cell["cell"]] = cell["apps"][cell["cell"]]["per_second"]
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = [apps.index(app) + (number - (len(series) - 1) / 2) * width for app in values]
        label = "the article (2022)" if name == "article" else poolers[name]
        bars = axes.bar(places, list(values.values()), width * 0.92, color=POOLER_COLOURS[name], label=label)
        if name == "article":
            bars_of_the_past(bars)
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    axes.set_xticks(range(len(apps)), apps)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("requests/s")
    axes.set_title("Each application alone")
    axes.legend(ncols=4, loc="upper left")
    axes.margins(y=0.18)
    return save(figure, directory, "throughput")


def bars_of_the_past(bars: BarContainer) -> None:
    for bar in bars:
        bar.set(facecolor="#FFFFFF", edgecolor="#777777", hatch="////")


def latencies(cells: list[dict[str, Any]], pooler: str, name: str, directory: Path) -> str:
    """Histograms: each application alone, and all at once."""
    alone = {cell["cell"]: cell["apps"][cell["cell"]] for cell in cells if cell["cell"] in cell["apps"]}
    at_once = next((cell["apps"] for cell in cells if cell["cell"] == "all"), None)
    parts = [("alone", alone)] + ([("all at once", at_once)] if at_once else [])
    figure, row = plt.subplots(1, len(parts), figsize=(9, 4.1), sharex=True, squeeze=False, layout="constrained")
    for axes, (title, apps) in zip(row[0], parts, strict=True):
        for app, data in apps.items():
            draw_histogram(axes, app, data)
        in_milliseconds(axes)
        axes.set_title(f"{name}, {title}")
        # Below: there is no corner that is always free.
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.18))
    row[0][0].set_ylabel("% of requests")
    return save(figure, directory, f"latency-{pooler}")


def in_milliseconds(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds")


def draw_histogram(axes: Axes, app: str, data: dict[str, Any]) -> None:
    found, counts = data["histogram"], data["histogram"]["counts"]
    total = sum(counts)
    # Bin n ends at edge n; the first and the last are open.
    places = range(found["first"], found["first"] + len(counts))
    edges = [EDGES[max(place - 1, 0)] for place in places] + [EDGES[min(places[-1], len(EDGES) - 1)]]
    label = f"{app} (p50 {data['percentiles']['50']:.0f}, p99 {data['percentiles']['99']:.0f} ms)"
    shares = [100 * count / total for count in counts]
    axes.stairs(shares, edges, color=COLOURS[app], label=label, linewidth=1.4)
    axes.stairs(shares, edges, color=COLOURS[app], fill=True, alpha=0.12)


def over_time(cells: list[dict[str, Any]], pooler: str, name: str, directory: Path) -> str:
    """CPU, memory, the pool's connections and, if any, who waits for one; a column for each cell."""
    waits = any(any(cell["pool"]["waiting"]) for cell in cells)
    figure, rows = plt.subplots(
        3 + waits,
        len(cells),
        figsize=(1.6 + 2.4 * len(cells), 6.2 + 1.6 * waits),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, cell in enumerate(cells):
        cpu, memory, pool, *waiting = (row[column] for row in rows)
        cpu.set_title("all at once" if cell["cell"] == "all" else cell["cell"])
        for group, data in {**cell["apps"], **cell["others"]}.items():
            if group in COLOURS:
                cpu.plot(data["at"], data["cpu"], color=COLOURS[group], linewidth=1.2, label=group)
            if group in COLOURS and group != "postgres":
                memory.plot(data["at"], data["memory"], color=COLOURS[group], linewidth=1.2, label=group)
        draw_pool(pool, cell["pool"])
        for axes in waiting:
            axes.plot(
                cell["pool"]["at"], cell["pool"]["waiting"], color="#882255", linewidth=1.4, label="clients that wait"
            )
        rows[-1][column].set_xlabel(SECONDS)
    rows[0][0].set_ylabel("CPU, % of one core")
    rows[1][0].set_ylabel("memory, MB")
    rows[1][0].set_yscale("log")
    rows[1][0].set_ylim(bottom=1)
    rows[1][0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rows[2][0].set_ylabel("server connections")
    if waits:
        rows[3][0].set_ylabel("clients that wait")
    for row in (rows[0], *rows[2:]):
        row[0].set_ylim(bottom=0)
    handles: dict[str, Any] = {}
    for axes in rows.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    figure.suptitle(name)
    return save(figure, directory, f"over-time-{pooler}")


def draw_pool(axes: Axes, pool: dict[str, Any]) -> None:
    axes.stackplot(
        pool["at"],
        pool["active"],
        pool["idle"],
        colors=["#56B4E9", "#D9D9D9"],
        labels=["connections at work", "idle connections"],
    )


def flood(rows: list[dict[str, Any]], directory: Path) -> str:
    """The sync application's latencies: the share of requests that took no longer."""
    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    colours = {"none": "#D55E00", "application_name": "#0072B2", "user": "#CC79A7"}
    for row in rows:
        data = row["apps"]["django"]
        counts, first = data["histogram"]["counts"], data["histogram"]["first"]
        total, sums = sum(counts), [0.0]
        for count in counts:
            sums.append(sums[-1] + 100 * count / total)
        edges = [EDGES[min(max(first + n - 1, 0), len(EDGES) - 1)] for n in range(len(sums))]
        label = "alone" if row["alone"] else f"flood, share_by = {row['share_by']}"
        label = f"{label} (p99 {data['percentiles']['99']:.0f} ms)"
        colour, style = ("#009E73", "--") if row["alone"] else (colours[row["share_by"]], "-")
        axes.plot(edges, sums, color=colour, linestyle=style, linewidth=1.6, label=label)
    in_milliseconds(axes)
    axes.set_ylabel("% of Django's requests")
    axes.set_ylim(0, 102)
    axes.set_title("How many of Django's requests took no longer")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
    return save(figure, directory, "flood")


def reasons(why: dict[str, Any], directory: Path) -> str:
    """Requests a second of each step, on loopback and over the network."""
    steps = why["steps"]
    figure, (near, far) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    places = range(len(steps))
    labels = [f"{step['key']} ({step['round_trips']:.0f})" for step in steps]
    for axes, where, title in (
        (near, "near", "on loopback"),
        (far, "far", f"over a network of {why['network_ms']:.1f} ms"),
    ):
        values = [step[where]["per_second"] for step in steps]
        colours = ["#0072B2" if step["key"].startswith("starlette") else "#D55E00" for step in steps]
        bars = axes.barh(places, values, color=colours)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        axes.set_title(title)
        axes.set_xlabel("requests/s")
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    near.set_yticks(places, labels)
    near.invert_yaxis()
    near.set_ylabel("variant (round trips)")
    return save(figure, directory, "why")
