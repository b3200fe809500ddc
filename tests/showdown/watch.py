"""Samples what runs: CPU and memory of groups of processes, and what the pool's connections do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from machine import Failed

PERIOD = 0.5  # seconds
STOP_TIMEOUT = 30
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Series:
    """One group of processes over time."""

    # Seconds since the watch began.
    at: list[float] = field(default_factory=list)
    # Percent of one core, since the sample before.
    cpu: list[float] = field(default_factory=list)
    # MB (10^6 bytes): resident sizes added up, as psrecord does, so that what processes share counts for each.
    memory: list[float] = field(default_factory=list)
    # MB, what is shared counted once; at the end.
    proportional: float = 0.0


@dataclass
class PoolSeries:
    at: list[float] = field(default_factory=list)
    active: list[int] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def families() -> dict[int, list[int]]:
    """The children of each process."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    return children


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(root: int, children: dict[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time, of children that have ended, too."""
    return sum(sum(map(int, fields[11:15])) for fields in map(stat, pids) if fields) / TICK


def machine_seconds() -> float:
    """Time that all cores were not idle."""
    user, nice, system, _idle, _iowait, *interrupts = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    # What other machines took of this one's cores (steal) included.
    return (user + nice + system + sum(interrupts)) / TICK


def resident(pids: list[int]) -> float:
    return sum(int(fields[21]) for fields in map(stat, pids) if fields) * PAGE / 1e6


def proportional(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (OSError, ProcessLookupError):
            continue
        total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total * 1024 / 1e6


class Watch(threading.Thread):
    """Samples from `start` until `stop`. `pool` gives active, idle and waiting connections, or raises."""

    def __init__(self, groups: dict[str, list[int]], pool: Callable[[], tuple[int, int, int]]):
        super().__init__(daemon=True)
        self.groups = {name: Series() for name in groups}
        self.pool = PoolSeries()
        # Percent of one core that anything else on the machine used, the mean.
        self.foreign = 0.0
        self.failure: Exception | None = None
        self._roots, self._ask_pool = groups, pool
        self._ending = threading.Event()

    def run(self) -> None:
        began = last = time.monotonic()
        busy = machine_seconds()
        before = {name: cpu_seconds(pids) for name, pids in self._members().items()}
        try:
            while not self._ending.wait(max(0.0, last + PERIOD - time.monotonic())):
                now = time.monotonic()
                members = self._members()
                for name, pids in members.items():
                    used = cpu_seconds(pids)
                    series = self.groups[name]
                    series.at.append(now - began)
                    series.cpu.append(max(0.0, 100 * (used - before[name]) / (now - last)))
                    series.memory.append(resident(pids))
                    before[name] = used
                last = now
                self._sample_pool(now - began)
            own = sum(sum(series.cpu) / max(len(series.cpu), 1) for series in self.groups.values())
            self.foreign = max(0.0, 100 * (machine_seconds() - busy) / (time.monotonic() - began) - own)
            for name, pids in self._members().items():
                self.groups[name].proportional = proportional(pids)
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self._ending.set()
        self.join(STOP_TIMEOUT)
        if self.is_alive():
            raise Failed(f"the pooler's console or PostgreSQL hasn't told its connections for {STOP_TIMEOUT} s")
        if self.failure:
            raise Failed(f"what runs can't be watched: {self.failure}") from self.failure

    def _members(self) -> dict[str, list[int]]:
        children = families()
        return {name: [pid for root in roots for pid in tree(root, children)] for name, roots in self._roots.items()}

    def _sample_pool(self, at: float) -> None:
        active, idle, waiting = self._ask_pool()
        self.pool.at.append(at)
        self.pool.active.append(active)
        self.pool.idle.append(idle)
        self.pool.waiting.append(waiting)
