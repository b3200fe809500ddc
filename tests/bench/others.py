"""How `bench.py` configures other poolers: transaction mode, prepared statements, no log of connections or statistics, and
otherwise their defaults. What they need is given as plain values, so that nothing here knows the benchmark.

They are used as their projects build them (`--pooler KIND=PATH`), each with as many worker threads as Carpool.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """What one of them is to do."""

    port: int
    server_host: str
    server_port: int
    pool_size: int
    workers: int
    user: str
    password: str
    databases: tuple[str, ...]
    # Clients log in with SCRAM; otherwise with nothing, where that can be had.
    scram: bool
    # Of SCRAM, where it can be chosen.
    iterations: int
    # Paths of certificate and key, where clients come with TLS.
    tls: tuple[str, str] | None
    # For sockets and whatever else it leaves behind.
    directory: Path

    def certificate(self) -> list[str]:
        """Certificate and key as those with a TOML file name them."""
        if self.tls is None:
            return []
        return [f'tls_certificate = "{self.tls[0]}"', f'tls_private_key = "{self.tls[1]}"']


@dataclass(frozen=True)
class Kind:
    """A pooler: its name, and what it is started with."""

    name: str
    # By `Wanted`: names and texts of files, and the arguments, in which `{NAME}` is that file's path.
    configure: Callable[[Wanted], tuple[dict[str, str], list[str]]]


def odyssey(wanted: Wanted) -> tuple[dict[str, str], list[str]]:
    login = f'authentication "scram-sha-256"\n password "{wanted.password}"' if wanted.scram else 'authentication "none"'
    tls = ""
    if wanted.tls:
        certificate, key = wanted.tls
        tls = f' tls "require"\n tls_cert_file "{certificate}"\n tls_key_file "{key}"\n'
    databases = "".join(
        f"""database "{database}" {{
 user "{wanted.user}" {{
 {login}
 storage "server"
 storage_user "{wanted.user}"
 storage_password "{wanted.password}"
 pool "transaction"
 pool_size {wanted.pool_size}
 pool_discard no
 pool_smart_discard no
 pool_reserve_prepared_statement yes
 }}
}}
"""
        for database in wanted.databases
    )
    text = f"""daemonize no
log_to_stdout yes
log_format "%p %t %l %m\\n"
log_session no
log_query no
log_stats no
workers {wanted.workers}
locks_dir "{wanted.directory}"
listen {{
 host "127.0.0.1"
 port {wanted.port}
{tls}}}
storage "server" {{
 type "remote"
 host "{wanted.server_host}"
 port {wanted.server_port}
}}
{databases}"""
    return {"odyssey.conf": text}, ["{odyssey.conf}"]


def pgcat(wanted: Wanted) -> tuple[dict[str, str], list[str]]:
    """It has neither SCRAM nor trust for clients: they log in with MD5."""
    lines = [
        "[general]",
        'host = "127.0.0.1"',
        f"port = {wanted.port}",
        f"worker_threads = {wanted.workers}",
        'admin_username = "admin"',
        'admin_password = "admin"',
        "log_client_connections = false",
        "log_client_disconnections = false",
    ]
    lines += wanted.certificate()
    for database in wanted.databases:
        lines += [
            f"[pools.{database}]",
            'pool_mode = "transaction"',
            "prepared_statements_cache_size = 500",
            f"[pools.{database}.users.0]",
            f'username = "{wanted.user}"',
            f'password = "{wanted.password}"',
            f"pool_size = {wanted.pool_size}",
            f"[pools.{database}.shards.0]",
            f'servers = [["{wanted.server_host}", {wanted.server_port}, "primary"]]',
            f'database = "{database}"',
        ]
    return {"pgcat.toml": "\n".join(lines) + "\n"}, ["--log-level", "warn", "{pgcat.toml}"]


def pgdog(wanted: Wanted) -> tuple[dict[str, str], list[str]]:
    lines = [
        "[general]",
        'host = "127.0.0.1"',
        f"port = {wanted.port}",
        f"workers = {wanted.workers}",
        f"default_pool_size = {wanted.pool_size}",
        'pooler_mode = "transaction"',
        f'auth_type = "{"scram" if wanted.scram else "trust"}"',
    ]
    lines += wanted.certificate()
    users = []
    for database in wanted.databases:
        lines += ["[[databases]]", f'name = "{database}"', f'host = "{wanted.server_host}"', f"port = {wanted.server_port}"]
        users += ["[[users]]", f'name = "{wanted.user}"', f'database = "{database}"', f'password = "{wanted.password}"']
    files = {"pgdog.toml": "\n".join(lines) + "\n", "users.toml": "\n".join(users) + "\n"}
    return files, ["--config", "{pgdog.toml}", "--users", "{users.toml}"]


def scram_secret(password: str, iterations: int) -> str:
    """What PostgreSQL stores of a password in plain ASCII (RFC 5803)."""
    salt = b"0123456789abcdef"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client, server = (hmac.digest(salted, key, "sha256") for key in (b"Client Key", b"Server Key"))
    stored, server, salted_with = (base64.b64encode(b).decode() for b in (hashlib.sha256(client).digest(), server, salt))
    return f"SCRAM-SHA-256${iterations}:{salted_with}${stored}:{server}"


def pg_doorman(wanted: Wanted) -> tuple[dict[str, str], list[str]]:
    """Of clients' passwords it takes what PostgreSQL stores of them."""
    lines = [
        "[general]",
        'host = "127.0.0.1"',
        f"port = {wanted.port}",
        f"worker_threads = {wanted.workers}",
        "max_connections = 20000",
        'admin_username = "admin"',
        'admin_password = "admin"',
        "log_client_connections = false",
        "log_client_disconnections = false",
        f'pg_hba = {{ content = "host all all 127.0.0.1/32 {"scram-sha-256" if wanted.scram else "trust"}" }}',
    ]
    if wanted.tls:
        lines += ['tls_mode = "require"', *wanted.certificate()]
    for database in wanted.databases:
        lines += [
            f"[pools.{database}]",
            f'server_host = "{wanted.server_host}"',
            f"server_port = {wanted.server_port}",
            'pool_mode = "transaction"',
            f"[pools.{database}.users.0]",
            f'username = "{wanted.user}"',
            f'password = "{scram_secret(wanted.password, wanted.iterations)}"',
            f'server_username = "{wanted.user}"',
            f'server_password = "{wanted.password}"',
            f"pool_size = {wanted.pool_size}",
        ]
    return {"pg_doorman.toml": "\n".join(lines) + "\n"}, ["--log-level", "warn", "{pg_doorman.toml}"]


KINDS = {
    "odyssey": Kind("Odyssey", odyssey),
    "pgcat": Kind("PgCat", pgcat),
    "pgdog": Kind("PgDog", pgdog),
    "pg_doorman": Kind("pg_doorman", pg_doorman),
}
