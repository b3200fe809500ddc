"""Debian's packages and their sources, without touching the system: apt with directories of its own.

Binaries and source come from one suite without updates in between, so they are of the same version whatever is
installed. It works without root.
"""

import os
import shutil
from pathlib import Path

from downloads import unpack
from system import CACHE, Failure, is_root, progress, run

MIRROR = os.environ.get("CARPOOL_DEBIAN_MIRROR", "http://deb.debian.org/debian")
SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Apt:
    def __init__(self):
        self.home = CACHE / "apt"
        for directory in ("lists/partial", "archives/partial"):
            (self.home / directory).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        sources = f"Types: deb deb-src\nURIs: {MIRROR}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"
        (self.home / "debian.sources").write_text(sources)
        self.updated = False

    def _get(self, *arguments, cwd=None):
        options = {
            "Dir::Etc::sourcelist": self.home / "debian.sources",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": self.home,
            "Dir::State::status": self.home / "status",
            "Dir::Cache": self.home,
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        if is_root():
            options["APT::Sandbox::User"] = "root"
        flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return run(["apt-get", "-q", *flags, *arguments], cwd=cwd)

    def update(self):
        if not self.updated:
            if not Path(KEYRING).exists():
                raise Failure(f"{KEYRING} is missing: `make conformance` needs Debian")
            progress(f"reading the package lists of Debian {SUITE} …")
            self._get("update")
            self.updated = True

    def packages(self, names, into):
        """Unpacks binary packages below the directory `into`."""
        self.update()
        with _scratch(into) as scratch:
            self._get("download", *names, cwd=scratch)
            for archive in scratch.glob("*.deb"):
                run(["dpkg-deb", "-x", archive, into])

    def source(self, name, into, wanted):
        """Unpacks those files of a package's original source of which `wanted(path)` is true; gives its version."""
        self.update()
        with _scratch(into) as scratch:
            self._get("source", "--download-only", name, cwd=scratch)
            archive = next(scratch.glob("*.orig.tar.*"))
            unpack(archive, into, wanted)
            return next(scratch.glob("*.dsc")).stem.partition("_")[2]


class _scratch:
    """A directory for downloads, inside the one that they are unpacked in."""

    def __init__(self, beside):
        self.path = Path(beside) / ".download"

    def __enter__(self):
        self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path)
