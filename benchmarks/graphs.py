"""
Speed of the graph with ten crops, plain and shared, dense crops, and one.

    python -m benchmarks.graphs [--weights FILE] [--batch 8] [--rounds 7]

The bare runtime only, all forms, in fp32 and int8, alternating in one process, on all cores:
medians, and the medians of each round's ratio to ten crops one by one in fp32.  `xN` is the same
graph in a session of one thread, run from as many threads N as there are cores, each with a batch
of its own.  Needs the exporter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_export import checkpoints, crops, export
from model_export.graph import CROPS, serving_graph
from model_export.precision import PRECISIONS
from model_export.variants import VARIANTS
from service.cgroups import cpu_quota

from . import machine, models

Run = Callable[[], None]
FORMS = {"plain": ("ten",), "shared": ("ten", "dense", "one")}


def graphs(weights: Path) -> dict[str, bytes]:
    """`precision form` -> the serialised serving graph of the full-size network."""
    variant = VARIANTS["owt"]
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder, "full.safetensors")
        models.expand(weights, full)
        network = checkpoints.build(variant, checkpoints.read(full), source=weights.name)
    views = crops.ten_crops(crops.load_images(), variant.crop_size)
    channels = crops.to_channels(views, variant.normalisation)
    plain = export.to_onnx(network, variant.crop_size)
    made = {}
    for precision in ("fp32", "int8"):
        flat = channels.reshape(-1, *channels.shape[2:])
        converted = PRECISIONS[precision].convert(plain, flat, variant.normalisation)
        for form in FORMS:
            graph = serving_graph(
                converted,
                crop_size=variant.crop_size,
                normalisation=variant.normalisation,
                share=form == "shared",
            )
            made[f"{precision} {form}"] = graph.SerializeToString()
    return made


def runs(
    graph: bytes, value: int, images: NDArray[np.uint8], pool: ThreadPoolExecutor
) -> dict[str, Run]:
    """One run on all cores, and one on each core."""
    feeds = {"images": images, "crops": np.array(value, np.int64)}

    def session(threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    cores = cpu_quota()
    together, single = session(cores), session(1)

    def on_all_cores() -> None:
        together.run(["probabilities"], feeds)

    def on_each_core() -> None:
        list(pool.map(lambda _: single.run(["probabilities"], feeds), range(cores)))

    return {"": on_all_cores, f" x{cores}": on_each_core}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--weights", type=Path, default=models.BUNDLED)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    images = crops.load_images()[: arguments.batch]
    with ThreadPoolExecutor(cpu_quota()) as pool:
        cases: dict[str, tuple[Run, int]] = {}
        for name, graph in graphs(arguments.weights).items():
            precision, form = name.split()
            for choice in FORMS[form]:
                for suffix, run in runs(graph, CROPS[choice], images, pool).items():
                    number = arguments.batch * (cpu_quota() if suffix else 1)
                    cases[f"{precision} {choice}, {form}{suffix}"] = run, number
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(arguments.rounds + 1):
            for name, (run, number) in cases.items():
                began = time.perf_counter()
                run()
                if turn:  # the first warms up
                    rates[name].append(number / (time.perf_counter() - began))
    first = next(iter(rates.values()))
    print(
        f"{machine.sentence(machine.describe('CPUExecutionProvider'))}; batch {arguments.batch}, "
        f"medians of {arguments.rounds} rounds."
    )
    print("\n| | images/s | times plain ten crops in fp32 |")
    print("|---|---|---|")
    for name, each in rates.items():
        ratios = [rate / base for rate, base in zip(each, first, strict=True)]
        print(f"| {name} | {statistics.median(each):.1f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
