#!/usr/bin/env python3
"""The showdown: sync and async applications on one pool, measured on this machine.

Starts PostgreSQL, a pooler, the applications of docker/apps and HAProxy on free ports, lets oha ask each application
alone and then three at once on the one pool of 25, for each pooler, lets one of them flood Carpool's pool, and finds
out why the article's axum app was slower than its Starlette. Writes results.json, report.md, report.html and pictures
(PNG, SVG). Everything is stopped at the end, also of a run that fails; what it has measured is reported all the same.

    tests/showdown --quick                         # a first impression
    tests/showdown --seconds 60 --output report    # as long as the article's runs
    tests/showdown --poolers carpool --apps django,axum --no-why
    tests/showdown --publish docs/showdown         # of a complete run, there too
    tests/showdown --render report                 # the report again, from report/results.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cost
import flood
import psycopg2
import report
import stack
import why
from cells import WARM_UP, Bench, Progress
from machine import ROOT, Failed, Machine, find
from watch import Watch

POOLERS = ["carpool", "pgbouncer", "direct"]
ALL = "all"
# Starting and stopping what a cell needs, for the estimate of what is left.
OVERHEAD = 8.0  # seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/showdown", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = [kind.key for kind in stack.KINDS]
    parser.add_argument("--seconds", type=float, default=30, metavar="N", help="of load for each cell (default 30)")
    parser.add_argument("--clients", type=int, default=50, metavar="N", help="of each application (default 50)")
    parser.add_argument("--poolers", default=",".join(POOLERS), metavar="LIST", help="default: %(default)s")
    parser.add_argument("--apps", default=",".join(kinds), metavar="LIST", help="default: %(default)s")
    parser.add_argument("--no-all", action="store_true", help="don't run three at once")
    parser.add_argument("--no-flood", action="store_true", help="don't let one flood the pool")
    parser.add_argument("--no-why", action="store_true", help="don't look into why axum was slower")
    parser.add_argument("--quick", action="store_true", help="4 seconds for each cell")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "target/showdown", metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--publish", type=Path, metavar="DIR", help="write the report of a complete run there, too")
    parser.add_argument(
        "--dashboard",
        type=int,
        default=0,
        metavar="PORT",
        help="serve Carpool's dashboard there, with all switched on that it can show (user and password: "
        f"{stack.USER}, {stack.PASSWORD})",
    )
    parser.add_argument("--render", type=Path, metavar="DIR", help="only write the report of DIR/results.json again")
    parser.add_argument("--carpool", type=Path, default=ROOT / "target/release/carpool", metavar="PATH")
    parser.add_argument("--pgbouncer", type=Path, metavar="PATH", help="default: the installed one")
    parser.add_argument("--axum", type=Path, default=ROOT / "target/apps/release/recipes-axum", metavar="PATH")
    parser.add_argument("--oha", type=Path, default=ROOT / ".cache/oha/bin/oha", metavar="PATH")
    options = parser.parse_args()
    options.poolers = chosen(parser, "--poolers", options.poolers, POOLERS)
    options.apps = chosen(parser, "--apps", options.apps, kinds)
    if options.quick:
        options.seconds = 4.0
    everything = options.poolers == POOLERS and options.apps == kinds
    if options.publish and (not everything or options.no_all or options.no_flood or options.no_why or options.dashboard):
        parser.error("--publish: only of a run with everything, and without --dashboard")
    return options


def chosen(parser: argparse.ArgumentParser, option: str, text: str, known: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{option}: {name} is none of {', '.join(known)}")
    return names


class Display:
    """How far it is: a bar on a terminal, else a line for each cell."""

    def __init__(self, seconds: list[float]):
        """`seconds` of load of each cell to come."""
        self._seconds = seconds
        self._done = 0
        self._terminal = sys.stderr.isatty()

    def cell(self, title: str) -> Progress:
        seconds = self._seconds[self._done]
        left = sum(each + WARM_UP + OVERHEAD for each in self._seconds[self._done :])
        self._done += 1
        head = f"[{self._done:>2}/{len(self._seconds)}] {title}"
        if not self._terminal:
            print(f"{head} (about {left / 60:.0f} min left)", file=sys.stderr, flush=True)
            return lambda _part, _watch: None

        def progress(part: float, watch: Watch) -> None:
            filled = round(20 * min(1.0, part))
            bar = "█" * filled + "·" * (20 - filled)
            cpu = ", ".join(f"{name} {series.cpu[-1]:.0f}" for name, series in watch.groups.items() if series.cpu)
            pool = f"{watch.pool.active[-1]} busy, {watch.pool.waiting[-1]} wait" if watch.pool.at else ""
            minutes = max(0.0, left - part * seconds) / 60
            line = f"{head} {bar} {minutes:.0f} min left · {pool} · CPU % {cpu}"
            print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", file=sys.stderr, flush=True)

        return progress

    def done(self, text: str) -> None:
        print(f"\r\x1b[K      {text}" if self._terminal else f"      {text}", file=sys.stderr, flush=True)


def summary(measured: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} {app['per_second']:.0f}/s, p99 {app['percentiles']['99']:.0f} ms"
        + (f", {app['failed']} FAILED" if app["failed"] else "")
        for name, app in measured["apps"].items()
    )


def start(name: str, machine: Machine, postgres: stack.Postgres, options: argparse.Namespace) -> Any:
    if name == "carpool":
        return stack.carpool(machine, postgres, options.carpool.resolve(), dashboard=options.dashboard)
    if name == "pgbouncer":
        return stack.pgbouncer(machine, postgres, options.pgbouncer and options.pgbouncer.resolve())
    return stack.Direct(postgres)


def together(options: argparse.Namespace) -> list[stack.Kind]:
    """The applications that run at once: one of each kind."""
    kinds = [kind for kind in stack.KINDS if kind.key in options.apps]
    if "axum" in options.apps:
        kinds = [kind for kind in kinds if kind.key != "axum-fast"]
    return kinds if len(kinds) > 1 and not options.no_all else []


def run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Fills `results` with what is measured."""
    # What is missing is said at once, not after some minutes.
    for path in (options.carpool, options.axum, options.oha):
        if not path.exists():
            raise Failed(f"{path} is missing: `make showdown` builds it")
    if "pgbouncer" in options.poolers:
        stack.find_pgbouncer(options.pgbouncer)
    with Machine() as machine:
        stack.install_apps(machine)
        postgres = stack.Postgres(machine, stack.find_postgres())
        axum, oha = machine.copy(options.axum.resolve()), machine.copy(options.oha.resolve())
        bench = Bench(machine, postgres, axum, oha, options.seconds, options.clients)
        alone = [[kind] for kind in stack.KINDS if kind.key in options.apps]
        groups = alone + ([together(options)] if together(options) else [])
        display = Display(durations(options, len(groups)))
        results |= {"about": about(options, postgres), "cells": [], "flood": [], "cost": [], "why": {}}
        # The poolers in turns, so that what else the machine does hits all of them alike; each time a new one.
        for kinds in groups:
            what = kinds[0].key if len(kinds) == 1 else ALL
            for name in options.poolers:
                pooler = start(name, machine, postgres, options)
                measured = bench.measure(kinds, pooler, display.cell(f"{pooler.name}: {what}"))
                machine.stop(pooler.processes)
                display.done(summary(measured))
                results["cells"].append(
                    {"pooler": name, "pooler_name": pooler.name, "note": pooler.note, "cell": what, **measured}
                )
                # What is there already stays when it ends early, for --render.
                save(results, options.output)
        if not options.no_flood:
            results["cost"] = cost.measure(machine, postgres, options.carpool.resolve(), display.done)
            results["flood"] = flood.measure(bench, options.carpool.resolve(), display.cell, display.done)
            save(results, options.output)
        if not options.no_why:
            pooler = start("carpool", machine, postgres, options)
            results["why"] = why.analyse(bench, pooler, display.cell, display.done)
            machine.stop(pooler.processes)
            save(results, options.output)


def durations(options: argparse.Namespace, groups: int) -> list[float]:
    """Seconds of load of each cell."""
    floods = 0 if options.no_flood else len(flood.cells())
    steps = 0 if options.no_why else 2 * len(why.steps())
    plain = len(options.poolers) * groups
    return [options.seconds] * plain + [flood.LONGER * options.seconds] * floods + [options.seconds] * steps


def save(results: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results), encoding="utf-8")


def about(options: argparse.Namespace, postgres: stack.Postgres) -> dict[str, Any]:
    cpus = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    haproxy = find("haproxy")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "seconds": options.seconds,
        "clients": options.clients,
        "pool": stack.POOL,
        "max_requests": stack.MAX_REQUESTS,
        "postgres": postgres.version,
        "haproxy": re.search(r"version ([\d.]+)", stack.version_of(haproxy, "-v"))[1] if haproxy else "",
        "oha": stack.version_of(options.oha).strip(),
        "apps": {kind.key: kind.title for kind in stack.KINDS},
        "connections": {kind.key: kind.connections for kind in stack.KINDS},
        "flood": {
            "clients": flood.FLOOD,
            "few": flood.FEW,
            "network_ms": 2000 * flood.DELAY,
            "seconds": flood.LONGER * options.seconds,
        },
    }


def interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> None:
    options = arguments()
    if options.render:
        results = json.loads((options.render / "results.json").read_text(encoding="utf-8"))
        report.write(results, options.render)
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    began = time.monotonic()
    results: dict[str, Any] = {}
    try:
        run(options, results)
    except KeyboardInterrupt:
        raise SystemExit("\nshowdown: interrupted, everything is stopped" + partly(results, options)) from None
    except (Failed, OSError, psycopg2.Error) as failure:
        raise SystemExit(f"\nshowdown: FAILED: {failure}{partly(results, options)}") from None
    print("      drawing the pictures …", file=sys.stderr, flush=True)
    save(results, options.output)
    written = report.write(results, options.output)
    minutes = (time.monotonic() - began) / 60
    print(f"showdown: {options.output / 'report.html'} and report.md, after {minutes:.0f} min")
    if options.publish:
        options.publish.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", *written):
            shutil.copyfile(options.output / name, options.publish / name)
        print(f"showdown: the same in {options.publish}")


def partly(results: dict[str, Any], options: argparse.Namespace) -> str:
    """The report of what has been measured before it ended; where that is."""
    if not results.get("cells"):
        return ""
    report.write(results, options.output)
    return f"\nshowdown: what was measured until then is in {options.output / 'report.html'}"


if __name__ == "__main__":
    main()
