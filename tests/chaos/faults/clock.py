"""What happens to the clock."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stage import Skipped, fault
from wire import Client


def another_clock(stage):
    """Carpool's wall clock is what a file says. The clock that only counts isn't touched, as by those who set a clock."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if not library:
        raise Skipped("libfaketime isn't installed")
    stage.clock = stage.home / "clock"
    stage.clock.write_text("+0")
    stage.environment = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(stage.clock), "FAKETIME_NO_CACHE": "1",
                         "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return {}


@fault("clock", "the wall clock jumps a day ahead, and two back", place=another_clock)
async def clock(stage):
    today = datetime.now(UTC).date()
    for days in (1, -1, 0):
        stage.clock.write_text(f"{days:+}d")
        await asyncio.sleep(stage.seconds / 3)
        await stage.cause_ended()
        client = await Client.connect(stage.carpool.port, "bank")
        newest = str(today + timedelta(days))
        shown = [row["connect_time"][:10] for row in await stage.console.table("show clients")]
        stage.check(f"by {days:+} days: Carpool has seen it", newest in shown, set(shown))
        client.close()
    stage.check("nobody was told an error", not stage.bank.errors, dict(stage.bank.errors))
