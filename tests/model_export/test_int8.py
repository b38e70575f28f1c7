"""Eight bit: rounding against plain rounding, pixels straight into conv1, nothing left in float."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from model_export import checkpoints, export
from model_export.alexnet import AlexNet, LocalResponseNorm
from model_export.crops import Floats, load_images, ten_crops, to_channels
from model_export.graph import CROPS, crops_of, serving_graph
from model_export.int8 import LARGEST, gptq
from model_export.precision import PRECISIONS
from model_export.variants import IMAGENET, IMAGENET_MEAN, Normalisation, greyscale
from tests.support.networks import logits, noise

BGR = Normalisation((104.4, 116.3, 123.8), (1.0,) * 3, channels="BGR")
KINDS = {
    "one column": IMAGENET,
    "asymmetric padding and groups": Normalisation(IMAGENET_MEAN, (1.0,) * 3),
    "BGR": BGR,
    "grey": greyscale(IMAGENET),
}


def _small(kind: str) -> AlexNet:
    """An AlexNet of narrow layers: three convolutions, two of them shared by the ten crops."""
    torch.manual_seed(0)
    odd = kind == "asymmetric padding and groups"
    channels = len(KINDS[kind].mean)
    front: list[nn.Module] = [nn.Conv2d(channels, 16, 11, stride=4, padding=2), nn.ReLU()]
    if odd:
        front = [nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(channels, 16, 11, stride=4), nn.ReLU()]
        front.append(LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0))
    features = nn.Sequential(
        *front,
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(16, 24, 5, padding=2, groups=2 if odd else 1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(24, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    )
    network = AlexNet(features, nn.Sequential(nn.Linear(576, 32), nn.ReLU(), nn.Linear(32, 10)))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


@cache
def _converted(kind: str) -> tuple[ModelProto, ModelProto]:
    """(the network in fp32, the same in 8 bit)"""
    plain = export.to_onnx(_small(kind), 224)
    return plain, _quantised(plain, KINDS[kind])


def _quantised(network: ModelProto, normalisation: Normalisation) -> ModelProto:
    views = to_channels(ten_crops(load_images(limit=7)[:7], 224), normalisation)
    return PRECISIONS["int8"].convert(network, views.reshape(-1, *views.shape[2:]), normalisation)


def _served(network: ModelProto, normalisation: Normalisation, *, share: bool = True) -> ModelProto:
    return serving_graph(network, crop_size=224, normalisation=normalisation, share=share)


# ---- the network


@pytest.mark.parametrize("kind", KINDS)
def test_shared_in_8_bit_is_bit_identical(kind: str) -> None:
    quantised = _converted(kind)[1]
    images = np.concatenate([load_images(limit=7)[:1], noise(1)])

    shared, plain = (
        logits(_served(quantised, KINDS[kind], share=share), images, CROPS["ten"])
        for share in (True, False)
    )

    assert set(crops_of(_served(quantised, KINDS[kind]))) == set(CROPS)
    assert len({view.tobytes() for view in shared[1]}) == 10
    assert np.array_equal(shared, plain)


@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize("kind", KINDS)
def test_8_bit_stays_close_to_fp32(kind: str, crops: str) -> None:
    images = load_images(limit=8)[:4]

    exact, rounded = (
        logits(_served(network, KINDS[kind]), images, CROPS[crops]) for network in _converted(kind)
    )

    assert _error(rounded, exact) < 0.1


def _error(result: Floats, expected: Floats) -> float:
    """The mean error, as a share of how much the logits differ from image to image."""
    return float(np.abs(result - expected).mean() / expected.std(0).mean())


def test_nothing_is_left_in_float(tmp_path: Path) -> None:
    """As ONNX Runtime runs it: every convolution and every fully connected layer in 8 bit."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = _served(_converted("one column")[1], IMAGENET)

    onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    kinds = [node.op_type for node in _all_nodes(onnx.load(tmp_path / "optimised.onnx").graph)]
    assert kinds.count("QLinearConv") == 3 + 4 + 4  # the trunk's, and the strips' of two blocks
    assert kinds.count("QGemm") == 2
    floats = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "MaxPool", "Relu"}
    assert floats.isdisjoint(kinds)


def _all_nodes(graph: GraphProto) -> list[NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            nodes += _all_nodes(attribute.g)
    return nodes


@pytest.mark.parametrize("kind", ["one column", "asymmetric padding and groups"])
def test_the_first_convolution_reads_the_pixels(kind: str) -> None:
    """Between the request's bytes and conv1 nothing is computed: bytes are cut, turned, laid."""
    model = _served(_converted(kind)[1], KINDS[kind])
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    first = [node for node in convolutions if node.input[1] == convolutions[0].input[1]]
    makers = {name: node for node in _all_nodes(model.graph) for name in node.output}
    seen: set[str] = set()
    waiting = [node.input[0] for node in first]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None:
            seen.add(node.op_type)
            waiting += node.input
            waiting += [out.name for a in node.attribute for out in a.g.output]

    assert len(first) > 2  # of the image, and of strips at its sides
    assert {"Slice", "Transpose", "DequantizeLinear"} <= seen
    assert seen.isdisjoint({"Cast", "Sub", "Div", "Mul", "Add", "QuantizeLinear"})


@pytest.mark.parametrize("crops", ["ten", "one"])  # dense views end within the image
@pytest.mark.parametrize(
    "normalisation",
    [Normalisation((123.7, 116.8, 103.2), (1.0,) * 3), BGR, Normalisation((98.6,), (1.0,), "L")],
    ids=["RGB", "BGR", "L"],
)
def test_the_frame_around_pixels_is_the_mean(normalisation: Normalisation, crops: str) -> None:
    """A convolution whose outer windows see only padding, and average each plane: where the
    network has zeros, the pixels' frame misses the mean by what rounding takes."""
    model = _served(_averaging(normalisation), normalisation)

    feature_maps = logits(model, noise(1), CROPS[crops])

    channels, size = len(normalisation.mean), 30
    assert feature_maps.shape[2] == channels * size * size
    result = feature_maps.reshape(-1, channels, size, size)
    border = np.concatenate([result[:, :, 0], result[:, :, -1]], axis=-1)
    assert np.abs(border - 100).max() < 1
    assert np.abs(result[:, :, 1:-1, 1:-1] - 100).max() > 5


@cache
def _averaging(normalisation: Normalisation) -> ModelProto:
    channels = len(normalisation.mean)
    network = AlexNet(
        nn.Sequential(nn.Conv2d(channels, channels, 8, stride=8, padding=8), nn.ReLU()),
        nn.Sequential(nn.Identity()),
    )
    state = network.state_dict()  # shares its tensors with the network
    state["features.0.weight"][:] = torch.eye(channels)[..., None, None] / 64
    state["features.0.bias"].fill_(100)  # so that the ReLU cuts nothing off
    return _quantised(export.to_onnx(network, 224), normalisation)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_8_bit_reads_back_within_its_steps(kind: str, tmp_path: Path) -> None:
    """The first convolution reads pixels, and is read back as the one that sees normalised views.
    Its weights make up for one another's errors, and so go further than to the nearest."""
    model = _served(_converted(kind)[1], KINDS[kind])
    onnx.save(model, tmp_path / "a.onnx")
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    result = checkpoints.read(tmp_path / "a.onnx")

    state = _small(kind).state_dict()
    assert result.keys() == state.keys()
    for key, tensor in state.items():
        rows = tensor.reshape(len(tensor), -1)
        step = rows.abs().amax(1, keepdim=True) / LARGEST
        if tensor.ndim == 1:
            step = torch.tensor(scales[f"{key}_quantized_scale"]).reshape(-1, 1)
        steps = (result[key].reshape(rows.shape) - rows).abs() / step
        assert steps.max().item() < (4 if tensor.ndim == 4 else 1), key
        if tensor.ndim > 1:
            assert steps.square().mean().sqrt().item() < 0.5, key


def test_a_first_convolution_without_a_bias_reads_back_without_one(tmp_path: Path) -> None:
    """In the file it has one, which takes the mean off the pixels."""
    network = _small("one column")
    conv1 = network.features[0]
    assert isinstance(conv1, nn.Conv2d)
    conv1.bias = None
    onnx.save(_quantised(export.to_onnx(network, 224), IMAGENET), tmp_path / "a.onnx")

    result = checkpoints.read(tmp_path / "a.onnx")

    assert result.keys() == network.state_dict().keys()
    assert torch.allclose(result["features.0.weight"], conv1.weight, atol=0.05)


# ---- the rounding


def _correlated(count: int, inputs: int) -> Tensor:
    """Inputs that say much the same, as neighbouring pixels do: (inputs, count)."""
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(inputs, 6, generator=generator) @ torch.randn(6, count, generator=generator)
    return mixed + 0.1 * torch.randn(inputs, count, generator=generator)


def _weights(outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(2))


def _nearest(weights: Tensor) -> Tensor:
    scale = weights.double().abs().amax(1, keepdim=True) / 63
    return (weights.double() / scale).round()


def test_on_inputs_that_correlate_gptq_errs_less_than_rounding() -> None:
    weights, inputs = _weights(16, 300), _correlated(2000, 300)  # three blocks of columns

    whole, scale = gptq(weights, inputs @ inputs.T)

    def error(rounded: Tensor) -> float:
        return float(((rounded * scale[:, None] - weights) @ inputs.double()).norm())

    assert error(whole) < 0.5 * error(_nearest(weights))


@pytest.mark.parametrize("inputs", [9, 300])
def test_gptq_gives_whole_numbers_of_seven_bits(inputs: int) -> None:
    x = _correlated(500, inputs)

    whole, scale = gptq(_weights(8, inputs), x @ x.T)

    assert torch.equal(whole, whole.round())
    assert whole.abs().max() <= LARGEST == 63
    assert torch.allclose(scale, _weights(8, inputs).double().abs().amax(1) / 63)


def test_where_no_two_inputs_correlate_gptq_is_rounding() -> None:
    weights = _weights(8, 200)

    whole, _ = gptq(weights, torch.eye(200))

    assert torch.equal(whole, _nearest(weights))


@pytest.mark.parametrize("hessian", [torch.zeros(20, 20), torch.ones(20, 20)])
def test_gptq_needs_no_input_to_be_seen(hessian: Tensor) -> None:
    """Dead maps, and inputs of which one says all: a Hessian that has no inverse."""
    whole, scale = gptq(_weights(4, 20), hessian)

    assert torch.isfinite(whole).all()
    assert ((whole * scale[:, None] - _weights(4, 20)).abs() < 3 * scale[:, None]).all()


def test_a_map_whose_weights_are_zero_stays_zero() -> None:
    whole, scale = gptq(torch.zeros(2, 9), torch.eye(9))

    assert not whole.any()
    assert (scale > 0).all()
