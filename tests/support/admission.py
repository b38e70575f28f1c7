"""A server whose queue is full, and what it says to those who come then."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection

from tests.support.servers import PATIENCE, InThread


@contextmanager
def full(server: InThread, encoded: bytes) -> Iterator[None]:
    """Hold an image in the network until the block ends; `max_queue` must be 1."""
    with ThreadPoolExecutor() as pool, server.gate.closed() as gate:
        first = pool.submit(server.client.post, "/v1/predict", content=encoded)
        gate.until_held()
        yield
        gate.open()
        assert first.result().status_code == 200


def refused_without_a_body(server: InThread, path: str) -> tuple[int, str]:
    """Status and code of the answer to a request whose body is announced and never sent."""
    with closing(HTTPConnection(*server.address, timeout=PATIENCE)) as caller:
        caller.putrequest("POST", path)
        caller.putheader("Content-Length", "1000")
        caller.endheaders()
        refused = caller.getresponse()
        assert int(refused.headers["Retry-After"]) >= 1
        return refused.status, json.loads(refused.read())["code"]
