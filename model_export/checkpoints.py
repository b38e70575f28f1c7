"""
A checkpoint -> a state dict of float32 tensors under this package's names, or an error that names
the key.

It reads ``.pth``/``.pt`` (plain tensors only: ``weights_only=True``), ``.safetensors`` and
``.onnx``, including what ``alexnet-export`` wrote in any precision.  Without a path it downloads
the variant's published weights into the user's cache, resumes where an earlier attempt stopped, and
verifies their SHA-256.

The metadata of ``.safetensors`` and ``.onnx`` may say how the training images were prepared; that
takes precedence over the variant's row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import onnx
import platformdirs
import safetensors
import safetensors.torch
import torch
from onnx import numpy_helper
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from torch import Tensor, nn

from model_export.alexnet import FULL, AlexNet, Ranks
from model_export.errors import WeightsUnusable
from model_export.variants import Normalisation, Variant, Weights

StateDict = dict[str, Tensor]
# Batch normalisation counts its training steps; no output depends on the count.
COUNTER = ".num_batches_tracked"


def read(path: Path) -> StateDict:
    """Read the tensors of a checkpoint file, under the names that the file gives them."""
    if not path.is_file():
        raise WeightsUnusable(f"there is no weights file at {path}; check --weights")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsUnusable(
            f"{path.name}: {path.suffix or 'no ending'} is not a kind of weights file that is "
            f"read here; convert it to one of {', '.join(sorted(READERS))}"
        )
    return reader(path)


def build(variant: Variant, state: Mapping[str, Tensor], *, source: str) -> AlexNet:
    """The network that ``state`` describes, with its weights in it, in evaluation mode.

    The shapes of the tensors say how many classes and input channels there are, and which ranks
    the fully connected layers have.  Raises WeightsUnusable, which names the keys that do not fit.
    """
    state = {variant.rename(_unwrapped(key)): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not key.endswith(COUNTER)}
    conv1, last_bias = _landmarks(variant)
    classes = _classes(variant, state, last_bias, source)
    network = variant.build(classes, _channels(state, conv1), _ranks(state))
    whole = network.state_dict()
    expected = {key: tensor for key, tensor in whole.items() if not key.endswith(COUNTER)}
    problems = [
        *(f"{key} is missing" for key in expected if key not in state),
        *(f"{key} is not part of {variant.name}" for key in state if key not in expected),
        *(
            f"{key} is {tuple(state[key].shape)} and should be {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state and state[key].shape != tensor.shape
        ),
        *(
            f"{key} holds NaN or infinite values"
            for key in expected
            if key in state and not torch.isfinite(state[key].float()).all()
        ),
    ]
    if problems:
        more = f", and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise WeightsUnusable(
            f"{source} does not fit the variant {variant.name}: {'; '.join(problems[:6])}{more}. "
            "Choose another --variant, or other weights with --weights PATH"
        )
    network.load_state_dict(whole | {key: state[key].float() for key in expected})
    return network.eval()


def prepared(variant: Variant, path: Path) -> Variant:
    """``variant`` with the normalisation that the checkpoint's own network was trained with.

    It is read from the metadata entry ``normalisation``, JSON with the keys ``mean``, ``std`` and
    ``planes``; without it the variant's row applies.  Raises WeightsUnusable if it is malformed.
    """
    written = metadata(path).get("normalisation")
    if written is None:
        return variant
    try:
        entry = json.loads(written)
        mean, std = (tuple(float(value) for value in entry[key]) for key in ("mean", "std"))
        channels = entry["planes"]
        count = {"RGB": 3, "BGR": 3, "L": 1}[channels]
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_normalisation(path) from error
    if len(mean) != count or len(std) != count or min(std) <= 0:
        raise _bad_normalisation(path)
    if not all(math.isfinite(value) for value in (*mean, *std)):
        raise _bad_normalisation(path)
    return replace(variant, normalisation=Normalisation(mean, std, channels))


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint that `read` takes; ``.pth`` and ``.pt`` have none."""
    if path.suffix.lower() == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    if path.suffix.lower() == ".onnx":
        model = onnx.load(path, load_external_data=False)
        return {entry.key: entry.value for entry in model.metadata_props}
    return {}


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


def _read_pth(path: Path) -> StateDict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsUnusable(
            f"{path.name} cannot be read as a PyTorch checkpoint of plain tensors: it is damaged, "
            "or holds more than tensors; save it again with torch.save(model.state_dict(), PATH)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsUnusable(f"{path.name} holds no state dict; save model.state_dict() into it")
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsUnusable(
            f"{path.name}: {others[0]} is not a tensor; save model.state_dict() alone"
        )
    return dict(content)


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsUnusable(
            f"{path.name} is not a whole safetensors file ({error}); fetch or save it again"
        ) from error


def _read_onnx(path: Path) -> StateDict:
    """The weights of an ONNX file by their initialisers' names; 8-bit ones are dequantised."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise WeightsUnusable(
            f"{path.name} is not a whole ONNX file; fetch or export it again"
        ) from error
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    state = {}
    for name, array in arrays.items():
        if name.endswith("_quantized"):
            base = name.removesuffix("_quantized")
            scale = arrays.get(f"{base}_scale", arrays.get(f"{base}_quantized_scale"))
            if scale is None:
                raise WeightsUnusable(f"{path.name}: {name} has no scale; export the file again")
            along = scale.reshape(-1, *[1] * (array.ndim - 1)) if scale.size > 1 else scale
            array, name = array.astype(np.float32) * along, base
        if _is_parameter(name):
            state[name] = torch.from_numpy(np.array(array))
    if not state:
        raise WeightsUnusable(f"{path.name} holds no weights under names that are known here")
    for entry in model.metadata_props:
        if entry.key == "folded":
            _unfold(state, **json.loads(entry.value))
    return state


def _unfold(state: StateDict, layer: str, mean: list[float], std: list[float]) -> None:
    """Undo `int8.quantise` reading pixels: the weights and the bias for normalised views."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    channels = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    by_channel = state[weight].double()  # (out, channels, rows, columns), for pixels
    if bias in state:  # a layer without a bias has one only in the quantised graph
        state[bias] = (state[bias] + torch.einsum("oikl,i->o", by_channel, channels[0])).float()
    state[weight] = (by_channel * channels[1].reshape(-1, 1, 1)).float()


READERS: dict[str, Callable[[Path], StateDict]] = {
    ".pth": _read_pth,
    ".pt": _read_pth,
    ".safetensors": _read_safetensors,
    ".onnx": _read_onnx,
}


def _bad_normalisation(path: Path) -> WeightsUnusable:
    return WeightsUnusable(
        f"{path.name}: its metadata entry normalisation is not JSON with mean, std and planes; "
        "train or export the network again"
    )


def _is_parameter(name: str) -> bool:
    """Whether an initialiser is a weight, and not a scale, a shape or a constant of the graph."""
    of_layers = (".weight", ".bias", ".u", ".v", ".running_mean", ".running_var")
    return name.endswith((*of_layers, "_w_0", "_b_0"))


def _unwrapped(key: str) -> str:
    """``module.features.0.weight`` as DataParallel saves it -> ``features.0.weight``."""
    return key.removeprefix("module.")


def _landmarks(variant: Variant) -> tuple[str, str]:
    """The names of the first convolution's weight, whose shape counts the channels, and of the last
    layer's bias, which counts the classes."""
    with torch.device("meta"):  # shapes without numbers
        network = variant.build(1, 3, FULL)
    layers = network.named_modules()
    conv1 = next(name for name, layer in layers if isinstance(layer, nn.Conv2d))
    return f"{conv1}.weight", f"classifier.{len(network.classifier) - 1}.bias"


def _classes(variant: Variant, state: Mapping[str, Tensor], last_bias: str, source: str) -> int:
    bias = state.get(last_bias)
    if bias is None or bias.ndim != 1:
        raise WeightsUnusable(
            f"{source} does not fit the variant {variant.name}: {last_bias} is missing, "
            f"so its classes cannot be counted; it holds {', '.join(list(state)[:4]) or 'nothing'}"
            "... Choose another --variant, or other weights with --weights PATH"
        )
    return len(bias)


def _channels(state: Mapping[str, Tensor], conv1: str) -> int:
    weight = state.get(conv1)
    return int(weight.shape[1]) if weight is not None and weight.ndim == 4 else 3


def _ranks(state: Mapping[str, Tensor]) -> Ranks:
    """The ranks of fc6, fc7, fc8: ``classifier.N.v`` is (rank, in) where a layer is factored."""
    keys = (k.split(".") for k in state if k.startswith("classifier."))
    places = sorted({int(place) for _, place, *_ in keys if place.isdecimal()})
    factors = [state.get(f"classifier.{place}.v") for place in places]
    ranks = [None if v is None else int(v.shape[0]) for v in factors] + [None] * 3
    return (ranks[0], ranks[1], ranks[2])
