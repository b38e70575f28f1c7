"""
The baseline: what the runtime and decoding can do alone.

    python -m benchmarks.baseline MODEL DEVICE

A process of its own that loads the model file once.  Reads one question a line, JSON, and answers
each with a line; ends with its standard input.  `raw` is onnxruntime.InferenceSession with its own
default options but for the threads, `engine` is the service's session; both run batches of random
images, one after the other.  `decode` is the service's decoding in a pool of threads, and alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.cgroups import cpu_quota
from service.inference.engine import Engine
from service.inference.image import decode
from service.inference.limits import DecodeLimits

from .processes import killed_after, started

Run = Callable[[NDArray[np.uint8], int], object]
DISTINCT = 4  # batches
LEAST_RUNS = 3  # however slow
LONGEST = 300.0  # seconds that one question may take


class Bare:
    """The process above, seen from the one that asks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.about = self._answer()

    def ask(self, what: str, **how: object) -> dict[str, Any]:
        """One measurement."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **how}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with killed_after(LONGEST, self._process):
            line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the bare runtime's process ended; its message is above")
        return dict(json.loads(line))


@contextmanager
def bare(model: Path, device: str) -> Iterator[Bare]:
    """Such a process, until the block ends."""
    command = [sys.executable, "-m", __name__, str(model), device]
    with started(command, stdin=subprocess.PIPE) as process:
        yield Bare(process)


def measure(run: Run, views: int, batch: int, seconds: float) -> dict[str, float]:
    """Images per second, and the median ms of a run; whole runs only, the first not counted."""
    chance = np.random.default_rng(0)
    batches = [
        chance.integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8) for _ in range(DISTINCT)
    ]
    run(batches[-1], views)
    times = [time.perf_counter()]
    for images in cycle(batches):
        run(images, views)
        times.append(time.perf_counter())
        if times[-1] - times[0] >= seconds and len(times) > LEAST_RUNS:
            break
    return {
        "rate": batch * (len(times) - 1) / (times[-1] - times[0]),
        "ms": 1000 * statistics.median(np.diff(times).tolist()),
    }


def decoding(typical: Path, large: Path, seconds: float) -> dict[str, float]:
    """Images per second of all cores, and ms of one image on one."""
    prepare = partial(decode, limits=DecodeLimits())
    images = [file.read_bytes() for file in sorted(typical.iterdir())]
    answer = {
        "typical_ms": _alone(prepare, images, seconds / 2),
        "large_ms": _alone(prepare, [f.read_bytes() for f in sorted(large.iterdir())], seconds / 2),
    }
    number = max(len(images), int(1000 * seconds / answer["typical_ms"]))
    with ThreadPoolExecutor(cpu_quota()) as pool:
        began = time.perf_counter()
        for _ in pool.map(prepare, islice(cycle(images), number)):
            pass
        return answer | {"rate": number / (time.perf_counter() - began)}


def _alone(prepare: Callable[[bytes], object], images: list[bytes], seconds: float) -> float:
    prepare(images[0])
    began = time.perf_counter()
    for number, image in enumerate(cycle(images), start=1):
        prepare(image)
        if (passed := time.perf_counter() - began) >= seconds:
            return 1000 * passed / number
    raise AssertionError("a cycle has no end")


def main() -> None:
    """Answer until nobody asks any more."""
    model, device = Path(sys.argv[1]), sys.argv[2]
    engine = Engine.load(model, device=device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_quota()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=[engine.provider])

    def raw(images: NDArray[np.uint8], views: int) -> object:
        return session.run(["probabilities"], {"images": images, "crops": np.array(views)})

    runs: dict[str, Run] = {"raw": raw, "engine": engine.run}
    print(json.dumps({"provider": engine.provider, "crops": dict(engine.model.crops)}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        what = question.pop("what")
        if what == "decode":
            answer = decoding(
                Path(question["typical"]), Path(question["large"]), question["seconds"]
            )
        else:
            answer = measure(runs[what], **question)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
