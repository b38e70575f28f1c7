"""From published weights to one's own classes, exported and served."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_sample_images

from model_export import alexnet, checkpoints
from model_export.errors import WeightsUnusable
from model_export.variants import VARIANTS
from model_training import fit
from model_training.fit import TrainConfig
from model_training.start import from_nothing, from_weights
from tests.support.commands import alexnet as run_alexnet
from tests.support.residual import RESIDUAL, learned
from tests.support.servers import PATIENCE, ROOT, serving
from tests.support.trainings import write_digits

IMAGES = Path(__file__).parents[1] / "pictures"


def test_the_last_layer_starts_from_random_numbers_for_other_classes(bundled_model: Path) -> None:
    """The others are those of the file; the preparation is, too."""
    start = from_weights(str(bundled_model), None, 5, seed=0)

    state = checkpoints.read(bundled_model)
    ours = start.network.state_dict()
    assert start.variant.name == "owt"
    assert start.variant.normalisation == VARIANTS["owt"].normalisation
    kept = [name for name in ours if not name.startswith("classifier.6.")]
    assert "classifier.1.u" in kept
    assert all(torch.equal(ours[name], state[name].float()) for name in kept)
    assert ours["classifier.6.weight"].shape == (5, 4096)
    assert ours["classifier.6.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert not ours["classifier.6.bias"].any()
    assert start.fresh == (start.network.classifier[-1],)
    assert "ImageNet" in start.licence


def test_a_new_last_layer_takes_what_the_old_one_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(VARIANTS, "residual", RESIDUAL)
    torch.save(learned(10).state_dict(), tmp_path / "residual.pth")

    start = from_weights(str(tmp_path / "residual.pth"), "residual", 3, seed=0)

    assert start.network.state_dict()["classifier.0.weight"].shape == (3, 16)
    assert start.network(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


def test_the_last_layer_is_kept_for_as_many_classes(bundled_model: Path) -> None:
    start = from_weights(str(bundled_model), None, 1000, seed=0)

    assert start.fresh == ()
    assert torch.equal(
        start.network.state_dict()["classifier.6.v"],
        checkpoints.read(bundled_model)["classifier.6.v"].float(),
    )


def test_published_weights_are_fetched_by_their_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "published.pth"
    torch.save(alexnet.owt(7, ranks=(2, 2, 2)).state_dict(), file)
    requests: list[object] = []

    def fetch(weights: object) -> Path:
        requests.append(weights)
        return file

    monkeypatch.setattr(checkpoints, "fetch", fetch)

    start = from_weights("owt", None, 3, seed=0)

    assert requests == [VARIANTS["owt"].weights]
    assert (start.variant.name, start.network.classes) == ("owt", 3)


def test_weights_of_another_variant_are_one_sentence(bundled_model: Path) -> None:
    with pytest.raises(WeightsUnusable, match="does not fit the variant paper"):
        from_weights(str(bundled_model), "paper", 5, seed=0)


@pytest.mark.parametrize(("name", "mean"), [("owt", (1.0, 2.0, 3.0)), ("caffe", (3.0, 2.0, 1.0))])
def test_from_nothing_the_training_sets_mean_is_subtracted_in_the_order_of_the_planes(
    name: str, mean: tuple[float, ...]
) -> None:
    start = from_nothing(VARIANTS[name], 2, np.array([1.0, 2.0, 3.0]), seed=0)

    assert start.variant.normalisation.mean == mean
    assert start.variant.normalisation.std == VARIANTS[name].normalisation.std


@pytest.mark.external  # half a minute of training and exporting at full size
def test_the_export_of_a_fine_tuned_five_class_network_serves_its_own_labels(
    tmp_path: Path, bundled_model: Path
) -> None:
    """Pieces of four photographs and a handwritten digit, 15 that were held out: the trainer,
    `alexnet evaluate` on the exported file and the server agree on how many are told, and by what
    probabilities.  Guessing tells 3; with the seeds 0 and 1 it told 15 and 13."""
    pieces, run = _pieces(tmp_path / "pieces", 9), tmp_path / "run"
    names = sorted(place.name for place in pieces.iterdir())

    export, evaluate, serve = _fine_tune(pieces, run, bundled_model)
    output = _export(export, images=_few(pieces, tmp_path / "few"))

    assert "owt, fp32, " in output
    assert "against PyTorch in fp32, 7 real images and 7 random ones" in output
    assert output.endswith(f"try it: {serve}\n")

    record = json.loads((run / "record.json").read_text("utf-8"))
    trained = {entry["crops"]: entry["top1"] for entry in record["accuracy"]}
    assert trained["one"] >= 0.8
    assert "ImageNet" in record["weights"]["licence"]
    assert "from alexnet.onnx" in record["weights"]["trained"]

    done = run_alexnet(*shlex.split(evaluate)[1:], "--crops", "one,ten", "--json", threads=1)
    assert done.returncode == 0, done.stderr
    measured = {each["crops"]: each for each in json.loads(done.stdout)["runs"]}
    top1 = {crops: each["top1"] for crops, each in measured.items()}
    assert top1 == pytest.approx(trained, abs=1e-3)
    with (run / "log.csv").open(newline="") as file:
        loss = min(float(row["validation_loss"]) for row in csv.DictReader(file))
    assert measured["one"]["nll"] == pytest.approx(loss, rel=1e-3)

    with (run / "validation.csv").open(newline="") as file:
        aside = list(csv.DictReader(file))
    right = 0
    with serving(Path(shlex.split(serve)[-1]), threads=1) as live:
        for row in aside:
            image = (pieces / row["file"]).read_bytes()
            answer = live.client.post("/v1/predict?crops=one", content=image).json()
            (prediction,) = answer["predictions"]
            assert {c["label"] for c in prediction["classes"]} == set(names)
            assert {c["wordnet_id"] for c in prediction["classes"]} == {None}
            right += prediction["classes"][0]["label"] == row["label"]
    assert answer["model"]["name"] == "run"
    assert right / len(aside) == pytest.approx(trained["one"], abs=1e-3)


def _pieces(folder: Path, count: int) -> Path:
    """64 x 64 pixels somewhere in each of four photographs, and sevens, in a folder for each."""
    own = {path.stem: np.asarray(Image.open(path)) for path in sorted(IMAGES.glob("*.jpg"))}
    random = np.random.default_rng(0)
    for name, pixels in zip(
        (*own, "china", "flower"), (*own.values(), *load_sample_images().images), strict=True
    ):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            y, x = (random.integers(0, crop_size - 64) for crop_size in pixels.shape[:2])
            piece = Image.fromarray(pixels[y : y + 64, x : x + 64])
            piece.save(folder / name / f"{number}.png")
    return write_digits(folder, (7,), count)


def _fine_tune(folder: Path, run: Path, weights: Path) -> list[str]:
    """The three commands that come next."""
    config = TrainConfig(
        folder,
        run,
        weights=str(weights),
        freeze="features",
        held_out=1 / 3,
        epochs=2,
        batch=7,
        workers=2,
    )
    console = Console(soft_wrap=True)
    with console.capture() as output:
        fit.fit(config, console)
    return output.get().splitlines()[-3:]


def _few(pieces: Path, folder: Path) -> Path:
    """Seven of the pieces: no fewer are verified on."""
    folder.mkdir()
    for number, piece in enumerate(sorted(pieces.rglob("*.png"))[::7]):
        shutil.copy(piece, folder / f"{number}.png")
    return folder


def _export(command: str, *, images: Path) -> str:
    """Run it as a process, verified on a few images instead of 64; what it says."""
    words = [*shlex.split(command)[1:], "--pictures", str(images)]
    done = subprocess.run(
        [sys.executable, "-m", "model_export", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,  # for an export of some seconds
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
