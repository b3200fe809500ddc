"""PostgreSQL's `src/test/modules/libpq_pipeline`: libpq's pipeline mode, compared message by message."""

import subprocess

from suites.common import Suite

# As its Perl script has them: how many rows, and whose messages are compared.
ROWS = 700
TRACED = {"simple_pipeline", "nosync", "multi_pipelines", "prepared", "singlerow", "pipeline_abort", "pipeline_idle",
          "transaction", "disallowed_in_pipeline"}
SECONDS = 120


class LibpqPipeline(Suite):
    name = "libpq_pipeline"
    title = "PostgreSQL's tests of libpq's pipeline mode"

    def run(self, target, tests):
        program = target.cluster.installation.built / "libpq_pipeline"
        names = subprocess.run([program, "tests"], capture_output=True, text=True, check=True).stdout.split()
        return {name: self._run_one(program, target, name) for name in tests or names}

    def _run_one(self, program, target, name):
        trace = target.output / f"{name}.trace"
        command = [program, "-r", str(ROWS), *(["-t", trace] if name in TRACED else []), name,
                   f"host=127.0.0.1 port={target.port} user=postgres dbname=postgres"]
        with open(target.output / f"{name}.log", "w", encoding="utf-8") as log:
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=SECONDS,
                                      env=target.cluster.environment, check=False)
            except subprocess.TimeoutExpired:
                return f"not done after {SECONDS} s"
        if done.returncode:
            return last_line(target.output / f"{name}.log") or f"ended with {done.returncode}"
        source = target.cluster.installation.source / "src/test/modules/libpq_pipeline/traces"
        expected = source / f"{name}.trace"
        if name in TRACED and expected.exists() and expected.read_text() != trace.read_text():
            return "other messages than expected"
        return None


def last_line(file):
    lines = file.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")
