"""
A real model file that fails where it is told to, and servers that meet it.

The tiny model, with a few nodes beside it that look at the first value of each picture: RAISES
makes the runtime raise, HANGS keeps it busy for years.  All other pictures are answered as before.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model_export import export

RAISES, HANGS = 201, 202


def write_faulty(tiny: Path, path: Path, hangs: int = HANGS) -> Path:
    """The tiny model's file with those nodes; checksum and golden answer are right."""
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


def plain(value: int) -> bytes:
    """A picture of one grey: what reaches the network is exactly that value."""
    encoded = io.BytesIO()
    Image.new("RGB", (256, 256), (value, value, value)).save(encoded, "PNG")
    return encoded.getvalue()
