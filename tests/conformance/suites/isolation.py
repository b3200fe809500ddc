"""PostgreSQL's isolation suite, `src/test/isolation`: several sessions' steps in a given order.

isolationtester is built with a shim (`isolationtester.h`), the same for the direct run.
"""


from suites.common import schedule_tests
from suites.regress import Regress

PREPARED_TRANSACTIONS = ["prepared-transactions", "prepared-transactions-cic"]


class Isolation(Regress):
    name = "isolation"
    title = "PostgreSQL's isolation suite"
    settings = "max_prepared_transactions = 10"
    database = "isolation_regression"

    def source(self, installation):
        return installation.source / "src/test/isolation"

    def all_tests(self, installation):
        return schedule_tests(self.source(installation) / "isolation_schedule") + PREPARED_TRANSACTIONS

    def choice(self, installation, tests):
        return tests or [f"--schedule={self.source(installation) / 'isolation_schedule'}", *PREPARED_TRANSACTIONS]

    def environment(self, cluster):
        # The latter is where `isolationtester.h` looks up a notification's sender.
        return {"PGISOLATIONTIMEOUT": "30",
                "ISOLATION_SERVER": f"host=127.0.0.1 port={cluster.port} user=postgres dbname={self.database}"}

    def command(self, target):
        installation = target.cluster.installation
        return [installation.built / "pg_isolation_regress", f"--inputdir={self.source(installation)}"]
