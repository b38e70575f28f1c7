"""
A run's folder: what a training writes and resumes from.

    run.json             the settings, compared when it is resumed
    checkpoint.pt        where the training stands
    weights.safetensors  the best network so far, for `alexnet-export --weights`
    log.csv, steps.csv   what happened, by epoch and by step; for `alexnet-train plot`

Files are written completely or not at all, so a power cut costs what came after the last one.
"""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from model_training.errors import RunUnusable

Row = Mapping[str, float]
LOGS = ("log.csv", "steps.csv")


class Run:
    """The folder of one run; every OSError leaves as RunUnusable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, or see that it holds a run of the same settings."""
        kept = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if kept.is_file():
                self._compare(json.loads(kept.read_text("utf-8")), settings)
            self.write("run.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error
        except ValueError as error:
            raise RunUnusable(f"{kept} is damaged; start over with --overwrite") from error

    def clear(self) -> None:
        """Forget what a run has left here; the decoded images stay."""
        names = ("run.json", "checkpoint.pt", "weights.safetensors", "record.json", *LOGS)
        try:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, name: str, text: str) -> None:
        """Write a text file."""
        self._replace(name, lambda file: file.write(text.encode()))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint; of tensors and plain values only, so that it is safe to load."""
        self._replace("checkpoint.pt", lambda file: torch.save(dict(state), file))

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, or None where none has been written."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise RunUnusable(f"{path} is damaged; start over with --overwrite") from error
        return state

    def save_weights(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the best network's weights, with the metadata that the exporter reads."""
        # safetensors writes tensors that are not contiguous wrongly, without an error.
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        content = safetensors.torch.save(whole, dict(metadata))
        self._replace("weights.safetensors", lambda file: file.write(content))

    def load_weights(self) -> dict[str, Tensor]:
        """The best network's weights."""
        return safetensors.torch.load_file(self.folder / "weights.safetensors")

    def log(self, name: str, row: Row) -> None:
        """Add a row to one of the ``LOGS``."""
        path = self.folder / name
        try:
            new = not path.exists()
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(row)
                writer.writerow(row.values())
        except OSError as error:
            raise self._unwritable(error) from error

    def rewind(self, steps: int) -> None:
        """Drop from the logs what came after so many steps: the checkpoint is older."""
        for name in LOGS:
            path = self.folder / name
            if not path.exists():
                continue
            try:
                # A line without its end was cut off by a power cut or a full disk.
                *lines, _ = path.read_text("utf-8", "replace").split("\n")
                if not lines or "step" not in lines[0].split(","):
                    path.unlink()
                    continue
            except OSError as error:
                raise self._unwritable(error) from error
            head, *rows = lines
            kept = [row for row in rows if _step(row, head.split(",")) <= steps]
            self.write(name, "\n".join([head, *kept, ""]))

    def _compare(self, kept: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        other = [
            f"{key} is {kept.get(key)} there and {value} now"
            for key, value in settings.items()
            if kept.get(key) != value and key != "epochs"
        ]
        if other:
            raise RunUnusable(
                f"{self.folder} holds another run: {'; '.join(other)}. Choose another folder with "
                "-o, or start over with --overwrite"
            )

    def _replace(self, name: str, write: Any) -> None:
        path = self.folder / name
        part = self.folder / f".{name}.part"
        try:
            with part.open("wb") as file:
                write(file)
                _flush(file)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
            part.unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> RunUnusable:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return RunUnusable(
            f"{self.folder} cannot be written to ({why}); choose another place with -o, or make "
            "room; a run that has begun goes on with the same command"
        )


def _step(row: str, columns: list[str]) -> float:
    """The step of a log's row; infinity if the row is damaged."""
    cells = dict(zip(columns, row.split(","), strict=False))
    if len(cells) < len(columns) or not cells["step"].isdecimal():
        return math.inf
    return int(cells["step"])


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
