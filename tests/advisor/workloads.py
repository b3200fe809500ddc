"""The workloads that the advisor is measured with: what each client of them does."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

# Rows that the lock-bound workload's transactions fight for.
HOT_ROWS = 2
# Rows that a query of the CPU-bound one generates: some milliseconds.
CPU_ROWS = 60_000


@dataclass(frozen=True)
class Group:
    """Clients of one kind."""

    clients: int
    # One transaction, and then the pause in seconds; `clock` is when the run began.
    transaction: Callable[[asyncpg.Connection, random.Random], Awaitable[None]]
    pause: Callable[[random.Random, float], float]
    application: str = "app"


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    # The size whose trace is known, and those that are predicted from it.
    seen: int
    unseen: tuple[int, ...]
    groups: tuple[Group, ...]


def thinks(mean: float) -> Callable[[random.Random, float], float]:
    return lambda dice, _: dice.expovariate(1 / mean)


def ticks(period: float) -> Callable[[random.Random, float], float]:
    """All at once, by the clock."""
    return lambda dice, began: period - (time.monotonic() - began) % period + dice.uniform(0, 0.004)


def sleeps(seconds: Callable[[random.Random], float]) -> Callable[[asyncpg.Connection, random.Random], Awaitable[None]]:
    async def transaction(connection: asyncpg.Connection, dice: random.Random) -> None:
        await connection.execute(f"select pg_sleep({seconds(dice):.6f})")

    return transaction


async def computes(connection: asyncpg.Connection, dice: random.Random) -> None:
    await connection.execute(f"select sum(sqrt(i)) from generate_series(1, {CPU_ROWS}) i")


async def locks(connection: asyncpg.Connection, dice: random.Random) -> None:
    row = dice.randrange(HOT_ROWS)
    await connection.execute(
        f"begin; update hot set n = n + 1 where id = {row}; select pg_sleep(0.004); commit"
    )


def long_tail(dice: random.Random) -> float:
    kind = dice.random()
    mean = 0.004 if kind < 0.95 else 0.03 if kind < 0.99 else 0.2
    return mean * math.exp(dice.gauss(0, 0.4))


WORKLOADS = (
    Workload(
        "steady", "24 clients, 10 ms each, pauses of 60 ms on average", 10, (4, 5, 7),
        (Group(24, sleeps(lambda dice: dice.uniform(0.008, 0.012)), thinks(0.06)),),
    ),
    Workload(
        "bursty", "20 clients that come all at once twice a second, 8 ms each", 4, (2, 8, 16),
        (Group(20, sleeps(lambda dice: 0.008), ticks(0.5)),),
    ),
    Workload(
        "long tail", "24 clients, 4 ms mostly, 30 ms at times, 200 ms for one in a hundred; pauses of 60 ms", 8, (3, 5, 12),
        (Group(24, sleeps(long_tail), thinks(0.06)),),
    ),
    Workload(
        "CPU-bound", "16 clients that compute for some milliseconds on all cores; pauses of 120 ms", 8, (2, 4, 12),
        (Group(16, computes, thinks(0.12)),),
    ),
    Workload(
        "lock-bound", f"24 clients that lock one of {HOT_ROWS} rows for 4 ms; pauses of 80 ms", 12, (3, 6, 20),
        (Group(24, locks, thinks(0.08)),),
    ),
    Workload(
        "two apps", "16 clients with 3 ms each and pauses of 40 ms, 6 others with 60 ms and 150 ms", 10, (4, 6, 8),
        (
            Group(16, sleeps(lambda dice: 0.003), thinks(0.04), "web"),
            Group(6, sleeps(lambda dice: dice.uniform(0.04, 0.08)), thinks(0.15), "batch"),
        ),
    ),
)


async def client(group: Group, number: int, connection: asyncpg.Connection, began: float, until: asyncio.Event) -> None:
    dice = random.Random(f"{group.application} {number}")
    while not until.is_set():
        await asyncio.sleep(group.pause(dice, began))
        await group.transaction(connection, dice)
