"""
What a finished run writes beside its weights.  Labels and a record for `alexnet-export`, and the
list of validation images for `alexnet evaluate`; it also names the commands that come next.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_export.export import imagenet_labels
from model_training.accuracy import Accuracy
from model_training.image_folder import Division
from model_training.run import Run
from model_training.start import Start

WORDNET_ID = re.compile(r"n[0-9]{8}")


def write(
    run: Run, start: Start, division: Division, measured: Mapping[str, Accuracy], *, epoch: int
) -> None:
    """Write ``labels.csv``, ``validation.csv`` and ``record.json``.

    ``measured`` holds the accuracy by crops, one and ten, of the weights of the ``epoch``.
    """
    run.write("labels.csv", _csv(("wordnet_id", "name"), _labels(division.classes)))
    aside = [
        (example.path.relative_to(division.base).as_posix(), division.classes[example.label])
        for example in division.validation
    ]
    run.write("validation.csv", _csv(("file", "label"), aside))
    record = {
        "weights": {
            "name": run.folder.resolve().name,
            "licence": start.licence,
            "trained": _history(start, division, epoch),
        },
        "accuracy": [_entry(division, crops, accuracy) for crops, accuracy in measured.items()],
    }
    run.write("record.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def commands(run: Run, variant: str, base: Path) -> list[str]:
    """What comes next: exporting the run's weights, measuring the exported file once more on the
    validation images, which lie in ``base``, and serving it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.folder.resolve().name).strip("-") or "alexnet"
    folder, model = run.folder, run.folder / f"{name}.onnx"
    export = ["alexnet-export", "--variant", variant, "--weights", folder / "weights.safetensors"]
    export += ["--labels", folder / "labels.csv", "--record", folder / "record.json"]
    export += ["--name", name, "-o", model]
    evaluate = ["alexnet", "evaluate", base, "--labels", folder / "validation.csv"]
    evaluate += ["--model", model]
    serve = ["alexnet", "serve", "--model", model]
    return [shlex.join(map(str, command)) for command in (export, evaluate, serve)]


def _labels(classes: Sequence[str]) -> list[tuple[str, str]]:
    """(WordNet id, ImageNet's name) if all names are WordNet ids, else each name without an id."""
    if all(WORDNET_ID.fullmatch(name) for name in classes):
        names = dict(imagenet_labels())
        return [(name, names.get(name, name)) for name in classes]
    return [("", name) for name in classes]


def _history(start: Start, division: Division, epoch: int) -> str:
    origin = f"from {start.source} ({start.sha256[:12]})" if start.source else "from nothing"
    return (
        f"{origin}, by alexnet-train, on {len(division.training)} images of "
        f"{len(division.classes)} classes; the epoch with the least validation error, {epoch}"
    )


def _entry(division: Division, crops: str, accuracy: Accuracy) -> dict[str, object]:
    top1, count = 1 - accuracy.top1_error, accuracy.images
    # As if two more had been seen, one right and one wrong: all right is not certain.
    likely = (top1 * count + 1) / (count + 2)
    return {
        "data": f"{count} images of {len(division.classes)} classes, held out from training",
        "pictures": count,
        "crops": crops,
        "top1": round(top1, 4),
        "top5": round(1 - accuracy.top5_error, 4),
        "standard_error": round(math.sqrt(likely * (1 - likely) / (count + 2)), 4),
        "by": "alexnet-train, in PyTorch, float32; the epoch was chosen on these very images",
    }


def _csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def shown(folder: Path) -> str:
    """The accuracies in a run's record, as lines to print."""
    record = json.loads((folder / "record.json").read_text("utf-8"))
    return "\n".join(
        f"{entry['crops']} crop{'s' if entry['crops'] == 'ten' else ''}: top-1 {entry['top1']:.1%} "
        f"(standard error {100 * entry['standard_error']:.1f} points), top-5 {entry['top5']:.1%} "
        f"of {entry['pictures']} images held out"
        for entry in record["accuracy"]
    )
