"""
The PyTorch modules of `owt`, `paper`, `caffe` and `d2l`.  All take float32 views
(N, channels, size, size), already normalised, and give logits (N, classes).

* ``owt``    torchvision's: "One weird trick", arXiv:1404.5997, section 5
* ``paper``  Krizhevsky, Sutskever, Hinton, NIPS 2012
* ``caffe``  BVLC AlexNet, ``models/bvlc_alexnet`` of Caffe
* ``d2l``    Dive into Deep Learning, section 8.1

Their parameters have the same names wherever the layers stand at the same place, so that
``owt`` reads torchvision's state dict as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Ranks = tuple[int | None, int | None, int | None]  # of fc6, fc7, fc8; None is a full matrix
Attribute = (
    int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]
)
FULL: Ranks = (None, None, None)


class AlexNet(nn.Module):
    """Five convolutions, three fully connected layers.

    ``forward`` takes float32 (N, channels, size, size) and gives logits, float32 (N, classes).
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    @property
    def channels(self) -> int:
        """How many channels the first convolution sees: 3, or 1 for grey images."""
        return next(m.in_channels for m in self.modules() if isinstance(m, nn.Conv2d))

    @property
    def classes(self) -> int:
        """How many classes the last layer tells apart."""
        return len(_bias(self.classifier[-1]))

    def forward(self, views: Tensor) -> Tensor:
        feature_maps: Tensor = self.features(views)
        # Not flatten(1): that would be exported as arithmetic on the batch's size.
        logits: Tensor = self.classifier(
            feature_maps.reshape(-1, math.prod(feature_maps.shape[1:]))
        )
        return logits


class LowRankLinear(nn.Module):
    """A fully connected layer whose weight is the product u (out, rank) @ v (rank, in)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(outputs, rank))
        self.v = nn.Parameter(torch.empty(rank, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, self.v), self.u, self.bias)


class LocalResponseNorm(nn.LocalResponseNorm):
    """Section 3.3 of the paper; torch's own, but exported as ONNX's ``LRN``.

    torch builds it from a pooling over five dimensions, which runtimes have no fast kernel for.
    Both divide alpha by the window, as the paper's own source does.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return super().forward(input)
        attributes: dict[str, Attribute] = {
            "size": self.size,
            "alpha": self.alpha,
            "beta": self.beta,
            "bias": self.k,
        }
        return torch.onnx.ops.symbolic(
            "LRN", [input], attributes, dtype=input.dtype, shape=input.shape
        )


def owt(classes: int = 1000, channels: int = 3, ranks: Ranks = FULL) -> AlexNet:
    """torchvision's ``alexnet``: one column, no normalisation, 224 pixels a side."""
    fc6, fc7, fc8 = _fully_connected(9216, classes, ranks)
    network = AlexNet(
        nn.Sequential(  # (N, channels, 224, 224)
            nn.Conv2d(channels, 64, 11, stride=4, padding=2),  # (N, 64, 55, 55)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 64, 27, 27)
            nn.Conv2d(64, 192, 5, padding=2),  # (N, 192, 27, 27)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 192, 13, 13)
            nn.Conv2d(192, 384, 3, padding=1),  # (N, 384, 13, 13)
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),  # (N, 256, 13, 13)
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),  # (N, 256, 13, 13)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 6, 6): torchvision's avgpool is the identity
        ),
        # torchvision drops before fc6 and fc7, the paper after them.
        nn.Sequential(nn.Dropout(), fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), fc8),
    )
    return _gaussian(network, hidden_bias=1.0)


def paper(classes: int = 1000, channels: int = 3, ranks: Ranks = FULL) -> AlexNet:
    """The network of 2012: two columns as groups, normalisation with k=2, 224 pixels a side."""
    fc6, fc7, fc8 = _fully_connected(9216, classes, ranks)
    network = AlexNet(
        nn.Sequential(  # (N, channels, 224, 224)
            # The original source rounds windows up, ceil(213 / 4) + 1 = 55: three rows and
            # columns of zeros at the bottom and the right say the same in floor arithmetic.
            nn.ZeroPad2d((0, 3, 0, 3)),  # (N, channels, 227, 227)
            nn.Conv2d(channels, 96, 11, stride=4),  # (N, 96, 55, 55)
            nn.ReLU(),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),  # (N, 96, 27, 27)
            nn.Conv2d(96, 256, 5, padding=2, groups=2),  # (N, 256, 27, 27)
            nn.ReLU(),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 13, 13)
            nn.Conv2d(256, 384, 3, padding=1),  # (N, 384, 13, 13)
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),  # (N, 384, 13, 13)
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),  # (N, 256, 13, 13)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 6, 6)
        ),
        nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), fc8),
    )
    return _gaussian(network, hidden_bias=1.0)


def caffe(classes: int = 1000, channels: int = 3, ranks: Ranks = FULL) -> AlexNet:
    """BVLC AlexNet: the paper's layers with k=1, 227 pixels a side and no padding before conv1."""
    fc6, fc7, fc8 = _fully_connected(9216, classes, ranks)
    network = AlexNet(
        nn.Sequential(  # (N, channels, 227, 227)
            nn.Conv2d(channels, 96, 11, stride=4),  # (N, 96, 55, 55)
            nn.ReLU(),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),
            nn.MaxPool2d(3, stride=2),  # (N, 96, 27, 27)
            nn.Conv2d(96, 256, 5, padding=2, groups=2),  # (N, 256, 27, 27)
            nn.ReLU(),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 13, 13)
            nn.Conv2d(256, 384, 3, padding=1),  # (N, 384, 13, 13)
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),  # (N, 384, 13, 13)
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),  # (N, 256, 13, 13)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 6, 6)
        ),
        nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), fc8),
    )
    # "Non-zero biases 0.1 instead of 1" is the first of the differences its model card lists.
    return _gaussian(network, hidden_bias=0.1)


def d2l(classes: int = 1000, channels: int = 3, ranks: Ranks = FULL) -> AlexNet:
    """The textbook's: no groups, no normalisation, conv1 padded by 1, 224 pixels a side.

    The book trains it with ``classes=10, channels=1`` on Fashion-MNIST.
    """
    fc6, fc7, fc8 = _fully_connected(6400, classes, ranks)
    network = AlexNet(
        nn.Sequential(  # (N, channels, 224, 224)
            nn.Conv2d(channels, 96, 11, stride=4, padding=1),  # (N, 96, 54, 54)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 96, 26, 26)
            nn.Conv2d(96, 256, 5, padding=2),  # (N, 256, 26, 26)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 12, 12)
            nn.Conv2d(256, 384, 3, padding=1),  # (N, 384, 12, 12)
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1),  # (N, 384, 12, 12)
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),  # (N, 256, 12, 12)
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 5, 5)
        ),
        nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), fc8),
    )
    return _xavier(network)


Builder = Callable[[int, int, Ranks], AlexNet]


def _fully_connected(inputs: int, classes: int, ranks: Ranks) -> list[nn.Module]:
    widths = [inputs, 4096, 4096, classes]
    return [
        nn.Linear(i, o) if rank is None else LowRankLinear(i, o, rank)
        for i, o, rank in zip(widths, widths[1:], ranks, strict=False)
    ]


def _gaussian(network: AlexNet, *, hidden_bias: float) -> AlexNet:
    """Section 5 of the paper: weights N(0, 0.01), and a bias that starts the ReLUs of conv2,
    conv4, conv5 and the hidden fully connected layers in their positive half."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear, LowRankLinear))]
    for place, layer in enumerate(layers):
        _draw(layer, lambda weight: nn.init.normal_(weight, std=0.01))
        nn.init.constant_(_bias(layer), hidden_bias if place in (1, 3, 4, 5, 6) else 0.0)
    return network


def _xavier(network: AlexNet) -> AlexNet:
    """The book's ``init_cnn``: Xavier-uniform weights; the biases keep torch's default."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, LowRankLinear)):
            _draw(layer, nn.init.xavier_uniform_)
            if isinstance(layer, LowRankLinear):
                nn.init.zeros_(layer.bias)
    return network


def _draw(layer: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    for name, weight in layer.named_parameters():
        if name != "bias":
            draw(weight)


def _bias(layer: nn.Module) -> Tensor:
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias
