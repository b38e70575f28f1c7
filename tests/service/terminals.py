"""The `alexnet` command on a terminal of its own, and away from one; and what it may meet."""

import fcntl
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from live import ROOT, environment

# What tells programs about terminals and colours.
ABOUT_TERMINALS = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERM", "COLUMNS")


def plain(about: Mapping[str, str] | None = None, **settings: object) -> dict[str, str]:
    """An environment with these settings, that says no more `about` the terminal than given."""
    kept = environment(**settings)
    clean = {name: value for name, value in kept.items() if name not in ABOUT_TERMINALS}
    return clean | {"TERM": "xterm-256color"} | dict(about or {})


def on_terminal(
    *arguments: str,
    columns: int = 80,
    about: Mapping[str, str] | None = None,
    stdout: Path | None = None,
    **settings: object,
) -> tuple[int, str]:
    """Run a command on a terminal; its status, and what the terminal was sent.  With `stdout`, its
    standard output goes into that file."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    output = os.open(stdout, os.O_WRONLY | os.O_CREAT) if stdout else theirs
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=plain(about, **settings),
        stdin=theirs,
        stdout=output,
        stderr=theirs,
    )
    for end in {theirs, output}:
        os.close(end)
    sent = b""
    try:
        while some := os.read(ours, 65536):
            sent += some
    except OSError:  # how Linux says that nobody holds the other end
        pass
    finally:
        os.close(ours)
    return process.wait(60), sent.decode()


@contextmanager
def speaking(words: bytes) -> Iterator[int]:
    """A port where somebody says this to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, suppress(OSError):
                    client.sendall(words)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(2**16)

        speaker = threading.Thread(target=answer, daemon=True)
        speaker.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        speaker.join(5)
