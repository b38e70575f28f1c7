"""Triton's stock client, and the inputs of both models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.http as triton
from numpy.typing import NDArray

from service.inference.image import decode
from service.inference.limits import DecodeLimits
from tests.support.servers import Live

LIMITS = DecodeLimits(decode_timeout=60, max_pixels=10**7)


@contextmanager
def connected(server: Live, **settings: Any) -> Iterator[triton.InferenceServerClient]:
    """The stock client of a server."""
    with triton.InferenceServerClient(server.url.removeprefix("http://"), **settings) as client:
        yield client


def pixels(*images: bytes) -> NDArray[np.uint8]:
    """What the service itself makes of images: uint8 `(N, 256, 256, 3)`."""
    return np.stack([decode(one, LIMITS) for one in images])


def images(array: NDArray[Any], *, name: str = "images", binary: bool = True) -> triton.InferInput:
    """The input of `alexnet`."""
    tensor = triton.InferInput(name, list(array.shape), triton_type(array))
    return tensor.set_data_from_numpy(array, binary_data=binary)


def triton_type(array: NDArray[Any]) -> str:
    """The protocol's name of a dtype."""
    return {"uint8": "UINT8", "float32": "FP32", "object": "BYTES"}[str(array.dtype)]


def encoded(*data: bytes) -> triton.InferInput:
    """The input of `alexnet_image`."""
    return images(np.array(data, object), name="image")
