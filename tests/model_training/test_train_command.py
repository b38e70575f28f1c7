"""The command as its user runs it: a run that is finished, goes on, or one sentence."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from model_export import checkpoints, preparation, weight_files
from model_export.variants import VARIANTS, Weights
from model_training import __main__ as command
from model_training import fit, plots, signals
from model_training.augmentation import Colours, colours_of
from model_training.errors import RunUnusable, Stopped
from model_training.fit import TrainConfig
from model_training.run import Run
from model_training.signals import StopSignals
from model_training.start import from_nothing
from tests.support.commands import examples, here, plain
from tests.support.networks import SMALL
from tests.support.servers import PATIENCE, ROOT
from tests.support.trainings import write_digits

LONG = 5 * PATIENCE  # for a process that imports PyTorch, which takes seconds of its own


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--variant paper` is a small network here, so that a run takes seconds."""
    monkeypatch.setitem(VARIANTS, "paper", SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two digits, six of each."""
    return write_digits(tmp_path_factory.mktemp("digits"), (0, 1), 6)


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder, and what was said."""
    run = tmp_path_factory.mktemp("runs") / "my digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "paper", SMALL)
        return run, _fit(folder, run)


def test_the_examples_of_the_help_work(
    finished: tuple[Path, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, an epoch each, with a small network for the bundled and the published one."""
    weights = tmp_path / "small.safetensors"
    shutil.copy(finished[0] / "weights.safetensors", weights)
    published = Weights(weights.name, "http://127.0.0.1:9/", checkpoints.sha256(weights), "none")
    monkeypatch.setitem(VARIANTS, "small", SMALL)  # as the weights' metadata calls it
    monkeypatch.setitem(VARIANTS, "owt", replace(SMALL, name="owt", weights=published))
    places = {"service/bundled/alexnet.onnx": weights, "FOLDER": folder}
    outputs = ("run", "tuned", "scratch", "training.png", "runs.svg")
    places |= {name: tmp_path / name for name in outputs}
    variables = plain({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    (tmp_path / "cache" / "alexnet-service").mkdir(parents=True)
    shutil.copy(weights, tmp_path / "cache" / "alexnet-service")

    ran = 0
    for part in ([], ["plot"]):
        text = here(command.main, "alexnet-train", *part, "--help").stdout.decode()
        for line in examples(text):
            _, *words = (str(places.get(word, word)) for word in line.split())
            if words[0] != "plot":
                words += ["--epochs", "1"]
            else:
                words += [] if "-o" in words else ["-o", str(tmp_path / "other.png")]
            done = here(command.main, "alexnet-train", *words, variables=variables)
            assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
            ran += 1
    assert ran == 6
    assert all((tmp_path / name).exists() for name in outputs)


def test_a_run_leaves_what_the_exporter_takes(finished: tuple[Path, str], folder: Path) -> None:
    run, _ = finished

    record = json.loads((run / "record.json").read_text("utf-8"))
    assert record["weights"]["licence"].startswith("that of its images")
    assert "from nothing" in record["weights"]["trained"]
    assert [(a["crops"], a["pictures"]) for a in record["accuracy"]] == [("one", 2), ("ten", 2)]
    assert (run / "labels.csv").read_text("utf-8") == "wordnet_id,name\n,0\n,1\n"
    head, *aside = (run / "validation.csv").read_text("utf-8").splitlines()
    assert head == "file,label"
    assert [row.split(",")[1] for row in aside] == ["0", "1"]
    assert all((folder / row.split(",")[0]).is_file() for row in aside)


def test_the_training_sets_mean_is_told_to_the_exporter(finished: tuple[Path, str]) -> None:
    path = finished[0] / "weights.safetensors"

    normalisation = preparation.find(
        VARIANTS["paper"], path, weight_files.load(path), channels=3
    ).normalisation

    assert normalisation.std == SMALL.normalisation.std
    assert len(set(normalisation.mean)) == 1  # digits are grey
    assert 50 < normalisation.mean[0] < 110
    assert normalisation.mean != VARIANTS["paper"].normalisation.mean


def test_a_run_says_what_comes_next(finished: tuple[Path, str]) -> None:
    run, output = finished

    export, evaluate, serve = output.splitlines()[-3:]
    assert export.startswith("alexnet-export --variant small --weights '")
    assert f"--labels '{run}/labels.csv' --record '{run}/record.json'" in export
    assert export.endswith(f"--name my-digits -o '{run}/my-digits.onnx'")
    assert evaluate.startswith("alexnet evaluate ")
    assert evaluate.endswith(f" --labels '{run}/validation.csv' --model '{run}/my-digits.onnx'")
    assert serve == f"alexnet serve --model '{run}/my-digits.onnx'"
    assert "2 classes, 10 images to learn from, 2 to validate on" in output
    assert "of 2 images held out" in output


def test_the_same_command_again_learns_nothing_and_says_the_same(
    finished: tuple[Path, str], folder: Path
) -> None:
    run, output = finished
    before = (run / "weights.safetensors").stat().st_mtime_ns

    again = _fit(folder, run)

    assert (run / "weights.safetensors").stat().st_mtime_ns == before
    assert again.splitlines()[-6:] == output.splitlines()[-6:]


def test_another_configuration_is_refused_with_what_differs(
    finished: tuple[Path, str], folder: Path
) -> None:
    with pytest.raises(RunUnusable, match=r"batch is 4 there and 5 now; .*seed is 0 there and 1"):
        _fit(folder, finished[0], batch=5, seed=1)


def test_other_images_are_another_configuration(finished: tuple[Path, str], tmp_path: Path) -> None:
    other = write_digits(tmp_path, (0, 1), 7)

    with pytest.raises(RunUnusable, match="training images is"):
        _fit(other, finished[0])


def test_overwrite_starts_over(folder: Path, tmp_path: Path) -> None:
    _fit(folder, tmp_path / "run")

    output = _fit(folder, tmp_path / "run", batch=5, overwrite=True)

    assert "epoch 1 of 2" in output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["batch"] == 5


def test_a_damaged_checkpoint_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    _fit(folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")

    with pytest.raises(RunUnusable, match=r"checkpoint.pt is damaged; start over"):
        _fit(folder, tmp_path / "run")


def test_an_unreadable_image_is_said_and_left_out(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", (0, 1), 6)
    (folder / "0" / "broken.jpg").write_text("not an image")

    output = _fit(folder, tmp_path / "run")

    assert "broken.jpg: cannot identify image file" in output
    assert "10 images to learn from" in output


def test_wordnet_ids_become_names(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", (0, 1), 3)
    (folder / "0").rename(folder / "n02123045")
    (folder / "1").rename(folder / "n07920052")

    _fit(folder, tmp_path / "run")

    labels = (tmp_path / "run" / "labels.csv").read_text("utf-8")
    assert labels == 'wordnet_id,name\nn02123045,"tabby, tabby cat"\nn07920052,espresso\n'


def test_the_colours_are_looked_at_once_and_only_if_they_are_wanted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def counting(*arguments: Any) -> Colours:
        nonlocal looked
        looked += 1
        return colours_of(*arguments)

    monkeypatch.setattr(fit, "colours_of", counting)
    weights, plain = tmp_path / "weights.safetensors", {"epochs": 1, "colours": False}
    _fit(folder, tmp_path / "run", **plain)  # from nothing their mean is wanted
    shutil.copy(tmp_path / "run" / "weights.safetensors", weights)

    before = (tmp_path / "run" / "run.json").read_text()
    _fit(folder, tmp_path / "run", **plain)
    assert looked == 1
    assert (tmp_path / "run" / "run.json").read_text() == before
    next((tmp_path / "run" / "cache").glob("*.colours.npy")).write_bytes(b"torn")
    _fit(folder, tmp_path / "run", **plain)
    assert looked == 2
    monkeypatch.setitem(VARIANTS, "small", SMALL)
    _fit(folder, tmp_path / "other", weights=str(weights), **plain)
    assert looked == 2
    _fit(folder, tmp_path / "third", weights=str(weights), epochs=1)
    assert looked == 3


def test_looking_at_the_colours_can_be_stopped(tmp_path: Path) -> None:
    stop_signals, found = StopSignals(), np.zeros((2, 256, 256, 3), np.uint8)
    stop_signals.request()

    with pytest.raises(Stopped):
        fit._colours(
            TrainConfig(tmp_path, tmp_path),
            found,
            np.arange(2),
            tmp_path / "kept.npy",
            Console(quiet=True),
            stop_signals,
        )


SIGNALLED_TWICE = """
import os, signal, sys
from model_training.errors import Stopped
from model_training.signals import StopSignals

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
number = int(sys.argv[1])
with StopSignals() as stop_signals:
    stop_signals.check()
    os.kill(os.getpid(), number)
    try:
        stop_signals.check()
    except Stopped as stopped:
        print(stopped.signal, flush=True)
    os.kill(os.getpid(), number)
    print("the second signal has ended nothing")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_is_the_systems_again(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_TWICE, str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.stdout == f"{int(number)}\n"
    assert done.returncode == -number


def test_once_it_is_over_signals_are_the_systems_again() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "SIGNALS", (signal.SIGTERM,))
        with StopSignals():
            assert signal.getsignal(signal.SIGTERM) != before

    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.external  # loads and saves 244 MB
def test_a_signal_ends_the_command_with_its_status_and_a_checkpoint(
    tmp_path: Path, bundled_model: Path
) -> None:
    """The real command, on the bundled network."""
    folder = write_digits(tmp_path / "digits", (0, 1), 3)
    run = tmp_path / "run"
    arguments = [folder, "-o", run, "--weights", bundled_model, "--freeze", "features"]
    arguments += ["--epochs", "10000", "--patience", "10000"]
    command = [sys.executable, "-m", "model_training", *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            patient = time.monotonic() + LONG
            while not (run / "steps.csv").exists() and process.poll() is None:
                assert time.monotonic() < patient, "it has begun nothing"
                time.sleep(0.02)
            process.terminate()
            _, output = process.communicate(timeout=LONG)
        finally:
            process.kill()

    assert process.returncode == 143, output
    assert output == f"alexnet-train: {run}: stopped; the same command goes on from here\n"
    assert (Run(run).load() or {})["position"]["steps"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "-o", "run"], "there is no folder at gone"),
        (["empty", "-o", "run"], "holds no class"),
        (["one", "-o", "run"], "one class only"),
        (["two", "-o", "run", "--held-out", "0"], "no images to validate on"),
        (["two", "-o", "file"], "decoded images cannot be kept in file"),
        (["two", "-o", "file", "--cache", "cache"], "file cannot be written to"),
        (["two", "-o", "run", "--freeze", "features"], "nothing worth freezing"),
        (["two", "-o", "run", "--weights", "gone.pth"], "no weights file at gone.pth"),
        (["two", "-o", "run", "--weights", "d2l"], "nobody has published weights of d2l"),
        (["two", "-o", "run", "--weights", "{bundled}", "--variant", "d2l"], "does not fit the"),
        (["two", "-o", "run", "--device", "cuda"], "finds no CUDA device"),
        (["plot", "gone"], "no log of a run at"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_status_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundled_model: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "one/cat", "two/cat", "two/dog"):
        Path(name).mkdir(parents=True)
    for name in ("one/cat/1", "one/cat/2", "two/cat/1", "two/cat/2", "two/dog/1", "two/dog/2"):
        Image.new("RGB", (300, 280), "green").save(f"{name}.png")
    Path("file").touch()
    arguments = [argument.format(bundled=bundled_model) for argument in arguments]

    status, output = _command(monkeypatch, capsys, *arguments)

    assert status == 1
    assert message in output
    assert output.startswith("alexnet-train: ")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "gone"), [(["x", "-o", "y"], "torch"), (["plot", "x"], "matplotlib")]
)
def test_a_missing_package_is_one_sentence_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    gone: str,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == gone else found(name)
    )

    status, output = _command(monkeypatch, capsys, *arguments)

    assert status == 1
    assert f"{gone} is not installed; training needs the extras train and cpu" in output


def test_the_names_in_the_help_are_those_of_the_tables() -> None:
    assert {v.value for v in command.VariantName} == set(VARIANTS)
    assert {p.value for p in command.PrecisionName} - {"auto"} == set(command_kinds())


@pytest.mark.parametrize(("slow", "rate"), [(True, 0.0002), (False, 0.01)])
def test_two_classes_begin_slowly_unless_the_variants_row_says_otherwise(
    slow: bool, rate: float
) -> None:
    start = from_nothing(replace(SMALL, slow_with_few=slow), 2, np.zeros(3), seed=0)

    assert fit._rate(start, 2) == rate


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_runs_are_drawn_into_one_image(
    finished: tuple[Path, str],
    folder: Path,
    tmp_path: Path,
    ending: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = tmp_path / f"plot.{ending}"

    status, _ = _command(
        monkeypatch, capsys, "plot", str(finished[0]), str(finished[0]), "-o", str(drawn)
    )

    assert status == 0
    content = drawn.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml"}[ending])
    assert len(plots.read(finished[0])["validation_top1_error"]) == 2


def test_a_plot_shows_all_of_what_is_in_the_log(finished: tuple[Path, str]) -> None:
    log = plots.read(finished[0])

    figure = plots.draw([finished[0]])

    for axes, (title, columns) in zip(figure.axes, plots.PANELS.items(), strict=True):
        assert axes.get_title() == title
        drawn = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines]
        scale = 100 if "%" in title else 1
        assert drawn == [[scale * v for v in log[name]] for name in columns if name]
        low, high = axes.get_ylim()
        assert all(low <= value <= high for line in drawn for value in line)


def test_an_image_of_another_kind_is_one_sentence(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    with pytest.raises(RunUnusable, match=r"ends in .png or .svg"):
        plots.plot([finished[0]], tmp_path / "plot.what")


def command_kinds() -> set[str]:
    from model_training.devices import KINDS

    return set(KINDS)


def _fit(folder: Path, run: Path, **config: object) -> str:
    settings: dict[str, object] = {"epochs": 2, "batch": 4, "rate": 0.005, **config}
    console = Console(soft_wrap=True, width=80)
    with console.capture() as output:
        fit.fit(TrainConfig(folder=folder, output=run, **settings), console)  # type: ignore[arg-type]
    return output.get()


def _command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str]:
    """The exit status of the command, and what it says on standard error."""
    monkeypatch.setattr(sys, "argv", ["alexnet-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code, capsys.readouterr().err
