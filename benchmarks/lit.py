"""
LitServe to compare with: batches of up to 16 requests, in a worker for each core, as it advises.

    NAIVE_MODEL=service/bundled/alexnet.onnx NAIVE_CROPS=ten python -m benchmarks.lit 8000

Decoding, the run and the answer are `naive.py`'s.  A raw body is the upload that takes it least
work: forms and base64 are parsed, and what they become is pickled for the worker.
"""

import io
import signal
import sys
from typing import Annotated

import numpy as np
from fastapi import Depends, Request
from litserve import LitAPI, LitServer

from service.cgroups import cpu_quota

from . import naive

MAX_BATCH = 16
# Seconds that a batch waits for more: a request alone waits too, and with 0 the worker never rests.
BATCH_TIMEOUT = 0.002


async def body(request: Request) -> bytes:
    return await request.body()


class Classifier(LitAPI):  # type: ignore[misc]  # whether or not it is installed: it ships no types
    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> np.ndarray:
        return naive.prepare(io.BytesIO(request))

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        return naive.classify(pixels)

    # Without a type: LitServe would check each answer against it.
    def encode_response(self, probabilities: np.ndarray):  # type: ignore[no-untyped-def]
        return naive.answer(probabilities)


if __name__ == "__main__":
    # It ends all its processes after Ctrl-C only.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    classifier = Classifier(MAX_BATCH, BATCH_TIMEOUT, api_path="/v1/predict")
    LitServer(classifier, accelerator="cpu", workers_per_device=cpu_quota()).run(
        host="127.0.0.1",
        port=sys.argv[1],
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
