"""
The serving graph: what stands before and after the network in the model file.

    images uint8 (N, 256, 256, 3), crops int64 ()
        -> views float32 (N * V, planes, side, side)       cut, mirrored, normalised
        -> logits float32 (N * V, classes)                 the network
        -> view_probabilities (N, V, classes), probabilities (N, classes)

One trunk serves every choice of crops: only the cutting stands in a branch, so that there is one
copy of the weights and what was not asked for costs nothing.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, compose, helper, parser

from model_export.variants import Normalisation

SIDE = 256  # pixels; the square that the service sends
CROPS = {"ten": 10, "one": 1}  # the choices, by the names that the service offers
OPSET, IR_VERSION = 23, 10


def corners(side: int) -> list[tuple[int, int]]:
    """(row, column) of the five crops of section 4.1: the four corners, then the centre.

    Half pixels go down, as in Caffe: 227 of 256 begins at 14.
    """
    far, middle = SIDE - side, (SIDE - side) // 2
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]


def serving_graph(network: ModelProto, *, side: int, normalisation: Normalisation) -> ModelProto:
    """Put the crops before a network (views -> logits) and the averaged softmax after it."""
    front = parser.parse_model(_front(side, normalisation))
    back = parser.parse_model(_back())
    model = compose.merge_models(front, network, [("views", "views")])
    model = compose.merge_models(model, back, [("logits", "logits"), ("planes", "pictures")])
    _default(model, "crops", CROPS["ten"])
    del model.opset_import[:]  # merging leaves one for each part
    model.opset_import.append(helper.make_opsetid("", OPSET))
    del model.graph.output[:]
    classes = _classes(network)
    shapes: dict[str, list[str | int | None]] = {
        "probabilities": ["N", classes],
        "view_probabilities": ["N", "V", classes],
    }
    for name, shape in shapes.items():
        model.graph.output.append(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        )
    model.graph.name = "alexnet"
    onnx.checker.check_model(model, full_check=True)
    return model


def _front(side: int, normalisation: Normalisation) -> str:
    """Cut first, in uint8; then widen, so that a picture is moved about in its smallest form."""
    planes = len(normalisation.mean)
    nodes = ["planes = Transpose <perm = [0, 3, 1, 2]> (images)", *_planes(normalisation)]
    ten = _ten(side)
    y, x = corners(side)[-1]
    one = [
        *_slice("one_view", "chosen_planes", y, x, side),
        "one_views = Unsqueeze (one_view, axis_1)",
    ]
    branches = (
        f"then_branch = one_crop () => (uint8[N, 1, {planes}, {side}, {side}] one_views) "
        f"{{ {' '.join(one)} }}, "
        f"else_branch = ten_crops () => (uint8[N, 10, {planes}, {side}, {side}] ten_views) "
        f"{{ {' '.join(ten)} }}"
    )
    nodes += [
        "is_one = Equal (crops, one)",
        f"views_per_picture = If (is_one) < {branches} >",
        "every_view = Reshape (views_per_picture, view_shape)",
        "pixels = Cast <to = 1> (every_view)",
        "centred = Sub (pixels, mean)",
        "views = Div (centred, std)",
    ]
    numbers = {
        "int64 one": "1",
        "int64[1] axis_1": "1",
        "int64[1] mirror_start": "-1",
        "int64[1] mirror_end": str(-SIDE - 1),
        "int64[1] mirror_axis": "3",
        "int64[1] mirror_step": "-1",
        "int64[2] crop_axes": "2, 3",
        "int64[4] view_shape": f"-1, {planes}, {side}, {side}",
        f"float[1, {planes}, 1, 1] mean": _numbers(normalisation.mean),
        f"float[1, {planes}, 1, 1] std": _numbers(normalisation.std),
        **_offsets(side),
    }
    constants = ", ".join(f"{name} = {{ {value} }}" for name, value in numbers.items())
    return (
        f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>\n'
        f"front (uint8[N, {SIDE}, {SIDE}, 3] images, int64 crops) => "
        f"(float[M, {planes}, {side}, {side}] views, uint8[N, 3, {SIDE}, {SIDE}] planes) "
        f"<{constants}> {{\n" + "\n".join(nodes) + "\n}"
    )


def _planes(normalisation: Normalisation) -> list[str]:
    """RGB as it comes, BGR turned round, or the luma of ITU-R 601 in Pillow's whole numbers: below
    2 ** 24 float32 holds them exactly, so that every runtime rounds alike."""
    if normalisation.planes == "RGB":
        return ["chosen_planes = Identity (planes)"]
    if normalisation.planes == "BGR":
        return [
            "backwards = Constant <value_ints = [2, 1, 0]> ()",
            "chosen_planes = Gather <axis = 1> (planes, backwards)",
        ]
    return [
        "luma = Constant <value = float[1, 3, 1, 1] {19595.0, 38470.0, 7471.0}> ()",
        "half = Constant <value_float = 32768.0> ()",
        "unit = Constant <value_float = 65536.0> ()",
        "plane_axis = Constant <value_ints = [1]> ()",
        "colours = Cast <to = 1> (planes)",
        "weighted = Mul (colours, luma)",
        "grey = ReduceSum (weighted, plane_axis)",
        "raised = Add (grey, half)",
        "luma_of_each = Div (raised, unit)",
        "rounded = Floor (luma_of_each)",
        "chosen_planes = Cast <to = 2> (rounded)",
    ]


def _ten(side: int) -> list[str]:
    """The five crops, then their mirror images: the mirror of a crop that begins at column x is
    the crop of the mirrored picture that begins at 256 - side - x."""
    nodes = ["mirrored = Slice (chosen_planes, mirror_start, mirror_end, mirror_axis, mirror_step)"]
    names = []
    for picture, flip in (("chosen_planes", False), ("mirrored", True)):
        for place, (y, x) in enumerate(corners(side)):
            name = f"view_{place + 5 * flip}"
            nodes += _slice(name, picture, y, SIDE - side - x if flip else x, side)
            nodes.append(f"{name}_of = Unsqueeze ({name}, axis_1)")
            names.append(f"{name}_of")
    return [*nodes, f"ten_views = Concat <axis = 1> ({', '.join(names)})"]


def _slice(name: str, picture: str, y: int, x: int, side: int) -> list[str]:
    return [f"{name} = Slice ({picture}, from_{y}_{x}, to_{y}_{x}, crop_axes)"]


def _offsets(side: int) -> dict[str, str]:
    places = {(y, column) for y, x in corners(side) for column in (x, SIDE - side - x)}
    return {
        f"int64[2] {word}_{y}_{x}": f"{y + add}, {x + add}"
        for y, x in sorted(places)
        for word, add in (("from", 0), ("to", side))
    }


def _back() -> str:
    """Softmax of each view, then their mean: the order of section 4.1."""
    return f"""<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
        back (float[M, C] logits, uint8[N, 3, {SIDE}, {SIDE}] pictures)
          => (float[N, C] probabilities, float[N, V, C] view_probabilities) {{
            each = Softmax <axis = -1> (logits)
            count = Shape <start = 0, end = 1> (pictures)
            classes = Shape <start = 1, end = 2> (logits)
            views_of_each = Constant <value_ints = [-1]> ()
            shape = Concat <axis = 0> (count, views_of_each, classes)
            view_probabilities = Reshape (each, shape)
            view_axis = Constant <value_ints = [1]> ()
            probabilities = ReduceMean <keepdims = 0> (view_probabilities, view_axis)
        }}"""


def _default(model: ModelProto, name: str, value: int) -> None:
    """An initialiser of an input's name is its default: who sends nothing gets this."""
    model.graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [], [value]))


def _classes(network: ModelProto) -> int:
    return int(network.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(repr(float(value)) for value in values)
