"""A queue that is full, and memory that is: who is refused, when, and who is not."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from alexnet_client import Client
from tests.support.images import image
from tests.support.servers import LATER, PATIENCE, InThread, serving, until

PREDICT = "/v1/predict"
REFUSED = 'alexnet_http_requests_total{method="POST",route="/v1/predict",status="503"}'


@contextmanager
def full_queue(model: Path) -> Iterator[tuple[InThread, Future[httpx2.Response]]]:
    """A server whose only place is taken, as long as its gate is closed; and the answer that
    will come."""
    with (
        serving(model, max_queue=1, max_files=1) as server,
        ThreadPoolExecutor() as clients,
        server.gate.closed() as gate,
    ):
        first = clients.submit(server.client.post, PREDICT, content=image())
        gate.until_held()
        yield server, first


def connected(server: InThread) -> socket.socket:
    return socket.create_connection(server.address, PATIENCE)


def headers(length: int, path: str = PREDICT) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def answer_of(client: socket.socket) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, headers and the JSON of the one answer that comes."""
    with client.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        pairs = (line.decode().strip().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
        fields = {name.lower(): value for name, value in pairs}
        return status, fields, json.loads(stream.read(int(fields["content-length"])))


def refusals(server: InThread) -> int:
    """How many requests the log says that the full queue has refused."""
    return sum(int(n) for n in re.findall(r"was full: (\d+) requests", "".join(server.log)))


def test_a_full_queue_refuses_before_the_body_is_sent(tiny_model: Path) -> None:
    with (
        full_queue(tiny_model) as (server, first),
        closing(connected(server)) as client,
    ):
        client.sendall(headers(1_000_000))
        status, fields, body = answer_of(client)
        probes = [server.client.get(path).status_code for path in ("/livez", "/readyz")]
        server.gate.open()
        accepted = first.result(PATIENCE)

    assert (status, body["code"]) == (503, "overloaded")
    assert int(fields["retry-after"]) >= 1
    assert fields["retry-after"] in body["error"]
    assert probes == [200, 200]
    assert accepted.status_code == 200


def test_a_connection_that_was_refused_is_good_for_another_try(tiny_model: Path) -> None:
    with full_queue(tiny_model) as (server, first), closing(connected(server)) as client:
        client.sendall(headers(len(image())) + image())
        refused, _, _ = answer_of(client)
        server.gate.open()
        first.result(PATIENCE)
        client.sendall(headers(len(image())) + image())
        served, _, _ = answer_of(client)

    assert (refused, served) == (503, 200)


def test_who_comes_back_when_told_is_answered(tiny_model: Path) -> None:
    """Our own client does so by itself: it waits as long as the refusal says."""
    with (
        full_queue(tiny_model) as (server, first),
        Client(server.url) as client,
        ThreadPoolExecutor() as clients,
    ):
        second = clients.submit(client.classify, image())
        until(lambda: REFUSED in server.client.get("/metrics").text, "a refusal")
        server.gate.open()
        prediction = second.result(PATIENCE)
        assert first.result(PATIENCE).status_code == 200
        until(lambda: refusals(server), "the number of refusals")

    assert len(prediction.classes) == 5


def test_of_those_refused_the_log_has_the_number_not_a_line_each(tiny_model: Path) -> None:
    with full_queue(tiny_model) as (server, first):
        refused = [server.client.post(PREDICT, content=image()) for _ in range(20)]
        server.gate.open()
        first.result(PATIENCE)
        until(lambda: refusals(server) >= 20, "the number of refusals")

    assert {answer.status_code for answer in refused} == {503}
    assert refusals(server) == 20
    assert sum('"POST /v1/predict' in line for line in server.log) == 1


def test_a_body_that_is_still_being_sent_holds_no_place(tiny_model: Path) -> None:
    with serving(tiny_model, max_queue=1, max_files=1) as server, ExitStack() as senders:
        for _ in range(5):
            sender = senders.enter_context(closing(connected(server)))
            sender.sendall(headers(1000) + b"\xff\xd8\xff")
        until(lambda: server.running.in_flight == 5, "five that send")
        answer = server.client.post(PREDICT, content=image())

    assert answer.status_code == 200


def test_bodies_that_fill_the_memory_together_are_refused_and_leave_it_free(
    tiny_model: Path,
) -> None:
    """One sender holds 60 kB of 100; what does not fit beside it is refused, until it leaves."""
    with serving(tiny_model, max_body=100_000, max_uploads=100_000) as server:
        with closing(connected(server)) as holder:
            holder.sendall(headers(90_000) + bytes(60_000))
            until(lambda: server.running.held == 60_000, "60 kB that are held")
            large = server.client.post(PREDICT, content=image() + bytes(50_000))
            small = server.client.post(PREDICT, content=image())
        until(lambda: not server.running.held, "no bytes that are held")
        after = server.client.post(PREDICT, content=image() + bytes(50_000))

    assert (large.status_code, large.json()["code"]) == (503, "overloaded")
    assert large.headers["retry-after"] == "1"
    assert "ALEXNET_MAX_UPLOADS" in large.json()["error"]
    assert small.status_code == after.status_code == 200


def test_large_bodies_leave_a_quarter_of_the_memory_to_small_ones(tiny_model: Path) -> None:
    """Of 4 MB 2.9 are held: there is room for 1.1, but for a large body three quarters are all."""
    large = image() + bytes(1_060_000)
    with (
        serving(tiny_model, max_body=3_000_000, max_uploads=4_000_000) as server,
        closing(connected(server)) as holder,
    ):
        holder.sendall(headers(3_000_000) + bytes(2_900_000))
        until(lambda: server.running.held == 2_900_000, "2.9 MB that are held")
        refused = server.client.post(PREDICT, content=large)
        small = server.client.post(PREDICT, content=image() + bytes(700_000))

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert small.status_code == 200


def test_a_body_that_is_too_slow_is_told_so(tiny_model: Path) -> None:
    with serving(tiny_model, body_timeout=0.1) as server, closing(connected(server)) as sender:
        sender.sendall(headers(1000) + b"\xff\xd8\xff")
        status, _, body = answer_of(sender)

    assert (status, body["code"]) == (408, "body_too_slow")


def test_the_whole_request_has_a_deadline_that_begins_with_its_headers(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its body has taken is missing when it comes to be classified."""
    left: list[float] = []
    with (
        serving(tiny_model) as server,
        closing(connected(server)) as sender,
    ):
        answers: Callable[..., Awaitable[Any]] = server.running.classifier.classify

        async def noting(*images: Any, timeout: float, **others: Any) -> Any:
            left.append(timeout)
            return await answers(*images, timeout=timeout, **others)

        monkeypatch.setattr(server.running.classifier, "classify", noting)
        sender.sendall(headers(len(image())) + image()[:100])
        until(lambda: server.running.in_flight, "a request in flight")
        time.sleep(0.3)
        sender.sendall(image()[100:])
        status, _, _ = answer_of(sender)

    assert status == 200
    assert 0 < left[0] < LATER - 0.2  # all of it, if it began with the body's end
