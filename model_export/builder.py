"""
Nodes, one after another, into an ONNX graph.  `graph.py` writes with it.

Equal constants are stored once, names are generated here, and a branch sees the values outside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_export.layer_blocks import with_padding


@dataclass
class Builder:
    """A graph being written; its values are referred to by name."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[tuple[object, ...], TensorProto] = field(default_factory=dict)
    outputs: list[ValueInfoProto] = field(default_factory=list)  # beyond those of every graph
    _count: int = 0

    def constant(self, value: object, dtype: type[np.generic] = np.int64) -> str:
        """An initialiser; the same one for the same value."""
        array = np.array(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"constant_{len(self.constants)}")
        return str(self.constants[key].name)

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """One node with one output; returns the output's name."""
        return self.several(kind, inputs, [output or self._name(kind)], **attributes)[0]

    def several(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """One node with several outputs, named by the caller."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return list(outputs)

    def cut(self, value: str, *ranges: tuple[int, int, int]) -> str:
        """A part of a value: (axis, first, last + 1) each."""
        axes, first, last = zip(*ranges, strict=True)
        ends = (self.constant(part) for part in (first, last, axes))
        return self.add("Slice", value, *ends)

    def split(self, value: str, count: int) -> list[str]:
        """Equal parts along the first axis."""
        if count == 1:
            return [value]
        names = [self._name("Split") for _ in range(count)]
        return self.several("Split", [value], names, axis=0, num_outputs=count)

    def join(self, values: Sequence[str], axis: int) -> str:
        """Several values as one, along an axis."""
        return values[0] if len(values) == 1 else self.add("Concat", *values, axis=axis)

    def over(
        self, nodes: Sequence[NodeProto], value: str, pads: Sequence[int] | None = None
    ) -> str:
        """Copy nodes of a chain to work on another value and, with ``pads``, with other padding."""
        if not nodes:
            return value
        names = {nodes[0].input[0]: value}
        for node in nodes:
            copy = NodeProto()
            copy.CopyFrom(node)
            if pads is not None and node.op_type in ("Conv", "MaxPool"):
                copy = with_padding(copy, pads)
            copy.name = ""
            for place, name in enumerate(copy.input):
                copy.input[place] = names.get(name, name)
            for place, name in enumerate(copy.output):
                names[name] = copy.output[place] = self._name(node.op_type)
            self.nodes.append(copy)
        return names[nodes[-1].output[0]]

    @contextlib.contextmanager
    def branch(self) -> Iterator[list[NodeProto]]:
        """Nodes that are added inside go to their own list, for `choose`."""
        outside, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outside

    def choose(
        self,
        condition: str | bool,
        when: tuple[list[NodeProto], Sequence[str]],
        otherwise: tuple[list[NodeProto], Sequence[str]],
        element: int,
    ) -> list[str]:
        """An If over two branches, each with the names of its outputs, all of one element type; of
        a condition that is known already, its branch."""
        if isinstance(condition, bool):
            nodes, results = when if condition else otherwise
            self.nodes.extend(nodes)
            return list(results)
        branches = {
            word: self._branch(nodes, results, element)
            for word, (nodes, results) in (("then_branch", when), ("else_branch", otherwise))
        }
        names = [self._name("If") for _ in when[1]]
        return self.several("If", [condition], names, **branches)

    def _branch(self, nodes: list[NodeProto], results: Sequence[str], element: int) -> GraphProto:
        inside = {name for node in nodes for name in node.output}
        outputs = []
        for name in results:
            if name not in inside:  # a branch can only output values of its own nodes
                nodes.append(helper.make_node("Identity", [name], [name := self._name("Identity")]))
            outputs.append(helper.make_tensor_value_info(name, element, None))
        return helper.make_graph(nodes, self._name("branch"), [], outputs)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"
