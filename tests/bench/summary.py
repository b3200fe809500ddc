#!/usr/bin/env python3
"""What `bench.py --json` has measured, against what Carpool is meant to reach: a table of the targets, and a chart.

    tests/bench/summary.py RESULTS.json…                    # the table
    tests/bench/summary.py RESULTS.json… --chart cpu.svg    # and the chart, which needs matplotlib

Several files are taken together: a run over TCP, one over unix sockets, one with two workers, later rounds of some
rows. Ratios are medians of the ratios within the same round. A target that no file has the rows for says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

QUERIES = ["simple", "extended", "prepared", "select1"]
BUSY = [f"{query}-{clients}" for query in QUERIES for clients in (50, 500)]


@dataclass
class Cell:
    """One row of one target: what the rounds gave, in order; None where one failed."""

    rounds: list[dict[str, float | None] | None] = field(default_factory=list)
    syscalls: float | None = None

    def values(self, name: str) -> list[float | None]:
        return [sample and sample.get(name) for sample in self.rounds]

    def median(self, name: str) -> float | None:
        known = [value for value in self.values(name) if value is not None]
        return statistics.median(known) if known else None


class Results:
    """Everything that was measured over one kind of socket."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Cell] = {}
        self.kinds: dict[str, str] = {}
        self.reference: str | None = None

    def add(self, data: dict) -> None:
        self.kinds |= data["targets"]
        self.reference = data["reference"] or self.reference
        rounds = max((len(each["rounds"]) for each in data["rows"]), default=0)
        before = {row: max((len(c.rounds) for (r, _), c in self.cells.items() if r == row), default=0) for row in self.rows()}
        for each in data["rows"]:
            cell = self.cells.setdefault((each["row"], each["target"]), Cell())
            # So that what was measured in the same round stands at the same place.
            cell.rounds += [None] * (before.get(each["row"], 0) - len(cell.rounds))
            cell.rounds += each["rounds"] or [None] * rounds
            if each["syscalls"]:
                cell.syscalls = sum(each["syscalls"].values())

    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.cells))

    def cell(self, row: str, target: str) -> Cell:
        return self.cells.get((row, target), Cell())

    def of_kind(self, *kinds: str) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def ratios(self, row: str, target: str, other: str | None, name: str) -> list[float]:
        """Within the same round."""
        if other is None:
            return []
        pairs = zip(self.cell(row, target).values(name), self.cell(row, other).values(name))
        return [a / b for a, b in pairs if a is not None and b]

    def ratio(self, row: str, target: str, other: str | None, name: str) -> float | None:
        ratios = self.ratios(row, target, other, name)
        return statistics.median(ratios) if ratios else None

    def best(self, row: str, target: str, others: Iterable[str], name: str, better: Callable = max) -> float | None:
        """The ratio to whichever of the others is the best at it: the largest one where less is better."""
        ratios = [self.ratio(row, target, other, name) for other in others]
        known = [ratio for ratio in ratios if ratio is not None]
        return better(known) if known else None


@dataclass(frozen=True)
class Line:
    """A target: by row, or by whatever else, what was measured; and the bound."""

    title: str
    bound: float
    measured: list[tuple[str, float | None]]
    at_least: bool = False
    digits: int = 2

    def met(self, value: float) -> bool:
        value = round(value, self.digits)
        return value >= self.bound if self.at_least else value <= self.bound

    def cells(self) -> list[str]:
        known = [(name, value) for name, value in self.measured if value is not None]
        bound = f"{'≥' if self.at_least else '≤'} {self.bound:.{self.digits}f}"
        if not known:
            return [self.title, bound, "not measured", ""]
        texts = [f"{name} {value:.{self.digits}f}" for name, value in known]
        texts = [text if self.met(value) else f"**{text}**" for text, (_, value) in zip(texts, known)]
        return [self.title, bound, ", ".join(texts), f"{sum(self.met(value) for _, value in known)} of {len(known)}"]


def added_latency(results: Results, row: str, target: str) -> float | None:
    """What a pooler adds to the median latency of one client, as a ratio to what the reference adds."""
    direct = results.of_kind("Direct")
    medians = [results.cell(row, name).median("p50") for name in (target, results.reference or "", *direct[:1])]
    if len(medians) < 3 or None in medians or medians[1] == medians[2]:
        return None
    return (medians[0] - medians[2]) / (medians[1] - medians[2])


def lines(tcp: Results, unix: Results, target: str, second: str | None) -> list[Line]:
    """The targets of one build; `second` is the same with two workers."""
    bouncer = tcp.reference
    others = tcp.of_kind("Other")
    forwarder = next(iter(tcp.of_kind("Forwarder")), None)
    canned = [row for row in tcp.rows() if row.startswith("canned-")]
    alone = [f"{query}-1" for query in QUERIES]

    def each(rows: list[str], measure: Callable[[str], float | None]) -> list[tuple[str, float | None]]:
        return [(row, measure(row)) for row in rows]

    every = [*([bouncer] if bouncer else []), *others]
    memory = {
        "no TLS": "memory",
        "TLS": "tls-memory",
        "100 prepared statements": "memory-prepared",
    }
    flat = [tcp.cell(row, target).median("cpu") for row in ("canned-simple-50", "canned-simple-5000")]
    found = [
        Line("CPU per transaction, × PgBouncer", 0.80, each(BUSY, lambda r: tcp.ratio(r, target, bouncer, "cpu"))),
        Line("CPU per transaction, × the best other", 1.0, each(BUSY, lambda r: tcp.best(r, target, others, "cpu"))),
        Line("over unix sockets, × PgBouncer", 1.0, each(BUSY, lambda r: unix.ratio(r, target, unix.reference, "cpu"))),
        Line("CPU, canned answers, × forwarder", 1.10, each(canned, lambda r: tcp.ratio(r, target, forwarder, "cpu"))),
        Line("throughput, × PgBouncer", 1.15, each(BUSY, lambda r: tcp.ratio(r, target, bouncer, "per_second")), True),
        Line("throughput, × the best other", 1.0, each(BUSY, lambda r: tcp.best(r, target, others, "per_second", min)), True),
    ]
    for name in ("p50", "p99", "p999"):
        title = f"{name.replace('999', '99.9')} latency, × the best of all poolers"
        found.append(Line(title, 1.0, each(BUSY, lambda r, name=name: tcp.best(r, target, every, name))))
    found += [
        Line("added latency, one client, × PgBouncer's", 1.0, each(alone, lambda r: added_latency(tcp, r, target))),
        Line("CPU of results of 1.1 MB, × the best other", 1.0, each(["large-8"], lambda r: tcp.best(r, target, others, "cpu"))),
        Line("CPU of a new connection, × PgBouncer", 0.90, each(["connect-8"], lambda r: tcp.ratio(r, target, bouncer, "cpu"))),
        Line(
            "connections per second, two workers, × PgBouncer",
            1.0,
            each(["connect-8"], lambda r: tcp.ratio(r, second, bouncer, "per_second") if second else None),
            True,
        ),
        Line(
            "system calls, two workers",
            4.1,
            each([r for r in BUSY if "prepared" in r or "simple" in r], lambda r: tcp.cell(r, second or "").syscalls),
            digits=1,
        ),
        Line("bytes of an idle client", 1000, each(["memory"], lambda r: scaled(tcp.cell(r, target).median("pss"), 1024)), digits=0),
        Line(
            "the same, × the best of all poolers",
            1.0,
            [(name, tcp.best(row, target, every, "pss")) for name, row in memory.items()],
        ),
        Line(
            "throughput, two workers × one, canned answers",
            1.7,
            each(canned, lambda r: tcp.ratio(r, second, target, "per_second") if second else None),
            True,
        ),
        Line(
            "CPU per transaction, 5,000 clients × 50",
            1.1,
            [("canned-simple", flat[1] / flat[0] if flat[0] and flat[1] else None)],
        ),
    ]
    return found


def scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


def table(tcp: Results, unix: Results) -> str:
    text = []
    builds = tcp.of_kind("Carpool")
    for target in builds:
        if "(2 workers)" in target:
            continue
        second = target.replace("(1 worker)", "(2 workers)")
        text += [f"### {target}", "", "| | target | measured | met |", "|---|---|---|---|"]
        for line in lines(tcp, unix, target, second if second in builds and second != target else None):
            text.append("| " + " | ".join(line.cells()) + " |")
        text.append("")
    return "\n".join(text)


def chart(tcp: Results, path: Path) -> None:
    """CPU per transaction of each pooler as a ratio to the reference: median, lowest and highest round."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = path.name
    targets = [name for name in tcp.of_kind("PgBouncer", "Other", "Carpool") if name != tcp.reference]
    rows = [row for row in tcp.rows() if any(tcp.ratios(row, target, tcp.reference, "cpu") for target in targets)]
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.17 * len(rows) * (len(targets) + 1)))
    for place, target in enumerate(targets):
        for number, row in enumerate(rows):
            ratios = tcp.ratios(row, target, tcp.reference, "cpu")
            if not ratios:
                continue
            at = number + 0.8 * (place + 0.5) / len(targets) - 0.4
            middle = statistics.median(ratios)
            spread = [[middle - min(ratios)], [max(ratios) - middle]]
            label = target if number == 0 else None
            axes.errorbar(middle, at, xerr=spread, fmt="o", color=f"C{place}", markersize=4, linewidth=1, label=label)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.2, 0.5, 0.8, 1, 1.25, 2, 5]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"CPU of the pooler per transaction, × {tcp.reference} (median, lowest and highest round)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="upper center", ncols=min(4, len(targets)), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write an SVG there")
    options = parser.parse_args()
    tcp, unix = Results(), Results()
    for path in options.results:
        data = json.loads(path.read_text())
        (unix if data["unix"] else tcp).add(data)
    print(table(tcp, unix), end="")
    if options.chart:
        chart(tcp, options.chart)


if __name__ == "__main__":
    main()
