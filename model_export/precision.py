"""
An ONNX model in fp32 -> the same model in another precision.  A new precision is a new row.

* ``fp32``   as trained
* ``fp16``   for GPUs: the network in half precision; inputs, outputs and the softmax stay as are
* ``int8``   convolutions and fully connected layers in 8 bit (QDQ), calibrated on pictures
* ``int8w``  weights stored in 8 bit and multiplied out once, at load: a quarter of the file
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.transformers import float16

from model_export.graph import CROPS

Pixels = NDArray[np.uint8]  # (N, 256, 256, 3), RGB
Floats = NDArray[np.float32]
Convert = Callable[[ModelProto, Pixels], ModelProto]


@dataclass(frozen=True)
class Precision:
    """One row: the conversion, and how far from fp32 its answers may lie."""

    convert: Convert
    largest_difference: float  # in probability, of any class of any view of any picture
    mean_distance: float  # half the sum over classes of |p - q|, mean over the real pictures
    golden_tolerance: float  # in probability, between two machines that run the same file


def run(model: ModelProto, pictures: Pixels, crops: int) -> tuple[Floats, Floats]:
    """(probabilities (N, classes), view_probabilities (N, V, classes)), on the CPU."""
    return Runner(model).run(pictures, crops)


class Runner:
    """ONNX Runtime on the CPU, for what the exporter itself has to know about its model."""

    def __init__(self, model: ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: an initialiser that is also an input warns
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, pictures: Pixels, crops: int) -> tuple[Floats, Floats]:
        """See :func:`run`."""
        feed = {"images": pictures, "crops": np.array(crops, np.int64)}
        probabilities, views = self._session.run(["probabilities", "view_probabilities"], feed)
        return probabilities, views


def _keep(model: ModelProto, calibration: Pixels) -> ModelProto:
    return model


def _to_half(model: ModelProto, calibration: Pixels) -> ModelProto:
    """Everything between the normalised views and the logits, in half precision."""
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    network = _between(model, "views", "logits")
    blocked = [n.name for n in model.graph.node if n.name not in network]
    half: ModelProto = float16.convert_float_to_float16(
        model, keep_io_types=True, node_block_list=blocked, disable_shape_infer=False
    )
    return half


def _between(model: ModelProto, start: str, end: str) -> set[str]:
    """The names of the nodes on the way from one value to another."""
    reached, names = {start}, set()
    for node in model.graph.node:
        if set(node.input) & reached and end not in reached:
            reached |= set(node.output)
            names.add(node.name)
    return names


def _quantise(model: ModelProto, calibration: Pixels) -> ModelProto:
    """Static quantisation: unsigned activations, signed weights, a scale per output channel.

    Weights use 7 of their 8 bits: without VNNI, x86 adds pairs of products in 16 bits, which
    8-bit weights overflow.  So the file answers alike on every machine.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet_quantiser():
        plain, quantised = Path(folder, "plain.onnx"), Path(folder, "quantised.onnx")
        onnx.save(model, plain)
        quantization.quantize_static(
            plain,
            quantised,
            _Pictures(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )
        return onnx.load(quantised)


@contextlib.contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """The quantiser recommends a preparation that this graph does not need: nothing is left to
    fuse or to infer in it.  Its sessions warn of the initialiser that is also an input."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        root.setLevel(level)
        onnxruntime.set_default_logger_severity(2)


class _Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Ten crops of each calibration picture, a few pictures at a time."""

    def __init__(self, pictures: Pixels, batch: int = 4) -> None:
        self._batches: Iterator[Pixels] = iter(
            [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
        )

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        batch = next(self._batches, None)
        return (
            None if batch is None else {"images": batch, "crops": np.array(CROPS["ten"], np.int64)}
        )


def _store_in_8_bit(model: ModelProto, calibration: Pixels) -> ModelProto:
    """Each weight as int8 with a scale per output channel, multiplied out by the graph.

    Cast and Mul rather than DequantizeLinear, which runtimes do not fold at load.
    """
    weights = {
        node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")
    }
    kept, nodes = [], []
    for initialiser in model.graph.initializer:
        array = numpy_helper.to_array(initialiser)
        if initialiser.name not in weights or array.ndim < 2:
            kept.append(initialiser)
            continue
        along = tuple(range(1, array.ndim))
        scale = np.abs(array).max(axis=along, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        name = initialiser.name
        kept += [
            numpy_helper.from_array(np.rint(array / scale).astype(np.int8), f"{name}_quantized"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        ]
        nodes += [
            helper.make_node("Cast", [f"{name}_quantized"], [f"{name}_cast"], to=1),
            helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]),
        ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes += list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(_keep, 1e-5, 1e-5, 1e-3),
    "fp16": Precision(_to_half, 0.05, 0.01, 0.02),
    "int8": Precision(_quantise, 0.6, 0.15, 0.1),
    "int8w": Precision(_store_in_8_bit, 0.3, 0.05, 1e-3),
}
