"""
Single pictures -> batches -> single answers.

Greedy: an idle engine starts at once with what is there; while it runs, arrivals gather, and the
next batch takes all of them that ask for the same crops, up to `max_batch`.  Only company that is
on its way is waited for, and not for long: pictures that are accepted and being decoded at that
very moment; and, just after a batch, as many as usually come right after one, if that is most of
those answered.  Without this, eight clients that each wait for their answer split into batches of
three and five for ever; with it they share one.

    reserve(n)      n places in the bounded queue, or Overloaded at once
    places.submit() joins the queue, waits for its own row
    _dispatch()     one task: drops those who left, joins the rest, runs them in one worker thread

Nothing that happens to one entry harms its neighbours: a client that leaves only leaves a row
that nobody reads, and a run that fails fails its own batch alone.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, NotReady, Overloaded

SHAPE = (256, 256, 3)
RECENT = 0.2  # weight of the newest batch in the moving average of batch times
# How long company on its way is waited for: a share of the time that a batch takes of late, and
# seconds.  Decoding sixteen photographs takes 20 ms on two cores.
COMPANY, COMPANY_SECONDS = 0.3, 0.025
LOYAL = 0.5  # the share of answered clients that came back at once, from which on they are expected

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Run = Callable[[Pixels, int], Probabilities]


@dataclass(eq=False, slots=True)
class _Entry:
    """One picture in the queue and the future that its client awaits."""

    pixels: Pixels
    crops: int
    deadline: float | None  # the event loop's time, seconds
    answer: asyncio.Future[Probabilities]


class Places:
    """What one request holds in the queue; each place is for one picture, or given up."""

    def __init__(self, batcher: "Batcher", count: int) -> None:
        self._batcher = batcher
        self._expected = count
        batcher.expect(count)

    async def submit(
        self, pixels: Pixels, crops: int, *, deadline: float | None = None
    ) -> Probabilities:
        """`Batcher.submit`, in one of these places."""
        self.give_up()
        return await self._batcher.submit(pixels, crops, deadline=deadline)

    def give_up(self, count: int = 1) -> None:
        """No picture will come for so many of the places: they cannot be decoded."""
        count = min(count, self._expected)
        self._expected -= count
        self._batcher.expect(-count)

    def leave(self) -> None:
        """Give up all that is left."""
        self.give_up(self._expected)


class Batcher:
    """Joins pictures of many requests into runs of `run(images, crops)`, one at a time."""

    def __init__(self, run: Run, *, max_batch: int, max_queue: int, max_delay: float = 0.0) -> None:
        """`max_batch` and `max_queue` count images; `max_delay` is in seconds."""
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_delay = max_delay
        self._queue: deque[_Entry] = deque()
        self._changed = asyncio.Event()  # an arrival, a place freed, or the wish to stop
        self._worker: ThreadPoolExecutor | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._pending = 0
        self._expected = 0  # pictures with a place that are not in the queue yet
        self._stopping = False
        self._batch_seconds = 0.0
        self._seconds_of: dict[int, float] = {}  # the same for each choice of crops
        # Of the last batch: when it ended, until when who comes counts as coming right after it,
        # its size, how many have come; and which share of a batch that is of late.
        self._ended = self._returning = -math.inf
        self._answered = 0
        self._returned = 0
        self._loyalty = 0.0

    @property
    def alive(self) -> bool:
        """Whether the dispatcher runs: without it no answer ever comes."""
        return self._dispatcher is not None and not self._dispatcher.done()

    @property
    def pending(self) -> int:
        """Images that hold a place: accepted and not yet answered."""
        return self._pending

    async def start(self) -> None:
        """Start the dispatcher on the running loop."""
        if self.alive:
            raise RuntimeError("the batcher runs already")
        self._stopping = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alexnet-engine")
        self._dispatcher = asyncio.create_task(self._dispatch(), name="alexnet-dispatcher")

    async def stop(self) -> None:
        """Accept nothing more, finish what holds a place, then end."""
        self._stopping = True
        self._changed.set()
        if self._dispatcher is not None:
            # wait(), not await: whoever stops us must not be hit by what killed the dispatcher.
            await asyncio.wait([self._dispatcher])
        if self._worker is not None:
            self._worker.shutdown(wait=False)

    @contextmanager
    def reserve(self, count: int) -> Iterator[Places]:
        """Hold `count` places while the block runs; all or none, at once."""
        if self._stopping or not self.alive:
            raise NotReady("The service is not accepting work now. Try again shortly.")
        if self._pending + count > self._max_queue:
            retry_after = self._retry_after()
            raise Overloaded(
                f"The queue is full: {self._pending} of {self._max_queue} images are waiting and "
                f"{count} more do not fit. Try again in {retry_after} s.",
                retry_after=retry_after,
            )
        self._pending += count
        if asyncio.get_running_loop().time() <= self._returning:
            self._returned += count
        places = Places(self, count)
        try:
            yield places
        finally:
            places.leave()
            self._pending -= count
            self._changed.set()

    def expect(self, count: int) -> None:
        """So many more pictures, or fewer, will soon be submitted."""
        self._expected += count
        self._changed.set()

    async def submit(
        self, pixels: Pixels, crops: int, *, deadline: float | None = None
    ) -> Probabilities:
        """
        One picture, uint8 `(256, 256, 3)`, to its float32 `(classes,)`.

        `deadline` is a time of the running loop; if it passes before the picture's batch starts,
        `DeadlineExceeded`.  What the run raises, this raises.
        """
        if pixels.shape != SHAPE or pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 {SHAPE}, got {pixels.dtype} {pixels.shape}")
        if not self.alive:
            raise NotReady("The service is not running the model now. Try again shortly.")
        entry = _Entry(pixels, crops, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._changed.set()
        return await entry.answer

    def _retry_after(self) -> int:
        """Seconds, at least one, until what is pending now should be done."""
        batches = math.ceil(self._pending / self._max_batch)
        return max(1, math.ceil(batches * self._batch_seconds))

    async def _dispatch(self) -> None:
        """Batch after batch, until stopped and nothing holds a place."""
        try:
            while True:
                self._drop_the_gone()
                if self._queue:
                    await self._gather()
                    if batch := self._take():
                        await self._serve(batch)
                elif self._stopping and not self._pending:
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            # Should this task ever end early, nobody may wait for it for ever.
            for entry in self._queue:
                if not entry.answer.done():
                    entry.answer.set_exception(NotReady("The service stopped. Try again shortly."))
            self._queue.clear()

    def _drop_the_gone(self) -> None:
        """Forget entries whose client left; refuse those whose deadline has passed."""
        now = asyncio.get_running_loop().time()
        kept = []
        for entry in self._queue:
            if entry.answer.done():
                continue
            if entry.deadline is not None and entry.deadline <= now:
                entry.answer.set_exception(
                    DeadlineExceeded(
                        "The time allowed passed while the picture waited for its turn. "
                        "Try again, or allow more time."
                    )
                )
                continue
            kept.append(entry)
        self._queue = deque(kept)

    async def _gather(self) -> None:
        """Give others time to join the head of the queue: those on their way a moment, and with a
        `max_delay` anybody that long."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not self._stopping and len(matching := self._matching()) < self._max_batch:
            until = began + self._max_delay
            # Nobody waits for company while others wait for the engine.
            if matching and len(matching) == len(self._queue):
                patience = self._patience(matching[0].crops)
                if self._expected:
                    until = max(until, began + patience)
                if self._loyalty > LOYAL and self._returned < self._loyalty * self._answered:
                    until = max(until, self._ended + patience)
            if loop.time() >= until:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _patience(self, crops: int) -> float:
        """Seconds that company on its way is worth to a batch of these crops."""
        return min(COMPANY * self._seconds_of.get(crops, 0.0), COMPANY_SECONDS)

    def _matching(self) -> list[_Entry]:
        """The entries that could share the head's batch, the head first."""
        return [entry for entry in self._queue if entry.crops == self._queue[0].crops]

    def _take(self) -> list[_Entry]:
        """Remove the next batch from the queue; the others keep their order."""
        self._drop_the_gone()
        batch = self._matching()[: self._max_batch] if self._queue else []
        taken = set(map(id, batch))
        self._queue = deque(entry for entry in self._queue if id(entry) not in taken)
        return batch

    async def _serve(self, batch: list[_Entry]) -> None:
        """Run one batch in the worker thread and hand each entry its row, or the failure."""
        started = time.perf_counter()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._worker, self._join_and_run, batch
            )
        except Exception as error:  # whatever a run raises belongs to its batch, not to the loop
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
            return
        self._measure(time.perf_counter() - started, len(batch), batch[0].crops)
        for entry, row in zip(batch, rows, strict=True):
            if not entry.answer.done():  # its client may have left meanwhile
                entry.answer.set_result(row)

    def _join_and_run(self, batch: list[_Entry]) -> Probabilities:
        """In the worker thread: the one copy, then the engine."""
        rows = self._run(np.stack([entry.pixels for entry in batch]), batch[0].crops)
        if len(rows) != len(batch):
            raise RuntimeError(f"{len(batch)} images went in, {len(rows)} rows came out")
        return rows

    def _measure(self, seconds: float, images: int, crops: int) -> None:
        """Fold a batch's time, and who came right after the last one, into the moving averages."""
        self._batch_seconds = _recent(self._batch_seconds or seconds, seconds)
        self._seconds_of[crops] = _recent(self._seconds_of.get(crops, seconds), seconds)
        if self._answered:
            self._loyalty = _recent(self._loyalty, min(1.0, self._returned / self._answered))
        self._ended = asyncio.get_running_loop().time()
        self._returning = self._ended + self._patience(crops)
        self._answered, self._returned = images, 0


def _recent(before: float, newest: float) -> float:
    """The moving average, one value on."""
    return before + RECENT * (newest - before)
