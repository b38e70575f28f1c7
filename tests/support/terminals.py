"""The `alexnet` command on a terminal, and what it may meet."""

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
from typing import Any

from tests.support.commands import Stream, here, plain
from tests.support.servers import PATIENCE, ROOT


def on_terminal(
    *arguments: str,
    columns: int = 80,
    about: Mapping[str, str] | None = None,
    stdout: Stream | None = None,
    **settings: Any,
) -> tuple[int, str]:
    """Run a command here, on what it takes for a terminal; its status, and what the terminal was
    sent.  With `stdout`, its standard output goes there."""
    from service.__main__ import main

    screen = Stream(terminal=True)
    variables = plain({"COLUMNS": str(columns)} | dict(about or {}), **settings)
    done = here(
        main,
        "alexnet",
        *arguments,
        variables=variables,
        stdout=screen if stdout is None else stdout,
        stderr=screen,
    )
    return done.returncode, done.stderr.decode()


def on_real_terminal(
    *arguments: str, columns: int = 80, about: Mapping[str, str] | None = None, **settings: Any
) -> tuple[int, str]:
    """The same as a process, on a terminal that the system knows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=plain(about, **settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    sent = b""
    try:
        while some := os.read(ours, 65536):
            sent += some
    except OSError:  # how Linux says that nobody holds the other end
        pass
    finally:
        os.close(ours)
    return process.wait(PATIENCE), sent.decode()


class Counter(threading.Thread):
    """In place of the thread that counts the images of a folder: it has done when it is started,
    so that a bar knows how many there are."""

    def start(self) -> None:
        super().start()
        if self.name == "alexnet-count":
            self.join()


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
