"""
Dynamic batching: images in, batches run, rows out.

Batching is greedy: idle cores start at once with the images that are there.  While they run,
arrivals gather, and the next batch takes all of them that ask for the same crops, up to what
`scheduling` plans.  A batch lingers briefly only for images that are likely to come: those
accepted and being decoded at that moment and, just after a batch, as many as usually come right
after one, if that is most of those answered.  Without lingering, eight clients that each wait for
their answer split into batches of three and five for good; with it they share one.

    reserve(n)             n places in the bounded queue, or Overloaded at once
    Reservation.submit()   joins the queue, waits for its own row
    _dispatch()            one task: drops cancelled images, joins the rest, starts their runs
    _serve()               one task a run: a thread runs the batch, each image gets its row

Nothing that happens to one entry harms its neighbours.  A client that leaves only leaves a row that
nobody reads.  When a run fails, its images are run one by one, each failing alone.

A run that hangs, or an engine that fails even its check, ends the dispatcher and all runs.  Then no
image waits for them, `ready` is false, and `on_death` is called.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np

from service.errors import NotReady, Overloaded
from service.inference.queue import Entry, ImageQueue, Pixels, Row, Run, StageTimings, refuse
from service.inference.scheduling import Plan, Scheduler, recent

SHAPE = (256, 256, 3)
# How long a batch lingers for images that are on their way: a share of the time that a batch takes
# of late, and at most so many seconds.  Decoding sixteen photographs takes 20 ms on two cores.
LINGER, LINGER_SECONDS = 0.3, 0.025
RETURN_RATE = 0.5  # the share of answered clients that came back at once, above which it waits
BULK_SHARE = 0.75  # the share of the queue that requests of several images may hold together

T = TypeVar("T")
log = logging.getLogger("service.batching")


class RunHung(RuntimeError):
    """A run did not come back in time; its thread cannot be stopped."""


class Reservation:
    """The places in the queue that one request holds: each is for one image, or released."""

    def __init__(self, batcher: "Batcher", count: int) -> None:
        self._batcher = batcher
        self._alone = count == 1
        self._expected = count
        batcher.expect(count)

    async def submit(
        self,
        pixels: Pixels,
        crops: int,
        *,
        run: Run,
        deadline: float | None = None,
        timings: StageTimings | None = None,
    ) -> Row:
        """`Batcher.submit`, in one of these places."""
        self.release(1)
        return await self._batcher.submit(
            pixels, crops, run=run, alone=self._alone, deadline=deadline, timings=timings
        )

    def release(self, count: int | None = None) -> None:
        """No image will come for so many of the places, by default for all that are left."""
        count = self._expected if count is None else min(count, self._expected)
        self._expected -= count
        self._batcher.expect(-count)


class Batcher:
    """Joins images of many requests into runs, as many at once as pay."""

    def __init__(
        self,
        *,
        max_batch: int,
        max_queue: int,
        cores: int = 1,
        max_delay: float = 0.0,
        run_timeout: float | None = None,
        check: Callable[[], None] | None = None,
        on_run: Callable[[int, float], None] | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """
        `max_batch` and `max_queue` count images; `max_delay` and `run_timeout` are in seconds.

        Up to `cores` runs may be under way, each then with `one_core=True`; a run
        without it takes all cores, and is the only one.
        `check` raises if the engine is broken; it is called in a worker thread when a run has
        failed for each of its images.  `on_run` gets the images and seconds of each run that
        succeeded, `on_death` the reason when the dispatcher ends without having been stopped.
        """
        self._max_queue = max_queue
        self._max_delay = max_delay
        self._run_timeout = run_timeout
        self._check = check
        self._on_run = on_run
        self._on_death = on_death
        self._queue = ImageQueue()
        self._scheduler = Scheduler(cores, max_batch)
        self._idle = cores  # those on which no run is under way
        self._runs: dict[asyncio.Task[None], Sequence[Entry]] = {}
        self._failure: BaseException | None = None  # of a run, which ends the dispatcher
        self._changed = asyncio.Event()  # an arrival, a place or a core freed, or the wish to stop
        self._worker: ThreadPoolExecutor | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._pending = 0
        self._bulk = 0  # those of them that are of requests with several images
        # Places that single images leave to a refused request of several, and until when.
        self._kept_room, self._room_until = 0, -math.inf
        self._expected = 0  # images with a place that are not in the queue yet
        self._stopping = False
        self._image_seconds = 0.0  # of late, from batch to batch while images are pending
        self._busy_since = -math.inf  # when the first of those that are pending came
        self._reason = ""  # why the dispatcher was cancelled
        self._seconds_of: dict[int, float] = {}  # a batch's, for each choice of crops
        # Of the last batch: when it ended, until when an arrival counts as coming right after it,
        # its size, how many have come; and which share of a batch that is of late.
        self._ended = self._returning = -math.inf
        self._answered = 0
        self._returned = 0
        self._return_rate = 0.0

    @property
    def ready(self) -> bool:
        """Whether an image that comes now will be answered."""
        return self.alive and not self._stopping

    @property
    def alive(self) -> bool:
        """Whether the dispatcher, the task that begins runs, works: without it no answer comes."""
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
        self._worker = ThreadPoolExecutor(self._scheduler.cores, "alexnet-engine")
        self._dispatcher = asyncio.create_task(self._dispatch(), name="alexnet-dispatcher")
        self._dispatcher.add_done_callback(self._on_dispatcher_done)

    async def stop(self) -> None:
        """Accept nothing more, finish what holds a place, then end."""
        self._stopping = True
        self._changed.set()
        if self._dispatcher is not None:
            # wait(), not await: what ended the dispatcher must not be raised in the caller.
            await asyncio.wait([self._dispatcher])
        if self._worker is not None:
            self._worker.shutdown(wait=False)

    def check_room(self, count: int = 1) -> None:
        """Raise `NotReady` or `Overloaded` if a request of `count` images would be refused now."""
        if not self.ready:
            raise NotReady("The service is not accepting work now. Try again shortly.")
        now = asyncio.get_running_loop().time()
        held, limit = self._pending, self._max_queue
        bulk = int(BULK_SHARE * limit)
        if count == 1 and now < self._room_until:
            limit -= self._kept_room
        # The first of them may take the whole queue: it is the only one, and soon done.
        if bulk_full := count > 1 and 0 < self._bulk > bulk - count:
            held, limit = self._bulk, bulk
        if held + count > limit:
            retry_after = self._retry_after()
            if count > 1 and not bulk_full:
                # Single images would take each place as it is freed: room is kept until it is back.
                self._kept_room, self._room_until = min(count, bulk), now + 2 * retry_after
            raise Overloaded(
                f"The queue is full: {held} of {limit} images are waiting and {count} more do not "
                f"fit. Try again in {retry_after} s.",
                retry_after=retry_after,
            )

    def abandon(self, reason: str) -> None:
        """Answer all waiting images with `NotReady`, although a run may still be under way."""
        self._reason = reason
        if self._dispatcher is not None:
            self._dispatcher.cancel()

    @contextmanager
    def reserve(self, count: int) -> Iterator[Reservation]:
        """Hold `count` places while the block runs; all or none, at once."""
        self.check_room(count)
        bulk = count if count > 1 else 0
        if not self._pending:
            self._busy_since = asyncio.get_running_loop().time()
        self._pending += count
        self._bulk += bulk
        if asyncio.get_running_loop().time() <= self._returning:
            self._returned += count
        reservation = Reservation(self, count)
        try:
            yield reservation
        finally:
            reservation.release()
            self._pending -= count
            self._bulk -= bulk
            self._changed.set()

    def expect(self, count: int) -> None:
        """So many more images, or fewer, will soon be submitted."""
        self._expected += count
        self._changed.set()

    async def submit(
        self,
        pixels: Pixels,
        crops: int,
        *,
        run: Run,
        alone: bool = True,
        deadline: float | None = None,
        timings: StageTimings | None = None,
    ) -> Row:
        """
        One image, uint8 `(256, 256, 3)`, to the row that `run` gives for it.

        `alone` says that its request has no other image.  `deadline` is a time of the running
        loop; if it passes before the image's batch starts, `DeadlineExceeded`.  `timings` is where
        the moments from here on are written down.  What the run raises, this raises.
        """
        if pixels.shape != SHAPE or pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 {SHAPE}, got {pixels.dtype} {pixels.shape}")
        if not self.alive:
            raise NotReady("The service is not running the model now. Try again shortly.")
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        timings = timings or StageTimings()
        timings.decoded = time.monotonic()
        self._queue.add(Entry(pixels, crops, run, alone, deadline, answer, timings))
        self._changed.set()
        return await answer

    def _retry_after(self) -> int:
        """Seconds, at least one, until what is pending now should be done."""
        return max(1, round(self._pending * self._image_seconds))

    async def _dispatch(self) -> None:
        """Run after run, until stopped and nothing holds a place."""
        try:
            while True:
                if self._failure is not None:
                    raise self._failure
                self._drop_cancelled()
                if self._queue and self._idle:
                    plan = await self._gather()
                    self._drop_cancelled()
                    # Not kept in a variable: its model may be replaced while nothing happens here.
                    self._start(self._queue.take(plan.size), plan.one_core)
                elif self._stopping and not (self._pending or self._runs):
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            # Should this task ever end early, no image may wait for it for good.
            for run, batch in self._runs.items():
                run.cancel()
                _refuse_all(batch)
            _refuse_all(self._queue)

    def _start(self, batch: Sequence[Entry], one_core: bool) -> None:
        """Start the run of a batch, if any image is left in it, on one core or on all."""
        if not batch:
            return
        taken = 1 if one_core else self._scheduler.cores
        self._idle -= taken
        run = asyncio.create_task(self._serve(batch, one_core), name="alexnet-run")
        self._runs[run] = batch
        run.add_done_callback(partial(self._on_run_done, taken))

    def _on_run_done(self, taken: int, run: asyncio.Task[None]) -> None:
        """Free the run's cores; a run that failed as a whole ends the dispatcher."""
        self._idle += taken
        batch = self._runs.pop(run)
        if not run.cancelled() and (error := run.exception()):
            self._failure = error
            _refuse_all(batch)
        self._changed.set()

    def _on_dispatcher_done(self, dispatcher: asyncio.Task[None]) -> None:
        """Report the end of the dispatcher, unless it was asked to end."""
        if dispatcher.cancelled():
            reason = self._reason or "the dispatcher was cancelled"
        elif error := dispatcher.exception():
            reason = f"{type(error).__name__}: {error}"
        else:
            return
        if self._on_death is not None:
            self._on_death(reason)

    def _drop_cancelled(self) -> None:
        self._queue.drop_cancelled(asyncio.get_running_loop().time())

    async def _gather(self) -> Plan:
        """
        The plan of the next run.

        Linger before it so that other images can join: briefly for those on their way, with a
        `max_delay` that long for any.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            together = self._queue.next_batch(len(self._queue))
            crops = together[0].crops if together else 0
            waiting = max(1, len(together) + self._expected)
            plan = self._scheduler.plan(crops, waiting, self._idle)
            if self._stopping or not together or len(together) >= plan.size:
                return plan
            until = began + self._max_delay
            # No lingering while images of other crops wait for the engine.
            if len(together) == len(self._queue):
                linger = self._linger(crops)
                if self._expected:
                    until = max(until, began + linger)
                expected = self._return_rate * self._answered
                if self._return_rate > RETURN_RATE and self._returned < expected:
                    until = max(until, self._ended + linger)
            if loop.time() >= until:
                return plan
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                return plan
            if self._failure is not None:
                return plan

    def _linger(self, crops: int) -> float:
        """Seconds that a batch of these crops waits for images on their way."""
        return min(LINGER * self._seconds_of.get(crops, 0.0), LINGER_SECONDS)

    async def _serve(self, batch: Sequence[Entry], one_core: bool) -> None:
        """Run a batch in a worker thread and give each entry its row, or its own failure."""
        began = asyncio.get_running_loop().time()
        try:
            rows = await self._run_together(batch, one_core)
        except RunHung:
            raise
        except Exception as error:  # whatever a run raises belongs to its batch, not to the loop
            await self._one_by_one(batch, one_core, error)
            return
        self._measure(began, batch)
        for entry, row in zip(batch, rows, strict=True):
            if not entry.answer.done():  # its client may have left meanwhile
                entry.answer.set_result(row)

    async def _one_by_one(self, batch: Sequence[Entry], one_core: bool, error: Exception) -> None:
        """After a run that failed: its images alone, and if none succeeds, the check."""
        log.error("A run of %d images failed: %r", len(batch), error)
        answered = False
        for entry in batch:
            if len(batch) > 1 and not entry.answer.done():
                try:
                    row = (await self._run_together([entry], one_core))[0]
                except RunHung:
                    raise
                except Exception as again:
                    error = again
                else:
                    answered = True
                    if not entry.answer.done():
                        entry.answer.set_result(row)
            refuse(entry, error)
        if not answered and self._check is not None:
            await self._in_worker(self._check)

    async def _run_together(self, batch: Sequence[Entry], one_core: bool) -> Any:
        """One run of these images, which is written down in the timings of each."""
        began = time.monotonic()
        for entry in batch:
            entry.timings.running, entry.timings.batch = began, len(batch)
        rows, worked = await self._in_worker(_join_and_run, batch, one_core)
        ended = time.monotonic()
        self._scheduler.record(
            batch[0].crops, len(batch), one_core=one_core, passed=ended - began, worked=worked
        )
        for entry in batch:
            entry.timings.answered = ended
        if self._on_run is not None:
            try:
                self._on_run(len(batch), ended - began)
            except Exception:  # counting must not harm a run
                log.exception("A run could not be counted")
        return rows

    async def _in_worker(self, work: Callable[..., T], *arguments: object) -> T:
        """`work`'s result, from a worker thread; raises `RunHung`."""
        run = asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)
        await asyncio.wait([run], timeout=self._run_timeout)
        if not run.done():
            raise RunHung(f"a run has not come back in {self._run_timeout:g} s")
        return run.result()

    def _measure(self, began: float, batch: Sequence[Entry]) -> None:
        """Update the moving averages with a batch's times and with how many images came right
        after the last one."""
        now = asyncio.get_running_loop().time()
        crops, seconds = batch[0].crops, now - began
        self._seconds_of[crops] = recent(self._seconds_of.get(crops, seconds), seconds)
        # All that the images waited for is in it, decoding too.
        each = (now - max(self._ended, self._busy_since)) / len(batch)
        self._image_seconds = recent(self._image_seconds or each, each)
        if self._answered:
            self._return_rate = recent(self._return_rate, min(1.0, self._returned / self._answered))
        self._ended = now
        self._returning = self._ended + self._linger(crops)
        self._answered, self._returned = len(batch), 0


def _join_and_run(batch: Sequence[Entry], one_core: bool) -> tuple[Any, float]:
    """In a worker thread: the one copy, then the engine; and the thread's seconds of CPU."""
    began = time.thread_time()
    images = np.stack([entry.pixels for entry in batch])
    rows = batch[0].run(images, batch[0].crops, one_core=one_core)
    if len(rows) != len(batch):
        raise RuntimeError(f"{len(batch)} images went in, {len(rows)} rows came out")
    return rows, time.thread_time() - began


def _refuse_all(entries: Iterable[Entry]) -> None:
    """Answer those who wait for a run that will not come."""
    for entry in entries:
        refuse(entry, NotReady("The service has stopped. Try again shortly."))
