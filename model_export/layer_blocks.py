"""
A network's ONNX graph as a chain of blocks.  It goes from the views to the logits; what follows the
last block is the rest.

A block is a convolution with all that follows it (activation, normalisation, quantisation), and
the pooling after that, if there is one.  It can be copied into another graph several times, each
time with the padding that it needs there; the weights are not copied.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

import onnx
from onnx import ModelProto, NodeProto, helper

from model_export.errors import NotAChain
from model_export.receptive_field import Window

# What may stand between the views and the classifier; only the first two have windows.
LAYERS = {"Conv", "MaxPool", "Relu", "LRN", "Cast", "QuantizeLinear", "DequantizeLinear"}
FLATTENING = ("Reshape", "Flatten")
MOVING = ("MaxPool", "Reshape")  # only choose and move values, so rounding may come before or after
PRODUCTS = ("Gemm", "MatMul")
# What a fully connected layer is made of; several products if its matrix is one of low rank.
CONNECTED = (*PRODUCTS, "Add", "Cast", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Part:
    """Some consecutive nodes of the chain, among them at most one convolution or pooling."""

    nodes: tuple[NodeProto, ...]
    rows: Window
    columns: Window
    element: int  # the type, onnx.TensorProto's, of the values that come out
    # Padding of images that is not zero: its value for each channel.  The windows say how wide.
    pad_values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Block:
    """A convolution, and the pooling after it where there is one."""

    convolution: tuple[Part, ...]
    pooling: tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of it."""
        return self.convolution + self.pooling


@dataclass(frozen=True)
class Chain:
    """The network, taken apart; every node is in exactly one of the fields."""

    constants: tuple[NodeProto, ...]  # compute the weights; no image goes through them
    before: tuple[NodeProto, ...]  # from the views to the first block: a cast
    blocks: tuple[Block, ...]
    rest: tuple[NodeProto, ...]  # from the last block to the logits


def take_apart(network: ModelProto) -> Chain:
    """The blocks of a network whose graph is a chain; raises NotAChain if it is not."""
    data = {network.graph.input[0].name}
    network, unsorted = ModelProto(), network
    network.CopyFrom(unsorted)
    del network.graph.node[:]
    network.graph.node.extend(in_order(unsorted))
    path, constants = [], []
    for node in network.graph.node:
        if data & set(node.input):
            path.append(node)
            data |= set(node.output)
        else:
            constants.append(node)
    _must_be_a_chain(path, network.graph.input[0].name)
    path = _quantise_early(path)
    elements = _elements(network, path)
    starts = [_start(path, place) for place, node in enumerate(path) if node.op_type == "Conv"]
    end = next(place for place, node in enumerate(path) if node.op_type in FLATTENING)
    blocks = [
        _block(path[first:last], elements)
        for first, last in zip(starts, [*starts[1:], end], strict=True)
    ]
    return Chain(tuple(constants), tuple(path[: starts[0]]), tuple(blocks), tuple(path[end:]))


def last_layer_takes(network: ModelProto) -> str | None:
    """The value that goes into the last fully connected layer, after fc7's ReLU; None if the
    network ends in another layer."""
    makers = {name: node for node in network.graph.node for name in node.output}
    value, taken = network.graph.output[0].name, None
    while (node := makers.get(value)) is not None and node.op_type in CONNECTED:
        value = node.input[0]
        if node.op_type in PRODUCTS:
            taken = value
    return taken


def _must_be_a_chain(path: Sequence[NodeProto], input_name: str) -> None:
    """Raise NotAChain where a graph cannot be taken apart into blocks."""
    kinds = [node.op_type for node in path]
    flat = next((place for place, kind in enumerate(kinds) if kind in FLATTENING), None)
    if "Conv" not in kinds or flat is None:
        raise NotAChain("the network has no convolutions, or nothing that flattens their maps")
    values, value = {input_name}, input_name
    for node in path:
        if values & set(node.input) != {value}:
            raise NotAChain(
                f"the network is no chain of layers: {node.op_type} ({node.output[0]}) takes "
                "something else than what the layer before it gives"
            )
        value = node.output[0]
        values.add(value)
    pools = 1  # since the last convolution; none may stand before the first
    for node in path[:flat]:
        if node.op_type not in LAYERS:
            raise NotAChain(f"{node.op_type} stands among the convolutions of the network")
        pools = {"Conv": 0, "MaxPool": pools + 1}.get(node.op_type, pools)
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        own = settings.get("ceil_mode") or settings.get("auto_pad", b"NOTSET") != b"NOTSET"
        if own or set(settings.get("dilations", [1])) != {1} or pools > 1:
            raise NotAChain(
                f"{node.op_type} ({node.output[0]}) rounds its windows up, pads by itself, is "
                "dilated, or is a pooling that follows no convolution"
            )


def separate_padding(part: Part, values: tuple[int, ...]) -> tuple[Part, Part]:
    """A convolution that pads with zeros -> padding with ``values``, and one without padding."""
    rows = Window(1, 1, part.rows.before, part.rows.after)
    columns = Window(1, 1, part.columns.before, part.columns.after)
    bare = tuple(
        with_padding(node, [0, 0, 0, 0]) if node.op_type == "Conv" else node for node in part.nodes
    )
    return (
        Part((), rows, columns, onnx.TensorProto.UINT8, values),
        replace(
            part,
            nodes=bare,
            rows=Window(part.rows.kernel, part.rows.stride),
            columns=Window(part.columns.kernel, part.columns.stride),
        ),
    )


def in_order(network: ModelProto) -> list[NodeProto]:
    """The nodes, each after those whose outputs it takes; converters append theirs at the end."""
    makers = {name: place for place, node in enumerate(network.graph.node) for name in node.output}
    needs = {
        place: [makers[name] for name in node.input if name in makers]
        for place, node in enumerate(network.graph.node)
    }
    return [network.graph.node[place] for place in TopologicalSorter(needs).static_order()]


def _start(path: Sequence[NodeProto], convolution: int) -> int:
    """A convolution begins with the DequantizeLinear in front of it: what comes in is 8-bit."""
    dequantised = convolution > 0 and path[convolution - 1].op_type == "DequantizeLinear"
    return convolution - dequantised


def _block(nodes: Sequence[NodeProto], elements: Mapping[str, int]) -> Block:
    pools = [place for place, node in enumerate(nodes) if node.op_type == "MaxPool"]
    split = pools[0] if pools else len(nodes)
    pooling = (_part(nodes[split:], elements),) if pools else ()
    return Block((_part(nodes[:split], elements),), pooling)


def _part(nodes: Sequence[NodeProto], elements: Mapping[str, int]) -> Part:
    layer = next(node for node in nodes if node.op_type in ("Conv", "MaxPool"))
    settings = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
    kernel = settings["kernel_shape"]
    strides, pads = settings.get("strides", [1, 1]), settings.get("pads", [0, 0, 0, 0])
    rows, columns = (
        Window(kernel[axis], strides[axis], pads[axis], pads[axis + 2]) for axis in (0, 1)
    )
    return Part(tuple(nodes), rows, columns, elements[nodes[-1].output[0]])


def fold_padding(network: ModelProto) -> None:
    """Make a Pad of zeros before a convolution that convolution's own padding."""
    constants, nodes = _constants(network), network.graph.node
    pads = {node.output[0]: node for node in nodes if _pads_with_zeros(node, constants)}
    for node in [node for node in nodes if node.op_type == "Conv" and node.input[0] in pads]:
        pad = pads[node.input[0]]
        extra = constants[pad.input[1]]  # begins of N, channels, rows, columns, then ends
        node.CopyFrom(with_padding(node, [extra[i] for i in (2, 3, 6, 7)], add=True))
        node.input[0] = pad.input[0]
        if not any(pad.output[0] in other.input for other in nodes):
            nodes.remove(pad)


def _pads_with_zeros(node: NodeProto, constants: Mapping[str, Sequence[int]]) -> bool:
    modes = [a.s for a in node.attribute if a.name == "mode"]
    values = [constants.get(name) for name in node.input[2:3] if name]  # its default is zero
    return node.op_type == "Pad" and modes in ([], [b"constant"]) and values in ([], [[0]])


def _quantise_early(path: Sequence[NodeProto]) -> list[NodeProto]:
    """QuantizeLinear before the pooling and reshaping in front of it: the same numbers, and these
    are then done in 8 bit."""
    moved: list[NodeProto] = []
    for node in path:
        place = len(moved)
        while node.op_type == "QuantizeLinear" and moved[place - 1].op_type in MOVING:
            place -= 1
        late = moved[place:]
        del moved[place:]
        copies = [_copy(each) for each in (node, *late)]
        if late:
            copies[0].input[0], last = late[0].input[0], node.output[0]
            copies[0].output[0] = f"{last}_early"
            for before, copy in itertools.pairwise(copies):
                copy.input[0] = before.output[0]
                copy.output[0] = f"{copy.output[0]}_quantised"
            copies[-1].output[0] = last
        moved += copies
    return moved


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def with_padding(node: NodeProto, pads: Sequence[int], *, add: bool = False) -> NodeProto:
    """A copy of a convolution with other pads (top, left, bottom, right), or with more."""
    copy = _copy(node)
    kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
    own = [list(a.ints) for a in node.attribute if a.name == "pads"]
    if add and own:
        pads = [a + b for a, b in zip(pads, own[0], strict=True)]
    del copy.attribute[:]
    copy.attribute.extend([*kept, helper.make_attribute("pads", list(pads))])
    return copy


def _elements(network: ModelProto, path: Sequence[NodeProto]) -> dict[str, int]:
    """The element type of every value of the path."""
    typed = onnx.shape_inference.infer_shapes(network).graph
    values = [*typed.value_info, *typed.input, *typed.output]
    elements = {value.name: value.type.tensor_type.elem_type for value in values}
    for node in path:
        if node.op_type == "QuantizeLinear":
            elements[node.output[0]] = onnx.TensorProto.UINT8
        elif node.op_type in MOVING:
            elements[node.output[0]] = elements[node.input[0]]
    return elements


def _constants(network: ModelProto) -> dict[str, list[int]]:
    """The small whole-numbered constants, by name."""
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor).ravel().tolist()
        for tensor in network.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    for node in network.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                value = helper.get_attribute_value(attribute)
                if attribute.name == "value":
                    constants[node.output[0]] = onnx.numpy_helper.to_array(value).ravel().tolist()
                elif attribute.name == "value_ints":
                    constants[node.output[0]] = list(value)
    return constants
