"""
Companions in a batch: who shares one, who is dropped, and that nobody harms a neighbour.

The engine here is a Python function that stops at a gate, so that each test decides what is in
the queue while a batch runs.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.inference import batching
from service.inference.batching import Batcher
from service.inference.queue import StageTimings
from tests.support.servers import PATIENCE

Pixels = NDArray[np.uint8]


class Clock:
    """The time of the running loop, which from now on stands still until it is told."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        loop.time = lambda: self.now  # type: ignore[method-assign]


class Gate:
    """A network that answers each image with its first pixel, when the gate is open."""

    def __init__(self, *, opened: bool = False) -> None:
        self.batches: list[tuple[list[int], int]] = []
        self.on_one_core: list[bool] = []  # of each batch
        self.checks = 0
        self.broken = False
        self.deaths: list[str] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.during: Callable[[], object] = lambda: None  # what happens while a run is under way
        if opened:
            self.open.set()

    def __call__(
        self, images: Pixels, crops: int, *, one_core: bool = False
    ) -> NDArray[np.float32]:
        marks = [int(mark) for mark in images[:, 0, 0, 0]]
        self.batches.append((marks, crops))
        self.on_one_core.append(one_core)
        self.entered.release()
        assert self.open.wait(PATIENCE)
        self.during()
        if 13 in marks:
            raise ArithmeticError("thirteen")
        return np.array(marks, np.float32)[:, np.newaxis]

    def check(self) -> None:
        self.checks += 1
        if self.broken:
            raise ArithmeticError("broken")

    async def running(self) -> None:
        """Wait until the next batch is inside."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE)


def image(mark: int) -> Pixels:
    return np.full((256, 256, 3), mark, np.uint8)


def play(
    scene: Callable[[Batcher, Gate], Coroutine[Any, Any, None]],
    *,
    opened: bool = False,
    max_batch: int = 4,
    max_queue: int = 8,
    cores: int = 1,
    max_delay: float = 0.0,
    run_timeout: float | None = None,
) -> Gate:
    """Run a scene around a started batcher, open the gate, stop it."""
    gate = Gate(opened=opened)

    async def whole() -> None:
        batcher = Batcher(
            max_batch=max_batch,
            max_queue=max_queue,
            cores=cores,
            max_delay=max_delay,
            run_timeout=run_timeout,
            check=gate.check,
            on_death=gate.deaths.append,
        )
        await batcher.start()
        try:
            await scene(batcher, gate)
        finally:
            gate.open.set()
            await batcher.stop()

    async def guarded() -> None:
        """Not by the loop's clock, which a scene may have stopped."""
        task = asyncio.create_task(whole())
        cancel = asyncio.get_running_loop().call_soon_threadsafe
        guard = threading.Timer(PATIENCE, cancel, (task.cancel,))
        guard.start()
        try:
            await task
        finally:
            guard.cancel()

    asyncio.run(guarded())
    return gate


async def ask(
    batcher: Batcher, gate: Gate, *marks: int, crops: int = 10
) -> list[asyncio.Task[Any]]:
    """Submit images in order and let each reach the queue."""
    tasks = [asyncio.create_task(batcher.submit(image(mark), crops, run=gate)) for mark in marks]
    await asyncio.sleep(0)
    return tasks


async def turns(number: int = 20) -> None:
    """Let every task that can go on do so."""
    for _ in range(number):
        await asyncio.sleep(0)


async def settled(batcher: Batcher) -> None:
    """Wait until whatever the dispatcher starts by itself now has been run."""
    await turns()
    await asyncio.get_running_loop().run_in_executor(batcher._worker, int)


def test_an_idle_engine_starts_at_once() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        answer = await batcher.submit(image(7), 10, run=gate)

        assert answer.tolist() == [7.0]

    assert play(scene, opened=True).batches == [([7], 10)]


def test_arrivals_gather_while_a_batch_runs() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await ask(batcher, gate, 1)
        await gate.running()
        tasks += await ask(batcher, gate, 2, 3, 4, 5, 6, 7)
        gate.open.set()

        answers = await asyncio.gather(*tasks)

        assert [answer.tolist() for answer in answers] == [[float(m)] for m in range(1, 8)]

    assert [marks for marks, _ in play(scene).batches] == [[1], [2, 3, 4, 5], [6, 7]]


def test_different_crops_never_share_a_batch() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await ask(batcher, gate, 1)
        await gate.running()
        for mark, crops in [(2, 10), (3, 1), (4, 10), (5, 1)]:
            tasks += await ask(batcher, gate, mark, crops=crops)
        gate.open.set()
        await asyncio.gather(*tasks)

    assert play(scene).batches == [([1], 10), ([2, 4], 10), ([3, 5], 1)]


def test_a_delay_lets_others_join_and_a_full_batch_does_not_wait_for_it() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await ask(batcher, gate, 1)
        await asyncio.sleep(0)
        tasks += await ask(batcher, gate, 2, 3, 4)
        await asyncio.gather(*tasks)

    # The delay is longer than the patience of the test.
    assert play(scene, opened=True, max_delay=10 * PATIENCE).batches == [([1, 2, 3, 4], 10)]


def test_who_left_before_the_batch_is_not_in_it() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await ask(batcher, gate, 1)
        await gate.running()
        leaver, stayer = await ask(batcher, gate, 2, 3)
        leaver.cancel()
        gate.open.set()
        await asyncio.gather(*tasks, stayer)

    assert [marks for marks, _ in play(scene).batches] == [[1], [3]]


def test_a_client_that_leaves_during_the_run_does_not_harm_its_batch() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        first = await ask(batcher, gate, 1)
        await gate.running()
        leaver, stayer = await ask(batcher, gate, 2, 3)
        gate.open.set()
        await asyncio.gather(*first)
        leaver.cancel()

        assert (await stayer).tolist() == [3.0]
        assert (await batcher.submit(image(4), 10, run=gate)).tolist() == [4.0]

    play(scene)


def test_a_deadline_that_passed_in_the_queue_is_refused_before_the_run() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        now = asyncio.get_running_loop().time()
        tasks = await ask(batcher, gate, 1)
        await gate.running()
        late = asyncio.create_task(batcher.submit(image(2), 10, run=gate, deadline=now))
        early = asyncio.create_task(
            batcher.submit(image(3), 10, run=gate, deadline=now + 2 * PATIENCE)
        )
        await asyncio.sleep(0)
        gate.open.set()

        with pytest.raises(DeadlineExceeded):
            await late
        await asyncio.gather(*tasks, early)

    assert [marks for marks, _ in play(scene).batches] == [[1], [3]]


def test_when_a_run_fails_its_images_are_run_one_by_one() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        (first,) = await ask(batcher, gate, 1)
        await gate.running()
        unlucky, neighbour = await ask(batcher, gate, 13, 14)
        lucky = await ask(batcher, gate, 15, crops=1)
        gate.open.set()

        with pytest.raises(ArithmeticError):
            await unlucky
        answers = await asyncio.gather(first, neighbour, *lucky)
        assert [answer.tolist() for answer in answers] == [[1.0], [14.0], [15.0]]
        assert batcher.alive

    gate = play(scene)

    assert [marks for marks, _ in gate.batches] == [[1], [13, 14], [13], [14], [15]]
    assert gate.checks == 0


def test_the_steps_of_an_image_tell_its_way_even_if_its_first_run_failed() -> None:
    """Its moments are in order, and of the run that answered it."""
    steps = [StageTimings() for _ in range(3)]

    async def scene(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.submit(image(1), 10, run=gate, timings=steps[0]))
        await gate.running()
        rest = [
            asyncio.create_task(batcher.submit(image(mark), 10, run=gate, timings=its))
            for mark, its in zip((2, 13), steps[1:], strict=True)
        ]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *rest, return_exceptions=True)

    play(scene)

    for its in steps[:2]:
        assert [name for name, _, _ in its.spans()] == ["queue", "run"]
        assert all(begin <= end for _, begin, end in its.spans())
        assert its.batch == 1  # the second one's, alone, after the two had failed together
    assert steps[2].running is not None
    assert steps[2].answered is None


def test_the_counter_of_runs_gets_each_and_harms_none() -> None:
    """Not of those that failed."""
    told: list[tuple[int, bool]] = []

    def count(images: int, seconds: float) -> None:
        told.append((images, seconds >= 0))
        raise ArithmeticError("the counter is broken")

    async def scene() -> None:
        gate = Gate(opened=True)
        batcher = Batcher(max_batch=4, max_queue=8, on_run=count)
        await batcher.start()
        answers = await asyncio.gather(
            *(batcher.submit(image(mark), 10, run=gate) for mark in (1, 2))
        )
        with pytest.raises(ArithmeticError, match="thirteen"):
            await batcher.submit(image(13), 10, run=gate)
        await batcher.stop()
        assert [float(answer[0]) for answer in answers] == [1.0, 2.0]

    asyncio.run(scene())

    assert told == [(2, True)]


def test_an_engine_is_checked_when_a_run_fails_for_each_of_its_images() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        with pytest.raises(ArithmeticError):
            await batcher.submit(image(13), 10, run=gate)
        assert (await batcher.submit(image(2), 10, run=gate)).tolist() == [2.0]
        assert batcher.alive

    assert play(scene, opened=True).checks == 1


def test_an_engine_that_fails_its_check_is_the_end_and_nobody_waits_for_it() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        gate.broken = True
        (first,) = await ask(batcher, gate, 13)
        await gate.running()
        second = await ask(batcher, gate, 2, crops=1)
        gate.open.set()

        with pytest.raises(ArithmeticError):
            await first
        with pytest.raises(NotReady):
            await second[0]
        assert not batcher.alive
        with pytest.raises(NotReady):
            batcher.check_room()

    assert play(scene).deaths == ["ArithmeticError: broken"]


def test_a_run_that_hangs_is_given_up_and_so_are_those_who_wait() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = [*await ask(batcher, gate, 1)]
        await gate.running()
        tasks += await ask(batcher, gate, 2)

        failures = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(failure) for failure in failures] == [NotReady, NotReady]
        assert not batcher.alive

    assert play(scene, run_timeout=0.05).deaths == ["RunHung: a run has not come back in 0.05 s"]


def test_a_dispatcher_that_dies_leaves_nobody_waiting() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        running = await ask(batcher, gate, 1)
        await gate.running()
        queued = await ask(batcher, gate, 2)
        assert batcher._dispatcher
        batcher._dispatcher.cancel()

        failures = await asyncio.gather(*running, *queued, return_exceptions=True)

        assert [type(failure) for failure in failures] == [NotReady, NotReady]
        assert not batcher.alive

    assert play(scene).deaths == ["the dispatcher was cancelled"]


def test_each_image_is_run_by_the_run_that_it_came_with() -> None:
    """A model that has been replaced finishes what it was asked, apart from the new one."""

    def doubled(images: Pixels, crops: int, *, one_core: bool) -> NDArray[np.float32]:
        return 2 * images[:, 0, 0, :1].astype(np.float32)

    async def scene(batcher: Batcher, gate: Gate) -> None:
        (first,) = await ask(batcher, gate, 1)
        await gate.running()
        old = await ask(batcher, gate, 2, 3)
        new = asyncio.create_task(batcher.submit(image(2), 10, run=doubled))
        await asyncio.sleep(0)
        gate.open.set()

        answers = await asyncio.gather(first, *old, new)
        assert [answer.tolist() for answer in answers] == [[1.0], [2.0], [3.0], [4.0]]

    assert [marks for marks, _ in play(scene).batches] == [[1], [2, 3]]


def test_an_image_of_another_shape_never_reaches_a_batch() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        with pytest.raises(ValueError, match="256"):
            await batcher.submit(np.zeros((2, 2, 3), np.uint8), 10, run=gate)

    assert play(scene).batches == []


def test_a_request_that_does_not_fit_whole_is_refused_at_once() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        with batcher.reserve(5):
            with batcher.reserve(1), batcher.reserve(1), batcher.reserve(1):
                assert batcher.pending == 8
            with pytest.raises(Overloaded) as caught, batcher.reserve(4):
                pass

            assert caught.value.retry_after >= 1
            assert batcher.pending == 5

    play(scene)


def test_places_are_freed_when_a_client_leaves_or_fails() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        async def client() -> None:
            with batcher.reserve(6):
                await batcher.submit(image(1), 10, run=gate)

        task = asyncio.create_task(client())
        await gate.running()
        task.cancel()
        await asyncio.wait([task])

        assert batcher.pending == 0
        with pytest.raises(ZeroDivisionError), batcher.reserve(6):
            raise ZeroDivisionError
        assert batcher.pending == 0

    play(scene)


def test_the_advice_when_to_return_is_the_time_that_what_is_pending_takes() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        clock = Clock()

        def a_second() -> None:
            clock.now += 1

        gate.during = a_second
        with batcher.reserve(1) as places:
            await places.submit(image(1), 10, run=gate)  # a second each, from now on
        with batcher.reserve(8), pytest.raises(Overloaded) as caught:
            batcher.check_room()

        assert caught.value.retry_after == 8

    play(scene, opened=True)


def test_the_advice_counts_what_images_wait_for_before_their_batch() -> None:
    """Here they are decoded for a second each, and run in no time."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        clock = Clock()
        with batcher.reserve(1) as places:
            clock.now += 1
            await places.submit(image(1), 10, run=gate)
        with batcher.reserve(8), pytest.raises(Overloaded) as caught:
            batcher.check_room()

        assert caught.value.retry_after == 8

    play(scene, opened=True)


def test_room_is_kept_for_a_request_of_several_that_was_refused() -> None:
    """Single ones would take each place as it is freed, and it would never fit whole."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        with ExitStack() as held:
            for _ in range(7):
                held.enter_context(batcher.reserve(1))
            with pytest.raises(Overloaded):
                batcher.check_room(2)
            with pytest.raises(Overloaded):
                batcher.check_room(1)  # six is what single ones may hold now
        with batcher.reserve(1), batcher.reserve(1), batcher.reserve(1):
            batcher.check_room(2)

    play(scene)


def test_requests_of_several_images_leave_a_quarter_of_the_queue_to_single_ones() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        with batcher.reserve(4), batcher.reserve(2):
            with pytest.raises(Overloaded, match="6 of 6 images are waiting and 2 more"):
                batcher.check_room(2)
            with batcher.reserve(1), batcher.reserve(1):  # no room is kept for it: it has its share
                assert batcher.pending == 8
        with batcher.reserve(8):  # the only one may take all of it
            pass

    play(scene)


def test_single_images_and_those_of_large_requests_share_each_batch() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        (first,) = await ask(batcher, gate, 1)
        await gate.running()
        with batcher.reserve(6) as places:
            large = [
                asyncio.create_task(places.submit(image(20 + i), 10, run=gate)) for i in range(6)
            ]
            await asyncio.sleep(0)
            single = await ask(batcher, gate, 2, 3, 4)
            gate.open.set()
            await asyncio.gather(first, *large, *single)

    batches = [sorted(marks) for marks, _ in play(scene, max_queue=20).batches]

    assert batches == [[1], [2, 3, 20, 21], [4, 22, 23, 24], [25]]


def test_with_batches_of_one_the_two_kinds_of_requests_take_turns() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        (first,) = await ask(batcher, gate, 1)
        await gate.running()
        with batcher.reserve(3) as places:
            large = [
                asyncio.create_task(places.submit(image(20 + i), 10, run=gate)) for i in range(3)
            ]
            await asyncio.sleep(0)
            single = await ask(batcher, gate, 2, 3)
            gate.open.set()
            await asyncio.gather(first, *large, *single)

    batches = [marks[0] for marks, _ in play(scene, max_batch=1, max_queue=20).batches]

    assert batches == [1, 20, 2, 21, 3, 22]


def test_a_large_request_does_not_keep_single_images_of_other_crops_waiting() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        (first,) = await ask(batcher, gate, 1)
        await gate.running()
        with batcher.reserve(12) as places:
            large = [
                asyncio.create_task(places.submit(image(20 + i), 10, run=gate)) for i in range(12)
            ]
            await asyncio.sleep(0)
            single = await ask(batcher, gate, 2, crops=1)
            gate.open.set()
            await asyncio.gather(first, *large, *single)

    batches = [crops for _, crops in play(scene, max_queue=20).batches]

    assert batches.index(1) <= 2


def test_stopping_finishes_what_was_accepted_and_accepts_nothing_more() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        decoded = asyncio.Event()

        async def client(mark: int) -> float:
            with batcher.reserve(1):
                await decoded.wait()
                return float((await batcher.submit(image(mark), 10, run=gate))[0])

        clients = [asyncio.create_task(client(mark)) for mark in (1, 2)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)

        with pytest.raises(NotReady), batcher.reserve(1):
            pass
        decoded.set()
        gate.open.set()
        assert await asyncio.gather(*clients) == [1.0, 2.0]
        await stopping
        assert not batcher.alive
        with pytest.raises(NotReady):
            await batcher.submit(image(3), 10, run=gate)

    play(scene)


def test_before_its_start_a_batcher_is_not_alive_and_takes_nothing() -> None:
    async def scene() -> None:
        batcher = Batcher(max_batch=1, max_queue=1)

        assert not batcher.alive
        with pytest.raises(NotReady):
            await batcher.submit(image(1), 10, run=Gate())

    asyncio.run(scene())


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other requests are waited for longer than any test lasts, so that only the rules decide."""
    monkeypatch.setattr(batching, "LINGER", 1e9)
    monkeypatch.setattr(batching, "LINGER_SECONDS", 10 * PATIENCE)


async def first_batch(batcher: Batcher, gate: Gate) -> None:
    """One batch, after which the batcher knows how long a batch takes."""
    with batcher.reserve(1) as places:
        await places.submit(image(1), 10, run=gate)


@pytest.mark.usefixtures("slow_clock")
def test_a_batch_waits_for_an_image_that_is_being_decoded() -> None:
    """Two places are held: the first to be decoded does not run alone."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        await first_batch(batcher, gate)
        with batcher.reserve(1) as one, batcher.reserve(1) as two:
            first = asyncio.create_task(one.submit(image(2), 10, run=gate))
            await settled(batcher)
            assert len(gate.batches) == 1
            await asyncio.gather(first, two.submit(image(3), 10, run=gate))

    assert play(scene, opened=True).batches == [([1], 10), ([2, 3], 10)]


@pytest.mark.usefixtures("slow_clock")
def test_a_lone_image_starts_at_once() -> None:
    """If it waited for others without end, it would never be answered."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        await first_batch(batcher, gate)
        await first_batch(batcher, gate)

    assert len(play(scene, opened=True).batches) == 2


@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("how", ["undecodable", "left"])
def test_an_image_that_will_not_come_is_not_waited_for(how: str) -> None:
    """Its place is given up, or its client has left."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        await first_batch(batcher, gate)
        with batcher.reserve(1) as one:
            with batcher.reserve(1) as two:
                answer = asyncio.create_task(one.submit(image(2), 10, run=gate))
                await settled(batcher)
                assert len(gate.batches) == 1
                if how == "undecodable":
                    two.release(1)
                    await answer
            await answer

    assert play(scene, opened=True).batches == [([1], 10), ([2], 10)]


@pytest.mark.usefixtures("slow_clock")
def test_a_full_batch_waits_for_nobody() -> None:
    """Four of four are there, a fifth is being decoded."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        await first_batch(batcher, gate)
        with batcher.reserve(5) as places:
            await asyncio.gather(*(places.submit(image(2), 10, run=gate) for _ in range(4)))

    assert play(scene, opened=True).batches[1] == ([2, 2, 2, 2], 10)


def test_company_is_waited_for_only_a_moment() -> None:
    """The other image never comes, while its place is held."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        await first_batch(batcher, gate)
        with batcher.reserve(2) as places:
            await places.submit(image(2), 10, run=gate)

    assert play(scene, opened=True).batches == [([1], 10), ([2], 10)]


@pytest.mark.usefixtures("slow_clock")
def test_clients_that_come_back_at_once_end_up_in_one_batch() -> None:
    """Three that ask again as soon as they are answered, one after the other, split into batches
    at first, and share each one in the end."""

    async def client(batcher: Batcher, gate: Gate, mark: int) -> None:
        while True:
            await turns(10 * mark)
            with batcher.reserve(1) as places:
                await places.submit(image(mark), 10, run=gate)

    async def scene(batcher: Batcher, gate: Gate) -> None:
        with batcher.reserve(1) as places:
            first = asyncio.create_task(places.submit(image(9), 10, run=gate))
            await gate.running()
            clients = [asyncio.create_task(client(batcher, gate, mark)) for mark in (1, 2, 3)]
            gate.open.set()
            await first
        for batch in count(1):
            await gate.running()
            sizes = [len(marks) for marks, _ in gate.batches]
            if sizes[-4:] == [3, 3, 3, 3]:
                break
            assert batch < 100, sizes
        for task in clients:
            task.cancel()

    sizes = [len(marks) for marks, _ in play(scene).batches]

    assert sizes[0] == 1
    assert {1, 2} & set(sizes[1:])  # it was not so by chance


def test_a_batch_does_not_linger_for_clients_that_do_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody came back after earlier answers: who is queued starts when the engine is free."""
    monkeypatch.setattr(batching, "LINGER", 1e9)
    monkeypatch.setattr(batching, "LINGER_SECONDS", 0.001)

    async def scene(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        for _ in range(5):
            await first_batch(batcher, gate)
            await asyncio.sleep(0.02)
        gate.open.clear()
        monkeypatch.setattr(batching, "LINGER_SECONDS", 10 * PATIENCE)
        with batcher.reserve(2) as places:
            running = asyncio.create_task(places.submit(image(2), 10, run=gate))
            queued = asyncio.create_task(places.submit(image(3), 1, run=gate))
            gate.open.set()
            await asyncio.gather(running, queued)

    assert play(scene).batches[-2:] == [([2], 10), ([3], 1)]


@pytest.mark.usefixtures("slow_clock")
def test_no_batch_lingers_while_others_wait_for_the_engine() -> None:
    """An image for ten crops has another on its way, but one for one crop is there."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        await first_batch(batcher, gate)
        with batcher.reserve(3) as places:
            await asyncio.gather(
                places.submit(image(2), 10, run=gate),
                places.submit(image(3), 1, run=gate),
            )

    assert sorted(play(scene, opened=True).batches[1:]) == [([2], 10), ([3], 1)]


async def two_runs(batcher: Batcher, gate: Gate, *marks: int) -> list[asyncio.Task[Any]]:
    """Two images each on a core of its own, both inside the network."""
    with batcher.reserve(2) as places:
        places.release()
        tasks = await ask(batcher, gate, *marks)
    await gate.running()
    await gate.running()
    return tasks


def test_a_lone_image_takes_all_cores_and_the_next_one_waits() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await ask(batcher, gate, 1)
        await gate.running()
        tasks += await ask(batcher, gate, 2)
        await turns()
        assert gate.batches == [([1], 10)]
        gate.open.set()
        await asyncio.gather(*tasks)

    gate = play(scene, cores=2)

    assert gate.batches == [([1], 10), ([2], 10)]
    assert gate.on_one_core == [False, False]


def test_images_that_wait_are_run_at_the_same_time_one_core_each() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await two_runs(batcher, gate, 1, 2)
        later = await ask(batcher, gate, 3, 4, 5)
        await turns()
        assert len(gate.batches) == 2
        gate.open.set()
        answers = await asyncio.gather(*tasks, *later)
        assert [answer.tolist() for answer in answers] == [[float(m)] for m in range(1, 6)]

    gate = play(scene, cores=2)

    assert sorted(gate.batches[:2]) == [([1], 10), ([2], 10)]
    assert gate.on_one_core[:2] == [True, True]
    assert sorted(mark for marks, _ in gate.batches[2:] for mark in marks) == [3, 4, 5]


def test_a_run_that_fails_on_one_core_harms_none_on_another() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        unlucky, lucky = await two_runs(batcher, gate, 13, 14)
        gate.open.set()
        with pytest.raises(ArithmeticError):
            await unlucky
        assert (await lucky).tolist() == [14.0]
        assert (await batcher.submit(image(15), 10, run=gate)).tolist() == [15.0]

    assert play(scene, cores=2).checks == 1


@pytest.mark.parametrize("ended_by", ["hang", "abandon"])
def test_the_end_of_the_dispatcher_ends_all_runs(ended_by: str) -> None:
    """Of two that are under way: a thread that hangs keeps nobody waiting for the other."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await two_runs(batcher, gate, 1, 2)
        tasks += await ask(batcher, gate, 3)
        if ended_by == "abandon":
            batcher.abandon("too late")

        failures = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(failure) for failure in failures] == [NotReady] * 3
        assert not batcher.alive

    timeout = 0.05 if ended_by == "hang" else None
    (reason,) = play(scene, cores=2, run_timeout=timeout).deaths
    assert reason == (
        "too late" if timeout is None else "RunHung: a run has not come back in 0.05 s"
    )


def test_stopping_waits_for_the_runs_of_all_cores() -> None:
    async def scene(batcher: Batcher, gate: Gate) -> None:
        tasks = await two_runs(batcher, gate, 1, 2)
        stopping = asyncio.create_task(batcher.stop())
        await turns()
        assert not stopping.done()
        gate.open.set()
        await stopping
        assert all(task.done() for task in tasks)

    play(scene, cores=2)


def test_on_many_cores_single_images_and_large_requests_still_take_turns() -> None:
    """Each core's batch of one is of the other kind than the last one."""

    async def scene(batcher: Batcher, gate: Gate) -> None:
        in_pairs = threading.Barrier(2, timeout=PATIENCE)  # the core that is ahead waits
        gate.during = in_pairs.wait
        tasks = await two_runs(batcher, gate, 1, 2)
        for mark in (3, 4):
            tasks.append(asyncio.create_task(batcher.submit(image(mark), 10, run=gate)))
            large = batcher.submit(image(10 * mark), 10, run=gate, alone=False)
            tasks.append(asyncio.create_task(large))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks)

    batches = play(scene, cores=2, max_batch=1).batches

    assert [marks[0] >= 30 for marks, _ in batches[2:]].count(True) == 2
    assert len({marks[0] >= 30 for marks, _ in batches[2:4]}) == 2
