"""
Warns of a network that recognises no images, and of a wrong preparation.

A wrong preparation of the images costs a network 10 to 30 points and breaks
nothing else, so its answers are looked at: on labelled images of the user's, in other preparations
too; without labels, whether they differ from image to image at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_export import verify
from model_export.alexnet import AlexNet
from model_export.crops import Floats, Pixels, read_images
from model_export.errors import ExportError
from model_export.image_formats import SUFFIXES
from model_export.variants import VARIANTS, Normalisation

Labels = Sequence[tuple[str | None, str]]  # WordNet id where there is one, name
LIMIT: Final = 200  # labelled images that are looked at; each preparation costs a second for ten
# Standard deviations by which another preparation must be better before it is named.
CLEARLY: Final = 3.0
# Mean distance, half the sum over classes of |p - q|, of the answers to photographs from their own
# mean.  The bundled network's is 0.91; that of random weights, of seeded owt, caffe and d2l, at
# most 0.007.
SPREAD: Final = 0.05
_UNIT: Final = Normalisation((0.0,) * 3, (255.0,) * 3)
# By the options that ask for them.
OTHERS: Final[Mapping[str, Normalisation]] = {
    "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --channels rgb": VARIANTS[
        "owt"
    ].normalisation,
    "--range 0-1 --channels rgb": _UNIT,
    "--range -1-1 --channels rgb": Normalisation((127.5,) * 3, (127.5,) * 3),
    "--mean 123.68,116.779,103.939 --std 1 --channels rgb": VARIANTS["paper"].normalisation,
    "--mean 104.007,116.669,122.679 --std 1 --channels bgr": VARIANTS["caffe"].normalisation,
    "--mean 0.406,0.456,0.485 --std 0.225,0.224,0.229 --channels bgr": Normalisation(
        VARIANTS["owt"].normalisation.mean[::-1], VARIANTS["owt"].normalisation.std[::-1], "BGR"
    ),
}


@dataclass(frozen=True)
class Labelled:
    """Images whose classes are known."""

    images: Pixels
    classes: NDArray[np.int64]  # (N,), indices of the labels


def read_labelled(folder: Path, labels: Labels) -> Labelled:
    """``FOLDER/CLASS/image``; a class by its name or its WordNet id, however it is written."""
    known = {_plain(word): n for n, pair in enumerate(labels) for word in pair if word}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    pairs = [
        (file, known.get(_plain(place.name)))
        for place in inside
        if place.is_dir()
        for file in sorted(place.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    strange = next((file.parent.name for file, index in pairs if index is None), None)
    if strange is not None:
        raise ExportError(
            f"--check {folder}: the folder {strange} is not named as one of the labels, such as "
            f"{labels[0][1]}; name the folders as the classes, or give --labels"
        )
    if not pairs:
        raise ExportError(f"--check {folder} holds no images in folders named as their classes")
    chosen = pairs[:: -(-len(pairs) // LIMIT)]
    return Labelled(
        read_images([file for file, _ in chosen]),
        np.array([index for _, index in chosen], np.int64),
    )


def _plain(word: str) -> str:
    return word.casefold().replace("_", " ").strip()


def looked_at(
    network: AlexNet, crop_size: int, normalisation: Normalisation, labelled: Labelled
) -> list[str]:
    """What to print: how many labelled images get their own label, and a warning where they are
    far fewer than in another preparation, or no more than by chance."""
    right = _right(network, crop_size, normalisation, labelled)
    count = len(right)
    lines = [f"check: {right.mean():.1%} of {count} labelled images get their own label"]
    others = {
        option: _right(network, crop_size, other, labelled)
        for option, other in OTHERS.items()
        if network.channels == 3 and other != normalisation
    }
    best = max(others, key=lambda option: others[option].mean(), default=None)
    if best is not None and _clearly_more(others[best], right):
        lines.append(
            f"warning: with {best} it would be {others[best].mean():.1%}; if the network was "
            "trained on such images, export it so"
        )
    elif right.mean() < 2 / network.classes or not right.any():
        lines.append(
            "warning: that is no more than guessing: the labels may be in another order, or the "
            "images prepared otherwise than for its training; see --labels, --mean, --channels"
        )
    return lines


def _right(
    network: AlexNet, crop_size: int, normalisation: Normalisation, labelled: Labelled
) -> NDArray[np.bool_]:
    answers = _answers(network, crop_size, normalisation, labelled.images)
    right: NDArray[np.bool_] = answers.argmax(1) == labelled.classes
    return right


def _clearly_more(other: NDArray[np.bool_], own: NDArray[np.bool_]) -> bool:
    """By more than chance explains, on the same images: McNemar's test."""
    gained, lost = (other & ~own).sum(), (own & ~other).sum()
    return bool(gained - lost > CLEARLY * np.sqrt(gained + lost))


def _answers(
    network: AlexNet, crop_size: int, normalisation: Normalisation, images: Pixels
) -> Floats:
    """The centre crop's probabilities, (N, classes)."""
    return verify.reference(
        network, images, crop_size=crop_size, normalisation=normalisation, crops="one"
    )[:, 0]


def blind(
    network: AlexNet, crop_size: int, normalisation: Normalisation, images: Pixels
) -> str | None:
    """A warning where a network tells nothing of photographs: nearly the same answer to all."""
    answers = _answers(network, crop_size, normalisation, images)
    spread = float(np.abs(answers - answers.mean(0)).sum(1).mean() / 2)
    if spread >= SPREAD:
        return None
    confidence, kinds = float(answers.max(1).mean()), len(set(answers.argmax(1).tolist()))
    return (
        f"warning: the network looks blind: it answers {kinds} classes for {len(images)} images, "
        f"with a mean confidence of {confidence:.1%}, and nearly alike for all; if its training "
        "images were prepared otherwise, say how with --mean, --std, --channels and --range"
    )
