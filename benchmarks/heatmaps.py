"""
Ways to compute heatmaps compared, by deletion and insertion.  Which way of hiding parts
of an image finds the evidence?

    python -m benchmarks.heatmaps FOLDER [--pictures 100] [--crops one] [--model FILE]
    python -m benchmarks.heatmaps FOLDER --cost http://127.0.0.1:8000

For each photograph, and the class that the network finds most probable, each form makes a map of
8 x 8 cells from 64 runs.  Then the cells are removed, those of most evidence first (deletion), or
put back into an image without any (insertion): the mean of the class's probability on the way,
which for a good map is small and large (Petsiuk et al. 2018, section 4.2).  Removed is what is
grey, and what is blurred; the figure is the mean of the two, so that it does not favour the form
that hides in the same way.  "apart" is insertion - deletion, and "behind" how much less that is
than of what is served, photograph by photograph, with the 95% interval of the mean; all of these in
points.

"stray" is the share of the map, in percent, that lies where nothing is: beside a photograph that
is pasted, at half its size, into one quarter of a plain square.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_client import Client
from service.inference import occlusion
from service.inference.engine import Engine
from service.inference.image import open_image
from service.inference.limits import DecodeLimits
from service.settings import BUNDLED

Square = NDArray[np.uint8]  # (256, 256, 3)
Floats = NDArray[np.float32]
Fill = Callable[[Square], Floats]  # what a hidden part shows, (256, 256, 3) or (3,)

SIDE: Final = 256  # pixels
CELLS: Final = 8
CELL: Final = SIDE // CELLS
MASKS: Final = CELLS * CELLS  # as many runs for each form
STEP: Final = 8  # cells removed at a time
BATCH: Final = 16
GREY: Final = np.array([124, 116, 104], np.float32)  # ImageNet's mean, which the network subtracts


@dataclass(frozen=True)
class Form:
    """One way to hide: `masks` float32 `(64, 256, 256)`, 1 where an image is hidden."""

    name: str
    masks: Floats
    fill: Fill


def grey(_: Square) -> Floats:
    """The same for all."""
    return GREY


def mean(square: Square) -> Floats:
    """The image's own."""
    own: Floats = square.mean((0, 1), dtype=np.float32)
    return own


def blurred(square: Square) -> Floats:
    """The image without anything smaller than a window."""
    return occlusion.blurred(square).astype(np.float32)


def windows(side: int) -> Floats:
    """64 windows of `side` pixels at even distances, from border to border."""
    masks = np.zeros((MASKS, SIDE, SIDE), np.float32)
    corners = np.rint(np.linspace(0, SIDE - side, CELLS)).astype(int)
    for mask, (top, left) in zip(masks, [(y, x) for y in corners for x in corners], strict=True):
        mask[top : top + side, left : left + side] = 1
    return masks


def centred(side: int) -> Floats:
    """64 windows of `side` pixels around the middles of the cells, cut at the borders."""
    masks = np.zeros((MASKS, SIDE, SIDE), np.float32)
    middles = np.arange(CELLS) * CELL + CELL // 2
    for mask, (y, x) in zip(masks, [(y, x) for y in middles for x in middles], strict=True):
        mask[max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2] = 1
    return masks


def random_masks(cells: int) -> Floats:
    """RISE's: a coarse random grid, half of it hidden, enlarged smoothly and shifted."""
    chance = np.random.default_rng(0)
    pixels = -(-SIDE // cells)
    masks = []
    for _ in range(MASKS):
        grid = Image.fromarray((chance.random((cells + 1, cells + 1)) < 0.5).astype(np.float32))
        size = (cells + 1) * pixels
        large = np.asarray(grid.resize((size, size), Image.Resampling.BILINEAR))
        y, x = chance.integers(0, pixels, 2)
        masks.append(large[y : y + SIDE, x : x + SIDE])
    return np.stack(masks)


def forms() -> Iterator[Form]:
    """All that are compared."""
    fills: dict[str, Fill] = {"grey": grey, "mean": mean, "blurred": blurred}
    for name, fill in fills.items():
        yield Form(f"windows of 64, {name}", windows(64), fill)
    for side in (64, 96):
        for name, fill in fills.items():
            yield Form(f"windows of {side} around the cells, {name}", centred(side), fill)
    for cells in (4, 7):
        yield Form(f"RISE, grid of {cells}, grey", random_masks(cells), grey)


def shares(masks: Floats) -> Floats:
    """`(64, 8, 8)`: how much of each cell each mask hides."""
    hidden: Floats = masks.reshape(len(masks), CELLS, CELL, CELLS, CELL).mean((2, 4))
    return hidden


def mixed(square: Square, masks: Floats, fill: Floats) -> Square:
    """`(N, 256, 256, 3)`: the image where a mask is 0, the fill where it is 1."""
    hidden = masks[..., np.newaxis]
    if np.isin(masks, (0, 1)).all():
        return np.where(hidden > 0, np.rint(fill).astype(np.uint8), square)
    return np.rint(square * (1 - hidden) + fill * hidden).astype(np.uint8)


class Network:
    """One model, one choice of crops."""

    def __init__(self, path: Path, crops: str) -> None:
        self._engine = Engine.load(path, device="cpu")
        self._crops = self._engine.model.crops[crops]

    def __call__(self, squares: Square) -> Floats:
        """`(N, 256, 256, 3)` to `(N, classes)`."""
        parts = [squares[i : i + BATCH] for i in range(0, len(squares), BATCH)]
        return np.concatenate([self._engine.run(part, self._crops) for part in parts])


def curves(network: Network, square: Square, index: int, values: Floats) -> tuple[float, float]:
    """Deletion and insertion, 0-1, of a map `(8, 8)`: means of trapezia."""
    order = np.argsort(-values.ravel(), kind="stable")
    removed = np.zeros((MASKS // STEP + 1, MASKS), np.float32)
    for number, row in enumerate(removed):
        row[order[: number * STEP]] = 1
    masks = removed.reshape(-1, CELLS, CELLS).repeat(CELL, 1).repeat(CELL, 2)
    areas = []
    for way in (masks, 1 - masks):
        probabilities = np.mean(
            [network(mixed(square, way, fill(square)))[:, index] for fill in (grey, blurred)], 0
        )
        areas.append(float((probabilities[:-1] + probabilities[1:]).mean() / 2))
    return areas[0], areas[1]


def maps(network: Network, square: Square, compared: list[Form]) -> tuple[int, list[Floats]]:
    """The best class, and its maps: of each form, a random one, and what is served."""
    whole = network(square[np.newaxis])[0]
    index = int(whole.argmax())
    maps = []
    for form in compared:
        answers = network(mixed(square, form.masks, form.fill(square)))[:, index]
        weights = shares(form.masks)
        maps.append(np.tensordot(whole[index] - answers, weights, 1) / weights.sum(0))
    maps.append(np.random.default_rng(index).random((CELLS, CELLS), np.float32))
    hidden = network(np.stack(occlusion.hide(square)))
    maps.append(occlusion.evidence(whole[[index]], hidden[:, [index]])[..., 0])
    return index, maps


def measured(
    network: Network, square: Square, compared: list[Form], chance: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Deletion, insertion and stray, of each of the `maps`, 0-1."""
    pasted = np.tile(chance.integers(0, 256, 3, np.uint8), (SIDE, SIDE, 1))
    row, column = chance.integers(0, 2, 2) * (SIDE // 2)
    half = square.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3))
    pasted[row : row + SIDE // 2, column : column + SIDE // 2] = np.rint(half)
    index, whole_maps = maps(network, square, compared)
    rows = []
    for values, beside in zip(whole_maps, maps(network, pasted, compared)[1], strict=True):
        size = np.abs(beside)
        y, x = row // CELL, column // CELL
        inside = size[y : y + CELLS // 2, x : x + CELLS // 2].sum()
        rows.append((*curves(network, square, index, values), float(1 - inside / size.sum())))
    return rows


def cost(url: str, files: list[Path], crops: str) -> None:
    """Print what a request takes with each of the details, all in turns, one at a time."""
    choices = ("", "views", "heatmap")
    rows = []
    with Client(url) as client:
        for file in files[:1] + files:
            row = []
            for details in choices:
                began = time.perf_counter()
                client.classify(file, crops=crops, details=[details] if details else [])
                row.append(1e3 * (time.perf_counter() - began))
            rows.append(row)
    taken = np.array(rows[1:])  # the first is to warm up
    print("| details | ms, median | against none, median |\n|---|---:|---:|")
    for name, ms, ratio in zip(
        choices, np.median(taken, 0), np.median(taken / taken[:, :1], 0), strict=True
    ):
        print(f"| {name or 'none'} | {ms:.1f} | {ratio:.2f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="JPEGs, at any depth")
    parser.add_argument("--pictures", dest="images", type=int, default=100)
    parser.add_argument("--crops", default="one")
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument(
        "--only", default="", help="forms with this in their names, and what is served"
    )
    parser.add_argument("--cost", metavar="URL", help="instead, how long a server takes")
    arguments = parser.parse_args()
    files = sorted([*arguments.folder.rglob("*.jpg"), *arguments.folder.rglob("*.JPEG")])
    files = files[:: max(1, len(files) // arguments.images)][: arguments.images]
    if not files:
        raise SystemExit(f"{arguments.folder} holds no JPEGs; name a folder of photographs")
    if arguments.cost:
        cost(arguments.cost, files, arguments.crops)
        return
    network = Network(arguments.model, arguments.crops)
    compared = [form for form in forms() if arguments.only in form.name]
    names = [*(form.name for form in compared), "a random order", "as it is served"]
    rows: list[list[tuple[float, float, float]]] = []
    for number, file in enumerate(files, start=1):
        image = open_image(
            file.read_bytes(), DecodeLimits(max_pixels=50_000_000, max_aspect_ratio=32)
        )
        chance = np.random.default_rng(number)
        rows.append(measured(network, image.decode(), compared, chance))
        print(f"\r{number} of {len(files)}", end="", file=sys.stderr, flush=True)
    print(f"\n{len(files)} photographs, crops={arguments.crops}, {arguments.model.name}\n")
    print(
        "| form | deletion | insertion | apart | behind | stray |\n|---|---:|---:|---:|---:|---:|"
    )
    figures = 100 * np.array(rows)  # (photographs, forms, 3)
    apart = figures[..., 1] - figures[..., 0]
    behind = apart[:, -1:] - apart
    within = 1.96 * behind.std(0, ddof=1) / len(rows) ** 0.5
    for place, name in enumerate(names):
        deletion, insertion, stray = figures[:, place].mean(0)
        print(
            f"| {name} | {deletion:.1f} | {insertion:.1f} | {apart[:, place].mean():.1f} "
            f"| {behind[:, place].mean():.1f} ± {within[place]:.1f} | {stray:.0f} |"
        )


if __name__ == "__main__":
    main()
