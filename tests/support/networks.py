"""What these tests share: small networks, and what a serving graph does when it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import nn

from model_export.alexnet import FULL, AlexNet, LocalResponseNorm, Ranks
from model_export.crops import Floats, Pixels
from model_export.graph import IMAGE_SIZE, OPSET
from model_export.variants import VARIANTS, Variant

# Mirrored images have the same views: top left is what the mirror image's top right was.
MIRRORED = [6, 5, 8, 7, 9, 1, 0, 3, 2, 4]


def narrow(variant: Variant, classes: int = 10, channels: int = 3) -> AlexNet:
    """A variant whose convolutions are as wide as ever, and whose classifier is of low rank; no
    activation dies, and the logits are near one."""
    torch.manual_seed(0)
    network = variant.build(classes, channels, (8, 8, 8))
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.05)
        if name.startswith("classifier.6.u"):
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


def small(classes: int, channels: int = 3, ranks: Ranks = FULL) -> AlexNet:
    """The paper's layers in small: 11 x 11 at stride 8, normalisation, pools, groups, dropout."""
    network = AlexNet(
        nn.Sequential(  # (N, 3, 224, 224)
            nn.Conv2d(channels, 16, 11, stride=8),  # (N, 16, 27, 27)
            nn.ReLU(),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),  # (N, 16, 13, 13)
            nn.Conv2d(16, 32, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 32, 6, 6)
        ),
        nn.Sequential(
            nn.Linear(32 * 36, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, classes),
        ),
    )
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


SMALL: Variant = replace(VARIANTS["owt"], name="small", build=small)


@dataclass(frozen=True)
class Layer:
    """A convolution and what follows it."""

    channels: int
    kernel: int
    stride: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    groups: int = 1
    norm: bool = False
    pool: tuple[int, int, int] | None = None  # kernel, stride, padding


def feature_maps_of(
    layers: Sequence[Layer], *, crop_size: int = 224, channels: int = 3
) -> ModelProto:
    """An ONNX network that ends before its classifier: its "logits" are the last maps.

    Its weights are whole numbers, so that on pixels that are divided by a power of two float32
    computes exactly, in whatever order a machine adds.
    """
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors = []
    value, rows, columns = "views", crop_size, crop_size
    for n, layer in enumerate(layers):
        shape = (layer.channels, channels // layer.groups, layer.kernel, layer.kernel)
        weight = random.integers(-2, 3, shape).astype(np.float32)
        bias = random.integers(-2, 3, layer.channels).astype(np.float32)
        tensors += [
            numpy_helper.from_array(weight, f"{n}.weight"),
            numpy_helper.from_array(bias, f"{n}.bias"),
        ]
        nodes.append(
            helper.make_node(
                "Conv",
                [value, f"{n}.weight", f"{n}.bias"],
                [f"conv_{n}"],
                kernel_shape=[layer.kernel] * 2,
                strides=[layer.stride] * 2,
                pads=layer.pads,
                group=layer.groups,
            )
        )
        top, left, bottom, right = layer.pads
        rows = (rows + top + bottom - layer.kernel) // layer.stride + 1
        columns = (columns + left + right - layer.kernel) // layer.stride + 1
        nodes.append(helper.make_node("Relu", [f"conv_{n}"], [value := f"relu_{n}"]))
        if layer.norm:
            nodes.append(helper.make_node("LRN", [value], [f"norm_{n}"], size=5, alpha=1e-4))
            value = f"norm_{n}"
        if layer.pool:
            kernel, stride, pad = layer.pool
            nodes.append(
                helper.make_node(
                    "MaxPool",
                    [value],
                    [f"pool_{n}"],
                    kernel_shape=[kernel] * 2,
                    strides=[stride] * 2,
                    pads=[pad] * 4,
                )
            )
            value = f"pool_{n}"
            rows, columns = ((size + 2 * pad - kernel) // stride + 1 for size in (rows, columns))
        channels = layer.channels
    features = channels * rows * columns
    tensors.append(numpy_helper.from_array(np.array([-1, features]), "shape"))
    nodes.append(helper.make_node("Reshape", [value, "shape"], ["logits"]))
    first = numpy_helper.to_array(tensors[0]).shape[1] * layers[0].groups
    return _network(nodes, tensors, first, crop_size, features)


def _network(
    nodes: list[NodeProto],
    tensors: list[onnx.TensorProto],
    channels: int,
    crop_size: int,
    features: int,
) -> ModelProto:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [tensor("views", onnx.TensorProto.FLOAT, ["M", channels, crop_size, crop_size])],
        [tensor("logits", onnx.TensorProto.FLOAT, ["M", features])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def without_classifier(network: ModelProto) -> ModelProto:
    """A network cut off where its classifier begins."""
    (flat,) = (n.output[0] for n in network.graph.node if n.op_type in ("Reshape", "Flatten"))
    typed = onnx.shape_inference.infer_shapes(network)
    return onnx.utils.Extractor(typed).extract_model([network.graph.input[0].name], [flat])


def logits(model: ModelProto, images: Pixels, crops: int, *, threads: int = 1) -> Floats:
    """What a serving graph has before its softmax, in the order of the views: (N, V, classes)."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for node in bare.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Identity"
            del node.attribute[:]
    run = session(bare, threads).run
    views: Floats = run(["view_probabilities"], _feeds(images, crops))[0]
    return views


@dataclass(frozen=True)
class Work:
    """One convolution of a serving graph that ran."""

    views: int  # rows that came out of it
    products: int  # multiplications


def work(model: ModelProto, images: Pixels, crops: int) -> list[Work]:
    """What every convolution of a serving graph did for some images, by what it gave."""
    seen = ModelProto()
    seen.CopyFrom(model)
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    convolutions = [node for node in seen.graph.node if node.op_type == "Conv"]
    names = [node.output[0] for node in convolutions]
    seen.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    answers = session(seen).run(names, _feeds(images, crops))
    return [
        Work(len(feature_maps), feature_maps.size * math.prod(weights[node.input[1]][1:]))
        for node, feature_maps in zip(convolutions, answers, strict=True)
    ]


def session(model: ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def noise(count: int, seed: int = 0) -> Pixels:
    """Images of random pixels: no two places of one look alike."""
    return np.random.default_rng(seed).integers(
        0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8
    )


def _feeds(images: Pixels, crops: int) -> dict[str, NDArray[np.uint8] | NDArray[np.int64]]:
    return {"images": images, "crops": np.array(crops, np.int64)}
