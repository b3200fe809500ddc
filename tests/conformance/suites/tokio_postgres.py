"""tokio-postgres's own tests, from the crate.

They connect as `postgres` without a password, and as other users with ones that are asked for. Carpool has one method
of authentication for all, so `postgres` gets a password, too.
"""

import os
import re

from downloads import download, prepared, unpack
from suites.common import Suite
from system import progress, run, run_limited

VERSION = "0.7.13"
SHA256 = "6c95d533c83082bb6490e0189acaa0bbeef9084e60471b696ca6988cd0541fb0"
URL = f"https://static.crates.io/crates/tokio-postgres/tokio-postgres-{VERSION}.crate"
FEATURES = "with-bit-vec-0_6 with-chrono-0_4 with-eui48-1 with-geo-types-0_6 with-geo-types-0_7 with-jiff-0_1 " \
           "with-serde_json-1 with-smol_str-01 with-time-0_2 with-time-0_3 with-uuid-0_8 with-uuid-1"

HBA = """\
host all pass_user all password
host all md5_user all md5
host all scram_user all scram-sha-256
host all all all trust
"""

# As in the repository's docker/sql_setup.sh.
ROLES = """\
set password_encryption = 'md5'; create role pass_user login password 'password';
create role md5_user login password 'password';
set password_encryption = 'scram-sha-256'; create role scram_user login password 'password';
create extension hstore; create extension citext; create extension ltree;
"""

RESULT = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (?:.* )?(ok|FAILED|ignored.*)$", re.M)
PANIC = re.compile(r"^---- (\S+) stdout ----\n\s*(?:.*panicked at .*\n)?(.+)$", re.M)
SECONDS = 600


class TokioPostgres(Suite):
    name = "tokio-postgres"
    title = f"tokio-postgres {VERSION}'s tests"
    encoding = "UTF8"
    port = 5433
    authentication = 'auth_type = "scram-sha-256"'
    users = "".join(f'[users.{user}]\npassword = "{password}"\n' for user, password in (
        ("postgres", "postgres"), ("pass_user", "password"), ("md5_user", "password"), ("scram_user", "password")))

    def prepare(self):
        self.home = prepared("tokio-postgres", f"{VERSION} {FEATURES}", self._prepare)

    def _prepare(self, home):
        archive = home / "crate.tar.gz"
        download([URL], SHA256, archive)
        source = home / "source"
        unpack(archive, source)
        archive.unlink()
        for file in (source / "tests/test").rglob("*.rs"):
            if file.name != "parse.rs":
                file.write_text(file.read_text().replace("user=postgres", "user=postgres password=postgres"))
        progress("building tokio-postgres's tests …")
        lines = run(["cargo", "test", "--no-run", "--locked", "--test", "test", "--features", FEATURES], cwd=source,
                    env=os.environ | {"CARGO_TARGET_DIR": str(home / "target"), "CARGO_TERM_COLOR": "never"})
        (home / "program").write_text(re.search(r"Executable .*\((.*)\)", lines)[1])

    def run(self, target, tests):
        (target.cluster.home / "data/pg_hba.conf").write_text(HBA)
        for statement in ["select pg_reload_conf()", *ROLES.splitlines()]:
            target.cluster.sql(statement)
        log = target.output / "run.log"
        command = [(self.home / "program").read_text(), *(["--exact", *tests] if tests else [])]
        ended = run_limited(command, log, SECONDS, cwd=self.home / "source")
        text = log.read_text(errors="replace")
        panics = dict(PANIC.findall(text))
        results = {test: None if how == "ok" else panics.get(test, how)[:300]
                   for test, how in RESULT.findall(text) if not how.startswith("ignored")}
        return results if ended else results | {"(all)": f"not done after {SECONDS} s"}
