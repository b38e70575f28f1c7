"""
The forms in which people save an AlexNet: each is made here by the library that makes it, and read
as the same weights.  docs/weights.md lists them.
"""

from __future__ import annotations

import argparse
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from model_export import checkpoints, weight_files
from model_export.alexnet import FULL, AlexNet
from model_export.errors import WeightsUnusable
from model_export.variants import VARIANTS
from tests.support.models import TINY
from tests.support.networks import SMALL, small

CLASSES = 7
Save = Callable[[Path, AlexNet], object]


@pytest.fixture(scope="module")
def network() -> AlexNet:
    torch.manual_seed(0)
    network = small(CLASSES)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # exporters store equal ones once
            nn.init.normal_(parameter)
    return network.eval()


def _saved(make: Callable[[AlexNet], object]) -> Save:
    return lambda path, network: torch.save(make(network), path)


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def _parallel_features(network: AlexNet) -> dict[str, Tensor]:
    """As PyTorch's ImageNet example saves AlexNets: DataParallel around the convolutions alone."""
    return AlexNet(nn.DataParallel(network.features), network.classifier).state_dict()  # type: ignore[arg-type]


def _with_optimiser(network: AlexNet) -> dict[str, object]:
    optimiser = torch.optim.Adam(network.parameters())
    optimiser.zero_grad()
    network(torch.zeros(1, 3, 224, 224)).sum().backward()
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    before = {key: tensor.clone() for key, tensor in state.items()}
    optimiser.step()
    network.load_state_dict(before)
    return {"epoch": 3, "model": state, "optimizer": optimiser.state_dict()}


def _with_arguments(network: AlexNet) -> dict[str, object]:
    """A training script's: its arguments, numbers of numpy, a path, an object of its own."""
    arguments = argparse.Namespace(lr=0.1, data=Path("images"), own=_Own())
    best = np.float64(0.5)
    return {"args": arguments, "best": best, "net": network.state_dict(), "log": [_Own()]}


class _Own(dict[str, object]):
    """A class of somebody's script: a dict, as many settings are."""

    def __init__(self) -> None:
        super().__init__(rate=0.1)
        self.other = 1


def _lightning(network: AlexNet) -> dict[str, object]:
    state = _prefixed("model.", network.state_dict())
    state["criterion.weight"] = torch.ones(CLASSES)
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(state),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.1)}},
        "hyper_parameters": {"lr": 0.1},
    }


def _averaged(network: AlexNet) -> dict[str, Tensor]:
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


def _compiled(network: AlexNet) -> dict[str, Tensor]:
    return torch.compile(nn.DataParallel(network), backend="eager").state_dict()  # type: ignore[attr-defined, no-any-return]


def _beside_its_average(network: AlexNet) -> dict[str, object]:
    other = {key: tensor + 1 for key, tensor in network.state_dict().items()}
    return {"ema": other, "model": network.state_dict()}


def _flat(network: AlexNet) -> dict[str, Tensor]:
    """The names that caffemodel2pytorch gives."""
    names = ["conv1", "conv2", "fc6", "fc7", "fc8"]
    theirs = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    return dict(zip(theirs, network.state_dict().values(), strict=True))


def _blobs(network: AlexNet) -> dict[str, Tensor]:
    """Caffe's old blobs have four axes."""
    return {
        key: tensor[(None,) * (4 - tensor.ndim)] if tensor.ndim < 4 else tensor
        for key, tensor in _flat(network).items()
    }


def _as_convolutions(network: AlexNet) -> dict[str, Tensor]:
    """Fully connected layers as convolutions: (out, channels, rows, columns)."""
    state = network.state_dict()
    sides = {"classifier.0.weight": 6, "classifier.3.weight": 1, "classifier.6.weight": 1}
    return {
        key: tensor.reshape(len(tensor), -1, sides[key], sides[key]) if key in sides else tensor
        for key, tensor in state.items()
    }


def _old(path: Path, network: AlexNet) -> None:
    torch.save({"state_dict": network.state_dict()}, path, _use_new_zipfile_serialization=False)


def _safetensors(prefix: str) -> Save:
    return lambda path, network: safetensors.torch.save_file(
        {key: t.contiguous() for key, t in _prefixed(prefix, network.state_dict()).items()}, path
    )


def _script(path: Path, network: AlexNet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, and its files are not
        torch.jit.save(_traced(network), path)


def _frozen_script(path: Path, network: AlexNet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(_traced(network)), path)


def _traced(network: AlexNet) -> Any:
    return torch.jit.trace(network, torch.zeros(1, 3, 224, 224))  # type: ignore[no-untyped-call]


def _tensorflow(network: AlexNet) -> dict[str, list[np.ndarray[Any, Any]]]:
    """As bvlc_alexnet.npy: (rows, columns, in, out), (in, out), flattened channels last."""
    state = [tensor.numpy() for tensor in _flat(network).values()]
    layers = {}
    for name, weight, bias in zip(
        ("conv1", "conv2", "fc6", "fc7", "fc8"), state[::2], state[1::2], strict=True
    ):
        if name == "fc6":
            weight = weight.reshape(len(weight), -1, 6, 6).transpose(0, 2, 3, 1)
            weight = weight.reshape(len(weight), -1)
        weight = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        layers[name] = [np.ascontiguousarray(weight), bias]
    return layers


def _npy(path: Path, network: AlexNet) -> None:
    np.save(path, np.array(_tensorflow(network), dtype=object), allow_pickle=True)


def _npz(path: Path, network: AlexNet) -> None:
    np.savez(path, **{key: tensor.numpy() for key, tensor in network.state_dict().items()})


def _foreign_onnx(*, transposed: bool) -> Save:
    """An exporter that keeps no names, and no order of axes in matrix products."""

    def save(path: Path, network: AlexNet) -> None:
        names, nodes, arrays = iter(range(100)), [], []
        for tensor in network.state_dict().values():
            array = tensor.numpy()
            array = np.ascontiguousarray(array.T) if transposed and array.ndim == 2 else array
            arrays.append(numpy_helper.from_array(array, f"onnx::Weight_{next(names)}"))
        for number in range(0, len(arrays), 2):
            kind = "Conv" if len(arrays[number].dims) == 4 else "Gemm"
            taken = [f"v{number}", arrays[number].name, arrays[number + 1].name]
            nodes.append(helper.make_node(kind, taken, [f"v{number + 2}"]))
        arrays = sorted(arrays, key=lambda tensor: tensor.name, reverse=True)
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], arrays)), path)

    return save


STATE = _saved(lambda network: network.state_dict())
FORMS: dict[str, tuple[str, Save]] = {
    **{
        f"ending {ending or 'none'}": (f"a{ending}", STATE)
        for ending in (*(".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".params", ".model", ""),)
    },
    **{
        f"container {name}": (
            "a.pth",
            _saved(lambda network, name=name: {"epoch": 1, name: network.state_dict()}),  # type: ignore[misc]
        )
        for name in (
            *("state_dict", "model_state_dict", "model", "net", "ema", "weights", "params"),
            *("network", "model_state", "state_dict_ema", "best"),
        )
    },
    **{
        f"prefix {prefix}": (
            "a.pth",
            _saved(lambda network, prefix=prefix: _prefixed(prefix, network.state_dict())),  # type: ignore[misc]
        )
        for prefix in (
            *("module.", "model.", "net.", "backbone.", "_orig_mod.", "module.model.", "encoder."),
            *("_orig_mod.module.", "model.alexnet."),
        )
    },
    "DataParallel around the features": ("a.pth.tar", _saved(_parallel_features)),
    "with an optimiser": ("a.pt", _saved(_with_optimiser)),
    "with a script's arguments": ("a.pt", _saved(_with_arguments)),
    "Lightning": ("a.ckpt", _saved(_lightning)),
    "AveragedModel": ("a.pth", _saved(_averaged)),
    "compiled": ("a.pth", _saved(_compiled)),
    "beside its average": ("a.pth", _saved(_beside_its_average)),
    "parameters that learn": ("a.pth", _saved(lambda network: dict(network.named_parameters()))),
    "a pair with the epoch": ("a.pth", _saved(lambda network: (3, network.state_dict()))),
    "numpy's arrays in it": (
        "a.pth",
        _saved(lambda network: {k: t.numpy() for k, t in network.state_dict().items()}),
    ),
    "torch.save before 1.6": ("a.pth", _old),
    "safetensors": ("a.safetensors", _safetensors("")),
    "safetensors with a prefix": ("a.safetensors", _safetensors("model.")),
    "safetensors by another name": ("a.bin", _safetensors("")),
    "TorchScript": ("a.pt", _script),
    "TorchScript, frozen": ("a.pt", _frozen_script),
    "caffemodel2pytorch": ("a.pth", _saved(_flat)),
    "blobs of four axes": ("a.pth", _saved(_blobs)),
    "fully connected as convolutions": ("a.pth", _saved(_as_convolutions)),
    "npy of Caffe's layers": ("a.npy", _npy),
    "npz": ("a.npz", _npz),
    "ONNX without names": ("a.onnx", _foreign_onnx(transposed=False)),
    "ONNX with matrices the other way": ("a.onnx", _foreign_onnx(transposed=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_the_same_weights(
    form: str, network: AlexNet, tmp_path: Path
) -> None:
    name, save = FORMS[form]
    save(tmp_path / name, network)

    result, told = checkpoints.read_as(
        SMALL, weight_files.load(tmp_path / name).tensors, source=name
    )

    expected = network.state_dict()
    assert [
        key for key, t in result.state_dict().items() if not torch.equal(t, expected[key])
    ] == []
    assert told.startswith("read as small: 10 tensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_widened(
    dtype: torch.dtype, network: AlexNet, tmp_path: Path
) -> None:
    state = {key: tensor.to(dtype) for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")

    result = checkpoints.build(SMALL, checkpoints.read(tmp_path / "a.pth"), source="a")

    assert all(torch.equal(t, state[key].float()) for key, t in result.state_dict().items())


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("Lightning", "prefix state_dict.model. removed, left out: state_dict.criterion.weight"),
        ("DataParallel around the features", "prefix module. removed"),
        ("caffemodel2pytorch", "10 of them found by shape and order"),
        ("beside its average", "prefix model. removed, those of ema. fit too and were not read"),
    ],
)
def test_how_a_file_was_read_is_told(
    form: str, words: str, network: AlexNet, tmp_path: Path
) -> None:
    name, save = FORMS[form]
    save(tmp_path / name, network)

    _, told = checkpoints.read_as(SMALL, checkpoints.read(tmp_path / name), source=name)

    assert words in told


@pytest.mark.parametrize("inside", ["alone", "in a container"])
def test_a_pickled_network_is_refused_with_the_two_lines_that_help(
    inside: str, network: AlexNet, tmp_path: Path
) -> None:
    torch.save(network if inside == "alone" else {"model": network}, tmp_path / "whole.pth")

    with pytest.raises(WeightsUnusable) as refusal:
        checkpoints.read(tmp_path / "whole.pth")

    assert "whole pickled network (model_export.alexnet.AlexNet)" in str(refusal.value)
    assert 'torch.load("whole.pth", weights_only=False)' in str(refusal.value)
    assert 'torch.save(model.state_dict(), "weights.pth")' in str(refusal.value)


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.mkdir.__globals__["os"].mkdir, (str(_Trap.place),)

    place = Path()


@pytest.mark.parametrize("name", ["a.pth", "old.pth", "a.npy", "a.pkl"])
def test_nothing_that_a_file_names_is_run(name: str, network: AlexNet, tmp_path: Path) -> None:
    """With weights beside it, too."""
    _Trap.place = tmp_path / "trap"
    content = {"trap": _Trap(), **network.state_dict()}
    if name == "a.npy":
        np.save(tmp_path / name, np.array(content, dtype=object), allow_pickle=True)
    elif name == "a.pkl":
        arrays = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
        (tmp_path / name).write_bytes(_pickled({"trap": _Trap(), **arrays}))
    else:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name == "a.pth")

    try:
        checkpoints.read(tmp_path / name)
    except WeightsUnusable as refusal:
        assert name in str(refusal)  # noqa: PT017  # either will do

    assert not (tmp_path / "trap").exists()


def _pickled(content: object) -> bytes:
    import pickle

    return pickle.dumps(content)


# ---- other heads and inputs


def _network_with(head: nn.Module, channels: int = 3) -> nn.Module:
    network = nn.Module()
    network.features = small(2, channels).features
    network.classifier = head
    return network


HEADS: dict[str, Callable[[], nn.Module]] = {
    "other widths": lambda: nn.Sequential(
        *(nn.Dropout(), nn.Linear(1152, 64), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    ),
    "a layer less": lambda: nn.Sequential(
        nn.Linear(1152, 100), nn.ReLU(inplace=True), nn.Linear(100, CLASSES)
    ),
    "one layer": lambda: nn.Sequential(nn.Linear(1152, CLASSES)),
    "one layer alone": lambda: nn.Linear(1152, CLASSES),
    "a layer more": lambda: nn.Sequential(
        *(nn.Linear(1152, 256), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(256, 256), nn.ReLU(), nn.Dropout()),
        nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, CLASSES)),
    ),
    "two layers without anything between": lambda: nn.Sequential(
        nn.Linear(1152, 100), nn.ReLU(), nn.Linear(100, 50), nn.Linear(50, CLASSES)
    ),
}


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_of_other_widths_is_read(head: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = _network_with(HEADS[head]()).eval()
    if kind == "pth":
        torch.save(trained.state_dict(), tmp_path / "a.pth")
    else:
        safetensors.torch.save_file(trained.state_dict(), tmp_path / "a.safetensors")

    result, told = checkpoints.read_as(SMALL, checkpoints.read(tmp_path / f"a.{kind}"), source="a")

    views = torch.randn(2, 3, 224, 224)
    expected = trained.classifier(trained.features(views).flatten(1))  # type: ignore[operator]
    assert torch.allclose(result(views), expected, atol=1e-5)
    assert result.classes == CLASSES
    assert "fully connected layers 1152-" in told
    again = checkpoints.build(SMALL, result.state_dict(), source="its own names")
    assert torch.equal(again(views), result(views))


def test_a_network_of_one_channel_is_read() -> None:
    state = small(CLASSES, 1).state_dict()

    assert checkpoints.build(SMALL, state, source="grey").channels == 1


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("features.0.weight", (16, 4, 11, 11), ("sees 4 channels",)),
        ("classifier.6.weight", (1, 256), ("single output", "sigmoid")),
        ("classifier.3.weight", (256, 300), ("classifier.3.weight is (256, 300)", "(256, 256)")),
        ("features.4.weight", (32, 16, 5, 5), ("(32, 16, 5, 5) and should be (32, 8, 5, 5)",)),
    ],
)
def test_what_cannot_be_is_named(key: str, shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    state = {**small(CLASSES).state_dict(), key: torch.zeros(shape)}
    if key == "classifier.6.weight":
        state["classifier.6.bias"] = torch.zeros(1)

    with pytest.raises(WeightsUnusable) as refusal:
        checkpoints.build(SMALL, state, source="a.pth")

    assert [word for word in ("a.pth", *words) if word not in str(refusal.value)] == []
    assert "Choose" not in str(refusal.value)


def test_a_variant_that_fits_is_named() -> None:
    """Shapes of caffe's, which are also those of the paper's network."""
    with torch.device("meta"):
        shapes = VARIANTS["caffe"].build(10, 3, FULL).state_dict()
    state = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in shapes.items()}

    with pytest.raises(WeightsUnusable, match="Choose --variant paper or caffe, which it fits"):
        checkpoints.build(VARIANTS["owt"], state, source="a.pth")


# ---- what is damaged, or is no weight


ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "complex": (lambda weight: weight.to(torch.complex64), "holds complex values"),
    "whole numbers": (lambda weight: weight.to(torch.int8), "holds int8 without a scale"),
    "sparse": (lambda weight: weight.to_sparse(), r"is sparse; save its to_dense\(\)"),
    "meta": (lambda weight: weight.to("meta"), "is a meta tensor"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_is_no_weight_is_one_sentence(
    kind: str, network: AlexNet, tmp_path: Path
) -> None:
    change, words = ODD[kind]
    state = network.state_dict()
    torch.save(
        {**state, "features.4.weight": change(state["features.4.weight"])}, tmp_path / "a.pth"
    )

    with pytest.raises(WeightsUnusable, match=rf"a\.pth: features\.4\.weight {words}"):
        checkpoints.build(SMALL, checkpoints.read(tmp_path / "a.pth"), source="a.pth")


def test_quantised_tensors_bring_their_scale(network: AlexNet, tmp_path: Path) -> None:
    state = network.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such tensors are on their way out
        weight = torch.quantize_per_tensor(state["classifier.3.weight"], 0.01, 0, torch.qint8)
    torch.save({**state, "classifier.3.weight": weight}, tmp_path / "a.pth")

    result = checkpoints.build(SMALL, checkpoints.read(tmp_path / "a.pth"), source="a.pth")

    assert torch.equal(result.state_dict()["classifier.3.weight"], weight.dequantize())


@pytest.mark.parametrize("content", [list, lambda tensors: dict(enumerate(tensors))])
def test_tensors_without_names_are_one_sentence(
    content: Callable[[list[Tensor]], object], network: AlexNet, tmp_path: Path
) -> None:
    torch.save(content(list(network.state_dict().values())), tmp_path / "a.pth")

    with pytest.raises(WeightsUnusable, match=r"a\.pth: its tensors have numbers for names"):
        checkpoints.read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
    ],
)
def test_a_file_that_is_something_else_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)

    with pytest.raises(WeightsUnusable, match=rf"a\.pth.*{words}"):
        checkpoints.read(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.npz"])
def test_flipped_bytes_in_a_zip_are_noticed(name: str, network: AlexNet, tmp_path: Path) -> None:
    """PyTorch reads them without a word."""
    if name == "a.pth":
        torch.save(network.state_dict(), tmp_path / name)
    else:
        _npz(tmp_path / name, network)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 0x40
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsUnusable, match=rf"{name} is damaged.*checksum"):
        checkpoints.read(tmp_path / name)


@pytest.mark.parametrize(
    "place",
    [100, 0.3, 0.7, -100, -70, -30, "without its last byte", "without its checksum"],
)
def test_a_damaged_model_file_is_no_checkpoint(place: int | float | str, tmp_path: Path) -> None:
    """Wherever a byte has changed: in a weight, in the metadata, in the checksum itself."""
    content = bytearray(TINY.read_bytes())
    if place == "without its last byte":
        del content[-1]
    elif place == "without its checksum":
        del content[-78:]
    else:
        assert not isinstance(place, str)
        content[place if isinstance(place, int) else int(place * len(content))] ^= 0x10
    (tmp_path / "a.onnx").write_bytes(content)

    with pytest.raises(WeightsUnusable, match=r"a\.onnx is (damaged|not a whole ONNX file)"):
        checkpoints.read(tmp_path / "a.onnx")
