"""What the runs gave, and whether that is what `accepted.toml` says."""

import re
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

# In a row of the table.
MOST_NAMES = 6
ACCEPTED = Path(__file__).resolve().parent / "accepted.toml"


@dataclass
class Score:
    """The runs of one suite in one set-up, taken together."""

    suite: str
    setup: str
    runs: int = 0
    #: For each test, in how many runs it failed, and how it failed last.
    tests: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    seconds: float = 0
    transactions: int | None = None
    pinned: int | None = None

    def add(self, results, seconds, transactions, pinned):
        self.runs += 1
        self.seconds += seconds
        self.transactions = _sum(self.transactions, transactions)
        self.pinned = _sum(self.pinned, pinned)
        for test, failure in results.items():
            count, before = self.tests.get(test, (0, None))
            self.tests[test] = (count + (failure is not None), failure or before)

    @property
    def failed(self):
        return {test: failure for test, (count, failure) in self.tests.items() if count}

    def failures_of(self, test):
        return self.tests[test][0]


def _sum(total, more):
    return more if total is None else total if more is None else total + more


@dataclass
class Difference:
    """An accepted one. A `*` in a test's name stands for anything.

    `sometimes`: it depends on the moment, so that it is no news when the test passes.
    """

    suite: str
    tests: list[str]
    setups: list[str]
    reason: str
    sometimes: bool = False

    def matching(self, score):
        """For each of its names, the tests of a score that bear it."""
        if self.suite != score.suite or score.setup not in self.setups:
            return {}
        return {name: [test for test in score.tests if _bears(test, name)] for name in self.tests}


def _bears(test, name):
    return re.fullmatch(".*".join(map(re.escape, name.split("*"))), test) is not None


def load_accepted():
    with open(ACCEPTED, "rb") as file:
        return [Difference(**entry) for entry in tomllib.load(file).get("difference", [])]


def verdict(scores, accepted):
    """What doesn't agree with the accepted differences, as lines of text."""
    lines = []
    for score in scores:
        expected = set()
        for difference in accepted:
            for name, tests in difference.matching(score).items():
                expected.update(tests)
                if tests and not difference.sometimes and not any(test in score.failed for test in tests):
                    lines.append(f"{score.suite}/{name} passed, {score.setup}: take it out of {ACCEPTED.name}")
        for test, failure in score.failed.items():
            if test not in expected:
                often = f" in {score.failures_of(test)} of {score.runs} runs" if score.runs > 1 else ""
                lines.append(f"{score.suite}/{test} failed{often}, {score.setup}: {failure}")
    return lines


def table(scores):
    """The scoreboard, in Markdown."""
    lines = ["| suite | set-up | passed | pinned transactions | seconds | failed |", "|---|---|---:|---:|---:|---|"]
    for score in scores:
        total, failed = len(score.tests), score.failed
        pinned = "–"
        if score.pinned is not None and score.transactions:
            pinned = f"{score.pinned} of {score.transactions} ({100 * score.pinned / score.transactions:.1f} %)"
        runs = f", {score.runs} runs" if score.runs > 1 else ""
        lines.append(f"| {score.suite} | {score.setup}{runs} | {total - len(failed)} of {total} | {pinned} | "
                     f"{score.seconds / max(score.runs, 1):.0f} | {names_of_failed(score)} |")
    return "\n".join(lines)


def names_of_failed(score):
    names = []
    for test in score.failed:
        count = score.failures_of(test)
        names.append(test if count == score.runs else f"{test} ({count} of {score.runs})")
    if len(names) > MOST_NAMES:
        return f"{', '.join(names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"
    return ", ".join(names) or "–"


def against_direct(scores):
    """For each suite, what fails directly, and in each set-up what differs from that."""
    by_suite = defaultdict(dict)
    for score in scores:
        by_suite[score.suite][score.setup] = score.failed.keys()
    lines = []
    for suite, setups in by_suite.items():
        if "direct" not in setups:
            continue
        direct = setups.pop("direct")
        lines.append(f"{suite}, direct: {_listed(direct)} failed")
        for setup, failed in setups.items():
            lines.append(f"{suite}, {setup}: beyond that {_listed(failed - direct)} failed"
                         + (f"; {_listed(direct - failed)} passed" if direct - failed else ""))
    return "\n".join(lines)


def _listed(tests):
    """Names, the variants of one test taken together."""
    variants = Counter(test.partition("[")[0] for test in tests)
    return ", ".join(f"{test} ({n} variants)" if n > 1 else test for test, n in sorted(variants.items())) or "nothing"
