"""The chain: HAProxy, the applications, a pooler or none, PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from machine import ROOT, Failed, Machine, Process, find, free_port

APPS = ROOT / "docker" / "apps"
USER, PASSWORD, DATABASE = "recipes", "recipes", "recipes"
POOL = 25
# Of one application, as HAProxy counts them.
MAX_REQUESTS = 25
# The seed's user whose session the load has, with a recipe of it.
SESSION_OF = 7

Counts = tuple[int, int, int]


def session_cookie() -> str:
    return "session=" + hashlib.md5(f"session {SESSION_OF}".encode()).hexdigest()


# --- PostgreSQL ------------------------------------------------------------------------------------------


class Postgres:
    def __init__(self, machine: Machine, bin_dir: Path):
        data = machine.dir / "data"
        initdb = [
            bin_dir / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        ]
        secret = machine.write("superuser", PASSWORD + "\n")
        machine.run([*initdb, "--no-sync", f"--pwfile={secret}"])
        self.port = free_port()
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": machine.dir,
            "max_connections": 200,
            "shared_buffers": "256MB",
            # Nothing is written while it counts, and all of it is thrown away.
            "fsync": "off",
            "autovacuum": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        # SIGINT is its fast shutdown.
        self.process = machine.start(
            "PostgreSQL", [bin_dir / "postgres", "-D", data, *options], self.port, stop_signal=2
        )
        self.process.wait_until(self._answers)
        with self.connect("postgres") as cursor:
            cursor.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            cursor.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
            cursor.execute("SHOW server_version")
            self.version = cursor.fetchone()[0].split()[0]
        psql: list[str | Path] = [bin_dir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self.url()]
        files = [machine.write(name, (APPS / name).read_text(encoding="utf-8")) for name in ("schema.sql", "seed.sql")]
        machine.run([*psql, "-f", files[0], "-f", files[1]])

    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    def connect(self, database: str) -> Cursor:
        return Cursor(self.port, "postgres", database)

    def counts(self) -> Counts:
        """The connections of the applications or of the pooler: active, idle, none waiting."""
        with self.connect("postgres") as cursor:
            cursor.execute(
                "SELECT count(*) FILTER (WHERE state = 'active'), count(*) FILTER (WHERE state <> 'active')"
                " FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
                [DATABASE],
            )
            active, idle = cursor.fetchone()
        return active, idle, 0

    def _answers(self) -> bool:
        try:
            with self.connect("postgres"):
                return True
        except psycopg2.OperationalError:
            return False


class Cursor:
    """A connection with autocommit, for a with statement."""

    def __init__(self, port: int, user: str, database: str):
        self._connection = psycopg2.connect(
            host="127.0.0.1",
            port=port,
            user=user,
            password=PASSWORD,
            dbname=database,
            sslmode="disable",
            connect_timeout=5,
        )
        self._connection.autocommit = True

    def __enter__(self) -> psycopg2.extensions.cursor:
        return self._connection.cursor()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def find_postgres() -> Path:
    """The directory of the newest PostgreSQL's programs."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parents[1].name))
    found = versions[-1] if versions else find("initdb")
    if found is None:
        raise Failed("no PostgreSQL server is installed (apt-get install postgresql)")
    return found.parent


# --- Poolers ---------------------------------------------------------------------------------------------


class Direct:
    """No pooler."""

    key, name, note = "direct", "no pooler", ""
    processes: list[Process] = []

    def __init__(self, postgres: Postgres):
        self.port, self.counts = postgres.port, postgres.counts


class Pooler:
    """A pooler that has started."""

    def __init__(self, key: str, name: str, process: Process, note: str = ""):
        self.key, self.name, self.note = key, name, note
        self.port, self.processes = process.port, [process]
        process.wait_until(process.accepts)
        self._console: psycopg2.extensions.connection | None = None

    def counts(self) -> Counts:
        """Active, idle and waiting, as SHOW POOLS tells."""
        if self._console is None:
            self._console = psycopg2.connect(
                host="127.0.0.1",
                port=self.port,
                user=USER,
                password=PASSWORD,
                dbname="pgbouncer",
                sslmode="disable",
                connect_timeout=5,
            )
            self._console.autocommit = True
        with self._console.cursor() as cursor:
            cursor.execute("SHOW POOLS")
            names = [column.name for column in cursor.description]
            pools = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        active = idle = waiting = 0
        for pool in pools:
            if pool["database"] == DATABASE:
                active += int(pool["sv_active"])
                idle += sum(int(pool[state]) for state in ("sv_idle", "sv_used", "sv_tested"))
                waiting += int(pool["cl_waiting"])
        return active, idle, waiting


@dataclass(frozen=True)
class Sharing:
    """How Carpool's clients share servers."""

    by: str = "none"
    # Who log in, all of them served by the one role; none: the role itself.
    users: list[str] = field(default_factory=list)

    def lines(self) -> str:
        role = f'user = "{USER}"\npassword = "{PASSWORD}"\n' if self.users else ""
        return f'share_by = "{self.by}"\n{role}'

    def sections(self) -> str:
        return "".join(f'[users.{name}]\npassword = "{PASSWORD}"\n' for name in self.users)


def carpool(
    machine: Machine,
    postgres: Postgres,
    binary: Path,
    server_port: int = 0,
    sharing: Sharing | None = None,
    wrapper: list[str | Path] | None = None,
    dashboard: int = 0,
) -> Pooler:
    """It takes clients with TLS and without, and itself uses none, as PgBouncer here. `wrapper` is a command that runs
    it, `dashboard` the port of its dashboard, with all switched on that this can show.
    """
    sharing = sharing or Sharing()
    if not binary.exists():
        raise Failed(f"{binary} is missing: run `cargo build --release`, or give --carpool")
    port = free_port()
    config = machine.write(
        f"carpool-{port}.toml",
        f"""[pooler]
listen_port = {port}
log_connections = false
log_disconnections = false
admin_users = ["{USER}"]
{observed(dashboard)}[databases.{DATABASE}]
host = "127.0.0.1"
port = {server_port or postgres.port}
server_tls_sslmode = "disable"
pool_size = {POOL}
{sharing.lines()}[users.{USER}]
password = "{PASSWORD}"
{sharing.sections()}""",
    )
    if tls := certificate(machine):
        config.write_text(config.read_text().replace("[pooler]\n", f"[pooler]\n{tls}"))
    name = version_of(binary).strip().replace("carpool", "Carpool")
    command = [*(wrapper or []), machine.copy(binary), config]
    # SIGINT ends it when its clients have gone, so that a wrapper can say what it has found.
    return Pooler("carpool", name, machine.start("Carpool", command, port, stop_signal=2 if wrapper else 15))


def observed(port: int) -> str:
    """Carpool's settings for a dashboard that shows all there is to show; none without a port."""
    if not port:
        return ""
    on = ["track_waits", "track_statements", "advisor", "show_query_text", "diagnostic_connection"]
    return f"http_port = {port}\n" + "".join(f"{name} = true\n" for name in on)


def certificate(machine: Machine) -> str:
    """Carpool's settings for clients that want TLS; none without openssl."""
    openssl = find("openssl")
    if openssl is None:
        return ""
    key, crt = machine.dir / "tls.key", machine.dir / "tls.crt"
    if not crt.exists():
        request: list[str | Path] = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        machine.run([*request, "-subj", "/CN=localhost", "-keyout", key, "-out", crt])
    files = f'client_tls_key_file = "{key}"\nclient_tls_cert_file = "{crt}"\n'
    return f'client_tls_sslmode = "allow"\n{files}'


def find_pgbouncer(binary: Path | None) -> tuple[Path, re.Match[str]]:
    """The given or the installed one, and its version."""
    binary = binary or find("pgbouncer")
    if binary is None or not binary.exists():
        raise Failed("PgBouncer isn't installed (apt-get install pgbouncer), or give --pgbouncer")
    version = re.search(r"PgBouncer (\d+)\.(\d+)[.\d]*", version_of(binary))
    if version is None:
        raise Failed(f"{binary} is not PgBouncer")
    return binary, version


def pgbouncer(machine: Machine, postgres: Postgres, binary: Path | None) -> Pooler:
    binary, version = find_pgbouncer(binary)
    # Older ones know no prepared statements in transaction mode; asyncpg and tokio-postgres can't do without.
    mode = "transaction" if (int(version[1]), int(version[2])) >= (1, 21) else "session"
    port = free_port()
    users = machine.write(f"users-{port}.txt", f'"{USER}" "{PASSWORD}"\n')
    settings: dict[str, object] = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": users,
        "server_tls_sslmode": "disable",
        "pool_mode": mode,
        "default_pool_size": POOL,
        "max_db_connections": POOL,
        "stats_users": USER,
        "log_connections": 0,
        "log_disconnections": 0,
        "ignore_startup_parameters": "extra_float_digits",
    }
    if mode == "transaction":
        settings["max_prepared_statements"] = 200
    lines = ["[databases]", f"{DATABASE} = host=127.0.0.1 port={postgres.port}", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    config = machine.write(f"pgbouncer-{port}.ini", "\n".join(lines) + "\n")
    note = (
        "" if mode == "transaction" else "session mode: this version knows no prepared statements in transaction mode"
    )
    process = machine.start("PgBouncer", [machine.copy(binary), "-q", config], port)
    return Pooler("pgbouncer", version[0], process, note)


def version_of(binary: Path, option: str = "--version") -> str:
    try:
        return subprocess.run([binary, option], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(f"cannot run {binary}: {error}") from error


# --- Applications ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """An application and how it is run."""

    key: str
    title: str
    # "{port}" is where it listens.
    command: tuple[str, ...]
    directory: str
    environment: tuple[tuple[str, str], ...]
    # Connections to the pooler at most.
    connections: int


PYTHON = sys.executable
UVICORN = "-m uvicorn app:app --port {port} --workers 2 --timeout-keep-alive 75 --no-access-log".split()


def axum(key: str, title: str, variant: str, connections: int, **environment: str) -> Kind:
    env = {"VARIANT": variant, "POOL_SIZE": str(connections), "RUST_LOG": "error", **environment}
    return Kind(key, title, ("{axum}",), "", tuple(env.items()), connections)


KINDS = [
    Kind(
        "django",
        "Django, psycopg2, gunicorn (5 workers)",
        (PYTHON, "-m", "gunicorn", "recipes.wsgi"),
        "django",
        (("WEB_CONCURRENCY", "5"),),
        5,
    ),
    Kind(
        "starlette",
        "Starlette, asyncpg, uvicorn (2 processes of 10 connections)",
        (PYTHON, *UVICORN),
        "starlette",
        (("POOL_SIZE", "10"),),
        20,
    ),
    axum("axum", "axum, tokio-postgres, bb8 (20 connections), as one would write it", "plain", 20),
    axum("axum-fast", "axum, the fastest variant (8 connections)", "single", 8),
]


class App:
    """An application that has started and answers."""

    def __init__(self, machine: Machine, kind: Kind, database_url: str, axum_binary: Path):
        self.kind = kind
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [word.format(port=port, axum=axum_binary) for word in kind.command]
        env = {"DATABASE_URL": database_url, "PORT": str(port), "APP_TIME_ZONE": "UTC", **dict(kind.environment)}
        directory = machine.dir / "apps" / kind.directory if kind.directory else None
        self.process = machine.start(kind.key, command, port, env=env, cwd=directory)

    def ready(self) -> App:
        self.process.wait_until(lambda: get(f"{self.url}/healthz")[0] == 200)
        return self


def install_apps(machine: Machine) -> None:
    for name in ("django", "starlette"):
        shutil.copytree(APPS / name, machine.dir / "apps" / name, ignore=shutil.ignore_patterns("__pycache__"))


def get(url: str, cookie: str = "") -> tuple[int, str]:
    """Status and body; status 0 where nothing answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Cookie": cookie}), timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return 0, ""


def require_same_json(urls: dict[str, str]) -> None:
    """Every application answers the same for one recipe, and refuses who has no session."""
    status, body = get(f"{next(iter(urls.values()))}/api/v1/recipes", session_cookie())
    if status != 200:
        raise Failed(f"{next(iter(urls))} answers {status}: {body[:300]}")
    id = json.loads(body)["recipe"]["id"]
    replies = {}
    for name, url in urls.items():
        status, body = get(f"{url}/api/v1/recipes?id={id}", session_cookie())
        replies[name] = json.loads(body) if status == 200 else status
        if get(f"{url}/api/v1/recipes")[0] != 401:
            raise Failed(f"{name} doesn't refuse a request without a session")
    first, *others = replies
    for other in others:
        if replies[other] != replies[first]:
            raise Failed(f"{first} and {other} answer differently for recipe {id}")


# --- HAProxy ---------------------------------------------------------------------------------------------


def haproxy(machine: Machine, apps: list[App], max_requests: int = MAX_REQUESTS) -> Process:
    """A frontend with a path for each application."""
    binary = find("haproxy")
    if binary is None:
        raise Failed("HAProxy isn't installed (apt-get install haproxy)")
    port = free_port()
    lines = [
        "global",
        "    maxconn 4000",
        "defaults",
        "    mode http",
        "    timeout connect 5s",
        "    timeout client 60s",
        "    timeout server 60s",
        "    timeout queue 60s",
        "frontend front",
        f"    bind 127.0.0.1:{port}",
    ]
    lines += [f"    use_backend {app.kind.key} if {{ path_beg /{app.kind.key}/ }}" for app in apps]
    for app in apps:
        lines += [
            f"backend {app.kind.key}",
            rf"    http-request replace-path /{app.kind.key}/(.*) /\1",
            f"    server app {app.url.removeprefix('http://')} maxconn {max_requests}",
        ]
    config = machine.write(f"haproxy-{port}.cfg", "\n".join(lines) + "\n")
    process = machine.start("HAProxy", [binary, "-db", "-f", config], port)
    process.wait_until(process.accepts)
    return process
