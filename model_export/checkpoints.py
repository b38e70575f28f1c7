"""
A checkpoint -> a network with its weights in float32.  An error names the tensor that is at fault.

`weight_files.py` reads the file, `matching.py` finds the variant's parameters in it.  Without a
path the variant's published weights are downloaded into the user's cache; a download resumes where
an earlier attempt stopped, and its SHA-256 is verified.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2
import platformdirs
import torch
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from torch import Tensor

from model_export import weight_files
from model_export.alexnet import AlexNet
from model_export.errors import WeightsUnusable
from model_export.matching import Match, match
from model_export.variants import VARIANTS, Variant, Weights
from model_export.weight_files import StateDict


def read(path: Path) -> StateDict:
    """Read the tensors of a checkpoint file, under the names that the file gives them."""
    return weight_files.load(path).tensors


def build(variant: Variant, state: Mapping[str, Tensor], *, source: str) -> AlexNet:
    """The network that ``state`` describes, with its weights in it, in evaluation mode.

    The shapes of the tensors say how many classes and input channels there are, and which widths
    or ranks the fully connected layers have.  Raises WeightsUnusable, which names the tensors that
    do not fit.
    """
    return read_as(variant, state, source=source)[0]


def read_as(variant: Variant, state: Mapping[str, Tensor], *, source: str) -> tuple[AlexNet, str]:
    """`build`, and in one line how the tensors were read."""
    found = match(variant, state)
    if found.problems:
        raise WeightsUnusable(_no_fit(variant, state, found, source))
    _must_be_numbers(found.tensors, source)
    network = found.build()
    _must_see_images(network, source)
    whole = network.state_dict()
    values = {key: tensor.dequantize().float() for key, tensor in found.tensors.items()}
    network.load_state_dict(whole | values)
    return network.eval(), found.told(variant)


def fetch(weights: Weights, *, folder: Path | None = None) -> Path:
    """The published weights, a verified file in the user's cache; downloaded if not there yet."""
    folder = folder or platformdirs.user_cache_path("alexnet-service")
    path = folder / weights.name
    if path.is_file() and sha256(path).startswith(weights.sha256):
        return path
    part = path.with_name(path.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(weights.url, part)
    except (httpx2.HTTPError, OSError) as error:
        raise WeightsUnusable(
            f"{weights.url} could not be fetched ({error or type(error).__name__}); run again to "
            f"resume, or fetch it elsewhere and give the file with --weights PATH"
        ) from error
    checksum = sha256(part)
    if not checksum.startswith(weights.sha256):
        part.unlink()
        raise WeightsUnusable(
            f"{weights.url} arrived damaged: its SHA-256 is {checksum}, not {weights.sha256}...; "
            "the download was deleted, run again, or give another copy with --weights PATH"
        )
    os.replace(part, path)
    return path


def must_be_published(path: Path) -> None:
    """Raise WeightsUnusable where a file has the name of published weights, but other bytes."""
    rows = [row.weights for row in VARIANTS.values() if row.weights]
    row = next((weights for weights in rows if weights.name == path.name), None)
    if row is not None and path.is_file() and not sha256(path).startswith(row.sha256):
        raise WeightsUnusable(
            f"{path.name} is damaged, or is not the file that was published under this name: its "
            f"SHA-256 does not begin with {row.sha256}; fetch it again, or give your own weights "
            "another name"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, part: Path) -> None:
    """Append what is missing of ``url`` to ``part``; start over if the server cannot resume."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes: ranges count these
    if have:
        headers["Range"] = f"bytes={have}-"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer,
        Progress(*columns, transient=True) as progress,
    ):
        if answer.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
            return  # the part is as long as the file: the checksum decides
        answer.raise_for_status()
        resumed = answer.status_code == httpx2.codes.PARTIAL_CONTENT
        rest = answer.headers.get("Content-Length")
        start = have if resumed else 0
        task = progress.add_task(
            part.stem, completed=start, total=start + int(rest) if rest else None
        )
        with part.open("ab" if resumed else "wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
                progress.advance(task, len(chunk))


def _must_be_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsUnusable at a tensor whose values are no finite real numbers."""
    for key, tensor in tensors.items():
        problem = _unusable(tensor)
        if problem:
            raise WeightsUnusable(f"{source}: {key} {problem}")


def _unusable(tensor: Tensor) -> str:
    """What keeps a tensor from being a weight, and what to do; empty if nothing does."""
    if tensor.is_meta:
        return "is a meta tensor, a shape without values; save the weights once they are loaded"
    if tensor.layout != torch.strided:
        return "is sparse; save its to_dense()"
    if tensor.is_complex():
        return "holds complex values, and weights are real numbers; save its real part"
    if not (tensor.is_floating_point() or tensor.is_quantized):
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"holds {kind} without a scale; save the weights as they are before quantisation"
    if not torch.isfinite(tensor.dequantize().float()).all():
        return "holds NaN or infinite values; save the weights of an earlier epoch"
    return ""


def _must_see_images(network: AlexNet, source: str) -> None:
    """Raise WeightsUnusable where the inputs are no images, or the outputs no classes."""
    if network.channels not in (1, 3):
        raise WeightsUnusable(
            f"{source}: the first convolution sees {network.channels} channels, and images have 3, "
            "or 1 in grey; give weights that were trained on such images"
        )
    if network.classes == 1:
        raise WeightsUnusable(
            f"{source}: the last layer has a single output, as for a sigmoid, and a model file has "
            "an output for each class; put a row of zeros before its weight and its bias, which "
            "makes two of it, no and yes"
        )


def _no_fit(variant: Variant, state: Mapping[str, Tensor], found: Match, source: str) -> str:
    """What does not fit, and which variant fits, or comes nearest."""
    others = {name: match(row, state) for name, row in VARIANTS.items() if name != variant.name}
    sentence = f"{source} does not fit the variant {variant.name}: {_listed(found.problems)}. "
    fitting = [name for name, other in others.items() if not other.problems]
    if fitting:
        return f"{sentence}Choose --variant {' or '.join(fitting)}, which it fits"
    nearest = min(others, key=lambda name: len(others[name].problems), default=variant.name)
    if nearest in others and len(others[nearest].problems) < len(found.problems):
        sentence += f"The nearest variant is {nearest}: {_listed(others[nearest].problems)}. "
    return f"{sentence}Give other weights with --weights PATH, or add a variant for this network"


def _listed(problems: Sequence[str]) -> str:
    more = f", and {len(problems) - 6} more" if len(problems) > 6 else ""
    return "; ".join(problems[:6]) + more
