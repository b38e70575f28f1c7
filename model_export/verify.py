"""
Does the model file answer as the PyTorch network does?

The reference is simple: numpy cuts and mirrors the crops, PyTorch runs the network in fp32, then
come one softmax and one mean.  For dense crops the convolutions run over the image and its mirror.
Every choice of crops and every view is compared with it, on real and random images, in batches of
1 and 7, and on the first 7 real ones what the last layer takes.

Where an fp32 file and PyTorch differ by more than they usually do, float64 decides: rounding has
taken the file as far from it as PyTorch itself, or a few times as far; a fault takes it further.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
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
# How much further from float64 than PyTorch's float32 an fp32 file may be: both add the same
# products, in another order.  On seeded owt, paper, caffe and d2l it was 0.6 to 0.9 times as far.
MULTIPLE = 4.0
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
    if precision == "fp16":
        _must_hold_in_half(network, crop_size, normalisation, images[:BATCH])
    random = np.random.default_rng(0).integers(0, 256, (BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    runner = Runner(model)
    agreements = []
    for crops, value in crops_of(model).items():

        def expected(
            pixels: Pixels, network: AlexNet = network, crops: str = crops
        ) -> tuple[Floats, Floats]:
            return outputs(
                network, pixels, crop_size=crop_size, normalisation=normalisation, crops=crops
            )

        comparisons = []
        features = []
        for pixels in (images, random, images[:1]):
            answer, (own, own_features) = runner.run(pixels, value, batch=BATCH), expected(pixels)
            comparisons.append(_compare(answer, own))
            features.append(own_features)
            if precision == "fp32":
                _must_be_rounding(answer, own, pixels, network, expected)
        _must_have_its_features(
            runner.features(images[:BATCH], value), features[0][:BATCH], precision
        )
        real, noise, single = comparisons
        largest = max(real.largest, noise.largest, single.largest)
        agreement = Agreement(crops, real.top1, real.top5, largest, real.distance)
        if precision != "fp32":
            _judge(agreement, precision)
        agreements.append(agreement)
    return agreements


def _must_hold_in_half(
    network: AlexNet, crop_size: int, normalisation: Normalisation, images: Pixels
) -> None:
    """Raise VerificationFailed where half precision overflows, or answers otherwise.

    ONNX Runtime computes an fp16 file in float32 on the CPU, where this runs: no overflow would
    show.  So PyTorch computes it in true half precision, the centre crop; but for the response
    normalisation, which the file has in float32.
    """
    half = copy.deepcopy(network).half()
    for layer in half.modules():
        if isinstance(layer, nn.LocalResponseNorm):
            _in_float(layer)
    answers, expected = (
        reference(each, images, crop_size=crop_size, normalisation=normalisation, crops="one")
        for each in (half, network)
    )
    difference = np.abs(answers.astype(np.float32) - expected).max()
    if not difference <= PRECISIONS["fp16"].largest_difference:  # nor if it is NaN
        limit = PRECISIONS["fp16"].largest_difference
        raise VerificationFailed(
            "in half precision this network overflows, or loses too much: PyTorch's own answers "
            f"differ by {difference:.2g} in probability (at most {limit:.2g} is allowed); the file "
            "was deleted: choose --precision fp32"
        )


def _in_float(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
    layer.register_forward_hook(lambda _, __, output: output.half())


def _must_be_rounding(
    answer: tuple[Floats, Floats],
    own: Floats,
    images: Pixels,
    network: AlexNet,
    expected: Callable[[Pixels, AlexNet], tuple[Floats, Floats]],
) -> None:
    """Raise VerificationFailed where an fp32 file differs from PyTorch by more than rounding.

    ``own`` is PyTorch's float32 answer.  Only the images that differ most are computed in float64,
    which takes several times as long.
    """
    mean, views = answer
    limit = PRECISIONS["fp32"]
    differences = np.abs(views - own).max(axis=(1, 2))
    distance = np.abs(mean - own.mean(1)).sum(1).mean() / 2
    if differences.max() <= limit.largest_difference and distance <= limit.mean_distance:
        return
    worst = np.argsort(-differences, kind="stable")[:BATCH]
    exact, _ = expected(images[worst], copy.deepcopy(network).double())
    error, own_error = (np.abs(part[worst] - exact).max() for part in (views, own))
    if error > max(MULTIPLE * own_error, limit.largest_difference):
        raise VerificationFailed(
            f"the fp32 file differs from PyTorch by up to {differences.max():.2g} in probability, "
            f"which is no rounding: it is {error:.2g} away from float64, and PyTorch's own float32 "
            f"{own_error:.2g}; the file was deleted: please report it with the weights' origin"
        )


def reference(
    network: AlexNet, images: Pixels, *, crop_size: int, normalisation: Normalisation, crops: str
) -> Floats:
    """PyTorch's answer, in the network's type: (N, V, classes), each view's softmax."""
    return outputs(network, images, crop_size=crop_size, normalisation=normalisation, crops=crops)[
        0
    ]


def outputs(
    network: AlexNet, images: Pixels, *, crop_size: int, normalisation: Normalisation, crops: str
) -> tuple[Floats, Floats]:
    """The reference, and what PyTorch's last layer takes, the mean over the views: (N, width)."""
    taken: list[Tensor] = []
    hook = network.classifier[-1].register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    try:
        with torch.inference_mode():
            if crops == "dense":
                views = _windows(network.eval(), images, crop_size, normalisation)
            else:
                cut = ten_crops if crops == "ten" else centre_crop
                views = _normalised(cut(images, crop_size), normalisation, _type(network))
            flat = torch.split(views.flatten(0, 1), VIEWS)
            logits = torch.cat([_logits(network.eval(), part, crops) for part in flat])
            features = torch.cat(taken).reshape(*views.shape[:2], -1).mean(1)
    finally:
        hook.remove()
    softmax: Floats = logits.softmax(1).numpy().reshape(*views.shape[:2], -1)
    return softmax, features.numpy()


def _must_have_its_features(answer: Floats | None, expected: Floats, precision: str) -> None:
    """Raise VerificationFailed where there are features, and an image's are not PyTorch's."""
    if answer is None:
        return
    lengths = np.linalg.norm(expected, axis=1)
    differences = np.linalg.norm(answer - expected, axis=1)
    limit = PRECISIONS[precision].features_difference
    if not (differences <= limit * lengths).all():  # nor if one is NaN
        raise VerificationFailed(
            f"the features of the {precision} file differ from what PyTorch's last layer takes by "
            f"{(differences / lengths).max():.2g} of their length (at most {limit:.2g} is "
            "allowed); the file was deleted: choose another --precision, or calibrate on images "
            "like your own with --pictures FOLDER"
        )


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
    whole = _normalised(both, normalisation, _type(network)).flatten(
        0, 1
    )  # (2 N, channels, 256, 256)
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


def _normalised(
    views: Pixels, normalisation: Normalisation, dtype: torch.dtype = torch.float32
) -> Tensor:
    """RGB (N, V, rows, columns, 3) -> (N, V, channels, rows, columns) of a floating-point type."""
    mean, std = (
        torch.tensor(np.array(values, np.float32)).to(dtype).reshape(-1, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    return (torch.from_numpy(to_channels(views, normalisation)).to(dtype) - mean) / std


def _type(network: AlexNet) -> torch.dtype:
    return next(network.parameters()).dtype


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
    if (
        agreement.largest_difference > limit.largest_difference
        or agreement.mean_distance > limit.mean_distance
    ):
        raise VerificationFailed(
            f"with {agreement.crops} crops the {precision} file differs from PyTorch by up to "
            f"{agreement.largest_difference:.2g} in probability (at most "
            f"{limit.largest_difference:.2g} is allowed), by {agreement.mean_distance:.2g} on "
            f"average (at most {limit.mean_distance:.2g}), and agrees in the best class on "
            f"{agreement.top1:.1%} of the images; the file was deleted: choose another "
            "--precision, or calibrate on images like your own with --pictures FOLDER"
        )
