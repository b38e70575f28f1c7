"""
Does the model file answer as the PyTorch network does?

The reference is simple: numpy cuts and mirrors the crops, PyTorch runs the network in fp32, then
come one softmax and one mean.  For dense crops the convolutions run over the image and its mirror.
Every choice of crops and every view is compared with it, on real and random images, in batches of
1 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from model_export.alexnet import AlexNet
from model_export.crops import FEWEST, Floats, Pixels, centre_crop, ten_crops, to_channels
from model_export.errors import VerificationFailed
from model_export.graph import IMAGE_SIZE, corners, crops_of
from model_export.precision import PRECISIONS, Runner
from model_export.variants import Normalisation

BATCH = FEWEST
VIEWS = 40  # in one batch of PyTorch's, to limit its memory


@dataclass(frozen=True)
class Agreement:
    """One choice of crops: the file against PyTorch; shares are of the real images, 0-1."""

    crops: str
    top1: float  # share of images with the same best class
    top5: float  # share of images with the same best five classes, in any order
    largest_difference: float  # in probability, over all classes, views, real and random images
    mean_distance: float  # half the sum over classes of |p - q|, mean over the real images


def verify(
    model: ModelProto,
    network: AlexNet,
    *,
    crop_size: int,
    normalisation: Normalisation,
    precision: str,
    images: Pixels,
) -> list[Agreement]:
    """Compare ``model`` with ``network`` on ``images`` (N, 256, 256, 3), N at least 7.

    Raises VerificationFailed if they differ by more than the precision's row allows.
    """
    random = np.random.default_rng(0).integers(0, 256, (BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    runner = Runner(model)
    agreements = []
    for crops, value in crops_of(model).items():
        real, noise, single = (
            _compare(
                runner.run(pixels, value, batch=BATCH),
                reference(
                    network, pixels, crop_size=crop_size, normalisation=normalisation, crops=crops
                ),
            )
            for pixels in (images, random, images[:1])
        )
        largest = max(real.largest, noise.largest, single.largest)
        agreement = Agreement(crops, real.top1, real.top5, largest, real.distance)
        _judge(agreement, precision)
        agreements.append(agreement)
    return agreements


def reference(
    network: AlexNet, images: Pixels, *, crop_size: int, normalisation: Normalisation, crops: str
) -> Floats:
    """PyTorch's answer: float32 (N, V, classes), each view's softmax."""
    with torch.inference_mode():
        if crops == "dense":
            views = _windows(network.eval(), images, crop_size, normalisation)
        else:
            cut = ten_crops if crops == "ten" else centre_crop
            views = _normalised(cut(images, crop_size), normalisation)
        flat = torch.split(views.flatten(0, 1), VIEWS)
        logits = torch.cat([_logits(network.eval(), part, crops) for part in flat])
    softmax: Floats = logits.softmax(1).numpy().reshape(*views.shape[:2], -1)
    return softmax


def _logits(network: AlexNet, views: Tensor, crops: str) -> Tensor:
    logits: Tensor = network.classifier(views.flatten(1)) if crops == "dense" else network(views)
    return logits


def _windows(
    network: AlexNet, images: Pixels, crop_size: int, normalisation: Normalisation
) -> Tensor:
    """The five windows of the last maps of the image, then of its mirror image, pooled: what the
    fully connected layers would take of ten crops, (N, 10, channels, rows, columns)."""
    layers = list(network.features)
    pooling = layers.pop() if isinstance(layers[-1], nn.MaxPool2d) else nn.Identity()
    trunk = nn.Sequential(*layers)
    both = np.stack([images, images[:, :, ::-1]], axis=1)
    whole = _normalised(both, normalisation).flatten(0, 1)  # (2 N, channels, 256, 256)
    feature_maps = torch.cat([trunk(part) for part in torch.split(whole, VIEWS)])
    feature_maps = feature_maps.reshape(len(images), 2, *feature_maps.shape[1:])
    length = trunk(whole[:1, :, :crop_size, :crop_size]).shape[-1]
    steps = feature_maps.shape[-1] - length  # from the first window to the last

    def window(y: int, x: int, mirrored: int) -> Tensor:
        top, left = (place * steps // (IMAGE_SIZE - crop_size) for place in (y, x))
        cut: Tensor = pooling(
            feature_maps[:, mirrored, :, top : top + length, left : left + length]
        )
        return cut

    ten = [window(y, x, 0) for y, x in corners(crop_size)]
    ten += [window(y, IMAGE_SIZE - crop_size - x, 1) for y, x in corners(crop_size)]
    return torch.stack(ten, dim=1)


def _normalised(views: Pixels, normalisation: Normalisation) -> Tensor:
    """RGB (N, V, rows, columns, 3) -> float32 (N, V, channels, rows, columns)."""
    mean, std = (
        np.array(values, np.float32).reshape(-1, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    return torch.from_numpy((to_channels(views, normalisation) - mean) / std)


def read_back(path: Path) -> ModelProto:
    """The model as it is on the disk, so that the written file is what is verified."""
    return onnx.load(path)


@dataclass(frozen=True)
class _Comparison:
    top1: float
    top5: float
    largest: float
    distance: float


def _compare(answer: tuple[Floats, Floats], expected: Floats) -> _Comparison:
    """The file's probabilities and view probabilities against those of every view."""
    mean, views = answer
    if not (np.isfinite(views).all() and np.allclose(views.sum(-1), 1, atol=1e-3)):
        raise VerificationFailed("the file's answers are not probabilities; it was deleted")
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
            f"{agreement.top1:.1%} of the images; the file was deleted: choose another "
            "--precision, or calibrate on images like your own with --pictures FOLDER"
        )
