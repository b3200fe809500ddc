"""What `share_by` costs while nobody waits: Carpool's own instructions for a transaction, counted by valgrind, and its
CPU time with the kernel's.

Instructions don't depend on what else the machine does. Two runs of different length are compared, so that start and
logins don't count.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stack
from flood import SHARED
from machine import Failed, Machine, find
from stack import DATABASE, PASSWORD, Sharing
from watch import cpu_seconds

# Transactions of the two runs.
SHORT, LONG = 500, 3500
# Rounds in which CPU time is measured, the clients, no more than servers, and the transactions of each.
ROUNDS, CLIENTS, WARM_UP, TIMED = 5, 8, 100, 2500
USER = "web"
LOAD_TIMEOUT = 120  # seconds


def measure(
    machine: Machine, postgres: stack.Postgres, carpool: Path, done: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Instructions of a transaction by `share_by`; nothing without valgrind or pgbench."""
    valgrind, pgbench = find("valgrind"), stack.find_postgres() / "pgbench"
    if valgrind is None or not pgbench.exists():
        done("the cost of share_by isn't measured: valgrind and pgbench (apt-get install valgrind postgresql) do that")
        return []
    tools = [valgrind, pgbench]
    rows = []
    for by in SHARED:
        short, long = (instructions(machine, postgres, carpool, tools, by, count) for count in (SHORT, LONG))
        rows.append({"share_by": by, "instructions": round((long - short) / (LONG - SHORT)), "clients": CLIENTS})
    rounds: dict[str, list[float]] = {by: [] for by in SHARED}
    for _ in range(ROUNDS):
        for by in SHARED:
            rounds[by].append(cpu_time(machine, postgres, carpool, pgbench, by))
    for row in rows:
        by = row["share_by"]
        row |= {"cpu_us": round(statistics.median(rounds[by]), 2), "rounds_us": [round(cpu, 2) for cpu in rounds[by]]}
        done(f"share_by = {by}, nobody waits: {row['instructions']} instructions, {row['cpu_us']:.1f} µs a transaction")
    return rows


def instructions(
    machine: Machine, postgres: stack.Postgres, carpool: Path, tools: list[Path], by: str, transactions: int
) -> int:
    """Of a whole life with one client, which never waits."""
    valgrind, pgbench = tools
    out = machine.dir / f"callgrind-{by}-{transactions}"
    wrapper: list[str | Path] = [valgrind, "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    pooler = stack.carpool(machine, postgres, carpool, sharing=Sharing(by, [USER]), wrapper=wrapper)
    load(machine, pgbench, pooler, 1, transactions)
    machine.stop(pooler.processes)
    text = out.read_text() if out.exists() else ""
    total = re.search(r"^(?:summary|totals): (\d+)", text, re.M)
    if total is None:
        raise Failed("valgrind has counted nothing\n" + pooler.processes[0].tail())
    return int(total[1])


def cpu_time(machine: Machine, postgres: stack.Postgres, carpool: Path, pgbench: Path, by: str) -> float:
    """Microseconds of a transaction, with so few clients that none waits."""
    pooler = stack.carpool(machine, postgres, carpool, sharing=Sharing(by, [USER]))
    load(machine, pgbench, pooler, CLIENTS, WARM_UP)
    pids = [process.pid for process in pooler.processes]
    before = cpu_seconds(pids)
    load(machine, pgbench, pooler, CLIENTS, TIMED)
    used = cpu_seconds(pids) - before
    machine.stop(pooler.processes)
    return 1e6 * used / (CLIENTS * TIMED)


def load(machine: Machine, pgbench: Path, pooler: stack.Pooler, clients: int, transactions: int) -> None:
    """Of each client so many transactions."""
    script = machine.write("select.sql", "SELECT 1;\n")
    address = f"host=127.0.0.1 port={pooler.port} user={USER} dbname={DATABASE} application_name={USER} sslmode=disable"
    command: list[str | Path] = [pgbench, "-n", "-f", script, "-c", str(clients), "-t", str(transactions), address]
    machine.run(command, LOAD_TIMEOUT, {"PGPASSWORD": PASSWORD})
