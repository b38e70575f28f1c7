"""
A network in fp32 -> one in another precision.  A new precision is a new row.

* ``fp32``   as trained
* ``fp16``   for GPUs: in half precision from the normalised views to the logits
* ``int8``   convolutions and fully connected layers in 8 bit, calibrated on images: `int8.py`
* ``int8w``  weights stored in 8 bit and multiplied out once, at load: a quarter of the file
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.transformers import float16

from model_export import int8
from model_export.crops import Floats, Pixels
from model_export.graph import FEATURES
from model_export.variants import Normalisation

# The network (normalised views -> logits), views of real photographs (V, channels, size, size) in
# pixels of 0-255, and the normalisation of its views.
Convert = Callable[[ModelProto, Floats, Normalisation], ModelProto]


@dataclass(frozen=True)
class Precision:
    """One row: the conversion, and how far from fp32 its answers may lie."""

    convert: Convert
    largest_difference: float  # in probability, of any class of any view of any image
    mean_distance: float  # half the sum over classes of |p - q|, mean over the real images
    golden_tolerance: float  # in probability, between two machines that run the same file
    # How far the features of an image may lie from PyTorch's, as a share of their length: on the
    # tests' small network it was 3e-7, 4e-4, 0.02 and 0.01.
    features_difference: float


class Runner:
    """ONNX Runtime on the CPU: the exporter runs its models with it."""

    def __init__(self, model: ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: an initialiser that is also an input warns
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: Pixels, crops: int, *, batch: int = 7) -> tuple[Floats, Floats]:
        """(probabilities (N, classes), view_probabilities (N, V, classes)), so many at a time."""
        outputs = ["probabilities", "view_probabilities"]
        answers = [
            self._session.run(
                outputs, {"images": images[i : i + batch], "crops": np.array(crops, np.int64)}
            )
            for i in range(0, len(images), batch)
        ]
        probabilities, views = (np.concatenate(part) for part in zip(*answers, strict=True))
        return probabilities, views

    def features(self, images: Pixels, crops: int) -> Floats | None:
        """What the last layer takes, (N, width); None of a network that ends in another layer."""
        if FEATURES not in {output.name for output in self._session.get_outputs()}:
            return None
        feeds = {"images": images, "crops": np.array(crops, np.int64)}
        features: Floats = self._session.run([FEATURES], feeds)[0]
        return features


def _keep(network: ModelProto, views: Floats, normalisation: Normalisation) -> ModelProto:
    return network


def _to_half(network: ModelProto, views: Floats, normalisation: Normalisation) -> ModelProto:
    """Everything between the normalised views and the logits, but for the response normalisation:
    it squares its inputs, and half precision ends at 65504."""
    for node in network.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    half: ModelProto = float16.convert_float_to_float16(
        network, keep_io_types=True, op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, "LRN"]
    )
    return half


def _store_in_8_bit(model: ModelProto, views: Floats, normalisation: Normalisation) -> ModelProto:
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
    "fp32": Precision(_keep, 1e-5, 1e-5, 1e-3, 1e-4),
    "fp16": Precision(_to_half, 0.05, 0.01, 0.02, 0.05),
    "int8": Precision(int8.quantise, 0.3, 0.05, 0.05, 0.5),
    "int8w": Precision(_store_in_8_bit, 0.3, 0.05, 1e-3, 0.5),
}
