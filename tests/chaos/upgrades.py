"""How long anybody waits in an upgrade: pgbench at a fixed rate, ten upgrades amid it, with servers that go over and without.

Without is the same with a `connect_query`: the new process then logs in servers of its own. Prints a table as Markdown.
"""

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

# First: it says where `system` is.
from world import TIED, Postgres
from system import Failure, free_port, run, temporary_directory

ROOT = Path(__file__).resolve().parents[2]
UPGRADES, PAUSE, QUIET = 10, 1.5, 4.0


def arguments():
    parser = argparse.ArgumentParser(prog="upgrades", description=__doc__)
    parser.add_argument("--carpool", type=Path, default=ROOT / "target/release/carpool", help="the binary")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=int, default=1000, help="transactions per second")
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def waits(home):
    """When each transaction ended, by the time of day, and how long it took, milliseconds."""
    for log in home.glob("pgbench.*"):
        for line in log.read_text().splitlines():
            fields = line.split()
            yield float(fields[4]) + float(fields[5]) / 1e6, int(fields[2]) / 1000


def longest(transactions, begin, end):
    return max((took for ended, took in transactions if begin <= ended < end), default=0.0)


def measure(options, postgres, home, lines):
    """The longest wait in each upgrade, and without one."""
    home.mkdir()
    port, config, url = free_port(), home / "carpool.toml", "postgresql://postgres@127.0.0.1:{}/pgbouncer"
    config.write_text(
        f'[pooler]\nlisten_port = {port}\nauth_type = "any"\nadmin_users = ["postgres"]\npidfile = "{home}/pid"\n'
        f'[databases.bench]\nhost = "127.0.0.1"\nport = {postgres.port}\nuser = "postgres"\npool_size = 20\n{lines}\n')
    with open(home / "log", "w", encoding="utf-8") as log:
        first = subprocess.Popen([*TIED, options.carpool, "--quiet", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    pgbench = [postgres.bin / "pgbench", "-n", "-S", "-h", "127.0.0.1", "-U", "postgres"]
    deadline = time.monotonic() + 10
    while subprocess.run([*pgbench, "-p", str(port), "-t", "1", "bench"], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise Failure(f"Carpool doesn't serve:\n{(home / 'log').read_text()}")
    seconds = round(2 * QUIET + UPGRADES * (PAUSE + 1))
    load = subprocess.Popen(
        [*pgbench, "-p", str(port), "-c", str(options.clients), "-j", "2", "-R", str(options.rate), "-T", str(seconds),
         "-l", "--log-prefix", home / "pgbench", "bench"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun = time.time()
    time.sleep(QUIET)
    marks = []
    for _ in range(UPGRADES):
        marks.append(time.time())
        run([options.carpool, "upgrade", url.format(port)])
        time.sleep(PAUSE)
    output = load.communicate()[0]
    subprocess.run(["kill", (home / "pid").read_text().strip()], check=False)
    first.wait(60)
    if load.returncode or "number of failed transactions: 0 " not in output:
        raise Failure(f"transactions failed:\n{output}")
    transactions = list(waits(home))
    in_upgrades = [longest(transactions, mark, mark + PAUSE) for mark in marks]
    return in_upgrades, longest(transactions, begun + 1, marks[0]), len(transactions)


async def main():
    options = arguments()
    print("| servers | transactions | longest wait in an upgrade: median | range | without an upgrade |\n|---|---|---|---|---|")
    with temporary_directory() as home:
        postgres = Postgres(home)
        await postgres.start()
        try:
            await postgres.sql("create database bench", "postgres")
            run([postgres.bin / "pgbench", "-i", "-q", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "postgres", "bench"])
            kinds = {"go over": "", "are logged in anew": 'connect_query = "select 1"'}
            found = {kind: ([], [], 0) for kind in kinds}
            for turn in range(options.rounds):
                for number, (kind, lines) in enumerate(kinds.items()):
                    each, quiet, count = await asyncio.to_thread(measure, options, postgres, home / f"{turn}-{number}", lines)
                    waited, calm, sum_of = found[kind]
                    found[kind] = (waited + each, calm + [quiet], sum_of + count)
            for kind, (waited, calm, count) in found.items():
                print(f"| {kind} | {count} | {statistics.median(waited):.1f} ms | {min(waited):.1f} to {max(waited):.1f} ms | "
                      f"{max(calm):.1f} ms |")
        finally:
            await postgres.stop(signal.SIGQUIT)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Failure as failure:
        sys.exit(str(failure))
