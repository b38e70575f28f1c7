"""
Where a network is trained, and in what arithmetic.

On CUDA, matrix products and convolutions run in bfloat16, or on cards without it in float16 with
its gradients scaled; weights and updates stay in float32 (`torch.autocast`).  On a CPU everything
is float32 unless asked otherwise.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from model_training.errors import TrainingError

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(name: str) -> torch.device:
    """auto, cuda or cpu as a device; cuda is refused where there is none."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise TrainingError(
            "PyTorch finds no CUDA device; use --device cpu, or install torch's CUDA build and the "
            "driver"
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def processors() -> int:
    """How many this process may use; where the system does not say, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Arithmetic:
    """A device, and the precision that a step's forward pass runs in there."""

    def __init__(self, device: torch.device, precision: str = "auto") -> None:
        self.device = device
        if precision == "auto":
            precision = "fp32"
            if device.type == "cuda":
                has = torch.cuda.is_bf16_supported(including_emulation=False)
                precision = "bf16" if has else "fp16"
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
            # PyTorch's default is TF32, ten bits of mantissa, for convolutions alone.
            torch.backends.cudnn.allow_tf32 = False
        self.precision = precision
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> torch.autocast:
        """What the forward pass runs in."""
        kind = KINDS[self.precision]
        mixed = self.precision != "fp32"
        return torch.autocast(self.device.type, kind if mixed else None, enabled=mixed)

    def descend(self, loss: Tensor, optimiser: SGD) -> None:
        """One step of the optimiser down the loss."""
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.step(optimiser)
        self._scaler.update()

    def fit(self, network: nn.Module) -> None:
        """Compute the local response normalisation in float32: it squares its input, and
        float16 ends at 65504."""
        if self.precision == "fp16":
            for module in network.modules():
                if isinstance(module, nn.LocalResponseNorm):
                    module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
