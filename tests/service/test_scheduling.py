"""Which run starts next: with generated costs, on processors that need not be there."""

import itertools
from collections.abc import Callable

import pytest

from service.inference.scheduling import Plan, Scheduler

TEN, ONE = 10, 1  # crops
Cost = Callable[[int, bool], float]  # images, on one core -> seconds


def ready(cores: int, cost: Cost, *, max_batch: int = 16, crops: int = ONE) -> Scheduler:
    """A scheduler that has seen every run there is."""
    scheduler = Scheduler(cores, max_batch)
    for size, one_core in itertools.product(range(1, max_batch + 1), (True, False)):
        record(scheduler, size, cost(size, one_core), one_core=one_core, crops=crops)
    return scheduler


def record(
    scheduler: Scheduler, size: int, seconds: float, *, one_core: bool = True, crops: int = ONE
) -> None:
    """A run whose core does nothing else."""
    scheduler.record(crops, size, one_core=one_core, passed=seconds, worked=seconds)


def amdahl(cores: int, *, fixed: float, serial: float) -> Cost:
    """`fixed` seconds a run, 1 second an image on one core, of which `serial` is never shared."""

    def cost(size: int, one_core: bool) -> float:
        return fixed + size * (1.0 if one_core else serial + (1 - serial) / cores)

    return cost


def test_a_lone_image_runs_on_all_cores_before_and_after_anything_is_known() -> None:
    assert Scheduler(2, 16).plan(ONE, waiting=1, idle=2) == Plan(16, one_core=False)
    known = ready(2, amdahl(2, fixed=0.1, serial=1.0))  # although that gains nothing
    assert known.plan(ONE, waiting=1, idle=2) == Plan(16, one_core=False)


def test_with_one_core_every_run_takes_all_that_waits() -> None:
    scheduler = ready(1, amdahl(1, fixed=1, serial=0))
    for waiting in (1, 7, 100):
        assert scheduler.plan(TEN, waiting, idle=1) == Plan(16, one_core=False)


def test_many_images_are_shared_among_the_idle_cores() -> None:
    """Batching pays here, so that a core takes all of its share."""
    scheduler = ready(2, amdahl(2, fixed=100, serial=0.2))
    assert scheduler.plan(ONE, waiting=8, idle=2) == Plan(4, one_core=True)
    assert scheduler.plan(ONE, waiting=4, idle=1) == Plan(4, one_core=True)
    assert scheduler.plan(ONE, waiting=100, idle=1) == Plan(16, one_core=True)


def test_while_a_core_is_busy_no_run_takes_all() -> None:
    scheduler = ready(2, amdahl(2, fixed=0.1, serial=0))
    assert scheduler.plan(ONE, waiting=1, idle=1) == Plan(1, one_core=True)


def test_a_batch_is_no_larger_than_pays() -> None:
    """Ten crops fill a core by themselves: a batch of one costs no more for each image."""
    scheduler = ready(2, amdahl(2, fixed=0.01, serial=0.1))
    assert scheduler.plan(ONE, waiting=16, idle=2) == Plan(1, one_core=True)


def test_a_size_that_has_not_been_seen_is_tried() -> None:
    scheduler = Scheduler(2, 16)
    record(scheduler, 1, 1.0)
    assert scheduler.plan(ONE, waiting=8, idle=1) == Plan(8, one_core=True)
    record(scheduler, 8, 9.0)  # it did not pay
    assert scheduler.plan(ONE, waiting=8, idle=1) == Plan(1, one_core=True)


def test_a_busy_neighbour_does_not_make_a_batch_look_dear() -> None:
    """Its core decodes meanwhile: the batch takes longer, and its work is the same."""
    scheduler = ready(2, amdahl(2, fixed=100, serial=0.2))
    for _ in range(30):
        scheduler.record(ONE, 8, one_core=True, passed=1000.0, worked=108.0)
    assert scheduler.plan(ONE, waiting=8, idle=1).size == 8


def test_costs_follow_a_machine_that_changes() -> None:
    """What was measured under load, or while it was throttled, is not kept for good."""
    scheduler = ready(2, amdahl(2, fixed=0.01, serial=0.1))
    assert scheduler.plan(ONE, waiting=8, idle=1).size == 1
    for _ in range(30):
        record(scheduler, 1, 2.0)
    assert scheduler.plan(ONE, waiting=8, idle=1).size > 1


def test_each_choice_of_crops_has_costs_of_its_own() -> None:
    scheduler = ready(2, amdahl(2, fixed=100, serial=0.2), crops=ONE)
    for size in range(1, 17):
        record(scheduler, size, float(size), crops=TEN)
    assert scheduler.plan(ONE, waiting=8, idle=1).size == 8
    assert scheduler.plan(TEN, waiting=8, idle=1).size == 1


@pytest.mark.parametrize("cores", [2, 4, 16, 64])
def test_all_cores_share_a_run_only_while_that_is_sooner_done(cores: int) -> None:
    """A third of the work of a run cannot be shared: with more to do, each core runs its own."""
    cost = amdahl(cores, fixed=0.05, serial=0.3)
    scheduler = ready(cores, cost, max_batch=64)
    plans = [scheduler.plan(ONE, waiting, idle=cores) for waiting in range(1, 65)]

    for waiting, plan in enumerate(plans, 1):
        each = -(-waiting // cores)
        assert plan.one_core is not (cost(waiting, False) < cost(each, True)), waiting
    assert not plans[0].one_core
    assert plans[cores - 1].one_core  # one each, without a barrier


@pytest.mark.parametrize("cores", [2, 16, 64])
@pytest.mark.parametrize("clients", [1, 8, 256])
def test_a_simulated_load_is_served_at_least_as_fast_as_by_runs_on_all_cores(
    cores: int, clients: int
) -> None:
    """Closed loops of clients that come back at once, on a clock that costs no time."""
    cost = amdahl(cores, fixed=0.2, serial=0.1)

    def rate(scheduler: Scheduler) -> float:
        """Images a second over 500 runs."""
        waiting, idle, now, answered = clients, cores, 0.0, 0
        runs: list[tuple[float, int, int]] = []  # end, images, cores
        for _ in range(500):
            while waiting and idle:
                plan = scheduler.plan(ONE, waiting, idle)
                taken = 1 if plan.one_core else scheduler.cores
                size = min(plan.size, waiting)
                seconds = cost(size, plan.one_core)
                record(scheduler, size, seconds, one_core=plan.one_core)
                runs.append((now + seconds, size, taken))
                waiting, idle = waiting - size, idle - taken
            end = min(runs)
            runs.remove(end)
            now, size, taken = end
            waiting, idle, answered = waiting + size, idle + taken, answered + size
        return answered / now

    def shared(waiting: int) -> float:
        size = min(waiting, 16)
        return size / cost(size, False)

    assert rate(Scheduler(cores, 16)) >= 0.97 * shared(clients)
