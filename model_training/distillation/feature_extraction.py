"""
The trunk's features and the teacher's logits, on disk.  Every crop has its own, in a file for each
part of a set.

A part is written under another name and renamed when it is complete; an extraction that was
stopped computes only the parts that are missing.  Each image has its own random generator,
seeded by its content, so the crops do not depend on the order or the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_training.distillation import networks
from model_training.distillation.crops import random_crop
from model_training.distillation.duplicates import thumbnails
from model_training.distillation.image_reader import Entry, clone, contents, decode, entries
from model_training.distillation.sources import ImageSet
from model_training.distillation.student import CLASSES, FEATURES
from model_training.errors import TrainingError

PART = 2500  # images
PIXELS = 1  # increase it when decode() or random_crop() make other pixels
BATCH = 16  # crops
FEATURES_FOLDER = "harvest"  # in the work folder


@dataclass(frozen=True)
class Part:
    """Some of a set's images, and the file of their features and logits."""

    images: ImageSet
    repository: Path
    entries: tuple[Entry, ...]
    seed: int
    path: Path


@dataclass(frozen=True)
class Features:
    """One part's arrays."""

    features: NDArray[np.uint8]  # (crops, 9216)
    logits: NDArray[np.float16]  # (crops, 1000)
    owner: NDArray[np.int32]  # (crops,): the row in the next three
    paths: NDArray[np.str_]  # (images,)
    blobs: NDArray[np.str_]  # (images,)
    thumbnails: NDArray[np.uint8]  # (images, 2, 256): see duplicates.py

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})

    def save(self, path: Path) -> None:
        """Write the arrays, completely or not at all."""
        half = path.with_suffix(".part")
        with half.open("wb") as file:
            np.savez(file, **vars(self))
        os.replace(half, path)


def parts(sets: Sequence[ImageSet], clones: Path, work: Path, *, seed: int = 0) -> Iterator[Part]:
    """All parts of all sets, in the manifest's order; repositories are fetched on the way.

    A part's file is named for all that it follows from: another commit, other crops or other
    networks (in ``work``) have other files.
    """
    identity = networks.identity(work)
    for images in sets:
        repository = clone(images, clones)
        listed = entries(images, repository)
        for start in range(0, len(listed), PART):
            chunk = tuple(listed[start : start + PART])
            settings = [PIXELS, seed, images.crops, images.smallest, identity]
            settings += [entry.blob for entry in chunk]
            digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
            name = f"{images.name}-{start // PART:03}-{digest}.npz"
            yield Part(images, repository, chunk, seed, work / FEATURES_FOLDER / name)


def extract_features(all_parts: Sequence[Part], folder: Path, workers: int) -> Iterator[Part]:
    """Compute the missing parts, and yield each when it is written."""
    missing = [part for part in all_parts if not part.path.is_file()]
    context = multiprocessing.get_context("spawn")
    # Not as a context manager: leaving that would take the cancelling back.  Workers end at once on
    # Ctrl-C; else it would be a part's result.
    pool = ProcessPoolExecutor(
        workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        jobs = {pool.submit(extract_part, part, folder): part for part in missing}
        for job in as_completed(jobs):
            job.result()
            yield jobs[job]
    except BrokenProcessPool as error:
        raise TrainingError(
            "a worker was killed, perhaps for its memory; start again, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def extract_part(part: Part, folder: Path) -> None:
    """Compute one part and write its file; ``folder`` has the networks."""
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

    for entry, data in contents(part.repository, part.entries):
        image = decode(data)
        if image is None:
            continue
        for crop in crops_of(image, part, entry):
            crops.append(crop)
            owner.append(len(read))
            if len(crops) == BATCH:
                flush()
        read.append(entry)
        thumbs.append(thumbnails(image))
    if crops:
        flush()
    Features(
        features=np.concatenate([np.empty((0, FEATURES), np.uint8), *features]),
        logits=np.concatenate([np.empty((0, CLASSES), np.float16), *logits]),
        owner=np.array(owner, np.int32),
        paths=np.array([entry.path for entry in read], np.str_),
        blobs=np.array([entry.blob for entry in read], np.str_),
        thumbnails=np.array(thumbs, np.uint8).reshape(-1, 2, 256),
    ).save(part.path)


def crops_of(image: Image.Image, part: Part, entry: Entry) -> Iterator[NDArray[np.uint8]]:
    """An image's crops, always the same for one seed."""
    rng = np.random.default_rng([part.seed, int(entry.blob[:15], 16)])
    whole = int(part.images.crops)
    for _ in range(whole + (rng.random() < part.images.crops - whole)):
        yield random_crop(image, part.images.smallest, rng)
