#!/usr/bin/env python3
"""Tests the compose stack for real: builds it, brings it up, calls each application, stops PostgreSQL and starts it
again under load, and takes it all down. Exits 0 when every application recovered by itself.

    docker/test.py            # as root where Docker isn't there yet: installs Debian's, and runs dockerd meanwhile

Where debian:bookworm-slim can be had neither from here nor from a registry, an image of the same is made with
debootstrap, and one to build in that has this machine's Rust toolchain.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

DOCKER = Path(__file__).resolve().parent
OFFICIAL = "debian:bookworm-slim"
BASE, BUILD = "carpool-demo-base", "carpool-demo-build"
PROJECT = "carpool-demo-test"
OHA = DOCKER.parent / ".cache/oha/bin/oha"
PREBUILT = [DOCKER.parent / "target/release/carpool", DOCKER.parent / "target/apps/release/recipes-axum"]
APPS = ["django", "starlette", "axum"]
SERVICES = ["postgres", "carpool", *APPS, "haproxy"]
# Those that are compiled.
RUST = ["carpool", "axum", "load"]
COOKIE = "session=" + md5(b"session 7").hexdigest()
CLIENTS = 8  # of each application
PULL_TIMEOUT = 60  # seconds
COMMAND_TIMEOUT = 900  # of what has no other
BUILD_TIMEOUT = 3600  # of one image: Rust programs take minutes, on a busy machine many
UP_TIMEOUT = 180
LOAD_TIMEOUT = 120
RECOVERY_TIMEOUT = 120
# Requests that must succeed in a row, of each application, before it counts as recovered.
RECOVERED = 20
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# What reads certificates from elsewhere than Debian's file.
CERTIFICATE_SETTINGS = ("PIP_CERT", "CARGO_HTTP_CAINFO", "SSL_CERT_FILE")


class Failed(Exception):
    """The test has failed; the text says how."""


def say(text: str) -> None:
    print(f"compose-test: {text}", flush=True)


def run(*command: str | Path, quiet: bool = True, timeout: float = COMMAND_TIMEOUT, **options: object) -> str:
    out = subprocess.PIPE if quiet else None
    options = {"stdout": out, "stderr": subprocess.STDOUT, "text": True, "timeout": timeout, **options}
    try:
        done = subprocess.run(list(map(str, command)), **options)  # type: ignore
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(map(str, command))} isn't done after {timeout:.0f} s") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))} failed with {done.returncode}\n{(done.stdout or '')[-3000:]}")
    return (done.stdout or "").strip()


def works(*command: str, timeout: float = 20) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def wait_for(what: str, timeout: float, ready: object) -> None:
    deadline = time.monotonic() + timeout
    while not ready():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {timeout:.0f} s")
        time.sleep(0.2)


# --- Docker ----------------------------------------------------------------------------------------------


def install(*packages: str) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(f"please install {' '.join(packages)}")
    say(f"installing {' '.join(packages)} …")
    run("apt-get", "update", "-q")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run("apt-get", "install", "-qy", "--no-install-recommends", *packages, env=environment)


@contextlib.contextmanager
def docker_daemon() -> Iterator[None]:
    """The daemon that runs, or one of our own for as long as this lasts."""
    if works("docker", "info"):
        yield
        return
    if not shutil.which("dockerd"):
        install("docker.io")
    say("starting dockerd …")
    with tempfile.NamedTemporaryFile(prefix="dockerd-", suffix=".log") as log:
        daemon = subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for("dockerd answers", 60, lambda: daemon.poll() is not None or works("docker", "info"))
            if daemon.poll() is not None:
                raise Failed(f"dockerd ended: {Path(log.name).read_text(errors='replace')[-2000:]}")
            yield
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()


def compose_command() -> list[str]:
    if works("docker", "compose", "version"):
        return ["docker", "compose"]
    if not shutil.which("docker-compose"):
        install("docker-compose")
    return ["docker-compose"]


def has_image(name: str) -> bool:
    return works("docker", "image", "inspect", name)


def base_images(prebuilt: bool) -> dict[str, str]:
    """What the images begin with and are built on, as settings for compose."""
    if has_image(OFFICIAL) or works("docker", "pull", "-q", OFFICIAL, timeout=PULL_TIMEOUT):
        if not prebuilt:
            return {}
        base = OFFICIAL
    else:
        base = BASE
        if not has_image(BASE):
            make_base()
    make_build(base, prebuilt)
    return {"BASE_IMAGE": base, "BUILD_IMAGE": BUILD}


def make_base() -> None:
    if not shutil.which("debootstrap"):
        install("debootstrap")
    say(f"making {BASE} with debootstrap …")
    with tempfile.TemporaryDirectory(prefix="carpool-base-") as directory:
        root = Path(directory) / "root"
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root)
        changes = []
        if CERTIFICATES.exists():
            # Whom this machine trusts: there may be a certificate of its network's among them.
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
            for setting in CERTIFICATE_SETTINGS:
                changes += ["--change", f"ENV {setting}={CERTIFICATES}"]
        for cached in (root / "var/cache/apt/archives").glob("*.deb"):
            cached.unlink()
        archive = Path(directory) / "base.tar"
        run("tar", "--numeric-owner", "-C", root, "-cf", archive, ".")
        run("docker", "import", *changes, archive, BASE)


def make_build(base: str, prebuilt: bool) -> None:
    """The image to build in: with what has been built here, or with this machine's Rust toolchain."""
    say(f"making {BUILD} …")
    with tempfile.TemporaryDirectory(prefix="carpool-build-") as directory:
        context = Path(directory)
        (context / "bin").mkdir()
        for binary in [OHA, *(PREBUILT if prebuilt else [])]:
            if binary.exists():
                shutil.copy(binary, context / "bin")
            elif binary != OHA:
                raise Failed(f"{binary} is missing: `make build axum` builds it")
        lines = [f"FROM {base}", "COPY bin /usr/local/bin/"]
        if not prebuilt:
            toolchain = Path(run("rustc", "--print", "sysroot"))
            shutil.copytree(toolchain, context / "rust", symlinks=True, ignore=shutil.ignore_patterns("share"))
            lines += ["COPY rust /usr/local/rust", "RUN ln -s /usr/local/rust/bin/* /usr/local/bin/"]
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        run("docker", "build", "-q", "-t", BUILD, context)


# --- The stack -------------------------------------------------------------------------------------------


class Stack:
    def __init__(self, images: dict[str, str], compiled: list[str]):
        """`compiled` are the services whose programs are built in containers."""
        ports = {name: str(free_port()) for name in ("HTTP_PORT", "CARPOOL_PORT", "CARPOOL_HTTP_PORT")}
        self.url = f"http://127.0.0.1:{ports['HTTP_PORT']}"
        self.carpool_url = f"http://127.0.0.1:{ports['CARPOOL_HTTP_PORT']}"
        self._compose = [*compose_command(), "-p", PROJECT, "-f", str(DOCKER / "compose.yaml")]
        self._environment = {**os.environ, **images, **ports}
        self._compiled = compiled

    def compose(self, *arguments: str, quiet: bool = True, timeout: float = COMMAND_TIMEOUT) -> str:
        return run(*self._compose, *arguments, quiet=quiet, timeout=timeout, env=self._environment, cwd=DOCKER)

    def build(self, *services: str, quiet: bool = True) -> None:
        """One after the other, since building takes long and has nothing to show."""
        for number, service in enumerate(services, 1):
            rust = (
                ", which compiles Rust for some minutes unless Docker remembers it" if service in self._compiled else ""
            )
            say(f"building {service} ({number} of {len(services)}){rust} …")
            began = time.monotonic()
            self.compose("build", service, quiet=quiet, timeout=BUILD_TIMEOUT)
            say(f"built {service} in {time.monotonic() - began:.0f} s")

    def choose(self, env_file: str) -> None:
        """What `--env-file` would choose, for what comes."""
        lines = (DOCKER / env_file).read_text(encoding="utf-8").splitlines()
        self._environment |= dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def container(self, service: str) -> dict[str, object]:
        id = self.compose("ps", "-q", service).splitlines()[-1]
        return json.loads(run("docker", "inspect", id))[0]

    def healthy(self, service: str) -> bool:
        with contextlib.suppress(Failed, IndexError):
            return self.container(service)["State"]["Health"]["Status"] == "healthy"  # type: ignore[index]
        return False

    def lives(self) -> dict[str, tuple[object, object]]:
        """When each service that may not restart was started, and how often it was started anew."""
        containers = {name: self.container(name) for name in [*APPS, "carpool", "haproxy"]}
        return {n: (c["State"]["StartedAt"], c["RestartCount"]) for n, c in containers.items()}  # type: ignore[index]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url: str, cookie: str = COOKIE) -> tuple[int, str]:
    """Status and body; status 0 where nothing answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Cookie": cookie}), timeout=40) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return 0, ""


def call_each(stack: Stack, through_carpool: bool = True) -> None:
    """200 with the same JSON from each, 401 without a session."""
    status, body = get(f"{stack.url}/django/api/v1/recipes")
    if status != 200:
        raise Failed(f"django answers {status}: {body[:500]}")
    recipe = json.loads(body)["recipe"]["id"]
    replies = {}
    for app in APPS:
        status, body = get(f"{stack.url}/{app}/api/v1/recipes?id={recipe}")
        if status != 200:
            raise Failed(f"{app} answers {status}: {body[:500]}")
        replies[app] = json.loads(body)
        refused, _ = get(f"{stack.url}/{app}/api/v1/recipes", cookie="")
        if refused != 401:
            raise Failed(f"{app} answers {refused}, not 401, to a request without a session")
    if any(reply != replies["django"] for reply in replies.values()):
        raise Failed(f"the applications answer differently for recipe {recipe}")
    if not through_carpool:
        return
    status, metrics = get(f"{stack.carpool_url}/metrics")
    if status != 200 or 'database="recipes"' not in metrics:
        raise Failed("the applications don't go through Carpool: its /metrics has no database recipes")


class Load:
    """Clients of each application that ask until `stop`, whatever is answered."""

    def __init__(self, stack: Stack):
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.failures = dict.fromkeys(APPS, 0)
        # Since the last failure.
        self.successes = dict.fromkeys(APPS, 0)
        self._threads = [
            threading.Thread(target=self._ask, args=(app, f"{stack.url}/{app}/api/v1/recipes"), daemon=True)
            for app in APPS
            for _ in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, app: str, url: str) -> None:
        while not self._ending.is_set():
            status, _ = get(url)
            with self._lock:
                if status == 200:
                    self.successes[app] += 1
                else:
                    self.failures[app] += 1
                    self.successes[app] = 0
            if status != 200:
                self._ending.wait(0.2)

    def begin_counting(self) -> None:
        with self._lock:
            self.successes = dict.fromkeys(APPS, 0)

    def all_succeed(self) -> bool:
        return all(count >= RECOVERED for count in self.successes.values())

    def stop(self) -> None:
        self._ending.set()
        # All of them together: what hangs is a daemon thread.
        deadline = time.monotonic() + 45
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def restart_postgres(stack: Stack) -> None:
    """Under load; everything else lives on."""
    before = stack.lives()
    load = Load(stack)
    try:
        wait_for("each application answers under load", LOAD_TIMEOUT, load.all_succeed)
        say("stopping PostgreSQL under load …")
        stack.compose("stop", "postgres")
        # Nobody can have been answered from here on.
        load.begin_counting()
        time.sleep(2)
        if any(load.successes.values()):
            raise Failed(f"answered without PostgreSQL: {load.successes}")
        say("starting it again …")
        stack.compose("start", "postgres")
        began = time.monotonic()
        load.begin_counting()
        wait_for("each application recovers", RECOVERY_TIMEOUT, load.all_succeed)
        say(f"recovered {time.monotonic() - began:.1f} s later; failed requests: {load.failures}")
    finally:
        load.stop()
    after = stack.lives()
    if after != before:
        raise Failed(f"something was restarted: {before} became {after}")


def load_and_record(stack: Stack) -> None:
    """The services on demand."""
    stack.build("load")
    say("load and record …")
    said = stack.compose("run", "--rm", "-e", "SECONDS_OF_LOAD=3", "-e", "CLIENTS=5", "load", *APPS)
    if len(re.findall(r"Success rate:\s+100\.00%", said)) != len(APPS):
        raise Failed(f"load: {said[-3000:]}")
    shutil.rmtree(DOCKER / "recorded", ignore_errors=True)
    stack.compose("run", "--rm", "-e", "SECONDS_OF_LOAD=3", "record")
    missing = [name for name in ("django.txt", "django.png") if not (DOCKER / "recorded" / name).exists()]
    if missing:
        raise Failed(f"record has left no {', '.join(missing)}")
    shutil.rmtree(DOCKER / "recorded")
    say("load and record do what they are for")


def other_poolers(stack: Stack) -> None:
    """PgBouncer and nothing in Carpool's place."""
    for env_file in ("pgbouncer.env", "direct.env"):
        stack.choose(env_file)
        say(f"the stack of {env_file} …")
        stack.compose("up", "-d", "--build")
        wait_for(f"the stack of {env_file} is healthy", UP_TIMEOUT, lambda: stack.healthy("haproxy"))
        wait_for(f"each answers with {env_file}", UP_TIMEOUT, lambda: all_answer(stack))
        call_each(stack, through_carpool=False)
        say(f"the three answer the same with {env_file}")


def all_answer(stack: Stack) -> bool:
    return all(get(f"{stack.url}/{app}/api/v1/recipes")[0] == 200 for app in APPS)


def test(options: argparse.Namespace) -> None:
    with docker_daemon():
        stack = Stack(base_images(options.prebuilt), [] if options.prebuilt else RUST)
        try:
            if options.parallel:
                say("building all images at the same time …")
                stack.compose("build", "--parallel", quiet=not options.verbose, timeout=BUILD_TIMEOUT)
            else:
                stack.build(*SERVICES, quiet=not options.verbose)
            say("starting …")
            stack.compose("up", "-d")
            wait_for("the stack is healthy", UP_TIMEOUT, lambda: stack.healthy("haproxy"))
            call_each(stack)
            say("the three answer the same through Carpool")
            restart_postgres(stack)
            call_each(stack)
            if options.everything:
                load_and_record(stack)
                other_poolers(stack)
        except Failed:
            with contextlib.suppress(Failed):
                print(stack.compose("logs", "--tail=40"), file=sys.stderr)
            raise
        finally:
            stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


def interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prebuilt",
        action="store_true",
        help="take the programs that `make build axum` has built, on a Debian like the image",
    )
    parser.add_argument(
        "--everything", action="store_true", help="load and record, too, and PgBouncer and nothing in Carpool's place"
    )
    parser.add_argument("--parallel", action="store_true", help="build the images at the same time")
    parser.add_argument("--verbose", action="store_true", help="show what the builds say")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    began = time.monotonic()
    try:
        test(options)
    except KeyboardInterrupt:
        raise SystemExit("compose-test: interrupted, everything is stopped") from None
    except Failed as failure:
        raise SystemExit(f"compose-test: FAILED: {failure}") from None
    say(f"ok, after {(time.monotonic() - began) / 60:.0f} min")


if __name__ == "__main__":
    main()
