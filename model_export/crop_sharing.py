"""
The first convolutions once for all ten crops.  The values are, bit for bit, what each crop alone
would give.

The whole image goes through a layer.  A crop's feature map is that part of
the whole image's map where the crop lies, except at those edges of the crop that lie inside the
image: there the crop ends in padding and the image goes on.  `receptive_field.py` says how deep
that reaches.  These strips are computed from the crop and pasted over the image's map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from model_export.builder import Builder
from model_export.layer_blocks import Part
from model_export.receptive_field import (
    Extent,
    NotAligned,
    ReceptiveField,
    Window,
    after,
    receptive_field,
)

Region = tuple[Extent, Extent]  # a crop's rows and columns


class Edge(NamedTuple):
    """One of the four edges of a crop."""

    axis: int  # 0: rows differ, at the top or the bottom; 1: columns, at the left or the right
    far: bool  # the bottom or the right

    def depth(self, region: Region) -> int:
        """How many rows or columns differ at this edge."""
        extent = region[self.axis]
        return extent.high if self.far else extent.low

    def outputs(self, region: Region) -> range:
        """Which rows or columns these are."""
        length = region[self.axis].length
        return range(length - self.depth(region), length) if self.far else range(self.depth(region))


TOP, BOTTOM, LEFT, RIGHT = EDGES = tuple(
    Edge(axis, far) for axis in (0, 1) for far in (False, True)
)


@dataclass(frozen=True)
class FeatureMaps:
    """Values of the graph: where their rows are, and of which type, onnx.TensorProto's, they are.

    8-bit maps are cut and joined with their channels last, as the runtime's 8-bit kernels have
    them; other maps with their channels first.
    """

    name: str
    element: int

    @property
    def rows(self) -> int:
        """The axis of the rows; the columns are the next."""
        return 1 if self.element == TensorProto.UINT8 else 2


def apply(
    g: Builder,
    parts: Sequence[Part],
    feature_maps: FeatureMaps,
    padding: Sequence[Sequence[int]] | None = None,
) -> FeatureMaps:
    """Apply parts of a chain to maps; ``padding`` (top, left, bottom, right), one for each part,
    replaces their own."""
    if not parts:
        return feature_maps
    value, channels_last = feature_maps.name, feature_maps.rows == 1  # a layer takes channels first
    for index, part in enumerate(parts):
        pads = None if padding is None else padding[index]
        if part.pad_values is not None:
            value = _padded(g, part, part.pad_values, value, pads)
            continue
        if channels_last:
            value, channels_last = g.add("Transpose", value, perm=[0, 3, 1, 2]), False
        value = g.over(part.nodes, value, pads)
    result = FeatureMaps(value, parts[-1].element)
    if result.rows == 1 and not channels_last:
        return FeatureMaps(g.add("Transpose", value, perm=[0, 2, 3, 1]), result.element)
    return result


def channels_first(g: Builder, feature_maps: FeatureMaps) -> FeatureMaps:
    """The same with the channels before the rows, as ONNX's layers have them."""
    if feature_maps.rows == 2:
        return feature_maps
    return FeatureMaps(
        g.add("Transpose", feature_maps.name, perm=[0, 3, 1, 2]), feature_maps.element
    )


def _padded(
    g: Builder, part: Part, pad_values: Sequence[int], value: str, pads: Sequence[int] | None
) -> str:
    """Images (N, rows, columns, channels), padded with rows and columns of the part's values."""
    rows, columns = part.rows, part.columns
    top, left, bottom, right = pads or (rows.before, columns.before, rows.after, columns.after)
    for axis, before, behind in ((1, top, bottom), (2, left, right)):
        shape = g.add("Shape", value)
        first, last = (
            [_pad_pixels(g, pad_values, shape, axis, width)] if width else []
            for width in (before, behind)
        )
        value = g.join([*first, value, *last], axis)
    return value


def _pad_pixels(g: Builder, values: Sequence[int], shape: str, axis: int, width: int) -> str:
    """Pixels of one colour in the shape of images, but so wide along an axis."""
    size = g.add("ScatterElements", shape, g.constant([axis]), g.constant([width]))
    return g.add("Expand", g.constant([[[values]]], np.uint8), size)


@dataclass(frozen=True)
class Crops:
    """The crops' maps at one depth of the trunk, each of the image and of its mirror image.

    ``whole`` are the whole image's maps, of 2 N images; ``strips`` those that differ at each
    edge: the crops that differ there, one after the other along the first axis.  Unless ten crops
    are asked for they are not used, and have no rows, or one.
    """

    whole: FeatureMaps
    regions: Sequence[Region]
    strips: Mapping[Edge, FeatureMaps]

    def through(self, g: Builder, parts: Sequence[Part], is_ten: str | bool) -> Crops:
        """The maps after some parts of the chain."""
        layers = [part.rows for part in parts], [part.columns for part in parts]
        regions = [(after(y, layers[0]), after(x, layers[1])) for y, x in self.regions]
        if any(extent.low + extent.high > extent.length for region in regions for extent in region):
            raise NotAligned("the strips at two edges overlap")
        seen = {
            edge: _common_receptive_field(edge, self.regions, regions, layers[edge.axis])
            for edge in EDGES
            if any(edge.depth(region) for region in regions)
        }
        strips = {}
        rows = any(node.op_type == "LRN" for part in parts for node in part.nodes)
        for edge, feature_maps in self._cut(g, regions, seen, is_ten, rows=int(rows)).items():
            own = [[(layer.before, layer.after) for layer in axis] for axis in layers]
            own[edge.axis] = list(seen[edge].padding)
            padding = [(y[0], x[0], y[1], x[1]) for y, x in zip(*own, strict=True)]
            strips[edge] = apply(g, parts, feature_maps, padding)
        return Crops(apply(g, parts, self.whole), regions, strips)

    def chosen(self, g: Builder, is_ten: str | bool) -> FeatureMaps:
        """The five crops one after the other, of 10 N views, or else the whole images' maps."""
        with g.branch() as ten:
            crops = g.join(self._joined(g), axis=0)
        whole = self.whole
        names = g.choose(is_ten, (ten, [crops]), ([], [whole.name]), whole.element)
        return FeatureMaps(names[0], whole.element)

    def _cut(
        self,
        g: Builder,
        regions: Sequence[Region],
        seen: Mapping[Edge, ReceptiveField],
        is_ten: str | bool,
        *,
        rows: int,
    ) -> dict[Edge, FeatureMaps]:
        """The parts of the crops from which the strips follow; so many rows unless it is ten.

        None need be computed, but cuDNN, which normalises responses on CUDA, refuses to have
        nothing to do: it gets the first image's.

        Each crop's map is joined whole before its strips are cut: a copy, and a small one beside
        the convolution that follows.
        """
        first = self.whole.rows
        with g.branch() as ten:
            crops = self._joined(g)
            cut = [
                g.join(
                    [
                        g.cut(crop, (first + edge.axis, part.first, part.last))
                        for crop, region in zip(crops, regions, strict=True)
                        if edge.depth(region)
                    ],
                    axis=0,
                )
                for edge, part in seen.items()
            ]
        with g.branch() as otherwise:
            none = []
            for edge, part in seen.items():
                size = [extent.length for extent in self.regions[0]]
                size[edge.axis] = part.last - part.first
                ranges = ((first + axis, 0, size[axis]) for axis in (0, 1))
                none.append(g.cut(self.whole.name, (0, 0, rows), *ranges))
        element = self.whole.element
        names = g.choose(is_ten, (ten, cut), (otherwise, none), element) if seen else []
        return {edge: FeatureMaps(name, element) for edge, name in zip(seen, names, strict=True)}

    def _joined(self, g: Builder) -> list[str]:
        """Each crop's map, from the whole image's and the strips; inside a branch."""
        own = {
            edge: iter(
                g.split(feature_maps.name, sum(1 for region in self.regions if edge.depth(region)))
            )
            for edge, feature_maps in self.strips.items()
        }
        return [
            self._pasted(g, region, {s: next(own[s]) for s in own if s.depth(region)})
            for region in self.regions
        ]

    def _pasted(self, g: Builder, region: Region, strips: Mapping[Edge, str]) -> str:
        """One crop's map: rows at its top, columns at its left, the image's, columns, rows."""
        rows, columns = region
        first = self.whole.rows
        middle = g.cut(
            self.whole.name,
            (first, rows.start + rows.low, rows.end - rows.high),
            (first + 1, columns.start + columns.low, columns.end - columns.high),
        )
        between = (first, rows.low, rows.length - rows.high)
        left, right = ([g.cut(strips[s], between)] if s in strips else [] for s in (LEFT, RIGHT))
        middle = g.join([*left, middle, *right], first + 1)
        top, bottom = ([strips[s]] if s in strips else [] for s in (TOP, BOTTOM))
        return g.join([*top, middle, *bottom], first)


def crops_of_images(
    image: FeatureMaps, corners: Sequence[tuple[int, int]], crop_size: int, whole: int
) -> Crops:
    """Before the first layer a crop differs nowhere from its region of the image."""
    regions = [(Extent(y, crop_size, whole), Extent(x, crop_size, whole)) for y, x in corners]
    return Crops(image, regions, {})


def _common_receptive_field(
    edge: Edge, before: Sequence[Region], regions: Sequence[Region], layers: Sequence[Window]
) -> ReceptiveField:
    """What the strips at one edge see of their crops: the same for every crop, or NotAligned."""
    fields = {
        receptive_field(crop[edge.axis].length, layers, edge.outputs(region))
        for crop, region in zip(before, regions, strict=True)
        if edge.depth(region)
    }
    if len(fields) != 1:
        raise NotAligned(f"the crops differ in unlike strips: {fields}")
    return fields.pop()
