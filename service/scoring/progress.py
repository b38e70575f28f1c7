"""
How far it is, on standard error: a bar on a terminal, elsewhere a line now and then.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final, Protocol

from service.scoring.files import Pictures

LINE_EVERY: Final = 10.0  # seconds
DRAW_EVERY: Final = 0.1


class Progress(Protocol):
    """What is told how far it is."""

    total: int | None  # pictures, once they are counted

    def update(self, done: int, skipped: int) -> None:
        """So many pictures are done, and so many of them without scores."""


def say(line: str) -> None:
    """A line for people, if anybody reads; names in it may hold commands for their terminal."""
    with suppress(OSError):
        print(
            "".join(sign if sign.isprintable() else "?" for sign in line),
            file=sys.stderr,
            flush=True,
        )


class _Lines:
    total: int | None = None
    _before, _began, _said = 0, 0.0, 0.0

    def update(self, done: int, skipped: int) -> None:
        now = time.monotonic()
        if not self._began:  # before, what computes is started
            self._before, self._began, self._said = done, now, now
        if now - self._said < LINE_EVERY:
            return
        self._said = now
        rate = (done - self._before) / (now - self._began)
        of = f" of {self.total}" if self.total is not None else ""
        left = f", {(self.total - done) / rate:.0f} s left" if self.total and rate else ""
        say(f"{done}{of} pictures, {skipped} skipped, {rate:.1f}/s{left}")


@contextmanager
def shown(done: int) -> Iterator[Progress]:
    """Until the block ends; `done` pictures were done before."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich import progress as rich

    class Bar:
        total: int | None = None
        _done, _skipped, _next = done, 0, 0.0

        def update(self, done: int, skipped: int) -> None:
            self._done, self._skipped = done, skipped
            if (now := time.monotonic()) >= self._next:
                self._next = now + DRAW_EVERY
                self.draw()

        def draw(self) -> None:
            bar.update(
                task,
                completed=self._done,
                total=self.total,
                refresh=True,
                rate=f"{bar.tasks[0].speed or 0.0:.1f}/s",
                skipped=f"{self._skipped} skipped",
            )

    columns = (
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[skipped]}"),
    )
    with rich.Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=None, completed=done, rate="", skipped="")
        drawn = Bar()
        yield drawn
        drawn.draw()


@contextmanager
def counted(pictures: Pictures, progress: Progress) -> Iterator[None]:
    """Tell `progress` how many there are, when a walk of its own has counted them."""
    done = Event()

    def count() -> None:
        number = 0
        for _ in Pictures(pictures.places):
            number += 1
            if done.is_set():
                return
        progress.total = number

    counting = Thread(target=count, name="alexnet-count")
    counting.start()
    try:
        yield
    finally:
        done.set()
        counting.join()
