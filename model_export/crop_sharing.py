"""
The first convolutions once for the ten crops, bit for bit what each crop alone would give.

The whole image goes through a layer.  A crop's map is that part of the whole image's map
where the crop lies, except at those sides of the crop that lie inside the image: there the
crop ends in padding and the image goes on.  `spans.py` says how deep that reaches; these strips
are computed from the crop and laid over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from model_export.builder import Builder
from model_export.layer_blocks import Part
from model_export.receptive_field import NotAligned, Span, Strip, Window, after, strip

Place = tuple[Span, Span]  # a crop's rows and columns


class Side(NamedTuple):
    """One of the four sides of a crop."""

    axis: int  # 0: rows differ, at the top or the bottom; 1: columns, at the left or the right
    far: bool  # the bottom or the right

    def depth(self, place: Place) -> int:
        """How many rows or columns differ at this side."""
        span = place[self.axis]
        return span.high if self.far else span.low

    def outputs(self, place: Place) -> range:
        """Which rows or columns these are."""
        length = place[self.axis].length
        return range(length - self.depth(place), length) if self.far else range(self.depth(place))


TOP, BOTTOM, LEFT, RIGHT = SIDES = tuple(
    Side(axis, far) for axis in (0, 1) for far in (False, True)
)


@dataclass(frozen=True)
class Maps:
    """Values of the graph: where their rows are, and of which type, onnx.TensorProto's, they are.

    8-bit maps are cut and joined with their planes last, as the runtime's 8-bit kernels have them;
    other maps with their planes first.
    """

    name: str
    element: int

    @property
    def rows(self) -> int:
        """The axis of the rows; the columns are the next."""
        return 1 if self.element == TensorProto.UINT8 else 2


def apply(
    g: Builder, parts: Sequence[Part], maps: Maps, padding: Sequence[Sequence[int]] | None = None
) -> Maps:
    """Parts of a chain over maps; ``padding`` (top, left, bottom, right), one for each part, takes
    the place of their own."""
    if not parts:
        return maps
    value, planes_last = maps.name, maps.rows == 1  # a layer wants its planes first
    for place, part in enumerate(parts):
        pads = None if padding is None else padding[place]
        if part.frame is not None:
            value = _with_frame(g, part, part.frame, value, pads)
            continue
        if planes_last:
            value, planes_last = g.add("Transpose", value, perm=[0, 3, 1, 2]), False
        value = g.over(part.nodes, value, pads)
    given = Maps(value, parts[-1].given)
    if given.rows == 1 and not planes_last:
        return Maps(g.add("Transpose", value, perm=[0, 2, 3, 1]), given.element)
    return given


def planes_first(g: Builder, maps: Maps) -> Maps:
    """The same with the planes before the rows, as ONNX's layers have them."""
    if maps.rows == 2:
        return maps
    return Maps(g.add("Transpose", maps.name, perm=[0, 3, 1, 2]), maps.element)


def _with_frame(
    g: Builder, part: Part, colour: Sequence[int], value: str, pads: Sequence[int] | None
) -> str:
    """Images (N, rows, columns, planes), with rows and columns of the frame's values around."""
    rows, columns = part.rows, part.columns
    top, left, bottom, right = pads or (rows.before, columns.before, rows.after, columns.after)
    for axis, before, behind in ((1, top, bottom), (2, left, right)):
        shape = g.add("Shape", value)
        first, last = (
            [_coloured(g, colour, shape, axis, width)] if width else []
            for width in (before, behind)
        )
        value = g.join([*first, value, *last], axis)
    return value


def _coloured(g: Builder, values: Sequence[int], shape: str, axis: int, width: int) -> str:
    """Pixels of one colour in the shape of images, but so wide along an axis."""
    size = g.add("ScatterElements", shape, g.constant([axis]), g.constant([width]))
    return g.add("Expand", g.constant([[[values]]], np.uint8), size)


@dataclass(frozen=True)
class Crops:
    """The crops' maps at one place of the trunk, each of the image and of its mirror image.

    ``whole`` are the whole image's maps, of 2 N images; ``strips`` those that differ at each
    side: the crops that differ there, one after the other along the first axis.  Unless ten crops
    are asked for there are no rows in them.
    """

    whole: Maps
    places: Sequence[Place]
    strips: Mapping[Side, Maps]

    def through(self, g: Builder, parts: Sequence[Part], is_ten: str) -> Crops:
        """The maps after some parts of the chain."""
        layers = [part.rows for part in parts], [part.columns for part in parts]
        places = [(after(y, layers[0]), after(x, layers[1])) for y, x in self.places]
        if any(span.low + span.high > span.length for place in places for span in place):
            raise NotAligned("the strips at two sides overlap")
        seen = {
            side: _seen(side, self.places, places, layers[side.axis])
            for side in SIDES
            if any(side.depth(place) for place in places)
        }
        strips = {}
        for side, maps in self._cut(g, places, seen, is_ten).items():
            own = [[(layer.before, layer.after) for layer in axis] for axis in layers]
            own[side.axis] = list(seen[side].padding)
            padding = [(y[0], x[0], y[1], x[1]) for y, x in zip(*own, strict=True)]
            strips[side] = apply(g, parts, maps, padding)
        return Crops(apply(g, parts, self.whole), places, strips)

    def chosen(self, g: Builder, is_ten: str) -> Maps:
        """The five crops one after the other, of 10 N views, or else the whole images' maps."""
        with g.branch() as ten:
            crops = g.join(self._joined(g), axis=0)
        whole = self.whole
        names = g.choose(is_ten, (ten, [crops]), ([], [whole.name]), whole.element)
        return Maps(names[0], whole.element)

    def _cut(
        self, g: Builder, places: Sequence[Place], seen: Mapping[Side, Strip], is_ten: str
    ) -> dict[Side, Maps]:
        """The parts of the crops from which the strips follow; no rows unless it is ten.

        Each crop's map is joined whole before its strips are cut: a copy, and a small one beside
        the convolution that follows.
        """
        first = self.whole.rows
        with g.branch() as ten:
            crops = self._joined(g)
            cut = [
                g.join(
                    [
                        g.cut(crop, (first + side.axis, part.first, part.last))
                        for crop, place in zip(crops, places, strict=True)
                        if side.depth(place)
                    ],
                    axis=0,
                )
                for side, part in seen.items()
            ]
        with g.branch() as otherwise:
            none = []
            for side, part in seen.items():
                size = [span.length for span in self.places[0]]
                size[side.axis] = part.last - part.first
                ranges = ((first + axis, 0, size[axis]) for axis in (0, 1))
                none.append(g.cut(self.whole.name, (0, 0, 0), *ranges))  # of no image
        element = self.whole.element
        names = g.choose(is_ten, (ten, cut), (otherwise, none), element) if seen else []
        return {side: Maps(name, element) for side, name in zip(seen, names, strict=True)}

    def _joined(self, g: Builder) -> list[str]:
        """Each crop's map, from the whole image's and the strips; inside a branch."""
        own = {
            side: iter(g.split(maps.name, sum(1 for place in self.places if side.depth(place))))
            for side, maps in self.strips.items()
        }
        return [
            self._laid(g, place, {s: next(own[s]) for s in own if s.depth(place)})
            for place in self.places
        ]

    def _laid(self, g: Builder, place: Place, strips: Mapping[Side, str]) -> str:
        """One crop's map: rows at its top, columns at its left, the image's, columns, rows."""
        rows, columns = place
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
    image: Maps, corners: Sequence[tuple[int, int]], side: int, whole: int
) -> Crops:
    """Before the first layer a crop differs nowhere from its place in the image."""
    places = [(Span(y, side, whole), Span(x, side, whole)) for y, x in corners]
    return Crops(image, places, {})


def _seen(
    side: Side, before: Sequence[Place], places: Sequence[Place], layers: Sequence[Window]
) -> Strip:
    """What the strips at one side see of their crops: the same for every crop, or NotAligned."""
    found = {
        strip(crop[side.axis].length, layers, side.outputs(place))
        for crop, place in zip(before, places, strict=True)
        if side.depth(place)
    }
    if len(found) != 1:
        raise NotAligned(f"the crops differ in unlike strips: {found}")
    return found.pop()
