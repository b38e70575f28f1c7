"""
What trunk and teacher say of every set's crops, kept on disk: a file for each part of a set.

A part is written under another name and renamed when it is whole; a harvest that was stopped goes
on with the parts that are not there.  Each picture has a random generator of its own, seeded by its
content, so that the same crops come out in whatever order and by however many workers.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_training.distillation import networks
from model_training.distillation.crops import random_crop
from model_training.distillation.duplicates import thumbnails
from model_training.distillation.pictures import Entry, clone, contents, decode, entries
from model_training.distillation.sets import PictureSet

PART = 2500  # pictures
BATCH = 16  # crops


@dataclass(frozen=True)
class Part:
    """Some of a set's pictures, and where what is said of their crops will be."""

    pictures: PictureSet
    repository: Path
    entries: tuple[Entry, ...]
    seed: int
    path: Path


@dataclass(frozen=True)
class Harvest:
    """One part's arrays."""

    features: NDArray[np.uint8]  # (crops, 9216)
    logits: NDArray[np.float16]  # (crops, 1000)
    owner: NDArray[np.int32]  # (crops,): the row in the next three
    paths: NDArray[np.str_]  # (pictures,)
    blobs: NDArray[np.str_]  # (pictures,)
    thumbnails: NDArray[np.uint8]  # (pictures, 2, 256): see duplicates.py

    @classmethod
    def load(cls, path: Path) -> Harvest:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})

    def save(self, path: Path) -> None:
        """Write the arrays, whole or not at all."""
        half = path.with_suffix(".part.npz")
        np.savez(half, **vars(self))
        os.replace(half, path)


def parts(
    sets: Sequence[PictureSet], clones: Path, folder: Path, *, seed: int = 0
) -> Iterator[Part]:
    """All parts of all sets, in the manifest's order; repositories are fetched on the way."""
    for pictures in sets:
        repository = clone(pictures, clones)
        found = entries(pictures, repository)
        for start in range(0, len(found), PART):
            name = f"{pictures.name}-{identity(pictures, seed)}-{start // PART:03}.npz"
            some = tuple(found[start : start + PART])
            yield Part(pictures, repository, some, seed, folder / name)


def identity(pictures: PictureSet, seed: int) -> str:
    """What the crops of a set follow from, in 8 hexadecimal digits: with another commit, other
    paths or other crops its parts have other names."""
    told = (pictures.commit, pictures.paths, pictures.crops, pictures.smallest, seed, PART)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:8]


def harvest(wanted: Sequence[Part], folder: Path, workers: int) -> Iterator[Part]:
    """Work on the parts that are not there yet; gives each when it is."""
    missing = [part for part in wanted if not part.path.is_file()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            jobs = {pool.submit(reap, part, folder): part for part in missing}
            for job in as_completed(jobs):
                job.result()
                yield jobs[job]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def reap(part: Part, folder: Path) -> None:
    """One part, from pictures to the file; ``folder`` has the networks."""
    runs = networks.Networks(folder)
    read: list[Entry] = []
    owner: list[int] = []
    crops: list[NDArray[np.uint8]] = []
    thumbs: list[NDArray[np.uint8]] = []
    features: list[NDArray[np.uint8]] = []
    logits: list[NDArray[np.float16]] = []

    def flush() -> None:
        batch = np.stack(crops)
        features.append(runs.features(batch))
        logits.append(runs.logits(batch))
        crops.clear()

    for entry, data in contents(part.repository, list(part.entries)):
        picture = decode(data) if data is not None else None
        if picture is None:
            continue
        for crop in crops_of(picture, part, entry):
            crops.append(crop)
            owner.append(len(read))
            if len(crops) == BATCH:
                flush()
        read.append(entry)
        thumbs.append(thumbnails(picture))
    if crops:
        flush()
    Harvest(
        features=np.concatenate([np.empty((0, networks.MAPS), np.uint8), *features]),
        logits=np.concatenate([np.empty((0, networks.CLASSES), np.float16), *logits]),
        owner=np.array(owner, np.int32),
        paths=np.array([entry.path for entry in read], np.str_),
        blobs=np.array([entry.blob for entry in read], np.str_),
        thumbnails=np.array(thumbs, np.uint8).reshape(-1, 2, 256),
    ).save(part.path)


def crops_of(picture: Image.Image, part: Part, entry: Entry) -> Iterator[NDArray[np.uint8]]:
    """A picture's crops, always the same for one seed."""
    rng = np.random.default_rng([part.seed, int(entry.blob[:15], 16)])
    whole = int(part.pictures.crops)
    for _ in range(whole + (rng.random() < part.pictures.crops - whole)):
        yield random_crop(picture, part.pictures.smallest, rng)
