"""What the driver scripts share.

Each script is run as `python SCRIPT URL DIRECT_URL`. A check gets a URL and gives a transcript: a list of all
that it has seen. Several workers run the check, each with a schema and settings of its own, first on direct
connections, then through Carpool all at once. Each must see the same both times.
"""

import asyncio
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass

PATIENCE = 30
TIME_ZONES = ["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin"]
DATE_STYLES = ["ISO, MDY", "ISO, DMY", "ISO, YMD", "ISO, DMY"]


@dataclass(frozen=True)
class Worker:
    """One of several that do the same in other surroundings."""

    number: int
    direct: bool

    @property
    def schema(self):
        return f"w{self.number}"

    @property
    def time_zone(self):
        return TIME_ZONES[self.number % len(TIME_ZONES)]

    @property
    def date_style(self):
        return DATE_STYLES[self.number % len(DATE_STYLES)]

    @property
    def application_name(self):
        return f"worker {self.number} 'quoted\\'"

    @property
    def settings(self):
        """Startup parameters by name."""
        return {
            "application_name": self.application_name,
            "search_path": self.schema,
            "TimeZone": self.time_zone,
            "DateStyle": self.date_style,
        }

    @property
    def options(self):
        """The same but for the application's name as libpq's `options`."""
        pairs = [(n, v) for n, v in self.settings.items() if n != "application_name"]
        return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in pairs)

    @property
    def marker(self):
        """A comment that finds this worker's queries in pg_stat_activity."""
        return f"/* {self.schema} {'direct' if self.direct else 'pooled'} {os.getpid()} */"


def urls():
    url, direct = sys.argv[1:3]
    return url, direct


def same(worker, direct, pooled):
    """Fails when two transcripts differ, showing where."""
    for at, (want, got) in enumerate(zip(direct, pooled)):
        assert want == got, f"{worker}: step {at}\ndirect: {want!r}\npooled: {got!r}\nbefore: {direct[max(0, at - 3):at]!r}"
    assert len(direct) == len(pooled), f"{worker}: {len(direct)} steps direct, {len(pooled)} pooled"


def compare(check, workers=4):
    """Runs `check(url, worker)` as the module says."""
    url, direct_url = urls()
    direct = [check(direct_url, Worker(n, True)) for n in range(workers)]
    assert all(len(transcript) > 5 for transcript in direct), "hardly anything was seen"
    assert direct[0] != direct[1], "workers see the same: they wouldn't notice each other's settings"
    results = [None] * workers

    def run(number):
        try:
            results[number] = check(url, Worker(number, False))
        except BaseException:
            results[number] = traceback.format_exc()

    # Daemons: one that hangs must not keep the failure of another from being seen.
    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(workers)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 2 * PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    judge(direct, ["it hangs" if result is None else result for result in results])


def compare_async(check, workers=4):
    """The same for coroutines: all workers in one event loop."""
    asyncio.run(compare_tasks(check, workers))


async def compare_tasks(check, workers):
    url, direct_url = urls()
    direct = [await check(direct_url, Worker(n, True)) for n in range(workers)]
    assert direct[0] != direct[1], "workers see the same: they wouldn't notice each other's settings"

    async def run(number):
        try:
            async with asyncio.timeout(2 * PATIENCE):
                return await check(url, Worker(number, False))
        except Exception:
            return traceback.format_exc()

    judge(direct, await asyncio.gather(*(run(n) for n in range(workers))))


def judge(direct, results):
    failures = [f"worker {n} failed:\n{r}" for n, r in enumerate(results) if isinstance(r, str)]
    assert not failures, "\n".join(failures)
    for number, (want, got) in enumerate(zip(direct, results)):
        same(Worker(number, False), want, got)
    print(f"{len(direct)} workers agree on {sum(map(len, direct))} steps")


def until(condition, what):
    """Waits until `condition()` is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.01)


async def until_async(condition, what):
    """Waits until `await condition()` is true."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(0.01)


# Finds sleeping queries by a part of their text.
SLEEPING = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and query like '%%' || %s || '%%'"
