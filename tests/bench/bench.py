#!/usr/bin/env python3
"""Compares Carpool with PgBouncer, other poolers and direct connections.

Starts a PostgreSQL of its own that keeps off the disk, and every pooler on a free port, and runs pgbench
through each of them in interleaved rounds: all targets one after the other, the order rotated from round to
round, so that whatever else the machine does hits all alike. What counts are therefore the ratios between
runs of the same round; the absolute numbers depend on the machine and on its load. Everything is stopped and
removed at the end.

    tests/bench/bench.py --quick                       # a first impression, some minutes
    tests/bench/bench.py --output BENCHMARKS.md        # the full comparison
    tests/bench/bench.py --pgbouncer /opt/pgbouncer-1.25/pgbouncer --rows 'simple-*' --workers 1,2
    tests/bench/bench.py --pooler odyssey=/opt/odyssey/odyssey --pooler pgcat=/opt/pgcat/pgcat
    tests/bench/bench.py --carpool /tmp/before --carpool target/release/carpool --rows 'simple-*'
    tests/bench/bench.py --list                        # the rows

Needs pgbench and a PostgreSQL server, and a release build of Carpool (`cargo build --release`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import fnmatch
import functools
import hashlib
import json
import os
import platform
import pwd
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import others

ROOT = Path(__file__).resolve().parents[2]
USER = "bench"
PASSWORD = "bench"
POOL_SIZE = 25
SCALE = 10
# Set in the environment once the script runs in its own network namespace.
NAMESPACE = "CARPOOL_BENCH_NAMESPACE"
TICK = os.sysconf("SC_CLK_TCK")
# Clients that are there already when the memory of the others begins to be counted: they have made the pooler
# open its servers and grow its buffers.
MEMORY_WARM_UP = 200
MEMORY_ROUNDS = 3
# Of SCRAM, where a pooler lets one choose: with the usual 4,096 a login is little but pgbench's work.
ITERATIONS = 1
# From so many clients on a run is as long as this many transactions of each, for each second asked for.
MANY = 1000
EACH_OF_MANY = 6
# A single transaction that takes longer than this, ms, is named in the report; so much longer than it should, s,
# a whole run may take.
STALL = 1000
PATIENCE = 120
# What ends the benchmark early, as Ctrl-C does: everything is stopped.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """A measurement, or the whole benchmark, can't go on; the text says why."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- Rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    clients: int
    protocol: str = "simple"
    # A pgbench script; without one, pgbench's built-in select.
    script: str | None = None
    # A new connection for each transaction.
    reconnect: bool = False
    # How clients log in: trust, scram, tls; canned: with trust, and the server is one that only has canned answers.
    auth: str = "trust"
    # Count the pooler's memory instead of its speed.
    memory: bool = False
    # So many statements each of these clients prepares before, the same as the others.
    statements: int = 0
    unit: str = "transactions/s"


LARGE = "SELECT repeat('x', 1100) FROM generate_series(1, 1000);"
ROWS = [
    Row("simple-50", "`pgbench -S`, simple protocol, 50 clients", 50),
    Row("extended-50", "`pgbench -S`, extended protocol, 50 clients", 50, "extended"),
    Row("prepared-50", "`pgbench -S`, prepared statements, 50 clients", 50, "prepared"),
    Row("select1-50", "`SELECT 1`, simple protocol, 50 clients", 50, script="SELECT 1;"),
    Row("simple-500", "`pgbench -S`, simple protocol, 500 clients", 500),
    Row("extended-500", "`pgbench -S`, extended protocol, 500 clients", 500, "extended"),
    Row("prepared-500", "`pgbench -S`, prepared statements, 500 clients", 500, "prepared"),
    Row("select1-500", "`SELECT 1`, simple protocol, 500 clients", 500, script="SELECT 1;"),
    Row("simple-1", "`pgbench -S`, simple protocol, 1 client", 1),
    Row("extended-1", "`pgbench -S`, extended protocol, 1 client", 1, "extended"),
    Row("prepared-1", "`pgbench -S`, prepared statements, 1 client", 1, "prepared"),
    Row("large-8", "Results of 1.1 MB each, 8 clients", 8, script=LARGE, unit="results/s"),
    Row(
        "connect-8",
        "New connection (SCRAM-SHA-256) with one `SELECT 1`, 8 clients",
        8,
        script="SELECT 1;",
        reconnect=True,
        auth="scram",
        unit="connections/s",
    ),
    Row("tls-simple-50", "`pgbench -S`, simple protocol, 50 clients with TLS 1.3", 50, auth="tls"),
    Row("tls-large-8", "Results of 1.1 MB each, 8 clients with TLS 1.3", 8, script=LARGE, auth="tls", unit="results/s"),
    Row(
        "tls-connect-8",
        "New connection (TLS 1.3, ECDSA P-256) with one `SELECT 1`, 8 clients",
        8,
        script="SELECT 1;",
        reconnect=True,
        auth="tls",
        unit="connections/s",
    ),
    # A server that answers at once, so that the pooler is all there is to see.
    Row("canned-simple-50", "Canned answers, simple protocol, 50 clients", 50, script="SELECT 1;", auth="canned"),
    Row("canned-prepared-50", "Canned answers, prepared statements, 50 clients", 50, "prepared", "SELECT 1;", auth="canned"),
    Row("canned-simple-500", "Canned answers, simple protocol, 500 clients", 500, script="SELECT 1;", auth="canned"),
    Row("canned-simple-5000", "Canned answers, simple protocol, 5,000 clients", 5000, script="SELECT 1;", auth="canned"),
    Row("memory", "Memory for each idle client that has run one query", 5000, memory=True),
    Row("memory-prepared", "Memory for each idle client that has prepared 100 statements", 2000, memory=True, statements=100),
    Row("tls-memory", "Memory for each idle client with TLS 1.3 that has run one query", 5000, auth="tls", memory=True),
]


# --- Processes -------------------------------------------------------------------------------------------


def unprivileged() -> tuple[list[str], pwd.struct_passwd | None]:
    """The command prefix under which daemons run: they die with this script, and never as root."""
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return prefix, None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            return [*prefix, *ids], account
    raise Failed("running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")


def free_port() -> int:
    # Without SO_REUSEADDR and SO_REUSEPORT: a port that anything still uses is not free.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """A process that listens on a port, until `stop`."""

    def __init__(self, bench: Bench, name: str, command: list[str], port: int, env: dict[str, str] | None = None):
        self.name, self.port = name, port
        self.log = bench.dir / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}-{port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*bench.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=bench.dir,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.pid = self.process.pid
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                self.check()
                return
            time.sleep(0.05)
        raise Failed(f"{self.name} doesn't accept connections on port {self.port}\n{self.tail()}")

    def check(self) -> None:
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with status {self.process.returncode}\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])

    def stop(self) -> None:
        # SIGINT is the fast shutdown of PostgreSQL; to poolers it is the same as SIGTERM or quicker.
        for sig, patience in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            if self.process.poll() is not None:
                return
            self.process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)

    def cpu_seconds(self) -> float:
        """User and system time of all threads, those that have ended included."""
        # The process's CPU clock, as clock_getcpuclockid(3) makes its number: what /proc/PID/stat counts in
        # ticks of 10 ms, in nanoseconds. Some hundred connections in a second take no more than a few ticks.
        with contextlib.suppress(OSError):
            return time.clock_gettime((~self.pid << 3) | 2)
        return sum(self.ticks()) / TICK

    def user_seconds(self) -> float:
        """The part of it outside the kernel, in steps of 10 ms."""
        return self.ticks()[0] / TICK

    def ticks(self) -> tuple[int, int]:
        """User and system time."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])

    def memory(self) -> tuple[int, int]:
        """RSS and PSS in KiB."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        rss, pss = (re.search(rf"^{name}:\s+(\d+) kB", text, re.M) for name in ("Rss", "Pss"))
        if rss is None or pss is None:
            raise Failed("no Rss and Pss in smaps_rollup")
        return int(rss[1]), int(pss[1])


# --- Targets ---------------------------------------------------------------------------------------------


class Direct:
    """No pooler: the measure of what PostgreSQL itself does."""

    name = "direct"
    is_pooler = False

    def __init__(self, bench: Bench):
        self.bench = bench

    def unsupported(self, row: Row) -> str | None:
        if row.auth == "tls":
            return "PostgreSQL is set up without TLS"
        if row.auth == "canned":
            return self.bench.without_floor()
        return "every client has a PostgreSQL process of its own" if row.memory else None

    def start(self, auth: str) -> Daemon:
        return self.bench.server(auth)


class Forwarder:
    """Copies bytes between each client and a server connection of its own: what no pooler can do without."""

    name = "forwarder"
    is_pooler = True

    def __init__(self, bench: Bench, path: Path):
        self.bench, self.path = bench, path

    def unsupported(self, row: Row) -> str | None:
        # PostgreSQL with a process for each client would be another one than poolers see.
        return None if row.auth == "canned" else "only for canned answers"

    def start(self, auth: str) -> Daemon:
        port = free_port()
        return Daemon(self.bench, self.name, [str(self.path), "forward", str(port), str(self.bench.server(auth).port)], port)


class PgBouncer:
    is_pooler = True

    def __init__(self, bench: Bench, path: Path):
        self.bench, self.path = bench, path
        found = re.search(r"PgBouncer (\d+)\.(\d+)(\.\d+)?", version_of(path))
        if found is None:
            raise Failed(f"{path} is not PgBouncer")
        self.name = found[0]
        self.version = (int(found[1]), int(found[2]), int((found[3] or ".0")[1:]))

    def unsupported(self, row: Row) -> str | None:
        if (row.protocol == "prepared" or row.statements) and self.version < (1, 21):
            return "not supported before 1.21 in transaction mode"
        return self.bench.without_floor() if row.auth == "canned" else None

    def start(self, auth: str) -> Daemon:
        bench, port = self.bench, free_port()
        users = bench.write(f"users-{port}.txt", f'"{USER}" "{PASSWORD}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": bench.dir,
            "auth_type": "scram-sha-256" if auth == "scram" else "trust",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": POOL_SIZE,
            "max_client_conn": 20000,
            "log_connections": 0,
            "log_disconnections": 0,
            "log_stats": 0,
            # What libpq-based clients send and older versions don't know.
            "ignore_startup_parameters": "extra_float_digits",
        }
        if self.version >= (1, 21):
            settings["max_prepared_statements"] = 200
        if auth == "scram" and self.version >= (1, 25):
            settings["scram_iterations"] = ITERATIONS
        if auth == "tls":
            settings |= bench.tls_settings()
        lines = ["[databases]", f"* = host={bench.server_host(auth)} port={bench.server(auth).port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        config = bench.write(f"pgbouncer-{port}.ini", "\n".join(lines) + "\n")
        return Daemon(bench, self.name, [str(self.path), "-q", str(config)], port)


class Carpool:
    is_pooler = True

    def __init__(self, bench: Bench, path: Path, workers: int | None, label: str | None, settings: str = ""):
        self.bench, self.path, self.workers = bench, path, workers
        self.settings = [line.strip() for line in settings.split(";") if line.strip()]
        name = label or version_of(path).strip().replace("carpool", "Carpool")
        count = "" if workers is None else f" ({workers} worker{'s' if workers != 1 else ''})"
        self.name = f"{name}{count}" + "".join(f" {setting.replace(' ', '')}" for setting in self.settings)

    def unsupported(self, row: Row) -> str | None:
        return self.bench.without_floor() if row.auth == "canned" else None

    def start(self, auth: str) -> Daemon:
        bench, port = self.bench, free_port()
        lines = [
            "[pooler]",
            'listen_addr = "127.0.0.1"',
            f"listen_port = {port}",
            f'auth_type = "{"scram-sha-256" if auth == "scram" else "trust"}"',
            "max_client_conn = 20000",
            "log_connections = false",
            "log_disconnections = false",
            "log_stats = false",
            f"scram_iterations = {ITERATIONS}",
        ]
        if auth == "tls":
            lines += [f'{name} = "{value}"' for name, value in bench.tls_settings().items()]
        if bench.options.unix:
            lines.append(f'unix_socket_dir = "{bench.dir}"')
        if self.workers is not None:
            lines.append(f"worker_threads = {self.workers}")
        lines += self.settings
        for database in ("bench", "scram"):
            lines += [f"[databases.{database}]", f'host = "{bench.server_host(auth)}"', f"port = {bench.server(auth).port}"]
            lines.append(f"pool_size = {POOL_SIZE}")
        lines += [f"[users.{USER}]", f'password = "{PASSWORD}"']
        config = bench.write(f"carpool-{port}.toml", "\n".join(lines) + "\n")
        return Daemon(bench, self.name, [str(self.path), "--quiet", str(config)], port)


class Other:
    """One of `others.KINDS`."""

    is_pooler = True

    def __init__(self, bench: Bench, text: str, workers: int):
        kind, _, path = text.partition("=")
        if kind not in others.KINDS or not Path(path).is_file():
            raise Failed(f"--pooler {text}: not KIND=PATH of {', '.join(others.KINDS)}")
        self.bench, self.kind, self.path, self.workers = bench, others.KINDS[kind], Path(path).resolve(), workers
        found = re.search(r"\d+\.\d+[\w.-]*", version_of(self.path))
        self.name = f"{self.kind.name} {found[0]}" if found else self.kind.name

    def unsupported(self, row: Row) -> str | None:
        # They ask servers more than the canned one knows.
        return "not measured" if row.auth == "canned" else None

    def start(self, auth: str) -> Daemon:
        bench, port = self.bench, free_port()
        directory = bench.dir / f"{self.kind.name}-{port}".lower()
        directory.mkdir()
        if bench.account:
            os.chown(directory, bench.account.pw_uid, bench.account.pw_gid)
        tls = bench.tls_settings() if auth == "tls" else None
        wanted = others.Wanted(
            port=port,
            server_host=bench.server_host(auth),
            server_port=bench.server(auth).port,
            pool_size=POOL_SIZE,
            workers=self.workers,
            user=USER,
            password=PASSWORD,
            databases=("bench", "scram"),
            scram=auth == "scram",
            iterations=ITERATIONS,
            tls=(tls["client_tls_cert_file"], tls["client_tls_key_file"]) if tls else None,
            directory=directory,
        )
        files, arguments = self.kind.configure(wanted)
        paths = {f"{{{name}}}": str(bench.write(f"{directory.name}/{name}", text)) for name, text in files.items()}
        return Daemon(bench, self.name, [str(self.path), *(paths.get(word, word) for word in arguments)], port)


Target = Direct | Forwarder | PgBouncer | Carpool | Other


def version_of(path: Path) -> str:
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"cannot run {path}: {error}") from error


# --- Measurements ----------------------------------------------------------------------------------------


@dataclass
class Sample:
    """One row of one target in one round."""

    per_second: float = 0.0
    # Microseconds of the pooler for each transaction; None for direct connections.
    cpu: float | None = None
    # What of it isn't the kernel's.
    user: float | None = None
    # Milliseconds.
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    longest: float | None = None
    # KiB per client.
    rss: float | None = None
    pss: float | None = None


@dataclass
class Results:
    # By row and target: one sample per round, None where it failed.
    samples: dict[tuple[str, str], list[Sample | None]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    syscalls: dict[tuple[str, str], float] = field(default_factory=dict)
    syscall_names: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)


class Bench:
    def __init__(self, options: argparse.Namespace, directory: Path):
        self.options, self.dir = options, directory
        self.prefix, self.account = unprivileged()
        if self.account:
            os.chown(directory, self.account.pw_uid, self.account.pw_gid)
        directory.chmod(0o755)
        self.bin = Path(options.pg_bin)
        self.daemons: dict[tuple[str, str], Daemon] = {}
        self.canned: Daemon | None = None
        self.floor: Path | None = None
        if options.floor and options.floor.exists():
            self.floor = Path(shutil.copy2(options.floor, directory / "floor"))
        self.results = Results()

    # PostgreSQL

    def write(self, name: str, text: str) -> Path:
        path = self.dir / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def server_host(self, auth: str) -> str:
        return str(self.dir) if self.options.unix and auth != "canned" else "127.0.0.1"

    def server(self, auth: str) -> Daemon:
        """What a pooler has its servers of, for this kind of login."""
        if auth != "canned":
            return self.postgres
        if self.canned is None:
            port = free_port()
            self.canned = Daemon(self, "canned answers", [str(self.floor), "backend", str(port)], port)
        return self.canned

    def without_floor(self) -> str | None:
        """Why there are no canned answers, if there are none."""
        return None if self.floor else "not supported without --floor"

    def run(self, command: list[str | Path], **kwargs: object) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, **kwargs)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{Path(command[0]).name} did not end within {error.timeout:.0f} s") from error
        if done.returncode != 0:
            raise Failed(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def start_postgres(self) -> None:
        data = self.dir / "data"
        initdb = [self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self.run([*self.prefix, *map(str, initdb)], cwd=self.dir)
        (data / "pg_hba.conf").write_text(
            "host scram bench 127.0.0.1/32 scram-sha-256\n"
            "local scram bench scram-sha-256\n"
            "host all all 127.0.0.1/32 trust\n"
            "local all all trust\n"
        )
        port = free_port()
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.dir,
            "max_connections": 1000,
            "shared_buffers": "512MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "wal_level": "minimal",
            "max_wal_senders": 0,
            "max_wal_size": "8GB",
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
            "bgwriter_lru_maxpages": 0,
            "jit": "off",
            "password_encryption": "scram-sha-256",
        }
        command = [str(self.bin / "postgres"), "-D", str(data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self.postgres = Daemon(self, "PostgreSQL", command, port)
        connection = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
        deadline = time.monotonic() + 30
        while subprocess.run([self.bin / "pg_isready", *connection], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                raise Failed(f"PostgreSQL doesn't get ready\n{self.postgres.tail()}")
            time.sleep(0.1)
        psql = [self.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *connection]
        statements = [f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"]
        statements += [f"CREATE DATABASE {name} OWNER {USER}" for name in ("bench", "scram")]
        self.run([*psql, *(word for s in statements for word in ("-c", s)), "postgres"])
        pgbench = [self.options.pgbench, "-i", "-q", "-s", str(SCALE), "-h", "127.0.0.1", "-p", str(port), "-U", USER]
        self.run([*pgbench, "bench"])
        self.run([*psql, "-c", "VACUUM ANALYZE", "-c", "CHECKPOINT", "bench"])

    def tls_settings(self) -> dict[str, str]:
        """TLS with clients, as both poolers name it; the certificate is made on first use."""
        certificate, key = self.dir / "tls.crt", self.dir / "tls.key"
        if not certificate.exists():
            curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
            subject = ["-subj", "/CN=localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
            self.run(["openssl", "req", "-x509", *curve, *subject, "-days", "30", "-out", str(certificate)])
            key.chmod(0o644)
        return {
            "client_tls_sslmode": "require",
            "client_tls_key_file": str(key),
            "client_tls_cert_file": str(certificate),
        }

    # Targets

    def targets(self) -> list[Target]:
        options, targets = self.options, []
        paths = [Path(p).resolve() for p in options.pgbouncer]
        installed = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if installed:
            paths.insert(0, Path(installed).resolve())
        bouncers = [PgBouncer(self, path) for path in dict.fromkeys(paths)]
        bouncers.sort(key=lambda b: b.version)
        if not options.alone:
            targets += [Direct(self), *([Forwarder(self, self.floor)] if self.floor else []), *bouncers]
            targets += [Other(self, text, options.workers[0] or os.cpu_count() or 1) for text in options.pooler]
        for path in map(Path, options.carpool):
            if not path.exists():
                raise Failed(f"{path} is missing: run `cargo build --release`, or give --carpool")
            # Of several builds the file's name tells which is which.
            label = path.name if len(options.carpool) > 1 else None
            targets += [
                Carpool(self, path.resolve(), workers, label, settings)
                for workers in options.workers
                for settings in ["", *options.settings]
            ]
        if self.account:
            # The directories above the binaries may be closed to the user that they run as.
            for number_of_target, target in enumerate(t for t in targets if t.is_pooler):
                target.path = Path(shutil.copy2(target.path, self.dir / f"pooler-{number_of_target}"))
        names = [t.name for t in targets]
        if len(set(names)) != len(names):
            raise Failed(f"two targets have the same name: {', '.join(names)}")
        return targets

    def daemon(self, target: Target, auth: str) -> Daemon:
        """The target's process for this kind of login, started on first use."""
        key = (target.name, auth)
        running = self.daemons.get(key)
        if running is None or running.process.poll() is not None:
            running = self.daemons[key] = target.start(auth)
        return running

    def stop(self) -> None:
        for daemon in self.daemons.values():
            daemon.stop()
        if self.canned:
            self.canned.stop()
        if hasattr(self, "postgres"):
            self.postgres.stop()

    # Running

    def pgbench(self, row: Row, daemon: Daemon, *more: str) -> str:
        clients = row.clients
        command: list[str] = [self.options.pgbench, "-n", "-c", str(clients)]
        command += ["-j", str(min(self.options.jobs, clients)), "-M", row.protocol]
        command += ["-h", self.client_host(daemon), "-p", str(daemon.port), "-U", USER]
        if row.script is None:
            command.append("-S")
        else:
            command += ["-f", str(self.write(f"{row.key}.sql", row.script + "\n"))]
        if row.reconnect:
            command.append("-C")
        command += [*more, "scram" if row.auth == "scram" else "bench"]
        env = {**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "require" if row.auth == "tls" else "disable"}
        out = self.run(command, cwd=self.dir, env=env, timeout=self.options.seconds + PATIENCE)
        daemon.check()
        return out

    def client_host(self, daemon: Daemon) -> str:
        tcp_only = daemon is self.canned or daemon.name == Forwarder.name
        return str(self.dir) if self.options.unix and not tcp_only else "127.0.0.1"

    def warm_up(self, row: Row, daemon: Daemon) -> None:
        self.pgbench(row, daemon, "-t", str(max(2, min(200, 1000 // row.clients))))

    def times(self, target: Target, daemon: Daemon) -> tuple[float, float]:
        """CPU so far, and what of it isn't the kernel's, seconds."""
        return (daemon.cpu_seconds(), daemon.user_seconds()) if target.is_pooler else (0.0, 0.0)

    def speed(self, row: Row, target: Target) -> Sample:
        daemon = self.daemon(target, row.auth)
        self.warm_up(row, daemon)
        logs = Path(tempfile.mkdtemp(prefix="log-", dir=self.dir))
        every = 1.0 if row.clients == 1 or row.reconnect or row.script == LARGE else 0.2
        log = ["--log", f"--log-prefix={logs / 'log'}"]
        if every < 1.0:
            log.append(f"--sampling-rate={every}")
        times = [self.times(target, daemon)]
        early = 0
        if not row.reconnect:
            # What logins take of CPU is another run's: with hundreds of clients it is a fifth of a second's. So is
            # the first transaction of each.
            self.pgbench(row, daemon, "-t", "1")
            early = row.clients
        times.append(self.times(target, daemon))
        # pgbench's time begins before its clients have connected.
        many = ["-t", str(1 + EACH_OF_MANY * self.options.seconds)]
        length = many if row.clients >= MANY else ["-T", str(self.options.seconds)]
        out = self.pgbench(row, daemon, *length, *log)
        sample = Sample()
        count = int(number(r"transactions actually processed: (\d+)", out)) - early
        times.append(self.times(target, daemon))
        if target.is_pooler:
            spent = [(after - between) - (between - before) for before, between, after in zip(*times)]
            sample.cpu, sample.user = (max(seconds, 0.0) * 1e6 / max(count, 1) for seconds in spent)
        sample.per_second = number(r"tps = ([\d.]+)", out)
        latencies = sorted(log_latencies(logs, row.reconnect))
        shutil.rmtree(logs)
        if latencies:
            sample.p50, sample.p99 = percentile(latencies, 0.50), percentile(latencies, 0.99)
            sample.p999 = percentile(latencies, 0.999)
            sample.longest = latencies[-1]
        return sample

    def memory(self, row: Row, target: Target) -> Sample:
        """A process of its own, so that nothing that ran before has grown its heap."""
        daemon = target.start(row.auth)
        try:
            rss, pss, clients = asyncio.run(idle_clients(daemon, row))
        finally:
            daemon.stop()
        return Sample(rss=rss / clients, pss=pss / clients)

    def measure(self, row: Row, target: Target) -> None:
        key = (row.key, target.name)
        sample = None
        try:
            sample = self.memory(row, target) if row.memory else self.speed(row, target)
        except Failed as failure:
            self.results.failures[key] = str(failure)
            say(f"    {target.name}: FAILED: {failure}")
        self.results.samples.setdefault(key, []).append(sample)
        if sample and row.memory:
            say(f"    {target.name}: {sample.pss:.2f} KiB per client")
        elif sample:
            cpu = f", {sample.cpu:.1f} µs CPU" if sample.cpu is not None else ""
            say(f"    {target.name}: {sample.per_second:.0f} {row.unit}{cpu}, p99 {fixed(sample.p99, 2)} ms")

    def count_syscalls(self, row: Row, target: Target) -> None:
        """Under strace everything is slow, but the number of calls for each transaction stays about the same. Those of
        logins are counted by themselves, and left out."""
        daemon = self.daemon(target, row.auth)
        self.warm_up(row, daemon)
        if row.reconnect:
            count, names = self.traced(row, daemon, 100)
        else:
            few, logins = self.traced(row, daemon, 1)
            count, names = self.traced(row, daemon, 100 if row.script == LARGE else max(5, 20000 // row.clients))
            names = {name: max(names[name] - logins.get(name, 0), 0) for name in names}
            count -= few
        calls = {name: number_of_calls / count for name, number_of_calls in names.items()}
        key = (row.key, target.name)
        self.results.syscalls[key] = sum(calls.values())
        self.results.syscall_names[key] = calls
        most = sorted(calls.items(), key=lambda c: -c[1])[:6]
        names_of_most = ", ".join(f"{name} {n:.2f}" for name, n in most)
        say(f"    {target.name}: {sum(calls.values()):.2f} system calls ({names_of_most})")

    def traced(self, row: Row, daemon: Daemon, each: int) -> tuple[int, dict[str, int]]:
        """The transactions of a run with `each` of them for each client, and the system calls of the pooler in it."""
        report = self.dir / "strace"
        strace = subprocess.Popen(
            ["strace", "-c", "-f", "-q", "-o", report, "-p", str(daemon.pid)], stderr=subprocess.PIPE, text=True
        )
        try:
            time.sleep(1)
            if strace.poll() is not None:
                raise Failed(f"strace: {strace.stderr.read().strip() if strace.stderr else ''}")
            out = self.pgbench(row, daemon, "-t", str(each))
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait()
        lines = [line.split() for line in report.read_text().splitlines()]
        calls = {w[-1]: int(w[3]) for w in lines if len(w) >= 5 and w[3].isdigit() and w[-1] != "total"}
        return int(number(r"transactions actually processed: (\d+)", out)), calls

    def go(self, rows: list[Row], targets: list[Target]) -> None:
        rounds = self.options.rounds
        for row in rows:
            say(f"{row.key}: {row.title}")
            able = [t for t in targets if t.unsupported(row) is None]
            for number_of_round in range(min(rounds, MEMORY_ROUNDS) if row.memory else rounds):
                say(f"  round {number_of_round + 1}")
                turn = number_of_round % len(able) if able else 0
                for target in able[turn:] + able[:turn]:
                    self.measure(row, target)
            if self.options.strace and not row.memory:
                say("  system calls")
                for target in able:
                    if target.is_pooler:
                        try:
                            self.count_syscalls(row, target)
                        except Failed as failure:
                            say(f"    {target.name}: FAILED: {failure}")


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise Failed(f"pgbench says nothing like {pattern}: {text.strip()[-300:]}")
    return float(found[1])


def log_latencies(directory: Path, reconnect: bool) -> Iterator[float]:
    """Milliseconds of each logged transaction. pgbench leaves the connecting out of them, so where it
    reconnects, the time from the end of one to the end of the same client's next counts."""
    for path in directory.iterdir():
        last: dict[str, float] = {}
        with path.open() as lines:
            for line in lines:
                words = line.split()
                if len(words) < 6 or not words[2].isdigit():
                    continue
                if not reconnect:
                    yield int(words[2]) / 1000
                    continue
                end = int(words[4]) * 1e3 + int(words[5]) / 1e3
                if words[0] in last:
                    yield end - last[words[0]]
                last[words[0]] = end


def percentile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


# --- Idle clients ----------------------------------------------------------------------------------------


async def idle_clients(daemon: Daemon, row: Row) -> tuple[int, int, int]:
    """Connects clients that run one query each and then stay. Gives what the pooler's RSS and PSS grew by, in
    KiB, and the number of clients."""
    wanted = row.clients
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + MEMORY_WARM_UP + 100
    if hard != resource.RLIM_INFINITY and hard < need:
        raise Failed(f"the limit of open files is {hard}; {need} are needed (ulimit -n)")
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    sockets: list[socket.socket] = []
    gate = asyncio.Semaphore(50)

    async def several(count: int) -> tuple[int, int]:
        tasks = [asyncio.create_task(one_client(daemon.port, gate, row)) for _ in range(count)]
        try:
            for done in asyncio.as_completed(tasks):
                sockets.append(await done)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Failed(f"after {len(sockets)} clients: {error}\n{daemon.tail()}") from error
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.sleep(1)
        daemon.check()
        return daemon.memory()

    try:
        before = await several(MEMORY_WARM_UP)
        after = await several(wanted)
    finally:
        for sock in sockets:
            sock.close()
    return after[0] - before[0], after[1] - before[1], wanted


@functools.cache
def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Wire:
    """A connected socket, inside TLS once that has begun."""

    def __init__(self, sock: socket.socket):
        self.loop, self.sock = asyncio.get_running_loop(), sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None

    async def begin_tls(self) -> None:
        await self.loop.sock_sendall(self.sock, struct.pack("!II", 8, 80877103))
        if await self.loop.sock_recv(self.sock, 1) != b"S":
            raise ConnectionError("TLS is refused")
        self.tls = tls_context().wrap_bio(self.incoming, self.outgoing)
        await self.step(self.tls.do_handshake)

    async def step(self, step: Callable[[], bytes | int | None]) -> bytes | int | None:
        """What comes of a step that may want to read first."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self.flush()
                chunk = await self.loop.sock_recv(self.sock, 16384)
                if not chunk:
                    raise ConnectionError("connection closed in TLS") from None
                self.incoming.write(chunk)
            finally:
                await self.flush()

    async def flush(self) -> None:
        if waiting := self.outgoing.read():
            await self.loop.sock_sendall(self.sock, waiting)

    async def send(self, data: bytes) -> None:
        tls = self.tls
        if tls is None:
            await self.loop.sock_sendall(self.sock, data)
        else:
            await self.step(lambda: tls.write(data))

    async def receive(self) -> bytes:
        tls = self.tls
        if tls is None:
            return await self.loop.sock_recv(self.sock, 8192)
        received = await self.step(lambda: tls.read(8192))
        return received if isinstance(received, bytes) else b""


async def one_client(port: int, gate: asyncio.Semaphore, row: Row) -> socket.socket:
    async with gate:
        sock = socket.socket()
        sock.setblocking(False)
        wire = Wire(sock)
        try:
            await wire.loop.sock_connect(sock, ("127.0.0.1", port))
            if row.auth == "tls":
                await wire.begin_tls()
            pairs = {"user": USER, "database": "bench", "application_name": "bench", "client_encoding": "UTF8"}
            body = b"".join(f"{k}\0{v}\0".encode() for k, v in pairs.items()) + b"\0"
            await wire.send(struct.pack("!II", len(body) + 8, 3 << 16) + body)
            await until_ready(wire)
            if row.statements:
                parses = [f"s{n}\0SELECT {n}, $1::text, $2::int\0".encode() + bytes(2) for n in range(row.statements)]
                await wire.send(b"".join(message(b"P", parse) for parse in parses) + message(b"S", b""))
                await until_ready(wire)
            query = b"SELECT 1\0"
            await wire.send(message(b"Q", query))
            await until_ready(wire)
        except BaseException:
            sock.close()
            raise
        return sock


def message(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack("!I", len(body) + 4) + body


def md5_password(salt: bytes) -> bytes:
    inner = hashlib.md5((PASSWORD + USER).encode()).hexdigest().encode()
    return b"md5" + hashlib.md5(inner + salt).hexdigest().encode() + b"\0"


async def until_ready(wire: Wire) -> None:
    buf = b""
    while True:
        chunk = await wire.receive()
        if not chunk:
            raise ConnectionError("connection closed")
        buf += chunk
        while len(buf) >= 5:
            tag, length = struct.unpack_from("!cI", buf)
            if len(buf) < length + 1:
                break
            body, buf = buf[5 : length + 1], buf[length + 1 :]
            if tag == b"E":
                raise ConnectionError(body.replace(b"\0", b" ").decode(errors="replace"))
            if tag == b"R" and body[:4] == b"\0\0\0\5":
                await wire.send(message(b"p", md5_password(body[4:8])))
            elif tag == b"R" and body[:4] != b"\0\0\0\0":
                raise ConnectionError("a password is asked for")
            if tag == b"Z":
                return


# --- Report ----------------------------------------------------------------------------------------------


def fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def spread(values: list[float], digits: int) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


class Report:
    def __init__(
        self, bench: Bench, rows: list[Row], targets: list[Target], reference: str | None, started: datetime.datetime
    ):
        self.bench, self.rows, self.targets, self.reference, self.started = bench, rows, targets, reference, started
        self.results = bench.results

    def values(self, row: Row, target: Target | str, name: str) -> list[float | None]:
        key = (row.key, target if isinstance(target, str) else target.name)
        return [s and getattr(s, name) for s in self.results.samples.get(key, [])]

    def known(self, row: Row, target: Target, name: str) -> list[float]:
        return [v for v in self.values(row, target, name) if v is not None]

    def ratio(self, row: Row, target: Target, name: str) -> str:
        """Median and range of the ratios to the reference in the same round."""
        if self.reference is None or target.name == self.reference:
            return "–"
        pairs = zip(self.values(row, target, name), self.values(row, self.reference, name))
        ratios = [a / b for a, b in pairs if a is not None and b]
        return spread(ratios, 2) if ratios else "–"

    def table(self, row: Row) -> list[str]:
        headings = ["", "rss", "pss"] if row.memory else ["", "per_second", "cpu", "user", "p50", "p99", "p999"]
        titles = {
            "rss": "RSS, KiB per client",
            "pss": "PSS, KiB per client",
            "per_second": row.unit,
            "cpu": "CPU of the pooler, µs each",
            "user": "not in the kernel",
            "p50": "p50, ms",
            "p99": "p99, ms",
            "p999": "p99.9, ms",
        }
        digits = {"per_second": 0, "cpu": 1, "user": 1, "p50": 2, "p99": 2, "p999": 2, "rss": 2, "pss": 2}
        if row.script == LARGE or row.reconnect:
            digits["cpu"] = digits["user"] = 0
        with_ratio = ["pss"] if row.memory else ["per_second", "cpu", "p99"]
        columns = []
        for name in headings[1:]:
            columns.append(titles[name])
            if name in with_ratio:
                columns.append("× reference")
        if any(key[0] == row.key for key in self.results.syscalls):
            columns.append("system calls each")
        lines = [f"### {row.key}: {row.title}", "", "| | " + " | ".join(columns) + " |"]
        lines.append("|---" + "|---:" * len(columns) + "|")
        for target in self.targets:
            cells = [target.name]
            why = target.unsupported(row)
            failure = self.results.failures.get((row.key, target.name))
            for name in headings[1:]:
                known = self.known(row, target, name)
                cells.append(spread(known, digits[name]) if known else "–")
                if name in with_ratio:
                    cells.append(self.ratio(row, target, name) if known else "–")
            if "system calls each" in columns:
                cells.append(fixed(self.results.syscalls.get((row.key, target.name)), 2))
            if why:
                cells[1] = why if row.memory or "not supported" in why else cells[1]
            elif failure:
                missing = self.values(row, target, headings[1]).count(None)
                cells[0] += f" (failed in {missing} of {len(self.values(row, target, headings[1]))} rounds)"
            lines.append("| " + " | ".join(cells) + " |")
        for target in self.targets:
            stalls = [v for v in self.known(row, target, "longest") if v > STALL]
            if stalls:
                rounds, worst = len(self.values(row, target, "longest")), max(stalls) / 1000
                lines += ["", f"{target.name} stalled in {len(stalls)} of {rounds} rounds, for {worst:.1f} s at the longest."]
        for target in self.targets:
            if failure := self.results.failures.get((row.key, target.name)):
                lines += ["", f"{target.name} failed: {' '.join(failure.split())[:300]}"]
        return [*lines, ""]

    def text(self, load: tuple[float, float, float]) -> str:
        options = self.bench.options
        postgres = self.bench.run([self.bench.bin / "postgres", "--version"]).strip()
        pgbench = self.bench.run([options.pgbench, "--version"]).strip()
        facts = [
            ("Date", self.started.strftime("%Y-%m-%d %H:%M %Z")),
            ("Targets", ", ".join(t.name for t in self.targets)),
            ("Reference of the ratios", self.reference or "none: no PgBouncer found"),
            ("Server and load generator", f"{postgres}; {pgbench}, {options.jobs} threads"),
            ("Connections", "unix sockets" if options.unix else "TCP over loopback; TLS where the row says so"),
            ("Network namespace", f"its own, without packet filter, {options.netns}" if options.netns else "the machine's"),
            ("Rounds", f"{options.rounds} of {options.seconds} s each, interleaved, order rotated"),
            *machine(),
            ("Load average", f"{load[0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"),
        ]
        lines = ["## Benchmark", ""]
        lines += [f"- {name}: {value}" for name, value in facts]
        lines += [
            "",
            f"Transaction mode, {POOL_SIZE} server connections. Median (lowest–highest) of the rounds; a ratio is the",
            "median of the ratios to the reference in the same round. More is better for throughput, less for CPU,",
            f"latency and memory. Clients log in with SCRAM of {ITERATIONS} iteration(s); where a pooler doesn't let that be set, of 4,096,",
            "and then pgbench's own share bounds the rate: look at the pooler's CPU. PgCat's logins are by MD5.",
            "",
        ]
        for row in self.rows:
            lines += self.table(row)
        return "\n".join(lines).rstrip() + "\n"

    def json(self) -> str:
        def plain(row: Row, target: Target) -> dict[str, object]:
            key = (row.key, target.name)
            return {
                "row": row.key,
                "target": target.name,
                "unsupported": target.unsupported(row),
                "rounds": [s and s.__dict__ for s in self.results.samples.get(key, [])],
                "failure": self.results.failures.get(key),
                "syscalls": self.results.syscall_names.get(key),
            }

        rows = [plain(row, target) for row in self.rows for target in self.targets]
        kinds = {target.name: type(target).__name__ for target in self.targets}
        options = self.bench.options
        facts = {"reference": self.reference, "unix": options.unix, "targets": kinds, "date": f"{self.started:%Y-%m-%d %H:%M}"}
        return json.dumps(facts | {"rows": rows}, indent=1)


def machine() -> list[tuple[str, str]]:
    def read(path: str) -> str | None:
        try:
            return Path(path).read_text().strip()
        except OSError:
            return None

    model = re.search(r"^model name\s*:\s*(.+)$", read("/proc/cpuinfo") or "", re.M)
    tracked = read("/proc/sys/net/netfilter/nf_conntrack_count")
    tables = [name for kind in ("ip", "ip6") for name in (read(f"/proc/net/{kind}_tables_names") or "").split()]
    netfilter = "conntrack not loaded" if tracked is None else f"conntrack loaded, {tracked} entries"
    if tables:
        netfilter += f"; iptables: {', '.join(sorted(set(tables)))}"
    if shutil.which("nft") and os.geteuid() == 0:
        rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.split("\n")
        netfilter += f"; nftables: {', '.join(filter(None, rules)) or 'none'}"
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    return [
        ("CPU", f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, governor {governor or 'unknown'}"),
        ("Kernel", f"{platform.system()} {platform.release()}, clock source {clock or 'unknown'}"),
        ("Congestion control", read("/proc/sys/net/ipv4/tcp_congestion_control") or "unknown"),
        ("Netfilter", netfilter),
    ]


# --- Command line ----------------------------------------------------------------------------------------


def newest_bin() -> str:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name) == 15)
    return str(found[-1]) if found else str(Path(shutil.which("postgres") or "/usr/bin/postgres").parent)


def worker_list(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carpool", action="append", metavar="PATH", help="the binary; several, named apart, are compared")
    parser.add_argument("--workers", type=worker_list, metavar="N[,N…]", help="Carpool's worker threads; each is a target")
    parser.add_argument(
        "--settings",
        action="append",
        default=[],
        metavar="'NAME = VALUE; …'",
        help="Carpool with these settings, too, as a target of its own; repeatable",
    )
    parser.add_argument("--pgbouncer", action="append", default=[], metavar="PATH", help="another PgBouncer; repeatable")
    parser.add_argument(
        "--pooler",
        action="append",
        default=[],
        metavar="KIND=PATH",
        help=f"another pooler ({', '.join(others.KINDS)}), with as many threads as the first of --workers; repeatable",
    )
    parser.add_argument(
        "--floor",
        type=Path,
        default=ROOT / "target/bench/release/floor",
        metavar="PATH",
        help="canned answers and a plain forwarder, for the rows canned-* (default: %(default)s; `make bench` builds it)",
    )
    parser.add_argument("--alone", action="store_true", help="nothing but Carpool")
    parser.add_argument("--reference", metavar="NAME", help="target of the ratios (default: the newest PgBouncer)")
    parser.add_argument("--pg-bin", default=newest_bin(), help="directory of initdb and postgres")
    parser.add_argument("--pgbench", default=shutil.which("pgbench"), help="the load generator")
    parser.add_argument("--rows", action="append", default=[], metavar="GLOB", help="only these rows; repeatable")
    parser.add_argument("--rounds", type=int, help="default 6")
    parser.add_argument("--seconds", type=int, help="of each measurement, default 5")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 s")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="threads of pgbench")
    parser.add_argument("--unix", action="store_true", help="unix sockets on both sides of the pooler")
    parser.add_argument(
        "--netns",
        nargs="?",
        const="reno",
        metavar="CONTROL",
        help="in a network namespace of its own, with this congestion control (default reno); needs root. bbr, "
        "where the machine has it as its default, lets large transfers over loopback stall, poolers or not",
    )
    parser.add_argument("--strace", action="store_true", help="count system calls as well (slow)")
    parser.add_argument("--output", metavar="FILE", help="write the report there as well")
    parser.add_argument("--json", metavar="FILE", help="write every sample there, for tests/bench/summary.py")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.seconds = options.seconds or (2 if options.quick else 5)
    options.workers = options.workers or [None]
    options.carpool = options.carpool or [ROOT / "target/release/carpool"]
    return options


def chosen(patterns: list[str]) -> list[Row]:
    words = [word for pattern in patterns for word in pattern.split(",")]
    unknown = [w for w in words if not any(fnmatch.fnmatch(r.key, w) for r in ROWS)]
    if unknown:
        raise Failed(f"no row like {', '.join(unknown)}; see --list")
    return [r for r in ROWS if not words or any(fnmatch.fnmatch(r.key, w) for w in words)]


def enter_namespace(control: str) -> None:
    """Starts this script anew in a network namespace of its own, and there makes the namespace ready."""
    if os.environ.get(NAMESPACE) is None:
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(control)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"no network namespace with congestion control {control}: {error}") from error


def benchmark(options: argparse.Namespace) -> None:
    rows = chosen(options.rows)
    if options.netns:
        enter_namespace(options.netns)
    if options.pgbench is None or not Path(options.pg_bin, "initdb").exists():
        raise Failed("pgbench and a PostgreSQL server are needed (Debian: postgresql, postgresql-contrib)")
    started = datetime.datetime.now().astimezone()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="carpool-bench-", ignore_cleanup_errors=True) as directory:
        bench = Bench(options, Path(directory))
        try:
            targets = bench.targets()
            bouncers = [t.name for t in targets if isinstance(t, PgBouncer)]
            reference = options.reference or (bouncers[-1] if bouncers else None)
            if reference not in (None, *(t.name for t in targets)):
                raise Failed(f"no target is called {reference}: {', '.join(t.name for t in targets)}")
            say("starting PostgreSQL")
            bench.start_postgres()
            bench.go(rows, targets)
            report = Report(bench, rows, targets, reference, started)
            text = report.text(load)
        finally:
            # A second Ctrl-C must not leave anything behind.
            for sig in ENDINGS:
                signal.signal(sig, signal.SIG_IGN)
            bench.stop()
    print(text, end="")
    if options.output:
        Path(options.output).write_text(text)
    if options.json:
        Path(options.json).write_text(report.json())
    if bench.results.failures:
        raise Failed(f"{len(bench.results.failures)} measurements failed")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = parse()
    if options.list:
        for row in ROWS:
            print(f"{row.key:14} {row.title}")
        return 0
    # Set even where the shell has us ignore SIGINT, in the background.
    for sig in ENDINGS:
        signal.signal(sig, interrupt)
    try:
        benchmark(options)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except Failed as failure:
        say(f"bench: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
