"""
The project's commands, run in this process as their users run them, or as a process.

In this process is the default: no interpreter starts, nothing is imported again.  A process is for
tests about processes: pipes, terminals, signals, and statuses that end one at once.
"""

import io
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

from typer import rich_utils

from tests.support.servers import PATIENCE, ROOT, environment

Done = subprocess.CompletedProcess[bytes]

# What tells programs about terminals and colours.
ABOUT_TERMINALS = (
    *("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERM", "COLUMNS", "LINES"),
    "PYTHONIOENCODING",
)


# As users run it: Python tries at the end to write what it could not write before.
BUFFERED = {"PYTHONUNBUFFERED": ""}


def plain(about: Mapping[str, str] | None = None, **settings: Any) -> dict[str, str]:
    """An environment with these settings, that says no more `about` the terminal than given."""
    kept = environment(**settings)
    clean = {name: value for name, value in kept.items() if name not in ABOUT_TERMINALS}
    return clean | {"TERM": "xterm-256color"} | dict(about or {})


def alexnet(
    *arguments: str,
    stdin: bytes = b"",
    about: Mapping[str, str] | None = None,
    **settings: Any,
) -> Done:
    """Run `alexnet` here, to its end, with these settings and no others; `about` are more
    variables of the environment."""
    from service.__main__ import main

    return here(main, "alexnet", *arguments, stdin=stdin, variables=plain(about, **settings))


def alexnet_process(
    *arguments: str,
    stdin: bytes = b"",
    about: Mapping[str, str] | None = None,
    **settings: Any,
) -> Done:
    """Run `alexnet` as a process, to its end, likewise."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=plain(about, **settings),
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
    )


def examples(text: str) -> list[str]:
    """The command lines of a help's examples."""
    return re.findall(r"^ {3}((?:alexnet|ls)\b.*?) *$", text, re.MULTILINE)


class Stream(io.TextIOWrapper):
    """A standard stream in memory, a terminal or none."""

    def __init__(
        self, data: bytes = b"", *, terminal: bool = False, errors: str = "strict"
    ) -> None:
        self._bytes, self._terminal = io.BytesIO(data), terminal
        super().__init__(self._bytes, encoding="utf-8", errors=errors, write_through=True)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._terminal

    def written(self) -> bytes:
        """All of it."""
        self.flush()
        return self._bytes.getvalue()


def here(
    main: Callable[[], None],
    program: str,
    *arguments: str,
    stdin: bytes = b"",
    variables: Mapping[str, str] | None = None,
    stdout: Stream | None = None,
    stderr: Stream | None = None,
) -> Done:
    """Run a command's entry point in this process, 80 columns wide, and away from any terminal
    unless the streams that are given are some."""
    chosen = {"COLUMNS": "80"} | dict(plain() if variables is None else variables)
    streams = Stream(stdin), stdout or Stream(), stderr or Stream(errors="backslashreplace")
    if encoding := chosen.get("PYTHONIOENCODING"):
        for stream in streams:
            stream.reconfigure(encoding=encoding, errors=stream.errors)
    with ExitStack() as block:
        block.enter_context(patch.dict(os.environ, chosen, clear=True))
        block.enter_context(patch.object(sys, "argv", [program, *arguments]))
        block.enter_context(patch.object(os, "_exit", _ends_at_once))
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            block.enter_context(patch.object(sys, name, stream))
        # typer looks once, when it is imported
        forced = True if "FORCE_COLOR" in chosen else None
        block.enter_context(patch.object(rich_utils, "FORCE_TERMINAL", forced))
        block.enter_context(_as_it_was())
        os.chdir(ROOT)
        status: object = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    return subprocess.CompletedProcess(
        [program, *arguments],
        status if isinstance(status, int) else 0 if status is None else 1,
        streams[1].written(),
        streams[2].written(),
    )


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo at the end what a command changes in its process."""
    with ExitStack() as block:
        # As an installed command: `python -m pytest` would be taken for the program's name.
        # (Not patch.dict: all that is imported in the block would be imported again after it.)
        block.callback(sys.modules.__setitem__, "__main__", sys.modules["__main__"])
        sys.modules["__main__"] = ModuleType("__main__")
        for place in (sys, threading):  # `serve` logs what nobody caught
            block.enter_context(patch.object(place, "excepthook", place.excepthook))
        block.enter_context(patch.object(sys, "unraisablehook", sys.unraisablehook))
        block.callback(logging.captureWarnings, False)
        block.callback(os.chdir, os.getcwd())
        files = resource.RLIMIT_NOFILE  # which servers raise
        block.callback(resource.setrlimit, files, resource.getrlimit(files))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            block.callback(signal.signal, number, signal.getsignal(number))
        yield


def _ends_at_once(status: int) -> None:
    raise AssertionError(f"this command ends its process at once ({status}): run it as a process")
