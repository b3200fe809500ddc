"""The three applications as child processes: started together, stopped always."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

APPS = Path(__file__).resolve().parents[2] / "docker" / "apps"
# Beside the default, which the load is on.
AXUM_VARIANTS = ["plain", "pipelined", "single"]
START_TIMEOUT = 60  # seconds
STOP_TIMEOUT = 5

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def die_with_parent():
    """In the child: end when this process does, even when it had no time to clean up (Linux)."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class App:
    """One application and where it listens."""

    def __init__(self, name, command, directory, time_zone, environment):
        self.name = name
        self.time_zone = time_zone
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [part.format(port=self.port) for part in command]
        self._directory = directory
        self._environment = {**os.environ, **environment, "APP_TIME_ZONE": time_zone, "PORT": str(self.port)}
        self._log = tempfile.TemporaryFile()
        self._process = None

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    async def ready(self, http):
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            if self._process.returncode is not None:
                raise RuntimeError(f"{self.name} ended with {self._process.returncode} while it started")
            try:
                async with http.get(f"{self.url}/healthz") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self.name} isn't ready after {START_TIMEOUT} s")

    @property
    def running(self):
        return self._process is not None and self._process.returncode is None

    async def stop(self):
        if self._process is None:
            return
        self._signal_group(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            pass
        finally:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number):
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def log_tail(self, size=2000):
        self._log.seek(0)
        return self._log.read()[-size:].decode(errors="replace")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make(database_url, time_zones, axum_binary, workers):
    """Those that `time_zones` maps to their zones, not started: `workers` connections of Django, 20 of most others.

    Two processes of Starlette, so that the same statement name means different statements to different clients.
    """
    python = sys.executable
    kinds = {
        "django": ([python, "-m", "gunicorn", "recipes.wsgi"], APPS / "django", {"WEB_CONCURRENCY": str(workers)}),
        "starlette": (
            [
                python,
                "-m",
                "uvicorn",
                "--port",
                "{port}",
                "--workers",
                "2",
                "--timeout-keep-alive",
                "75",
                "--no-access-log",
                "app:app",
            ],
            APPS / "starlette",
            {"POOL_SIZE": "10"},
        ),
        "axum": ([str(axum_binary)], APPS, {"POOL_SIZE": "20"}),
        **{f"axum-{name}": ([str(axum_binary)], APPS, {"POOL_SIZE": "4", "VARIANT": name}) for name in AXUM_VARIANTS},
    }
    made = []
    for name, zone in time_zones.items():
        command, directory, environment = kinds[name]
        made.append(App(name, command, directory, zone, {"DATABASE_URL": database_url, **environment}))
    return made


@asynccontextmanager
async def running(apps, http):
    """The applications, ready; stopped at the end whatever happens, with their logs shown after a failure."""
    try:
        for app in apps:
            await app.start()
        await asyncio.gather(*(app.ready(http) for app in apps))
        yield apps
        ended = [app.name for app in apps if not app.running]
        if ended:
            raise RuntimeError(f"{', '.join(ended)} ended by itself")
    except Exception:
        for app in apps:
            print(f"--- last output of {app.name}:\n{app.log_tail()}", file=sys.stderr)
        raise
    finally:
        await asyncio.shield(asyncio.gather(*(app.stop() for app in apps)))
