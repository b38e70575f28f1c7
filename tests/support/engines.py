"""Engines whose session notes what its runs were given."""

from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from service.inference.engine import Engine
from service.inference.providers import CPU, session_options


class Counted:
    """A real session that notes how many images each of its runs was given, and their crops."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.runs: list[tuple[int, int]] = []

    def run(self, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> Any:
        self.runs.append((len(feeds["images"]), int(feeds["crops"])))
        return self.session.run(outputs, feeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def fixed(engine: Engine, path: Path, size: int) -> tuple[Engine, Counted]:
    """An engine of one size, as on CUDA, but computing here; and what its session was given."""
    options = session_options(onnxruntime, threads=1)
    session = Counted(onnxruntime.InferenceSession(path, options, providers=[CPU.name]))
    return Engine(session, engine.model, CPU, device="cpu", failures=(), fixed_size=size), session
