"""
The naive server to compare with: FastAPI's thread pool.  Each request is a run of its own.

    NAIVE_MODEL=service/bundled/alexnet.onnx NAIVE_CROPS=ten uvicorn benchmarks.naive:app

It has what such a server has to have and nothing else: no queue, no limits, no health checks.  All
that helps it is given to it: the same file, the same options, an upload that FastAPI parses.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnxruntime
from fastapi import FastAPI, UploadFile
from PIL import Image

from service.inference.engine import inspect
from service.inference.providers import session_options

model = inspect(Path(os.environ["NAIVE_MODEL"]))
crops = np.array(model.crops[os.environ.get("NAIVE_CROPS", "ten")])
session = onnxruntime.InferenceSession(model.path, session_options(onnxruntime))
app = FastAPI()


def prepare(file: BinaryIO) -> np.ndarray:
    """256 x 256 x 3, uint8."""
    image = Image.open(file).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
    )
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    return np.asarray(image.crop((left, top, left + 256, top + 256)))


def classify(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(session.run(["probabilities"], {"images": pixels, "crops": crops})[0])


def answer(probabilities: np.ndarray) -> list[dict[str, object]]:
    best = probabilities.argsort()[:-6:-1]
    return [{"label": model.labels[i].name, "probability": float(probabilities[i])} for i in best]


@app.post("/v1/predict")
def predict(file: UploadFile) -> list[dict[str, object]]:
    return answer(classify(prepare(file.file)[np.newaxis])[0])
