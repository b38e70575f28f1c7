"""
Ctrl-C ends the run of the tests, whatever a command that runs in this process makes of it.

Typer turns a KeyboardInterrupt into the status 130: one test would fail, and the next one begin.
A conftest.py that imports these hooks has them for the tests beside it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from types import FrameType

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Raise the KeyboardInterrupt of a SIGINT once more after the test, if need be."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        return (yield)
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        result = yield
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt
    return result


pytest_runtest_setup = pytest_runtest_call  # module-wide fixtures run commands, too
