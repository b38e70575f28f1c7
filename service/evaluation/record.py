"""
Results -> the list `accuracy` of the record that a model file carries (alexnet-export --record).
"""

import json
from pathlib import Path
from typing import Any, Final

from service.batch.tables import replacing
from service.errors import SettingsInvalid
from service.evaluation.results import Results, as_json

# As in the results, under the same names.
KEYS: Final = (
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


def entries(results: Results) -> list[dict[str, Any]]:
    """One for each choice of crops."""
    document = as_json(results)
    by = f"alexnet evaluate {results.service} on this {results.runs[0].precision} model"
    return [
        {"data": document["data"]} | {key: run[key] for key in KEYS} | {"by": by}
        for run in document["runs"]
    ]


def read(path: Path) -> dict[str, Any]:
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


def write(path: Path, results: Results) -> None:
    """Put the entries into the record, in the place of those on the same data."""
    record = read(path)
    kept = [
        entry
        for entry in record["accuracy"]
        if not (isinstance(entry, dict) and entry.get("data") == results.data)
    ]
    record["accuracy"] = [*kept, *entries(results)]
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
