"""The loop: it learns, it stops and goes on, it says what happened."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.verify import reference
from model_training.accuracy import AHEAD, ahead, measure
from model_training.devices import Arithmetic, processors
from model_training.errors import Stopped, TrainingError
from model_training.recipe import Recipe
from model_training.run import Run
from model_training.training import LabelledImages
from tests.support import trainings
from tests.support.trainings import digits


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    """Three digits, eight of each to learn from and four to validate on."""
    return digits(8, classes=3, held_out=4)


@pytest.mark.external  # learns for seconds
def test_a_small_set_is_learned_by_heart(tmp_path: Path, few: LabelledImages) -> None:
    recipe = Recipe(epochs=25, batch=8, rate=0.005, patience=25, mirror=False)
    training = trainings.training(tmp_path, few, recipe, classes=3)

    training.learn()

    accuracy = measure(
        training.network,
        trainings.begin(3, few).variant,
        few.pixels,
        few.training,
        few.labels[few.training],
        crops="one",
        device=torch.device("cpu"),
    )
    assert accuracy.top1_error == 0
    assert accuracy.loss < 0.05


@pytest.mark.external  # learns for seconds
def test_the_recipe_learns_to_read_digits(tmp_path: Path) -> None:
    """Five digits, 20 of each seen: of 40 others it reads 39, 37 and 38 in the best of seven epochs
    with the seeds 0, 1 and 2; guessing reads eight."""
    recipe = Recipe(epochs=7, batch=10, rate=0.005, mirror=False)
    training = trainings.training(tmp_path, digits(20, classes=5, held_out=8), recipe, classes=5)

    training.learn()

    assert training.position.best[0] < 0.25


@pytest.mark.parametrize("stop", [5, 6, 11], ids=["within", "at the end", "later"])
def test_a_training_that_was_stopped_ends_with_the_same_weights(
    tmp_path: Path, few: LabelledImages, stop: int
) -> None:
    """Bit for bit: weights, best weights, rates and logs but for their seconds."""
    recipe = Recipe(epochs=4, batch=4, patience=0, rate=0.005)
    whole = trainings.training(tmp_path / "whole", few, recipe, classes=3)
    whole.learn()
    first = trainings.training(tmp_path / "parts", few, recipe, classes=3)
    first._check = _after(stop)
    with pytest.raises(Stopped):
        first.learn()

    torch.manual_seed(99)  # whatever else has been drawn in the process
    second = trainings.training(tmp_path / "parts", few, recipe, classes=3)
    assert 0 < second.position.steps < whole.position.steps
    second.learn()

    one, other = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    best = [Run(tmp_path / run).load_weights() for run in ("whole", "parts")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert whole.position == second.position
    assert whole.plateau.state_dict() == second.plateau.state_dict()
    for log in ("log.csv", "steps.csv"):
        assert _rows(tmp_path / "whole" / log) == _rows(tmp_path / "parts" / log)


def test_a_training_that_was_killed_goes_on_from_its_last_checkpoint(
    tmp_path: Path, few: LabelledImages
) -> None:
    """What the logs hold beyond the checkpoint is forgotten."""
    recipe = Recipe(epochs=2, batch=4, rate=0.005)
    whole = trainings.training(tmp_path / "whole", few, recipe, classes=3)
    whole.learn()
    killed = trainings.training(tmp_path / "parts", few, recipe, classes=3, every=0.0)
    killed._save = _killed_after(killed._save, 3)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        killed.learn()
    assert len(_rows(tmp_path / "parts" / "steps.csv")) == 4

    second = trainings.training(tmp_path / "parts", few, recipe, classes=3)
    assert second.position.steps == 3
    second.learn()

    one, other = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert _rows(tmp_path / "whole" / "steps.csv") == _rows(tmp_path / "parts" / "steps.csv")


def test_more_epochs_go_on_from_a_finished_run(tmp_path: Path, few: LabelledImages) -> None:
    for epochs in (1, 2):
        training = trainings.training(tmp_path, few, Recipe(epochs=epochs, batch=8), classes=3)
        training.learn()

    assert [row["epoch"] for row in _rows(tmp_path / "log.csv")] == ["1", "2"]


def test_frozen_convolutions_keep_their_weights(tmp_path: Path, few: LabelledImages) -> None:
    recipe = Recipe(epochs=1, batch=8, frozen="features", rate=0.005)
    training = trainings.training(tmp_path, few, recipe, classes=3)
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}

    training.learn()

    after = training.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("classifier.")}


@pytest.mark.external  # learns for seconds
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_too_and_keeps_float32_weights(
    tmp_path: Path, few: LabelledImages, precision: str
) -> None:
    recipe = Recipe(epochs=8, batch=8, rate=0.005, mirror=False)
    training = trainings.training(tmp_path, few, recipe, classes=3, precision=precision)
    seen: list[torch.dtype] = []
    training.network.classifier[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype))

    training.learn()

    rows = _rows(tmp_path / "log.csv")
    assert float(rows[-1]["training_loss"]) < 0.8 * float(rows[0]["training_loss"])
    assert {p.dtype for p in training.network.parameters()} == {torch.float32}
    assert set(seen) == {torch.float32, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}


def test_a_loss_that_is_no_number_ends_the_training_before_it_is_kept(
    tmp_path: Path, few: LabelledImages
) -> None:
    training = trainings.training(tmp_path, few, Recipe(rate=1e6, batch=4), classes=3)

    with pytest.raises(TrainingError, match="lower --rate"):
        training.learn()

    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_seed_decides_what_is_learned(tmp_path: Path, few: LabelledImages) -> None:
    ends = []
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        recipe = Recipe(epochs=1, batch=8, seed=seed)
        training = trainings.training(tmp_path / run, few, recipe, classes=3)
        training.learn()
        ends.append(training.network.state_dict()["features.0.weight"].sum().item())

    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("crops", ["one", "ten"])
def test_accuracy_is_that_of_the_exporters_reference(few: LabelledImages, crops: str) -> None:
    start = trainings.begin(3, few)
    rows = few.validation

    accuracy = measure(
        start.network.eval(),
        start.variant,
        few.pixels,
        rows,
        few.labels[rows],
        crops=crops,
        device=torch.device("cpu"),
    )

    views = reference(
        start.network,
        few.pixels[rows],
        crop_size=224,
        normalisation=start.variant.normalisation,
        crops=crops,
    )
    mean, truth = views.mean(1), few.labels[rows]
    assert accuracy.images == len(rows)
    assert accuracy.top1_error == pytest.approx((mean.argmax(1) != truth).mean())
    assert accuracy.top5_error == 0  # of three classes
    assert accuracy.loss == pytest.approx(
        -np.log(mean[np.arange(len(rows)), truth]).mean(), rel=1e-4
    )


def test_the_top_five_of_many_classes_may_miss(few: LabelledImages) -> None:
    start = trainings.begin(40, few)
    rows = few.validation

    accuracy = measure(
        start.network.eval(),
        start.variant,
        few.pixels,
        rows,
        few.labels[rows] + 20,
        crops="one",
        device=torch.device("cpu"),
    )

    views = reference(
        start.network,
        few.pixels[rows],
        crop_size=224,
        normalisation=start.variant.normalisation,
        crops="one",
    )[:, 0]
    best = np.argsort(-views, 1)[:, :5]
    missed = [label not in five for label, five in zip(few.labels[rows] + 20, best, strict=True)]
    assert accuracy.top5_error == pytest.approx(np.mean(missed))
    assert accuracy.top1_error >= accuracy.top5_error > 0


def test_no_more_than_a_few_batches_wait_however_many_threads_make_them() -> None:
    """A batch is 19 MB, and a large machine has hundreds of processors."""
    asked: list[int] = []

    def things() -> Iterator[int]:
        for thing in range(50):
            asked.append(thing)
            yield thing

    with closing(ahead(lambda thing: 2 * thing, things(), 16)) as made:
        first = next(made)
        waiting = len(asked) - 1
        rest = list(made)

    assert waiting == AHEAD
    assert [first, *rest] == [2 * thing for thing in range(50)]


@pytest.mark.parametrize(
    "torn",
    [
        "",
        "st",
        "step,loss\r\n",
        "step,loss\r\n1,0.5\r\n2,0.4\r\n12,0.3",
        "step,loss\n1,0.5\n2\n\0\0\0",
    ],
)
def test_a_log_that_was_torn_is_no_obstacle(tmp_path: Path, torn: str) -> None:
    """By a power cut or a full disk: whole rows up to the checkpoint stay."""
    run = Run(tmp_path)
    (tmp_path / "steps.csv").write_text(torn, newline="")

    run.rewind(1234)
    run.log("steps.csv", {"step": 1235, "loss": 0.25})

    whole = {torn: [] for torn in ("", "st", "step,loss\r\n")}.get(torn, [["1", "0.5"]])
    whole += [["2", "0.4"]] if "0.4" in torn else []
    rows = [list(row.values()) for row in _rows(tmp_path / "steps.csv")]
    assert rows == [*whole, ["1235", "0.25"]]


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_on_cuda_convolutions_are_the_same_each_time_and_fp32_is_float32(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Only what is set: there need not be a device."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)

    Arithmetic(torch.device("cuda"), precision)

    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("affinity", [True, False], ids=["Linux", "others"])
def test_as_many_threads_as_there_are_processors(
    monkeypatch: pytest.MonkeyPatch, affinity: bool
) -> None:
    if affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)

    assert processors() == 3


class _after:
    """A check that asks for the end after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped("stopped", 15)


def _killed_after(save: Callable[[], None], times: int) -> Callable[[], None]:
    calls = 0

    def saving() -> None:
        nonlocal calls
        calls += 1
        if calls > times:
            raise ZeroDivisionError
        save()

    return saving


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("seconds", None)
    return rows
