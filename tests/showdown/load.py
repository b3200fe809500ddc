"""The load: oha, and what came of its requests."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from machine import Failed, Machine, Process
from stack import session_cookie

PERCENTILES = (50, 90, 99)
# Seconds: longer than HAProxy's timeouts, after which it answers in the application's place.
PATIENCE = 90


@dataclass
class Result:
    """What one application answered."""

    seconds: float
    # Milliseconds, ascending.
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        return self.statuses[200] / self.seconds

    @property
    def failed(self) -> int:
        return self.statuses.total() - self.statuses[200]

    def percentile(self, percent: float) -> float:
        return percentile(self.latencies, percent)


def percentile(ascending: list[float], percent: float) -> float:
    if not ascending:
        return float("nan")
    return ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]


class Oha:
    """One run of oha, on the way until `result`."""

    def __init__(self, machine: Machine, binary: Path, url: str, seconds: float, clients: int):
        self._out = machine.dir / f"oha-{abs(hash((url, seconds)))}.csv"
        self._out.unlink(missing_ok=True)
        self._seconds, self._url = seconds, url
        command: list[str | Path] = [binary, "--no-tui", "--output-format", "csv", "--output", self._out]
        # Requests on the way at the end are waited for, so that none counts as failed.
        command += ["-z", f"{seconds}s", "-w", "-c", str(clients), "-H", f"Cookie: {session_cookie()}"]
        self.process: Process = machine.start("oha", [*command, f"{url}/api/v1/recipes"], 0)

    def result(self, machine: Machine, patience: float = PATIENCE) -> Result:
        try:
            status = self.process.wait(self._seconds + patience)
        except Failed:
            raise Failed(
                f"requests of {self._url} aren't answered {patience:.0f} s after the end of the load"
            ) from None
        if status != 0:
            raise Failed(f"oha ended with {status}\n{self.process.tail()}")
        machine.stop([self.process])
        with self._out.open(newline="") as rows:
            return read(rows, self._seconds)


def read(rows: object, seconds: float) -> Result:
    """oha's CSV: a line for each request."""
    result = Result(seconds)
    last = 0.0
    for row in csv.DictReader(rows):  # type: ignore[call-overload]
        duration = float(row["request-duration"])
        result.latencies.append(1000 * duration)
        result.statuses[int(row["status"])] += 1
        last = max(last, float(row["request-start"]) + duration)
    result.latencies.sort()
    # Those on the way at the end are counted, so is their time.
    result.seconds = max(seconds, last)
    return result
