"""Runs public test suites directly, and through Carpool in several set-ups, and prints the scoreboard.

Everything that is downloaded or written lies in .cache/conformance. The exit code is 0 when exactly the tests failed
that accepted.toml names.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

import carpool
import postgres
import scoreboard
from suites.isolation import Isolation
from suites.libpq_pipeline import LibpqPipeline
from suites.psycopg3 import Psycopg3
from suites.regress import Regress
from suites.tokio_postgres import TokioPostgres
from system import CACHE, ROOT, Failure, check_access, fresh_directory, progress

SUITES = {suite.name: suite for suite in (Regress(), Isolation(), LibpqPipeline(), TokioPostgres(), Psycopg3())}
# What `make test` runs: tests of the regression suite that need no others', and libpq's.
QUICK = {
    "regress": ["guc", "prepared_xacts", "plancache", "prepare", "portals_p2", "transactions", "advisory_lock", "async",
                "copydml", "combocid", "largeobject", "namespace", "returning", "conversion", "copy2", "plpgsql",
                "rangefuncs", "xmlmap"],
    "isolation": ["simple-write-skew", "nowait", "skip-locked", "insert-conflict-do-nothing", "delete-abort-savept"],
    "libpq_pipeline": [],
}
NOT_AS_ACCEPTED = 1
NOT_RUN = 2


def arguments():
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("--suites", type=names(SUITES), default=list(SUITES), help=f"of {', '.join(SUITES)}")
    parser.add_argument("--setups", type=names(carpool.SETUPS), default=list(carpool.SETUPS),
                        help=f"of {', '.join(carpool.SETUPS)}")
    parser.add_argument("--tests", type=lambda text: text.split(","), default=[],
                        help="only these, of the one suite that is given; in this order")
    parser.add_argument("--quick", action="store_true", help="the part that `make test` runs, in transaction mode")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each suite in each set-up so often")
    parser.add_argument("--carpool", type=Path, default=ROOT / "target/release/carpool", help="the binary")
    parser.add_argument("--config", default="", metavar="LINES", help="further lines of Carpool's [pooler] section")
    options = parser.parse_args()
    if options.tests and len(options.suites) != 1:
        parser.error("--tests needs --suites with one suite")
    options.tests = dict.fromkeys(options.suites, options.tests)
    if options.quick:
        options.suites, options.setups, options.tests = list(QUICK), ["transaction"], QUICK
    return options


def names(known):
    def parse(text):
        wanted = text.split(",")
        if unknown := [name for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: there are {', '.join(known)}")
        return wanted
    return parse


def run_one(installation, suite, setup, number, options):
    """One suite in one set-up, before a cluster of its own: results, seconds, transactions and pinned ones."""
    output = fresh_directory(CACHE / "results" / suite.name / setup.name / str(number))
    port = suite.port if setup.pooler is None else None
    with installation.cluster(suite.settings, suite.encoding, port) as cluster:
        with carpool.target(options.carpool, cluster, setup, output, suite, options.config) as target:
            begin = time.monotonic()
            results = suite.run(target, options.tests[suite.name])
            seconds = time.monotonic() - begin
            counts = target.carpool.counts() if target.carpool else (None, None)
        (output / "postgresql.log").write_bytes((cluster.home / "log").read_bytes())
    return results, seconds, *counts


def run_all(options):
    installation = postgres.Installation()
    scores = []
    for suite in (SUITES[name] for name in options.suites):
        suite.prepare()
        for setup in (carpool.SETUPS[name] for name in options.setups):
            score = scoreboard.Score(suite.name, setup.name)
            scores.append(score)
            for number in range(1, options.repeat + 1):
                progress(f"{suite.title}, {setup.meaning} …")
                score.add(*run_one(installation, suite, setup, number, options))
                progress(f"  {len(score.tests) - len(score.failed)} of {len(score.tests)} passed, "
                         f"{score.seconds / score.runs:.0f} s" + failed(score))
    return installation.version, scores


def failed(score):
    return "; failed: " + scoreboard.names_of_failed(score) if score.failed else ""


def main():
    # Ends the clusters, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_RUN))
    options = arguments()
    try:
        check_access()
        version, scores = run_all(options)
    except Failure as failure:
        print(f"conformance: {failure}", file=sys.stderr)
        return NOT_RUN
    print(f"PostgreSQL {version}; pool of {carpool.POOL_SIZE}\n\n{scoreboard.table(scores)}\n")
    if comparison := scoreboard.against_direct(scores):
        print(comparison + "\n")
    wrong = scoreboard.verdict(scores, scoreboard.load_accepted())
    if wrong:
        print(f"Not as {scoreboard.ACCEPTED.relative_to(ROOT)} says:\n" + "\n".join(wrong))
        print(f"\nOutput and differences: {(CACHE / 'results').relative_to(ROOT)}/SUITE/SET-UP/RUN")
        return NOT_AS_ACCEPTED
    print("As accepted.")
    return 0


sys.exit(main())
