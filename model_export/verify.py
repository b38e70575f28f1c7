"""
Does the model file answer as the PyTorch network does?

The reference is as plain as can be: numpy cuts and mirrors the crops, PyTorch runs the network in
fp32, one softmax, one mean.  Held against it are every choice of crops and every single view, on
real and random pictures, in batches of 1 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image

from model_export.alexnet import AlexNet
from model_export.errors import ExportError, VerificationFailed
from model_export.graph import CROPS, SIDE, corners
from model_export.precision import PRECISIONS, Floats, Pixels, Runner
from model_export.variants import Normalisation

BATCHES = (1, 7)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Agreement:
    """One choice of crops: the file against PyTorch; shares are of the real pictures, 0-1."""

    crops: str
    top1: float  # share of pictures with the same best class
    top5: float  # share of pictures with the same best five classes, in any order
    largest_difference: float  # in probability, over all classes, views, real and random pictures
    mean_distance: float  # half the sum over classes of |p - q|, mean over the real pictures


def verify(
    model: ModelProto,
    network: AlexNet,
    *,
    side: int,
    normalisation: Normalisation,
    precision: str,
    pictures: Pixels,
) -> list[Agreement]:
    """Hold ``model`` against ``network`` on ``pictures`` (N, 256, 256, 3), N at least 7.

    Raises VerificationFailed where the difference is larger than the precision's row allows.
    """
    random = np.random.default_rng(0).integers(0, 256, (BATCHES[-1], SIDE, SIDE, 3), np.uint8)
    runner = Runner(model)
    agreements = []
    for crops, count in CROPS.items():
        real = _compare(runner, network, side, normalisation, pictures, count)
        noise = _compare(runner, network, side, normalisation, random, count)
        single = _compare(runner, network, side, normalisation, pictures[:1], count)
        largest = max(real.largest, noise.largest, single.largest)
        agreement = Agreement(crops, real.top1, real.top5, largest, real.distance)
        _judge(agreement, precision)
        agreements.append(agreement)
    return agreements


def ten_crops(pictures: Pixels, side: int, count: int) -> NDArray[np.uint8]:
    """The views of section 4.1 in plain numpy: (N, V, side, side, 3), V is 10 or 1."""
    places = corners(side) if count == CROPS["ten"] else corners(side)[-1:]
    crops = np.stack([pictures[:, y : y + side, x : x + side] for y, x in places], axis=1)
    return crops if len(places) == 1 else np.concatenate([crops, crops[:, :, :, ::-1]], axis=1)


def reference(
    network: AlexNet, pictures: Pixels, *, side: int, normalisation: Normalisation, count: int
) -> Floats:
    """PyTorch's own answer: float32 (N, V, classes), each view's softmax."""
    views = ten_crops(pictures, side, count).astype(np.float32)
    if normalisation.planes == "BGR":
        views = views[..., ::-1]
    elif normalisation.planes == "L":
        sums = views.astype(np.int64) @ np.array([19595, 38470, 7471])  # as Pillow's ``L``
        views = ((sums + 0x8000) >> 16).astype(np.float32)[..., None]
    mean, std = (np.array(v, np.float32) for v in (normalisation.mean, normalisation.std))
    planes = ((views - mean) / std).transpose(0, 1, 4, 2, 3)  # (N, V, planes, side, side)
    flat = torch.from_numpy(np.ascontiguousarray(planes)).flatten(0, 1)
    with torch.inference_mode():
        logits = torch.cat([network.eval()(part) for part in torch.split(flat, 40)])
    softmax: Floats = logits.softmax(1).numpy().reshape(*planes.shape[:2], -1)
    return softmax


def load_pictures(folder: Path | None = None, *, limit: int = 512) -> Pixels:
    """The pictures of a folder, at any depth, as uint8 (N, 256, 256, 3); the package's own by
    default: see ``model_export/pictures``."""
    folder = folder or Path(__file__).with_name("pictures")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    if len(files) < BATCHES[-1]:
        raise ExportError(
            f"{folder} holds {len(files)} pictures ({', '.join(sorted(SUFFIXES))}); calibration "
            f"and verification need at least {BATCHES[-1]}, and better a few hundred"
        )
    return np.stack([_square(file) for file in files[:: -(-len(files) // limit)]])


def read_back(path: Path) -> ModelProto:
    """The model as it lies on the disk: what is verified is what was written."""
    return onnx.load(path)


@dataclass(frozen=True)
class _Comparison:
    top1: float
    top5: float
    largest: float
    distance: float


def _compare(
    runner: Runner,
    network: AlexNet,
    side: int,
    normalisation: Normalisation,
    pictures: Pixels,
    count: int,
) -> _Comparison:
    batch = BATCHES[-1]
    answers = [runner.run(pictures[i : i + batch], count) for i in range(0, len(pictures), batch)]
    mean, views = (np.concatenate(part) for part in zip(*answers, strict=True))
    if not (np.isfinite(views).all() and np.allclose(views.sum(-1), 1, atol=1e-3)):
        raise VerificationFailed("the file's answers are not probabilities; it was deleted")
    expected = reference(network, pictures, side=side, normalisation=normalisation, count=count)
    expected_mean = expected.mean(1)
    best, expected_best = np.argsort(-mean, 1)[:, :5], np.argsort(-expected_mean, 1)[:, :5]
    same = [set(a) == set(b) for a, b in zip(best.tolist(), expected_best.tolist(), strict=True)]
    return _Comparison(
        top1=float((best[:, 0] == expected_best[:, 0]).mean()),
        top5=float(np.mean(same)),
        largest=float(max(np.abs(views - expected).max(), np.abs(mean - expected_mean).max())),
        distance=float(np.abs(mean - expected_mean).sum(1).mean() / 2),
    )


def _judge(agreement: Agreement, precision: str) -> None:
    limit = PRECISIONS[precision]
    exact = precision == "fp32"
    if (
        agreement.largest_difference > limit.largest_difference
        or agreement.mean_distance > limit.mean_distance
        or (exact and min(agreement.top1, agreement.top5) < 1)
    ):
        raise VerificationFailed(
            f"with {agreement.crops} crops the {precision} file differs from PyTorch by up to "
            f"{agreement.largest_difference:.2g} in probability (at most "
            f"{limit.largest_difference:.2g} is allowed), by {agreement.mean_distance:.2g} on "
            f"average (at most {limit.mean_distance:.2g}), and agrees in the best class on "
            f"{agreement.top1:.1%} of the pictures; the file was deleted: choose another "
            "--precision, or calibrate on pictures like your own with --pictures FOLDER"
        )


def _square(file: Path) -> Pixels:
    """Shorter side to 256, central square: what the service sends."""
    with Image.open(file) as picture:
        image = picture.convert("RGB")
    short, long = sorted(image.size)
    size = [SIDE if side == short else int(SIDE * long / short) for side in image.size]
    image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
