"""A network's graph, taken apart: whatever order its nodes stand in, and only if it is a chain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

from model_export.errors import ExportError
from model_export.graph import CROPS, serving_graph
from model_export.layer_blocks import take_apart
from model_export.precision import PRECISIONS
from model_export.variants import IMAGENET
from tests.support.networks import Layer, logits, maps_of, noise

LAYERS = [
    Layer(3, 11, 4, (2, 2, 2, 2), pool=(3, 2, 0)),
    Layer(4, 5, 1, (2, 2, 2, 2), pool=(3, 2, 0)),
    Layer(2, 3, 1, (1, 1, 1, 1), pool=(3, 2, 0)),
]


def test_every_node_is_in_one_place_of_the_chain() -> None:
    network = maps_of(LAYERS)

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
    network = PRECISIONS[precision].convert(maps_of(LAYERS), views, IMAGENET)
    expected = logits(_served(network), noise(1), CROPS["ten"])
    nodes = list(network.graph.node)
    del network.graph.node[:]
    network.graph.node.extend(reversed(nodes))

    found = logits(_served(network), noise(1), CROPS["ten"])

    assert np.array_equal(found, expected)


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
        (_no_convolution, "no convolution"),
    ],
    ids=["residual", "averaging", "ceiling", "dilated", "auto_pad", "two poolings", "none"],
)
def test_a_network_that_cannot_be_taken_apart_is_refused(
    change: Callable[[ModelProto], None], words: str
) -> None:
    network = maps_of(LAYERS)
    change(network)

    with pytest.raises(ExportError, match=words):
        take_apart(network)


def _served(network: ModelProto) -> ModelProto:
    return serving_graph(network, side=224, normalisation=IMAGENET)
