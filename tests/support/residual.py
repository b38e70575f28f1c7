"""
A small residual network (He et al. 2015, arXiv:1512.03385) and its row: what is no chain of layers.

A value that two layers take cannot be cut into strips, so that no crop shares work with another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.alexnet import FULL, AlexNet, Ranks
from model_export.variants import IMAGENET, Variant


class Block(nn.Module):
    """Figure 2: two 3 x 3 convolutions, and what went in added to what comes out.

    float32 (N, inputs, rows, columns) -> (N, outputs, rows / stride, columns / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        )

    def forward(self, feature_maps: Tensor) -> Tensor:
        return functional.relu(self.residual(feature_maps) + self.shortcut(feature_maps))


def residual(classes: int = 1000, channels: int = 3, ranks: Ranks = FULL) -> AlexNet:
    """float32 (N, channels, 224, 224), normalised -> logits (N, classes); ranks are not offered."""
    return AlexNet(
        nn.Sequential(  # (N, channels, 224, 224)
            nn.Conv2d(channels, 8, 7, stride=4, padding=3, bias=False),  # (N, 8, 56, 56)
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Block(8, 8),  # (N, 8, 56, 56)
            Block(8, 16, stride=2),  # (N, 16, 28, 28)
            nn.AdaptiveAvgPool2d(1),  # (N, 16, 1, 1)
        ),
        nn.Sequential(nn.Linear(16, classes)),
    )


RESIDUAL = Variant(
    name="residual",
    build=residual,
    crop_size=224,
    normalisation=IMAGENET,
    weights=None,
    source="He et al. 2015, in small",
)


def learned(classes: int = 10) -> AlexNet:
    """The network as training might leave it: with statistics of its batch normalisation, and with
    logits that tell images apart."""
    torch.manual_seed(0)
    network = residual(classes)
    last = network.classifier[-1]
    assert isinstance(last, nn.Linear)
    images = functional.interpolate(torch.randn(8, 3, 8, 8), 224)
    with torch.no_grad():
        network.train()(images)
        std, mean = torch.std_mean(network.eval().features(images).flatten(1), 0)  # (16,) each
        # With 8 most photographs' views differ by 0.01 in probability; with 1 each is 0 or 1.
        last.weight.copy_(torch.randn(classes, 16) / (8 * std))
        last.bias.copy_(-last.weight @ mean)
    return network
