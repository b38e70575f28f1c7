"""The ten crops, computed together where they are equal: bit for bit what each alone would give.

The reference cuts ten crops and computes them one by one (``share=False``), or is PyTorch.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import nn

from model_export import export
from model_export.alexnet import AlexNet
from model_export.crops import Floats, Pixels, load_images, to_channels
from model_export.graph import CROPS, crops_of, serving_graph
from model_export.variants import VARIANTS, Normalisation, Variant
from tests.support.networks import (
    MIRRORED,
    Layer,
    feature_maps_of,
    logits,
    narrow,
    noise,
    session,
    without_classifier,
    work,
)

ALIGNED = ["owt", "paper", "d2l"]
# Exact in float32: see `maps_of`.
HALVES = Normalisation((128.0,) * 3, (128.0,) * 3)

# Two convolutions are shared if there are three, else one; the last one is never.
LAST = Layer(2, 3, pads=(1, 1, 1, 1), pool=(3, 2, 0))
INVENTED = {
    "owt": [Layer(3, 11, 4, (2, 2, 2, 2), pool=(3, 2, 0)), Layer(4, 5, 1, (2, 2, 2, 2)), LAST],
    "larger steps": [Layer(3, 8, 8, (3, 3, 3, 3)), Layer(4, 3, 2, (1, 1, 1, 1)), LAST],
    "small kernels": [Layer(3, 3, 2, (1, 1, 1, 1)), Layer(4, 3, 2, (1, 1, 1, 1)), LAST],
    "no padding": [Layer(3, 4, 4), Layer(4, 2, 2), LAST],
    "more below and right": [Layer(3, 11, 4, (0, 0, 3, 3)), Layer(4, 5, 1, (1, 1, 2, 2)), LAST],
    "more above and left": [Layer(3, 7, 4, (5, 4, 0, 1)), Layer(4, 5, 1, (3, 4, 1, 0)), LAST],
    "rows unlike columns": [Layer(3, 5, 4, (4, 0, 0, 0)), Layer(4, 5, 1, (0, 2, 0, 3)), LAST],
    "padded pooling": [
        Layer(3, 5, 4, (2, 2, 2, 2), pool=(3, 1, 1)),
        Layer(4, 3, 2, (1, 1, 1, 1), pool=(3, 1, 1)),
        LAST,
    ],
    "groups": [Layer(4, 5, 4, (2,) * 4), Layer(4, 3, 1, (1,) * 4, groups=2), LAST],
    "normalisation": [
        Layer(8, 5, 4, (2,) * 4, norm=True),
        Layer(8, 3, 1, (1,) * 4, norm=True),
        LAST,
    ],
    "one convolution": [Layer(3, 11, 4, (2,) * 4, pool=(3, 2, 0))],
    "two convolutions": [Layer(3, 11, 4, (2,) * 4, pool=(3, 2, 0)), Layer(4, 5, 1, (2,) * 4)],
    "four convolutions": [
        Layer(3, 11, 4, (2,) * 4),
        Layer(4, 5, 2, (2,) * 4),
        Layer(4, 3, 1, (1,) * 4),
        LAST,
    ],
}


@cache
def _exported(name: str) -> tuple[AlexNet, ModelProto]:
    variant = VARIANTS[name]
    network = narrow(variant)
    return network, export.to_onnx(network, variant.crop_size)


def _served(name: str, network: ModelProto, *, share: bool = True) -> ModelProto:
    row = VARIANTS[name]
    return serving_graph(
        network, crop_size=row.crop_size, normalisation=row.normalisation, share=share
    )


@pytest.mark.parametrize("name", ALIGNED)
def test_the_shared_maps_of_a_variant_are_bit_identical(name: str) -> None:
    """All that the classifier sees of each of the ten, of a real image and of a random one."""
    feature_maps = without_classifier(_exported(name)[1])
    images = np.concatenate([load_images(limit=7)[:1], noise(1)])

    shared, plain = (
        logits(_served(name, feature_maps, share=share), images, CROPS["ten"], threads=2)
        for share in (True, False)
    )

    assert (shared > 0).mean() > 0.2
    assert np.array_equal(shared, plain)


@pytest.mark.parametrize("name", INVENTED)
def test_the_shared_maps_of_an_invented_network_are_equal(name: str) -> None:
    """In whole numbers, where every machine computes exactly."""
    network = feature_maps_of(INVENTED[name])
    shared, plain = (
        serving_graph(network, crop_size=224, normalisation=HALVES, share=share)
        for share in (True, False)
    )
    images = noise(2)

    ten = logits(shared, images, CROPS["ten"])

    assert set(crops_of(shared)) == set(CROPS)
    assert len({view.tobytes() for view in ten[0]}) == 10
    assert np.array_equal(ten, logits(plain, images, CROPS["ten"]))
    one = logits(shared, images, CROPS["one"])
    assert np.array_equal(one, logits(plain, images, CROPS["one"]))


@pytest.mark.parametrize("name", ["all differs", "padding wider than kernels"])
def test_where_nothing_can_be_shared_the_ten_are_right_all_the_same(name: str) -> None:
    layers = {
        "all differs": [Layer(3, 16, 16), Layer(4, 17, 1, (8, 8, 8, 8)), LAST],
        "padding wider than kernels": [Layer(3, 1, 4, (8, 8, 8, 8)), LAST, LAST],
    }
    network = feature_maps_of(layers[name])
    shared, plain = (
        serving_graph(network, crop_size=224, normalisation=HALVES, share=share)
        for share in (True, False)
    )

    ten = logits(shared, noise(1), CROPS["ten"])

    assert np.array_equal(ten, logits(plain, noise(1), CROPS["ten"]))


def test_sharing_saves_a_fifth_of_the_work() -> None:
    """Multiplications of the convolutions of ``owt``, of one image in ten crops."""
    network = _exported("owt")[1]
    shared, plain = (
        sum(each.products for each in work(_served("owt", network, share=share), noise(1), 10))
        for share in (True, False)
    )

    assert plain == 10 * sum(_products(_exported("owt")[0], 224)) == 6_555_665_280
    assert 0.75 < shared / plain < 0.8


@pytest.mark.parametrize(("crops", "crop_size", "views"), [("one", 224, 1), ("dense", 256, 2)])
@pytest.mark.parametrize("name", ALIGNED)
def test_work_that_was_not_asked_for_is_not_done(
    name: str, crops: str, crop_size: int, views: int
) -> None:
    """Each convolution computes the centres, or the images and their mirror images, and no more:
    nothing has rows in the strips, but for one where responses are normalised."""
    network, made = _exported(name)

    done = work(_served(name, made), noise(2), CROPS[crops])

    strips = [each.views for each in done if each.products and each.views < 2]
    assert strips == ([1] * 6 if name == "paper" else [])
    assert [each.views for each in done if each.views > 1] == [2 * views] * 5
    assert [each.products for each in done if each.views > 1] == [
        2 * views * products for products in _products(network, crop_size)
    ]


def _products(network: AlexNet, crop_size: int) -> list[int]:
    """Multiplications of each convolution for one square, counted by PyTorch's own shapes."""
    products = []

    def count(layer: nn.Module, _: object, feature_maps: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        products.append(feature_maps.numel() * layer.weight[0].numel())

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.features
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.inference_mode():
        network.features(torch.zeros(1, network.channels, crop_size, crop_size))
    for hook in hooks:
        hook.remove()
    return products


# Of the crops in the last maps of the whole image: how long, and where those at 0, 16 and 32
# pixels begin, each of which is 16 pixels.
WINDOWS = {"owt": (13, 0, 1, 2), "paper": (13, 0, 1, 2), "d2l": (12, 0, 1, 2)}


@pytest.mark.parametrize("name", ALIGNED)
def test_dense_views_are_windows_of_the_whole_images_last_maps(name: str) -> None:
    """Against PyTorch, the windows worked out by hand."""
    network, made = _exported(name)
    images = np.concatenate([load_images(limit=7)[:1], noise(1)])

    result = logits(_served(name, made), images, CROPS["dense"])

    expected = _dense(network, VARIANTS[name], images, *WINDOWS[name])
    assert result.shape == (2, 10, 10)
    assert expected.std(1).min() > 1e-4  # the views are not all alike
    assert np.abs(result - expected).max() < 1e-4 * np.abs(expected).max()


def _dense(network: AlexNet, variant: Variant, images: Pixels, length: int, *starts: int) -> Floats:
    low, middle, high = starts
    places = [(low, low), (low, high), (high, low), (high, high), (middle, middle)]
    # Mirrored, the crops at the left lie at the right, and so the windows.
    mirrored = [(low, high), (low, low), (high, high), (high, low), (middle, middle)]
    layers = list(network.features)
    trunk, pooling = nn.Sequential(*layers[:-1]), layers[-1]
    views = []
    with torch.inference_mode():
        for whole, windows in ((images, places), (images[:, :, ::-1], mirrored)):
            channels = to_channels(whole, variant.normalisation)
            mean, std = (
                np.reshape(values, (-1, 1, 1)).astype(np.float32)
                for values in (variant.normalisation.mean, variant.normalisation.std)
            )
            feature_maps = trunk(torch.from_numpy((channels - mean) / std))
            views += [
                network.classifier(
                    pooling(feature_maps[:, :, y : y + length, x : x + length]).flatten(1)
                ).numpy()
                for y, x in windows
            ]
    return np.stack(views, axis=1)


@pytest.mark.parametrize("crops", ["ten", "dense"])
@pytest.mark.parametrize("name", INVENTED)
def test_a_mirrored_image_has_the_mirrored_views(name: str, crops: str) -> None:
    model = serving_graph(feature_maps_of(INVENTED[name]), crop_size=224, normalisation=HALVES)
    image = noise(1)

    result = logits(model, image[:, :, ::-1], CROPS[crops])

    assert np.array_equal(result, logits(model, image, CROPS[crops])[:, MIRRORED])


def test_crops_that_begin_between_two_places_of_a_map_are_computed_one_by_one() -> None:
    """``caffe`` takes 227 pixels: its crops begin at 14 and 29, and its conv1 steps by 4."""
    feature_maps = without_classifier(_exported("caffe")[1])
    model = _served("caffe", feature_maps)

    ten = logits(model, noise(1), CROPS["ten"])

    assert crops_of(model) == {"ten": 10, "one": 1}
    assert np.array_equal(ten[:, 4], logits(model, noise(1), CROPS["one"])[:, 0])
    assert [each.views for each in work(model, noise(1), CROPS["ten"])] == [10] * 5


@pytest.mark.parametrize("crops", CROPS)
def test_response_normalisation_is_never_given_nothing(crops: str) -> None:
    """CUDA's raises there; the strips of ten crops are not needed for the other choices."""
    network = feature_maps_of(INVENTED["normalisation"])
    model = serving_graph(network, crop_size=224, normalisation=HALVES)
    normalised = [node.input[0] for node in model.graph.node if node.op_type == "LRN"]
    assert len(normalised) > 2  # of strips, too
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in normalised
    )

    feeds = {"images": noise(2), "crops": np.array(CROPS[crops])}
    shapes = [value.shape for value in session(model).run(normalised, feeds)]

    assert [shape for shape in shapes if 0 in shape] == []
