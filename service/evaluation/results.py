"""
Answers -> all that is known of them, as JSON has it.

What is printed, reported and recorded is taken from here, so that all say the same numbers: JSON
and record round them to six digits, tables and report to what they show.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.batch.files import Skipped, text
from service.batch.tables import replacing
from service.evaluation.accuracy import Comparison, Figures, calibrations, comparisons, figures
from service.evaluation.calibration import Bin, bins
from service.evaluation.confusion import (
    Class,
    ClassFigures,
    Confusion,
    Mistake,
    class_figures,
    confusions,
    without_images,
    worst,
)
from service.evaluation.labels import Truth
from service.evaluation.predicted import Answers, Asked

DIGITS = 6
JSON_KEYS = {  # of fields whose names in JSON, which others read, are older
    "images": "pictures",
    "said_most_images": "said_most_pictures",
    "classes_without_images": "classes_without_pictures",
}


@dataclass(frozen=True)
class Run:
    """One candidate and all of its figures."""

    name: str  # as people see it
    file: str
    model: str
    variant: str
    precision: str
    version: str
    number_of_classes: int
    crops: str
    figures: Figures
    calibration: list[Bin]
    classes: list[ClassFigures]
    confusions: list[Confusion]
    mistakes: list[Mistake]
    classes_without_images: list[Class]


@dataclass(frozen=True)
class Results:
    """What was measured, and on what."""

    service: str  # version
    data: str  # what the images are, in words
    folder: str
    labels: str | None  # the table
    images: int
    classes: int  # that have images
    others: int  # files that are no images, and hidden folders
    left_out: list[Skipped]
    runs: list[Run]
    comparisons: list[Comparison]

    def reasons(self) -> dict[str, int]:
        """How many images were left out for which reason, the most frequent first."""
        return dict(Counter(one.code for one in self.left_out).most_common())


def gather(
    truth: Truth, asked: Asked, *, service: str, data: str | None, folder: str, labels: str | None
) -> Results:
    """All of it; `data` says what the images are, and has a default."""
    each = asked.answers
    calibrated = calibrations(each)
    names = run_names(each)
    runs = [
        _run(name, answers, figures(answers, its), asked.names)
        for name, answers, its in zip(names, each, calibrated, strict=True)
    ]
    images = len(asked.names)
    return Results(
        service=service,
        data=data or f"{images} labelled images in {Path(folder).resolve().name or folder}",
        folder=folder,
        labels=labels,
        images=images,
        classes=len(runs[0].classes),
        others=truth.others,
        left_out=[*truth.left_out, *asked.left_out],
        runs=runs,
        comparisons=comparisons(each, calibrated),
    )


def run_names(each: Sequence[Answers]) -> list[str]:
    """A name for each candidate that tells it from the others, and no longer than that needs."""
    paths = {answers.model.path for answers in each}
    if len(paths) == 1:
        return [answers.crops for answers in each]
    alike = len({path.stem for path in paths}) < len(paths)
    return [
        f"{answers.model.path if alike else answers.model.path.stem}, {answers.crops}"
        for answers in each
    ]


def as_json(results: Results) -> dict[str, Any]:
    """What is written to a file, for programs; `docs/evaluation.md` describes it."""
    told = asdict(results)
    told["left_out"] = {
        "reasons": results.reasons(),
        "files": [
            {"file": text(one.name), "code": one.code, "error": one.error}
            for one in results.left_out
        ],
    }
    told["runs"] = [_run_as_json(run) for run in told["runs"]]
    values: dict[str, Any] = _json_value(told)
    return values


def dumps(results: Results) -> str:
    """`as_json` as text."""
    return json.dumps(as_json(results), indent=2, ensure_ascii=False, allow_nan=False)


def write(path: Path, results: Results) -> None:
    """Write the same to a file."""
    with replacing(path) as beside:
        beside.write_text(dumps(results) + "\n", "utf-8")


def _run(name: str, answers: Answers, its: Figures, names: Sequence[bytes]) -> Run:
    model, confused = answers.model, confusions(answers)
    return Run(
        name=name,
        file=str(model.path),
        model=model.name,
        variant=model.variant,
        precision=model.precision,
        version=model.version,
        number_of_classes=len(model.labels),
        crops=answers.crops,
        figures=its,
        calibration=bins(answers.probabilities[:, 0], answers.hits),
        classes=class_figures(answers, confused),
        confusions=confused,
        mistakes=worst(answers, names),
        classes_without_images=without_images(answers),
    )


def _run_as_json(run: dict[str, Any]) -> dict[str, Any]:
    """The figures beside the model's facts; what is of use inside only is left out."""
    told: dict[str, Any] = {}
    for name, value in run.items():
        told |= value if name == "figures" else {name: value}
    told["mistakes"] = [
        {key: value for key, value in mistake.items() if key != "row"}
        for mistake in run["mistakes"]
    ]
    return told


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {JSON_KEYS.get(key, key): _json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    return value
