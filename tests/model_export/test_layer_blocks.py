"""A network's graph, taken apart: whatever order its nodes stand in, and only if it is a chain.

A network that is not a chain is served as it is, its ten views one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

from model_export.crops import Floats, Pixels, ten_crops, to_channels
from model_export.errors import ExportError, NotAChain
from model_export.graph import CROPS, crops_of, serving_graph, unshared
from model_export.layer_blocks import take_apart
from model_export.precision import PRECISIONS
from model_export.variants import IMAGENET, VARIANTS, Normalisation
from tests.support.networks import Layer, feature_maps_of, logits, noise, session

CAFFE = VARIANTS["caffe"].normalisation

LAYERS = [
    Layer(3, 11, 4, (2, 2, 2, 2), pool=(3, 2, 0)),
    Layer(4, 5, 1, (2, 2, 2, 2), pool=(3, 2, 0)),
    Layer(2, 3, 1, (1, 1, 1, 1), pool=(3, 2, 0)),
]


def test_every_node_is_in_one_place_of_the_chain() -> None:
    network = feature_maps_of(LAYERS)

    chain = take_apart(network)

    nodes = [*chain.constants, *chain.before]
    nodes += [node for block in chain.blocks for part in block.parts for node in part.nodes]
    nodes += chain.rest
    assert [node.output[0] for node in nodes] == [node.output[0] for node in network.graph.node]
    assert [len(block.parts) for block in chain.blocks] == [2, 2, 2]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8w"])
def test_nodes_may_stand_in_any_order(precision: str) -> None:
    """Converters append theirs at the end; the half precision one does."""
    views = np.zeros((1, 3, 224, 224), np.float32)
    network = PRECISIONS[precision].convert(feature_maps_of(LAYERS), views, IMAGENET)
    expected = logits(_served(network), noise(1), CROPS["ten"])
    nodes = list(network.graph.node)
    del network.graph.node[:]
    network.graph.node.extend(reversed(nodes))

    result = logits(_served(network), noise(1), CROPS["ten"])

    assert np.array_equal(result, expected)


def _residual(network: ModelProto) -> None:
    """The second convolution takes what it gives to what it was given."""
    nodes = network.graph.node
    place = next(n for n, node in enumerate(nodes) if node.output[0] == "relu_1")
    nodes[place].input[0] = "sum"
    nodes.insert(place, helper.make_node("Add", ["conv_1", "relu_1x"], ["sum"]))
    nodes.insert(place, helper.make_node("Relu", ["conv_1"], ["relu_1x"]))


def _averaging(network: ModelProto) -> None:
    for node in network.graph.node:
        if node.op_type == "MaxPool":
            node.op_type = "AveragePool"


def _setting(kind: str, **settings: object) -> Callable[[ModelProto], None]:
    def change(network: ModelProto) -> None:
        node = next(node for node in network.graph.node if node.op_type == kind)
        for name, value in settings.items():
            node.attribute.append(helper.make_attribute(name, value))

    return change


def _pooling_twice(network: ModelProto) -> None:
    nodes = network.graph.node
    place = next(n for n, node in enumerate(nodes) if node.op_type == "MaxPool")
    again = helper.make_node("MaxPool", ["pool_0"], ["again"], kernel_shape=[1, 1])
    nodes[place + 1].input[0] = "again"
    nodes.insert(place + 1, again)


def _pooling_first(network: ModelProto) -> None:
    """The crops' places in what comes out of it would have to be counted from there."""
    nodes = network.graph.node
    pool = helper.make_node("MaxPool", [nodes[0].input[0]], ["pooled"], kernel_shape=[1, 1])
    nodes[0].input[0] = "pooled"
    nodes.insert(0, pool)


def _no_convolution(network: ModelProto) -> None:
    nodes = network.graph.node
    for node in [node for node in nodes if node.op_type != "Reshape"]:
        nodes.remove(node)
    nodes[0].input[0] = network.graph.input[0].name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_residual, "no chain of layers"),
        (_averaging, "AveragePool"),
        (_setting("MaxPool", ceil_mode=1), "MaxPool"),
        (_setting("Conv", dilations=[2, 2]), "Conv"),
        (_setting("Conv", auto_pad="SAME_UPPER"), "Conv"),
        (_pooling_twice, "MaxPool"),
        (_pooling_first, "follows no convolution"),
        (_no_convolution, "no convolution"),
    ],
    ids=[
        *("residual", "averaging", "ceiling", "dilated", "auto_pad"),
        *("two poolings", "pooling first", "none"),
    ],
)
def test_a_network_that_cannot_be_taken_apart_is_refused(
    change: Callable[[ModelProto], None], words: str
) -> None:
    network = feature_maps_of(LAYERS)
    change(network)

    with pytest.raises(NotAChain, match=words):
        take_apart(network)


@pytest.mark.parametrize(
    "change",
    [_residual, _averaging, _pooling_twice, _pooling_first],
    ids=["residual", "averaging", "two poolings", "pooling first"],
)
@pytest.mark.parametrize("normalisation", [IMAGENET, CAFFE], ids=["RGB", "BGR"])
def test_a_network_that_is_no_chain_sees_the_ten_views_as_it_is(
    change: Callable[[ModelProto], None], normalisation: Normalisation
) -> None:
    """Against the network alone, on views that numpy cut; whatever order its nodes stand in."""
    network = feature_maps_of(LAYERS)
    change(network)
    images, nodes = noise(2), list(network.graph.node)
    expected = _one_by_one(network, images, normalisation)
    del network.graph.node[:]
    network.graph.node.extend(reversed(nodes))

    model = serving_graph(network, crop_size=224, normalisation=normalisation)

    assert crops_of(model) == {"ten": 10, "one": 1}
    assert len({view.tobytes() for view in expected[0]}) == 10
    assert np.allclose(logits(model, images, CROPS["ten"]), expected, rtol=1e-5)
    assert np.allclose(logits(model, images, CROPS["one"])[:, 0], expected[:, 4], rtol=1e-5)


def test_a_serving_graph_tells_why_its_crops_share_nothing() -> None:
    chain, residual = feature_maps_of(LAYERS), feature_maps_of(LAYERS)
    _residual(residual)

    assert unshared(_served(chain)) == ""
    assert "Add (sum)" in unshared(_served(residual))
    between = serving_graph(
        feature_maps_of(LAYERS, crop_size=227), crop_size=227, normalisation=IMAGENET
    )
    assert "begin between" in unshared(between)


def test_a_network_that_is_no_chain_has_no_8_bit_form_and_learns_what_to_choose() -> None:
    network = feature_maps_of(LAYERS)
    _residual(network)

    with pytest.raises(ExportError, match=r"no chain.*--precision fp32.*int8w"):
        PRECISIONS["int8"].convert(network, np.zeros((1, 3, 224, 224), np.float32), IMAGENET)


def _one_by_one(network: ModelProto, images: Pixels, normalisation: Normalisation) -> Floats:
    """The logits of every view, float32 (N, 10, classes): of each image in a run of its own."""
    mean, std = (
        np.array(values, np.float32).reshape(-1, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    input_name = network.graph.input[0].name
    run = session(network).run
    channels = (to_channels(ten_crops(images, 224), normalisation) - mean) / std
    return np.stack([run(None, {input_name: views})[0] for views in channels])


def _served(network: ModelProto) -> ModelProto:
    return serving_graph(network, crop_size=224, normalisation=IMAGENET)
