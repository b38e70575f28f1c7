"""
The whole road of one run: folder, squares, network, training, outcome.

What is printed: what was found, a line per epoch, what the best epoch is worth, what to do next.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from model_export.variants import VARIANTS
from model_training import artifacts, image_cache
from model_training.augmentation import Colours, colours_of
from model_training.devices import Arithmetic, device_of
from model_training.errors import ImagesUnusable, Stopped, TrainingError
from model_training.image_folder import Division, divide
from model_training.recipe import Recipe
from model_training.run import Run
from model_training.signals import Watch
from model_training.start import Start, from_nothing, from_weights, preparation
from model_training.training import Images, Step, Training

MANY = 100  # classes; see `_rate`
TUNING_RATE = 0.003  # of new layers; with 0.01 the bundled network forgot before it learned
SHOWN = 5  # unreadable images that are named


@dataclass(frozen=True)
class Wishes:
    """The command line; None is where the default depends on the others."""

    folder: Path
    output: Path
    validation: Path | None = None
    held_out: float = 0.2
    weights: str | None = None
    variant: str | None = None
    freeze: str = "none"
    epochs: int | None = None
    batch: int | None = None
    rate: float | None = None
    pretrained_rate: float = 0.1
    patience: int = 5
    mirrors: bool = True
    colours: bool = True
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    workers: int = 1
    cache: Path | None = None
    overwrite: bool = False


def fit(wishes: Wishes, console: Console) -> None:
    """Train as wished, or go on; raises TrainingError or ExportError."""
    if wishes.freeze != "none" and wishes.weights is None:
        raise TrainingError(
            "without weights there is nothing worth freezing: give some with --weights, or leave "
            "--freeze away"
        )
    arithmetic = Arithmetic(device_of(wishes.device), wishes.precision)
    division = divide(wishes.folder, validation=wishes.validation, held_out=wishes.held_out)
    run = Run(wishes.output)
    with Watch() as watch:
        try:
            division, images = _decode(wishes, division, console, watch)
            start = _start(wishes, division, images)
            recipe = _recipe(wishes, start, len(division.classes))
            if wishes.overwrite:
                run.clear()
            run.open(_settings(wishes, start, recipe, division))
            training = Training(
                start,
                images,
                recipe,
                run,
                arithmetic,
                workers=wishes.workers,
                check=watch.check,
            )
            _say(console, division, start, recipe, arithmetic)
            _learn(training, recipe, console)
            _finish(training, run, start, division, console)
        except Stopped as stopped:
            raise Stopped(f"{wishes.output}: {stopped}", stopped.signal) from stopped


def _recipe(wishes: Wishes, start: Start, classes: int) -> Recipe:
    """The paper's figures from nothing; fewer epochs and smaller batches for tuning small sets."""
    tuned = bool(start.source)
    return Recipe(
        epochs=wishes.epochs or (30 if tuned else 90),
        batch=wishes.batch or (32 if tuned else 128),
        rate=_rate(start, classes) if wishes.rate is None else wishes.rate,
        pretrained=wishes.pretrained_rate if tuned else 1.0,
        patience=wishes.patience,
        mirror=wishes.mirrors,
        colours=wishes.colours,
        frozen=wishes.freeze,
        seed=wishes.seed,
    )


def _rate(start: Start, classes: int) -> float:
    """The paper's 0.01, but less for few classes from its random numbers, and with weights.

    A step on the last layer moves the logits by rate |h|^2 (p - y), h its 4096 inputs, which the
    biases of 1 make large.  The curvature, |h|^2 / classes as long as all are equally likely, is a
    hundred times the paper's with 10 classes instead of 1000: there 0.01 makes the loss jump to 20
    and the network die.  A row says where the random numbers have no such h.
    """
    if start.source:
        return TUNING_RATE
    return 0.01 * min(1.0, classes / MANY) if start.variant.slow_with_few else 0.01


def _decode(
    wishes: Wishes, division: Division, console: Console, watch: Watch
) -> tuple[Division, Images]:
    """The squares of all images, and the division of those that can be read."""
    examples = [*division.training, *division.validation]
    folder = wishes.cache or wishes.output / "cache"
    with _bar(console) as bar:
        task = bar.add_task("decoding", total=len(examples))

        def step() -> None:
            bar.advance(task)
            watch.check()

        decoded = image_cache.decode(
            [example.path for example in examples], folder, workers=wishes.workers, step=step
        )
    for path, why in list(decoded.unreadable.items())[:SHOWN]:
        console.print(f"left out: {path}: {why}", markup=False, highlight=False)
    if len(decoded.unreadable) > SHOWN:
        console.print(f"left out: {len(decoded.unreadable)} images in all; see {folder}")
    good = [bool(readable) for readable in decoded.readable]
    count = len(division.training)
    left = Division(
        division.classes,
        tuple(e for e, fine in zip(division.training, good[:count], strict=True) if fine),
        tuple(e for e, fine in zip(division.validation, good[count:], strict=True) if fine),
        division.base,
    )
    _judge(left)
    rows = np.flatnonzero(decoded.readable)
    training, validation = rows[rows < count], rows[rows >= count]
    labels = np.array([example.label for example in examples], np.int64)
    kept = folder / f"{image_cache.identity([e.path for e in left.training])}.colours.npy"
    colours = _colours(wishes, decoded.squares, training, kept, console, watch)
    return left, Images(decoded.squares, training, validation, labels, colours)


def _colours(
    wishes: Wishes,
    found: image_cache.Squares,
    rows: NDArray[np.int64],
    kept: Path,
    console: Console,
    watch: Watch,
) -> Colours:
    """The training set's, or none where neither their mean nor their noise is wanted.

    A file keeps them: a run that goes on, or another one on the same images, finds them there.
    """
    if wishes.weights is not None and not wishes.colours:
        return Colours(np.zeros(3), np.zeros(3), np.eye(3))
    with suppress(OSError, ValueError, EOFError):  # there is none, or it was torn
        mean, deviations, *components = np.load(kept)
        return Colours(mean, deviations, np.array(components))
    with _bar(console) as bar:
        task = bar.add_task("colours", total=len(rows))

        def step() -> None:
            bar.advance(task)
            watch.check()

        colours = colours_of(found, rows, step)
    with suppress(OSError):
        np.save(kept, np.vstack([colours.mean, colours.deviations, colours.components]))
    return colours


def _judge(division: Division) -> None:
    """Whether something is left to learn of each class, and to validate on."""
    seen = {example.label for example in division.training}
    for label, name in enumerate(division.classes):
        if label not in seen:
            raise ImagesUnusable(f"no image of the class {name} can be read to learn from")
    if not division.validation:
        raise ImagesUnusable("no image can be read of those to validate on")


def _start(wishes: Wishes, division: Division, images: Images) -> Start:
    classes = len(division.classes)
    if wishes.weights is None:
        variant = VARIANTS[wishes.variant or "paper"]
        return from_nothing(variant, classes, images.colours.mean, seed=wishes.seed)
    return from_weights(wishes.weights, wishes.variant, classes, seed=wishes.seed)


def _settings(wishes: Wishes, start: Start, recipe: Recipe, division: Division) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    return {
        "variant": start.variant.name,
        "weights": start.sha256 or None,
        "classes": len(division.classes),
        "training images": image_cache.identity([e.path for e in division.training]),
        "validation images": image_cache.identity([e.path for e in division.validation]),
        **asdict(recipe),
    }


def _say(
    console: Console, division: Division, start: Start, recipe: Recipe, arithmetic: Arithmetic
) -> None:
    for line in (
        f"{len(division.classes)} classes, {len(division.training)} images to learn from, "
        f"{len(division.validation)} to validate on",
        f"{start.variant.name} from {start.source or 'nothing'}; {preparation(start)}",
        f"batch {recipe.batch}, rate {recipe.rate:g}, at most {recipe.epochs} epochs; "
        f"{arithmetic.device.type}, {arithmetic.precision}",
    ):
        console.print(line, markup=False, highlight=False)


def _learn(training: Training, recipe: Recipe, console: Console) -> None:
    with _bar(console) as bar:
        task = bar.add_task("learning", total=None)

        def on_step(step: Step) -> None:
            bar.update(
                task,
                completed=step.position.step,
                total=step.of,
                description=f"epoch {step.position.epoch + 1}, loss {step.loss:.3f}",
            )

        def on_epoch(row: dict[str, float]) -> None:
            bar.reset(task)
            console.print(
                f"epoch {row['epoch']} of {recipe.epochs}: "
                f"training loss {row['training_loss']:.3f}, error {row['training_top1_error']:.1%};"
                f" validation loss {row['validation_loss']:.3f}, "
                f"error {row['validation_top1_error']:.1%}; rate {row['rate']:g}",
                markup=False,
                highlight=False,
            )

        training.learn(on_step, on_epoch)


def _finish(
    training: Training, run: Run, start: Start, division: Division, console: Console
) -> None:
    """Measure the best epoch by both crops, write the outcome, say what comes next."""
    training.take_best()
    epoch = training.position.best_epoch
    with console.status("measuring the best epoch with ten crops"):
        measured = {crops: training.measure(crops) for crops in ("one", "ten")}
    artifacts.write(run, start, division, measured, epoch=epoch)
    console.print(f"best: epoch {epoch}", highlight=False)
    for line in (
        artifacts.shown(run.folder),
        *artifacts.commands(run, start.variant.name, division.base),
    ):
        console.print(line, markup=False, highlight=False)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
