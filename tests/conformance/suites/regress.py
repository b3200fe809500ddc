"""PostgreSQL's regression suite, `src/test/regress`: psql scripts whose output is compared with the expected one."""

import re

from suites.common import Suite, schedule_tests
from system import Failure, as_user, run_limited

RESULT = re.compile(r"^(?:test)?\s+(\S+)\s+\.\.\. (ok|FAILED|failed \(ignored\))(.*)$", re.M)


class Regress(Suite):
    name = "regress"
    title = "PostgreSQL's regression suite"
    settings = "max_prepared_transactions = 2"
    database = "regression"
    seconds = 1800

    def source(self, installation):
        return installation.source / "src/test/regress"

    def all_tests(self, installation):
        return schedule_tests(self.source(installation) / "parallel_schedule")

    def choice(self, installation, tests):
        """What is run. Most tests build on the objects of `test_setup`, and some on those of others."""
        if tests:
            return ["test_setup", *(test for test in tests if test != "test_setup")]
        return [f"--schedule={self.source(installation) / 'parallel_schedule'}"]

    def environment(self, cluster):
        return {}

    def command(self, target):
        installation = target.cluster.installation
        return [installation.tests / "regress/pg_regress", f"--inputdir={self.source(installation)}",
                f"--dlpath={installation.built}", "--max-concurrent-tests=20"]

    def run(self, target, tests):
        installation, cluster, output = target.cluster.installation, target.cluster, target.output
        if unknown := set(tests) - set(self.all_tests(installation)):
            raise Failure(f"the suite {self.name} has no {', '.join(sorted(unknown))}")
        cluster.create_database(self.database)
        command = [*self.command(target), "--use-existing", f"--bindir={installation.bin}", "--host=127.0.0.1",
                   f"--port={target.port}", "--user=postgres", f"--dbname={self.database}", f"--outputdir={output}",
                   *self.choice(installation, tests)]
        log = output / "run.log"
        ended = run_limited(as_user(command), log, self.seconds, cwd=output,
                            env=cluster.environment | self.environment(cluster))
        results = {name: None if how == "ok" else (how + more).strip()
                   for name, how, more in RESULT.findall(log.read_text(errors="replace"))}
        missing = "no result" if ended else f"not done after {self.seconds} s"
        return {test: missing for test in tests or self.all_tests(installation)} | results
