"""
A network with its weights -> the model file.  One ONNX file holds everything between a 256 x 256
image and its classes, and the record of where it came from.

The file ends in a checksum of everything before it.  Protobuf merges messages that are written one
after the other, so the last metadata entry can be appended to the finished bytes.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxscript.optimizer
import torch
from onnx import ModelProto, helper

from model_export import precision as precisions
from model_export.alexnet import AlexNet
from model_export.crops import Pixels, ten_crops, to_channels
from model_export.errors import LabelsUnusable
from model_export.graph import CROPS, IMAGE_SIZE, IR_VERSION, OPSET, serving_graph, views_of
from model_export.layer_blocks import fold_padding
from model_export.variants import Normalisation, Variant, greyscale

FORMAT = "1"  # version of the contract with the service; see docs/model-file.md
THUMB = 32  # pixels a side of the image that the start-up check classifies
T = TypeVar("T")
Label = tuple[str | None, str]  # WordNet id where there is one, name


@dataclass(frozen=True)
class Record:
    """What is known about the weights; goes into the file's metadata as it is."""

    name: str
    weights: Mapping[str, object]  # name, sha256, licence, ...
    accuracy: Sequence[Mapping[str, object]]  # one entry per measurement: data, crops, top1, ...


def build_model(
    network: AlexNet,
    variant: Variant,
    *,
    precision: str,
    calibration: Pixels,
    crops: str | None = None,
) -> ModelProto:
    """The serving graph of a network, in one of ``PRECISIONS``, with all choices of crops or one of
    them; of the metadata only ``crops``."""
    preparation = normalisation_of(network, variant)
    views = to_channels(ten_crops(calibration, variant.crop_size), preparation)
    converted = precisions.PRECISIONS[precision].convert(
        to_onnx(network, variant.crop_size), views.reshape(-1, *views.shape[2:]), preparation
    )
    return serving_graph(
        converted, crop_size=variant.crop_size, normalisation=preparation, crops=crops
    )


def normalisation_of(network: AlexNet, variant: Variant) -> Normalisation:
    """The variant's preparation, or its greyscale form where conv1 sees one channel."""
    grey = network.channels == 1
    return greyscale(variant.normalisation) if grey else variant.normalisation


def to_onnx(network: AlexNet, crop_size: int) -> ModelProto:
    """``views`` (N, channels, size, size) -> ``logits``, with PyTorch's names on the weights.

    Constants are folded.  torch's other rewriting does not run: it drops biases of zero, and an
    exported model must remain a complete checkpoint.
    """
    views = torch.zeros(2, network.channels, crop_size, crop_size)
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (views,),
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=OPSET,
            input_names=["views"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("M", min=1)},),
        )
    assert program is not None
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    model.ir_version = IR_VERSION
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]  # stack traces and paths of the exporting machine
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
    fold_padding(model)
    return model


def describe(
    model: ModelProto,
    *,
    variant: Variant,
    precision: str,
    labels: Sequence[Label],
    record: Record,
    image: Pixels,
) -> None:
    """Write the metadata of the contract into ``model``.

    ``image``, uint8 (256, 256, 3), becomes the start-up check: its thumbnail, and the
    answer of this model to it.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props} | {
        "format": FORMAT,
        "name": record.name,
        "variant": variant.name,
        "precision": precision,
        "normalisation": variant.normalisation.to_json(),
        "views": json.dumps(views_of(variant.crop_size)),
        "labels": json.dumps(labels, ensure_ascii=False),
        "weights": json.dumps(record.weights, ensure_ascii=False),
        "accuracy": json.dumps(record.accuracy, ensure_ascii=False),
        "exporter": json.dumps(_exporter()),
        "golden": json.dumps(_golden(model, image, precision)),
    }
    helper.set_model_props(model, entries)
    model.producer_name, model.producer_version = "alexnet-export", _version("alexnet-service")


def write(model: ModelProto, path: Path, check: Callable[[Path], T]) -> T:
    """Write the file and its checksum, and return what ``check`` says of the written file.

    Only then does it get its name: nobody reads a partial or unchecked file, and when ``check``
    raises, a file that was at ``path`` before is still there.
    """
    body = model.SerializeToString()
    seal = ModelProto()
    helper.set_model_props(seal, {"checksum": hashlib.sha256(body).hexdigest()})
    path.parent.mkdir(exist_ok=True)  # its folder, and none above: -o may be mistyped
    handle, half = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body + seal.SerializeToString())
        os.chmod(half, 0o644)
        verdict = check(Path(half))
        os.replace(half, path)
        return verdict
    except BaseException:
        Path(half).unlink(missing_ok=True)
        raise


def imagenet_labels() -> list[Label]:
    """The 1000 classes of ILSVRC-2012 in the order of their WordNet ids."""
    return _read_csv(Path(__file__).with_name("imagenet_classes.csv").read_text("utf-8"))


def read_labels(path: Path, classes: int) -> list[Label]:
    """A labels file: a name per line, or CSV with the columns ``wordnet_id,name``."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsUnusable(f"{path} cannot be read as UTF-8 text ({error}); see --labels") from (
            error
        )
    first = text.partition("\n")[0].strip()
    if first == "wordnet_id,name":
        labels = _read_csv(text)
    else:
        labels = [(None, line.strip()) for line in text.splitlines() if line.strip()]
    if len(labels) != classes:
        raise LabelsUnusable(
            f"{path.name} names {len(labels)} classes and the network has {classes}; "
            "give one name per class, in the order of the network's outputs"
        )
    return labels


def _read_csv(text: str) -> list[Label]:
    rows = csv.DictReader(io.StringIO(text))
    return [(row["wordnet_id"] or None, row["name"]) for row in rows]


def _golden(model: ModelProto, image: Pixels, precision: str) -> dict[str, object]:
    step = IMAGE_SIZE // THUMB
    thumb = np.ascontiguousarray(image[step // 2 :: step, step // 2 :: step])
    whole = thumb.repeat(step, axis=0).repeat(step, axis=1)[None]
    probabilities = precisions.Runner(model).run(whole, CROPS["ten"])[0][0]
    best = np.argsort(-probabilities, kind="stable")[:5]
    return {
        "pixels": base64.b64encode(thumb.tobytes()).decode("ascii"),
        "classes": [{"index": int(i), "probability": float(probabilities[i])} for i in best],
        "tolerance": precisions.PRECISIONS[precision].golden_tolerance,
    }


def _exporter() -> dict[str, str]:
    packages = ("alexnet-service", "torch", "onnx", "onnxscript", "onnxruntime")
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of its own deprecations and of a torchvision that is not needed."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        registration.setLevel(level)
