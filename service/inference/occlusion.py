"""
Heatmaps by occlusion: where the evidence for a class lies.  The network answers for copies of
the prepared image with a part hidden in each.

Occlusion (Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4):
what a class loses while a part is hidden, it had from there.  It needs only answers; class
activation maps (Zhou et al. 2016) want one layer after the last maps, where AlexNet has three, and
gradients are not in an exported graph.

The image is divided into 8 x 8 cells.  A window is a cell and those around it, 96 x 96 pixels, cut
where the image ends.  A hidden window shows the image's blurred copy, so that the border of a grey
patch is not an object in itself.  docs/explain.md has the other forms that were measured.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import ParameterInvalid

CELLS: Final = 8  # rows, and columns
WINDOWS: Final = CELLS * CELLS  # one around each cell, row by row from the top left


def rows(images: int, max_queue: int) -> int:
    """How many places in the queue so many images take; `ParameterInvalid` if it has fewer."""
    count = images * (1 + WINDOWS)
    if count > max_queue:
        raise ParameterInvalid(
            f"details=heatmap takes {1 + WINDOWS} places in the queue for each image, {count} for "
            f"{images}, and the queue has {max_queue}: send fewer images in a request, leave "
            "heatmap out, or have ALEXNET_MAX_QUEUE raised"
        )
    return count


def hide(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """uint8 `(256, 256, 3)` to a copy for each window, in which it is hidden; 12.6 MB."""
    fill = blurred(image)
    hidden = []
    for window in _windows(len(image) // CELLS):
        copy = image.copy()
        copy[window] = fill[window]
        hidden.append(copy)
    return hidden


def evidence(whole: NDArray[np.float32], hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    How much the image's probabilities, float32 `(classes,)`, fall while a cell is hidden.

    `hidden`, `(windows, classes)`, are those of `hide`; what comes out is `(8, 8, classes)`: for a
    cell the mean over the windows that cover it, which are nine, six at a border, four in a corner.
    """
    near = np.abs(np.subtract.outer(np.arange(CELLS), np.arange(CELLS))) <= 1
    covers = np.kron(near, near).astype(np.float32)  # (cells, windows)
    falls: NDArray[np.float32] = covers / covers.sum(1, keepdims=True) @ (whole - hidden)
    return falls.reshape(CELLS, CELLS, -1)


def blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image's means over its cells, pasted at their middles and interpolated between."""
    side, cell = len(image), len(image) // CELLS
    means = image.reshape(CELLS, cell, CELLS, cell, 3).mean((1, 3))
    places = np.clip((np.arange(side) + 0.5) / cell - 0.5, 0, CELLS - 1)  # in cells
    weights = np.maximum(0, 1 - np.abs(np.subtract.outer(places, np.arange(CELLS))))
    pixels = np.einsum("yr,rcb,xc->yxb", weights, means, weights, optimize=True)
    fill: NDArray[np.uint8] = np.rint(pixels).astype(np.uint8)
    return fill


def _windows(cell: int) -> Iterator[tuple[slice, slice]]:
    for row, column in np.ndindex(CELLS, CELLS):
        yield _around(row, cell), _around(column, cell)


def _around(place: int, cell: int) -> slice:
    """The pixels of a row or column of cells and of its neighbours."""
    return slice(max(0, place - 1) * cell, (place + 2) * cell)
