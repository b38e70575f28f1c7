"""
One run: labelled folder, image cache, network, training, artifacts.

It prints what is in the folder, a line per epoch, the best epoch's accuracy and the next commands.
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

from model_export.crops import Pixels
from model_export.variants import VARIANTS
from model_training import artifacts, image_cache
from model_training.augmentation import Colours, colours_of
from model_training.devices import Arithmetic, device_of
from model_training.errors import ImagesUnusable, Stopped, TrainingError
from model_training.image_folder import Division, divide
from model_training.recipe import Recipe
from model_training.run import Run
from model_training.signals import StopSignals
from model_training.start import Start, from_nothing, from_weights, preparation
from model_training.training import LabelledImages, Step, Training

MANY = 100  # classes; see `_rate`
TUNING_RATE = 0.003  # of new layers; with 0.01 the bundled network forgot before it learned
SHOWN = 5  # unreadable images that are named


@dataclass(frozen=True)
class TrainConfig:
    """The command line; None where the default depends on other options."""

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


def fit(config: TrainConfig, console: Console) -> None:
    """Start the training, or resume it; raises TrainingError or ExportError."""
    if config.freeze != "none" and config.weights is None:
        raise TrainingError(
            "without weights there is nothing worth freezing: give some with --weights, or leave "
            "--freeze away"
        )
    arithmetic = Arithmetic(device_of(config.device), config.precision)
    division = divide(config.folder, validation=config.validation, held_out=config.held_out)
    run = Run(config.output)
    with StopSignals() as stop_signals:
        try:
            division, images = _decode(config, division, console, stop_signals)
            start = _start(config, division, images)
            recipe = _recipe(config, start, len(division.classes))
            if config.overwrite:
                run.clear()
            run.open(_settings(config, start, recipe, division))
            training = Training(
                start,
                images,
                recipe,
                run,
                arithmetic,
                workers=config.workers,
                check=stop_signals.check,
            )
            _say(console, division, start, recipe, arithmetic)
            _learn(training, recipe, console)
            _finish(training, run, start, division, console)
        except Stopped as stopped:
            raise Stopped(f"{config.output}: {stopped}", stopped.signal) from stopped


def _recipe(config: TrainConfig, start: Start, classes: int) -> Recipe:
    """The paper's figures from nothing; fewer epochs and smaller batches for tuning small sets."""
    tuned = bool(start.source)
    return Recipe(
        epochs=config.epochs or (30 if tuned else 90),
        batch=config.batch or (32 if tuned else 128),
        rate=_rate(start, classes) if config.rate is None else config.rate,
        pretrained=config.pretrained_rate if tuned else 1.0,
        patience=config.patience,
        mirror=config.mirrors,
        colours=config.colours,
        frozen=config.freeze,
        seed=config.seed,
    )


def _rate(start: Start, classes: int) -> float:
    """The paper's 0.01, but less for few classes from its random numbers, and with weights.

    A step on the last layer moves the logits by rate |h|^2 (p - y), h its 4096 inputs, which the
    biases of 1 make large.  The curvature, |h|^2 / classes as long as all are equally likely, is a
    hundred times the paper's with 10 classes instead of 1000: there 0.01 makes the loss jump to 20
    and the network die.  The variant's row says if its initialisation has no such h.
    """
    if start.source:
        return TUNING_RATE
    return 0.01 * min(1.0, classes / MANY) if start.variant.slow_with_few else 0.01


def _decode(
    config: TrainConfig, division: Division, console: Console, stop_signals: StopSignals
) -> tuple[Division, LabelledImages]:
    """All images decoded, and the division without those that cannot be read."""
    examples = [*division.training, *division.validation]
    folder = config.cache or config.output / "cache"
    with _bar(console) as bar:
        task = bar.add_task("decoding", total=len(examples))

        def step() -> None:
            bar.advance(task)
            stop_signals.check()

        decoded = image_cache.decode(
            [example.path for example in examples], folder, workers=config.workers, step=step
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
    colours = _colours(config, decoded.images, training, kept, console, stop_signals)
    return left, LabelledImages(decoded.images, training, validation, labels, colours)


def _colours(
    config: TrainConfig,
    images: Pixels,
    rows: NDArray[np.int64],
    kept: Path,
    console: Console,
    stop_signals: StopSignals,
) -> Colours:
    """The training set's, or zeros if neither their mean nor their noise is used.

    A file keeps them, for a run that is resumed or another run on the same images.
    """
    if config.weights is not None and not config.colours:
        return Colours(np.zeros(3), np.zeros(3), np.eye(3))
    with suppress(
        OSError, ValueError, EOFError
    ):  # it does not exist, or was not written completely
        mean, deviations, *components = np.load(kept)
        return Colours(mean, deviations, np.array(components))
    with _bar(console) as bar:
        task = bar.add_task("colours", total=len(rows))

        def step() -> None:
            bar.advance(task)
            stop_signals.check()

        colours = colours_of(images, rows, step)
    with suppress(OSError):
        np.save(kept, np.vstack([colours.mean, colours.deviations, colours.components]))
    return colours


def _judge(division: Division) -> None:
    """Refuse a division with a class without training images, or without validation images."""
    seen = {example.label for example in division.training}
    for label, name in enumerate(division.classes):
        if label not in seen:
            raise ImagesUnusable(f"no image of the class {name} can be read to learn from")
    if not division.validation:
        raise ImagesUnusable("no image can be read of those to validate on")


def _start(config: TrainConfig, division: Division, images: LabelledImages) -> Start:
    classes = len(division.classes)
    if config.weights is None:
        variant = VARIANTS[config.variant or "paper"]
        return from_nothing(variant, classes, images.colours.mean, seed=config.seed)
    return from_weights(config.weights, config.variant, classes, seed=config.seed)


def _settings(
    config: TrainConfig, start: Start, recipe: Recipe, division: Division
) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
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
    """Measure the best epoch by both crops, write the artifacts, print the next commands."""
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
