#!/usr/bin/env python3
"""Compares what a transaction costs with the committed baseline, in figures that don't depend on the machine's load.

Instructions and allocations of Carpool's own are counted under valgrind (callgrind), system calls under strace: each
as the difference between two runs of different length, so that start and logins don't count. What an idle client
takes is measured as `bench.py` does. A figure that is worse than the baseline by more than its tolerance is a failure.

    tests/bench/check.py                  # against tests/bench/baseline.json
    tests/bench/check.py --update         # take what is measured for the new baseline

Needs what `bench.py` needs, valgrind and strace; without one of them, what it measures is left out. Instructions are
those of a build by the profile `measure` (a release build, less what takes long to build) on x86-64, by the compiler of
the day: after an update of Rust the baseline may need one, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench
from bench import Bench, Carpool, Daemon, Failed, Row, idle_clients, say

BASELINE = Path(__file__).with_name("baseline.json")
ROWS = [
    Row("simple-1", "simple protocol", 1),
    Row("extended-1", "extended protocol", 1, "extended"),
    Row("prepared-1", "prepared statements", 1, "prepared"),
    # With 25 servers: most transactions wait for one.
    Row("simple-50", "simple protocol, 50 clients", 50),
]
IDLE = Row("idle", "idle clients", 3000, memory=True)
# Transactions of the two runs.
SHORT, LONG = 500, 3500
# Of the C library, and of jemalloc.
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}
ALLOCATORS |= {f"_rjem_{name}" for name in [*ALLOCATORS, "mallocx", "rallocx"]}
# Calls of the timers, which depend on how long a run takes.
TIMERS = {"timerfd_settime", "read", "restart_syscall", "total"}


@dataclass(frozen=True)
class Tolerance:
    """How much worse a figure may be: a part of it, and an amount."""

    part: float = 0.0
    amount: float = 0.0

    def bound(self, baseline: float) -> float:
        return baseline * (1 + self.part) + self.amount


# How often 50 clients find a server free depends on the load, as does how much of the recurring work falls into a run.
# That no transaction allocates is for tests/allocations.rs to say.
TOLERANCES = {
    "instructions": Tolerance(part=0.1),
    "allocations": Tolerance(amount=1.0),
    "system calls": Tolerance(amount=0.2),
    "bytes per idle client": Tolerance(part=0.1),
}


class Counted(Carpool):
    """Carpool under a program that counts. The program ends with it."""

    def __init__(self, bench: Bench, path: Path, wrapper: list[str]):
        super().__init__(bench, path, 1, None)
        self.wrapper = wrapper

    def start(self, auth: str) -> Daemon:
        plain = super().start(auth)
        plain.stop()
        command = [*self.wrapper, *plain.process.args[len(self.bench.prefix) :]]
        return Daemon(self.bench, "counted", command, plain.port)


def run(target: Counted, row: Row, transactions: int) -> None:
    daemon = target.start("trust")
    try:
        target.bench.pgbench(row, daemon, "-t", str(transactions // row.clients))
        # Under load it takes its time, and is to write down what it has counted.
        daemon.process.send_signal(signal.SIGINT)
        daemon.process.wait(bench.PATIENCE)
    finally:
        daemon.stop()


def callgrind(bench: Bench, path: Path, row: Row) -> dict[str, float]:
    def count(transactions: int) -> tuple[int, int]:
        out = bench.dir / "callgrind.out"
        out.unlink(missing_ok=True)
        # The recurring work isn't counted: there is more of it the longer the transactions take, so the busier the machine.
        recurring = "--toggle-collect=carpool::pooler::tick::*"
        command = ["valgrind", "-q", "--tool=callgrind", recurring, "--collect-atstart=yes"]
        run(Counted(bench, path, [*command, f"--callgrind-out-file={out}"]), row, transactions)
        return costs(out.read_text())

    (instructions, allocations), (more, more_allocations) = count(SHORT), count(LONG)
    each = LONG - SHORT
    return {"instructions": (more - instructions) / each, "allocations": (more_allocations - allocations) / each}


def costs(profile: str) -> tuple[int, int]:
    """Instructions and calls of the allocator in a profile of callgrind's."""
    total = re.search(r"^(?:summary|totals): (\d+)", profile, re.M)
    if total is None:
        raise Failed("callgrind's profile has no total")
    names = dict(re.findall(r"^c?fn=\((\d+)\) (\S+)", profile, re.M))
    calls = re.findall(r"^cfn=\((\d+)\).*\ncalls=(\d+)", profile, re.M)
    return int(total[1]), sum(int(count) for name, count in calls if names.get(name, "").split("@")[0] in ALLOCATORS)


def system_calls(bench: Bench, path: Path, row: Row) -> dict[str, float]:
    def count(transactions: int) -> int:
        out = bench.dir / "strace.out"
        out.unlink(missing_ok=True)
        run(Counted(bench, path, ["strace", "-I", "2", "-c", "-f", "-q", "-o", str(out)]), row, transactions)
        lines = [line.split() for line in out.read_text().splitlines()]
        return sum(int(w[3]) for w in lines if len(w) >= 5 and w[3].isdigit() and w[-1] not in TIMERS)

    return {"system calls": (count(LONG) - count(SHORT)) / (LONG - SHORT)}


def measure(bench: Bench, path: Path) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    for row in ROWS:
        say(f"{row.key}: {row.title}")
        found = figures.setdefault(row.key, {})
        if shutil.which("valgrind"):
            found |= callgrind(bench, path, row)
        # Of several clients that share a turn of the loop the number depends on the load.
        if shutil.which("strace") and row.clients == 1:
            found |= system_calls(bench, path, row)
    say("idle clients")
    daemon = Carpool(bench, path, 1, None).start("trust")
    try:
        rss, _, clients = asyncio.run(idle_clients(daemon, IDLE))
    finally:
        daemon.stop()
    figures["idle"] = {"bytes per idle client": rss * 1024 / clients}
    return figures


def compare(figures: dict[str, dict[str, float]], baseline: dict[str, dict[str, float]]) -> list[str]:
    """Prints all, gives what is worse."""
    worse = []
    for row, found in figures.items():
        for name, value in found.items():
            was = baseline.get(row, {}).get(name)
            line = f"{row}: {name} {value:.2f}, baseline {'none' if was is None else f'{was:.2f}'}"
            if was is not None and value > TOLERANCES[name].bound(was):
                worse.append(line)
                line += "  WORSE"
            print(line)
    return worse


def check(options: argparse.Namespace) -> int:
    if options.netns:
        bench.enter_namespace(options.netns)
    path = Path(options.carpool).resolve()
    if not path.exists():
        raise Failed(f"{path} is missing: run `cargo build --profile measure`, or give --carpool")
    with tempfile.TemporaryDirectory(prefix="carpool-check-", ignore_cleanup_errors=True) as directory:
        stand = Bench(options, Path(directory))
        try:
            stand.start_postgres()
            if stand.account:
                path = Path(shutil.copy2(path, stand.dir / "carpool"))
            figures = measure(stand, path)
        finally:
            stand.stop()
    if options.update:
        rounded = {row: {name: round(value, 2) for name, value in found.items()} for row, found in figures.items()}
        BASELINE.write_text(json.dumps(rounded, indent=2) + "\n")
    worse = compare(figures, json.loads(BASELINE.read_text()))
    for line in worse:
        say(f"worse than the baseline: {line}")
    return 1 if worse else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carpool", default=bench.ROOT / "target/measure/carpool", metavar="PATH", help="the binary")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--pg-bin", default=bench.newest_bin(), help="directory of initdb and postgres")
    parser.add_argument("--pgbench", default=shutil.which("pgbench"), help="the load generator")
    parser.add_argument("--netns", nargs="?", const="reno", metavar="CONTROL", help="as of bench.py")
    return parser.parse_args(namespace=argparse.Namespace(unix=False, jobs=1, seconds=300, floor=None))


if __name__ == "__main__":
    try:
        sys.exit(check(parse()))
    except Failed as failure:
        say(f"check: {failure}")
        sys.exit(1)
