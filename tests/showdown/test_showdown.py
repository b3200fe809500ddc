"""Unit tests of what the showdown reckons and writes; nothing is started."""

import io
import json
import math
import os
import random
import re
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cells
import form
import load
import watch
from load import Result

try:
    import reasons
    import report
except ModuleNotFoundError as error:
    # Without matplotlib, as in `make test`.
    if error.name != "matplotlib":
        raise
    report = None


class Loads(unittest.TestCase):
    CSV = """request-start,DNS,DNS+dialup,Response-delay,request-duration,bytes,status
0.0,0,0,0.001,0.002,100,200
0.5,0,0,0.001,0.004,100,200
0.9,0,0,0.001,0.3,100,503
"""

    def test_csv_of_oha(self):
        result = load.read(io.StringIO(self.CSV), 1.0)
        self.assertEqual(result.latencies, [2.0, 4.0, 300.0])
        # The last reply came after the end, so that 1.2 seconds were had.
        self.assertAlmostEqual(result.seconds, 1.2)
        self.assertAlmostEqual(result.per_second, 2 / 1.2)
        self.assertEqual(result.failed, 1)

    def test_percentiles(self):
        values = [float(value) for value in range(1, 101)]
        self.assertEqual(load.percentile(values, 50), 51)
        self.assertEqual(load.percentile(values, 99), 100)
        self.assertEqual(load.percentile([7.0], 99), 7.0)
        self.assertTrue(math.isnan(load.percentile([], 50)))


class Histograms(unittest.TestCase):
    def test_each_latency_lies_between_the_edges_of_its_place(self):
        chance = random.Random(1)
        for _ in range(2000):
            latency = 10 ** chance.uniform(-0.9, 4.4)
            found = cells.histogram([latency])
            place = found["first"]
            self.assertEqual(found["counts"], [1])
            self.assertLessEqual(cells.EDGES[place - 1] if place else 0, latency * 1.0000001)
            self.assertGreaterEqual(cells.EDGES[place] * 1.0000001, latency)

    def test_nothing_is_lost(self):
        latencies = [0.0001, 0.05, 1, 10, 10, 1e9]
        self.assertEqual(sum(cells.histogram(latencies)["counts"]), len(latencies))
        self.assertEqual(cells.histogram([]), {"first": 0, "counts": []})


class Watching(unittest.TestCase):
    def test_this_process(self):
        began = watch.cpu_seconds([1])
        self.assertGreaterEqual(began, 0)
        own = [os.getpid()]
        self.assertGreater(watch.resident(own), 1)
        self.assertGreater(watch.proportional(own), 1)
        self.assertIn(os.getpid(), watch.tree(os.getppid(), watch.families()))

    def test_a_process_that_has_ended(self):
        self.assertEqual(watch.stat(2**22 + 1), [])
        self.assertEqual(watch.cpu_seconds([2**22 + 1]), 0)

    def test_peaks_last_a_second(self):
        self.assertEqual(max(cells.smoothed([0, 100, 0])), 50)
        self.assertEqual(cells.smoothed([7]), [7])


def results():
    """As a run leaves them, with made-up figures."""
    series = watch.Series(at=[0.5, 1.0, 1.5], cpu=[10, 60, 30], memory=[20, 21, 22], proportional=15)
    pool = {"at": [0.5, 1.0, 1.5], "active": [1, 25, 3], "idle": [2, 0, 22], "waiting": [0, 7, 0], "most": 25}

    def app(rate):
        latencies = sorted(1000 / rate * (1 + n / 10) for n in range(100))
        return cells.described(Result(2.0, latencies, load.Counter({200: round(rate * 2)})), series)

    found = []
    rates = {"django": 50, "starlette": 400, "axum": 300, "axum-fast": 2000}
    for pooler, name in (("carpool", "Carpool 1"), ("pgbouncer", "PgBouncer 1.18"), ("direct", "no pooler")):
        others = {"postgres": cells.usage(series), "haproxy": cells.usage(series)}
        if pooler != "direct":
            others["pooler"] = cells.usage(series)
        common = {"pooler": pooler, "pooler_name": name, "note": "", "others": others, "pool": pool, "foreign": 30}
        found += [{**common, "cell": key, "apps": {key: app(rate)}} for key, rate in rates.items()]
        found.append({**common, "cell": "all", "apps": {key: app(rates[key] / 3) for key in list(rates)[:3]}})
    steps = [
        {
            "key": key,
            "title": key,
            "what": f"with <{key}>",
            "connections": 20,
            "round_trips": trips,
            "near": {"per_second": 100, "percentiles": {"50": 1, "90": 2, "99": 3}},
            "far": {"per_second": 50, "percentiles": {"50": 1, "90": 2, "99": 3}},
            "cpu_ms": {"app": 1, "pooler": 1, "postgres": 1},
        }
        for key, trips in (("starlette", 10), ("starlette-tls", 10), ("plain", 18), ("prepared", 9), ("single", 1))
    ]
    about = {
        "date": "2025-01-01", "processor": "some", "cores": 2, "seconds": 2.0, "clients": 50, "pool": 25,
        "max_requests": 25, "postgres": "15", "haproxy": "2.6", "oha": "oha 1", "apps": {},
        "flood": {"clients": 500, "few": 5, "network_ms": 20.0, "seconds": 4.0},
        "connections": {"django": 5, "starlette": 20, "axum": 20, "axum-fast": 8},
    }  # fmt: skip
    why = {"steps": steps, "loopback_ms": 0.1, "network_ms": 2.5}
    flood = [
        {
            "share_by": by,
            "alone": rates == {"django": 40},
            "apps": {name: app(rate) for name, rate in rates.items()},
            "others": others,
            "pool": pool,
            "foreign": 7,
        }
        for by, rates in (
            ("none", {"django": 40}),
            ("none", {"django": 2, "axum": 100}),
            ("application_name", {"django": 32, "axum": 90}),
            ("user", {"django": 20, "axum": 90}),
        )
    ]
    cost = [
        {
            "share_by": by,
            "instructions": count,
            "clients": 8,
            "cpu_us": cpu,
            "rounds_us": [cpu - 1, cpu, cpu + 1],
        }
        for by, count, cpu in (("none", 6000, 12.0), ("application_name", 6300, 12.5), ("user", 6150, 11.9))
    ]
    return {"about": about, "cells": found, "flood": flood, "cost": cost, "why": why}


@unittest.skipIf(report is None, "needs matplotlib")
class Reports(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.results = json.loads(json.dumps(results()))
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.directory = Path(scratch.name)
        cls.written = report.write(cls.results, cls.directory)
        cls.markdown = (cls.directory / "report.md").read_text(encoding="utf-8")
        cls.html = (cls.directory / "report.html").read_text(encoding="utf-8")

    def test_the_articles_figures_stand_beside_todays(self):
        lines = self.markdown.splitlines()
        at = next(at for at, line in enumerate(lines) if line.startswith("| starlette | the article (2022) | 495 "))
        rows = [[cell.strip() for cell in line.split("|")[2:4]] for line in lines[at + 1 : at + 4]]
        self.assertEqual(rows, [["Carpool 1", "400"], ["PgBouncer 1.18", "400"], ["no pooler", "400"]])

    def test_tables_are_whole(self):
        lines = self.markdown.splitlines()
        for above, line in zip(lines, lines[1:], strict=False):
            if above.startswith("|") and line.startswith("|"):
                self.assertEqual(above.count("|"), line.count("|"), line)

    def test_every_picture_is_there_twice(self):
        names = re.findall(r"\]\((\S+)\.png\)", self.markdown)
        self.assertEqual(len(names), 4 + 2 * 3)
        self.assertEqual(sorted(self.written), sorted(path.name for path in self.directory.iterdir()))
        for name in names:
            self.assertTrue((self.directory / f"{name}.png").read_bytes().startswith(b"\x89PNG"))
            ElementTree.parse(self.directory / f"{name}.svg")
            self.assertIn(f'src="{name}.svg"', self.html)

    def test_html_is_well_formed_and_escaped(self):
        ElementTree.fromstring(re.sub(r"<(meta[^>]*|img[^>]*)>", r"<\1/>", self.html.removeprefix("<!DOCTYPE html>")))
        self.assertIn("with &lt;single&gt;", self.html)

    def test_who_won_over_the_network_is_read_off_the_figures(self):
        self.assertIn("Starlette is 2.0 times as fast there", reasons.verdict(50, 100))
        self.assertIn("too little of it", reasons.verdict(100, 50))

    def test_the_reason_is_claimed_only_where_the_run_shows_it(self):
        def step(trips, cpu, far):
            return {"round_trips": trips, "cpu_ms": {"app": cpu}, "far": {"per_second": far}}

        plain, starlette = step(18, 0.6, 100), step(10, 1.5, 190)
        self.assertIn("not because of Tokio", reasons.reason(plain, step(9, 0.4, 200), starlette))
        self.assertNotIn("Tokio", reasons.reason(plain, step(9, 0.4, 200), step(10, 0.5, 190)))
        self.assertIn("this run doesn't show it", reasons.reason(plain, step(9, 0.4, 102), starlette))

    def test_what_tls_costs_is_read_off_the_figures(self):
        def step(trips, cpu):
            rate = {"per_second": 100}
            return {"round_trips": trips, "cpu_ms": {"app": cpu}, "near": rate, "far": rate}

        costs = reasons.tls_text({"starlette": step(10, 1), "starlette-tls": step(10.1, 2)})
        self.assertIn("adds no round trips", costs)
        self.assertIn("CPU, 1.00 ms", costs)
        free = reasons.tls_text({"starlette": step(10, 1), "starlette-tls": step(12, 0.9)})
        self.assertIn("adds 2.0 round trips", free)
        self.assertIn("can't be told from noise", free)

    def test_what_sharing_costs_while_nobody_waits(self):
        self.assertIn("at most 300 more of Carpool's own instructions (5.0 %)", self.markdown)
        self.assertIn("the ranges meet", self.markdown)
        self.assertIn("| application_name | 6300 | +300 | 12.5 µs | 11.5 µs | 13.5 µs |", self.markdown)
        rows = self.results["cost"]
        self.assertIn("don't meet", report.cost_text([rows[0], rows[1] | {"rounds_us": [14, 15]}]))

    def test_a_busy_machine_is_admitted(self):
        self.assertIn("up to 30 % of a core", self.markdown)

    def test_a_flood_is_compared_with_none(self):
        self.assertIn("1.25 times what it is alone by `application_name` and 2.00 times", self.markdown)
        self.assertIn("where without it is 20.0 times. So it stays within twice.", self.markdown)
        rows = [line for line in self.markdown.splitlines() if line.startswith(("| – | no |", "| none | yes |"))]
        self.assertEqual([row.split("|")[8].strip() for row in rows], ["1.00", "20.00"])

    def test_a_flood_that_is_too_much_is_admitted(self):
        flood = [row for row in self.results["flood"] if row["share_by"] != "application_name"]
        late = [*flood, flood[1] | {"share_by": "application_name"}]
        self.assertIn("**That is more than twice**", report.flood_text(late, self.results["about"]))

    def test_parts_that_were_not_run_are_left_out(self):
        found = [cell for cell in self.results["cells"] if (cell["pooler"], cell["cell"]) == ("carpool", "axum")]
        with tempfile.TemporaryDirectory() as directory:
            parts = {"why": {}, "flood": [], "cost": [], "cells": found}
            blocks = report.content(self.results | parts, Path(directory))
        text = "\n".join(map(form.markdown, blocks))
        self.assertNotIn("## All at once", text)
        self.assertNotIn("## Why", text)
        self.assertNotIn("## One floods", text)
        self.assertIn("| axum | the article (2022) | 267 |", text)
        self.assertIn("| axum | Carpool 1 | 300 |", text)


if __name__ == "__main__":
    unittest.main()
