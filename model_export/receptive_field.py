"""
Which parts of the ten crops are the same.  It follows from the layers' kernels, strides and
paddings.

Along one axis a crop of the image is an *extent*: where it begins in the map of the whole image,
how long it is, and how many of its first and last places differ from the whole image's map at
the same places, because they see the crop's own padding.  A layer turns extents into
extents.  What does not differ need not be computed again.  What differs is a strip at the crop's
edge, and `receptive_field` says from which part of the crop it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True)
class Window:
    """A layer along one axis: output i sees `kernel` inputs from i * stride - before on."""

    kernel: int = 1
    stride: int = 1
    before: int = 0  # places of padding
    after: int = 0

    def length(self, inputs: int) -> int:
        """How many outputs so many inputs have."""
        return (inputs + self.before + self.after - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Extent:
    """A crop along one axis of a map; all in places of that map."""

    start: int
    length: int
    whole: int  # the length of the whole image's map
    low: int = 0  # so many first places differ from the whole image's
    high: int = 0  # and so many last ones

    @property
    def end(self) -> int:
        """The place after the last."""
        return self.start + self.length


class NotAligned(ValueError):
    """The crop begins between two places of the map: nothing of it is the whole image's."""


def through(extent: Extent, layer: Window) -> Extent:
    """The extent after a layer; raises `NotAligned`."""
    if extent.start % layer.stride:
        raise NotAligned(f"a crop begins at {extent.start}, which is no multiple of {layer.stride}")
    length = layer.length(extent.length)
    # The first outputs that see no differing first input, and that see a differing last one.
    first_clean = _ceil(extent.low + layer.before, layer.stride)
    first_beyond = _ceil(
        extent.length - extent.high - layer.kernel + 1 + layer.before, layer.stride
    )
    # At the image's own border the crop is padded as the whole image is.
    low = 0 if extent.start == 0 else min(first_clean, length)
    high = (
        0
        if extent.end == extent.whole and not extent.high
        else min(max(length - first_beyond, 0), length)
    )
    return Extent(extent.start // layer.stride, length, layer.length(extent.whole), low, high)


def after(extent: Extent, layers: Sequence[Window]) -> Extent:
    """The extent after a chain of layers; raises `NotAligned`."""
    return reduce(through, layers, extent)


@dataclass(frozen=True)
class ReceptiveField:
    """The inputs from `first` to before `last`, and what each layer pads them with."""

    first: int
    last: int
    padding: tuple[tuple[int, int], ...]  # (before, after) for each layer


def receptive_field(inputs: int, layers: Sequence[Window], outputs: range) -> ReceptiveField:
    """What consecutive `outputs` of a chain of layers see of its `inputs`."""
    lengths = [inputs]
    for layer in layers[:-1]:
        lengths.append(layer.length(lengths[-1]))
    first, last = outputs.start, outputs.stop
    padding = []
    for layer, length in zip(reversed(layers), reversed(lengths), strict=True):
        first = first * layer.stride - layer.before
        last = (last - 1) * layer.stride - layer.before + layer.kernel
        padding.append((max(-first, 0), max(last - length, 0)))
        first, last = max(first, 0), min(last, length)
        if first >= last:
            raise NotAligned("a strip sees nothing but padding")
    return ReceptiveField(first, last, tuple(reversed(padding)))


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
