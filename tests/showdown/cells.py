"""One measurement: some applications before one pooler, each with its load, all at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from load import PERCENTILES, Oha, Result
from machine import Failed, Machine, Process
from stack import (
    DATABASE,
    MAX_REQUESTS,
    PASSWORD,
    POOL,
    USER,
    App,
    Direct,
    Kind,
    Pooler,
    Postgres,
    haproxy,
    require_same_json,
)
from watch import Series, Watch

WARM_UP = 2.0  # seconds
# The edges of the histograms, milliseconds: 20 for each power of ten.
EDGES = [10 ** (exponent / 20) for exponent in range(-20, 91)]
# What is said while a cell runs: which part of it is over, and the watch.
Progress = Callable[[float, Watch], None]


class Bench:
    """What all measurements need."""

    def __init__(self, machine: Machine, postgres: Postgres, axum: Any, oha: Any, seconds: float, clients: int):
        self.machine, self.postgres = machine, postgres
        self.axum, self.oha = axum, oha
        self.seconds, self.clients = seconds, clients

    def lasting(self, seconds: float) -> Bench:
        """The same with other times."""
        return Bench(self.machine, self.postgres, self.axum, self.oha, seconds, self.clients)

    def measure(
        self,
        kinds: list[Kind],
        pooler: Direct | Pooler,
        progress: Progress,
        port: int | None = None,
        count: Callable[[], int] | None = None,
        tls: bool = False,
        url: Callable[[Kind], str] | None = None,
        clients: dict[str, int] | None = None,
        max_requests: int = MAX_REQUESTS,
        also: dict[str, list[int]] | None = None,
    ) -> dict[str, Any]:
        """The applications on `pooler` (or what listens on `port` before it, or at `url`), as plain data for the
        report. `clients` has those of each application, where not all have as many; `also` processes to watch, too.

        `counted` is by how much `count` grew under the load.
        """
        address = f"127.0.0.1:{port or pooler.port}"
        same = f"postgresql://{USER}:{PASSWORD}@{address}/{DATABASE}?sslmode={'require' if tls else 'disable'}"
        url = url or (lambda _kind: same)
        started: list[Process] = []
        try:
            apps = [App(self.machine, kind, url(kind), self.axum) for kind in kinds]
            started += [app.process for app in apps]
            apps = [app.ready() for app in apps]
            front = haproxy(self.machine, apps, max_requests)
            started.append(front)
            urls = {app.kind.key: f"http://127.0.0.1:{front.port}/{app.kind.key}" for app in apps}
            require_same_json(urls)
            self._load(urls, WARM_UP, clients)
            before = count() if count else 0
            measured = self._measure(apps, urls, front, pooler, progress, clients, also or {})
            return measured | ({"counted": count() - before} if count else {})
        finally:
            self.machine.stop(started)

    def _start(self, urls: dict[str, str], seconds: float, clients: dict[str, int] | None) -> dict[str, Oha]:
        of = clients or {}
        return {
            name: Oha(self.machine, self.oha, url, seconds, of.get(name, self.clients)) for name, url in urls.items()
        }

    def _load(self, urls: dict[str, str], seconds: float, clients: dict[str, int] | None) -> dict[str, Result]:
        running = self._start(urls, seconds, clients)
        return {name: oha.result(self.machine) for name, oha in running.items()}

    def _measure(
        self,
        apps: list[App],
        urls: dict[str, str],
        front: Process,
        pooler: Direct | Pooler,
        progress: Progress,
        clients: dict[str, int] | None,
        also: dict[str, list[int]],
    ) -> dict[str, Any]:
        groups = {app.kind.key: [app.process.pid] for app in apps} | also
        groups |= {"postgres": [self.postgres.process.pid], "haproxy": [front.pid]}
        if pooler.processes:
            groups["pooler"] = [process.pid for process in pooler.processes]
        running = self._start(urls, self.seconds, clients)
        groups["oha"] = [oha.process.pid for oha in running.values()]
        watch = Watch(groups, pooler.counts)
        watch.start()
        began = time.monotonic()
        while time.monotonic() < began + self.seconds:
            time.sleep(0.25)
            progress((time.monotonic() - began) / self.seconds, watch)
        watch.stop()
        results = {name: oha.result(self.machine) for name, oha in running.items()}
        for app in apps:
            app.process.check()
            if not results[app.kind.key].latencies:
                raise Failed(f"{app.kind.key} answered nothing\n{app.process.tail()}")
        most = max((a + i for a, i in zip(watch.pool.active, watch.pool.idle, strict=True)), default=0)
        if pooler.processes and most > POOL:
            raise Failed(f"{pooler.name} had {most} server connections, more than {POOL}")
        return {
            "apps": {name: described(result, watch.groups[name]) for name, result in results.items()},
            "others": {name: usage(series) for name, series in watch.groups.items() if name not in results},
            "pool": vars(watch.pool) | {"most": most},
            "foreign": round(watch.foreign),
        }


def described(result: Result, series: Series) -> dict[str, Any]:
    return {
        "per_second": round(result.per_second, 1),
        "failed": result.failed,
        "requests": result.statuses.total(),
        "seconds": round(result.seconds, 2),
        "percentiles": {str(p): round(result.percentile(p), 2) for p in PERCENTILES},
        "longest": round(result.latencies[-1], 1),
        "histogram": histogram(result.latencies),
        **usage(series),
    }


def usage(series: Series) -> dict[str, Any]:
    return {
        "cpu_peak": round(max(smoothed(series.cpu), default=0), 1),
        "cpu_mean": round(sum(series.cpu) / len(series.cpu), 1) if series.cpu else 0,
        "memory_peak": round(max(series.memory, default=0), 1),
        "proportional": round(series.proportional, 1),
        "at": [round(at, 1) for at in series.at],
        "cpu": [round(cpu, 1) for cpu in series.cpu],
        "memory": [round(memory, 1) for memory in series.memory],
    }


def smoothed(values: list[float]) -> list[float]:
    """Means of two neighbours: a peak lasts for a second at least, as psrecord's samples do."""
    return [(one + other) / 2 for one, other in zip(values, values[1:], strict=False)] or values


def histogram(latencies: list[float]) -> dict[str, Any]:
    """How many requests took less than EDGES[first + n] but no less than the edge before, without the empty ends."""
    counts = [0] * (len(EDGES) + 1)
    for latency in latencies:
        place = math.floor(20 * math.log10(max(latency, 0.01))) + 21
        counts[min(max(place, 0), len(EDGES))] += 1
    used = [place for place, count in enumerate(counts) if count]
    first, last = (used[0], used[-1]) if used else (0, -1)
    return {"first": first, "counts": counts[first : last + 1]}
