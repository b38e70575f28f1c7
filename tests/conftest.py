"""Fixtures: a tiny model with the real front and back, made by the real exporter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from model_export import export, views
from model_export.alexnet import AlexNet
from model_export.export import Record
from model_export.variants import VARIANTS, Variant

PICTURES = Path(__file__).parent / "pictures"


def tiny_network(classes: int = 1000) -> AlexNet:
    """A network of two small convolutions that still tells colours and places apart: ten crops
    share the first one."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 16, stride=16),  # (N, 8, 14, 14)
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(7),  # (N, 8, 2, 2)
    )
    linear = nn.Linear(8 * 2 * 2, classes)
    nn.init.normal_(linear.weight, std=1.0)
    return AlexNet(features, nn.Sequential(linear)).eval()


def write_tiny(variant: Variant, path: Path) -> Path:
    """The tiny network as a model file of a few kilobytes, prepared as a variant is."""
    real = views.load_pictures(limit=8)
    model = export.build_model(tiny_network(), variant, precision="fp32", calibration=real)
    export.describe(
        model,
        variant=variant,
        precision="fp32",
        labels=export.imagenet_labels(),
        record=Record("tiny", {"name": "random", "licence": "none"}, []),
        picture=real[0],
    )
    export.write(model, path, check=lambda file: None)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten crops, one and dense, normalisation, softmax, mean, metadata."""
    return write_tiny(VARIANTS["owt"], tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network prepared in another way: another file, another version."""
    return write_tiny(VARIANTS["caffe"], tmp_path_factory.mktemp("other") / "other.onnx")


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The model that ships with the package."""
    return Path(__file__).parents[1] / "service" / "bundled" / "alexnet.onnx"
