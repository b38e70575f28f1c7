"""The training set: extracted features, without excluded images.  Labels are there if known."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_export.export import imagenet_labels
from model_training.distillation.student import CLASSES, FEATURES
from model_training.errors import TrainingError

EXCLUDED = Path(__file__).with_name("excluded.txt")
WORDNET_ID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
UNKNOWN = -1


@dataclass(frozen=True)
class Dataset:
    """``features`` uint8 (N, 9216), the teacher's ``logits`` float16 (N, 1000), and ``labels``
    int64 (N,): the class that an image's path names, or -1."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    excluded: int  # images
    identity: str = ""  # a hash of the files and the excluded images

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def prior(self) -> Tensor:
        """(1000,): how often the teacher sees each class in these crops; the sum is 1."""
        total = torch.zeros(self.logits.shape[1], dtype=torch.float64)
        for some in torch.split(self.logits, 8192):
            total += functional.softmax(some.float(), 1).sum(0).double()
        return (total / len(self)).float()


def read_dataset(files: Iterable[Path], excluded: Path = EXCLUDED) -> Dataset:
    """Join the parts' files, without the crops of excluded images."""
    out, files = read_excluded(excluded), list(files)
    kept, labels, left_out = [], [], 0
    for file in files:
        with np.load(file) as arrays:
            blobs, paths, owner = (arrays[name] for name in ("blobs", "paths", "owner"))
        included = np.array([blob not in out for blob in blobs.tolist()], bool)
        classes = np.array([label_of(path) for path in paths.tolist()], np.int64)
        kept.append(np.flatnonzero(included[owner]))
        labels.append(classes[owner][kept[-1]])
        left_out += int((~included).sum())
    count = sum(map(len, kept))
    if not count:
        raise TrainingError("no features have been extracted; is the manifest empty?")
    # Filled part by part: at 320,000 crops the features take 3 GB once, and no more.
    features = torch.empty((count, FEATURES), dtype=torch.uint8)
    logits = torch.empty((count, CLASSES), dtype=torch.float16)
    end = 0
    for file, rows in zip(files, kept, strict=True):
        start, end = end, end + len(rows)
        with np.load(file) as arrays:
            np.take(arrays["features"], rows, 0, out=features[start:end].numpy())
            np.take(arrays["logits"], rows, 0, out=logits[start:end].numpy())
    digest = hashlib.sha256("\n".join([*(file.name for file in files), *sorted(out)]).encode())
    labelled = torch.from_numpy(np.concatenate(labels))
    return Dataset(features, logits, labelled, left_out, digest.hexdigest())


def read_excluded(path: Path = EXCLUDED) -> set[str]:
    """The blobs of the list: the first word of each line that is not a comment."""
    lines = path.read_text("utf-8").splitlines()
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def label_of(path: str) -> int:
    """The class whose WordNet id stands last in a path, or -1."""
    ids = WORDNET_ID.findall(path)
    return PLACES.get(ids[-1], UNKNOWN) if ids else UNKNOWN


PLACES = {wordnet_id: place for place, (wordnet_id, _) in enumerate(imagenet_labels())}
