"""psycopg 3's own tests, of the release that Ubuntu 24.04 has: its sources on PyPI come without tests."""

import os
import sys
import xml.etree.ElementTree as ElementTree

from downloads import download, prepared, unpack
from suites.common import Suite
from system import Failure, run, run_limited

VERSION = "3.1.17"
SHA256 = "f17f2fad7e4dc32433d0c77a9e143e537c820f66b4132cdc9f210742e07ba4e3"
URLS = [f"{mirror}/pool/universe/p/psycopg3/psycopg3_{VERSION}.orig.tar.xz"
        for mirror in ("http://archive.ubuntu.com/ubuntu", "http://old-releases.ubuntu.com/ubuntu")]
REQUIREMENTS = [f"psycopg-binary=={VERSION}", "typing-extensions==4.12.2", "pytest==7.4.4", "anyio==3.7.1",
                "pproxy==2.7.9"]
# What depends on the machine's speed, on the network, or on no database at all.
SKIPPED = "not slow and not timing and not flakey and not dns and not mypy and not subprocess and not gevent"
# It tries its luck with random numbers, and asks no database.
RANDOM = ["tests/pool/test_pool.py::test_jitter", "tests/pool/test_pool_async.py::test_jitter"]
DATABASE = "psycopg"
SECONDS = 1800


class Psycopg3(Suite):
    name = "psycopg3"
    title = f"psycopg {VERSION}'s tests"
    encoding = "UTF8"
    settings = "max_prepared_transactions = 10\nwal_level = logical"

    def prepare(self):
        self.home = prepared("psycopg3", f"{VERSION} {REQUIREMENTS} {sys.version}", self._prepare)

    def _prepare(self, home):
        archive = home / "source.tar.xz"
        download(URLS, SHA256, archive)
        unpack(archive, home / "source")
        archive.unlink()
        run([sys.executable, "-m", "venv", home / "venv"])
        pip = [home / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, *REQUIREMENTS])

    def run(self, target, tests):
        target.cluster.sql(f"create database {DATABASE}")
        source, output = self.home / "source", target.output
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        environment |= {"PYTHONPATH": f"{source}/psycopg:{source}/psycopg_pool", "PYTHONDONTWRITEBYTECODE": "1",
                        "PSYCOPG_IMPL": "binary"}
        dsn = f"host=127.0.0.1 port={target.port} user=postgres dbname={DATABASE}"
        report = output / "report.xml"
        command = [self.home / "venv/bin/python", "-m", "pytest", "-q", "--test-dsn", dsn, "-m", SKIPPED, "-o",
                   f"cache_dir={output}/cache", "-o", "junit_family=xunit1", f"--junitxml={report}", "-p",
                   "no:randomly", *(f"--deselect={test}" for test in RANDOM), *(tests or ["tests"])]
        ended = run_limited(command, output / "run.log", SECONDS, cwd=source, env=environment)
        if not report.exists():
            raise Failure(f"psycopg's tests {'ended' if ended else 'were ended'} without a report: {output}/run.log")
        return dict(outcomes(report))


def outcomes(report):
    """Each test that wasn't skipped, with the first line of its failure."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').removeprefix('tests.').replace('.', '/')}::{case.get('name')}"
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            yield name, (problem.get("message") or "failed").split("\n")[0][:300]
        elif case.find("skipped") is None:
            yield name, None
