"""Carpool as a process in front of a cluster, and the set-ups that the suites are run in."""

import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass

from system import Failure

POOL_SIZE = 25


@dataclass(frozen=True)
class Setup:
    """One way from the tests to PostgreSQL. `pooler`: lines of Carpool's configuration; None is a direct connection."""

    name: str
    meaning: str
    pooler: str | None


SETUPS = {setup.name: setup for setup in (
    Setup("direct", "without a pooler", None),
    Setup("session", "session mode", 'pool_mode = "session"'),
    Setup("transaction", f"transaction mode, {POOL_SIZE} servers", ""),
    # A server is older than this when its first transaction has ended, and is replaced unless a pin holds it.
    Setup("changing", "transaction mode, another server for each transaction", "server_lifetime = 0.0001\n"
          "max_concurrent_logins = 25"),
)}


class Carpool:
    """A running Carpool, configured as the suite needs it."""

    def __init__(self, binary, cluster, setup, directory, suite, lines):
        self.cluster = cluster
        self.config = directory / "carpool.toml"
        self.log = directory / "carpool.log"
        self.config.write_text(
            f'[pooler]\nlisten_port = {suite.port or 0}\nadmin_users = ["postgres"]\nlog_stats = false\n'
            f"{suite.authentication}\n{setup.pooler}\n{lines}\n"
            f'[databases."*"]\nhost = "127.0.0.1"\nport = {cluster.port}\npool_size = {POOL_SIZE}\n{suite.users}\n')
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([str(binary), str(self.config)], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        self.port = self._wait_for_port()

    def _wait_for_port(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            log = self.log.read_text()
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", log):
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise Failure(f"Carpool doesn't start:\n{self.log.read_text()}")

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)

    def show(self, what):
        """The rows of a SHOW command, each a dictionary."""
        psql = [str(self.cluster.installation.bin / "psql"), "-XAq", "-F", "\t", "-P", "footer=off", "-h", "127.0.0.1",
                "-U", "postgres", "-p", str(self.port), "-d", "carpool", "-c", f"show {what}"]
        done = subprocess.run(psql, env=self.cluster.environment, capture_output=True, text=True, timeout=30,
                              check=False)
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        return [dict(zip(lines[0], row)) for row in lines[1:]] if lines else []

    def counts(self):
        """Transactions in total, and pinned ones as far as Carpool tells: None where it doesn't."""
        rows = self.show("stats")
        pinned = [column for column in (rows[0] if rows else {}) if "pinned" in column and "xact" in column]
        transactions = sum(int(row["total_xact_count"]) for row in rows)
        return transactions, sum(int(row[pinned[0]]) for row in rows) if pinned else None


@dataclass
class Target:
    """Where the tests of one run connect to. `postgres` is the cluster itself, whatever the set-up."""

    setup: Setup
    cluster: object
    carpool: Carpool | None
    output: object

    @property
    def port(self):
        return self.carpool.port if self.carpool else self.cluster.port


@contextmanager
def target(binary, cluster, setup, output, suite, lines):
    """The set-up in front of the cluster; logs go to `output`."""
    carpool = None if setup.pooler is None else Carpool(binary, cluster, setup, output, suite, lines)
    try:
        yield Target(setup, cluster, carpool, output)
    finally:
        if carpool:
            carpool.stop()
