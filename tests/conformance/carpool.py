"""Carpool as a process in front of a cluster, and the set-ups that the suites are run in."""

import re
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass

from system import Failure, free_port

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
        self.http_port = free_port()
        self.config.write_text(
            # A slow machine is no reason for a notice.
            f"[pooler]\nlisten_port = {suite.port or 0}\nhttp_port = {self.http_port}\nlog_stats = false\n"
            "query_wait_notify = 0\n"
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

    def counts(self):
        """Transactions in total, and those of clients that kept their server: None where Carpool doesn't tell."""
        if self.process.poll() is not None:
            raise Failure(f"Carpool ended during the tests, with {self.process.returncode}: {self.log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=30) as response:
                metrics = response.read().decode()
        except OSError as error:
            raise Failure(f"Carpool's /metrics: {error}; see {self.log}") from error
        return _sum_of(metrics, "carpool_transactions_total"), _sum_of(metrics, "carpool_transactions_pinned_total")


def _sum_of(metrics, name):
    values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", metrics, re.M)
    return sum(int(float(value)) for value in values) if values else None


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
