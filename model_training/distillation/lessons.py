"""What the head learns from: the harvest's crops, less the excluded, with labels where known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_export.export import imagenet_labels
from model_training.distillation.harvest import Harvest
from model_training.errors import TrainingError

EXCLUDED = Path(__file__).with_name("excluded.txt")
WORDNET_ID = re.compile(r"n\d{8}")
UNKNOWN = -1


@dataclass(frozen=True)
class Lessons:
    """``features`` uint8 (N, 9216), the teacher's ``logits`` float16 (N, 1000), and ``labels``
    int64 (N,): the class that a picture's path names, or -1."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    excluded: int  # pictures

    def __len__(self) -> int:
        return len(self.features)

    def prior(self) -> Tensor:
        """(1000,): how often the teacher sees each class in these crops; the sum is 1."""
        total = torch.zeros(self.logits.shape[1], dtype=torch.float64)
        for some in torch.split(self.logits, 8192):
            total += functional.softmax(some.float(), 1).sum(0).double()
        return (total / len(self)).float()


def read_lessons(files: Iterable[Path], excluded: Path = EXCLUDED) -> Lessons:
    """Join the harvest's files; the excluded pictures' crops are left out."""
    out = read_excluded(excluded)
    features, logits, labels, missed = [], [], [], 0
    for file in files:
        harvest = Harvest.load(file)
        wanted = np.array([blob not in out for blob in harvest.blobs.tolist()], bool)
        kept = wanted[harvest.owner]
        classes = np.array([label_of(path) for path in harvest.paths.tolist()], np.int64)
        features.append(harvest.features[kept])
        logits.append(harvest.logits[kept])
        labels.append(classes[harvest.owner][kept])
        missed += int((~wanted).sum())
    if not features:
        raise TrainingError("nothing has been harvested; is the manifest empty?")
    return Lessons(
        torch.from_numpy(np.concatenate(features)),
        torch.from_numpy(np.concatenate(logits)),
        torch.from_numpy(np.concatenate(labels)),
        missed,
    )


def read_excluded(path: Path = EXCLUDED) -> set[str]:
    """The blobs of the list: the first word of each line that is no comment."""
    lines = path.read_text("utf-8").splitlines()
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def label_of(path: str) -> int:
    """The class whose WordNet id stands last in a path, or -1."""
    found = WORDNET_ID.findall(path)
    return PLACES.get(found[-1], UNKNOWN) if found else UNKNOWN


PLACES = {wordnet_id: place for place, (wordnet_id, _) in enumerate(imagenet_labels())}
