"""
`Client`: blocks until the answer is there.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import httpx2

from service.client.core import BaseClient, Batches
from service.client.inputs import ImageInput, read, read_or_error
from service.client.response_types import Health, Model, Prediction
from service.client.responses import Outcome
from service.client.sending import run


class Client(BaseClient):
    """
    A server's client; any number of threads may share one.

    `url` is the server's, `api_key` one of its keys.  `timeout` is for a whole call, all its tries
    and the pauses between them, in seconds; None sets no limit.  Lost connections, 429, 502 and 503
    are tried `retries` times again, when Retry-After says or after a pause that grows.  `verify` is
    for https: a context with other authorities, or False to trust any server.

    Every method raises `ClientError`; a bad argument is a `ValueError` or `TypeError`.
    """

    _connect = httpx2.Client
    _http: httpx2.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; no request can be sent afterwards."""
        self._http.close()

    def classify(
        self, image: ImageInput, *, top: int = 5, crops: str = "ten", details: Sequence[str] = ()
    ) -> Prediction:
        """
        The `top` best classes of one image: a path, bytes, or a file opened in binary mode.

        `crops` is ten, one or dense; `details` are views, heatmap or both.
        """
        return run(self._http, self._classify(read(image), top, crops, details))

    def classify_many(
        self,
        images: Iterable[ImageInput],
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        batch: int | None = None,
    ) -> Iterator[Outcome]:
        """
        For each image, in order, its `Prediction` or the `ClientError` that is its own.

        Lazy: `batch` images at most, 32 by default and 1 with a heatmap, are read and sent
        together.  What every image would meet, such as a wrong key, is raised.
        """
        return self._many(images, Batches(self, top, crops, details, batch))

    def health(self) -> Health:
        """What runs there; that it is not ready is an answer, not an error."""
        return run(self._http, self._health())

    def model(self) -> Model:
        """Which model answers there."""
        return run(self._http, self._model())

    def ready(self) -> bool:
        """Whether an image sent now would be classified; one look, of 5 seconds at most."""
        return run(self._http, self._ready())

    def wait_until_ready(self, timeout: float | None = 60.0, *, every: float = 0.1) -> None:
        """Look every so many seconds; `TimedOut` if it is not ready within `timeout` seconds."""
        run(self._http, self._wait_until_ready(timeout, every))

    def _many(self, images: Iterable[ImageInput], batches: Batches) -> Iterator[Outcome]:
        for image in images:
            if operation := batches.add(read_or_error(image)):
                yield from run(self._http, operation)
        yield from run(self._http, batches.rest())
