"""What clients do."""

import asyncio
import os
import resource
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

from stage import Skipped, fault
from victim import STATES
from world import POOL_SIZE, until
from wire import Client, Lost, ServerError, Stuck

VICTIM = Path(__file__).resolve().parents[1] / "victim.py"
# Of clients that keep a server, fewer than there are servers.
HOLDING = 5
# In MB: of Carpool, beyond what it had, while nobody reads what was asked for.
UNREAD = 64


@asynccontextmanager
async def victims(where, state, count, prefix=()):
    """A process with clients in a state; killed at the end if not before."""
    process = await asyncio.create_subprocess_exec(*prefix, sys.executable, str(VICTIM), str(where), state, str(count),
                                                   stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(process):
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    assert line == b"ready\n", "the clients have failed"


@fault("killed-clients", "SIGKILL of clients that are " + ", ".join(STATES) + ", queued")
async def killed_clients(stage):
    for state in STATES:
        async with victims(stage.carpool.port, state, HOLDING) as process:
            await ready(process)
            await asyncio.sleep(0.1)
        await stage.cause_ended()
        held = await stage.postgres.sql("select count(*) from pg_stat_activity where query like '%victim%' and state = "
                                        "'active' and pid <> pg_backend_pid()")
        stage.check(f"{state}: nothing goes on running", held == [["0"]], held)
    await _killed_in_the_queue(stage)
    gone = await stage.postgres.sql("select count(*) from ledger where id < 0")
    stage.check("nothing of theirs was committed", gone == [["0"]], gone)


async def _killed_in_the_queue(stage):
    async with victims(stage.carpool.port, "in a query", 4 * POOL_SIZE) as process:
        async def waiting():
            clients = await stage.console.table("show clients")
            return sum(client["state"] == "waiting" for client in clients) >= 2 * POOL_SIZE
        # Those who got a server never answer "ready" any more than those who wait.
        await until("clients wait", waiting)
        process.kill()
    await stage.cause_ended()


@fault("never-reading", "clients that ask for 1 GB each, and read nothing")
async def never_reading(stage):
    before, highest, told = stage.carpool.memory(), 0.0, Counter(stage.bank.errors)
    async with victims(stage.carpool.port, "not reading", HOLDING) as process:
        await ready(process)
        done, end = sum(stage.bank.committed_by.values()), time.monotonic() + stage.seconds
        while time.monotonic() < end:
            highest = max(highest, stage.carpool.memory() - before)
            await asyncio.sleep(0.05)
        during = sum(stage.bank.committed_by.values()) - done
    await stage.cause_ended()
    stage.check(f"Carpool took less than {UNREAD} MB more", highest < UNREAD, f"{highest:.1f} MB")
    stage.check("the others went on", during > 0, during)
    stage.check("nobody else was told an error", stage.bank.errors == told, stage.bank.errors - told)


@fault("no-descriptors", "more connections than Carpool may have descriptors: they stay for a while, then go",
       descriptors=(100, 100))
async def no_descriptors(stage):
    silent = []
    while len(silent) < 150:
        silent.append(await asyncio.open_connection("127.0.0.1", stage.carpool.port))
    done = sum(stage.bank.committed_by.values())
    await asyncio.sleep(stage.seconds)
    during = sum(stage.bank.committed_by.values()) - done
    descriptors = len(list(Path(f"/proc/{stage.carpool.process.pid}/fd").iterdir()))
    for _, writer in silent:
        writer.transport.abort()
    await stage.cause_ended()
    client = await Client.connect(stage.carpool.port, "bank")
    stage.check("a new client is served", await client.value("select 'well'") == "well")
    client.close()
    stage.check("they were used up", descriptors >= 98, descriptors)
    stage.check("those who were in went on", during > 0, during)


def many_descriptors(_stage):
    """For both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + 500
    if hard < wanted and os.geteuid() != 0:
        raise Skipped(f"the limit of descriptors is {hard}, less than {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    return {}


CROWD = 10_000


@fault("crowd", f"{CROWD} clients connect at once, each for one query", place=many_descriptors,
       pooler={"max_client_conn": str(CROWD + 100), "max_login_connections": str(CROWD + 100)},
       descriptors=(CROWD + 500, CROWD + 500))
async def crowd(stage):
    outcomes, clients = Counter(), []

    async def one(number):
        try:
            client = await Client.connect(stage.carpool.port, "bank")
            clients.append(client)
            outcomes["right" if await client.value(f"select {number}") == str(number) else "wrong"] += 1
        except (Lost, ServerError) as error:
            stage.bank.note(error)
            outcomes[error.code] += 1
        except Stuck:
            outcomes["stuck"] += 1
    begun = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(CROWD)))
    seconds = time.monotonic() - begun
    shown = len(await stage.console.table("show clients"))
    memory = stage.carpool.memory()
    for client in clients:
        client.close()

    async def gone():
        return len(await stage.console.table("show clients")) <= len(stage.bank.tellers) + 1
    await until("they have left", gone)
    await stage.cause_ended()
    stage.check("all were served", outcomes == {"right": CROWD}, f"{dict(outcomes)} in {seconds:.1f} s")
    stage.check("all were there at once", shown > CROWD, f"{shown} clients, {memory:.0f} MB")
