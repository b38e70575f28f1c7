"""Images in large numbers, their scores, and `alexnet predict -o` that is struck meanwhile."""

import csv
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.commands import Done, alexnet, alexnet_process, plain
from tests.support.images import image
from tests.support.servers import PATIENCE, ROOT


def make_crowd(top: Path, number: int) -> Path:
    """Eight images and a broken one, under `number` names in ten folders."""
    originals = []
    for index in range(9):
        original = top.parent / f"{top.name}-{index}.jpg"
        original.write_bytes(image(size=(260 + 9 * index, 256)) if index else b"GIF89a")
        originals.append(original)
    for index in range(number):
        place = top / f"{index % 10}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[index % 9], place / f"{index:05}.jpg")
    return top


def predict(*arguments: object, **settings: Any) -> Done:
    """Run it here, to its end."""
    return alexnet("predict", *map(str, arguments), **settings)


def predict_process(*arguments: object, **settings: Any) -> Done:
    """Run it as a process, to its end."""
    return alexnet_process("predict", *map(str, arguments), **settings)


def rows(output: Path) -> list[dict[str, Any]]:
    """A table of any of the formats, as JSON has it."""
    if output.suffix == ".parquet":
        parquet = import_module("pyarrow.parquet")
        table: list[dict[str, Any]] = parquet.read_table(output).to_pylist()
        return table
    with output.open(encoding="utf-8", newline="") as file:
        if output.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return [
            row
            | {
                "index": int(row["index"]),
                "wordnet_id": row["wordnet_id"] or None,
                "probability": float(row["probability"]),
                "classes": json.loads(row["classes"]),
            }
            for row in csv.DictReader(file)
        ]


def struck(strike: str, *arguments: object, after: int = 600, **settings: Any) -> tuple[int, str]:
    """Run it as a process, and do something to it `after` so many images; its status, and what it
    said."""
    code = (
        "import os, signal, sys\n"
        "from service import console\nfrom service.batch import store\n"
        "console.LINE_EVERY = 3600.0\n"
        f"add, left = store.ResultStore.add, {after}\n"
        "def counted(self, outcome):\n"
        "    global left\n"
        "    add(self, outcome)\n"
        "    left -= 1\n"
        "    if not left:\n"
        f"        {strike}\n"
        "store.ResultStore.add = counted\n"
        "store.COMMIT_EVERY = 0.01\n"
        f"sys.argv = ['alexnet', 'predict', *{[str(value) for value in arguments]!r}]\n"
        "import service.__main__ as command; command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=plain(**settings),
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stderr.decode()


def signalled(number: int) -> str:
    """A signal to itself."""
    return f"os.kill(os.getpid(), {int(number)})"


def went_on(done: Done) -> bool:
    """Whether it did a part of the work, and match the rest done."""
    report = done.stderr.decode()
    assert done.returncode == 0, report
    match = re.search(r"(\d+) images scored, (\d+) of them before", report)
    return match is not None and 0 < int(match[2]) < int(match[1])
