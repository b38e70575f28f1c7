"""
The serving graph: what the file computes around the network.

    images uint8 (N, 256, 256, 3), crops int64 ()
        -> pixels         the crop; or the image and its mirror image, one under the other
        -> feature maps   the convolutions; for ten crops once where the crops are equal
        -> logits         float32 (V * N, classes)
        -> view_probabilities (N, V, classes), probabilities (N, classes)
           features           float32 (N, width), what the last layer takes, the mean over the views

One trunk serves every choice of crops, over one copy of the weights:

* one    the centre goes through it
* dense  the image and its mirror image go through it whole; the five windows are cut out of the
         last maps before their pooling
* ten    as dense, through the first convolutions.  A crop is padded with zeros where the image
         goes on, so its feature map differs there from the whole image's: these strips are
         computed from the crop and pasted over (`crop_sharing.py`)

Only cutting and joining is in branches.  What a choice does not need has no rows.

A network that is not a chain of layers, such as one with skip connections, is not taken apart:
the ten views go through it as it is, and the file offers no dense.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from model_export.builder import Builder
from model_export.crop_sharing import FeatureMaps, Region, apply, channels_first, crops_of_images
from model_export.errors import NotAChain
from model_export.layer_blocks import (
    Chain,
    Part,
    in_order,
    last_layer_takes,
    separate_padding,
    take_apart,
)
from model_export.receptive_field import Extent, NotAligned, Window, after
from model_export.variants import Normalisation

IMAGE_SIZE = 256  # pixels; the square that the service sends
# The choices, by the names that the service offers.  The numbers are codes: dense has ten views.
CROPS = {"ten": 10, "one": 1, "dense": 2}
FEATURES = "features"  # the output; the others are in every file
UNSHARED = "unshared"  # metadata: why a network could not be taken apart
# The highest in which every layer has a CUDA kernel in onnxruntime-gpu 1.31: those of MaxPool end
# at 21, and at 23 each of them ran on the CPU, with a copy to it and one back.
OPSET, IR_VERSION = 21, 10
# Convolutions shared by the ten crops: after two, a third would save 2.8% more of the work and
# differ in five rows of thirteen.
SHARED = 2


def corners(crop_size: int) -> list[tuple[int, int]]:
    """(row, column) of the five crops of section 4.1: the four corners, then the centre.

    Half pixels go down, as in Caffe: 227 of 256 begins at 14.
    """
    far, middle = IMAGE_SIZE - crop_size, (IMAGE_SIZE - crop_size) // 2
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]


def views_of(crop_size: int) -> list[dict[str, object]]:
    """The ten views in the order of ``view_probabilities``, in pixels of the square: each is
    a square of ``crop_size`` at ``left``, ``top``, mirrored or not.  One crop is the centre."""
    names = ("top left", "top right", "bottom left", "bottom right", "centre")
    return [
        {"name": name, "left": x, "top": y, "side": crop_size, "mirrored": mirrored}
        for mirrored in (False, True)
        for name, (y, x) in zip(names, corners(crop_size), strict=True)
    ]


def serving_graph(
    network: ModelProto,
    *,
    crop_size: int,
    normalisation: Normalisation,
    share: bool = True,
    crops: str | None = None,
) -> ModelProto:
    """Put the crops around a network (views -> logits) and the averaged softmax after it.

    If the network's input is uint8 it gets the pixels as they are; otherwise they are normalised
    first.  If the network is not a chain of layers, or the crops begin between the places of its
    feature maps, nothing can be shared and there is no dense choice.  ``share=False`` cuts ten
    crops from the image and computes them one by one; tests compare the shared graph with that.
    With ``crops``, ten or one, the graph has this choice alone, without a branch, for runtimes that
    know no default of an input.
    """
    g = Builder()
    try:
        chain = _with_front(g, network, normalisation)
    except NotAChain as reason:
        return _whole(network, crop_size, normalisation, str(reason), crops)
    is_one = _is_one(g, crops)
    choices = dict(CROPS)
    if share and crops != "one" and _aligned(chain, crop_size):
        is_dense, is_ten = _is_dense_or_ten(g, crops, is_one)
        images = _choice(g, crop_size, is_one, _image_and_mirror)
        feature_maps = _trunk(g, chain, crop_size, images, is_ten, is_dense)
        order = _order(crop_size)
    else:
        feature_maps = _choice(g, crop_size, is_one, _ten_views)
        for block in chain.blocks:
            feature_maps = apply(g, block.parts, feature_maps)
        order = list(range(2 * len(corners(crop_size))))
        del choices["dense"]
    rest, hidden = chain.rest, last_layer_takes(network)
    place = next((i for i, node in enumerate(rest, 1) if hidden in node.output), 0)
    features = g.over(rest[:place], channels_first(g, feature_maps).name)
    _averaged(g, g.over(rest[place:], features), order)
    if hidden is not None:
        _features(g, features, network, hidden)
    return _model(network, chain.constants, g, choices if crops is None else {crops: CROPS[crops]})


def _is_one(g: Builder, crops: str | None) -> str | bool:
    if crops is not None:
        return crops == "one"
    return g.add("Equal", "crops", g.constant(CROPS["one"]))


def _is_dense_or_ten(
    g: Builder, crops: str | None, is_one: str | bool
) -> tuple[str | bool, str | bool]:
    if isinstance(is_one, bool):
        return crops == "dense", crops == "ten"
    is_dense = g.add("Equal", "crops", g.constant(CROPS["dense"]))
    return is_dense, g.add("Not", g.add("Or", is_one, is_dense))


def crops_of(model: ModelProto) -> dict[str, int]:
    """The choices that a serving graph offers: name -> value of its input ``crops``."""
    written = {entry.key: entry.value for entry in model.metadata_props}
    crops: dict[str, int] = json.loads(written["crops"])
    return crops


def unshared(model: ModelProto) -> str:
    """Why a serving graph computes ten crops one by one and offers no dense; empty if it shares
    their work."""
    if "dense" in crops_of(model):
        return ""
    written: dict[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    return written.get(UNSHARED, "the crops begin between the places of the network's maps")


def _whole(
    network: ModelProto,
    crop_size: int,
    normalisation: Normalisation,
    reason: str,
    crops: str | None,
) -> ModelProto:
    """The serving graph of a network that is not a chain: it keeps its nodes and the names of its
    values, and a batch of ten views, or of the centre, goes through them."""
    g = Builder()
    is_one = _is_one(g, crops)
    pixels = channels_first(g, _choice(g, crop_size, is_one, _ten_views))
    views = _normalised(g, _channels(g, pixels.name, normalisation), normalisation)
    g.add("Identity", views, output=network.graph.input[0].name)
    g.nodes.extend(in_order(network))
    _averaged(g, network.graph.output[0].name, list(range(2 * len(corners(crop_size)))))
    if (hidden := last_layer_takes(network)) is not None:
        _features(g, hidden, network, hidden)
    choices = ("ten", "one") if crops is None else (crops,)
    model = _model(network, [], g, {name: CROPS[name] for name in choices})
    model.metadata_props.add(key=UNSHARED, value=reason)
    return model


# ---- before the network: images of bytes, channels last


def _choice(
    g: Builder, crop_size: int, is_one: str | bool, several: Callable[[Builder, int], list[str]]
) -> FeatureMaps:
    """The centre crop, or the images from which several views are cut."""
    with g.branch() as centre:
        y, x = corners(crop_size)[-1]
        crop = _crop(g, "images", y, x, crop_size)
    with g.branch() as others:
        more = g.join(several(g, crop_size), axis=0)
    name = g.choose(is_one, (centre, [crop]), (others, [more]), TensorProto.UINT8)[0]
    return FeatureMaps(name, TensorProto.UINT8)


def _image_and_mirror(g: Builder, crop_size: int) -> list[str]:
    return ["images", _mirrored(g)]


def _ten_views(g: Builder, crop_size: int) -> list[str]:
    """The five crops, then their mirror images: the mirror of a crop that begins at column x is
    the crop of the mirrored image that begins at 256 - crop_size - x."""
    mirrored = _mirrored(g)
    crops = [_crop(g, "images", y, x, crop_size) for y, x in corners(crop_size)]
    return crops + [
        _crop(g, mirrored, y, IMAGE_SIZE - crop_size - x, crop_size) for y, x in corners(crop_size)
    ]


def _crop(g: Builder, images: str, y: int, x: int, crop_size: int) -> str:
    return g.cut(images, (1, y, y + crop_size), (2, x, x + crop_size))


def _mirrored(g: Builder) -> str:
    start, end, axis, step = (g.constant([value]) for value in (-1, -IMAGE_SIZE - 1, 2, -1))
    return g.add("Slice", "images", start, end, axis, step)


def _with_front(g: Builder, network: ModelProto, normalisation: Normalisation) -> Chain:
    """The chain, its first block taking images as they are sent."""
    chain = take_apart(network)
    takes_pixels = network.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    with g.branch() as nodes:
        value = _channels(g, "pictures", normalisation)
        if not takes_pixels:
            value = _normalised(g, value, normalisation)
        g.over(chain.before, value)
    front = [Part(tuple(nodes), Window(), Window(), TensorProto.UNDEFINED)] if nodes else []
    first, *others = chain.blocks
    (convolution,) = first.convolution
    if takes_pixels:
        # The pixel values that normalisation maps to zero.
        values = [round(value) for value in normalisation.mean]
        values = {"RGB": values, "BGR": values[::-1], "L": values * 3}[normalisation.channels]
        padding, convolution = separate_padding(convolution, tuple(values))
        front.insert(0, padding)
    first = replace(first, convolution=(*front, convolution))
    return replace(chain, blocks=(first, *others))


def _channels(g: Builder, channels: str, normalisation: Normalisation) -> str:
    """RGB as it is, reversed to BGR, or the luma of ITU-R 601 in Pillow's whole numbers: float32
    holds them exactly below 2 ** 24, so every runtime rounds alike."""
    if normalisation.channels == "RGB":
        return channels
    if normalisation.channels == "BGR":
        return g.add("Gather", channels, g.constant([2, 1, 0]), axis=1)
    weights = g.constant(np.reshape([19595, 38470, 7471], (1, 3, 1, 1)), np.float32)
    colours = g.add("Cast", channels, to=TensorProto.FLOAT)
    grey = g.add("ReduceSum", g.add("Mul", colours, weights), g.constant([1]))
    raised = g.add("Add", grey, g.constant(32768, np.float32))
    luma = g.add("Floor", g.add("Div", raised, g.constant(65536, np.float32)))
    return g.add("Cast", luma, to=TensorProto.UINT8)


def _normalised(g: Builder, channels: str, normalisation: Normalisation) -> str:
    mean, std = (
        g.constant(np.reshape(values, (1, -1, 1, 1)), np.float32)
        for values in (normalisation.mean, normalisation.std)
    )
    pixels = g.add("Cast", channels, to=TensorProto.FLOAT)
    return g.add("Div", g.add("Sub", pixels, mean), std)


# ---- the convolutions


def _aligned(chain: Chain, crop_size: int) -> bool:
    """Whether every crop, and every mirror image of one, begins at a place of the last maps."""
    places = set(corners(crop_size))
    if {(y, IMAGE_SIZE - crop_size - x) for y, x in places} != places:
        return False
    try:
        _trunk(Builder(), chain, crop_size, FeatureMaps("dry run", TensorProto.UINT8), "", "")
    except NotAligned:
        return False
    return True


def _windows(chain: Chain, crop_size: int) -> list[Region]:
    """The crops' rows and columns in the maps before the last pooling."""
    parts = [part for block in chain.blocks[:-1] for part in block.parts]
    parts += chain.blocks[-1].convolution
    return [
        (
            after(Extent(y, crop_size, IMAGE_SIZE), [part.rows for part in parts]),
            after(Extent(x, crop_size, IMAGE_SIZE), [part.columns for part in parts]),
        )
        for y, x in corners(crop_size)
    ]


def _trunk(
    g: Builder,
    chain: Chain,
    crop_size: int,
    images: FeatureMaps,
    is_ten: str | bool,
    is_dense: str | bool,
) -> FeatureMaps:
    """All blocks; the first ones shared by the ten crops, the last one's maps cut for dense.

    The shared blocks but the last are joined after their pooling, when there is less to join; the
    last one before it: a pooled strip would need five rows of its convolution, an unpooled one
    three.  The network's last block is never shared, since dense cuts within it.
    """
    count = min(SHARED, len(chain.blocks) - 1)
    shared, (*middle, last) = chain.blocks[:count], chain.blocks[count:]
    crops = crops_of_images(images, corners(crop_size), crop_size, IMAGE_SIZE)
    for block in shared[:-1]:
        crops = crops.through(g, block.parts, is_ten)
    for block in shared[-1:]:
        crops = crops.through(g, block.convolution, is_ten)
    feature_maps = crops.chosen(g, is_ten)
    for block in shared[-1:]:
        feature_maps = apply(g, block.pooling, feature_maps)
    feature_maps = apply(
        g, [*(part for block in middle for part in block.parts), *last.convolution], feature_maps
    )
    with g.branch() as dense:
        windows = [_window(g, feature_maps, region) for region in _windows(chain, crop_size)]
        cut = g.join(windows, axis=0)
    name = g.choose(is_dense, (dense, [cut]), ([], [feature_maps.name]), feature_maps.element)[0]
    return apply(g, last.pooling, FeatureMaps(name, feature_maps.element))


def _window(g: Builder, feature_maps: FeatureMaps, region: Region) -> str:
    """A window of the maps, by its length too: OpenVINO takes ten crops for certain where it finds
    them by default, and then the windows of dense, which are not asked for, end beyond the maps."""
    axis, (y, x) = feature_maps.rows, region
    shape = [-1, 0, y.length, x.length] if axis == 2 else [-1, y.length, x.length, 0]
    cut = g.cut(feature_maps.name, (axis, y.start, y.end), (axis + 1, x.start, x.end))
    return g.add("Reshape", cut, g.constant(shape))


# ---- after the network


def _order(crop_size: int) -> list[int]:
    """Where the shared trunk puts each view: crop by crop, the image's before its mirror's."""
    places = corners(crop_size)
    mirrors = [places.index((y, IMAGE_SIZE - crop_size - x)) for y, x in places]
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
    g.add("Transpose", ordered, perm=[1, 0, 2], output="view_probabilities")
    g.add("ReduceMean", "view_probabilities", g.constant([1]), output="probabilities", keepdims=0)


def _features(g: Builder, value: str, network: ModelProto, hidden: str) -> None:
    """The mean over the views of ``value``, which is called ``hidden`` in the network.

    Of 8 bit it is what comes out of the rounding, which the last layer takes: the value before
    it would be computed for this output alone.
    """
    typed = onnx.shape_inference.infer_shapes(network).graph
    (tensor,) = (each.type.tensor_type for each in typed.value_info if each.name == hidden)
    if tensor.elem_type != TensorProto.FLOAT:
        value = g.add("Cast", value, to=TensorProto.FLOAT)
    count, width = g.add("Shape", "images", start=0, end=1), tensor.shape.dim[-1].dim_value
    shape = g.add("Concat", g.constant([-1]), count, g.constant([width]), axis=0)
    g.add(
        "ReduceMean", g.add("Reshape", value, shape), g.constant([0]), output=FEATURES, keepdims=0
    )
    g.outputs.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", width]))


def _model(
    network: ModelProto, constants: Sequence[NodeProto], g: Builder, crops: Mapping[str, int]
) -> ModelProto:
    """The builder's nodes as a model that ONNX's checker accepts."""
    classes = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*constants, *g.nodes],
        "alexnet",
        [
            tensor("images", TensorProto.UINT8, ["N", IMAGE_SIZE, IMAGE_SIZE, 3]),
            tensor("crops", TensorProto.INT64, []),
        ],
        [
            tensor("probabilities", TensorProto.FLOAT, ["N", classes]),
            tensor("view_probabilities", TensorProto.FLOAT, ["N", "V", classes]),
            *g.outputs,
        ],
        [
            # An initialiser of an input's name is its default.
            helper.make_tensor("crops", TensorProto.INT64, [], [next(iter(crops.values()))]),
            *network.graph.initializer,
            *g.constants.values(),
        ],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset])
    metadata = {entry.key: entry.value for entry in network.metadata_props}
    helper.set_model_props(model, metadata | {"crops": json.dumps(dict(crops))})
    onnx.checker.check_model(model, full_check=True)
    return model
