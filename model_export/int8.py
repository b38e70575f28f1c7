"""
A network in 8 bit (QDQ): calibration, rounding.  Its first convolution reads the pixels as they
are.

* Weights: signed, a scale per output channel, 7 of their 8 bits.  Without VNNI, x86 adds pairs of
  products in 16 bits, which 8-bit weights overflow; so the file answers the same everywhere.
* The convolutions' weights are rounded one after the other, each rounding error compensated by
  those not yet rounded, as far as the calibration's images allow: GPTQ (Frantar et al. 2022,
  arXiv:2210.17323, section 3), here over the patches that a convolution sees.
* Activations: unsigned, quantised once, in front of each layer, from the smallest to the largest
  value that the calibration saw.  The logits stay in float.
* Pixels of 0-255 are 8-bit numbers already, of scale 1: the normalisation moves into the first
  convolution's weights and bias.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime import quantization
from torch import Tensor
from torch.nn import functional

from model_export.errors import ExportError, NotAChain
from model_export.layer_blocks import take_apart
from model_export.variants import Normalisation

Floats = NDArray[np.float32]
LARGEST = 63  # of the 7-bit weights, symmetric around zero
DAMPING = 0.01  # of the mean of the Hessian's diagonal, as in the paper
PATCHES = 400  # drawn from each view for each layer; more changed nothing
BATCH = 20  # views


def quantise(network: ModelProto, views: Floats, normalisation: Normalisation) -> ModelProto:
    """``network`` (normalised views -> logits) as one that takes uint8 pixels.

    ``views`` are pixels of 0-255, float32 (V, channels, size, size), of real photographs.
    """
    _must_read_pixels(network)
    channels = (1, -1, 1, 1)
    mean, std = (np.array(v, np.float32) for v in (normalisation.mean, normalisation.std))
    first, centred = _first(network), views - mean.reshape(channels)
    model = ModelProto()
    model.CopyFrom(network)
    weights = _Weights(model)
    weights[first.input[1]] = weights[first.input[1]] / std.reshape(channels)
    scales = _round_convolutions(model, weights, centred[::2])
    overrides: dict[str, object] = {
        name: [
            {"axis": 0, "scale": np.array(scale), "zero_point": np.array(0, np.int8)}
            for scale in of_each
        ]
        for name, of_each in scales.items()
    }
    scale, zero_point = np.array(1, np.float32), np.array(0, np.uint8)
    overrides[first.input[0]] = [{"scale": scale, "zero_point": zero_point}]
    quantised = _quantised(model, centred, overrides)
    _read_pixels(quantised, mean)
    layer = first.input[1].removesuffix(".weight")
    folded = {"layer": layer, "mean": mean.tolist(), "std": std.tolist()}
    helper.set_model_props(quantised, {"folded": json.dumps(folded)})
    return quantised


def _must_read_pixels(network: ModelProto) -> None:
    """Raise ExportError where the images cannot be padded in front of the first convolution."""
    try:
        take_apart(network)
    except NotAChain as reason:
        raise ExportError(
            f"int8 is for a chain of layers only, whose first one reads the pixels; {reason}. "
            "Choose --precision fp32, fp16 for a GPU, or int8w for a file of a quarter of the size"
        ) from reason


class _Weights:
    """A model's initialisers as arrays, to be read and replaced by name."""

    def __init__(self, model: ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self._tensors[name])

    def __setitem__(self, name: str, array: NDArray[Any]) -> None:
        self._tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def _first(model: ModelProto) -> NodeProto:
    convolution: NodeProto = next(node for node in model.graph.node if node.op_type == "Conv")
    return convolution


# ---- rounding


def _round_convolutions(model: ModelProto, weights: _Weights, views: Floats) -> dict[str, Floats]:
    """Put every convolution's weights on their 7-bit grid; gives the grids' scales (out,)."""
    scales = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            name = node.input[1]
            hessians = _hessians(model, node, views)
            own = torch.tensor(weights[name]).chunk(len(hessians))
            rounded, scale = [], []
            for part, hessian in zip(own, hessians, strict=True):
                whole, scale_of_part = gptq(part.flatten(1), hessian)
                rounded.append((whole * scale_of_part[:, None]).reshape(part.shape))
                scale.append(scale_of_part)
            weights[name] = torch.cat(rounded).float().numpy()
            scales[name] = torch.cat(scale).float().numpy()
    return scales


def gptq(weights: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (out, inputs) of at most ``LARGEST``, and the scale (out,) of each row.

    ``hessian`` (inputs, inputs) is the sum of x x^T over the inputs x.  The algorithm's blocks of
    128 columns do only save memory traffic.
    """
    left = weights.double().clone()
    inputs = left.shape[1]
    scale = (left.abs().amax(1) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    damped = hessian.double() + DAMPING * hessian.diagonal().mean() * torch.eye(inputs)
    damped += torch.finfo(torch.float32).tiny * torch.eye(inputs)  # in case every input is zero
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    whole = torch.zeros_like(left)
    for start in range(0, inputs, 128):
        end = min(start + 128, inputs)
        errors = torch.zeros(len(left), end - start, dtype=left.dtype)
        for column in range(start, end):
            whole[:, column] = (left[:, column] / scale).round().clamp(-LARGEST, LARGEST)
            error = left[:, column] - whole[:, column] * scale
            errors[:, column - start] = error / upper[column, column]
            left[:, column:end] -= errors[:, column - start, None] * upper[column, column:end]
        left[:, end:] -= errors @ upper[start:end, end:]
    return whole, scale


def _hessians(model: ModelProto, node: NodeProto, views: Floats) -> list[Tensor]:
    """For each group of a convolution the sum of x x^T over patches x of its inputs."""
    numbers = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    kernel, strides = numbers["kernel_shape"], numbers["strides"]
    top, left, bottom, right = numbers["pads"]
    generator = torch.Generator().manual_seed(0)
    sums: list[Tensor] = []
    for feature_maps in _values(model, node.input[0], views):
        padded = functional.pad(torch.from_numpy(feature_maps), (left, right, top, bottom))
        # (V, inputs of all groups, places)
        patches = functional.unfold(padded, (kernel[0], kernel[1]), stride=(strides[0], strides[1]))
        drawn = torch.randperm(patches.shape[2], generator=generator)[:PATCHES]
        seen = patches[:, :, drawn].transpose(0, 1).flatten(1)
        parts = [(x @ x.T).double() for x in seen.chunk(_groups(node))]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    return sums


def _groups(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _values(model: ModelProto, name: str, views: Floats) -> Iterator[Floats]:
    """A value of the model for each batch of views."""
    batches = (views[start : start + BATCH] for start in range(0, len(views), BATCH))
    views_name = model.graph.input[0].name
    if name == views_name:
        yield from batches
        return
    part = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(
        [views_name], [name]
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for batch in batches:
        yield session.run(None, {views_name: batch})[0]


# ---- ONNX Runtime's quantiser


def _quantised(model: ModelProto, views: Floats, overrides: Mapping[str, object]) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, quantised = Path(folder, "plain.onnx"), Path(folder, "quantised.onnx")
        onnx.save(model, plain)
        quantization.quantize_static(
            plain,
            quantised,
            _Views(model.graph.input[0].name, views),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={
                "WeightSymmetric": True,
                "ActivationSymmetric": False,
                # After the activation, not before: what it cuts off needs no numbers.
                "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"],
                "TensorQuantOverrides": dict(overrides),
            },
        )
        return onnx.load(quantised)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser recommends a preparation that this graph does not need: it has nothing left to
    fuse or to infer."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        root.setLevel(level)
        onnxruntime.set_default_logger_severity(2)


class _Views(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """The calibration's views, some at a time."""

    def __init__(self, name: str, views: Floats) -> None:
        self._batches = ({name: views[i : i + BATCH]} for i in range(0, len(views), BATCH))

    def get_next(self) -> dict[str, Floats] | None:
        return next(self._batches, None)


def _read_pixels(model: ModelProto, mean: Floats) -> None:
    """Take uint8 pixels where the centred views were quantised; the means go into the bias."""
    graph = model.graph
    pixels = graph.input[0]
    quantise = next(n for n in graph.node if n.op_type == "QuantizeLinear")
    assert quantise.input[0] == pixels.name
    graph.node.remove(quantise)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == quantise.output[0]:
                node.input[place] = pixels.name
    pixels.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    first = _first(model)
    makers = {node.output[0]: node for node in graph.node}
    weight, bias = (makers[name].input[0] for name in first.input[1:3])
    weights = _Weights(model)
    # The bias has the scale of the products, which is that of the weights: pixels have scale 1.
    offset = np.einsum("oikl,i->o", weights[weight].astype(np.float64), mean)
    weights[bias] = (weights[bias] - np.rint(offset)).astype(np.int32)
