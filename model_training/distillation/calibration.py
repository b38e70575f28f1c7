"""
Validation photographs, labelled, to compare recipes and calibrate the softmax.  They set its
temperature.

Their ten views go through the trunk once; a head is then measured in seconds.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from model_export.crops import ten_crops
from model_export.images import read_image
from model_training.distillation import crops, networks
from model_training.distillation.duplicates import THUMBNAIL_SIZE, Thumbnails, thumbnails
from model_training.distillation.image_reader import Entry, contents, read_file
from model_training.distillation.sources import Validation
from model_training.distillation.student import CLASSES, FEATURES, Head

VIEWS = 10
COOLEST, HOTTEST = 0.25, 4.0  # temperatures that are tried


@dataclass(frozen=True)
class Photographs:
    """``features`` uint8 (N, 10, 9216) of the ten views, the class indices ``labels`` (N,), and
    ``thumbs`` uint8 (N, 2, 256), as in duplicates.py."""

    features: Tensor
    labels: Tensor
    thumbs: Thumbnails


@dataclass(frozen=True)
class Score:
    """Of ten crops' mean, in shares of 0-1; ``surprise`` is the mean negative log-likelihood."""

    top1: float
    top5: float
    surprise: float
    confidence: float


def read_photographs(source: Validation, repository: Path, work: Path) -> Photographs:
    """The photographs' features, from a file in ``work`` or computed into it."""
    settings = f"{source.commit} {source.labels} {networks.identity(work)}"
    kept = work / f"validation-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.npz"
    if not kept.is_file():
        both = networks.Networks(work)
        lines = read_file(repository, source.commit, source.labels).decode().splitlines()
        rows = [line.split(",") for line in lines if line.strip()]
        home = PurePosixPath(source.labels).parent
        entries = [Entry(path, f"{source.commit}:{home / path}") for path, _ in rows]
        features = np.empty((len(rows), VIEWS, FEATURES), np.uint8)
        thumbs = np.empty((len(rows), 2, THUMBNAIL_SIZE * THUMBNAIL_SIZE), np.uint8)
        for row, (_, data) in enumerate(contents(repository, entries)):
            pixels = read_image(io.BytesIO(data))
            features[row] = both.features(ten_crops(pixels[None], crops.CROP_SIZE)[0])
            thumbs[row] = thumbnails(Image.fromarray(pixels))
        labels = np.array([int(row[1]) for row in rows])
        half = kept.with_suffix(".part")
        with half.open("wb") as file:
            np.savez(file, features=features, labels=labels, thumbs=thumbs)
        os.replace(half, kept)
    with np.load(kept) as arrays:
        return Photographs(
            torch.from_numpy(arrays["features"]),
            torch.from_numpy(arrays["labels"]),
            arrays["thumbs"],
        )


@torch.inference_mode()
def logits_of(head: Head, photographs: Photographs, scale: float) -> Tensor:
    """A head's logits of all views: float32 (N, 10, classes)."""
    head.eval()
    device = next(head.parameters()).device
    logits = [
        head(some.flatten(0, 1).to(device).float() * scale).float().cpu()
        for some in torch.split(photographs.features, 64)
    ]
    return torch.cat(logits).reshape(-1, VIEWS, CLASSES)


def score(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Score:
    """How good ten crops are; ``logits`` (N, 10, classes), ``labels`` (N,)."""
    shares = functional.softmax(logits / temperature, 2).mean(1)
    best = shares.topk(5).indices == labels[:, None]
    right = shares[torch.arange(len(labels)), labels]
    return Score(
        top1=best[:, 0].float().mean().item(),
        top5=best.any(1).float().mean().item(),
        surprise=-right.clamp_min(1e-12).log().mean().item(),
        confidence=shares.amax(1).mean().item(),
    )


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """The temperature whose ten-crop probabilities fit the labels best (Guo et al. 2017, section
    4.2), to a hundredth; by golden section, since the fit has one optimum."""
    low, high = COOLEST, HOTTEST
    golden = (5**0.5 - 1) / 2
    while high - low > 0.005:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if score(logits, labels, left).surprise < score(logits, labels, right).surprise:
            high = right
        else:
            low = left
    return round((low + high) / 2, 2)
