"""Which places of a crop differ from the whole image's, against counting it out.

The reference knows no arithmetic of strides: a value is *what it is computed from*.  A pixel is
its place, padding is padding, and a layer's output is the tuple of what its window sees.  Two
outputs are the same computation if these are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model_export.receptive_field import Extent, NotAligned, Window, after, receptive_field, through

Value = object
PADDING = "padding"


@st.composite
def _window(draw: st.DrawFn) -> Window:
    """A layer all of whose windows see some of its input."""
    kernel = draw(st.integers(1, 5))
    padding = st.integers(0, kernel - 1)
    return Window(kernel, draw(st.integers(1, 3)), draw(padding), draw(padding))


LAYERS = st.lists(_window(), min_size=1, max_size=3)
CROP = st.tuples(st.integers(0, 12), st.integers(1, 40), st.integers(0, 12))


@given(LAYERS, CROP)
@settings(max_examples=400, deadline=None)
def test_the_places_that_differ_are_those_at_the_ends(
    layers: list[Window], crop: tuple[int, int, int]
) -> None:
    extent, differing = _crop(layers, crop)

    assert differing == _ends(extent)


@given(LAYERS, st.integers(1, 40), st.data())
@settings(max_examples=400, deadline=None)
def test_a_strip_is_computed_from_its_part_alone(
    layers: list[Window], length: int, data: st.DataObject
) -> None:
    """Its part of the inputs, through layers with its own padding, gives the strip and no more."""
    assume(min(_lengths(length, layers)) > 0)
    outputs = _values(range(length), layers)
    first = data.draw(st.integers(0, len(outputs) - 1))
    last = data.draw(st.integers(first + 1, len(outputs)))

    part = receptive_field(length, layers, range(first, last))

    padded = [
        Window(layer.kernel, layer.stride, *padding)
        for layer, padding in zip(layers, part.padding, strict=True)
    ]
    assert _values(range(part.first, part.last), padded) == outputs[first:last]


@given(LAYERS, st.integers(1, 12), st.integers(1, 40))
def test_a_crop_between_two_places_of_a_map_is_not_aligned(
    layers: list[Window], start: int, length: int
) -> None:
    strides = 1
    places = []
    for layer in layers:
        strides *= layer.stride
        places.append(start % strides == 0)
    assume(not all(places))

    with pytest.raises(NotAligned, match="no multiple"):
        after(Extent(start, length, start + length), layers)


def test_the_corner_crops_of_owt_differ_in_two_rows_after_two_convolutions() -> None:
    """Worked out by hand: conv1's padding of 2 spoils one row, no pooling sees more than one, and
    conv2's padding of 2 spoils two more."""
    conv1, pool, conv2 = Window(11, 4, 2, 2), Window(3, 2), Window(5, 1, 2, 2)
    top, centre, bottom = (Extent(start, 224, 256) for start in (0, 16, 32))

    assert through(top, conv1) == Extent(0, 55, 63, low=0, high=1)
    assert through(centre, conv1) == Extent(4, 55, 63, low=1, high=1)
    assert after(top, [conv1, pool]) == Extent(0, 27, 31, low=0, high=1)
    assert after(centre, [conv1, pool, conv2]) == Extent(2, 27, 31, low=3, high=3)
    assert after(bottom, [conv1, pool, conv2]) == Extent(4, 27, 31, low=3, high=0)


def _values(pixels: Sequence[Value], layers: Sequence[Window]) -> list[Value]:
    values = list(pixels)
    for layer in layers:
        padded = [PADDING] * layer.before + values + [PADDING] * layer.after
        starts = range(0, len(padded) - layer.kernel + 1, layer.stride)
        values = [tuple(padded[n : n + layer.kernel]) for n in starts]
    return values


def _lengths(length: int, layers: Sequence[Window]) -> list[int]:
    lengths = [length]
    for layer in layers:
        lengths.append(max(layer.length(lengths[-1]), 0))
    return lengths


def _ends(extent: Extent) -> list[int]:
    return [n for n in range(extent.length) if n < extent.low or n >= extent.length - extent.high]


def _crop(layers: Sequence[Window], crop: tuple[int, int, int]) -> tuple[Extent, list[int]]:
    """What `after` says of a crop (start, length, pixels behind it), and which places differ."""
    start, length, rest = crop
    whole = start + length + rest
    assume(min(_lengths(length, layers)) > 0)
    try:
        extent = after(Extent(start, length, whole), layers)
    except NotAligned:
        assume(False)
        raise
    outputs = _values(range(start, start + length), layers)
    image = _values(range(whole), layers)
    assert max(extent.low, extent.high) <= extent.length
    assert (extent.length, extent.whole) == (len(outputs), len(image))
    return extent, [n for n, value in enumerate(outputs) if value != image[extent.start + n]]
