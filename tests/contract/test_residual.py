"""A fifth network, which is no chain of layers: one file, one row, and it is served.

`tests/support/residual.py` is that file; the row is put into the table before the command is
loaded, as a row that stands there is.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_client import ClassProbability
from model_export import checkpoints, verify
from model_export.alexnet import AlexNet
from model_export.crops import Floats, Pixels, load_images
from model_export.precision import PRECISIONS
from model_export.variants import VARIANTS
from tests.model_export.conftest import one_registry as one_registry
from tests.support.commands import here
from tests.support.pytorch import seeded as seeded
from tests.support.residual import RESIDUAL, learned
from tests.support.servers import InThread, serving

NAMES = [f"class {number}" for number in range(10)]
NEAR = PRECISIONS["fp32"].largest_difference  # in probability: what the exporter allows


@dataclass(frozen=True)
class Exported:
    """What the command made of the network, and what it said."""

    network: AlexNet
    file: Path
    said: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the network, the names of its classes, and seven images to verify on."""
    folder = tmp_path_factory.mktemp("residual")
    torch.save(learned(len(NAMES)).state_dict(), folder / "residual.pth")
    (folder / "names.txt").write_text("\n".join(NAMES), "utf-8")
    for number, image in enumerate(load_images(limit=7)[:7]):
        (folder / f"{number}.png").write_bytes(_png(image))
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    file = folder / "residual.onnx"
    done = _export(folder, "-o", str(file))
    assert done.returncode == 0, done.stderr
    return Exported(learned(len(NAMES)), file, done.stdout.decode())


@pytest.fixture(scope="module")
def server(exported: Exported) -> Iterator[InThread]:
    with serving(exported.file, threads=1) as server:
        yield server


@pytest.fixture(scope="module")
def images() -> Pixels:
    """Four photographs, uint8 (4, 256, 256, 3)."""
    return load_images()[1:5]


@pytest.mark.parametrize("crops", ["ten", "one"])
def test_a_residual_network_is_served_as_pytorch_answers(
    crops: str, exported: Exported, server: InThread, images: Pixels
) -> None:
    """The mean of PyTorch's softmax over the views, which differ: neither their number nor where
    the mean stands can be mistaken."""
    views = _pytorch(exported.network, images, crops)
    expected = views.mean(1)

    answers = [server.service.classify(_png(p), crops=crops, top=len(NAMES)) for p in images]

    assert views.shape == (len(images), {"ten": 10, "one": 1}[crops], len(NAMES))
    assert views.std(1).max() > 100 * NEAR or crops == "one"
    assert expected.std(0).max() > 100 * NEAR  # it tells the images apart
    assert np.abs(np.array([_row(a.classes) for a in answers]) - expected).max() < NEAR


def test_each_view_of_a_residual_network_is_pytorchs(
    exported: Exported, server: InThread, images: Pixels
) -> None:
    expected = _pytorch(exported.network, images[:1], "ten")[0]

    answer = server.service.classify(_png(images[0]), top=len(NAMES), details=["views"])

    assert [(view.name, view.mirrored) for view in answer.views[:5:4]] == [
        ("top left", False),
        ("centre", False),
    ]
    assert len({row.tobytes() for row in expected}) == 10
    assert np.abs(np.array([_row(v.classes) for v in answer.views]) - expected).max() < NEAR


def test_dense_of_a_residual_network_is_refused_with_the_choices_there_are(
    server: InThread, images: Pixels
) -> None:
    answer = server.client.post("/v1/predict?crops=dense", content=_png(images[0]))

    assert answer.status_code == 422
    assert "crops='dense': must be one of ten, one" in answer.text


def test_the_command_says_why_there_is_no_dense(exported: Exported) -> None:
    assert "residual, fp32, 6,194 parameters" in exported.said
    assert "no dense, since the network is no chain of layers: Add" in exported.said


@pytest.mark.external  # two exports by the command
@pytest.mark.parametrize("precision", ["fp16", "int8w"])
def test_a_residual_network_is_exported_in_another_precision(precision: str, folder: Path) -> None:
    done = _export(folder, "-o", str(folder / f"{precision}.onnx"), "--precision", precision)

    assert done.returncode == 0, done.stderr


def test_a_residual_network_in_8_bit_is_refused_with_what_to_choose(folder: Path) -> None:
    done = _export(folder, "-o", str(folder / "int8.onnx"), "--precision", "int8")

    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "Choose --precision fp32, fp16 for a GPU, or int8w" in line
    assert not (folder / "int8.onnx").exists()


def test_an_export_of_an_exported_residual_network_is_the_same(
    exported: Exported, folder: Path
) -> None:
    done = _export(folder, "-o", str(folder / "again.onnx"), weights=exported.file)

    assert done.returncode == 0, done.stderr
    first, second = (checkpoints.read(file) for file in (exported.file, folder / "again.onnx"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def _export(
    folder: Path, *more: str, weights: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """`alexnet-export` of a package that has the row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, RESIDUAL.name, RESIDUAL)
        spec = find_spec("model_export.__main__")
        assert spec is not None
        assert spec.loader is not None
        command = module_from_spec(spec)  # not the one that is loaded: its choices are read already
        spec.loader.exec_module(command)
        given = ["--variant", RESIDUAL.name, "--weights", str(weights or folder / "residual.pth")]
        given += ["--labels", str(folder / "names.txt"), "--pictures", str(folder)]
        return here(command.main, "alexnet-export", *given, *more)


def _pytorch(network: AlexNet, images: Pixels, crops: str) -> Floats:
    """float32 (N, V, classes): the softmax of each view, which numpy cut."""
    row = RESIDUAL
    return verify.reference(
        network, images, crop_size=row.crop_size, normalisation=row.normalisation, crops=crops
    )


def _row(classes: Sequence[ClassProbability]) -> list[float]:
    """The probabilities of an answer in the order of the network's outputs."""
    told = {each.label: each.probability for each in classes}
    return [told[name] for name in NAMES]


def _png(image: Pixels) -> bytes:
    """A square of 256 pixels a side, which reaches the network as it is."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    return encoded.getvalue()
