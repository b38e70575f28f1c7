"""
What a training begins with: random numbers, or weights.  The random numbers are the paper's.

From nothing, the mean of the training set is subtracted, as in the paper (section 2), channel by
channel; what it is then divided by is the variant's own.  A network that comes with weights keeps
the preparation that they were trained with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from model_export import checkpoints, weight_files
from model_export import preparation as preparation_of
from model_export.alexnet import AlexNet, LowRankLinear
from model_export.errors import WeightsUnusable
from model_export.variants import VARIANTS, Variant
from model_training.augmentation import Floats

OWN = "that of its images: no other weights went in"


@dataclass(frozen=True)
class Start:
    """A network that is ready to be trained, and where it comes from."""

    network: AlexNet
    variant: Variant  # with the normalisation that its views are given with
    fresh: tuple[nn.Module, ...]  # modules that begin with random numbers
    source: str  # the name of the weights it comes with; empty if there are none
    sha256: str  # of their file
    licence: str


def from_nothing(variant: Variant, classes: int, mean: Floats, *, seed: int) -> Start:
    """The variant's own initialisation; ``mean`` (3,) is that of the training set, RGB of 0-255."""
    torch.manual_seed(seed)
    network = variant.build(classes, 3, (None, None, None))
    channels = mean[::-1] if variant.normalisation.channels == "BGR" else mean
    # float32 figures, as they will stand in the model file.
    normalisation = replace(
        variant.normalisation, mean=tuple(round(float(value), 3) for value in channels)
    )
    own = replace(variant, normalisation=normalisation)
    return Start(network, own, (network,), "", "", OWN)


def from_weights(weights: str, variant_name: str | None, classes: int, *, seed: int) -> Start:
    """Published weights by their variant's name, or those in a file, for so many classes.

    If the last layer has another number of classes, a new one is drawn: N(0, 0.01), biases of 0,
    as in the paper.  Raises WeightsUnusable.
    """
    published = VARIANTS[weights].weights if weights in VARIANTS else None
    if weights in VARIANTS and published is None:
        raise WeightsUnusable(
            f"nobody has published weights of {weights}; leave --weights away to train it from "
            "nothing, or give a file"
        )
    path = Path(weights) if published is None else checkpoints.fetch(published)
    file = weight_files.load(path)
    metadata = file.metadata
    name = variant_name or (weights if published else metadata.get("variant", "owt"))
    if name not in VARIANTS:
        raise WeightsUnusable(f"{path.name} is of a variant that is not known here, {name}")
    variant = VARIANTS[name]
    network = checkpoints.build(variant, file.tensors, source=path.name)
    prepared = preparation_of.find(variant, path, file, channels=network.channels)
    fresh: tuple[nn.Module, ...] = ()
    if network.classes != classes:
        torch.manual_seed(seed)
        fresh = (_last_layer(network, classes),)
    return Start(
        network,
        replace(variant, normalisation=prepared.normalisation),
        fresh,
        path.name,
        checkpoints.sha256(path),
        _licence(variant, path, metadata),
    )


def preparation(start: Start) -> str:
    """How a pixel of 0-255 is normalised, as text to print."""
    return str(start.variant.normalisation)


def _last_layer(network: AlexNet, classes: int) -> nn.Linear:
    """Put a new fc8, a full matrix, in the place of the old one."""
    old = network.classifier[-1]
    weight = old.v if isinstance(old, LowRankLinear) else old.weight  # (any, inputs)
    assert isinstance(weight, Tensor)
    layer = nn.Linear(weight.shape[1], classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    network.classifier[-1] = layer
    return layer


def _licence(variant: Variant, path: Path, metadata: Mapping[str, str]) -> str:
    """The licence of the weights, from the variant's row or the file's metadata."""
    row = variant.weights
    if row is not None and checkpoints.sha256(path).startswith(row.sha256):
        return row.licence
    try:
        return str(json.loads(metadata.get("weights", "{}"))["licence"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
