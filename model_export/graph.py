"""
The serving graph: what stands before, around and after the network in the model file.

    images uint8 (N, 256, 256, 3), crops int64 ()
        -> pixels   the crop; or the image and its mirror image, one under the other
        -> maps     the convolutions; for ten crops once where the crops are equal
        -> logits   float32 (V * N, classes)
        -> view_probabilities (N, V, classes), probabilities (N, classes)

One trunk serves every choice of crops, over one copy of the weights:

* one    the centre goes through it
* dense  the image and its mirror image go through it whole; the five windows are cut out of the
         last maps before their pooling
* ten    as dense, through the first convolutions; wherever a crop's map differs from the whole
         image's, since the crop ends there in zeros, the strip is computed from the crop
         and laid over (`sharing.py`)

Only the cutting and joining stands in branches.  What was not asked for has no rows.

A network that is no chain of layers, as one with skip connections, is not taken apart: the ten
views go through it as it is, and dense is not offered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from model_export.builder import Builder
from model_export.crop_sharing import Maps, Place, apply, crops_of_images, planes_first
from model_export.errors import NotAChain
from model_export.layer_blocks import Chain, Part, framed, in_order, take_apart
from model_export.receptive_field import NotAligned, Span, Window, after
from model_export.variants import Normalisation

SIDE = 256  # pixels; the square that the service sends
# The choices, by the names that the service offers.  The numbers are codes: dense has ten views.
CROPS = {"ten": 10, "one": 1, "dense": 2}
UNSHARED = "unshared"  # metadata: why a network could not be taken apart
OPSET, IR_VERSION = 23, 10
# Convolutions shared by the ten crops: after two, a third would save 2.8% more of the work and
# differ in five rows of thirteen.
SHARED = 2


def corners(side: int) -> list[tuple[int, int]]:
    """(row, column) of the five crops of section 4.1: the four corners, then the centre.

    Half pixels go down, as in Caffe: 227 of 256 begins at 14.
    """
    far, middle = SIDE - side, (SIDE - side) // 2
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]


def views_of(side: int) -> list[dict[str, object]]:
    """The ten views in the order of ``view_probabilities``, in pixels of the square: each is a
    square of ``side`` at ``left``, ``top``, seen in a mirror or not.  One crop is the centre."""
    names = ("top left", "top right", "bottom left", "bottom right", "centre")
    return [
        {"name": name, "left": x, "top": y, "side": side, "mirrored": mirrored}
        for mirrored in (False, True)
        for name, (y, x) in zip(names, corners(side), strict=True)
    ]


def serving_graph(
    network: ModelProto, *, side: int, normalisation: Normalisation, share: bool = True
) -> ModelProto:
    """Put the crops around a network (views -> logits) and the averaged softmax after it.

    A network whose input is uint8 takes the pixels as they are, else they are normalised.  Where
    the network is no chain of layers, or the crops do not begin at places of its maps, there is no
    dense choice and nothing to share.  ``share=False`` cuts ten crops from the image and computes
    them one by one: what the shared graph is held against.
    """
    g = Builder()
    try:
        chain = _with_front(g, network, normalisation)
    except NotAChain as reason:
        return _whole(network, side, normalisation, str(reason))
    is_one = g.add("Equal", "crops", g.constant(CROPS["one"]))
    crops = dict(CROPS)
    if share and _aligned(chain, side):
        is_dense = g.add("Equal", "crops", g.constant(CROPS["dense"]))
        is_ten = g.add("Not", g.add("Or", is_one, is_dense))
        images = _choice(g, side, is_one, _image_and_mirror)
        maps = _trunk(g, chain, side, images, is_ten, is_dense)
        order = _order(side)
    else:
        maps = _choice(g, side, is_one, _ten_views)
        for block in chain.blocks:
            maps = apply(g, block.parts, maps)
        order = list(range(2 * len(corners(side))))
        del crops["dense"]
    _averaged(g, g.over(chain.rest, planes_first(g, maps).name), order)
    return _model(network, chain.constants, g, crops)


def crops_of(model: ModelProto) -> dict[str, int]:
    """The choices that a serving graph offers: name -> value of its input ``crops``."""
    written = {entry.key: entry.value for entry in model.metadata_props}
    crops: dict[str, int] = json.loads(written["crops"])
    return crops


def unshared(model: ModelProto) -> str:
    """Why a serving graph computes ten crops one by one and offers no dense; empty where it shares
    their work."""
    if "dense" in crops_of(model):
        return ""
    written: dict[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    return written.get(UNSHARED, "the crops begin between the places of the network's maps")


def _whole(network: ModelProto, side: int, normalisation: Normalisation, reason: str) -> ModelProto:
    """The serving graph of a network that is no chain: its nodes and the names of its values stay
    as they are, and a batch of ten views, or of the centre, goes through them."""
    g = Builder()
    is_one = g.add("Equal", "crops", g.constant(CROPS["one"]))
    pixels = planes_first(g, _choice(g, side, is_one, _ten_views))
    views = _normalised(g, _planes(g, pixels.name, normalisation), normalisation)
    g.add("Identity", views, gives=network.graph.input[0].name)
    g.nodes.extend(in_order(network))
    _averaged(g, network.graph.output[0].name, list(range(2 * len(corners(side)))))
    model = _model(network, [], g, {name: CROPS[name] for name in ("ten", "one")})
    model.metadata_props.add(key=UNSHARED, value=reason)
    return model


# ---- before the network: images of bytes, their planes last


def _choice(
    g: Builder, side: int, is_one: str, several: Callable[[Builder, int], list[str]]
) -> Maps:
    """The centre crop, or that from which several views are made."""
    with g.branch() as centre:
        y, x = corners(side)[-1]
        one = _crop(g, "images", y, x, side)
    with g.branch() as others:
        more = g.join(several(g, side), axis=0)
    name = g.choose(is_one, (centre, [one]), (others, [more]), TensorProto.UINT8)[0]
    return Maps(name, TensorProto.UINT8)


def _image_and_mirror(g: Builder, side: int) -> list[str]:
    return ["images", _mirrored(g)]


def _ten_views(g: Builder, side: int) -> list[str]:
    """The five crops, then their mirror images: the mirror of a crop that begins at column x is
    the crop of the mirrored image that begins at 256 - side - x."""
    mirrored = _mirrored(g)
    crops = [_crop(g, "images", y, x, side) for y, x in corners(side)]
    return crops + [_crop(g, mirrored, y, SIDE - side - x, side) for y, x in corners(side)]


def _crop(g: Builder, images: str, y: int, x: int, side: int) -> str:
    return g.cut(images, (1, y, y + side), (2, x, x + side))


def _mirrored(g: Builder) -> str:
    start, end, axis, step = (g.constant([value]) for value in (-1, -SIDE - 1, 2, -1))
    return g.add("Slice", "images", start, end, axis, step)


def _with_front(g: Builder, network: ModelProto, normalisation: Normalisation) -> Chain:
    """The chain, its first block taking images as they are sent."""
    chain = take_apart(network)
    takes_pixels = network.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    with g.branch() as nodes:
        value = _planes(g, "pictures", normalisation)
        if not takes_pixels:
            value = _normalised(g, value, normalisation)
        g.over(chain.before, value)
    front = [Part(tuple(nodes), Window(), Window(), TensorProto.UNDEFINED)] if nodes else []
    first, *others = chain.blocks
    (convolution,) = first.convolution
    if takes_pixels:
        # What normalisation would make zero.
        fill = [round(value) for value in normalisation.mean]
        fill = {"RGB": fill, "BGR": fill[::-1], "L": fill * 3}[normalisation.planes]
        frame, convolution = framed(convolution, tuple(fill))
        front.insert(0, frame)
    first = replace(first, convolution=(*front, convolution))
    return replace(chain, blocks=(first, *others))


def _planes(g: Builder, planes: str, normalisation: Normalisation) -> str:
    """RGB as it comes, BGR turned round, or the luma of ITU-R 601 in Pillow's whole numbers: below
    2 ** 24 float32 holds them exactly, so that every runtime rounds alike."""
    if normalisation.planes == "RGB":
        return planes
    if normalisation.planes == "BGR":
        return g.add("Gather", planes, g.constant([2, 1, 0]), axis=1)
    weights = g.constant(np.reshape([19595, 38470, 7471], (1, 3, 1, 1)), np.float32)
    colours = g.add("Cast", planes, to=TensorProto.FLOAT)
    grey = g.add("ReduceSum", g.add("Mul", colours, weights), g.constant([1]))
    raised = g.add("Add", grey, g.constant(32768, np.float32))
    luma = g.add("Floor", g.add("Div", raised, g.constant(65536, np.float32)))
    return g.add("Cast", luma, to=TensorProto.UINT8)


def _normalised(g: Builder, planes: str, normalisation: Normalisation) -> str:
    mean, std = (
        g.constant(np.reshape(values, (1, -1, 1, 1)), np.float32)
        for values in (normalisation.mean, normalisation.std)
    )
    pixels = g.add("Cast", planes, to=TensorProto.FLOAT)
    return g.add("Div", g.add("Sub", pixels, mean), std)


# ---- the convolutions


def _aligned(chain: Chain, side: int) -> bool:
    """Whether every crop, and every mirror image of one, begins at a place of the last maps."""
    places = set(corners(side))
    if {(y, SIDE - side - x) for y, x in places} != places:
        return False
    try:
        _trunk(Builder(), chain, side, Maps("dry run", TensorProto.UINT8), "", "")
    except NotAligned:
        return False
    return True


def _windows(chain: Chain, side: int) -> list[Place]:
    """The crops' rows and columns in the maps before the last pooling."""
    parts = [part for block in chain.blocks[:-1] for part in block.parts]
    parts += chain.blocks[-1].convolution
    return [
        (
            after(Span(y, side, SIDE), [part.rows for part in parts]),
            after(Span(x, side, SIDE), [part.columns for part in parts]),
        )
        for y, x in corners(side)
    ]


def _trunk(g: Builder, chain: Chain, side: int, images: Maps, is_ten: str, is_dense: str) -> Maps:
    """All blocks; the first ones shared by the ten crops, the last one's maps cut for dense.

    The shared blocks but the last are joined after their pooling, when there is less to join; the
    last one before it: a pooled strip would need five rows of its convolution, an unpooled one
    three.  The network's last block is never shared, since dense cuts within it.
    """
    count = min(SHARED, len(chain.blocks) - 1)
    shared, (*middle, last) = chain.blocks[:count], chain.blocks[count:]
    crops = crops_of_images(images, corners(side), side, SIDE)
    for block in shared[:-1]:
        crops = crops.through(g, block.parts, is_ten)
    for block in shared[-1:]:
        crops = crops.through(g, block.convolution, is_ten)
    maps = crops.chosen(g, is_ten)
    for block in shared[-1:]:
        maps = apply(g, block.pooling, maps)
    maps = apply(g, [*(part for block in middle for part in block.parts), *last.convolution], maps)
    with g.branch() as dense:
        axis = maps.rows
        windows = [
            g.cut(maps.name, (axis, y.start, y.end), (axis + 1, x.start, x.end))
            for y, x in _windows(chain, side)
        ]
        cut = g.join(windows, axis=0)
    name = g.choose(is_dense, (dense, [cut]), ([], [maps.name]), maps.element)[0]
    return apply(g, last.pooling, Maps(name, maps.element))


# ---- after the network


def _order(side: int) -> list[int]:
    """Where the shared trunk leaves each view: crop by crop, the image's before its mirror's."""
    places = corners(side)
    mirrors = [places.index((y, SIDE - side - x)) for y, x in places]
    return [2 * place for place in range(len(places))] + [2 * place + 1 for place in mirrors]


def _averaged(g: Builder, logits: str, order: Sequence[int]) -> None:
    """Softmax of each view, then their mean: the order of section 4.1."""
    each = g.add("Softmax", logits, axis=-1)
    count = g.add("Shape", "images", start=0, end=1)
    classes = g.add("Shape", logits, start=1, end=2)
    by_view = g.add("Reshape", each, g.add("Concat", g.constant([-1]), count, classes, axis=0))
    views = g.add("Shape", by_view, start=0, end=1)
    # One view is the first of the order, too.
    places = g.add("Slice", g.constant(order), g.constant([0]), views)
    ordered = g.add("Gather", by_view, places, axis=0)
    g.add("Transpose", ordered, perm=[1, 0, 2], gives="view_probabilities")
    g.add("ReduceMean", "view_probabilities", g.constant([1]), gives="probabilities", keepdims=0)


def _model(
    network: ModelProto, constants: Sequence[NodeProto], g: Builder, crops: Mapping[str, int]
) -> ModelProto:
    """What was written, as a checked model."""
    classes = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*constants, *g.nodes],
        "alexnet",
        [
            tensor("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3]),
            tensor("crops", TensorProto.INT64, []),
        ],
        [
            tensor("probabilities", TensorProto.FLOAT, ["N", classes]),
            tensor("view_probabilities", TensorProto.FLOAT, ["N", "V", classes]),
        ],
        [
            # An initialiser of an input's name is its default: who sends nothing gets this.
            helper.make_tensor("crops", TensorProto.INT64, [], [CROPS["ten"]]),
            *network.graph.initializer,
            *g.constants.values(),
        ],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset])
    told = {entry.key: entry.value for entry in network.metadata_props}
    helper.set_model_props(model, told | {"crops": json.dumps(dict(crops))})
    onnx.checker.check_model(model, full_check=True)
    return model
