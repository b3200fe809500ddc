"""Processes, directories and ports. PostgreSQL doesn't run as root, so root lends its work to `nobody`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "conformance"

UNPRIVILEGED = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]


class Failure(Exception):
    """What the user is told instead of a traceback."""


def is_root():
    return os.geteuid() == 0


def as_user(command):
    """The command as the user that clusters and tests belong to; it dies with this program."""
    prefix = UNPRIVILEGED if is_root() else ["setpriv"]
    return [*prefix, "--pdeathsig", "QUIT", "--", *map(str, command)]


def give_away(path):
    """Makes a directory the unprivileged user's."""
    if is_root():
        shutil.chown(path, "nobody", "nogroup")


def check_access():
    """Says so now when the unprivileged user can't read the checkout, not as a riddle later."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if subprocess.run(as_user(["test", "-x", CACHE]), check=False).returncode:
        raise Failure(f"nobody may not read {CACHE}: as root, work in a checkout that others may read")


def run(command, **options):
    """Runs a command to its end; its output shows only when it fails."""
    command = list(map(str, command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False, **options)
    if done.returncode:
        raise Failure(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def run_limited(command, log, seconds, **options):
    """Runs a command with its output in the file `log`. False when it had to be ended after `seconds`."""
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True, **options)
        try:
            process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def temporary_directory():
    """One that belongs to the unprivileged user. Its name is short: it holds a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="carpool-"))
    try:
        give_away(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def fresh_directory(path):
    """An empty one for results, the unprivileged user's."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    give_away(path)
    return path


def progress(text):
    print(text, file=sys.stderr, flush=True)
