"""
A labelled folder -> its training and validation images.

    FOLDER/CLASS/image, or deeper below the class

Classes are numbered in the order of their names.  Which images are held out depends only on their
paths, so a new image moves few others from one side to the other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_export.image_formats import SUFFIXES
from model_training.errors import ImagesUnusable

BETWEEN_WORDS = re.compile(r"[\s_/\\]+")  # what `alexnet evaluate` takes for a space


@dataclass(frozen=True)
class Example:
    """One image: where it is, and the number of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Division:
    """The images for training and for validation; no image is in both."""

    classes: tuple[str, ...]
    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    base: Path  # the folder that the validation images lie in


def divide(folder: Path, *, validation: Path | None, held_out: float) -> Division:
    """Find a folder's classes and images, and set some aside for validation.

    Those are the images of the folder ``validation``, whose classes must be among the others;
    or without one the share ``held_out`` (0-1) of each class, rounded, at least one of two.
    Raises ImagesUnusable.
    """
    by_class = _classes(folder)
    if not by_class:
        raise ImagesUnusable(
            f"{folder} holds no class; put each class's images into a folder of its own, named "
            "as the class: FOLDER/cat/1.jpg"
        )
    if len(by_class) < 2:
        raise ImagesUnusable(
            f"{folder} holds one class only, {next(iter(by_class))}; there is nothing to tell "
            "apart: add a folder with images of something else"
        )
    for name, paths in by_class.items():
        if not paths:
            raise ImagesUnusable(
                f"{folder / name} holds no image ({', '.join(sorted(SUFFIXES))}); add some, or "
                "delete the folder"
            )
    classes = tuple(by_class)
    _judge_names(folder, classes)
    training, aside = [], []
    for label, paths in enumerate(by_class.values()):
        drawn = [] if validation else _held_out(paths, folder, held_out)
        kept = set(drawn)
        aside += [Example(path, label) for path in drawn]
        training += [Example(path, label) for path in paths if path not in kept]
    if validation:
        aside = list(_labelled(validation, classes))
        _keep_apart(training, aside)
    if not aside:
        raise ImagesUnusable(
            "there are no images to validate on; give a folder of them with --validation, or a "
            "share of each class with --held-out 0.2 and at least two images in a class"
        )
    return Division(classes, tuple(training), tuple(aside), validation or folder)


def _judge_names(folder: Path, classes: Sequence[str]) -> None:
    """Refuse names that the service or `alexnet evaluate` would refuse after the training."""
    known: dict[str, str] = {}
    for name in classes:
        plain = BETWEEN_WORDS.sub(" ", name).strip().casefold()
        if not name.isprintable() or not plain:
            raise ImagesUnusable(
                f"the folder {name!a} in {folder} has a name that no class can have, with signs "
                "that are not printable or without any other: rename it"
            )
        if plain in known:
            raise ImagesUnusable(
                f"the classes {known[plain]} and {name} in {folder} are called alike but for "
                "case, _ or spaces: rename one, or put their images into one folder"
            )
        known[plain] = name


def _keep_apart(training: Iterable[Example], aside: Iterable[Example]) -> None:
    learned = {example.path.resolve() for example in training}
    for example in aside:
        if example.path.resolve() in learned:
            raise ImagesUnusable(
                f"{example.path} is among the images to learn from, too, and would be no "
                "validation; give other images with --validation, or leave it away"
            )


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Each class's images, sorted, without hidden files and folders."""
    if not folder.is_dir():
        raise ImagesUnusable(f"there is no folder at {folder}")
    try:
        places = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        return {place.name: sorted(_images(place)) for place in places}
    except OSError as error:
        raise ImagesUnusable(f"{error.filename} cannot be read ({error.strerror})") from error


def _images(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in files:
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield _writable(Path(place, name))


def _writable(path: Path) -> Path:
    """A path that the list of validation images can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ImagesUnusable(f"the name {shown} is not UTF-8: rename the file or folder") from (
            error
        )
    return path


def _labelled(folder: Path, classes: Sequence[str]) -> Iterator[Example]:
    for name, paths in _classes(folder).items():
        if name not in classes:
            raise ImagesUnusable(
                f"{folder / name} is not one of the {len(classes)} classes that are learned; "
                "validation images lie in folders of the same names"
            )
        yield from (Example(path, classes.index(name)) for path in paths)


def _held_out(paths: Sequence[Path], folder: Path, share: float) -> list[Path]:
    """A class's share, drawn by the SHA-256 of each path; one is always left to learn from."""
    count = max(round(share * len(paths)), 1 if share and len(paths) > 1 else 0)
    return sorted(paths, key=lambda path: _draw(path.relative_to(folder)))[
        : min(count, len(paths) - 1)
    ]


def _draw(path: Path) -> bytes:
    return hashlib.sha256(os.fsencode(path.as_posix())).digest()
