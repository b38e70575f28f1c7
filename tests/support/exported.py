"""
The exporter makes the files of tests/models.

    python -m tests.support.exported       writes them again

A test in tests/model_export makes them once more and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from model_export import crops, export
from model_export.alexnet import AlexNet
from model_export.export import Record
from model_export.variants import VARIANTS
from service.inference.engine import inspect
from tests.support.models import CAFFE, FAULTY, HANGING, HANGS, MODELS, OWN, RAISES, TINY

OWN_LABELS = [(None, "cats"), (None, "dogs"), (None, "<b>birds</b>")]


def tiny_network(classes: int = 1000) -> AlexNet:
    """A network of two small convolutions that still tells colours and places apart: ten crops
    share the first one."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 16, stride=16),  # (N, 8, 14, 14)
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(7),  # (N, 8, 2, 2)
    )
    linear = nn.Linear(8 * 2 * 2, classes)
    nn.init.normal_(linear.weight, std=1.0)
    return AlexNet(features, nn.Sequential(linear)).eval()


def write_tiny(
    path: Path,
    variant: str = "owt",
    labels: Sequence[tuple[str | None, str]] | None = None,
    accuracy: list[dict[str, Any]] | None = None,
) -> Path:
    """The tiny network as a model file, prepared as a variant is; ImageNet's labels by default."""
    labels = labels or export.imagenet_labels()
    real = crops.load_images(limit=8)
    model = export.build_model(
        tiny_network(len(labels)), VARIANTS[variant], precision="fp32", calibration=real
    )
    export.describe(
        model,
        variant=VARIANTS[variant],
        precision="fp32",
        labels=labels,
        record=Record("tiny", {"name": "random", "licence": "none"}, accuracy or []),
        image=real[0],
    )
    export.write(model, path, check=lambda file: None)
    return path


def write_faulty(tiny: Path, path: Path, hangs: int = HANGS) -> Path:
    """
    The tiny model's file with a few nodes beside it that look at the first value of each image:
    RAISES makes the runtime raise, `hangs` keeps it busy for years.  All other images are answered
    as before; checksum and golden answer are right.
    """
    model = onnx.load(tiny)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["clean" if name == "probabilities" else name for name in node.output]
        node.input[:] = ["clean" if name == "probabilities" else name for name in node.input]
    iteration = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["condition_out"]),
            helper.make_node("Identity", ["value"], ["value_out"]),
        ],
        "spin",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, [1]),
        ],
    )
    constants: dict[str, NDArray[Any]] = {
        "zero": np.zeros(1, np.float32),
        "first": np.zeros(4, np.int64),
        "first_end": np.array([2**31, 1, 1, 1], np.int64),
        "axes": np.arange(4, dtype=np.int64),
        "raises": np.array(RAISES, np.int32),
        "hangs": np.array(hangs, np.int32),
        "years": np.array(10**15, np.int64),
        "true": np.array(True),
    }
    graph.initializer.extend(
        numpy_helper.from_array(value, f"fault_{name}") for name, value in constants.items()
    )
    f = "fault_{}".format
    graph.node.extend(
        [
            helper.make_node(
                "Slice", ["images", f("first"), f("first_end"), f("axes")], [f("bytes")]
            ),
            helper.make_node("Cast", [f("bytes")], [f("marks")], to=TensorProto.INT32),
            helper.make_node("Equal", [f("marks"), f("raises")], [f("is_raise")]),
            helper.make_node("Equal", [f("marks"), f("hangs")], [f("is_hang")]),
            helper.make_node("Cast", [f("is_raise")], [f("index_each")], to=TensorProto.INT64),
            helper.make_node("Cast", [f("is_hang")], [f("hang_each")], to=TensorProto.INT64),
            helper.make_node("ReduceMax", [f("index_each")], [f("index")], keepdims=0),
            helper.make_node("ReduceMax", [f("hang_each")], [f("hang")], keepdims=0),
            # Index 1 of one element is out of bounds.
            helper.make_node("Gather", [f("zero"), f("index")], [f("scalar")], axis=0),
            helper.make_node("Mul", [f("hang"), f("years")], [f("trips")]),
            helper.make_node(
                "Loop", [f("trips"), f("true"), f("zero")], [f("spun")], body=iteration
            ),
            helper.make_node("Add", ["clean", f("scalar")], [f("sum")]),
            helper.make_node("Add", [f("sum"), f("spun")], ["probabilities"]),
        ]
    )
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key != "checksum"}
    del model.metadata_props[:]
    helper.set_model_props(model, entries)
    export.write(model, path, check=lambda file: None)
    return path


def write_all(folder: Path) -> None:
    """Every file of tests/models, into this folder."""
    tiny = write_tiny(folder / TINY.name)
    write_tiny(folder / CAFFE.name, "caffe")
    write_tiny(folder / OWN.name, labels=OWN_LABELS)
    write_faulty(tiny, folder / FAULTY.name)
    first = int(inspect(tiny).golden_image()[0, 0, 0, 0])
    write_faulty(tiny, folder / HANGING.name, hangs=first)


if __name__ == "__main__":
    MODELS.mkdir(exist_ok=True)
    write_all(MODELS)
