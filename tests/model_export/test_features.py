"""The output `features`: what the last layer takes, the mean over the views, as PyTorch has it."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from model_export import export, verify
from model_export.alexnet import AlexNet
from model_export.crops import Floats, Pixels, load_images
from model_export.errors import VerificationFailed
from model_export.graph import CROPS, FEATURES, serving_graph
from model_export.precision import PRECISIONS, Runner
from model_export.variants import VARIANTS, Variant
from tests.support.networks import SMALL, Layer, feature_maps_of, narrow, session, small
from tests.support.residual import RESIDUAL, learned

ROWS = {name: VARIANTS[name] for name in ("owt", "paper", "caffe", "d2l")}


@pytest.fixture(scope="module")
def real() -> Pixels:
    """Seven photographs, as many as a verification takes."""
    return load_images(limit=7)[:7]


@cache
def _narrow(variant: str) -> AlexNet:
    return narrow(ROWS[variant])


def _expected(network: AlexNet, row: Variant, images: Pixels, crops: str) -> Floats:
    """PyTorch's."""
    return verify.outputs(
        network,
        images,
        crop_size=row.crop_size,
        normalisation=row.normalisation,
        crops=crops,
    )[1]


def _verify(model: ModelProto, network: AlexNet, images: Pixels) -> list[verify.Agreement]:
    """A file of the small network in fp32 against PyTorch."""
    return verify.verify(
        model,
        network,
        crop_size=SMALL.crop_size,
        normalisation=SMALL.normalisation,
        precision="fp32",
        images=images,
    )


def _crops_of(model: ModelProto) -> dict[str, int]:
    """The choices that a file offers."""
    offered = {entry.key: entry.value for entry in model.metadata_props}["crops"]
    return {name: number for name, number in CROPS.items() if name in offered}


@pytest.mark.parametrize("variant", ROWS)
def test_features_are_the_4096_values_after_the_relu_of_fc7(variant: str, real: Pixels) -> None:
    """Of networks whose layers are products of two matrices, as the bundled one."""
    row, network = ROWS[variant], _narrow(variant)
    model = export.build_model(network, row, precision="fp32", calibration=real)
    runner = Runner(model)
    for crops, number in _crops_of(model).items():
        found = runner.features(real[:2], number)

        expected = _expected(network, row, real[:2], crops)
        assert found is not None
        assert (found.shape, found.dtype.name) == ((2, 4096), "float32")
        assert found.min() >= 0
        assert np.linalg.norm(expected[0] - expected[1]) > 0.01 * np.linalg.norm(expected[0])
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8w"])
def test_features_are_float32_in_every_precision(precision: str, real: Pixels) -> None:
    """Within what is allowed of PyTorch's: in 8 bit they are what comes out of the rounding."""
    row, network = SMALL, small(10).eval()
    model = export.build_model(network, row, precision=precision, calibration=real)

    found = Runner(model).features(real, CROPS["ten"])

    expected = _expected(network, row, real, "ten")
    assert found is not None
    assert (found.shape, found.dtype.name) == ((7, 256), "float32")
    differences = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert differences.max() < PRECISIONS[precision].features_difference / 2


def test_a_fixed_choice_of_crops_has_them_too(real: Pixels) -> None:
    network = small(10).eval()
    model = export.build_model(network, SMALL, precision="fp32", calibration=real, crops="one")

    found = Runner(model).features(real[:1], CROPS["one"])

    expected = _expected(network, SMALL, real[:1], "one")
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.max()))


def test_a_network_that_is_no_chain_has_what_its_last_layer_takes(real: Pixels) -> None:
    """Of a residual network the means of its last maps."""
    network = learned(10)
    model = export.build_model(network, RESIDUAL, precision="fp32", calibration=real)

    found = Runner(model).features(real[:2], CROPS["ten"])

    expected = _expected(network, RESIDUAL, real[:2], "ten")
    assert found is not None
    assert found.shape == (2, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_that_ends_in_another_layer_has_none(real: Pixels) -> None:
    network = feature_maps_of([Layer(4, 16, stride=16, pool=(7, 7, 0))])
    model = serving_graph(network, crop_size=224, normalisation=VARIANTS["d2l"].normalisation)

    assert [output.name for output in model.graph.output] == ["probabilities", "view_probabilities"]
    assert Runner(model).features(real[:1], CROPS["one"]) is None


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_other_outputs_are_the_same_to_the_last_bit(precision: str, real: Pixels) -> None:
    """As those of a file without this output."""
    network = small(10).eval()
    model = export.build_model(network, SMALL, precision=precision, calibration=real)
    without = onnx.ModelProto()
    without.CopyFrom(model)
    del without.graph.output[2:]
    makers = {node.output[0]: node for node in without.graph.node}
    without.graph.node.remove(makers[FEATURES])
    without.graph.node.remove(makers[makers[FEATURES].input[0]])

    for crops in CROPS.values():
        answers = [_run(each, real, crops) for each in (model, without)]
        for found, expected in zip(*answers, strict=True):
            assert found.tobytes() == expected.tobytes()


def _run(model: ModelProto, images: Pixels, crops: int) -> list[Floats]:
    names = ["probabilities", "view_probabilities"]
    feeds = {"images": images, "crops": np.array(crops, np.int64)}
    answers: list[Floats] = session(model).run(names, feeds)
    return answers


def test_a_file_whose_features_are_another_layers_is_refused(real: Pixels) -> None:
    """Those of fc6 are as many, and of the same kind."""
    network = small(10).eval()
    model = export.build_model(network, SMALL, precision="fp32", calibration=real)
    makers = {node.output[0]: node for node in model.graph.node}
    reshape = makers[makers[FEATURES].input[0]]
    first = next(node for node in model.graph.node if node.op_type == "Gemm")
    reshape.input[0] = next(
        node.output[0] for node in model.graph.node if first.output[0] in node.input
    )

    with pytest.raises(VerificationFailed, match="features of the fp32 file differ"):
        _verify(model, network, real)


def test_a_network_whose_features_are_all_zero_is_not_refused(real: Pixels) -> None:
    """A fully connected layer that has died is the network's, not the file's."""
    network = small(10).eval()
    network.state_dict()["classifier.3.bias"].fill_(-1e6)
    model = export.build_model(network, SMALL, precision="fp32", calibration=real)

    agreements = _verify(model, network, real)

    assert {row.top1 for row in agreements} == {1.0}
