"""
The student's layers: three low-rank fully connected ones.  They follow the fixed convolutions.

While it learns, the hidden layers are batch-normalised; ``folded`` takes that away again, and what
is left are the layers of ``model_export.alexnet.owt`` with ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.alexnet import LowRankLinear

FEATURES, HIDDEN, CLASSES = 256 * 6 * 6, 4096, 1000
Ranks = tuple[int, int, int]  # of fc6, fc7, fc8
SAMPLE = 12_000  # crops that the principal components are computed from


class Head(nn.Module):
    """Features (N, 9216), float -> logits (N, 1000)."""

    def __init__(self, ranks: Ranks, dropout: float = 0.0) -> None:
        super().__init__()
        widths = (FEATURES, HIDDEN, HIDDEN, CLASSES)
        self.layers = nn.ModuleList(
            LowRankLinear(i, o, rank) for i, o, rank in zip(widths, widths[1:], ranks, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(HIDDEN) for _ in range(2))
        self.dropout = dropout
        for layer in self.layers:
            assert isinstance(layer, LowRankLinear)
            nn.init.normal_(layer.v, std=layer.v.shape[1] ** -0.5)
            nn.init.normal_(layer.u, std=layer.u.shape[1] ** -0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            features = functional.relu(norm(layer(features)))
            features = functional.dropout(features, self.dropout, self.training)
        logits: Tensor = self.layers[-1](features)
        return logits

    @torch.no_grad()
    def begin(self, features: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Start fc6 at the principal components of a sample of ``features`` (S, 9216), half
        whitened, and fc8 at the teacher's last layer, ``weight`` (1000, K) and ``bias`` (1000,).

        The latter is what tells classes that no crop shows from each other: the head learns where
        images lie among the teacher's classes, of which it is given the places.
        """
        first, last = self.layers[0], self.layers[-1]
        assert isinstance(first, LowRankLinear)
        assert isinstance(last, LowRankLinear)
        count = min(first.v.shape[0], len(features) - 1)
        _, values, directions = torch.svd_lowrank(
            features - features.mean(0), q=min(count + 20, len(features)), niter=2
        )
        spread = (values[:count] / len(features) ** 0.5).sqrt()
        first.v[:count] = directions[:, :count].T / spread[:, None] / spread.mean()
        # What all classes share is nothing to the softmax.
        places, lengths, _ = torch.linalg.svd(weight - weight.mean(0), full_matrices=False)
        rank = last.u.shape[1]
        last.u.copy_(places[:, :rank] * lengths[:rank])
        last.bias.copy_(bias - bias.mean())
        last.v.mul_(0.3)


@torch.no_grad()
def folded(head: Head, temperature: float = 1.0) -> dict[str, Tensor]:
    """The layers without normalisation, under the names of ``owt``; the logits are divided by
    ``temperature``."""
    state: dict[str, Tensor] = {}
    for place, layer in zip((1, 4, 6), head.layers, strict=True):
        assert isinstance(layer, LowRankLinear)
        u, bias = layer.u.double(), layer.bias.double()
        if place != 6:
            norm = head.norms[0 if place == 1 else 1]
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            u, bias = gain[:, None] * u, gain * (bias - norm.running_mean.double()) + norm.bias
        else:
            u, bias = u / temperature, bias / temperature
        state[f"classifier.{place}.u"] = u.float().contiguous()
        state[f"classifier.{place}.v"] = layer.v.detach().clone().contiguous()
        state[f"classifier.{place}.bias"] = bias.float()
    return state
