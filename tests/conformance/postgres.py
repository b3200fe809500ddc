"""PostgreSQL 15 as Debian has it, its test suites built, and throw-away clusters of it."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import debian
import downloads
from system import Failure, as_user, free_port, progress, run, temporary_directory

HERE = Path(__file__).resolve().parent
PACKAGES = ["postgresql-15", "postgresql-client-15", "postgresql-server-dev-15", "libpq5", "libpq-dev"]
SUITES = ("src/test/regress/", "src/test/isolation/", "src/test/modules/libpq_pipeline/")

# What pg_regress gives its own temporary cluster.
CONF = """
listen_addresses = '127.0.0.1'
fsync = off
max_connections = 100
log_autovacuum_min_duration = 0
log_checkpoints = on
log_line_prefix = '%m %b[%p] %q%a '
"""

# What pg_regress gives its own database.
DATABASE = """
create database "{0}" template template0;
alter database "{0}" set lc_messages to 'C';
alter database "{0}" set lc_monetary to 'C';
alter database "{0}" set lc_numeric to 'C';
alter database "{0}" set lc_time to 'C';
alter database "{0}" set bytea_output to 'hex';
alter database "{0}" set timezone_abbreviations to 'Default';
"""


class Installation:
    """Where the binaries, the sources and what was built of them are, below the cache."""

    def __init__(self):
        shim = (HERE / "isolationtester.h").read_text()
        self.home = downloads.prepared("postgres", f"2 {shim}", self._prepare)
        self._lay_out(self.home)

    def _lay_out(self, home):
        self.root = home / "root"
        self.source = home / "source"
        self.built = home / "built"
        self.version_directory = self.root / "usr/lib/postgresql/15"
        self.bin = self.version_directory / "bin"
        self.share = self.root / "usr/share/postgresql/15"
        self.tests = self.version_directory / "lib/pgxs/src/test"
        self.libraries = next((self.root / "usr/lib").glob("*/libpq.so.5"), self.root).parent

    @property
    def version(self):
        return (self.home / "version").read_text()

    def _prepare(self, home):
        apt = debian.Apt()
        apt.packages(PACKAGES, home / "root")
        version = apt.source("postgresql-15", home / "source", lambda path: path.startswith(SUITES))
        (home / "version").write_text(version)
        self._lay_out(home)
        progress("building PostgreSQL's test programs …")
        self.built.mkdir()
        self._build_regress()
        self._build_isolation()
        self._build_pipeline()

    def _compile(self, output, *arguments):
        include = self.root / "usr/include"
        headers = [f"-I{include}/postgresql/15/server", f"-I{include}/postgresql/internal", f"-I{include}/postgresql"]
        run([os.environ.get("CC", "cc"), "-O1", "-w", "-D_GNU_SOURCE", *headers, *arguments, "-o", self.built / output])

    def _build_regress(self):
        self._compile("regress.so", "-fPIC", "-shared", self.source / "src/test/regress/regress.c")
        for library in ("autoinc.so", "refint.so"):
            shutil.copy(self.version_directory / "lib" / library, self.built)

    def _build_isolation(self):
        """isolationtester with the shim that finds a session's server, and the original beside it in name only."""
        source = self.source / "src/test/isolation"
        self._compile("isolationtester", "-include", HERE / "isolationtester.h", f"-I{source}",
                      source / "isolationtester.c", source / "specparse.c", *self._client_libraries())
        # It looks for isolationtester where it is itself.
        shutil.copy(self.tests / "isolation/pg_isolation_regress", self.built)

    def _build_pipeline(self):
        source = self.source / "src/test/modules/libpq_pipeline/libpq_pipeline.c"
        self._compile("libpq_pipeline", source, *self._client_libraries())

    def _client_libraries(self):
        lib = self.version_directory / "lib"
        return [lib / "libpgfeutils.a", lib / "libpgcommon.a", lib / "libpgport.a", self.libraries / "libpq.so.5",
                f"-Wl,-rpath,{self.libraries}", "-Wl,--allow-shlib-undefined", "-lm"]

    def environment(self, home):
        """For programs that are run before a cluster: no setting of the caller's reaches them."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
        return kept | {"PATH": f"{self.bin}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(self.libraries),
                       "HOME": str(home), "LC_ALL": "C"}

    @contextmanager
    def cluster(self, settings="", encoding="SQL_ASCII", port=None):
        with temporary_directory() as home:
            cluster = Cluster(self, home, settings, encoding)
            try:
                cluster.start(port)
                yield cluster
            finally:
                cluster.stop()


class Cluster:
    """One PostgreSQL on a free port, gone with its directory when its context ends."""

    def __init__(self, installation, home, settings, encoding):
        self.installation, self.home, self.port, self.process = installation, home, None, None
        self.environment = installation.environment(home)
        data = home / "data"
        run(as_user([installation.bin / "initdb", "-L", installation.share, "--no-sync", "-A", "trust", "-U",
                     "postgres", "--locale=C", "-E", encoding, "-D", data]), env=self.environment, cwd=home)
        with open(data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(f"{CONF}unix_socket_directories = '{home}'\n{settings}\n")

    def start(self, port=None):
        for _ in range(1 if port else 5):
            self.port = port or free_port()
            command = as_user([self.installation.bin / "postgres", "-D", self.home / "data", "-p", self.port])
            with open(self.home / "log", "a", encoding="utf-8") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                cwd=self.home, env=self.environment)
            if self._is_ready():
                return
        raise Failure(f"PostgreSQL doesn't start:\n{(self.home / 'log').read_text()}")

    def _is_ready(self):
        ready = [self.installation.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if subprocess.run(ready, env=self.environment, check=False).returncode == 0:
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(3)  # SIGQUIT: at once
            self.process.wait(60)

    def sql(self, text, database="postgres"):
        """What `psql -At` prints."""
        return run([self.installation.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U",
                    "postgres", "-p", self.port, "-d", database, "-c", text], env=self.environment).strip()

    def create_database(self, name):
        for statement in DATABASE.format(name).strip().splitlines():
            self.sql(statement)
