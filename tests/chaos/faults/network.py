"""What happens to the network between clients, Carpool and PostgreSQL.

PostgreSQL, or the clients, are in a network namespace of their own, behind a pair of interfaces; packets are dropped
there. All of it is inside the namespace that the suite runs in, see __main__."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

from stage import Skipped, fault
from system import Failure, run
from world import TIED, until
from faults.clients import HOLDING, ready, victims

# Both ends are to notice within about two seconds.
NOTICING = {"tcp_user_timeout": "1500", "tcp_keepidle": "1", "tcp_keepintvl": "1", "tcp_keepcnt": "2",
            "server_connect_timeout": "0.5"}
SERVER_NOTICING = "tcp_keepalives_idle = 1\ntcp_keepalives_interval = 1\ntcp_keepalives_count = 2\ntcp_user_timeout = 1500"


class Namespace:
    """A network namespace with one way out, at `gateway`."""

    def __init__(self, stage, name, subnet):
        if os.environ.get("CARPOOL_CHAOS_NETWORK") != "own":
            raise Skipped("network namespaces take root, and its rights")
        self.name, self.gateway, self.host = name, f"10.231.{subnet}.1", f"10.231.{subnet}.2"
        self.process = subprocess.Popen([*TIED, "unshare", "--net", "sleep", "infinity"])
        stage.afterwards += [["kill", self.process.pid]]
        deadline, own = time.monotonic() + 10, os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.process.pid}/ns/net") == own:
            if time.monotonic() > deadline:
                raise Failure("unshare makes no network namespace")
            time.sleep(0.01)
        self.prefix = ["nsenter", "--target", str(self.process.pid), "--net"]
        try:
            self._connect()
        except (Failure, FileNotFoundError) as error:
            raise Skipped(f"no network can be made: {str(error).splitlines()[-1]}") from error

    def _connect(self):
        run(["ip", "link", "add", self.name, "type", "veth", "peer", "name", "out", "netns", self.process.pid])
        run(["ip", "address", "add", f"{self.gateway}/24", "dev", self.name])
        run(["ip", "link", "set", self.name, "up"])
        for command in (["address", "add", f"{self.host}/24", "dev", "out"], ["link", "set", "out", "up"],
                        ["link", "set", "lo", "up"]):
            run([*self.prefix, "ip", *command])
        self._rules("-A", "--probability", "0.0", check=True)
        self._rules("-D", "--probability", "0.0")

    def _rules(self, change, *statistic, check=False):
        for chain, direction in (("INPUT", "-i"), ("OUTPUT", "-o"), ("FORWARD", "-i"), ("FORWARD", "-o")):
            match = ["-m", "statistic", "--mode", "random", *statistic] if statistic else []
            run(["iptables", "-w", change, chain, direction, self.name, *match, "-j", "DROP"])

    def reach_others(self):
        """Those in other namespaces can be reached by way of the suite's."""
        run([*self.prefix, "ip", "route", "add", "default", "via", self.gateway])
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")

    def cut(self):
        self._rules("-A")

    def heal(self):
        self._rules("-D")

    def lose(self, share):
        self._rules("-A", "--probability", str(share))

    def lose_no_more(self, share):
        self._rules("-D", "--probability", str(share))


def server_apart(stage):
    """PostgreSQL behind a network."""
    stage.network = Namespace(stage, "db", 1)
    return {"host": stage.network.host, "prefix": stage.network.prefix}


def clients_apart(stage):
    """Some clients behind a network."""
    stage.network = Namespace(stage, "apps", 2)
    return {}


@fault("cut", "no packet passes between Carpool and PostgreSQL", place=server_apart, pooler=NOTICING, conf=SERVER_NOTICING)
async def cut(stage):
    stage.network.cut()
    await asyncio.sleep(stage.seconds)
    stage.network.heal()
    await stage.cause_ended()
    stage.check("it was noticed", stage.bank.errors, dict(stage.bank.errors))


@fault("half-open-servers", "PostgreSQL is killed and started while no packet passes", place=server_apart, pooler=NOTICING,
       conf=SERVER_NOTICING)
async def half_open_servers(stage):
    stage.network.cut()
    await stage.postgres.kill()
    await stage.postgres.start()
    await asyncio.sleep(stage.seconds)
    stage.network.heal()
    await stage.cause_ended()


@fault("loss", "every twentieth packet between Carpool and PostgreSQL is lost, in either direction", place=server_apart)
async def loss(stage):
    before = sum(stage.bank.committed_by.values())
    stage.network.lose(0.05)
    await asyncio.sleep(stage.seconds)
    during = sum(stage.bank.committed_by.values()) - before
    stage.network.lose_no_more(0.05)
    await stage.cause_ended()
    stage.check("transfers went on", during > 0, during)
    stage.check("nobody was told an error", not stage.bank.errors, dict(stage.bank.errors))


@fault("half-open-clients", "clients in transactions and queries vanish without a word", place=clients_apart,
       pooler=NOTICING | {"listen_addr": '["0.0.0.0"]'})
async def half_open_clients(stage):
    for state in ("in a transaction", "in a query", "idle", "not reading"):
        where = f"{stage.network.gateway}:{stage.carpool.port}"
        async with victims(where, state, HOLDING, stage.network.prefix) as process:
            await ready(process)
            stage.network.cut()
        begun = time.monotonic()

        async def noticed():
            clients = await stage.console.table("show clients")
            return not any(client["addr"] == stage.network.host for client in clients)
        await until("the clients are gone", noticed, 30)
        seconds = time.monotonic() - begun
        stage.check(f"{state}: they were noticed in time", seconds < 6, f"{seconds:.1f} s")
        stage.network.heal()
        await stage.cause_ended()


class Relay:
    """Passes bytes on, `delay` seconds later."""

    def __init__(self, postgres):
        self.postgres, self.delay, self.port = postgres, 0.0, None

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        try:
            there = await asyncio.open_connection(self.postgres.host, self.postgres.port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, reader, writer):
        queue = asyncio.Queue()

        async def write():
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0, due - time.monotonic()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
        writing = asyncio.create_task(write())
        try:
            while data := await reader.read(65536):
                queue.put_nowait((time.monotonic() + self.delay, data))
        except OSError:
            pass
        queue.put_nowait((time.monotonic(), b""))
        await writing


@fault("delay", "a way of 100 ms between Carpool and PostgreSQL", relay=Relay)
async def delay(stage):
    before = sum(stage.bank.committed_by.values())
    stage.relay.delay = 0.1
    await asyncio.sleep(stage.seconds)
    during = sum(stage.bank.committed_by.values()) - before
    stage.relay.delay = 0.0
    await stage.cause_ended()
    stage.check("transfers went on", during > 0, during)
    stage.check("nobody was told an error", not stage.bank.errors, dict(stage.bank.errors))
