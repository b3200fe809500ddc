"""Files from the net, known by their SHA-256, and the cache's directories that are made of them."""

import hashlib
import shutil
import tarfile
import urllib.request
from pathlib import Path

from system import CACHE, Failure, progress, run


def download(urls, sha256, file):
    """The first of `urls` that gives the contents with this hash, as `file`."""
    errors = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=120) as response:
                contents = response.read()
        except OSError as error:
            errors.append(f"{url}: {error}")
            continue
        if hashlib.sha256(contents).hexdigest() == sha256:
            Path(file).write_bytes(contents)
            return
        errors.append(f"{url}: other contents than expected")
    raise Failure("\n".join(errors))


def unpack(archive, into, wanted=lambda path: True):
    """Unpacks those plain files of a tar archive of which `wanted(path)` is true, without its top directory."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.isfile() and ".." not in path and wanted(path):
                target = Path(into) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())


def prepared(name, version, prepare):
    """The directory `name` of the cache, filled by `prepare(directory)` unless it was for this `version` before."""
    directory = CACHE / name
    stamp = directory / ".stamp"
    if not stamp.exists() or stamp.read_text() != version:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        progress(f"preparing {name} …")
        prepare(directory)
        run(["chmod", "-R", "a+rX", directory])
        stamp.write_text(version)
    return directory
