"""
Trunk and teacher in 8 bit, for feature extraction.  That gives twice as many crops a second, and
the features of an int8 network, which is what will be served.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from model_export import checkpoints
from model_export.crops import load_images, ten_crops
from model_export.variants import IMAGENET, Normalisation
from model_training.distillation import pretrained
from model_training.distillation.crops import CROP_SIZE, Crops, normalised
from model_training.distillation.student import FEATURES
from model_training.errors import TrainingError

TRUNK, TEACHER = "trunk.onnx", "teacher.onnx"


class Networks:
    """Both networks, on one thread: a worker's own."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._trunk, self._teacher = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in (TRUNK, TEACHER)
        )

    def features(self, crops: Crops) -> NDArray[np.uint8]:
        """Crops (N, 224, 224, 3) -> (N, 9216); times ``scale(folder)`` they are floats."""
        features: NDArray[np.uint8] = self._trunk.run(None, {"views": normalised(crops, IMAGENET)})[
            0
        ]
        return features.reshape(len(features), FEATURES)

    def logits(self, crops: Crops) -> NDArray[np.float16]:
        """The teacher's logits of crops (N, 224, 224, 3): (N, 1000)."""
        views = normalised(crops, pretrained.TEACHER_PREPARATION)
        logits: NDArray[np.float32] = self._teacher.run(None, {"views": views})[0]
        return logits.astype(np.float16)


def prepare(folder: Path, downloads: Path | None = None) -> None:
    """Write both networks in 8 bit into ``folder``, unless they are there."""
    if not (folder / TRUNK).is_file():
        _eight_bit(pretrained.trunk(downloads), IMAGENET, folder / TRUNK, integer=True)
    if not (folder / TEACHER).is_file():
        _eight_bit(pretrained.teacher(), pretrained.TEACHER_PREPARATION, folder / TEACHER)


def identity(folder: Path) -> str:
    """Identify both networks by the SHA-256 of their files."""
    if not (folder / TRUNK).is_file() or not (folder / TEACHER).is_file():
        raise TrainingError(
            f"{folder} has no features yet; begin with alexnet-distill weights, or name "
            "its work folder with --work"
        )
    return checkpoints.sha256(folder / TRUNK) + checkpoints.sha256(folder / TEACHER)


def scale(folder: Path) -> float:
    """The value of one step of the trunk's uint8 features."""
    model = onnx.load(folder / TRUNK)
    step = next(n for n in model.graph.node if n.output[0] == model.graph.output[0].name).input[1]
    initialiser = next(i for i in model.graph.initializer if i.name == step)
    return float(numpy_helper.to_array(initialiser))


def _eight_bit(
    network: nn.Module, normalisation: Normalisation, path: Path, *, integer: bool = False
) -> None:
    """Quantise statically, weights per channel; ``integer`` leaves the outputs in uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole, ready, small = (Path(scratch, name) for name in ("fp32", "ready", "int8"))
        _to_onnx(network, whole)
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        last = [n.name for n in onnx.load(ready).graph.node if n.op_type in ("Gemm", "MatMul")]
        quantize_static(
            str(ready),
            str(small),
            _Views(normalisation),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bit: without VNNI sums of 8-bit products saturate
            nodes_to_exclude=last,  # the logits stay exact
        )
        model = onnx.load(small)
        if integer:
            _end_in_integers(model)
        onnx.save(model, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)


def _to_onnx(network: nn.Module, path: Path) -> None:
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, CROP_SIZE, CROP_SIZE),),
            str(path),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["views"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )


def _end_in_integers(model: onnx.ModelProto) -> None:
    """Take away the last DequantizeLinear, whose zero point is 0 behind a ReLU."""
    nodes, output = model.graph.node, model.graph.output[0]
    last = next(node for node in nodes if node.output[0] == output.name)
    assert last.op_type == "DequantizeLinear", last.op_type
    zero = next(i for i in model.graph.initializer if i.name == last.input[2])
    assert not numpy_helper.to_array(zero).any()
    output.name = last.input[0]
    output.type.tensor_type.elem_type = TensorProto.UINT8
    nodes.remove(last)


class _Views(CalibrationDataReader):  # type: ignore[misc]
    """Three crops of each of the exporter's own photographs."""

    def __init__(self, normalisation: Normalisation) -> None:
        views = ten_crops(load_images(), CROP_SIZE)[:, [0, 4, 8]].reshape(
            -1, CROP_SIZE, CROP_SIZE, 3
        )
        self._batches: Iterator[Crops] = iter(np.array_split(views, len(views) // 16))
        self._normalisation = normalisation

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"views": normalised(batch, self._normalisation)}
