"""The four networks against the table of the literature and against independent arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from model_export import alexnet, checkpoints, export
from model_export.crops import Floats
from model_export.variants import VARIANTS

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize(
    ("variant", "classes", "channels", "parameters"),
    [
        ("owt", 1000, 3, 61_100_840),
        ("paper", 1000, 3, 60_965_224),
        ("caffe", 1000, 3, 60_965_224),
        ("d2l", 1000, 3, 50_844_008),
        ("d2l", 10, 1, 46_764_746),
    ],
)
def test_the_parameters_are_as_many_as_the_literature_says(
    variant: str, classes: int, channels: int, parameters: int
) -> None:
    with torch.device("meta"):  # shapes without numbers
        network = VARIANTS[variant].build(classes, channels, alexnet.FULL)

    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_view_becomes_one_logit_a_class(variant: str) -> None:
    row = VARIANTS[variant]
    with torch.device("meta"):  # shapes without numbers
        network = row.build(7, 3, alexnet.FULL).eval()
        views = torch.zeros(2, 3, row.crop_size, row.crop_size)

    assert network(views).shape == (2, 7)


def test_the_paper_starts_some_biases_at_one() -> None:
    state = alexnet.paper(10, ranks=(1, 1, 1)).state_dict()

    ones = {key for key, value in state.items() if key.endswith("bias") and (value == 1).all()}

    assert ones == {f"features.{n}.bias" for n in (5, 11, 13)} | {
        "classifier.0.bias",
        "classifier.3.bias",
    }
    assert state["features.1.weight"].std().item() == pytest.approx(0.01, rel=0.05)


def test_response_normalisation_is_the_papers_formula() -> None:
    a = np.random.default_rng(0).normal(size=(2, 9, 3, 3)).astype(np.float32) * 50

    result = alexnet.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)(torch.from_numpy(a)).numpy()

    assert np.allclose(result, _response_norm(a), atol=1e-5)


def _response_norm(a: Floats) -> Floats:
    """Section 3.3, literally: map i is divided by a sum over the maps i-2 ... i+2."""
    b = np.empty_like(a)
    feature_maps = a.shape[1]
    for i in range(feature_maps):
        near = a[:, max(0, i - 2) : min(feature_maps - 1, i + 2) + 1]
        # The paper's alpha is 1e-4; its source divides it by the window of 5.
        b[:, i] = a[:, i] / (2.0 + 1e-4 / 5 * (near**2).sum(axis=1)) ** 0.75
    return b


def test_caffe_answers_as_the_onnx_projects_own_graph_expects() -> None:
    """`light_bvlc_alexnet` has constant weights, sees 224 pixels and pads its last pool by one."""
    light = onnx.load(LIGHT / "light_bvlc_alexnet.onnx").graph
    fills = {n.output[0]: n for n in light.node if n.op_type == "ConstantOfShape"}
    shapes = {i.name: numpy_helper.to_array(i) for i in light.initializer}
    state = {
        name: torch.full(tuple(shapes[node.input[0]].tolist()), _fill(node))
        for name, node in fills.items()
    }
    network = checkpoints.build(VARIANTS["caffe"], _whole(state), source="light")
    network.features[14] = torch.nn.Sequential(
        torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.MaxPool2d(3, stride=2)
    )
    expected_tensor = onnx.TensorProto()
    expected_tensor.ParseFromString((LIGHT / "light_bvlc_alexnet_output_0.pb").read_bytes())
    expected = numpy_helper.to_array(expected_tensor)

    with torch.inference_mode():
        result = network(_ramp()).softmax(1).numpy()

    assert expected.shape == result.shape == (1, 1000)
    assert np.allclose(result, expected, rtol=1e-3, atol=1e-7)


def test_caffe_in_onnx_has_the_layers_of_the_onnx_projects_graph() -> None:
    """Same operators, same attributes, in the same order, up to the padding of the last pool."""
    light = onnx.load(LIGHT / "light_bvlc_alexnet.onnx").graph
    network = alexnet.caffe(1000, ranks=(1, 1, 1))
    for place, (inputs, outputs) in {0: (9216, 4), 3: (4, 4), 6: (4, 1000)}.items():
        network.classifier[place] = torch.nn.Linear(inputs, outputs)  # narrow, to be quick
    ours = export.to_onnx(network, 227).graph

    assert _layers(ours) == _layers(light)


def test_a_hidden_layer_of_low_rank_equals_its_product() -> None:
    layer = alexnet.LowRankLinear(12, 8, 3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(5, 12)

    expected = x @ (layer.u @ layer.v).T + layer.bias

    assert torch.allclose(layer(x), expected, atol=1e-5)


def _layers(graph: onnx.GraphProto) -> list[tuple[object, ...]]:
    kinds = {"Conv", "Relu", "LRN", "MaxPool", "Gemm"}
    wanted = {"strides", "pads", "kernel_shape", "group", "size", "alpha", "beta", "bias"}
    result = []
    for node in graph.node:
        if node.op_type not in kinds:
            continue
        attributes = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name in wanted
        }
        if node.op_type == "MaxPool":
            attributes.pop("pads", None)
        attributes.setdefault("group", 1)
        if node.op_type == "Gemm":
            attributes = {}  # alpha and beta of 1, written out or not
        if node.op_type == "Conv":
            attributes.setdefault("pads", [0, 0, 0, 0])
            attributes.pop("kernel_shape", None)
        result.append((node.op_type, *sorted((k, str(v)) for k, v in attributes.items())))
    return result


def _fill(node: onnx.NodeProto) -> float:
    values = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "value"]
    return float(numpy_helper.to_array(values[0]).reshape(-1)[0])


def _whole(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.ndim in (1, 2, 4)}


def _ramp() -> torch.Tensor:
    """The input that the onnx project's runner feeds its light models."""
    size = 3 * 224 * 224
    return (torch.arange(size, dtype=torch.float32) / size).reshape(1, 3, 224, 224)
