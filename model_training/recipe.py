"""
Learning rate and schedule, momentum and decay: section 5 of the paper.

    v <- 0.9 v - 0.0005 rate w - rate gradient        w <- w + v

torch's SGD keeps b with b <- 0.9 b + gradient + 0.0005 w and w <- w - rate b.  With v = -rate b
that is the same, as long as the rate is; where it is divided, the paper's v stays and torch's
would shrink with it.  So `divide` multiplies b by what it divides the rate by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

DIVISIONS = 3  # of the learning rate, "three times prior to termination"


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters; the defaults are the paper's."""

    epochs: int = 90  # at most
    batch: int = 128
    rate: float = 0.01
    pretrained: float = 1.0  # the rate of layers that come with weights, as a share of `rate`
    momentum: float = 0.9
    decay: float = 0.0005
    patience: int = 5  # epochs without a better validation error before the rate is divided
    mirror: bool = True
    colours: bool = True
    frozen: str = "none"  # or "features": the convolutions keep their weights
    seed: int = 0


class Plateau:
    """Divides an optimiser's rates by 10 when the validation error no longer falls.

    The paper did so by hand.  Here: ``patience`` epochs, and one more, without an error below the
    least so far; after three divisions the next plateau ends the training.
    """

    def __init__(self, optimiser: SGD, *, patience: int) -> None:
        self._optimiser = optimiser
        self._scheduler = ReduceLROnPlateau(
            optimiser, factor=0.1, patience=patience, threshold=0.0, threshold_mode="abs", eps=0.0
        )
        self.divisions = 0

    @property
    def over(self) -> bool:
        """Whether the rate has been divided three times and would have to be again."""
        return self.divisions > DIVISIONS

    def step(self, error: float) -> None:
        """Take an epoch's validation error, 0-1."""
        before = rates(self._optimiser)
        self._scheduler.step(error)
        if rates(self._optimiser) != before:
            self.divisions += 1
            keep_velocity(self._optimiser, before)

    def state_dict(self) -> dict[str, object]:
        return {"scheduler": self._scheduler.state_dict(), "divisions": self.divisions}

    def load_state_dict(self, state: dict[str, object]) -> None:
        scheduler, divisions = state["scheduler"], state["divisions"]
        assert isinstance(scheduler, dict)
        assert isinstance(divisions, int)
        self._scheduler.load_state_dict(scheduler)
        self.divisions = divisions


def optimiser(network: nn.Module, recipe: Recipe, fresh: Iterable[nn.Module]) -> SGD:
    """SGD over what is to learn: ``fresh`` modules at the full rate, the others at their share.

    Decay is on every parameter, biases included: the paper's rule makes no difference.
    """
    new = {id(parameter) for module in fresh for parameter in module.parameters()}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if id(p) in new], "lr": recipe.rate},
        {
            "params": [p for p in learning if id(p) not in new],
            "lr": recipe.rate * recipe.pretrained,
        },
    ]
    return SGD(
        [group for group in groups if group["params"]],
        lr=recipe.rate,
        momentum=recipe.momentum,
        weight_decay=recipe.decay,
    )


def rates(optimiser: SGD) -> list[float]:
    """The learning rate of each group, the new layers' first."""
    return [float(group["lr"]) for group in optimiser.param_groups]


def keep_velocity(optimiser: SGD, before: list[float]) -> None:
    """Leave the paper's v as it was, now that the rates are no longer those of ``before``."""
    for group, rate in zip(optimiser.param_groups, before, strict=True):
        for parameter in group["params"]:
            velocity = optimiser.state[parameter].get("momentum_buffer")
            if velocity is not None and group["lr"]:
                velocity.mul_(rate / group["lr"])
