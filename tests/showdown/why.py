"""Why the article's axum app was slower than Starlette: one change at a time, on loopback and over a network."""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cells import Bench, Progress
from machine import ROOT, Failed, Process, bounded, free_port
from stack import DATABASE, KINDS, USER, Cursor, Kind, Pooler, axum

# One way of the network that the relay makes, seconds.
DELAY = 0.002


@dataclass(frozen=True)
class Step:
    kind: Kind
    what: str
    tls: bool = False


def steps() -> list[Step]:
    starlette = next(kind for kind in KINDS if kind.key == "starlette")
    return [
        Step(starlette, "Starlette: asyncpg keeps prepared statements by itself, and resets each connection after use"),
        Step(replace(starlette, key="starlette-tls"), "the same with TLS between it and the pooler", tls=True),
        Step(
            axum("plain", "plain", "plain", 20), "axum at first: SQL as text, and bb8 asks whether the connection lives"
        ),
        Step(axum("plain-50", "plain, 50", "plain", 50), "the same with a pool of 50"),
        Step(
            axum("plain-unchecked", "plain, no check", "plain", 20, TEST_ON_CHECK_OUT="false"),
            "without bb8's question (`test_on_check_out(false)`)",
        ),
        Step(axum("prepared", "prepared", "prepared", 20), "statements prepared once per connection"),
        Step(axum("pipelined", "pipelined", "pipelined", 20), "what needn't wait is sent at once"),
        Step(axum("single", "single", "single", 20), "one statement whose JSON PostgreSQL builds"),
        Step(axum("single-8", "single, 8", "single", 8), "the same with a pool of 8"),
        Step(axum("single-4", "single, 4", "single", 4), "the same with a pool of 4"),
    ]


class Relay:
    """A network between the applications and the pooler; `stop`ped by the machine."""

    def __init__(self, bench: Bench, target: int, delay: float = DELAY):
        self.port, self._count_port = free_port(), free_port()
        command = [sys.executable, ROOT / "tests/showdown/relay.py", str(self.port), str(target)]
        self.process: Process = bench.machine.start("relay", [*command, str(delay), str(self._count_port)], self.port)
        self.process.wait_until(self.process.accepts)

    def round_trips(self) -> int:
        try:
            with socket.create_connection(("127.0.0.1", self._count_port), 5) as connection:
                return int(connection.recv(64))
        except (OSError, ValueError) as error:
            raise Failed(f"the relay doesn't tell its round trips: {error}\n{self.process.tail()}") from error


def round_trip(port: int) -> float:
    """Milliseconds for `SELECT 1`, the median."""
    times = []
    with Cursor(port, USER, DATABASE) as cursor:
        for _ in range(100):
            began = time.perf_counter()
            cursor.execute("SELECT 1")
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def analyse(
    bench: Bench, pooler: Pooler, progress: Callable[[str], Progress], done: Callable[[str], None]
) -> dict[str, Any]:
    relay = Relay(bench, pooler.port)
    try:
        rows = []
        for step in steps():
            found = row(bench, pooler, relay, step, progress)
            rows.append(found)
            near, far = found["near"]["per_second"], found["far"]["per_second"]
            done(f"{step.kind.key}: {found['round_trips']} round trips, {near:.0f}/s, over a network {far:.0f}/s")
        network = bounded("a hundred round trips over the relay", 30, lambda: round_trip(relay.port))
    finally:
        bench.machine.stop([relay.process])
    loopback = bounded("a hundred round trips", 30, lambda: round_trip(pooler.port))
    return {"steps": rows, "loopback_ms": loopback, "network_ms": network}


def row(bench: Bench, pooler: Pooler, relay: Relay, step: Step, progress: Callable[[str], Progress]) -> dict[str, Any]:
    kind = step.kind
    near = bench.measure([kind], pooler, progress(f"{kind.key}, loopback"), tls=step.tls)
    far = bench.measure(
        [kind],
        pooler,
        progress(f"{kind.key}, network"),
        relay.port,
        relay.round_trips,
        step.tls,
        also={"relay": [relay.process.pid]},
    )
    app = near["apps"][kind.key]

    def per_request(group: dict[str, Any], app: dict[str, Any] = app) -> float:
        return round(10 * group["cpu_mean"] / max(app["per_second"], 0.1), 3)

    return {
        "key": kind.key,
        "title": kind.title,
        "what": step.what,
        "connections": kind.connections,
        "round_trips": round(far["counted"] / far["apps"][kind.key]["requests"], 1),
        "near": {key: app[key] for key in ("per_second", "percentiles", "failed")},
        "far": {key: far["apps"][kind.key][key] for key in ("per_second", "percentiles", "failed")},
        "relay_ms": per_request(far["others"]["relay"], far["apps"][kind.key]),
        "cpu_ms": {
            "app": per_request(app),
            "pooler": per_request(near["others"]["pooler"]),
            "postgres": per_request(near["others"]["postgres"]),
        },
    }
