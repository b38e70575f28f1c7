"""The load generator and `alexnet bench`, against real servers."""

import asyncio
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.inference.image import decode
from service.inference.limits import DecodeLimits
from service.loadtest import generator, statistics
from service.loadtest.generator import Request, photographs
from service.loadtest.statistics import Figures, LoadStatistics, Record
from tests.support.clocks import Clock
from tests.support.commands import alexnet
from tests.support.images import IMAGES as PHOTOGRAPHS
from tests.support.images import image
from tests.support.servers import PATIENCE, Live, serving

IMAGES = [image(size=(280 + step, 260)) for step in range(4)]
CAT = str(PHOTOGRAPHS / "cat.jpg")


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Live]:
    """One server for the tests that leave it as it was."""
    with serving(tiny_model) as live:
        yield live


def in_order(figures: Figures) -> bool:
    """Latencies are positive and rise."""
    return 0 < figures.p50 <= figures.p95 <= figures.p99


def times(number: int) -> Callable[[float], bool]:
    """That a closed loop goes on so many times."""
    left = iter(range(number))
    return lambda now: next(left, None) is not None


def records_of(url: str, number: int, *, in_flight: int, **options: Any) -> list[Record]:
    """What became of so many requests of a closed loop."""
    records: list[Record] = []

    async def load() -> None:
        async def send(due: float) -> bool:
            records.append(await client.post(Request(IMAGES[0]), due, **options))
            return True

        async with generator.connected(url) as client:
            await generator.closed_loop(send, in_flight=in_flight, go_on=times(number))

    generator.run(load())
    return records


def test_a_closed_loop_sends_as_many_as_it_may(server: Live) -> None:
    """Each is answered, with classes, after it was sent, which was not before it was due."""
    records = records_of(server.url, 40, in_flight=4)

    assert [record.status for record in records] == [200] * 40
    assert all(record.due <= record.sent < record.ended for record in records)
    assert all("predictions" in json.loads(record.body) for record in records)


def test_an_open_loop_sends_what_is_due_after_the_warm_up(server: Live) -> None:
    """Exactly the arrivals that were drawn beforehand, whatever the clock says."""
    due = [at for at in generator.arrivals(50, 0.2 + 1.0, seed=3) if at >= 0.2]

    figures = generator.run(
        generator.measure(server.url, IMAGES, rate=50, seconds=1.0, warm_up=0.2, seed=3)
    )

    assert (figures.requests, figures.answered) == (len(due), len(due))
    assert in_order(figures)
    assert figures.rate > 0
    assert figures.cpu > 0


@pytest.mark.usefixtures("clock")
def test_refusals_are_counted_by_status(tiny_model: Path) -> None:
    """Nothing is lost: each request is answered or refused."""
    with serving(tiny_model, max_queue=1, max_files=1) as small, small.gate.closed() as gate:

        def observe(statistics: LoadStatistics) -> None:
            if statistics.refused:
                gate.open()

        figures = generator.run(
            generator.measure(
                *(small.url, IMAGES), in_flight=8, seconds=1, warm_up=0, observe=observe
            )
        )

    assert set(figures.refused) == {"503"}
    assert figures.answered + figures.refused["503"] == figures.requests
    assert figures.answered > 0


def test_a_refusal_is_recorded_with_its_retry_after(tiny_model: Path) -> None:
    """In seconds, as the server says it."""
    with serving(tiny_model, rate_limit="1/hour") as limited:
        first, second = records_of(limited.url, 2, in_flight=1)

    assert (first.status, first.retry_after) == (200, None)
    assert second.status == 429
    assert second.retry_after is not None
    assert 0 < second.retry_after <= 3600


def test_a_server_that_is_gone_is_recorded_and_not_raised() -> None:
    """A load ends, whatever happens to the server."""
    records = records_of("http://127.0.0.1:1", 3, in_flight=2)

    assert [record.status for record in records] == [0, 0, 0]
    assert all(record.reason for record in records)


def test_an_open_loop_ends_although_nobody_answers() -> None:
    """A server that accepts and is silent: each fails `timeout` after its intended time."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        figures = generator.run(
            generator.measure(
                *(url, IMAGES),
                rate=2000,
                seconds=0.25,
                warm_up=0,
                timeout=0.25,
                max_outstanding=1,
            )
        )

    due = len(list(generator.arrivals(2000, 0.25)))
    assert figures.failed == {"no answer within 0.25 s": due}
    assert (figures.requests, figures.rate, figures.p99) == (due, 0, 0)
    # 0.5; if each had 0.25 s from its sending, one at a time, 125
    assert figures.seconds < PATIENCE


def test_latency_counts_from_the_intended_time() -> None:
    """One place and a slow server: the third request has waited for the two before it."""
    latencies: list[float] = []

    async def slow(due: float) -> bool:
        await asyncio.sleep(0.1)
        latencies.append(time.perf_counter() - due)
        return True

    now = time.perf_counter()
    outstanding = generator.run(generator.open_loop(slow, [now, now, now], max_outstanding=1))

    assert outstanding == 1
    assert latencies[1] > 0.19  # a timer of the loop may be a millisecond early
    assert latencies[2] > 0.29


def test_an_open_loop_counts_how_many_were_outstanding() -> None:
    """Without a limit, all that are due before the first is answered."""
    began = asyncio.Barrier(3)

    async def together(due: float) -> bool:
        await began.wait()
        return True

    assert generator.run(generator.open_loop(together, [0.0, 0.0, 0.0])) == 3


def test_a_lump_at_either_end_does_not_bend_the_rate() -> None:
    """Eight answers every half second are sixteen a second, in three lumps or in thirty."""
    for lumps in (2, 3, 30):
        completions = [0.5 * lump for lump in range(lumps) for _ in range(8)]

        assert statistics.rate_of(completions) == pytest.approx(16)


def test_a_steady_rate_counts_intervals_and_not_completions() -> None:
    """Eleven completions, a tenth of a second apart: ten a second, not eleven."""
    assert statistics.rate_of([number / 10 for number in range(11)]) == pytest.approx(10)


@pytest.mark.parametrize("completions", [[], [1.0], [1.0, 1.0]])
def test_too_few_completions_have_no_rate(completions: list[float]) -> None:
    """Rather than an infinite one."""
    assert statistics.rate_of(completions) == 0


def answered(due: float, ended: float) -> Record:
    """A request that was sent when it was due."""
    return Record(due, due, ended, 200)


def test_the_rate_is_that_under_full_load() -> None:
    """What is answered in the warm-up, or when fewer are in flight, does not count for it."""
    counted = LoadStatistics(began=10.0, full_until=20.0)
    for tenth in range(300):  # ten a second from 0 to 20, then two
        ended = tenth / 10 if tenth < 200 else 20 + (tenth - 199) / 2
        counted.add(answered(ended - 0.05, ended))

    assert counted.figures(now=80.0, cpu=7.0).rate == pytest.approx(10)
    assert counted.figures(now=80.0, cpu=7.0).cpu == pytest.approx(0.1)


def test_one_lump_is_no_rate_of_its_own() -> None:
    """Sixteen answers within a millisecond, after two seconds of waiting: eight a second."""
    lump = LoadStatistics(began=10.0, full_until=12.0)
    for number in range(16):
        lump.add(answered(10.0, 11.99 + number / 16_000))

    assert lump.figures(now=12.0, cpu=0.0).rate == pytest.approx(8)


def test_a_gap_between_random_requests_does_not_bend_their_rate() -> None:
    """Twelve in four seconds are three a second, wherever chance has put them."""
    random = LoadStatistics(began=10.0, full_until=14.0, at_random=True)
    for ended in [*(10 + number / 10 for number in range(11)), 13.9]:
        random.add(answered(ended - 0.01, ended))

    assert random.figures(now=15.0, cpu=0.0).rate == pytest.approx(3)


def test_percentiles_are_latencies_that_were_measured() -> None:
    """The nearest rank, in ms."""
    hundred = [number / 1000 for number in range(100, 0, -1)]

    assert statistics.percentiles(hundred) == pytest.approx((50, 95, 99))
    assert statistics.percentiles([0.002]) == pytest.approx((2, 2, 2))
    assert statistics.percentiles([]) == (0, 0, 0)


def test_arrivals_are_the_same_for_the_same_seed() -> None:
    """In order, within the time, and of another seed others."""
    first = list(generator.arrivals(100, 20, seed=1))

    assert first == list(generator.arrivals(100, 20, seed=1)) == sorted(first)
    assert first != list(generator.arrivals(100, 20, seed=2))
    assert 0 <= first[0] <= first[-1] < 20
    assert len(first) == pytest.approx(2000, rel=0.1)


def test_synthetic_photographs_are_distinct_and_typical() -> None:
    """What they cost is what counts: size in pixels and in bytes."""
    made = photographs(60)

    assert len(set(made)) == 60
    assert photographs(2) == photographs(2)
    assert all(40_000 < len(jpeg) < 70_000 for jpeg in made)
    assert Image.open(io.BytesIO(made[0])).size == (500, 375)
    assert decode(made[0], DecodeLimits(max_pixels=10**6, max_aspect_ratio=2)).std() > 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a load: a closed one sends its requests, however slow the machine is."""
    monkeypatch.setattr(generator, "time", Clock())


@pytest.mark.usefixtures("clock")
def test_bench_prints_json_for_programs(server: Live, tmp_path: Path) -> None:
    """Nothing else on standard output, nothing on the other."""
    for number, jpeg in enumerate(IMAGES):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg)
    (tmp_path / "notes.txt").write_text("no image")

    done = alexnet(
        *("bench", server.url, str(tmp_path), "--json", "--crops", "one"),
        *("--seconds", "0.5", "--warm-up", "0.1", "--in-flight", "3"),
    )

    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    facts = json.loads(done.stdout)
    assert facts["crops"] == "one"
    assert facts["pictures"] == len(IMAGES)
    assert facts["load"] == {"in_flight": 3}
    assert facts["answered"] == facts["requests"] > 0
    assert facts["model"]["name"] == "tiny"
    assert 0 < facts["p50"] <= facts["p95"] <= facts["p99"]


def test_bench_brings_its_own_images_and_prints_a_table(server: Live) -> None:
    """For people; no progress where there is no terminal."""
    done = alexnet("bench", server.url, "--seconds", "0.5", "--warm-up", "0.1", "--rate", "20")

    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    for text in ("20 a second, crops ten, 64 images", "images/s", "p99", "of a core"):
        assert text in done.stdout.decode()


def test_bench_against_nothing_is_one_sentence() -> None:
    """It says what to do."""
    text = complaint("http://127.0.0.1:1", CAT)

    assert "http://127.0.0.1:1" in text
    assert "alexnet serve" in text


def test_bench_against_another_server_is_one_sentence(server: Live) -> None:
    """Some path below which the server has no such endpoint."""
    text = complaint(f"{server.url}/elsewhere", CAT)

    assert text.endswith("/elsewhere; give the address of an alexnet server\n")


@pytest.mark.usefixtures("clock")
def test_bench_shows_the_key_that_it_is_given(tiny_model: Path) -> None:
    """In the environment: flags are seen by every user of a machine."""
    arguments = (CAT, "--seconds", "0.3", "--warm-up", "0.1", "--json")
    with serving(tiny_model, api_keys="alice-0123456789") as keyed:
        done = alexnet("bench", keyed.url, *arguments, api_key="alice-0123456789")

        assert "ALEXNET_API_KEY" in complaint(keyed.url, CAT)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["refused"] == {}


def test_bench_names_the_crops_that_the_server_offers(server: Live) -> None:
    """They are the model's, so the server tells them."""
    assert "ten, one" in complaint(server.url, CAT, "--crops", "six")


def test_bench_without_an_image_is_one_sentence(server: Live, tmp_path: Path) -> None:
    """An empty folder, or a file that is not there."""
    assert str(tmp_path) in complaint(server.url, str(tmp_path))
    assert "gone.jpg" in complaint(server.url, str(tmp_path / "gone.jpg"))


@pytest.mark.usefixtures("clock")
def test_bench_fails_if_nothing_was_answered(server: Live) -> None:
    """Nobody answers within a millisecond, by that clock; the figures are told all the same."""
    arguments = ("--seconds", "0.3", "--warm-up", "0", "--timeout", "0.001", "--json")
    done = alexnet("bench", server.url, CAT, *arguments)

    assert done.returncode == 1
    assert "none of" in done.stderr.decode()
    facts = json.loads(done.stdout)
    assert facts["answered"] == 0
    assert facts["failed"] == {"no answer within 0.001 s": facts["requests"]}


def complaint(*arguments: str) -> str:
    """What `bench` says when it fails, in one line."""
    done = alexnet("bench", *arguments)

    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("alexnet: "), text
    assert len(text.splitlines()) == 1, text
    return text
