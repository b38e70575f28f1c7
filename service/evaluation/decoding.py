"""
Names of image files -> squares of pixels, as the service makes them, in threads.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import BoundedSemaphore

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Skipped, read
from service.batch.reader import read_ahead, whole
from service.cgroups import cpu_quota
from service.errors import ServiceError
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
        path = os.path.join(self._base, name)
        try:
            image = open_image(
                whole(read(path, self._max_body), self._max_body), self._limits.decoding
            )
            with self._large if image.pixels > LARGE else nullcontext():
                return image.decode()
        except ServiceError as error:
            return Skipped(name, error.code, str(error))


@contextmanager
def decoded(
    names: Sequence[bytes], decode: Callable[[bytes], Square | Skipped], ahead: int
) -> Iterator[Iterator[Square | Skipped]]:
    """The outcomes in the order of the names, so many of them in advance, from threads."""

    async def work(name: bytes) -> Square | Skipped:
        return await asyncio.to_thread(decode, name)

    results = read_ahead(names, work, window=ahead)

    async def following() -> tuple[bytes, Square | Skipped] | None:
        return await anext(results, None)

    def outcomes() -> Iterator[Square | Skipped]:
        while result := runner.run(following()):
            yield result[1]

    with asyncio.Runner() as runner:  # at its end it waits for the images begun, not for others
        runner.get_loop().set_default_executor(
            ThreadPoolExecutor(cpu_quota(), thread_name_prefix="alexnet-decode")
        )
        yield outcomes()
