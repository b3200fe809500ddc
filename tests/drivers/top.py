"""Runs `carpool top` on a pseudo terminal: it draws, keys choose the order, q ends it and leaves the terminal as it was.

Arguments: the binary, a URL of the console, a database's name."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

BINARY, URL, DATABASE = sys.argv[1:]
LIMIT = 60


def read_until(fd, want, seen=b""):
    end = time.monotonic() + LIMIT
    while want not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
        assert ready, f"no {want} in {seen[-2000:]}"
        try:
            chunk = os.read(fd, 65536)
        except OSError:
            chunk = b""
        assert chunk, f"ended without {want}: {seen[-2000:]}"
        seen += chunk
    return seen


def main():
    pid, fd = pty.fork()
    if pid == 0:
        # The size is there before it is asked for.
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 100, 0, 0))
        os.execve(BINARY, [BINARY, "top", URL, "-d", "0.2"], {**os.environ, "TERM": "xterm"})
    seen = read_until(fd, b"\x1b[?1049h")
    seen = read_until(fd, DATABASE.encode(), seen)
    seen = read_until(fd, b"by wait", seen)
    os.write(fd, b"n")
    read_until(fd, b"by name")
    # It goes on by itself.
    read_until(fd, b"by name")
    os.write(fd, b"t")
    read_until(fd, b"by transactions")
    os.write(fd, b"q")
    read_until(fd, b"\x1b[?1049l")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


main()
