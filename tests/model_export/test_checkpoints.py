"""Checkpoints as they lie on disks and servers: read whole, or refused with the reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from model_export import alexnet, checkpoints, crops, export, matching, preparation, weight_files
from model_export.errors import WeightsUnusable
from model_export.variants import VARIANTS, Normalisation, Weights
from tests.support.residual import RESIDUAL, learned

OWT = VARIANTS["owt"]
PLACES = (0, 3, 6, 8, 10)  # of torchvision's convolutions
RANKS = (4, 3, 2)
BLOB = bytes(range(256)) * 12_000  # three megabytes


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A ten-class ``owt`` of low rank: ten megabytes, but every kind of key."""
    torch.manual_seed(0)
    network = alexnet.owt(10, ranks=RANKS)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def exported(
    state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Our own model file of that network, in the precision asked for."""

    def make(precision: str) -> Path:
        path = tmp_path_factory.mktemp("exported") / f"{precision}.onnx"
        network = checkpoints.build(OWT, state, source="random")
        images = crops.load_images(limit=7)[:2]
        model = export.build_model(network, OWT, precision=precision, calibration=images)
        export.write(model, path, check=lambda file: None)
        return path

    return make


def test_a_checkpoint_may_bring_its_own_preparation(tmp_path: Path) -> None:
    own = {"mean": [1.5, 2.5, 3.5], "std": [4.0, 5.0, 6.0], "planes": "BGR"}
    path = _told(tmp_path, json.dumps(own))

    result = preparation.find(OWT, path, weight_files.load(path), channels=3)

    assert result.normalisation == Normalisation((1.5, 2.5, 3.5), (4.0, 5.0, 6.0), "BGR")
    assert "own.safetensors's metadata" in result.source


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_without_one_the_variants_row_counts(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plain{ending}"
    tensors = {"a": torch.zeros(1)}
    torch.save(tensors, path) if ending == ".pth" else safetensors.torch.save_file(tensors, path)

    result = preparation.find(OWT, path, weight_files.load(path), channels=3)

    assert result.normalisation == OWT.normalisation
    assert result.source == "the row of owt"


@pytest.mark.parametrize(
    "written",
    [
        "not JSON",
        "[]",
        '{"mean": [1, 2, 3], "std": [1, 1, 1]}',
        '{"mean": [1, 2, 3], "std": [1, 1, 1], "planes": "XYZ"}',
        '{"mean": [1, 2], "std": [1, 1, 1], "planes": "RGB"}',
        '{"mean": [1, 2, 3], "std": [1, 1, 0], "planes": "RGB"}',
        '{"mean": [1, 2, NaN], "std": [1, 1, 1], "planes": "RGB"}',
    ],
)
def test_a_broken_preparation_is_refused(tmp_path: Path, written: str) -> None:
    path = _told(tmp_path, written)

    with pytest.raises(WeightsUnusable, match="metadata entry normalisation"):
        preparation.find(OWT, path, weight_files.load(path), channels=3)


def _told(folder: Path, normalisation: str) -> Path:
    path = folder / "own.safetensors"
    metadata = {"normalisation": normalisation}
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    return path


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


def test_a_state_dict_is_read_as_it_is(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")

    assert _same(_loaded(tmp_path / "a.pth"), state)


def test_a_checkpoint_of_a_training_script_is_unwrapped(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"epoch": 90, "state_dict": state}, tmp_path / "a.pt")

    assert _same(_loaded(tmp_path / "a.pt"), state)


def test_the_prefix_of_data_parallel_training_is_dropped(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "a.pth")

    assert _same(_loaded(tmp_path / "a.pth"), state)


def test_safetensors_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")

    assert _same(_loaded(tmp_path / "a.safetensors"), state)


def test_half_precision_checkpoints_are_widened(state: dict[str, Tensor], tmp_path: Path) -> None:
    halves = {key: tensor.half() for key, tensor in state.items()}
    safetensors.torch.save_file(halves, tmp_path / "a.safetensors")

    result = _loaded(tmp_path / "a.safetensors")

    assert _same(result, {key: tensor.float() for key, tensor in halves.items()})


def test_an_exported_file_is_a_whole_checkpoint(
    state: dict[str, Tensor], exported: Callable[[str], Path]
) -> None:
    assert _same(_loaded(exported("fp32")), state)


def test_a_file_stored_in_8_bit_reads_back_within_its_scale(
    state: dict[str, Tensor], exported: Callable[[str], Path]
) -> None:
    result = _loaded(exported("int8w"))

    assert result.keys() == state.keys()
    for key, tensor in state.items():
        scale = tensor.abs().max().item() / 127
        assert (result[key] - tensor).abs().max().item() <= scale / 2 * 1.01, key


@pytest.mark.parametrize("counters", ["with counters", "without counters"])
def test_batch_normalisation_keeps_its_statistics_and_needs_no_counter(
    counters: str, tmp_path: Path
) -> None:
    """Its last layer and its first convolution stand elsewhere than an AlexNet's, too."""
    expected = learned(5).state_dict()
    counted = {key for key in expected if key.endswith(matching.COUNTER)}
    weights = {k: t for k, t in expected.items() if counters == "with counters" or k not in counted}
    torch.save(weights, tmp_path / "a.pth")

    network = checkpoints.build(RESIDUAL, checkpoints.read(tmp_path / "a.pth"), source="a.pth")

    result = network.state_dict()
    assert len(counted) == 5
    assert network.classes == 5
    assert [
        key for key in result if key not in counted and (result[key] != expected[key]).any()
    ] == []


def test_the_statistics_of_batch_normalisation_are_not_left_to_chance() -> None:
    lacking = dict(learned(5).state_dict())
    del lacking["features.1.running_mean"]

    with pytest.raises(WeightsUnusable, match=r"features\.1\.running_mean is missing"):
        checkpoints.build(RESIDUAL, lacking, source="a.pth")


def test_an_exported_file_with_batch_normalisation_is_a_whole_checkpoint(tmp_path: Path) -> None:
    network = learned(5)
    images = crops.load_images(limit=7)[:2]
    model = export.build_model(network, RESIDUAL, precision="fp32", calibration=images)
    export.write(model, tmp_path / "a.onnx", check=lambda file: None)

    result = checkpoints.read(tmp_path / "a.onnx")

    counted = {k: t for k, t in network.state_dict().items() if k.endswith(matching.COUNTER)}
    assert _same(result | counted, network.state_dict())


def test_a_missing_key_is_named(state: dict[str, Tensor]) -> None:
    lacking = {key: tensor for key, tensor in state.items() if key != "features.3.bias"}

    with pytest.raises(WeightsUnusable, match=r"x\.pth .*features\.3\.bias is missing.*--weights"):
        checkpoints.build(OWT, lacking, source="x.pth")


def test_a_missing_last_layer_is_named(state: dict[str, Tensor]) -> None:
    lacking = {k: tensor for k, tensor in state.items() if not k.startswith("classifier.6")}

    with pytest.raises(WeightsUnusable, match=r"classifier\.6\.bias is missing"):
        checkpoints.build(OWT, lacking, source="x.pth")


def test_a_surplus_key_is_named(state: dict[str, Tensor]) -> None:
    surplus = {**state, "features.1.running_mean": torch.zeros(64)}

    with pytest.raises(WeightsUnusable, match=r"features\.1\.running_mean is not part of owt"):
        checkpoints.build(OWT, surplus, source="x.pth")


@pytest.mark.parametrize("key", ["classifier.extra.weight", "classifier.weight", "classifier."])
def test_a_surplus_key_without_a_place_is_named(key: str, state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsUnusable, match=f"{key} is not part of owt"):
        checkpoints.build(OWT, {**state, key: torch.zeros(1)}, source="x.pth")


def test_a_wrong_shape_is_named(state: dict[str, Tensor]) -> None:
    wrong = {**state, "features.3.weight": torch.zeros(192, 32, 5, 5)}

    with pytest.raises(
        WeightsUnusable,
        match=r"features\.3\.weight is \(192, 32, 5, 5\) and should be \(192, 64, 5, 5\)",
    ):
        checkpoints.build(OWT, wrong, source="x.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_key_that_is_not_finite_is_named(value: float, state: dict[str, Tensor]) -> None:
    weight = state["features.6.weight"].clone()
    weight[0, 0, 0, 0] = value

    with pytest.raises(WeightsUnusable, match=r"features\.6\.weight holds NaN"):
        checkpoints.build(OWT, {**state, "features.6.weight": weight}, source="x.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_file_cut_short_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(1000), "a.bias": torch.ones(10)}
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(tensors, path)
    elif suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        path.write_bytes(_onnx_of(tensors).SerializeToString())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(WeightsUnusable, match=rf"cut\{suffix}"):
        checkpoints.read(path)


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.mkdir.__globals__["os"].mkdir, ("/nonexistent/trap",)


def test_a_pickle_with_code_in_it_is_refused_unrun(tmp_path: Path) -> None:
    torch.save({"features.0.weight": _Trap()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"features.0.weight": _Trap()}, 2))

    for name in ("new.pth", "old.pth"):
        with pytest.raises(WeightsUnusable, match="more than tensors"):
            checkpoints.read(tmp_path / name)


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "network.pth")

    with pytest.raises(WeightsUnusable, match=r"model\.state_dict\(\)"):
        checkpoints.read(tmp_path / "network.pth")


@pytest.mark.parametrize("content", [{}, [1], {"epoch": 3}, torch.ones(2)])
def test_a_checkpoint_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")

    with pytest.raises(WeightsUnusable, match=r"a\.pth"):
        checkpoints.read(tmp_path / "a.pth")


def test_an_unknown_kind_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"something else")

    with pytest.raises(WeightsUnusable, match=r"a\.h5 .*\.pth.*\.safetensors.*\.onnx"):
        checkpoints.read(tmp_path / "a.h5")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnusable, match=r"no weights file at .*gone\.pth.*--weights"):
        checkpoints.read(tmp_path / "gone.pth")


def test_owt_loads_torchvisions_keys_and_misses_any_that_is_not_there() -> None:
    keys = [f"{layer}.{kind}" for layer in _torchvision() for kind in ("weight", "bias")]
    state = {k: t for k, t in _numbered(alexnet.owt, 10).items() if k in keys}
    assert len(state) == 16

    assert _same(dict(checkpoints.build(OWT, state, source="tv").state_dict()), state)
    lost = ("features.10.bias", "classifier.4.weight")
    lacking = {key: tensor for key, tensor in state.items() if key not in lost}
    with pytest.raises(WeightsUnusable, match=f"{lost[0]} is missing; {lost[1]} is missing"):
        checkpoints.build(OWT, lacking, source="tv")


@pytest.mark.parametrize("ranks", [RANKS, (5, None, None), (None, 5, 5)])
def test_ranks_and_classes_are_read_off_the_shapes(ranks: alexnet.Ranks) -> None:
    state = _numbered(alexnet.owt, 7, ranks=ranks)

    network = checkpoints.build(OWT, state, source="low rank")

    layers = [network.classifier[place] for place in (1, 4, 6)]
    result = [m.u.shape[1] if isinstance(m, alexnet.LowRankLinear) else None for m in layers]
    assert (tuple(result), network.classes) == (ranks, 7)
    assert _same(dict(network.state_dict()), state)


def test_the_names_of_the_onnx_zoos_caffe_file_are_known(tmp_path: Path) -> None:
    ours = _numbered(alexnet.caffe, 10)
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    theirs = [f"{layer}_{kind}_0" for layer in layers for kind in "wb"]
    some = {name: torch.full((n,), 0.5) for n, name in enumerate(theirs)}
    (tmp_path / "zoo.onnx").write_bytes(_onnx_of(some).SerializeToString())

    network = checkpoints.build(
        VARIANTS["caffe"], dict(zip(theirs, ours.values(), strict=True)), source="zoo.onnx"
    )

    assert _same(checkpoints.read(tmp_path / "zoo.onnx"), some)
    assert _same(dict(network.state_dict()), ours)


@pytest.mark.parametrize("prefix", ["net.", ""])
def test_the_books_names_and_its_one_plane_are_known(prefix: str) -> None:
    ours = _numbered(alexnet.d2l, 10, 1)
    numbers = [0, 3, 6, 8, 10, 14, 17, 20]  # of nn.Sequential(...) in the book, section 8.1
    theirs = [f"{prefix}{number}.{kind}" for number in numbers for kind in ("weight", "bias")]
    state = dict(zip(theirs, ours.values(), strict=True))

    network = checkpoints.build(VARIANTS["d2l"], state, source="book")

    assert _same(dict(network.state_dict()), ours)
    assert network(torch.zeros(1, 1, 224, 224)).shape == (1, 10)
    assert export.normalisation_of(network, VARIANTS["d2l"]).channels == "L"


def test_published_weights_are_fetched_once(tmp_path: Path) -> None:
    with _server(BLOB) as (url, requests):
        first = checkpoints.fetch(_weights(url), folder=tmp_path / "new" / "cache")
        second = checkpoints.fetch(_weights(url), folder=tmp_path / "new" / "cache")

    assert first == second
    assert first.read_bytes() == BLOB
    assert [request.range for request in requests] == [None]
    assert [file.name for file in first.parent.iterdir()] == ["blob.pth"]


def test_a_download_that_broke_off_is_resumed(tmp_path: Path) -> None:
    with _server(BLOB, breaks_after=2_500_000) as (url, requests):
        with pytest.raises(WeightsUnusable, match="run again to resume"):
            checkpoints.fetch(_weights(url), folder=tmp_path)
        have = (tmp_path / "blob.pth.part").stat().st_size
        path = checkpoints.fetch(_weights(url), folder=tmp_path)

    assert path.read_bytes() == BLOB
    assert 0 < have <= 2_500_000
    assert [request.range for request in requests] == [None, f"bytes={have}-"]
    assert requests[1].sent == len(BLOB) - have


def test_a_server_that_cannot_resume_sends_it_all(tmp_path: Path) -> None:
    (tmp_path / "blob.pth.part").write_bytes(BLOB[:100])
    with _server(BLOB, ranges=False) as (url, requests):
        path = checkpoints.fetch(_weights(url), folder=tmp_path)

    assert path.read_bytes() == BLOB
    assert [(request.range, request.sent) for request in requests] == [("bytes=100-", len(BLOB))]


def test_a_part_that_was_already_whole_becomes_the_file(tmp_path: Path) -> None:
    (tmp_path / "blob.pth.part").write_bytes(BLOB)
    with _server(BLOB) as (url, requests):
        path = checkpoints.fetch(_weights(url), folder=tmp_path)

    assert path.read_bytes() == BLOB
    assert [request.sent for request in requests] == [0]


def test_a_damaged_download_is_deleted(tmp_path: Path) -> None:
    with (
        _server(b"?" + BLOB[1:]) as (url, _),
        pytest.raises(WeightsUnusable, match=r"arrived damaged.*deleted.*--weights PATH"),
    ):
        checkpoints.fetch(_weights(url), folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "blob.pth").write_bytes(b"?" + BLOB[1:])
    with _server(BLOB) as (url, requests):
        path = checkpoints.fetch(_weights(url), folder=tmp_path)

    assert path.read_bytes() == BLOB
    assert len(requests) == 1


def test_a_file_that_the_server_does_not_have_names_the_way_out(tmp_path: Path) -> None:
    with (
        _server(None) as (url, _),
        pytest.raises(WeightsUnusable, match=r"404.*--weights PATH"),
    ):
        checkpoints.fetch(_weights(url), folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_way_out_is_named(tmp_path: Path) -> None:
    with _server(BLOB) as (url, _):
        pass  # now its port is closed

    with pytest.raises(WeightsUnusable, match=r"could not be fetched.*--weights PATH"):
        checkpoints.fetch(_weights(url), folder=tmp_path)


class _Request:
    def __init__(self, byte_range: str | None) -> None:
        self.range = byte_range
        self.sent = 0


@contextmanager
def _server(
    content: bytes | None, *, ranges: bool = True, breaks_after: int | None = None
) -> Iterator[tuple[str, list[_Request]]]:
    """A real server of one file; ``breaks_after`` so many bytes its first answer ends."""
    requests: list[_Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            request = _Request(self.headers["Range"])
            requests.append(request)
            if content is None:
                self.send_error(404)
                return
            start = 0
            if request.range and ranges:
                start = int(request.range.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/*")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = breaks_after if breaks_after and len(requests) == 1 else len(content)
            request.sent = len(content[start:stop])
            self.wfile.write(content[start:stop])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/blob.pth", requests
        finally:
            server.shutdown()
            thread.join()


def _weights(url: str) -> Weights:
    return Weights("blob.pth", url, hashlib.sha256(BLOB).hexdigest()[:8], "none")


def _loaded(path: Path) -> dict[str, Tensor]:
    network = checkpoints.build(OWT, checkpoints.read(path), source=path.name)
    return dict(network.state_dict())


def _numbered(
    build: Callable[..., alexnet.AlexNet], *arguments: int, **ranks: alexnet.Ranks
) -> dict[str, Tensor]:
    """The state of a whole network, each of its tensors full of a number of its own."""
    with torch.device("meta"):  # shapes without numbers
        shapes = build(*arguments, **ranks).state_dict()
    return {key: torch.full(t.shape, 0.01 * n) for n, (key, t) in enumerate(shapes.items())}


def _same(result: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return result.keys() == expected.keys() and all(
        torch.equal(result[key], tensor) for key, tensor in expected.items()
    )


def _torchvision() -> list[str]:
    return [f"features.{n}" for n in PLACES] + [f"classifier.{n}" for n in (1, 4, 6)]


def _onnx_of(tensors: dict[str, Tensor]) -> onnx.ModelProto:
    arrays = [numpy_helper.from_array(t.numpy(), name) for name, t in tensors.items()]
    return helper.make_model(helper.make_graph([], "blobs", [], [], arrays))
