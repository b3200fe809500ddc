"""Processes on this machine: unprivileged, on free ports, in a directory of their own, and all stopped at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60  # seconds
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Failed(Exception):
    """The showdown, or a part of it, can't go on; the text says why."""


def bounded(what: str, timeout: float, call: Callable[[], T]) -> T:
    """What `call` gives. In a thread of its own, since a driver's wait can't be interrupted."""
    results: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if failures:
        raise Failed(f"{what}: {failures[0]}") from failures[0]
    if not results:
        raise Failed(f"{what}: not within {timeout:.0f} s")
    return results[0]


def free_port() -> int:
    # Without SO_REUSEADDR and SO_REUSEPORT: a port that anything still uses is not free.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find(command: str) -> Path | None:
    found = shutil.which(command, path=SYSTEM_PATH)
    return Path(found).resolve() if found else None


class Process:
    """A process in a group of its own, until `stop`."""

    def __init__(self, name: str, log: Path, process: subprocess.Popen[bytes], port: int, stop_signal: int):
        self.name, self.log, self.port = name, log, port
        self.pid = process.pid
        self._process, self._stop_signal = process, stop_signal

    def check(self) -> None:
        status = self._process.poll()
        if status is not None:
            raise Failed(f"{self.name} ended with status {status}\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def wait_until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            self.check()
            if ready():
                return
            time.sleep(0.05)
        raise Failed(f"{self.name} isn't ready after {START_TIMEOUT} s\n{self.tail()}")

    def accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def wait(self, timeout: float) -> int:
        """The status that it ends with by itself."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} doesn't end") from None

    def stop(self) -> None:
        for number, patience in ((self._stop_signal, 10), (signal.SIGKILL, 5)):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        # What a leader that was killed has left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Machine:
    """Where everything runs; a context manager that stops and removes it all."""

    def __init__(self) -> None:
        self._prefix, account = unprivileged()
        self.dir = Path(tempfile.mkdtemp(prefix="carpool-showdown-"))
        self.dir.chmod(0o755)
        if account:
            os.chown(self.dir, account.pw_uid, account.pw_gid)
            require_readable(ROOT, account)
        self._running: list[Process] = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        # Once begun it isn't left half done.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while self._running:
            self._running.pop().stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def write(self, name: str, text: str) -> Path:
        path = self.dir / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return path

    def copy(self, binary: Path) -> Path:
        """The binary where the unprivileged user may run it."""
        path = self.dir / binary.name
        if not path.exists():
            shutil.copy2(binary, path)
            path.chmod(0o755)
        return path

    def start(
        self,
        name: str,
        command: list[str | Path],
        port: int,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> Process:
        log = self.dir / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}-{port}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self._prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=cwd or self.dir,
                env={**self._environment(), **(env or {})},
                start_new_session=True,
            )
        started = Process(name, log, process, port, stop_signal)
        self._running.append(started)
        return started

    def stop(self, processes: list[Process]) -> None:
        for process in processes:
            process.stop()
            self._running.remove(process)

    def run(self, command: list[str | Path], timeout: float = 120, env: Mapping[str, str] | None = None) -> str:
        try:
            done = subprocess.run(
                [*self._prefix, *map(str, command)],
                capture_output=True,
                text=True,
                timeout=timeout,
                cwd=self.dir,
                env={**self._environment(), **(env or {})},
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{Path(command[0]).name} did not end within {timeout:.0f} s") from None
        if done.returncode != 0:
            raise Failed(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.dir), "PYTHONDONTWRITEBYTECODE": "1"}


def unprivileged() -> tuple[list[str], pwd.struct_passwd | None]:
    """The command prefix under which processes run: they end with this one, and never run as root."""
    prefix = ["setpriv", "--pdeathsig", "TERM"]
    if os.geteuid() != 0:
        return prefix, None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return [*prefix, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"], account
    raise Failed("running as root, and there is neither a user postgres nor nobody to run processes as")


def require_readable(path: Path, account: pwd.struct_passwd) -> None:
    for directory in (path, *path.parents):
        if not directory.stat().st_mode & 0o001:
            raise Failed(f"{account.pw_name}, as whom the processes run, can't enter {directory}: run as another user")
