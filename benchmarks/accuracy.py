"""
Top-1 and top-5 of model files on labelled pictures, as the service would answer.

    python benchmarks/accuracy.py FOLDER MODEL...

FOLDER holds pictures whose file names begin with their WordNet ids.  The error after each figure
is the standard error of a share, sqrt(p (1 - p) / n).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

from service.engine import Engine
from service.image import decode


def measure(model: Path, pictures: dict[Path, str]) -> list[dict[str, object]]:
    """One entry per choice of crops that the file offers: shares of 0-1 over ``pictures``."""
    engine = Engine.load(model, device="cpu")
    places = {label.wordnet_id: place for place, label in enumerate(engine.model.labels)}
    square = [
        decode(file.read_bytes(), max_pixels=100_000_000, max_aspect_ratio=100.0)
        for file in pictures
    ]
    truth = np.array([places[wordnet_id] for wordnet_id in pictures.values()])
    entries: list[dict[str, object]] = []
    for crops, count in engine.model.crops.items():
        answers = [engine.run(np.stack(square[i : i + 8]), count) for i in range(0, len(square), 8)]
        order = np.argsort(-np.concatenate(answers), axis=1, kind="stable")
        hits = order[:, :5] == truth[:, None]
        entry: dict[str, object] = {"crops": crops, "pictures": len(square)}
        for name, share in (("top1", hits[:, 0].mean()), ("top5", hits.any(1).mean())):
            entry[name] = round(float(share), 4)
            entry[f"{name}_error"] = round(math.sqrt(share * (1 - share) / len(square)), 4)
        entries.append(entry)
    return entries


def main() -> None:
    """Print one JSON line per model file and choice of crops."""
    folder, *models = map(Path, sys.argv[1:])
    pictures = {file: file.name.split(".")[0].split("_")[0] for file in sorted(folder.iterdir())}
    for model in models:
        for entry in measure(model, pictures):
            print(json.dumps({"model": model.name, **entry}), flush=True)


if __name__ == "__main__":
    main()
