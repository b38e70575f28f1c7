"""
The head learns the teacher's probabilities.

The loss is the Kullback-Leibler divergence from the teacher's probabilities, the head's logits
corrected for how often each class stands in the crops (logit adjustment, Menon et al. 2021,
arXiv:2007.07314): a class that is rare in them need not be rare where the network is used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model_training.distillation.dataset import Dataset
from model_training.distillation.student import SAMPLE, Head, Ranks
from model_training.errors import RunUnusable


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters; the defaults made the bundled model."""

    ranks: Ranks = (512, 320, 512)
    epochs: int = 8
    batch: int = 768  # crops
    rate: float = 2e-3  # the highest; one cycle (Smith 2018), AdamW
    warm_up: float = 0.15  # of the steps
    decay: float = 0.05
    dropout: float = 0.2
    adjustment: float = 0.6  # of the logarithm of a class's share in the crops
    label: float = 0.2  # share of the image's own label in what is learned, where it has one
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One epoch's result."""

    number: int
    loss: float  # mean divergence, nats


class StudentTrainer:
    """A head and its optimiser; each epoch ends by writing both to ``checkpoint``, from which a
    trainer resumes as if it had never stopped."""

    def __init__(
        self,
        dataset: Dataset,
        scale: float,
        teacher_layer: tuple[Tensor, Tensor],
        recipe: Recipe,
        checkpoint: Path,
        device: torch.device,
    ) -> None:
        """``scale`` is the value of one step of the uint8 features, ``teacher_layer`` the
        teacher's last layer:
        weight (1000, K) and bias (1000,)."""
        self.recipe, self.done = recipe, 0
        self._dataset, self._scale, self._device = dataset, scale, device
        self._checkpoint = checkpoint
        torch.manual_seed(recipe.seed)
        self.head = Head(recipe.ranks, recipe.dropout)
        if checkpoint.is_file():
            kept = self._read()
            self.head.load_state_dict(kept["head"])
        else:
            rows = torch.randperm(len(dataset))[:SAMPLE]
            features = dataset.features[rows].float() * scale
            self.head.begin(features, *teacher_layer)
            kept = None
        self.head.to(device)
        matrices = [p for p in self.head.parameters() if p.ndim > 1]
        others = [p for p in self.head.parameters() if p.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, recipe.rate, betas=(0.9, 0.98), fused=True)
        if kept is not None:
            self._optimiser.load_state_dict(kept["optimiser"])
            self.done = kept["done"]
        self._correction = recipe.adjustment * torch.log(dataset.prior + 1e-7).to(device)

    @property
    def steps(self) -> int:
        """Steps of an epoch; crops that do not fill a batch are left out until the next shuffle."""
        return max(1, len(self._dataset) // self.recipe.batch)

    def epoch(self, step: Callable[[], None] = lambda: None) -> Epoch:
        """Learn from every crop once."""
        order = torch.Generator().manual_seed(1000 * self.recipe.seed + self.done)
        torch.manual_seed(1000 * self.recipe.seed + self.done)  # dropout's
        shuffled = torch.randperm(len(self._dataset), generator=order)
        self.head.train()
        total = 0.0
        for number in range(self.steps):
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate(self.done * self.steps + number)
            rows = shuffled[number * self.recipe.batch :][: self.recipe.batch]
            loss = self._loss(rows)
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            total += loss.item()
            step()
        self.done += 1
        self._write()
        return Epoch(self.done, total / self.steps)

    def _loss(self, rows: Tensor) -> Tensor:
        dataset, device = self._dataset, self._device
        features = dataset.features[rows].to(device).float() * self._scale
        targets = functional.softmax(dataset.logits[rows].to(device).float(), 1)
        labels = dataset.labels[rows].to(device)
        known = labels >= 0
        share = self.recipe.label
        targets[known] *= 1 - share
        targets[known, labels[known]] += share
        # Not on a processor: without instructions for bfloat16 a step takes 18 times as long.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            logits = self.head(features)
        log_shares = functional.log_softmax(logits.float() + self._correction, 1)
        return functional.kl_div(log_shares, targets, reduction="batchmean")

    def _rate(self, step: int) -> float:
        """Up from a 25th and down to nothing along half a cosine each."""
        share, warm = step / (self.steps * self.recipe.epochs), self.recipe.warm_up
        if share < warm:
            low = self.recipe.rate / 25
            return low + (self.recipe.rate - low) * (1 - math.cos(math.pi * share / warm)) / 2
        return self.recipe.rate * (1 + math.cos(math.pi * (share - warm) / (1 - warm))) / 2

    def _settings(self) -> dict[str, Any]:
        data = {"crops": len(self._dataset), "lessons": self._dataset.identity}
        return asdict(self.recipe) | data

    def _write(self) -> None:
        state = {
            "recipe": self._settings(),
            "head": self.head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "done": self.done,
        }
        half = self._checkpoint.with_suffix(".part")
        torch.save(state, half)
        os.replace(half, self._checkpoint)

    def _read(self) -> dict[str, Any]:
        kept = torch.load(self._checkpoint, weights_only=True, map_location="cpu")
        settings = self._settings()
        other = [
            f"{name} {kept['recipe'].get(name)}, now {value}"
            for name, value in settings.items()
            if kept["recipe"].get(name) != value
        ]
        if other:
            raise RunUnusable(
                f"{self._checkpoint} is of another recipe ({'; '.join(other)}); move it away, or "
                "ask for the same again"
            )
        return kept  # type: ignore[no-any-return]
