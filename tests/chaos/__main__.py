"""Faults against real PostgreSQL, under the load of a bank whose books are checked against what its clients were told.

Each fault has a PostgreSQL and a Carpool of its own, on free ports. The exit code is 0 when every check of every fault
passed; what this machine can't do is skipped, and said so.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import world  # noqa: F401 makes what is shared with tests/conformance importable
import faults  # noqa: F401
import soak
import stage
from system import ROOT, Failure, is_root, progress


def arguments():
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--faults", type=names, default=list(stage.FAULTS), help=f"of {', '.join(stage.FAULTS)}")
    parser.add_argument("--seconds", type=float, default=3, help="how long a cause lasts (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="all of it so often")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the tellers' choices")
    parser.add_argument("--recovery", type=float, default=stage.RECOVERY, metavar="SECONDS",
                        help="how long the way back may take (default: %(default)s)")
    parser.add_argument("--carpool", type=Path, default=ROOT / "target/release/carpool", help="the binary")
    parser.add_argument("--keep", type=Path, default=ROOT / "target/chaos", metavar="DIR",
                        help="for logs of faults with failed checks (default: %(default)s)")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="mixed load for so long, with faults in between, instead")
    parser.add_argument("--quick", action="store_true", help="the part that `make test` runs, without a time for the way back")
    options = parser.parse_args()
    if not 0 < options.seconds <= 20:
        parser.error("--seconds: up to 20, as who waits for 30 is told so")
    if options.soak:
        # What is looked at is what grows, and what is lost.
        options.recovery = 60
    if options.quick:
        options.faults, options.seconds, options.recovery = ["crash"], 1, 60
    return options


def names(text):
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in stage.FAULTS]:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: there are {', '.join(stage.FAULTS)}")
    return wanted


def table(results):
    """As Markdown."""
    yield "| fault | errors told, by SQLSTATE | way back | transfers | checks |"
    yield "|---|---|---|---|---|"
    for result in results:
        if result.skipped:
            yield f"| {result.fault.name} | | | | skipped: {result.skipped} |"
            continue
        errors = ", ".join(f"{code} × {count}" for code, count in sorted(result.errors.items())) or "none"
        back = f"{max(result.recoveries):.2f} s" if result.recoveries else "–"
        passed = len(result.checks) - len(result.failed)
        yield f"| {result.fault.name} | {errors} | {back} | {result.summary} | {passed} of {len(result.checks)} |"


async def play_all(options):
    results = []
    wanted = [soak.SOAK] if options.soak else [stage.FAULTS[name] for name in options.faults]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    for fault in wanted * options.repeat:
        progress(f"{fault.name}: {fault.meaning} …")
        begun = time.monotonic()
        result = await stage.play(fault, options)
        results.append(result)
        if result.skipped:
            progress(f"  SKIPPED: {result.skipped}")
        else:
            progress(f"  {time.monotonic() - begun:.0f} s; " + ("as it should be" if not result.failed else "FAILED"))
        for what, detail in result.failed:
            progress(f"  FAILED: {what}: {detail}")
        for code, text in sorted(result.texts.items()):
            progress(f"  {code} × {result.errors[code]}: {text}")
    return results


def in_a_network_of_its_own():
    """Begins anew there, where that is possible: what is done to the network is gone at the end, and disturbs nobody."""
    apart = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if is_root() and shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True,
                                                                 check=False).returncode == 0:
        os.environ["CARPOOL_CHAOS_NETWORK"] = "own"
        os.execvp("unshare", [*apart, sys.executable, *sys.argv])


def main():
    options = arguments()
    options.keep.mkdir(parents=True, exist_ok=True)
    if "CARPOOL_CHAOS_NETWORK" not in os.environ:
        in_a_network_of_its_own()
    progress(f"seed {options.seed}")
    results = asyncio.run(play_all(options))
    print("\n".join(table(results)))
    return any(result.failed for result in results)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(str(failure))
    except asyncio.CancelledError:
        sys.exit("ended by a signal")
