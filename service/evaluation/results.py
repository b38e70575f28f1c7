"""
Predictions -> all metrics as JSON, and a model's record.  The record is the list `accuracy` in the
one that a model file carries (alexnet-export --record).

JSON and record round numbers to six digits, the tables and the report to what they show.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from service.batch.files import Skipped, text
from service.batch.tables import replacing
from service.errors import SettingsInvalid
from service.evaluation.accuracy import Comparison, Metrics, calibrations, comparisons, metrics
from service.evaluation.calibration import Bin, bins
from service.evaluation.confusion import (
    Class,
    ClassMetrics,
    Confusion,
    Mistake,
    class_metrics,
    confusions,
    without_images,
    worst,
)
from service.evaluation.labels import LabelledImages
from service.evaluation.predicted import Predicted, Predictions

DIGITS = 6
JSON_KEYS = {  # of fields whose names in JSON, which others read, are older
    "images": "pictures",
    "predicted": "said",
    "confused_with": "said_most",
    "confused_images": "said_most_pictures",
    "classes_without_images": "classes_without_pictures",
}
# What a record holds of a run, under the same names.
RECORDED: Final = (
    "crops",
    "pictures",
    "top1",
    "top1_interval",
    "top5",
    "top5_interval",
    "ece",
    "ece_interval",
    "nll",
)


@dataclass(frozen=True)
class Run:
    """One candidate and everything measured about it."""

    name: str  # as people see it
    file: str
    model: str
    variant: str
    precision: str
    version: str
    number_of_classes: int
    crops: str
    metrics: Metrics
    calibration: list[Bin]
    classes: list[ClassMetrics]
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
        return dict(Counter(skipped.code for skipped in self.left_out).most_common())


def gather(
    labelled: LabelledImages,
    predicted: Predicted,
    *,
    service: str,
    data: str | None,
    folder: str,
    labels: str | None,
) -> Results:
    """All of it; `data` says what the images are, and has a default."""
    each = predicted.predictions
    calibrated = calibrations(each)
    runs = [
        _run(name, predictions, metrics(predictions, calibration), predicted.names)
        for name, predictions, calibration in zip(run_names(each), each, calibrated, strict=True)
    ]
    images = len(predicted.names)
    return Results(
        service=service,
        data=data or f"{images} labelled images in {Path(folder).resolve().name or folder}",
        folder=folder,
        labels=labels,
        images=images,
        classes=len(runs[0].classes),
        others=labelled.others,
        left_out=[*labelled.left_out, *predicted.left_out],
        runs=runs,
        comparisons=comparisons(each, calibrated),
    )


def run_names(each: Sequence[Predictions]) -> list[str]:
    """A name for each candidate that tells it from the others, and no longer than that needs."""
    paths = {predictions.model.path for predictions in each}
    if len(paths) == 1:
        return [predictions.crops for predictions in each]
    alike = len({path.stem for path in paths}) < len(paths)
    return [
        f"{predictions.model.path if alike else predictions.model.path.stem}, {predictions.crops}"
        for predictions in each
    ]


def as_json(results: Results) -> dict[str, Any]:
    """What is written to a file, for programs; `docs/evaluation.md` describes it."""
    document = asdict(results)
    document["left_out"] = {
        "reasons": results.reasons(),
        "files": [
            {"file": text(skipped.name), "code": skipped.code, "error": skipped.error}
            for skipped in results.left_out
        ],
    }
    document["runs"] = [_run_as_json(run) for run in document["runs"]]
    values: dict[str, Any] = _json_value(document)
    return values


def dumps(results: Results) -> str:
    """`as_json` as text."""
    return json.dumps(as_json(results), indent=2, ensure_ascii=False, allow_nan=False)


def write(path: Path, results: Results) -> None:
    """Write the same to a file."""
    with replacing(path) as beside:
        beside.write_text(dumps(results) + "\n", "utf-8")


def _entries(results: Results) -> list[dict[str, Any]]:
    """Those of the record, one for each choice of crops."""
    document = as_json(results)
    by = f"alexnet evaluate {results.service} on this {results.runs[0].precision} model"
    return [
        {"data": document["data"]} | {key: run[key] for key in RECORDED} | {"by": by}
        for run in document["runs"]
    ]


def read_record(path: Path) -> dict[str, Any]:
    """The record in the file, empty if there is none; `SettingsInvalid` if it is not a record."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {"weights": {}, "accuracy": []}
    except (OSError, ValueError) as error:
        raise SettingsInvalid(f"--record {path} cannot be read as JSON ({error})") from error
    if not (isinstance(record, dict) and isinstance(record.get("accuracy"), list)):
        raise SettingsInvalid(
            f"--record {path} is not a record, which has the keys weights and accuracy; choose "
            "another name"
        )
    return record


def write_record(path: Path, results: Results) -> None:
    """Put the entries into the record, in the place of those on the same data."""
    record = read_record(path)
    kept = [
        entry
        for entry in record["accuracy"]
        if not (isinstance(entry, dict) and entry.get("data") == results.data)
    ]
    record["accuracy"] = [*kept, *_entries(results)]
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _run(name: str, predictions: Predictions, metrics: Metrics, names: Sequence[bytes]) -> Run:
    model, confused = predictions.model, confusions(predictions)
    return Run(
        name=name,
        file=str(model.path),
        **model.facts("model"),
        number_of_classes=len(model.labels),
        crops=predictions.crops,
        metrics=metrics,
        calibration=bins(predictions.probabilities[:, 0], predictions.hits),
        classes=class_metrics(predictions, confused),
        confusions=confused,
        mistakes=worst(predictions, names),
        classes_without_images=without_images(predictions),
    )


def _run_as_json(run: dict[str, Any]) -> dict[str, Any]:
    """The metrics beside the model's facts; without what is only of use inside."""
    document: dict[str, Any] = {}
    for name, value in run.items():
        document |= value if name == "metrics" else {name: value}
    document["mistakes"] = [
        {key: value for key, value in mistake.items() if key != "row"}
        for mistake in run["mistakes"]
    ]
    return document


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {JSON_KEYS.get(key, key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return value
