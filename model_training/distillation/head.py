"""
The student's part of the network: three low-rank fully connected layers behind the fixed maps.

While it learns, the hidden layers are batch-normalised; ``folded`` takes that away again, and what
is left are the layers of ``model_export.alexnet.owt`` with ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.alexnet import LowRankLinear

MAPS, HIDDEN, CLASSES = 256 * 6 * 6, 4096, 1000
Ranks = tuple[int, int, int]  # of fc6, fc7, fc8
SAMPLE = 12_000  # crops that the principal components are computed from


class Head(nn.Module):
    """Maps (N, 9216), float -> logits (N, 1000)."""

    def __init__(self, ranks: Ranks, dropout: float = 0.0) -> None:
        super().__init__()
        widths = (MAPS, HIDDEN, HIDDEN, CLASSES)
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

    def forward(self, maps: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            maps = functional.relu(norm(layer(maps)))
            maps = functional.dropout(maps, self.dropout, self.training)
        logits: Tensor = self.layers[-1](maps)
        return logits

    @torch.no_grad()
    def begin(self, maps: Tensor, logits: Tensor) -> None:
        """Start fc6 at the maps' principal components, half whitened, and fc8 at those of the
        teacher's logits; ``maps`` (S, 9216) and ``logits`` (S, 1000) are a sample.  Ranks beyond
        S keep their random start."""
        first, last = self.layers[0], self.layers[-1]
        assert isinstance(first, LowRankLinear)
        assert isinstance(last, LowRankLinear)
        deviations, directions = _components(maps, first.v.shape[0])
        first.v[: len(directions)] = (
            directions / deviations.sqrt()[:, None] / deviations.sqrt().mean()
        )
        logits = logits - logits.mean(1, keepdim=True)  # softmax does not see it
        deviations, directions = _components(logits, last.u.shape[1])
        last.u[:, : len(directions)] = 0.3 * directions.T * deviations.sqrt()
        last.bias.copy_(logits.mean(0))


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


def _components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest principal components: their standard deviations (count,), and directions
    (count, columns); no more than there are rows."""
    count = min(count, len(rows) - 1)
    _, values, directions = torch.svd_lowrank(
        rows - rows.mean(0), q=min(count + 20, len(rows)), niter=2
    )
    return values[:count] / len(rows) ** 0.5, directions[:, :count].T
