"""
Consoles for people: colours, bars, progress, visible control characters.

Colours and bars are for terminals.  rich decides: NO_COLOR takes colours away, TERM=dumb every
escape sequence, FORCE_COLOR takes a pipe for a terminal.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDEST: Final = 10_000  # columns, where there is no terminal
LINE_EVERY: Final = 10.0  # seconds
DRAW_EVERY: Final = 0.1
MINUTES: Final = 100.0  # seconds from which on minutes are easier to read


def console(*, stderr: bool = False) -> "Console":
    """Standard output, or standard error; what is printed is taken as it is, without markup."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with status 1

    return Pipe(stderr=stderr, markup=False, emoji=False, highlight=False)


def watched() -> bool:
    """Whether somebody looks at standard error, where a bar can be drawn again and again."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def clean(line: str) -> str:
    """Names of files, and of classes, may hold commands for the terminal, or end a line."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def say(line: str) -> None:
    """A line for people, if anybody reads; names in it may hold commands for their terminal."""
    with suppress(OSError):
        print(clean(line), file=sys.stderr, flush=True)


def print_rows(table: "Table", screen: "Console") -> None:
    """A table as wide as the terminal; elsewhere a line of it is a line, however long."""
    if screen.is_terminal:
        screen.print(table)
        return
    screen.width = WIDEST
    with screen.capture() as drawn:
        screen.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


class Progress:
    """How far it is, for people; written by the thread that works, read by another."""

    def __init__(self, done: int) -> None:
        """`done` images were done in runs before this one."""
        self.total: int | None = None  # images, once they are counted
        self.waiting = "starting"  # what for, until the first one is done
        self.done = done
        self._skipped, self._before = 0, done
        self._began: float | None = None

    def update(self, done: int, skipped: int) -> None:
        """So many images are done, and so many of them without scores."""
        if self._began is None:  # before, what computes is started
            self._before, self._began = done, time.monotonic()
        self.done, self._skipped = done, skipped

    def __str__(self) -> str:
        """The rate is this run's own."""
        of = f"/{self.total}" if self.total is not None else ""
        if self._began is None:
            return f"{self.done}{of}, {self.waiting}"
        passed = time.monotonic() - self._began
        rate = (self.done - self._before) / passed if passed else 0.0
        rest = self.total - self.done if self.total is not None else 0
        left = f"{_duration(rest / rate)} left, " if rest > 0 and rate else ""
        so_far = f"{_duration(passed)} so far"
        return f"{self.done}{of} {rate:.1f}/s, {left}{so_far}, {self._skipped} skipped"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < MINUTES else str(timedelta(seconds=round(seconds)))


@contextmanager
def shown(done: int, screen: "Console | None" = None) -> Iterator[Progress]:
    """
    How far it is, until the block ends, on standard error: a bar on a terminal, elsewhere a line
    now and then; `done` images were done before.

    `screen` is a terminal that others print on meanwhile, and that keeps nothing of the bar.
    """
    progress = Progress(done)
    shared, screen = screen is not None, screen or console(stderr=True)
    if not screen.is_terminal:
        with _every(LINE_EVERY, lambda: say(str(progress))):
            yield progress
        return
    from rich import progress as rich

    # The bar gives way where the terminal is narrow.
    columns = rich.BarColumn(bar_width=None), rich.TextColumn("{task.description}", markup=False)
    # Standard output may be no terminal, and is not drawn over.
    with rich.Progress(
        *columns, console=screen, auto_refresh=False, redirect_stdout=False, transient=shared
    ) as bar:
        task = bar.add_task("", total=None)

        def draw() -> None:
            bar.update(
                task,
                completed=progress.done,
                total=progress.total,
                description=str(progress),
                refresh=True,
            )

        with _every(DRAW_EVERY, draw):
            yield progress
        draw()


@contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call again and again, in a thread, while the block runs."""
    ended = Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            call()

    thread = Thread(target=repeat, name="alexnet-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def counted(images: Iterable[object], progress: Progress) -> Iterator[None]:
    """Tell `progress` how many there are, when a walk of its own has counted them."""
    ended = Event()

    def count() -> None:
        number = 0
        for _ in images:
            number += 1
            if ended.is_set():
                return
        progress.total = number

    # Not waited for: large folders without images, or slow ones, would hold up the end.
    Thread(target=count, name="alexnet-count", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
