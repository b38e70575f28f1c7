"""
The training loop: steps, validation errors, checkpoints to resume from.

All random numbers follow from the seed, the epoch and the step, and everything else that a step
depends on is in the checkpoint.  So on a CPU a training that was stopped and resumed ends with
exactly the weights of one that was not.  (On a GPU the order of additions changes.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_export.crops import Pixels
from model_training import recipe as rule
from model_training.accuracy import Accuracy, ahead, measure, wrong
from model_training.augmentation import Colours, Plan, cut, plan, prepare
from model_training.devices import Arithmetic
from model_training.errors import Stopped, TrainingError
from model_training.recipe import Plateau, Recipe
from model_training.run import Run
from model_training.start import Start

EVERY = 600.0  # seconds between two checkpoints within an epoch


@dataclass(frozen=True)
class LabelledImages:
    """The decoded images, which of them are for training and for validation, and their classes."""

    pixels: Pixels
    training: NDArray[np.int64]  # rows
    validation: NDArray[np.int64]
    labels: NDArray[np.int64]  # of every row
    colours: Colours  # of the training rows


@dataclass
class Position:
    """Where a training stands."""

    epoch: int = 0  # epochs done
    step: int = 0  # batches done of the current epoch
    steps: int = 0  # batches done in all
    loss: float = 0.0  # sums over the images of the current epoch
    wrong1: int = 0
    wrong5: int = 0
    best_epoch: int = 0  # the first of the least error, and of those the least loss; from 1
    best: list[float] = field(default_factory=lambda: [math.inf, math.inf])


@dataclass(frozen=True)
class Step:
    """One step's progress, for a progress bar."""

    position: Position
    of: int  # steps of this epoch
    images: int
    loss: float


class Training:
    """One training, from its last checkpoint to its end."""

    def __init__(
        self,
        start: Start,
        images: LabelledImages,
        recipe: Recipe,
        run: Run,
        arithmetic: Arithmetic,
        *,
        workers: int = 1,
        check: Callable[[], None] = lambda: None,
        every: float = EVERY,
    ) -> None:
        """``check`` is called between steps, and raises Stopped to end the training."""
        self.network = start.network.to(arithmetic.device)
        arithmetic.fit(self.network)
        self.network.features.requires_grad_(recipe.frozen != "features")
        self.optimiser = rule.optimiser(self.network, recipe, start.fresh)
        self.plateau = Plateau(self.optimiser, patience=recipe.patience)
        self.position = Position()
        self._start, self._images, self._recipe = start, images, recipe
        self._run, self._arithmetic = run, arithmetic
        self._workers, self._check, self._every = workers, check, every
        self._resume()

    @property
    def over(self) -> bool:
        """Whether there is nothing left to learn by this recipe."""
        return self.plateau.over or self.position.epoch >= self._recipe.epochs

    def learn(
        self,
        on_step: Callable[[Step], None] = lambda step: None,
        on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        """Train to the end; on Stopped a checkpoint is written."""
        try:
            while not self.over:
                on_epoch(self._epoch(on_step))
        except Stopped:
            self._save()
            raise

    def measure(self, crops: str) -> Accuracy:
        """The accuracy on the validation images as the network is now."""
        images = self._images
        return measure(
            self.network,
            self._start.variant,
            images.pixels,
            images.validation,
            images.labels[images.validation],
            crops=crops,
            device=self._arithmetic.device,
            workers=self._workers,
            step=self._check,
        )

    def take_best(self) -> None:
        """Put the best weights into the network."""
        self.network.load_state_dict(self._run.load_weights())

    def _epoch(self, on_step: Callable[[Step], None]) -> dict[str, float]:
        began, position, images = monotonic(), self.position, self._images
        count, size = len(images.training), self._recipe.batch
        drawn = plan(
            count,
            seed=self._recipe.seed,
            epoch=position.epoch,
            crop_size=self._start.variant.crop_size,
            mirror=self._recipe.mirror,
        )
        batches = [slice(i, min(i + size, count)) for i in range(0, count, size)]
        saved = began

        def views(batch: slice) -> NDArray[np.uint8]:
            rows = images.training[drawn.order[batch]]
            places, mirrored = drawn.places[batch], drawn.mirrored[batch]
            return cut(images.pixels, rows, places, mirrored, self._start.variant.crop_size)

        left = batches[position.step :]
        with closing(ahead(views, left, self._workers)) as made:
            for batch, cut_out in zip(left, made, strict=True):
                loss = self._step(batch, drawn, torch.from_numpy(cut_out))
                on_step(Step(position, len(batches), batch.stop - batch.start, loss))
                self._check()
                if monotonic() - saved > self._every:
                    self._save()
                    saved = monotonic()
        row = self._finish_epoch(count)
        self._run.log("log.csv", row | {"seconds": round(monotonic() - began, 1)})
        self._save()
        return row

    def _step(self, batch: slice, drawn: Plan, crops: Tensor) -> float:
        position, device = self.position, self._arithmetic.device
        self.network.train()
        # Dropout has its own random stream for each step.
        words = np.random.SeedSequence([self._recipe.seed, position.epoch, position.step])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        labels = self._images.labels[self._images.training[drawn.order[batch]]]
        truth = torch.from_numpy(labels).to(device)
        views = self._network_input(crops.to(device), drawn.draws[batch])
        with self._arithmetic.autocast():
            logits = self.network(views)
        loss = functional.cross_entropy(logits.float(), truth)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is no longer a number, in epoch {position.epoch + 1}: the learning rate "
                "is too high for this network; start over with a lower --rate and --overwrite"
            )
        self._arithmetic.descend(loss, self.optimiser)
        top1, top5 = wrong(logits.detach(), truth)
        position.loss += value * len(labels)
        position.wrong1, position.wrong5 = position.wrong1 + top1, position.wrong5 + top5
        position.step, position.steps = position.step + 1, position.steps + 1
        rate = rule.rates(self.optimiser)[0]
        self._run.log("steps.csv", {"step": position.steps, "loss": value, "rate": rate})
        return value

    def _network_input(self, views: Tensor, draws: NDArray[np.float64]) -> Tensor:
        noise = None
        if self._recipe.colours:
            shift = self._images.colours.noise(draws).astype(np.float32)
            noise = torch.from_numpy(shift).to(views.device)
        return prepare(views, self._start.variant.normalisation, noise=noise)

    def _finish_epoch(self, count: int) -> dict[str, float]:
        position = self.position
        validation = self.measure("one")
        rate = rule.rates(self.optimiser)[0]
        self.plateau.step(validation.top1_error)
        if [validation.top1_error, validation.loss] < position.best:
            position.best = [validation.top1_error, validation.loss]
            position.best_epoch = position.epoch + 1
            self._run.save_weights(self.network.state_dict(), self._metadata())
        row = {
            "epoch": position.epoch + 1,
            "step": position.steps,
            "rate": rate,
            "training_loss": position.loss / count,
            "training_top1_error": position.wrong1 / count,
            "training_top5_error": position.wrong5 / count,
            "validation_loss": validation.loss,
            "validation_top1_error": validation.top1_error,
            "validation_top5_error": validation.top5_error,
        }
        position.epoch, position.step = position.epoch + 1, 0
        position.loss, position.wrong1, position.wrong5 = 0.0, 0, 0
        return row

    def _metadata(self) -> dict[str, str]:
        """The metadata of ``weights.safetensors``: see `model_export.preparation.find`."""
        variant = self._start.variant
        return {
            "variant": variant.name,
            "normalisation": variant.normalisation.to_json(),
            "weights": json.dumps({"licence": self._start.licence}),
        }

    def _save(self) -> None:
        self._run.save(
            {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "plateau": self.plateau.state_dict(),
                "arithmetic": self._arithmetic.state_dict(),
                "position": asdict(self.position),
            }
        )

    def _resume(self) -> None:
        state = self._run.load()
        self._run.rewind(0 if state is None else state["position"]["steps"])
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.plateau.load_state_dict(state["plateau"])
            self._arithmetic.load_state_dict(state["arithmetic"])
            self.position = Position(**state["position"])
