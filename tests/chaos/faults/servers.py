"""What happens to PostgreSQL."""

import asyncio
import random
import signal
import time
from collections import Counter

from stage import fault
from world import signal_to, until

ROUNDS = 3


async def rounds(stage, cause):
    """Several rounds of something that ends by itself."""
    for _ in range(ROUNDS):
        await cause()
        await stage.cause_ended()


@fault("kill", "kill -9 of PostgreSQL, all of it; a start a second later")
async def kill(stage):
    async def cause():
        await stage.postgres.kill()
        await asyncio.sleep(stage.seconds / ROUNDS)
        await stage.postgres.start()
    await rounds(stage, cause)


@fault("crash", "kill -9 of one backend: PostgreSQL ends all others, and recovers")
async def crash(stage):
    async def cause():
        signal_to(random.choice(await stage.postgres.servers()), signal.SIGKILL)
        # It is up until it has noticed.
        async def down():
            return not await stage.postgres.is_up()
        try:
            await until("PostgreSQL is down", down, 1)
        except Exception:  # noqa: BLE001 it was up again before anybody looked
            pass
        await until("PostgreSQL is up", stage.postgres.is_up)
    await rounds(stage, cause)


@fault("restart", "restarts: fast, immediate, and fast again")
async def restart(stage):
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT):
        await stage.postgres.stop(how)
        await stage.postgres.start()
        await stage.cause_ended()


@fault("terminate", "pg_terminate_backend() at random, twenty times a second")
async def terminate(stage):
    direct = await stage.postgres.direct("postgres")
    ended, until_when = 0, time.monotonic() + stage.seconds
    while time.monotonic() < until_when:
        rows, _ = await direct.run("select pg_terminate_backend(pid) from (select pid from pg_stat_activity "
                                   "where usename = 'app' order by random() limit 1) one")
        ended += len(rows)
        await asyncio.sleep(0.05)
    direct.close()
    await stage.cause_ended()
    stage.check("servers were ended", ended > 0, ended)


@fault("hung", "SIGSTOP of half the backends, with query_timeout = 1; they are woken at the end",
       pooler={"query_timeout": "1"})
async def hung(stage):
    stopped = random.sample(await stage.postgres.servers(), 4)
    for pid in stopped:
        signal_to(pid, signal.SIGSTOP)
    before = sum(stage.bank.committed_by.values())
    await asyncio.sleep(stage.seconds)
    during = sum(stage.bank.committed_by.values()) - before
    for pid in stopped:
        signal_to(pid, signal.SIGCONT)
    await stage.cause_ended()
    # What a stopped backend has locked, nobody else gets at: so how much goes on is a matter of luck.
    stage.check("the hung ones were given up", stage.bank.errors, f"{during} committed meanwhile")


@fault("frozen", "SIGSTOP of PostgreSQL as a whole")
async def frozen(stage):
    told = Counter(stage.bank.errors)
    pids = [stage.postgres.postmaster, *stage.postgres.children()]
    for pid in pids:
        signal_to(pid, signal.SIGSTOP)
    await asyncio.sleep(stage.seconds)
    for pid in pids:
        signal_to(pid, signal.SIGCONT)
    await stage.cause_ended()
    stage.check("nobody was told an error", stage.bank.errors == told, dict(stage.bank.errors - told))


@fault("no-logins", "SIGSTOP of the postmaster, while half the servers are ended: logins hang",
       pooler={"server_connect_timeout": "1"})
async def no_logins(stage):
    victims = random.sample(await stage.postgres.servers(), 4)
    signal_to(stage.postgres.postmaster, signal.SIGSTOP)
    for pid in victims:
        signal_to(pid, signal.SIGTERM)
    before = sum(stage.bank.committed_by.values())
    await asyncio.sleep(stage.seconds)
    during = sum(stage.bank.committed_by.values()) - before
    signal_to(stage.postgres.postmaster, signal.SIGCONT)
    await stage.cause_ended()
    stage.check("the other servers went on", during > 0, during)
