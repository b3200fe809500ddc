"""One application floods the pool: how long another waits, by how they share the pool's servers (`share_by`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import stack
from cells import Bench, Progress
from stack import DATABASE, KINDS, PASSWORD, USER, Kind, axum
from why import Relay

# One way of the network between the pooler and PostgreSQL, seconds: servers are busy by waiting, as they are with slow
# queries, and the processors have something left. So it is seen who waits for a server, not who waits for a core.
DELAY = 0.010
# Clients of the application that floods, each with a connection of its own, and of the other: one for each worker.
FLOOD, FEW = 500, 5
SHARED = ["none", "application_name", "user"]
# So often the seconds of other cells: few clients, each with a request in a second or so, make few requests.
LONGER = 2

SYNC = replace(next(kind for kind in KINDS if kind.key == "django"), connections=FEW)
ASYNC = axum("axum", "axum, statements prepared, as many connections as requests", "prepared", FLOOD)


def cells() -> list[tuple[str, list[Kind]]]:
    """How each is shared, and who runs."""
    return [("none", [SYNC]), *((by, [SYNC, ASYNC]) for by in SHARED)]


def measure(
    bench: Bench,
    carpool: Any,
    progress: Callable[[str], Progress],
    done: Callable[[str], None],
) -> list[dict[str, Any]]:
    bench = bench.lasting(LONGER * bench.seconds)
    relay = Relay(bench, bench.postgres.port, DELAY)
    rows = []
    try:
        for by, kinds in cells():
            pooler = stack.carpool(bench.machine, bench.postgres, carpool, relay.port, sharing(by))
            alone = len(kinds) == 1
            name = "django, alone" if alone else f"django and a flood, share_by = {by}"
            measured = bench.measure(
                kinds,
                pooler,
                progress(name),
                url=lambda kind, pooler=pooler, by=by: address(pooler.port, kind, by),
                clients={SYNC.key: FEW, ASYNC.key: FLOOD},
                max_requests=FLOOD,
                also={"relay": [relay.process.pid]},
            )
            bench.machine.stop(pooler.processes)
            rows.append({"share_by": by, "alone": alone, **measured})
            sync = measured["apps"][SYNC.key]
            done(f"{name}: p50 {sync['percentiles']['50']:.0f} ms, p99 {sync['percentiles']['99']:.0f} ms")
    finally:
        bench.machine.stop([relay.process])
    return rows


def sharing(by: str) -> stack.Sharing:
    # As one role for all: users who log in to PostgreSQL by themselves share in any case.
    users = [kind.key for kind in (SYNC, ASYNC)] if by == "user" else []
    return stack.Sharing(by, users)


def address(port: int, kind: Kind, by: str) -> str:
    user = kind.key if by == "user" else USER
    return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}?sslmode=disable&application_name={kind.key}"
