"""
Names of image files -> squares of pixels, as the service makes them, in threads.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from threading import BoundedSemaphore

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Skipped, read
from service.cgroups import usable_cores
from service.errors import BodyTooLarge, ServiceError
from service.inference.image import LARGE, open_image
from service.inference.limits import Limits

Square = NDArray[np.uint8]  # (256, 256, 3)


class Decoder:
    """Reads and decodes image files as the service does, with its limits."""

    def __init__(self, base: bytes, limits: Limits, max_body: int) -> None:
        """`base` is the folder that names are relative to, `max_body` the bytes of a file."""
        self._base, self._limits, self._max_body = base, limits, max_body
        # So that no more large images are decoded at once than the service would.
        self._large = BoundedSemaphore(
            max(1, limits.max_decoding_pixels // limits.decoding.max_pixels)
        )

    def __call__(self, name: bytes) -> Square | Skipped:
        """The image's central square, or why there is none."""
        data = read(os.path.join(self._base, name), self._max_body)
        if isinstance(data, Skipped):
            return Skipped(name, data.code, data.error)
        if isinstance(data, int):
            return Skipped(
                name,
                BodyTooLarge.code,
                f"The file has {data} bytes, more than the {self._max_body} allowed. Make it "
                "smaller, or raise ALEXNET_MAX_BODY.",
            )
        try:
            image = open_image(data, self._limits.decoding)
            with self._large if image.pixels > LARGE else nullcontext():
                return image.decode()
        except ServiceError as error:
            return Skipped(name, error.code, str(error))


@contextmanager
def decoded(
    names: Sequence[bytes], decode: Callable[[bytes], Square | Skipped], ahead: int
) -> Iterator[Iterator[Square | Skipped]]:
    """The outcomes in the order of the names, so many of them in advance, from threads."""
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="alexnet-decode")
    waiting: deque[Future[Square | Skipped]] = deque()
    rest = iter(names)

    def outcomes() -> Iterator[Square | Skipped]:
        waiting.extend(pool.submit(decode, name) for name in islice(rest, ahead))
        while waiting:
            outcome = waiting.popleft().result()
            waiting.extend(pool.submit(decode, name) for name in islice(rest, 1))
            yield outcome

    try:
        yield outcomes()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the images begun, not for others
