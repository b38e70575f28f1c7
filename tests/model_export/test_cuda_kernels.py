"""
Every layer of an exported graph has a CUDA kernel in the locked runtime, so that nothing goes to
the CPU and back; only arithmetic on shapes may.

cuda_kernels.csv is that runtime's own list, onnxruntime-gpu 1.31.1's ``get_all_opkernel_def()``,
read over empty stand-ins for CUDA's libraries: for each of our operators the versions (an open end
is the newest that there was) and types of its first input.  With the same stand-ins the runtime
said where it puts each node of these graphs: at opset 21 one Concat of a shape runs on the CPU, at
23 every MaxPool, too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import onnx
import pytest
from onnx import GraphProto, TensorProto, defs

from model_export import export, graph
from model_export.crops import load_images
from model_export.variants import VARIANTS
from tests.support.networks import narrow

WORDS: dict[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}
QUICK = "paper"  # has all operators (only caffe's Gather is of another type); each costs 2 s


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=[] if v == QUICK else [pytest.mark.external]) for v in VARIANTS],
)
def test_every_layer_has_a_cuda_kernel(variant: str, precision: str) -> None:
    row = VARIANTS[variant]
    model = export.build_model(
        narrow(row), row, precision=precision, calibration=load_images(limit=8)[:2]
    )
    typed = onnx.shape_inference.infer_shapes(model)
    opset = model.opset_import[0].version

    layers = list(_on_images(typed.graph, _types(typed.graph)))

    assert {"Conv", "MaxPool", "Gemm", "Softmax"} <= {kind for kind, _ in layers}
    assert [layer for layer in layers if not _has_kernel(*layer, opset)] == []


def test_a_pooling_of_the_next_opset_has_none() -> None:
    """Its operator changed there; the runtime's kernels are for the earlier one."""
    assert _has_kernel("MaxPool", "float", graph.OPSET)
    assert not _has_kernel("MaxPool", "float", graph.OPSET + 1)


def _on_images(part: GraphProto, types: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(operator, type of its first input) of what works on images and feature maps."""
    for node in part.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                inner = types | _types(attribute.g)
                yield from _on_images(attribute.g, inner)
        if node.input and types.get(node.input[0]) in WORDS:
            yield node.op_type, WORDS[types[node.input[0]]]


def _types(part: GraphProto) -> dict[str, int]:
    values = [*part.value_info, *part.input, *part.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in part.initializer}


def _has_kernel(operator: str, element: str, opset: int) -> bool:
    """The runtime's rule: a kernel's range holds the version in which the operator last changed;
    where the range is open, that version is its beginning."""
    version = defs.get_schema(operator, opset).since_version
    return any(
        element in types and (first <= version <= last if last else first == version)
        for first, last, types in _kernels().get(operator, [])
    )


@cache
def _kernels() -> dict[str, list[tuple[int, int | None, list[str]]]]:
    kernels: dict[str, list[tuple[int, int | None, list[str]]]] = {}
    text = Path(__file__).with_name("cuda_kernels.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        last = int(row["last"]) if row["last"] else None
        kernels.setdefault(row["operator"], []).append(
            (int(row["first"]), last, row["types"].split())
        )
    return kernels
