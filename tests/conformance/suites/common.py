"""What a suite is."""

import re


class Suite:
    """A public test suite that can be run before PostgreSQL or Carpool.

    `run(target, tests)` gives for each test None when it passed, else what went wrong in a few words. The details
    are in files in `target.output`.
    """

    name = ""
    title = ""
    #: Further lines of postgresql.conf.
    settings = ""
    encoding = "SQL_ASCII"
    #: Lines of Carpool's configuration: in [pooler], and the sections of its users.
    authentication = 'auth_type = "trust"'
    users = "[users.postgres]"
    #: The port that the tests connect to, where they have it built in.
    port = None

    def prepare(self):
        """Fetches and builds what isn't there yet."""

    def run(self, target, tests):
        raise NotImplementedError


def schedule_tests(path):
    """The tests that a schedule of pg_regress names."""
    lines = re.findall(r"^test:(.*)$", path.read_text(), re.M)
    return [test for line in lines for test in line.split()]
