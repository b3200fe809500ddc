"""PostgreSQL, Carpool in front of it, and how to ask either how it is."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "conformance"))

from system import Failure, as_user, free_port, run  # noqa: E402
from wire import Client, Lost  # noqa: E402

# A command behind it ends with this program, however that ends.
TIED = ["setpriv", "--pdeathsig", "KILL", "--"]
POOL_SIZE = 8
TELLERS = 24

CONF = """
listen_addresses = '*'
max_connections = 60
fsync = off
autovacuum = off
log_min_messages = fatal
deadlock_timeout = 10s
"""
# In the configuration's notation. What is slow by default is fast here: what is measured is the way back.
POOLER = {"listen_port": "0", "auth_type": '"trust"', "admin_users": '["postgres"]', "log_stats": "false",
          "log_connections": "false", "log_disconnections": "false", "server_login_retry": "0.1",
          "query_wait_timeout": "30",
          # Else only root may count the descriptors.
          "core_dumps": "true"}
HBA = "local all all trust\nhost all all all trust\n"


def binaries():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise Failure("PostgreSQL isn't installed")
    return found[-1].parent


class Postgres:
    """A cluster in `home`. `prefix` is what its processes are started with: a network namespace, say."""

    def __init__(self, home, conf="", host="127.0.0.1", prefix=()):
        self.home, self.host, self.prefix, self.bin = home, host, list(prefix), binaries()
        self.data, self.port = home / "data", free_port()
        run(as_user([self.bin / "initdb", "--no-sync", "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "-D",
                     self.data]), cwd=home)
        (self.data / "pg_hba.conf").write_text(HBA)
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(f"{CONF}unix_socket_directories = '{home}'\nport = {self.port}\n{conf}\n")
        self.process = None

    @property
    def socket(self):
        return str(self.home / f".s.PGSQL.{self.port}")

    def launch(self):
        with open(self.home / "postgresql.log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([*self.prefix, *as_user([self.bin / "postgres", "-D", self.data])],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home)

    async def start(self):
        self.launch()
        await until("PostgreSQL is up", self.is_up)

    async def is_up(self):
        try:
            client = await self.direct("postgres")
        except Lost:
            return False
        client.close()
        return True

    async def direct(self, database="bank", user="postgres"):
        return await Client.connect(self.socket, database, user)

    async def sql(self, text, database="bank"):
        client = await self.direct(database)
        try:
            rows = []
            for part in text.split(";\n"):
                rows = (await client.run(part))[0]
            return rows
        finally:
            client.close()

    @property
    def postmaster(self):
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def children(self):
        done = subprocess.run(["pgrep", "-P", str(self.postmaster)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    async def servers(self):
        """Process numbers of Carpool's servers."""
        rows = await self.sql("select pid from pg_stat_activity where usename = 'app'", "postgres")
        return [int(row[0]) for row in rows]

    async def kill(self):
        """All of it, with SIGKILL."""
        for pid in [self.postmaster, *self.children()]:
            signal_to(pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    async def stop(self, how=signal.SIGQUIT):
        if self.process and self.process.poll() is None:
            for pid in [self.postmaster, *self.children()]:
                signal_to(pid, signal.SIGCONT)
            signal_to(self.postmaster, how)
            await asyncio.to_thread(self.process.wait, 60)


def signal_to(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Carpool:
    """A running Carpool. `prefix` is what it is started with, `database` and `sections` are further lines."""

    def __init__(self, binary, home, server, pooler, descriptors=None, environment=None, prefix=(),
                 database=f"pool_size = {POOL_SIZE}", sections=""):
        self.log, config = home / "carpool.log", home / "carpool.toml"
        settings = "\n".join(f"{name} = {value}" for name, value in (POOLER | pooler).items())
        config.write_text(
            f"[pooler]\n{settings}\n[databases.bank]\nhost = \"{server[0]}\"\nport = {server[1]}\n{database}\n"
            f"[users.app]\n[users.postgres]\n{sections}\n")
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)) if descriptors else None
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([*TIED, *prefix, str(binary), str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            preexec_fn=limit, env=os.environ | (environment or {}))
        self.port = None

    async def started(self):
        async def listening():
            if self.process.poll() is not None:
                raise Failure(f"Carpool doesn't start:\n{self.log.read_text()}")
            found = re.search(r"listening on [\d.]+:(\d+)", self.log.read_text())
            self.port = int(found[1]) if found else None
            return self.port
        await until("Carpool listens", listening)
        return self

    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory(self):
        """Resident, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Console(Client):
    """A session of the console: it keeps the names of columns."""

    async def _read(self):
        tag, body = await super()._read()
        if tag == b"T":
            self.names, rest = [], body[2:]
            while rest:
                name, rest = rest.split(b"\0", 1)
                self.names.append(name.decode())
                rest = rest[18:]
        return tag, body

    async def table(self, command):
        rows, _ = await self.run(command)
        return [dict(zip(self.names, row)) for row in rows]


async def until(what, condition, seconds=60):
    """Waits for a condition, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (result := await condition()):
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)
    return result
