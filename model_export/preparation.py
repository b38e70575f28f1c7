"""
Mean, deviation and channels of the training images: where they are written.

The first of these that says so: the command line; a checkpoint of this package, in its metadata; a
checkpoint's own settings (timm's ``pretrained_cfg``, a script's arguments); a
``preprocessor_config.json`` or ``config.json`` beside it; the variant's row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_export.errors import ExportError, WeightsUnusable
from model_export.variants import (
    CHANNELS,
    RANGES,
    Channels,
    Given,
    Normalisation,
    Variant,
    greyscale,
)
from model_export.weight_files import WeightFile

BESIDE: Final = ("preprocessor_config.json", "config.json")


@dataclass(frozen=True)
class Preparation:
    """A normalisation, and who says so."""

    normalisation: Normalisation
    source: str


def find(
    variant: Variant, path: Path, file: WeightFile, *, channels: int, given: Given | None = None
) -> Preparation:
    """The preparation for a network of so many input channels; raises ExportError where what is
    written does not fit it."""
    found = _written(path, file) or Preparation(variant.normalisation, f"the row of {variant.name}")
    if given:
        found = Preparation(_changed(found.normalisation, given), "the command line")
    normalisation = found.normalisation
    if channels == 1:
        return Preparation(greyscale(normalisation), found.source)
    if normalisation.channels == "L":
        raise ExportError(
            f"{found.source} says that images are grey, with one channel, and the first "
            "convolution sees three; give --channels rgb or bgr"
        )
    return found


def _written(path: Path, file: WeightFile) -> Preparation | None:
    """What the file, or one beside it, says."""
    if "normalisation" in file.metadata:
        return Preparation(_own(path, file.metadata["normalisation"]), f"{path.name}'s metadata")
    for name, settings in (("", file.settings), *_beside(path)):
        for mean, std, where in _pairs(settings):
            normalisation = _from_settings(mean, std, settings)
            if normalisation is not None:
                return Preparation(normalisation, name or f"{where} of {path.name}")
    return None


def _own(path: Path, written: str) -> Normalisation:
    """The metadata entry ``normalisation``: JSON with the keys ``mean``, ``std``, ``planes``."""
    try:
        entry = json.loads(written)
        mean, std = (tuple(float(value) for value in entry[key]) for key in ("mean", "std"))
        channels = entry["planes"]
        count = {"RGB": 3, "BGR": 3, "L": 1}[channels]
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(path) from error
    if (len(mean), len(std)) != (count, count) or not _usable(mean, std):
        raise _malformed(path)
    return Normalisation(mean, std, channels)


def _malformed(path: Path) -> WeightsUnusable:
    return WeightsUnusable(
        f"{path.name}: its metadata entry normalisation is not JSON with mean, std and planes; "
        "train or export the network again"
    )


def _usable(mean: Sequence[float], std: Sequence[float]) -> bool:
    return min(std) > 0 and all(math.isfinite(value) for value in (*mean, *std))


# ---- other people's settings


def _beside(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The settings in files beside a checkpoint, by their dotted names."""
    for name in BESIDE:
        file = path.with_name(name)
        try:
            content = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        yield name, dict(_flat(content))


def _flat(content: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, content


def _pairs(
    settings: Mapping[str, object],
) -> Iterator[tuple[tuple[float, ...], tuple[float, ...], str]]:
    """Every mean with a deviation beside it, and the container that they stand in."""
    for key, value in settings.items():
        outer, dot, name = key.rpartition(".")
        if name in ("mean", "image_mean"):
            std = settings.get(f"{outer}{dot}{name.replace('mean', 'std')}")
            values = _values(value), _values(std)
            if values[0] and values[1] and len(values[0]) == len(values[1]) in (1, 3):
                yield values[0], values[1], outer or "mean and std"


def _values(value: object) -> tuple[float, ...]:
    """The numbers of a setting; none if it is something else."""
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return tuple(numbers) if len(numbers) == len(values) else ()


def _from_settings(
    mean: tuple[float, ...], std: tuple[float, ...], settings: Mapping[str, object]
) -> Normalisation | None:
    if not _usable(mean, std):
        return None
    if settings.get("do_normalize") is False:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    scale = 1 / _scale(settings, mean, std)
    order: Channels = "BGR" if settings.get("do_flip_channel_order") is True else "RGB"
    return Normalisation(
        tuple(scale * value for value in mean),
        tuple(scale * value for value in std),
        "L" if len(mean) == 1 else order,
    )


def _scale(settings: Mapping[str, object], mean: Sequence[float], std: Sequence[float]) -> float:
    """What pixels are multiplied by first: transformers say so, others show it by their figures."""
    if settings.get("do_rescale") is False:
        return 1.0
    factor = settings.get("rescale_factor")
    if isinstance(factor, float) and factor > 0:
        return factor
    return 1 / RANGES[_likely_range(mean, std)][1]


def _likely_range(mean: Sequence[float], std: Sequence[float]) -> str:
    return "0-255" if any(abs(value) > 1 for value in (*mean, *std)) else "0-1"


# ---- the command line


def _changed(base: Normalisation, given: Given) -> Normalisation:
    """What is written, with what the command line says in its place."""
    order = CHANNELS[given.channels] if given.channels else base.channels
    if (
        order == "L"
        and given.channels is None
        and 3 in (len(given.mean or ()), len(given.std or ()))
    ):
        order = "RGB"
    count = 1 if order == "L" else 3
    mean, std = _reordered(base, order)
    if given.mean is None and given.std is None:
        if given.range is not None:
            mean, std = _in_range(given.range, (0.0,) * count, (1.0,) * count)
    else:
        stated_mean = _repeated(given.mean, count) or (0.0,)
        stated_std = _repeated(given.std, count) or (1.0,)
        stated = _in_range(given.range or _guessed(given), stated_mean, stated_std)
        mean = mean if given.mean is None else stated[0]
        std = std if given.std is None else stated[1]
    if not _usable(mean, std):
        raise ExportError("--mean and --std must be finite numbers, and deviations above 0")
    return Normalisation(mean, std, order)


def _guessed(given: Given) -> str:
    """The range that the figures are of, where nothing says so; 0 and 1 are of either."""
    mean, std = given.mean or (), given.std or ()
    if mean and std and set(mean) == {0.0} and set(std) == {1.0}:
        raise ExportError(
            "a mean of 0 and a deviation of 1 may be of pixels of 0-1 or of 0-255; say which with "
            "--range"
        )
    return _likely_range(mean, std)


def _reordered(base: Normalisation, order: Channels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The figures of a normalisation for other channels."""
    if order == base.channels:
        return base.mean, base.std
    if order == "L":
        grey = greyscale(base)
        return grey.mean, grey.std
    if base.channels == "L":
        return base.mean * 3, base.std * 3
    return base.mean[::-1], base.std[::-1]


def _repeated(values: tuple[float, ...] | None, count: int) -> tuple[float, ...] | None:
    if values is None or len(values) == count:
        return values
    if len(values) == 1:
        return values * count
    raise ExportError(
        f"--mean and --std take {count} figures for these channels, separated by commas, and not "
        f"{len(values)}"
    )


def _in_range(
    name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Figures of pixels in a range -> the same of pixels of 0-255."""
    offset, scale = RANGES[name]
    return tuple(offset + scale * value for value in mean), tuple(scale * value for value in std)
