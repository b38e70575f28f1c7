"""The model file: its crops against plain numpy, its record, its checksum, its verification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, numpy_helper
from PIL import Image
from torch import nn

from model_export import export, verify
from model_export.alexnet import AlexNet
from model_export.crops import Floats, Pixels, load_images, ten_crops
from model_export.errors import LabelsUnusable, VerificationFailed
from model_export.export import Record
from model_export.graph import CROPS, IMAGE_SIZE, serving_graph, views_of
from model_export.precision import PRECISIONS, Runner
from model_export.variants import VARIANTS, Normalisation, greyscale
from service.inference.engine import Engine
from tests.support.networks import Layer, feature_maps_of, logits, noise

OWT = VARIANTS["owt"]
VIEWS = {"ten": 10, "one": 1, "dense": 10}
TAIL = 78  # bytes: two keys and lengths, "checksum", 64 digits


def _new(classes: int = 10, channels: int = 3) -> AlexNet:
    """A network of 224 or 227 pixels a side that tells colours and places apart."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(channels, 8, 16, stride=16), nn.ReLU(), nn.MaxPool2d(7))
    linear = nn.Linear(8 * 2 * 2, classes)
    nn.init.normal_(linear.weight, std=1.0)
    return AlexNet(features, nn.Sequential(linear)).eval()


_tiny = cache(_new)  # these are not changed


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """A network is exported once for each side, whatever files are made of it."""
    made = cache(export.to_onnx)

    def to_onnx(network: AlexNet, crop_size: int) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(made(network, crop_size))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", to_onnx)
        yield


@pytest.fixture(scope="module")
def real() -> Pixels:
    return load_images(limit=8)[:8]


@pytest.fixture(scope="module")
def network() -> AlexNet:
    return _tiny(channels=3)


@pytest.fixture(scope="module")
def model(network: AlexNet, real: Pixels) -> ModelProto:
    """fp32, with its metadata."""
    made = export.build_model(network, OWT, precision="fp32", calibration=real)
    export.describe(
        made,
        variant=OWT,
        precision="fp32",
        labels=[(None, f"class {n} \N{SNOWMAN}") for n in range(10)],
        record=Record("tiny", {"name": "random", "licence": "none"}, [{"top1": 0.1}]),
        image=real[0],
    )
    return made


@pytest.fixture(scope="module")
def written(model: ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "new" / "tiny.onnx"
    export.write(model, path, check=lambda file: None)
    return path


@pytest.mark.parametrize(
    ("crop_size", "normalisation", "crops", "count"),
    [
        *((224, OWT.normalisation, crops, count) for crops, count in VIEWS.items()),
        *((227, VARIANTS["caffe"].normalisation, crops, VIEWS[crops]) for crops in ("ten", "one")),
        *((224, greyscale(OWT.normalisation), crops, count) for crops, count in VIEWS.items()),
    ],
    ids=[*(f"RGB-{crops}" for crops in VIEWS), "BGR-ten", "BGR-one", *(f"L-{c}" for c in VIEWS)],
)
def test_every_view_equals_plain_numpy(
    crop_size: int, normalisation: Normalisation, crops: str, count: int, real: Pixels
) -> None:
    # Pixels below one, so that no softmax saturates and hides a difference.
    scaled = replace(normalisation, std=tuple(255.0 + n for n in range(len(normalisation.std))))
    network = _tiny(channels=len(scaled.mean))
    graph = serving_graph(
        export.to_onnx(network, crop_size), crop_size=crop_size, normalisation=scaled
    )
    expected = verify.reference(
        network, real, crop_size=crop_size, normalisation=scaled, crops=crops
    )

    mean, views = Runner(graph).run(real, CROPS[crops])

    assert views.shape == (len(real), count, 10)
    assert views.max() < 0.99
    assert np.abs(views - expected).max() < 1e-5
    assert np.abs(mean - expected.mean(1)).max() < 1e-5


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize(("crop_size", "far", "middle"), [(224, 32, 16), (227, 29, 14)])
def test_the_views_are_corners_then_centre_then_their_mirrors(
    crop_size: int, far: int, middle: int, channels: str
) -> None:
    """Red is the row and green the column; a network that answers with the first pixel of a view
    tells where the view begins."""
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.uint8)
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)[None]
    bgr = channels == "BGR"
    normalisation = Normalisation((0.0,) * 3, (255.0,) * 3, "BGR" if bgr else "RGB")
    network = _first_pixel(crop_size)
    graph = serving_graph(
        export.to_onnx(network, crop_size), crop_size=crop_size, normalisation=normalisation
    )
    first = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    mirrors = [(y, x + crop_size - 1) for y, x in first]

    assert _origins(Runner(graph).run(image, 10)[1][0], bgr=bgr) == first + mirrors
    assert _origins(Runner(graph).run(image, 1)[1][0], bgr=bgr) == [(middle, middle)]


@cache
def _first_pixel(crop_size: int) -> AlexNet:
    network = AlexNet(nn.Sequential(nn.Conv2d(3, 3, crop_size)), nn.Sequential(nn.Linear(3, 3)))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    state = network.state_dict()  # shares its tensors with the network
    state["features.0.weight"][:, :, 0, 0] = torch.eye(3)
    state["classifier.0.weight"][:] = torch.eye(3)
    return network


def _origins(views: Floats, *, bgr: bool) -> list[tuple[int, int]]:
    """Logits are pixels over 255, one of them zero: the softmax's ratios give them back."""
    zero = 0 if bgr else 2
    pixels = np.rint(255 * (np.log(views) - np.log(views[:, zero : zero + 1]))).astype(int)
    return [(p[2], p[1]) if bgr else (p[0], p[1]) for p in pixels.tolist()]


def test_ten_crops_in_numpy_are_the_ten_that_slicing_gives(real: Pixels) -> None:
    a = real[:1]
    boxes = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    expected = [a[0, y : y + 224, x : x + 224] for y, x in boxes]

    found = ten_crops(a, 224)[0]

    assert np.array_equal(found, np.stack([*expected, *(np.fliplr(e) for e in expected)]))


def test_grey_is_pillows_grey() -> None:
    """A network that gives back what it is given."""
    network = feature_maps_of([Layer(1, 1)], channels=1)
    for tensor, value in zip(network.graph.initializer, (1, 0), strict=False):
        array = np.full(tensor.dims, value, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    grey = Normalisation((0.0,), (1.0,), channels="L")

    found = logits(
        serving_graph(network, crop_size=224, normalisation=grey), noise(1), CROPS["one"]
    )

    expected = np.asarray(Image.fromarray(noise(1)[0]).convert("L"))[16:240, 16:240]
    assert np.array_equal(found.reshape(224, 224), expected)


def test_who_sends_no_crops_gets_ten(model: ModelProto, real: Pixels) -> None:
    session = onnxruntime.InferenceSession(_bytes(model), _silent(), ["CPUExecutionProvider"])

    (views,) = session.run(["view_probabilities"], {"images": real})

    assert np.array_equal(views, Runner(model).run(real, 10)[1])
    assert views.shape[1] == 10


@pytest.mark.parametrize("side", [224, 227])
@pytest.mark.parametrize("crops", ["ten", "one"])
def test_a_file_of_one_choice_has_no_branch_and_needs_no_input_for_it(
    crops: str, side: int, network: AlexNet, real: Pixels
) -> None:
    variant = replace(OWT, crop_size=side)
    whole, fixed = (
        export.build_model(network, variant, precision="fp32", calibration=real, crops=choice)
        for choice in (None, crops)
    )

    session = onnxruntime.InferenceSession(_bytes(fixed), _silent(), ["CPUExecutionProvider"])

    (views,) = session.run(["view_probabilities"], {"images": real})
    assert np.abs(views - Runner(whole).run(real, CROPS[crops])[1]).max() < 1e-6
    assert views.shape[1] == VIEWS[crops]
    assert json.loads(_metadata(fixed)["crops"]) == {crops: CROPS[crops]}
    assert "If" not in {node.op_type for node in fixed.graph.node}


def test_the_service_runs_a_file_of_one_choice(
    network: AlexNet, real: Pixels, tmp_path: Path
) -> None:
    made = export.build_model(network, OWT, precision="fp32", calibration=real, crops="one")
    labels = [(None, f"class {n}") for n in range(10)]
    export.describe(
        made,
        variant=OWT,
        precision="fp32",
        labels=labels,
        record=Record("one", {}, []),
        image=real[0],
    )
    export.write(
        made, tmp_path / "one.onnx", check=lambda file: _verify(made, network, real, "fp32")
    )

    engine = Engine.load(tmp_path / "one.onnx", device="cpu", threads=1)

    assert engine.model.crops == {"one": 1}
    assert np.array_equal(engine.run(real, 1), Runner(made).run(real, 1)[0])


def test_no_folder_is_made_above_the_files_own(model: ModelProto, tmp_path: Path) -> None:
    """A mistyped -o is an error, and not a new tree of folders."""
    export.write(model, tmp_path / "models" / "a.onnx", check=lambda file: None)

    with pytest.raises(FileNotFoundError):
        export.write(model, tmp_path / "no" / "where" / "a.onnx", check=lambda file: None)
    assert (tmp_path / "models" / "a.onnx").is_file()
    assert not (tmp_path / "no").exists()


def test_a_batch_answers_as_its_images_one_by_one(model: ModelProto, real: Pixels) -> None:
    together = Runner(model).run(real, 10)[0]

    alone = np.concatenate([Runner(model).run(real[i : i + 1], 10)[0] for i in range(8)])

    assert np.allclose(together, alone, atol=1e-6)


def test_biases_of_zero_survive() -> None:
    network = _new()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)

    names = {i.name for i in export.to_onnx(network, 224).graph.initializer}

    assert set(network.state_dict()) <= names


def test_the_file_tells_nothing_of_the_exporting_machine(written: Path) -> None:
    content = written.read_bytes()
    secrets = [
        str(Path(export.__file__).parent),
        str(Path(torch.__file__).parent),
        str(Path.home()),
    ]
    traces = ["site-packages", "stack_trace", "pkg.torch", ".py", 'File "', str(written.parent)]

    assert [word for word in (*secrets, *traces) if word.encode() in content] == []


def test_the_file_ends_in_the_checksum_of_all_before(written: Path) -> None:
    content = written.read_bytes()
    assert content[-TAIL:-64] == b"\x72\x4c\x0a\x08checksum\x12\x40"
    assert content[-64:].decode() == hashlib.sha256(content[:-TAIL]).hexdigest()

    for place in (0, len(content) // 2, len(content) - TAIL - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1
        assert content[-64:].decode() != hashlib.sha256(flipped[:-TAIL]).hexdigest()


def test_any_onnx_reader_accepts_the_file(written: Path) -> None:
    onnx.checker.check_model(onnx.load(written), full_check=True)
    session = onnxruntime.InferenceSession(written, _silent(), ["CPUExecutionProvider"])

    assert "checksum" in session.get_modelmeta().custom_metadata_map


def test_writing_leaves_nothing_else_behind(written: Path) -> None:
    assert [file.name for file in written.parent.iterdir()] == ["tiny.onnx"]


def test_the_metadata_are_complete(written: Path, real: Pixels) -> None:
    told = _metadata(onnx.load(written))

    assert set(told) == {
        *("format", "name", "variant", "precision", "crops", "labels", "weights", "accuracy"),
        *("exporter", "golden", "normalisation", "views", "checksum"),
    }
    assert (told["format"], told["name"], told["variant"], told["precision"]) == (
        *("1", "tiny", "owt", "fp32"),
    )
    assert json.loads(told["crops"]) == {"ten": 10, "one": 1, "dense": 2}
    assert json.loads(told["labels"])[3] == [None, "class 3 \N{SNOWMAN}"]
    assert json.loads(told["weights"]) == {"name": "random", "licence": "none"}
    assert json.loads(told["accuracy"]) == [{"top1": 0.1}]
    assert set(json.loads(told["exporter"])) >= {"torch", "onnx", "onnxruntime"}
    golden = json.loads(told["golden"])
    assert set(golden) == {"pixels", "classes", "tolerance"}
    assert len(golden["classes"]) == 5


def test_the_views_are_told_in_the_order_of_the_output(real: Pixels) -> None:
    """Each view is classified alone, cut and mirrored as the metadata say."""
    caffe = VARIANTS["caffe"]
    network = _tiny(classes=7)
    made = export.build_model(network, caffe, precision="fp32", calibration=real)
    image = real[:1]

    views = Runner(made).run(image, CROPS["ten"])[1][0]

    for view, answer in zip(views_of(caffe.crop_size), views, strict=True):
        left, top = int(str(view["left"])), int(str(view["top"]))
        cut = image[:, top : top + caffe.crop_size, left : left + caffe.crop_size]
        seen = np.zeros_like(image)
        y = x = (256 - caffe.crop_size) // 2
        seen[:, y : y + caffe.crop_size, x : x + caffe.crop_size] = (
            cut[:, :, ::-1] if view["mirrored"] else cut
        )
        alone = Runner(made).run(seen, CROPS["one"])[0][0]
        assert np.abs(alone - answer).max() < 1e-6


def test_the_file_holds_one_copy_of_the_weights(real: Pixels) -> None:
    network = _tiny(classes=5000)
    weights = sum(4 * p.numel() for p in network.parameters())

    made = export.build_model(network, OWT, precision="fp32", calibration=real)

    assert weights < made.ByteSize() < weights + 10_000


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_verifies(name: str, network: AlexNet, real: Pixels) -> None:
    made = export.build_model(network, OWT, precision=name, calibration=real)

    agreements = _verify(made, network, real, name)

    assert [row.crops for row in agreements] == list(CROPS)
    assert all(row.largest_difference <= PRECISIONS[name].largest_difference for row in agreements)


def test_half_precision_is_verified_in_true_half_precision(real: Pixels) -> None:
    """The runtime on the CPU computes the file in float32, where nothing overflows."""
    network = _new()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(1e6 if name.startswith("features") else 1e-6)
    made = export.build_model(network, OWT, precision="fp16", calibration=real)

    with pytest.raises(VerificationFailed, match="in half precision this network overflows"):
        _verify(made, network, real, "fp16")


def test_response_normalisation_stays_in_float_where_all_else_is_half() -> None:
    """It squares what pixels of 0-255 become in the first convolution of caffe and paper."""
    network = feature_maps_of([Layer(8, 5, 4, norm=True), Layer(8, 3)])

    half = PRECISIONS["fp16"].convert(network, np.empty(0, np.float32), OWT.normalisation)

    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(half).graph.value_info
    }
    taken = {node.op_type: types.get(node.input[0]) for node in half.graph.node}
    assert (taken["LRN"], taken["Relu"]) == (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def test_an_8_bit_file_is_smaller(real: Pixels) -> None:
    network = _tiny(classes=5000)
    sizes = {
        name: export.build_model(network, OWT, precision=name, calibration=real).ByteSize()
        for name in PRECISIONS
    }

    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8w"] < 0.35 * sizes["fp32"]
    assert sizes["int8"] < 0.5 * sizes["fp32"]


@pytest.mark.parametrize("kind", ["rolled", "scaled", "NaN"])
def test_a_file_with_an_altered_weight_fails_its_verification(
    kind: str, network: AlexNet, model: ModelProto, real: Pixels
) -> None:
    changed = ModelProto()
    changed.CopyFrom(model)
    weight = next(i for i in changed.graph.initializer if i.name == "classifier.0.weight")
    array = numpy_helper.to_array(weight).copy()
    altered = {"rolled": np.roll(array, 1, axis=0), "scaled": array * 1.01, "NaN": array * np.nan}
    weight.CopyFrom(numpy_helper.from_array(altered[kind], weight.name))

    with pytest.raises(VerificationFailed, match="deleted"):
        _verify(changed, network, real, "fp32")


@pytest.mark.parametrize("altered", [False, True], ids=["as it is", "with an altered weight"])
def test_large_logits_are_verified_against_float64(altered: bool, real: Pixels) -> None:
    """Both err by more than usual, and alike: float64 tells rounding from a fault."""
    network = _new()
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.mul_(40)
    made = export.build_model(network, OWT, precision="fp32", calibration=real)
    if altered:
        weight = next(i for i in made.graph.initializer if i.name == "classifier.0.weight")
        array = numpy_helper.to_array(weight) * np.float32(1.002)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        with pytest.raises(VerificationFailed, match=r"no rounding.* away from float64"):
            _verify(made, network, real, "fp32")
        return

    agreements = _verify(made, network, real, "fp32")

    largest = max(row.largest_difference for row in agreements)
    assert largest > PRECISIONS["fp32"].largest_difference


def test_a_file_that_prepares_its_images_otherwise_fails_its_verification(
    network: AlexNet, real: Pixels
) -> None:
    swapped = replace(OWT, normalisation=replace(OWT.normalisation, channels="BGR"))
    made = export.build_model(network, swapped, precision="fp32", calibration=real)

    with pytest.raises(VerificationFailed, match="differs from PyTorch"):
        _verify(made, network, real, "fp32")


def test_labels_are_a_name_per_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffcat, tabby\r\nhund\n\nespresso\u0301\n".encode())

    labels = export.read_labels(tmp_path / "names.txt", 3)

    assert labels == [(None, "cat, tabby"), (None, "hund"), (None, "espresso\u0301")]


def test_labels_may_have_wordnet_ids(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text('wordnet_id,name\nn02123045,"tabby, cat"\n,mine\n', "utf-8")

    labels = export.read_labels(tmp_path / "names.csv", 2)

    assert labels == [("n02123045", "tabby, cat"), (None, "mine")]


def test_a_wrong_number_of_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n", "utf-8")

    with pytest.raises(LabelsUnusable, match=r"names\.txt names 2 classes and the network has 3"):
        export.read_labels(tmp_path / "names.txt", 3)


def test_labels_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00cat")

    for name in ("names.txt", "gone.txt"):
        with pytest.raises(LabelsUnusable, match=f"{name} cannot be read"):
            export.read_labels(tmp_path / name, 1)


def test_imagenet_has_a_thousand_labels_in_the_order_of_their_ids() -> None:
    ids = [wordnet_id or "" for wordnet_id, _ in export.imagenet_labels()]

    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def _verify(
    model: ModelProto, network: AlexNet, images: Pixels, name: str
) -> list[verify.Agreement]:
    return verify.verify(
        model,
        network,
        crop_size=OWT.crop_size,
        normalisation=OWT.normalisation,
        precision=name,
        images=images,
    )


def _metadata(model: ModelProto) -> Mapping[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _silent() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString())
