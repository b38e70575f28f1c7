"""
The networks called AlexNet, one row each.  A row says how images are prepared, where the published
weights are, and how good their source says they are.

A new variant is a new row of ``VARIANTS``.  The commands read their choices here, so this
module does not import torch, which takes seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from model_export.alexnet import AlexNet, Builder, Ranks


Channels = Literal["RGB", "BGR", "L"]
CHANNELS: Final[Mapping[str, Channels]] = {"rgb": "RGB", "bgr": "BGR", "grey": "L"}
# What becomes of pixels of 0-255 before the mean is subtracted: (pixel - first) / second.
RANGES: Final = {"0-1": (0.0, 255.0), "0-255": (0.0, 1.0), "-1-1": (127.5, 127.5)}


@dataclass(frozen=True)
class Normalisation:
    """``(pixel - mean) / std`` for pixels of 0-255, one figure per channel, in their order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Channels = "RGB"

    def to_json(self) -> str:
        """The entry ``normalisation`` of a file's metadata."""
        return json.dumps({"mean": self.mean, "std": self.std, "planes": self.channels})

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:g}" for v in figures) for figures in (self.mean, self.std))
        return f"{self.channels}, (pixel - ({mean})) / ({std})"


@dataclass(frozen=True)
class Given:
    """What the command line says; None is what it leaves open."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: str | None = None  # of ``CHANNELS``
    range: str | None = None  # of ``RANGES``; that which ``mean`` and ``std`` are of

    def __bool__(self) -> bool:
        return self != Given()


@dataclass(frozen=True)
class Weights:
    """Published weights: where they are, and how to verify a download."""

    name: str
    url: str
    sha256: str  # or its first digits, where the publisher gives no more
    licence: str
    accuracy: tuple[dict[str, object], ...] = ()  # as reported or measured, each with its source


@dataclass(frozen=True)
class Variant:
    """One row: a network, its crops, its normalisation and its weights."""

    name: str
    build: Builder
    crop_size: int  # pixels; ten crops of this size are taken from the 256 x 256 square
    normalisation: Normalisation
    weights: Weights | None
    source: str
    # Parameter names of other publishers, as (pattern, replacement): theirs -> this package's.
    aliases: tuple[tuple[str, str], ...] = field(default=())
    # Whether few classes need a lower learning rate, as model_training/fit.py explains.
    slow_with_few: bool = True

    def rename(self, key: str) -> str:
        """This package's name of a parameter that another publisher calls ``key``."""
        for pattern, replacement in self.aliases:
            key, count = re.subn(pattern, replacement, key)
            if count:
                break
        return key


def built_by(place: str) -> Builder:
    """A network's builder by its place in this package, ``module:function``; the module is
    imported when a network is built."""
    module, _, function = place.partition(":")

    def build(classes: int = 1000, channels: int = 3, ranks: Ranks = (None, None, None)) -> AlexNet:
        builder: Builder = getattr(import_module(f"model_export.{module}"), function)
        return builder(classes, channels, ranks)

    return build


def _scaled(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(255 * value for value in values)


# torchvision's presets normalise pixels of 0-1 with these.
IMAGENET = Normalisation(_scaled((0.485, 0.456, 0.406)), _scaled((0.229, 0.224, 0.225)))

# The mean of ImageNet's training images.  The paper and Caffe subtract a mean image; their
# networks see crops at ten places of it, and the mean per channel is what deployments use.
IMAGENET_MEAN = (123.68, 116.779, 103.939)
CAFFE_MEAN = (104.00699, 116.66877, 122.67892)  # of ilsvrc_2012_mean.npy, in BGR order

# Conv1 has 96 maps in ``conv1_w_0`` and so on: ONNX's names for Caffe's blobs.
_CAFFE_LAYERS = {
    "conv1": "features.0",
    "conv2": "features.4",
    "conv3": "features.8",
    "conv4": "features.10",
    "conv5": "features.12",
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}
# The book's network is one flat Sequential called ``net``.
_D2L_LAYERS = {
    **{str(place): f"features.{place}" for place in (0, 3, 6, 8, 10)},
    "14": "classifier.0",
    "17": "classifier.3",
    "20": "classifier.6",
}

VARIANTS: dict[str, Variant] = {
    "owt": Variant(
        name="owt",
        build=built_by("alexnet:owt"),
        crop_size=224,
        normalisation=IMAGENET,
        weights=Weights(
            name="alexnet-owt-7be5be79.pth",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            sha256="7be5be79",  # the file's name holds the first eight digits of its SHA-256
            licence="BSD-3-Clause (torchvision); trained on ImageNet, research and education",
            accuracy=(
                {
                    "data": "ImageNet validation set",
                    "crops": "one",
                    "top1": 0.56522,
                    "top5": 0.79066,
                    "by": "reported by torchvision",
                },
            ),
        ),
        source="torchvision's alexnet; arXiv:1404.5997",
    ),
    "paper": Variant(
        name="paper",
        build=built_by("alexnet:paper"),
        crop_size=224,
        normalisation=Normalisation(IMAGENET_MEAN, (1.0, 1.0, 1.0)),
        weights=None,
        source="Krizhevsky, Sutskever, Hinton, NIPS 2012",
    ),
    "caffe": Variant(
        name="caffe",
        build=built_by("alexnet:caffe"),
        crop_size=227,
        normalisation=Normalisation(CAFFE_MEAN, (1.0, 1.0, 1.0), channels="BGR"),
        weights=Weights(
            name="bvlcalexnet-12.onnx",
            url="https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/validated/"
            "vision/classification/alexnet/model/bvlcalexnet-12.onnx",
            sha256="6b0da9510f27f234ee96a85dc3809dd210150fdefad87f6850f9788513216945",
            licence="unrestricted use (BVLC); trained on ImageNet, research and education",
            accuracy=(
                {
                    "data": "ImageNet validation set",
                    "crops": "one",
                    "top1": 0.571,
                    "top5": 0.802,
                    "by": "reported by BVLC",
                },
            ),
        ),
        source="BVLC AlexNet, models/bvlc_alexnet of Caffe",
        aliases=tuple(
            (rf"^{theirs}_{short}_0$", f"{ours}.{long}")
            for theirs, ours in _CAFFE_LAYERS.items()
            for short, long in (("w", "weight"), ("b", "bias"))
        ),
    ),
    "d2l": Variant(
        name="d2l",
        build=built_by("alexnet:d2l"),
        crop_size=224,
        normalisation=Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        weights=None,
        source="Dive into Deep Learning, section 8.1",
        aliases=tuple(
            (rf"^(net\.)?{theirs}\.(weight|bias)$", rf"{ours}.\2")
            for theirs, ours in _D2L_LAYERS.items()
        ),
        slow_with_few=False,  # the book's are Xavier's, and its biases are not 1
    ),
}


def greyscale(normalisation: Normalisation) -> Normalisation:
    """The same preparation for a network whose conv1 sees one channel: the luma."""
    mean, std = normalisation.mean, normalisation.std
    return Normalisation((sum(mean) / len(mean),), (sum(std) / len(std),), channels="L")
