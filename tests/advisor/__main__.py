#!/usr/bin/env python3
"""Checks what the pool-size advisor predicts against what is then measured.

For each workload: a run at one pool size, whose trace the advisor gets; its predictions for sizes that it has not seen; runs at
these sizes. Prints a table, and writes it into docs/advisor.md with --write.

    tests/advisor --carpool target/release/carpool
    tests/advisor --only steady,bursty --seconds 20
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import asyncpg

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "tests/bench")]

import bench  # noqa: E402
from workloads import HOT_ROWS, WORKLOADS, Workload, client  # noqa: E402

DOCUMENT = ROOT / "docs/advisor.md"
MARKS = ("<!-- measured -->", "<!-- end -->")
# Before anything counts: clients have logged in, and PostgreSQL has cached what it needs.
WARM_UP = 1.5


@dataclass
class World:
    """A PostgreSQL, and what runs in front of it."""

    dir: Path
    prefix: list[str]
    carpool: Path
    postgres: bench.Daemon | None = None


def run(command: list[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise bench.Failed(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def start_postgres(world: World, bin: Path, account: object) -> None:
    data, port = world.dir / "data", bench.free_port()
    run([*world.prefix, bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"])
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={world.dir} -c fsync=off " \
        "-c autovacuum=off -c jit=off -c max_parallel_workers_per_gather=0"
    world.postgres = bench.Daemon(world, "PostgreSQL", [str(bin / "postgres"), "-D", str(data), *options.split()], port)
    sql = "create table hot(id int primary key, n int) with (fillfactor = 10); " \
        f"insert into hot select i, 0 from generate_series(0, {HOT_ROWS - 1}) i"
    run(["psql", "-XqAt", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", sql])


@contextlib.contextmanager
def carpool(world: World, size: int):
    """A Carpool with that size; gives its ports."""
    port, http = bench.free_port(), bench.free_port()
    config = world.dir / f"carpool-{port}.toml"
    config.write_text(
        f'[pooler]\nlisten_port = {port}\nhttp_port = {http}\nauth_type = "trust"\nadmin_users = ["postgres"]\n'
        f"log_connections = false\nlog_disconnections = false\n"
        f'[databases.postgres]\nhost = "127.0.0.1"\nport = {world.postgres.port}\npool_size = {size}\n'
        f"min_pool_size = {size}\nuser = \"postgres\"\n[users.postgres]\n"
    )
    config.chmod(0o644)
    daemon = bench.Daemon(world, "Carpool", [str(world.carpool), "--quiet", str(config)], port)
    try:
        yield port, http
    finally:
        daemon.stop()


async def load(workload: Workload, port: int, http: int, seconds: float) -> str:
    """Runs a workload; gives the trace of its last `seconds`."""
    connections, tasks, end = [], [], asyncio.Event()
    clients = [(group, number) for group in workload.groups for number in range(group.clients)]
    try:
        for group, _ in clients:
            connections.append(await asyncpg.connect(
                host="127.0.0.1", port=port, user="postgres", database="postgres",
                server_settings={"application_name": group.application},
            ))
        began = time.monotonic()
        tasks = [
            asyncio.create_task(client(group, number, connection, began, end))
            for (group, number), connection in zip(clients, connections, strict=True)
        ]
        await asyncio.sleep(WARM_UP)
        console = ["psql", "-XqAt", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", "pgbouncer"]
        await asyncio.to_thread(run, [*console, "-c", "SET advisor = 1"])
        await asyncio.sleep(seconds)
        url = f"http://127.0.0.1:{http}/api/trace"
        trace = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read().decode())
        for task in tasks:
            if task.done():
                task.result()
        end.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        return trace
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.terminate()


def measure(world: World, workload: Workload, size: int, seconds: float) -> dict:
    """Runs a workload at a size; gives the advice drawn from its trace, what was measured among it."""
    with carpool(world, size) as (port, http):
        trace = asyncio.run(load(workload, port, http, seconds))
    file = world.dir / f"{workload.name.replace(' ', '-')}-{size}.trace"
    file.write_text(trace)
    return json.loads(run([world.carpool, "advise", file, "--json"]))["pools"][0]


@dataclass
class Row:
    workload: Workload
    size: int
    predicted: dict
    measured: dict

    @property
    def p99(self) -> tuple[float, float]:
        return self.predicted["wait_p99_us"] / 1e3, self.measured["wait_p99_us"] / 1e3

    @property
    def error(self) -> float:
        """Of the p99 wait, ms."""
        return self.p99[0] - self.p99[1]

    @property
    def relative(self) -> float | None:
        """In parts of what was measured; waits of less than a millisecond are none."""
        return self.error / self.p99[1] if self.p99[1] >= 1 else None

    @property
    def within(self) -> bool:
        low, high = self.predicted["wait_p99_low_us"] / 1e3, self.predicted["wait_p99_high_us"] / 1e3
        return low - 0.5 <= self.p99[1] <= high + 0.5

    def line(self) -> str:
        p, m = self.predicted, self.measured
        ms = lambda name, of: f"{of[name] / 1e3:.1f}"  # noqa: E731
        relative = "" if self.relative is None else f" ({self.relative:+.0%})"
        throughput = p["throughput"] / m["throughput"] - 1
        return (
            f"| {self.workload.name} | {self.workload.seen} | {self.size} "
            f"| {ms('wait_p99_us', p)} ({ms('wait_p99_low_us', p)} to {ms('wait_p99_high_us', p)}) | {ms('wait_p99_us', m)} "
            f"| {self.error:+.1f}{relative} | {'yes' if self.within else '**no**'} "
            f"| {ms('wait_p50_us', p)} | {ms('wait_p50_us', m)} "
            f"| {p['throughput']:.0f} | {m['throughput']:.0f} ({throughput:+.0%}) |"
        )


HEAD = (
    "| workload | seen | size | predicted p99 wait, ms | measured | error | in the range | predicted p50 | measured "
    "| predicted per second | measured |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def report(rows: list[Row], advices: list[tuple[Workload, dict]], options: argparse.Namespace) -> str:
    lines = [HEAD, *(row.line() for row in rows), ""]
    relative = sorted(abs(row.relative) for row in rows if row.relative is not None)
    small = [row for row in rows if row.relative is None]
    throughput = [abs(row.predicted["throughput"] / row.measured["throughput"] - 1) for row in rows]
    lines.append(
        f"Of {len(rows)} predictions {sum(row.within for row in rows)} are within their range. Where the measured p99 wait is a "
        f"millisecond or more, half of the errors are at most {statistics.median(relative) if relative else 0:.0%} of it and the "
        f"largest is {max(relative, default=0):.0%}; where it is less ({len(small)} rows), the largest error is "
        f"{max((abs(row.error) for row in small), default=0):.1f} ms. Throughput: half at most {statistics.median(throughput):.1%} off, "
        f"the largest {max(throughput):.0%}. {options.seconds:.0f} seconds for each run."
    )
    lines += ["", "What was advised from the size that was seen:", ""]
    lines += [f"- **{workload.name}** ({workload.about}): {advice['verdict']}." for workload, advice in advices]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/advisor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carpool", type=Path, default=ROOT / "target/release/carpool")
    parser.add_argument("--pg-bin", default=bench.newest_bin(), help="directory of initdb and postgres")
    parser.add_argument("--seconds", type=float, default=9, help="of each run, after warming up")
    parser.add_argument("--only", default="", help="workloads, with commas between them")
    parser.add_argument("--write", action="store_true", help="into docs/advisor.md")
    options = parser.parse_args()
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    workloads = [workload for workload in WORKLOADS if not only or workload.name in only]
    if not workloads:
        parser.error(f"--only: there are {', '.join(workload.name for workload in WORKLOADS)}")
    prefix, account = bench.unprivileged()
    rows: list[Row] = []
    advices: list[tuple[Workload, dict]] = []
    with tempfile.TemporaryDirectory(prefix="carpool-advisor-") as directory:
        world = World(Path(directory), prefix, options.carpool.resolve())
        if account:
            import os

            os.chown(directory, account.pw_uid, account.pw_gid)
        world.dir.chmod(0o755)
        try:
            start_postgres(world, Path(options.pg_bin), account)
            for workload in workloads:
                advice = measure(world, workload, workload.seen, options.seconds)
                if not advice["sizes"]:
                    raise bench.Failed(f"{workload.name}: {advice['verdict']}")
                advices.append((workload, advice))
                bench.say(f"{workload.name}: {advice['verdict']}; {json.dumps({k: v for k, v in advice['contention'].items() if k != 'observed'})}")
                for size in workload.unseen:
                    measured = measure(world, workload, size, options.seconds)["measured"]
                    rows.append(Row(workload, size, advice["sizes"][size - 1], measured))
                    bench.say(rows[-1].line())
        finally:
            if world.postgres:
                world.postgres.stop()
    text = report(rows, advices, options)
    print(text)
    if options.write:
        before, rest = DOCUMENT.read_text().split(MARKS[0])
        DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except bench.Failed as failure:
        sys.exit(f"tests/advisor: {failure}")
