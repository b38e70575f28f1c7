"""The whole distillation as a user starts it, on a handful of images and two small networks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from model_export import checkpoints
from model_export.alexnet import owt
from model_export.variants import VARIANTS
from model_training.distillation import distil, networks, pretrained
from model_training.distillation.__main__ import app, main
from model_training.distillation.dataset import read_dataset
from model_training.distillation.feature_extraction import Features, Part, extract_features, parts
from model_training.distillation.networks import TEACHER, TRUNK
from model_training.distillation.sources import read_manifest
from model_training.distillation.student import CLASSES, FEATURES
from model_training.distillation.train import Recipe
from model_training.errors import TrainingError
from tests.support.commands import examples, here
from tests.support.photographs import PHOTOGRAPHS, jpeg, photograph, repository
from tests.support.servers import PATIENCE, ROOT

pytestmark = pytest.mark.external  # half a minute: it runs the networks that are learned from

SETS = """
[validation]
name = "seen"
repository = "someone/seen"
commit = "{seen}"
labels = "list/labels.txt"
licence = "CC BY 4.0"
shows = "ten photographs"

[[set]]
name = "some"
repository = "someone/some"
commit = "{some}"
paths = "^n0"
images = 24
crops = 2.5
smallest = 0.25
licence = "CC BY 4.0"
shows = "24 photographs"
"""


def small_network(path: Path, outputs: int, *, integer: bool, seed: int = 0) -> None:
    """views -> an average of each of 6 x 6 places, times a matrix: a trunk or teacher in little."""
    weight = (
        np.random.default_rng([outputs, seed]).normal(0, 0.2, (3 * 36, outputs)).astype(np.float32)
    )
    nodes = [
        helper.make_node(
            "AveragePool", ["views"], ["cells"], kernel_shape=[37, 37], strides=[37, 37]
        ),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["said"]),
    ]
    constants = [numpy_helper.from_array(weight, "weight")]
    kind, name = TensorProto.FLOAT, "said"
    if integer:
        nodes.append(helper.make_node("QuantizeLinear", ["said", "step", "zero"], ["integers"]))
        constants.append(numpy_helper.from_array(np.array(0.05, np.float32), "step"))
        constants.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
        kind, name = TensorProto.UINT8, "integers"
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("views", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(name, kind, ["N", outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repositories, a manifest, and both networks, as an earlier call would have left them."""
    folder = tmp_path_factory.mktemp("distillation")
    files = {f"n0{2000000 + i}/{i}.jpg": PHOTOGRAPHS[i].read_bytes() for i in range(24)}
    some = repository(folder / "clones" / "someone+some", files)
    shown = {f"list/{i}.jpg": PHOTOGRAPHS[30 + i].read_bytes() for i in range(10)}
    labels = "".join(f"{i}.jpg, {i}\n" for i in range(10)).encode()
    seen = repository(folder / "clones" / "someone+seen", shown | {"list/labels.txt": labels})
    (folder / "sets.toml").write_text(SETS.format(some=some, seen=seen))
    (folder / "work" / "harvest").mkdir(parents=True)
    small_network(folder / "work" / TRUNK, FEATURES, integer=True)
    small_network(folder / "work" / TEACHER, CLASSES, integer=False)
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(whole, tmp_path / "place")


@contextmanager
def halves() -> Iterator[None]:
    """The set's 24 images are two parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{extract_features.__module__}.PART", 12)
        yield


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extraction's workers are threads, which need not import PyTorch."""

    def pool(workers: int, context: object, **_: object) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr("model_training.distillation.feature_extraction.ProcessPoolExecutor", pool)


@pytest.fixture(scope="module")
def first_and_broken(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Part, Part, Exception]:
    """Both halves of the set and how a worker process of an extraction ended, the second half
    from a damaged clone."""
    place = shutil.copytree(whole, tmp_path_factory.mktemp("harvest") / "place")
    with halves():
        first, second = wanted_parts(place)
    damaged = shutil.copytree(second.repository, place / "damaged")
    shutil.rmtree(damaged / "objects")
    broken = replace(second, repository=damaged)
    with pytest.raises(Exception) as ended:  # noqa: PT011 - which one is a test's
        list(extract_features([first, broken], place / "work", 1))
    return first, broken, ended.value


def distill(*arguments: str | Path) -> tuple[int, str]:
    """The command's status, and what it says on standard error."""
    done = here(main, "alexnet-distill", *map(str, arguments))
    return done.returncode, done.stderr.decode()


def wanted_parts(place: Path) -> list[Part]:
    listed = read_manifest(place / "sets.toml")
    return list(parts(listed.sets, place / "clones", place / "work"))


def test_an_extraction_is_the_same_again_and_holds_what_the_networks_say(
    first_and_broken: tuple[Part, Part, Exception], place: Path, threads: None
) -> None:
    """By one worker, a process; and by two that are threads."""
    one = Features.load(first_and_broken[0].path)
    with halves():
        all_parts = wanted_parts(place)
    assert len(list(extract_features(all_parts, place / "work", 2))) == len(all_parts) == 2
    again, rest = (Features.load(part.path) for part in all_parts)

    for name in Features.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert len(one.paths) == len(rest.paths) == 12
    assert set(one.paths).isdisjoint(rest.paths)
    counts = np.concatenate([np.bincount(part.owner) for part in (one, rest)])
    assert set(counts) == {2, 3}
    assert 0.2 < (counts == 3).mean() < 0.8
    assert len(one.features) == len(one.logits) == len(one.owner)
    assert one.features.shape[1] == FEATURES
    assert one.logits.shape[1] == CLASSES


def test_an_extraction_that_was_stopped_does_only_what_is_missing(
    place: Path, threads: None
) -> None:
    with halves():
        first, second = wanted_parts(place)
    assert list(extract_features([first], place / "work", 1)) == [first]

    assert list(extract_features([first, second], place / "work", 1)) == [second]
    assert list(extract_features([first, second], place / "work", 1)) == []


@pytest.mark.parametrize("change", ["crops", "smallest", "paths", "trunk"])
def test_what_was_extracted_otherwise_is_not_used(place: Path, change: str) -> None:
    before = wanted_parts(place)[0].path
    manifest = (place / "sets.toml").read_text()
    match change:
        case "crops":
            manifest = manifest.replace("crops = 2.5", "crops = 3")
        case "smallest":
            manifest = manifest.replace("smallest = 0.25", "smallest = 0.5")
        case "paths":
            manifest = manifest.replace('paths = "^n0"', 'paths = "^n0200000"')
        case "trunk":
            small_network(place / "work" / TRUNK, FEATURES, integer=True, seed=9)
    (place / "sets.toml").write_text(manifest)

    assert wanted_parts(place)[0].path != before


def test_a_part_that_fails_ends_the_extraction(
    first_and_broken: tuple[Part, Part, Exception],
) -> None:
    _, broken, ended = first_and_broken

    assert isinstance(ended, TrainingError)
    assert "it is no whole clone" in str(ended)
    assert not broken.path.exists()


def test_after_a_part_that_fails_no_other_is_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the one that the worker has begun by then: here it ends when the pool is closing."""
    monkeypatch.setattr(f"{extract_features.__module__}.PART", 6)
    begun: list[Part] = []
    closing = Event()

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, context: object, **_: object) -> None:
            super().__init__(workers)

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closing.set()
            super().shutdown(wait)

    def fail(part: Part, folder: Path) -> None:
        begun.append(part)
        if len(begun) == 1:
            raise TrainingError("the first part")
        assert closing.wait(PATIENCE)

    monkeypatch.setattr(f"{extract_features.__module__}.ProcessPoolExecutor", Pool)
    monkeypatch.setattr(f"{extract_features.__module__}.extract_part", fail)
    all_parts = wanted_parts(place)

    with pytest.raises(TrainingError, match="the first part"):
        list(extract_features(all_parts, place / "work", 1))

    assert len(all_parts) == 4
    assert begun[0] == all_parts[0]
    assert len(begun) <= 2


def test_the_command_makes_weights_that_the_exporter_takes(
    place: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = owt(ranks=(1, 1, 1)).features
    monkeypatch.setattr(distil, "Recipe", partial(Recipe, ranks=(8, 7, 6)))
    monkeypatch.setattr(pretrained, "trunk", lambda downloads: trunk)
    weights = place / "weights.safetensors"
    options: list[str | Path] = ["--work", place / "work", "--clones", place / "clones"]
    options += ["--manifest", place / "sets.toml", "--epochs", "2", "--workers", "1"]

    done = CliRunner().invoke(app, list(map(str, ["weights", "-o", weights, *options])))

    assert done.exit_code == 0, done.output
    assert "temperature" in done.output
    with (place / "work" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["top5"]) <= 1 for row in rows)

    assert json.loads(weights.with_suffix(".json").read_text())["accuracy"] == []
    network = checkpoints.build(VARIANTS["owt"], checkpoints.read(weights), source=weights.name)
    torch.testing.assert_close(network.features[0].weight, trunk[0].weight)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_the_examples_of_the_help_work(
    place: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, on the small sets and networks."""
    monkeypatch.setattr(distil, "Recipe", partial(Recipe, epochs=1, ranks=(8, 7, 6)))
    trunk = owt(ranks=(1, 1, 1)).features
    monkeypatch.setattr(pretrained, "trunk", lambda downloads: trunk)
    (place / "FOLDER").mkdir()
    (place / "FOLDER" / "n01440764.jpg").write_bytes(jpeg(photograph(4)))
    ran = 0
    for part in ([], ["weights"], ["exclude"]):
        text = here(main, "alexnet-distill", *part, "--help").stdout.decode()
        for line in examples(text):
            _, name, *words = line.split()
            options = [place / "FOLDER" if word == "FOLDER" else word for word in words]
            if "--help" not in words:
                options += ["--work", place / "work", "--clones", place / "clones"]
                options += ["--manifest", place / "sets.toml", "-o", place / "output"]
                options += ["--workers", "1"] if name == "weights" else []
            status, output = distill(name, *options)
            assert status == 0, f"{line}: {output}"
            ran += 1
    assert ran == 7


def test_photographs_to_measure_on_are_listed_and_left_out(
    place: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distil, "CANDIDATES", 24)  # all: these networks see little
    all_parts = wanted_parts(place)
    list(extract_features(all_parts, place / "work", 1))
    (place / "measured").mkdir()
    small = photograph(4).resize((160, 120)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (place / "measured" / "n01440764.jpg").write_bytes(jpeg(small, 70))
    # Image 7 was cut from this one.
    whole = Image.new("RGB", (2 * photograph(7).width, 2 * photograph(7).height), "olive")
    whole.paste(photograph(7), (30, 50))
    (place / "measured" / "n01443537.jpg").write_bytes(jpeg(whole, 70))
    options: list[str | Path] = ["--work", place / "work", "--clones", place / "clones"]
    options += ["--manifest", place / "sets.toml", "-o", place / "excluded.txt"]

    status, output = distill("exclude", place / "measured", *options)

    assert status == 0, output
    _, line, part = (place / "excluded.txt").read_text().splitlines()
    assert line.endswith("some n02000004/4.jpg")
    assert part.endswith("some n02000007/7.jpg")
    files = [part.path for part in all_parts]
    kept = read_dataset(files, place / "excluded.txt")
    assert kept.excluded == 2
    assert 4 <= sum(len(Features.load(file).owner) for file in files) - len(kept) <= 6
    assert kept.identity != read_dataset(files).identity


def test_a_folder_without_photographs_is_told(whole: Path, tmp_path: Path) -> None:
    """The real command."""
    arguments = ["exclude", tmp_path, "-o", tmp_path / "x.txt", "--work", whole / "work"]

    done = subprocess.run(
        [sys.executable, "-m", "model_training.distillation", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,  # it imports PyTorch
    )

    assert done.returncode == 1
    assert done.stderr == f"alexnet-distill: {tmp_path} holds no images to compare with\n"


def test_a_work_folder_without_features_is_told(place: Path) -> None:
    (place / "measured").mkdir()
    (place / "measured" / "n01440764.jpg").write_bytes(jpeg(photograph(4)))
    options: list[str | Path] = ["--work", place / "elsewhere", "--clones", place / "clones"]
    options += ["--manifest", place / "sets.toml", "-o", place / "x.txt"]

    status, output = distill("exclude", place / "measured", *options)

    assert status == 1
    assert "begin with alexnet-distill weights" in output


def test_the_features_scale_is_read_from_the_trunk(whole: Path) -> None:
    assert networks.scale(whole / "work") == pytest.approx(0.05)
