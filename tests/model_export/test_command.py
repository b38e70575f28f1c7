"""
The command as its user runs it: a file that the service takes, or one sentence and no file.

In this process, on a small network; the whole command on the bundled one is run as a process by
tests/model_training/test_fine_tuning.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from PIL import Image
from typer.testing import CliRunner

from model_export import checkpoints, crops, verify
from model_export.__main__ import PrecisionName, VariantName, app, main
from model_export.precision import PRECISIONS
from model_export.variants import VARIANTS, Normalisation, Weights
from service.inference.engine import Engine
from tests.support.commands import examples, here, plain
from tests.support.networks import SMALL
from tests.support.servers import PATIENCE, ROOT

NAMES = ["daisy", "dandelion", "rose", "sunflower", "tulip \N{TULIP}"]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """`--variant owt` is a small network here, so that an export takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "owt", replace(SMALL, name="owt"))
        yield


@pytest.fixture(scope="module")
def folder(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned network, its labels, and seven images to verify on."""
    folder = tmp_path_factory.mktemp("flowers")
    torch.manual_seed(0)
    network = VARIANTS["owt"].build(len(NAMES), 3, (None, None, None))
    torch.save({"state_dict": network.state_dict()}, folder / "flowers.pth")
    (folder / "names.txt").write_text("\n".join(NAMES), "utf-8")
    (folder / "pictures").mkdir()
    for number, image in enumerate(crops.load_images(limit=7)[:7]):
        Image.fromarray(image).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def flowers(folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What the command makes of it, and what it says."""
    output = folder / "new" / "flowers.onnx"
    return output, _flowers(folder, "-o", str(output), "--name", "flowers")


def test_a_fine_tuned_checkpoint_becomes_a_model_that_the_service_runs(
    folder: Path, flowers: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    output, done = flowers

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "read as owt: 10 tensors, prefix state_dict. removed" in done.stdout
    assert (
        "normalisation: RGB, (pixel - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375); "
        "by the row of owt" in done.stdout
    )
    assert "owt, fp32, " in done.stdout
    assert f"alexnet serve --model {output}" in done.stdout
    engine = Engine.load(output, device="cpu", threads=1)
    assert [(label.wordnet_id, label.name) for label in engine.model.labels] == [
        (None, name) for name in NAMES
    ]
    assert (engine.model.name, engine.model.variant) == ("flowers", "owt")
    assert engine.model.weights["name"] == "flowers.pth"
    answer = engine.run(crops.load_images(folder / "pictures"), 10)
    assert answer.shape == (7, 5)
    assert np.allclose(answer.sum(1), 1, atol=1e-5)


def test_the_examples_of_the_help_work(tmp_path: Path) -> None:
    """With a small network for all weights, the published ones among them."""
    torch.manual_seed(0)
    weights = tmp_path / "alexnet-service" / "small.pth"
    weights.parent.mkdir()
    torch.save(VARIANTS["owt"].build(1000, 3, (None, None, None)).state_dict(), weights)
    published = Weights("small.pth", "http://127.0.0.1:9/", checkpoints.sha256(weights), "none")
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(1000)))
    (tmp_path / "n02124075").mkdir()
    shutil.copy(ROOT / "tests" / "pictures" / "cat.jpg", tmp_path / "n02124075")
    places = {"mine.pth": weights, "service/bundled/alexnet.onnx": weights, "FOLDER": tmp_path}
    places["classes.txt"] = tmp_path / "classes.txt"
    lines = examples(_run("--help").stdout)

    for line in lines:
        words = [str(places.get(word, word)) for word in line.split()[1:]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(VARIANTS, "owt", replace(VARIANTS["owt"], weights=published))
            # An eighth of the default photographs: the network has its full size.
            patch.setattr(crops, "load_images", partial(crops.load_images, limit=8))
            variables = plain({"XDG_CACHE_HOME": str(tmp_path)})
            output = ("-o", str(tmp_path / "alexnet.onnx"))
            done = here(main, "alexnet-export", *words, *output, variables=variables)
        assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
    assert len(lines) == 4


def test_ctrl_c_is_status_130_and_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file is verified, when most of it is there."""

    def interrupted(*_: object, **__: object) -> None:
        signal.default_int_handler(signal.SIGINT, None)

    monkeypatch.setattr(verify, "verify", interrupted)
    output = tmp_path / "out" / "a.onnx"
    output.parent.mkdir()
    output.write_bytes(b"an earlier model")

    done = _flowers(folder, "-o", str(output))

    assert done.returncode == 130
    assert list(output.parent.iterdir()) == [output]
    assert output.read_bytes() == b"an earlier model"


def test_an_export_of_an_export_answers_the_same(
    folder: Path, flowers: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    first, second = flowers[0], folder / "second.onnx"

    done = _flowers(folder, "-o", str(second), weights=first)

    assert done.returncode == 0, done.stderr
    images = crops.load_images(folder / "pictures")
    answers = [Engine.load(f, device="cpu", threads=1).run(images, 10) for f in (first, second)]
    assert np.array_equal(answers[0], answers[1])


def test_a_networks_own_preparation_stays_with_it(folder: Path, tmp_path: Path) -> None:
    """From a checkpoint into the file, and out of the file into the next one."""
    state = torch.load(folder / "flowers.pth", weights_only=True)["state_dict"]
    own = Normalisation((10.0, 20.0, 30.0), (200.0, 100.0, 50.0), "BGR")
    metadata = {"normalisation": own.to_json()}
    trained, first, second = (tmp_path / n for n in ("own.safetensors", "1.onnx", "2.onnx"))
    safetensors.torch.save_file(state, trained, metadata=metadata)

    done = [
        _flowers(folder, "-o", str(first), weights=trained),
        _flowers(folder, "-o", str(second), weights=first),
    ]

    assert [each.returncode for each in done] == [0, 0], done
    images = crops.load_images(folder / "pictures")
    network = checkpoints.build(VARIANTS["owt"], state, source="own")
    expected = verify.reference(network, images, crop_size=224, normalisation=own, crops="ten")
    for file in (first, second):
        answer = Engine.load(file, device="cpu", threads=1).run(images, 10)
        assert np.allclose(answer, expected.mean(1), atol=1e-5)


def test_images_that_cannot_be_read_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(folder / "pictures", pictures)
    whole = (pictures / "0.png").read_bytes()
    (pictures / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + whole[:99])
    (pictures / "text.gif").write_text("no image")

    done = _flowers(folder, "-o", str(tmp_path / "a.onnx"), "--pictures", str(pictures))

    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("cut.jpg", "text.gif"), strict=True):
        assert line.startswith(f"alexnet-export: {pictures / name} cannot be read (")
        assert line.endswith("and is left out")

    (pictures / "0.png").unlink()
    failed = _flowers(folder, "-o", str(tmp_path / "b.onnx"), "--pictures", str(pictures))

    assert failed.returncode == 1
    assert "holds 6 images" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_is_known_of_the_weights_travels_from_file_to_file(
    folder: Path, tmp_path: Path
) -> None:
    """Licence, origin, labels; accuracy as long as the arithmetic is the same."""
    known = {"licence": "MIT", "trained": "by hand"}
    accuracy = [{"data": "ours", "crops": "one", "top1": 0.5}]
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"weights": known, "accuracy": accuracy}), "utf-8")
    first, second, third = (tmp_path / f"{n}.onnx" for n in (1, 2, 3))
    pictures = ("--pictures", str(folder / "pictures"))
    weights = "--variant", "owt", "--weights"

    done = [
        _flowers(folder, "-o", str(first), "--record", str(record)),
        _run(*weights, str(first), *pictures, "-o", str(second)),
        _run(*weights, str(second), *pictures, "-o", str(third), "--precision", "fp16"),
    ]

    assert [each.returncode for each in done] == [0, 0, 0], done
    models = [Engine.load(f, device="cpu", threads=1).model for f in (first, second, third)]
    assert [model.weights["licence"] for model in models] == ["MIT"] * 3
    assert [model.weights["trained"] for model in models] == ["by hand"] * 3
    assert [[label.name for label in model.labels] for model in models] == [NAMES] * 3
    assert [model.accuracy for model in models] == [accuracy, accuracy, []]
    origin = models[2].weights["from"]
    assert (origin["name"], origin["from"]["name"]) == ("1.onnx", "flowers.pth")
    assert models[2].weights["sha256"] == checkpoints.sha256(second)


def test_the_command_line_says_how_images_were_prepared_and_which_to_look_at(
    folder: Path, tmp_path: Path
) -> None:
    for name in NAMES[:2]:
        (tmp_path / name).mkdir()
        Image.fromarray(crops.load_images(limit=7)[0]).save(tmp_path / name / "1.png")
    output = tmp_path / "a.onnx"

    done = _flowers(
        *(folder, "-o", str(output), "--mean", "104,117,123", "--std", "1", "--channels", "bgr"),
        *("--check", str(tmp_path)),
    )

    assert done.returncode == 0, done.stderr
    normalisation = "BGR, (pixel - (104, 117, 123)) / (1, 1, 1); by the command line"
    assert normalisation in done.stdout
    assert " of 2 labelled images get their own label" in done.stdout
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert json.loads(metadata["normalisation"])["planes"] == "BGR"


@pytest.mark.parametrize("text", ["1,2", "a", "", "1;2;3"])
def test_figures_that_are_none_are_status_2(text: str) -> None:
    assert _run("--variant", "owt", "--mean", text).returncode == 2


def test_a_record_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"weights": {"sha256": "0" * 64}, "accuracy": []}), "utf-8")

    done = _flowers(folder, "-o", str(tmp_path / "a.onnx"), "--record", str(record))

    _failed_with(done, "record.json is of other weights than flowers.pth")


def test_published_weights_that_are_damaged_are_refused(folder: Path, tmp_path: Path) -> None:
    """Wherever they come from: the variant's row knows their SHA-256."""
    weights = VARIANTS["caffe"].weights
    assert weights is not None
    (tmp_path / weights.name).write_bytes((folder / "flowers.pth").read_bytes())

    done = _flowers(folder, "-o", str(tmp_path / "a.onnx"), weights=tmp_path / weights.name)

    _failed_with(done, f"{weights.name} is damaged", "fetch it again")


def test_a_failing_verification_leaves_what_was_there(folder: Path, tmp_path: Path) -> None:
    """Finite weights so large that the answers are not numbers."""
    state = torch.load(folder / "flowers.pth", weights_only=True)["state_dict"]
    state["classifier.0.weight"] *= 1e30
    state["classifier.3.weight"] *= 1e30
    safetensors.torch.save_file(state, tmp_path / "large.safetensors")
    output = tmp_path / "out" / "a.onnx"
    output.parent.mkdir()
    output.write_bytes(b"an earlier model")

    done = _flowers(folder, "-o", str(output), weights=tmp_path / "large.safetensors")

    _failed_with(done, "not probabilities", "deleted")
    assert list(output.parent.iterdir()) == [output]
    assert output.read_bytes() == b"an earlier model"


def test_an_output_that_cannot_be_written_leaves_no_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not wait for PyTorch to verify what is not kept."""
    monkeypatch.setattr(verify, "verify", lambda *_, **__: [])
    (tmp_path / "taken.onnx").mkdir()
    arguments = _given(folder, "-o", str(tmp_path / "taken.onnx"))

    done = CliRunner().invoke(app, arguments)

    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1), done.output
    assert done.stderr.startswith("alexnet-export: ")
    assert "taken.onnx cannot be written" in done.stderr
    assert [file.name for file in tmp_path.rglob("*")] == ["taken.onnx"]


def test_nobody_has_published_weights_of_the_paper(tmp_path: Path) -> None:
    done = _run("--variant", "paper", "-o", str(tmp_path / "a.onnx"))

    _failed_with(done, "nobody has published weights of paper", "--weights PATH")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone.pth"

    done = _run("--variant", "owt", "--weights", str(gone), "-o", str(tmp_path / "a.onnx"))

    _failed_with(done, f"no weights file at {gone}")
    assert list(tmp_path.iterdir()) == []


def test_classes_that_are_not_imagenets_need_names(folder: Path, tmp_path: Path) -> None:
    weights = str(folder / "flowers.pth")

    done = _run("--variant", "owt", "--weights", weights, "-o", str(tmp_path / "a.onnx"))

    _failed_with(done, "5 classes", "--labels FILE")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--variant", "vgg"], [], ["--variant", "owt", "--speed", "1"]])
def test_a_wrong_command_line_is_status_2(wrong: list[str]) -> None:
    assert _run(*wrong).returncode == 2


def test_the_commands_know_their_choices_without_pytorch() -> None:
    """Its import takes seconds, which help and mistakes need not wait for."""
    commands = "import sys, model_export.__main__, model_training.__main__"
    program = f"{commands}; sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=PATIENCE)

    assert done.returncode == 0


def test_the_commands_choices_are_the_tables_rows() -> None:
    assert [name.value for name in VariantName] == list(VARIANTS)
    assert [name.value for name in PrecisionName] == list(PRECISIONS)


def _flowers(
    folder: Path, *more: str, weights: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return _run(*_given(folder, *more, weights=weights))


def _given(folder: Path, *more: str, weights: Path | None = None) -> list[str]:
    return [
        *("--variant", "owt", "--weights", str(weights or folder / "flowers.pth")),
        *("--labels", str(folder / "names.txt"), "--pictures", str(folder / "pictures"), *more),
    ]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = here(main, "alexnet-export", *arguments)
    output = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, *output)


def _failed_with(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 1 and one line that says what is wrong."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("alexnet-export: ")
    assert [word for word in words if word not in lines[0]] == []
