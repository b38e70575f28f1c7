"""
Top-1 and top-5 of model files on labelled pictures, as the service would answer.

    python benchmarks/accuracy.py FOLDER MODEL...

FOLDER holds pictures whose file names begin with their WordNet ids.  Each line of JSON has one
model's figures for one choice of crops, as shares of 0-1: how often it is right, with the standard
error sqrt(p (1 - p) / n); how often its best class is that of ten crops of the same model, and of
the first model with the same crops; and how many answers it gains and loses against that model.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine import Engine
from service.image import decode

Best = NDArray[np.intp]  # (N, 5): the classes of each picture, the most probable first


def answers(model: Path, pictures: NDArray[np.uint8]) -> dict[str, Best]:
    """The best five classes of uint8 (N, 256, 256, 3), for each choice of crops of a file."""
    engine = Engine.load(model, device="cpu")
    best = {}
    for crops, value in engine.model.crops.items():
        batches = [engine.run(pictures[i : i + 8], value) for i in range(0, len(pictures), 8)]
        best[crops] = np.argsort(-np.concatenate(batches), axis=1, kind="stable")[:, :5]
    return best


def right(best: Best, truth: Best) -> dict[str, float]:
    """Top-1 and top-5 with their standard errors."""
    hits = best == truth[:, None]
    shares = {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}
    errors = {f"{k}_error": math.sqrt(p * (1 - p) / len(best)) for k, p in shares.items()}
    return {name: round(value, 4) for name, value in (shares | errors).items()}


def compared(best: Best, other: Best, truth: Best) -> dict[str, float]:
    """The share of the same best class; of the top-1 answers how many are gained and lost."""
    ours, theirs = best[:, 0] == truth, other[:, 0] == truth
    return {
        "same": round(float((best[:, 0] == other[:, 0]).mean()), 4),
        "gained": int((ours & ~theirs).sum()),
        "lost": int((theirs & ~ours).sum()),
    }


def main() -> None:
    """Print one JSON line per model file and choice of crops."""
    folder, *models = map(Path, sys.argv[1:])
    files = sorted(folder.iterdir())
    pictures = np.stack(
        [
            decode(file.read_bytes(), max_pixels=100_000_000, max_aspect_ratio=100.0)
            for file in files
        ]
    )
    places = {
        label.wordnet_id: place
        for place, label in enumerate(Engine.load(models[0], device="cpu").model.labels)
    }
    truth = np.array([places[file.name.split(".")[0].split("_")[0]] for file in files])
    first: dict[str, Best] = {}
    for model in models:
        best = answers(model, pictures)
        first = first or best
        for crops, classes in best.items():
            entry: dict[str, object] = {"model": model.name, "crops": crops, "pictures": len(files)}
            entry |= right(classes, truth)
            entry["against_ten"] = compared(classes, best["ten"], truth)
            if crops in first:
                entry[f"against_{models[0].stem}"] = compared(classes, first[crops], truth)
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
