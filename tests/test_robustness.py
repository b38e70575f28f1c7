"""The trials of overload and endurance, on the tiny model; how fast it is, is no matter here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustness import figures, overload, soak, workload
from robustness.health_prober import Probe
from robustness.server import Usage
from service.loadtest.generator import Request, connected
from service.loadtest.statistics import Record
from tests.support.servers import serving

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "pictures"

QUICK = {
    "overload": (
        *("--seconds", "2", "--factors", "4", "--after", "0.5", "--in-flight", "8"),
        *("--serve", "--device cpu --max-queue 64"),
    ),
    "soak": (
        *("--minutes", "0.05", "--in-flight", "8", "--load", "0.3"),
        *("--serve", "--device cpu"),
    ),
}


def trial(name: str, model: Path, output: Path) -> subprocess.Popen[str]:
    """One of the drivers, started."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", f"robustness.{name}", "--model", str(model)),
            *("--pictures", str(IMAGES), "--json", str(output), *QUICK[name]),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def results(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    """What a short run of each wrote, both at once."""
    work = tmp_path_factory.mktemp("robustness")
    processes = {name: trial(name, tiny_model, work / name) for name in QUICK}
    try:
        read = {}
        for name, process in processes.items():
            output = process.communicate(timeout=120)[0]
            assert process.returncode == 0, output
            read[name] = json.loads((work / name).read_text()) | {"output": output}
        yield read
    finally:
        for process in processes.values():
            process.kill()


def answer(due: float, seconds: float, status: int = 200, **more: Any) -> Record:
    """A request sent when it was due."""
    return Record(due, due, due + seconds, status, **more)


def samples(megabytes: list[float], every: float = 10.0) -> list[Usage]:
    """One after the other, from 0 on."""
    return [Usage(place * every, size, 0.0, 9, 7) for place, size in enumerate(megabytes)]


@pytest.mark.external
def test_every_request_of_an_overload_is_told(results: dict[str, dict[str, Any]]) -> None:
    """Four times the capacity; a request is accepted, refused, or listed under what befell it.
    How many are refused depends on the machine: tests/service/test_overload.py fills a queue."""
    (step,) = results["overload"]["steps"]

    assert step["factor"] == 4
    assert step["accepted"] > 0
    assert step["accepted"] + step["refused"] == pytest.approx(2 * step["offered"])
    assert step["other"] == step["lost"] == {}
    assert step["retry_after"]["without"] == 0
    assert step["share"] == pytest.approx(step["answered"] / step["capacity"])


@pytest.mark.external
def test_an_overload_s_prober_is_heard_all_along(results: dict[str, dict[str, Any]]) -> None:
    """Both paths, from a process of its own."""
    (step,) = results["overload"]["steps"]

    assert step["probes"].keys() == {"/livez", "/readyz"}
    assert all(row["number"] > 0 and row["failed"] == 0 for row in step["probes"].values())


@pytest.mark.external
def test_an_overload_ends_with_a_verdict_on_each_claim(results: dict[str, dict[str, Any]]) -> None:
    """Six for the one step, and those on memory, the time after, and fairness."""
    claims = results["overload"]["claims"]

    assert len(claims) == 9
    assert (
        results["overload"]["output"].count("met  ") + results["overload"]["output"].count("MISSED")
        == 9
    )


def test_each_bad_request_of_a_soak_is_refused_as_it_expects(tiny_model: Path) -> None:
    """By the limits that a server has by default; drawn by chance, one of them is seldom seen."""
    with serving(tiny_model) as live:
        for question in workload.bad((IMAGES / "cat.jpg").read_bytes()):
            headers, query = dict(question.request.headers), question.request.query
            answer = live.client.post(
                f"/v1/predict{query}", content=question.request.body, headers=headers
            )
            assert answer.status_code == question.status


@pytest.mark.external
def test_a_soak_finds_every_answer_right(results: dict[str, dict[str, Any]]) -> None:
    """Images, forms and bad requests; each one counted once, in its minute and in all."""
    total, minutes = results["soak"]["total"], results["soak"]["minutes"]

    assert total["faults"] == {}
    assert total["answered"] > 0
    assert set(total["left"]) <= set(workload.WAYS)
    assert total["requests"] == sum(minute["requests"] for minute in minutes)
    assert total["requests"] == (
        total["answered"] + total["refused_rightly"] + sum(total["left"].values())
    )


@pytest.mark.external
def test_a_soak_leaves_nothing_behind(results: dict[str, dict[str, Any]]) -> None:
    """An empty queue, exit status 0, no error in the log."""
    assert results["soak"]["pending"] == 0
    assert results["soak"]["exit_status"] == 0
    assert results["soak"]["errors_logged"] == 0


@pytest.mark.external
@pytest.mark.parametrize(("name", "sign"), [("overload", "capacity"), ("soak", "are sent now")])
def test_a_server_that_dies_is_reported(
    name: str, sign: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The trial ends by itself, says so and fails."""
    output = tmp_path / "found.json"
    with trial(name, tiny_model, output) as process:
        assert process.stdout
        pid = 0
        for line in process.stdout:
            if serving := re.search(r"process (\d+)", line):
                pid = int(serving[1])
            if sign in line:
                break
        os.kill(pid, signal.SIGKILL)
        printed, _ = process.communicate(timeout=60)

    assert process.returncode == 1, printed
    assert "the server ended with status -9" in printed
    assert "status -9" in json.loads(output.read_text())["ended"]


def test_the_hostile_clients_are_a_command(tiny_model: Path) -> None:
    """One of the attacks, on a server that passes it."""
    with serving(tiny_model) as server:
        done = subprocess.run(
            [sys.executable, "-m", "robustness.chaos", server.url, "--only", "wrong_protocol"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"wrong.protocol +ok", done.stdout), done.stdout


def records_of(reply: bytes) -> list[Record]:
    """What the client makes of a server that replies so to each connection's first bytes and then
    closes it, whatever else is being sent; asked twice."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            writer.write(reply)
            await writer.drain()
            await asyncio.sleep(0.1)  # or the reset would overtake the reply
        finally:
            writer.transport.abort()

    async def ask_twice() -> list[Record]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, connected(f"http://127.0.0.1:{port}") as client:
            return [await client.post(Request(bytes(10**7)), time.perf_counter()) for _ in range(2)]

    return asyncio.run(ask_twice())


def test_a_refusal_in_the_middle_of_the_upload_is_read() -> None:
    """Nor is its connection used again, with half of the upload still in it."""
    body = b'{"code": "overloaded"}'
    head = b"HTTP/1.1 503 Full\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n" % len(body)

    for record in records_of(head + body):
        assert (record.status, record.retry_after, record.body) == (503, 3.0, body)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_an_answer_that_does_not_come_whole_is_lost(reply: bytes) -> None:
    """With the reason in its record."""
    for record in records_of(reply):
        assert record.status == 0
        assert record.reason


def test_goodput_counts_the_answers_of_the_time_alone() -> None:
    """Ten seconds, twenty answers inside, some before and after; half of what could be."""
    inside = [answer(at / 2 + 0.1, 0.2) for at in range(20)]
    outside = [answer(-1.0, 0.5), answer(9.9, 0.3)]

    row = figures.step([*inside, *outside, answer(5, 0.01, 503)], 0.0, 10.0, capacity=4.0)

    assert row["answered"] == pytest.approx(2.0)
    assert row["share"] == pytest.approx(0.5)
    assert row["refused"] == 1
    assert row["refusal"]["max"] == pytest.approx(10.0)
    assert row["retry_after"]["without"] == 1


def test_the_time_of_a_refusal_counts_from_sending_and_from_when_it_was_due() -> None:
    """A generator that was late by a second is not the server's fault, but is told."""
    late = Record(due=1.0, sent=2.0, ended=2.03, status=503, retry_after=1.0)

    row = figures.step([late], 0.0, 10.0, capacity=1.0)

    assert row["refusal"]["p50"] == pytest.approx(30)
    assert row["refusal_from_due"]["p50"] == pytest.approx(1030)
    assert row["late"]["max"] == pytest.approx(1000)


def test_a_retry_after_is_compared_with_what_an_accepted_one_waited_then() -> None:
    """Accepted ones waited 2 and 4 s; halfway between them the wait was 3 s."""
    accepted = [answer(0.0, 2.0), answer(10.0, 4.0)]
    refused = [answer(5.0, 0.01, 503, retry_after=6.0), answer(10.0, 0.01, 503, retry_after=2.0)]

    row = figures.retry_after(refused, accepted)

    assert row["mean_wait"] == pytest.approx(3.5)
    assert row["mean_ratio"] == pytest.approx((6 / 3 + 2 / 4) / 2)
    assert row["within_two"] == 1.0


def test_a_probe_without_a_200_is_counted() -> None:
    """However quick it was."""
    probes = [Probe(at / 10, "/livez", 503 if at == 3 else 200, 0.002) for at in range(10)]

    row = figures.probes(probes, 0.0, 0.5)["/livez"]

    assert row["number"] == 5
    assert row["failed"] == 1
    assert row["max"] == pytest.approx(2.0)


def test_a_leak_has_its_slope() -> None:
    """Half an hour at 36 MB an hour, 0.1 MB every ten seconds."""
    row = figures.growth(samples([300 + place / 10 for place in range(181)]), 0.0, 1800.0)

    assert row["slope"] == pytest.approx(36.0)
    assert row["error"] == pytest.approx(0.0, abs=1e-6)
    assert row["late"] - row["early"] == pytest.approx(14.4, abs=0.2)


def test_growth_at_the_start_is_no_leak() -> None:
    """The first third is left out of the slope."""
    row = figures.growth(samples([100.0] * 20 + [300.0] * 161), 0.0, 1800.0)

    assert row["slope"] == pytest.approx(0.0, abs=1e-6)
    assert row["early"] == row["late"] == 300.0


@pytest.mark.parametrize(
    ("status", "body", "trouble"),
    [
        (200, {"predictions": [{"classes": [{"index": 7}]}, {"error": "no"}]}, ""),
        (200, {"predictions": [{"classes": [{"index": 8}]}, {"error": "no"}]}, "class 8"),
        (200, {"predictions": [{"error": "no"}, {"error": "no"}]}, "class None"),
        (200, {"predictions": [{"classes": [{"index": 7}]}] * 2}, "class 7 instead of []"),
        (200, {"predictions": [{"classes": [{"index": 7}]}]}, "1 predictions"),
        (200, {}, "another shape"),
        (503, {"code": "overloaded"}, "503 instead of 200"),
        (0, {}, "ServerGone instead of 200"),
    ],
)
def test_an_answer_that_is_not_right_is_found(status: int, body: Any, trouble: str) -> None:
    """Two images, of which the second is bad."""
    question = workload.Question("form", Request(b""), expected=(frozenset({7}), frozenset()))

    record = answer(0.0, 0.1, status, body=json.dumps(body).encode(), reason="ServerGone")
    problem = workload.fault(question, record)

    assert trouble in problem
    assert bool(problem) == bool(trouble)


def test_what_is_lost_wrong_or_broken_misses_its_claim() -> None:
    """One each among good ones."""
    count = soak.Count()
    count.add(answer(0.0, 0.1), "")
    count.add(answer(0.0, 0.1, 0, reason="ServerDisconnectedError"), "lost")
    count.add(answer(0.0, 0.1, 200), "wrong")
    count.add(answer(0.0, 0.1, 500), "broken")

    claims = soak.claims({"total": count.row()})

    assert (count.answered, count.lost, count.wrong, count.broken) == (1, 1, 1, 1)
    assert [claim.met for claim in claims] == [False, False, False]


@pytest.mark.external
def test_a_probe_that_was_never_answered_misses_its_claim(
    results: dict[str, dict[str, Any]],
) -> None:
    """Nor is silence taken for quickness."""
    silent = dict(results["overload"])
    silent["steps"] = [silent["steps"][0] | {"probes": {}}]

    claims = {claim.text: claim for claim in overload.claims(silent)}

    assert not claims["at 4x /livez and /readyz answer within 100 ms"].met
