"""One fault under load: what is set up for it, and what is checked when it is over."""

import asyncio
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

from bank import SCHEMA, Bank
from system import Failure, run, temporary_directory
from world import POOL_SIZE, TELLERS, Carpool, Console, Postgres, until
from wire import Lost, ServerError, Stuck

# How long the way back may take, in seconds.
RECOVERY = 1.0
# Or the name of a driver that has only its own words for a lost connection.
SQLSTATE = re.compile(r"[0-9A-Z]{5}|\(\w+\)")


class Skipped(Exception):
    """What this machine lacks for the fault."""


@dataclass
class Fault:
    """A fault. `act` causes it on a stage, and says when a cause has ended."""

    name: str
    meaning: str
    act: Callable
    conf: str = ""
    pooler: dict = field(default_factory=dict)
    descriptors: tuple | None = None
    # Something to be set up before PostgreSQL: gives keyword arguments for it. Raises Skipped.
    place: Callable | None = None
    # A class of what is between Carpool and PostgreSQL.
    relay: type | None = None


FAULTS = {}


def fault(name, meaning, **options):
    """Registers a fault."""
    def register(act):
        FAULTS[name] = Fault(name, meaning, act, **options)
        return act
    return register


@dataclass
class Result:
    """A line of the table."""

    fault: Fault
    checks: list = field(default_factory=list)
    errors: dict = field(default_factory=dict)
    texts: dict = field(default_factory=dict)
    recoveries: list = field(default_factory=list)
    summary: str = ""
    skipped: str = ""

    @property
    def failed(self):
        return [(what, detail) for what, good, detail in self.checks if not good]


class Stage:
    """PostgreSQL, Carpool and the bank."""

    def __init__(self, fault, options, home, result):
        self.fault, self.options, self.home, self.result = fault, options, home, result
        self.seconds, self.bank = options.seconds, Bank(options.seed)
        self.postgres = self.carpool = self.console = None
        # Commands that undo what is outside the two.
        self.afterwards = []
        # Of Carpool's environment.
        self.environment = {}

    async def open(self, place):
        self.postgres = await asyncio.to_thread(Postgres, self.home, self.fault.conf, **place)
        await self.postgres.start()
        await self.postgres.sql("create role app login;\ncreate database bank", "postgres")
        await self.postgres.sql(SCHEMA.strip())
        server = (self.postgres.host, self.postgres.port)
        if self.fault.relay:
            self.relay = self.fault.relay(self.postgres)
            await self.relay.start()
            server = ("127.0.0.1", self.relay.port)
        self.carpool = await Carpool(self.options.carpool, self.home, server, self.fault.pooler,
                                     self.fault.descriptors, self.environment).started()
        self.console = await Console.connect(self.carpool.port, "pgbouncer", "postgres")
        self.descriptors = self.carpool.descriptors()

    async def load(self):
        """Opens the bank for business."""
        self.bank.open(self.carpool.port, TELLERS)
        await self.full_use(0)
        await self.everybody(Counter())
        begun = time.monotonic()
        await self.full_use(self.bank.committed_by.total())
        self.pace = time.monotonic() - begun

    async def full_use(self, since):
        """Waits until all servers are there, and as many transfers are done as there are tellers."""
        async def reached():
            pools = await self.console.table("show pools")
            mine = [pool for pool in pools if pool["database"] == "bank" and pool["user"] == "app"]
            servers = sum(int(pool[state]) for pool in mine for state in ("sv_active", "sv_idle", "sv_used"))
            return servers == POOL_SIZE and self.bank.committed_by.total() - since >= len(self.bank.tellers)
        await until("the pool is in full use again", reached)

    async def everybody(self, before):
        """Waits until every teller has got something done: how long that takes is the drivers' business, too."""
        async def reached():
            return all(self.bank.committed_by[n] > before[n] for n in range(len(self.bank.tellers)))
        await until("every teller goes on", reached)

    async def cause_ended(self):
        """Measures the way back from now on."""
        begun, before = time.monotonic(), Counter(self.bank.committed_by)
        await self.full_use(before.total())
        self.result.recoveries.append(time.monotonic() - begun)
        await self.everybody(before)

    def check(self, what, good, detail=""):
        self.result.checks.append((what, bool(good), detail))

    async def close_bank(self):
        await self.bank.close()
        self.result.errors, self.result.texts = dict(self.bank.errors), self.bank.texts

    async def judge(self):
        """What holds when a fault is over, and the bank closed."""
        direct = await self.postgres.direct()
        async for what, good, detail in self.bank.check(direct):
            self.check(what, good, detail)
        direct.close()
        self.result.summary = self.bank.summary
        unnamed = [code for code in self.bank.errors if not SQLSTATE.fullmatch(code) or code == "XX000"]
        self.check("errors have SQLSTATEs", not unnamed, {code: self.bank.texts[code] for code in unnamed})
        slow = [f"{seconds:.2f} s" for seconds in self.result.recoveries if seconds > self.options.recovery + self.pace]
        self.check(f"back within {self.options.recovery:g} s", not slow,
                   f"{', '.join(slow)}, and {self.pace:.2f} s for as many transfers without a fault")
        await self._check_leaks()
        log = self.carpool.log.read_text()
        self.check("no panic", "panicked" not in log, log[-500:] if "panicked" in log else "")

    async def _check_leaks(self):
        clients, servers, backends, descriptors = [], [], [], 0

        async def balanced():
            nonlocal clients, servers, backends, descriptors
            clients = [c for c in await self.console.table("show clients") if c["database"] != "pgbouncer"]
            servers = [s["state"] for s in await self.console.table("show servers")]
            sql = "select state from pg_stat_activity where usename = 'app'"
            backends = [row[0] for row in await self.postgres.sql(sql, "postgres")]
            descriptors = self.carpool.descriptors() - self.descriptors
            return (not clients and set(servers) <= {"idle", "used"} and set(backends) <= {"idle"}
                    and len(servers) == len(backends) <= POOL_SIZE and descriptors <= len(servers))
        try:
            await until("the balance", balanced, 10)
            good = True
        except Failure:
            good = False
        self.check("nothing leaked", good, "" if good else
                   f"clients {clients}, servers {servers}, backends {backends}, {descriptors} descriptors more")

    async def close(self):
        if self.console:
            self.console.close()
        if self.carpool:
            self.carpool.stop()
        if self.postgres:
            await self.postgres.stop(signal.SIGQUIT)
        for command in self.afterwards:
            run(command)


async def play(fault, options):
    """One fault from set-up to checks."""
    result = Result(fault)
    with temporary_directory() as home:
        stage = Stage(fault, options, home, result)
        try:
            place = fault.place(stage) if fault.place else {}
            await stage.open(place)
            await stage.load()
            await fault.act(stage)
            await asyncio.sleep(min(1, options.seconds))
            await stage.close_bank()
            await stage.judge()
        except Skipped as why:
            result.skipped = str(why)
        except (Failure, Lost, ServerError, Stuck, AssertionError) as error:
            stage.check("the course of things", False, f"{error!r}; {dict(stage.bank.errors)}")
        finally:
            stage.bank.stopping.set()
            await stage.close()
            if result.failed and options.keep and stage.carpool:
                (options.keep / f"{fault.name}.log").write_bytes(stage.carpool.log.read_bytes())
    return result
