"""
Model files on a GPU: checked, timed bare and served.

    python -m benchmarks.gpu MODEL... [--part PART]... [-o gpu.json]

    provider   Engine.load's own check; which nodes ran where, from the runtime's profile
    answers    the device against the CPU, on images, for every choice of crops
    bare       images/s and latency by batch, for each way to set up the runtime
    served     `alexnet serve` in its own process, loaded by `alexnet bench`, over the bare rate

MODEL may be given several times: the same network exported with --precision fp32 and fp16.  Each
part stands alone: after a failure in one the rest goes on.  The status is 0 only if nothing failed.
A setting that the runtime refuses (a CUDA graph around an `If`) is a note, not a failure.

It needs numpy, onnxruntime-gpu and this package; with onnx too, it also measures IOBinding and
CUDA graphs, which want a file whose crops are fixed.  CUDA's libraries may lie in wheels beside
another package (torch's): every `nvidia/*/lib` on Python's path is found.  `--device cpu --quick`
tries the script out where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.cgroups import cpu_quota
from service.inference.engine import Engine
from service.inference.image import decode
from service.inference.limits import DecodeLimits
from service.inference.providers import CPU, CUDA, gist, session_options

from .machine import describe
from .photographs import PACKAGED
from .processes import load, serving

PARTS = ("provider", "answers", "bare", "served")
COMPUTE = re.compile("Conv|Gemm|MatMul")  # the nodes that are the work; the rest is shapes
REFERENCES = 4  # images; how many rows of each measured batch are held against the CPU's

Pixels = NDArray[np.uint8]  # (N, 256, 256, 3)
Answers = NDArray[np.float32]  # (N, classes)
Row = dict[str, Any]
Prepared = tuple[Callable[[], object], Callable[[], Answers]]  # what is timed, and its answers
Prepare = Callable[[Pixels], Prepared]


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    warm_up: int = 5  # runs
    runs: int = 30  # at least
    seconds: float = 0.3  # at least, for each figure
    in_flight: tuple[int, ...] = (1, 8, 32)
    load_seconds: float = 10.0  # of the served path, each
    images: int = 1000  # at most


QUICK = Extent((1, 2), 1, 3, 0.0, (2,), 0.5, 8)

# What differs from the options that the service itself sets.
SETTINGS: dict[str, dict[str, str]] = {
    "as served": {},
    "TF32": {"use_tf32": "1"},
    "NHWC": {"prefer_nhwc": "1"},
    "EXHAUSTIVE": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "NHWC, EXHAUSTIVE": {"prefer_nhwc": "1", "cudnn_conv_algo_search": "EXHAUSTIVE"},
}
FIXED = {"as served", "NHWC"}  # those to try with IOBinding and CUDA graphs
GRAPH = {"enable_cuda_graph": "1"}


@dataclass
class Bench:
    """One invocation: what was asked for, and what came of it."""

    device: str
    extent: Extent
    images: Pixels
    max_batch: int
    results: dict[str, list[Row]] = field(default_factory=lambda: {part: [] for part in PARTS})
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        """Whether the GPU is what is measured."""
        return self.device == "cuda"

    def note(self, text: str) -> None:
        """Something that the reader must know, but no failure."""
        self.notes.append(text)
        print(f"  note: {text}", flush=True)

    def fail(self, text: str) -> None:
        """Something that makes the status non-zero."""
        self.failures.append(text)
        print(f"  FAILED: {text}", flush=True)

    def engine(self, path: Path) -> Engine:
        """The engine as the service loads it; raises where the device is not in use."""
        return Engine.load(path, device=self.device, max_batch=self.max_batch)

    def batch(self, size: int) -> Pixels:
        """So many images, in order, again from the first where there are too few."""
        return self.images[np.arange(size) % len(self.images)]

    def write(self, path: Path | None, machine: dict[str, str]) -> None:
        """All there is until now, so that what is cut off later leaves it."""
        if path is not None:
            everything = {"machine": machine, "quick": self.extent == QUICK, **self.results}
            everything |= {"notes": self.notes, "failures": self.failures}
            path.write_text(json.dumps(everything, indent=1) + "\n")


def provider(bench: Bench, path: Path) -> Iterator[Row]:
    """The engine's own proof, and where each node ran."""
    before, began = gpu_memory(), time.perf_counter()
    engine = bench.engine(path)
    seconds = time.perf_counter() - began
    memory = gpu_memory()
    print(f"  Engine.load: {engine.provider}, {seconds:.2f} s, warm-up and check included")
    if before is not None and memory is not None:
        print(f"  GPU memory: {memory - before} MiB more at max_batch {bench.max_batch}")
    crops = dict(engine.model.crops)
    del engine
    provider_name = (CUDA if bench.cuda else CPU).name
    nodes = profiled(bench, path, list(crops.values()))
    counts: dict[str, int] = {}
    for _, _, where in nodes:
        counts[where] = counts.get(where, 0) + 1
    print("  nodes run: " + ", ".join(f"{count} on {name}" for name, count in counts.items()))
    elsewhere = [f"{kind} ({name})" for name, kind, where in nodes if where != provider_name]
    if elsewhere:
        print("  not on the device: " + ", ".join(elsewhere))
    stray = [name for name, kind, where in nodes if COMPUTE.search(kind) and where != provider_name]
    if stray:
        bench.fail(f"{path.name}: these compute, but not on {provider_name}: {', '.join(stray)}")
    if not any(COMPUTE.search(kind) for _, kind, _ in nodes):
        bench.fail(f"{path.name}: the profile shows no convolution and no product at all")
    yield {
        "model": path.name,
        "provider": provider_name,
        "load_seconds": round(seconds, 3),
        "gpu_memory_mib": None if before is None or memory is None else memory - before,
        "nodes": counts,
        "not_on_the_device": elsewhere,
    }


def profiled(bench: Bench, path: Path, choices: Sequence[int]) -> list[tuple[str, str, str]]:
    """Every node that ran for any choice of crops: its name, its operator, its provider."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(bench, path, {}, profile=Path(folder) / "profile")
        for views in choices:
            plain(made, views, bench.batch(1))[0]()
        events = json.loads(Path(made.end_profiling()).read_text())
    nodes = {
        (event["name"].removesuffix("_kernel_time"), args["op_name"], args["provider"])
        for event in events
        if event.get("cat") == "Node" and "provider" in (args := event.get("args", {}))
    }
    return sorted(nodes)


def answers(bench: Bench, path: Path) -> Iterator[Row]:
    """The device's answers against the CPU's, in uneven batches, so that padding is met too."""
    device, reference = bench.engine(path), Engine.load(path, device="cpu")
    tolerance = float(device.model.golden["tolerance"])
    for crops, views in device.model.crops.items():
        measured, expected = (
            np.concatenate(
                [engine.run(bench.images[i : i + 7], views) for i in range(0, len(bench.images), 7)]
            )
            for engine in (device, reference)
        )
        row = compared(measured, expected)
        print(
            f"  {crops} crops: {row['same_top1']} of {row['pictures']} images have the same best "
            f"class, the largest difference of a probability is {row['largest_difference']:.2g}"
        )
        if not row["largest_difference"] <= tolerance:  # negated, so that NaN fails too
            bench.fail(
                f"{path.name}, {crops} crops: {row['largest_difference']:.2g} off the CPU's answer "
                f"where {tolerance:.2g} is allowed"
            )
        if row["largest_lead_lost"] > tolerance:
            bench.fail(f"{path.name}, {crops} crops: another best class than on the CPU")
        yield {"model": path.name, "crops": crops, "tolerance": tolerance, **row}


def compared(measured: Answers, reference: Answers) -> Row:
    """Two sets of answers; a lead lost is by how much the reference prefers its own best class."""
    rows = np.arange(len(measured))
    best, expected = measured.argmax(axis=1), reference.argmax(axis=1)
    row: Row = {
        "pictures": len(measured),
        "same_top1": int((best == expected).sum()),
        "largest_difference": float(np.abs(measured - reference).max()),
        "largest_lead_lost": float((reference[rows, expected] - reference[rows, best]).max()),
    }
    return row


def bare(bench: Bench, path: Path) -> Iterator[Row]:
    """Each setting of the runtime, on the file as it is; then on copies whose crops are fixed."""
    bench.engine(path)  # raises where the device is not in use, and says why
    reference = Engine.load(path, device="cpu")
    model, few = reference.model, bench.batch(REFERENCES)
    right = {crops: reference.run(few, views) for crops, views in model.crops.items()}
    del reference
    sizes = ", ".join(map(str, bench.extent.batches))
    print(f"  images/s (median ms / 99% ms) at batch {sizes}")

    def measured(crops: str, setting: str, prepare: Prepare) -> Iterator[Row]:
        line = []
        try:
            for size in bench.extent.batches:
                step, answer = prepare(bench.batch(size))
                figures = timed(step, size, bench.extent)
                # After the timing, so that what is checked is the replay of a CUDA graph.
                known = slice(min(size, REFERENCES))
                off = float(np.abs(answer()[known] - right[crops][known]).max())
                line.append("{rate:.0f} ({p50_ms:.2f} / {p99_ms:.2f})".format(**figures))
                if not off <= float(model.golden["tolerance"]):
                    bench.fail(f"{path.name}, {crops}, {setting}, batch {size}: {off:.2g} off")
                yield {
                    "model": path.name,
                    "precision": model.precision,
                    "crops": crops,
                    "setting": setting,
                    "batch": size,
                    **figures,
                    "difference": off,
                }
        finally:
            print(f"  {crops:>6}  {setting:<34}  {'  '.join(line)}", flush=True)

    settings = SETTINGS if bench.cuda else {"as served": SETTINGS["as served"]}
    for name, options in settings.items():
        if name == "TF32" and model.precision == "fp16":
            continue  # it concerns fp32 alone
        with reported(bench, f"{path.name}, {name}"):
            made = session(bench, path, options)
            for crops, views in model.crops.items():
                yield from measured(crops, f"{name}, run", partial(plain, made, views))
    if bench.cuda:
        with noted(bench, f"{path.name}: a CUDA graph around the file as it is"):
            session(bench, path, GRAPH)
    else:
        bench.note("TF32, NHWC, the search for convolutions and CUDA graphs are CUDA's; skipped")
    if importlib.util.find_spec("onnx") is None:
        bench.note("onnx is not installed, so no copies with fixed crops: no IOBinding, no graphs")
        return
    classes = len(model.labels)
    for crops, views in model.crops.items():
        copy = with_fixed_crops(path, views)
        for name in sorted(FIXED & settings.keys()):
            with reported(bench, f"{path.name}, {name}, fixed {crops}"):
                made = session(bench, copy, settings[name])
                for setting, prepare in {
                    "fixed, run": partial(plain, made, None),
                    "fixed, IOBinding": partial(bound, made, classes, True),
                    "fixed, IOBinding, no copies": partial(bound, made, classes, False),
                }.items():
                    yield from measured(crops, f"{name}, {setting}", prepare)
            if bench.cuda:
                with noted(bench, f"{path.name}, {name}: a CUDA graph with fixed {crops}"):
                    made = session(bench, copy, settings[name] | GRAPH)
                    for setting, copies in (("graph", True), ("graph, no copies", False)):
                        yield from measured(
                            crops,
                            f"{name}, fixed, {setting}",
                            partial(bound, made, classes, copies),
                        )


def session(
    bench: Bench, model: Path | bytes, options: dict[str, str], *, profile: Path | None = None
) -> Any:
    """A session that is on the device or raises, with the service's options and these."""
    import onnxruntime

    provider = CUDA if bench.cuda else CPU
    made = session_options(onnxruntime, provider)
    if profile is not None:
        made.enable_profiling = True
        made.profile_file_prefix = str(profile)
    providers = (
        [(CUDA.name, CUDA.options(0, None) | options), CPU.name] if bench.cuda else [CPU.name]
    )
    troubles = io.StringIO()  # the runtime prints why it falls back
    with redirect_stdout(troubles):
        provider.prepare(onnxruntime)
        result = onnxruntime.InferenceSession(model, made, providers=providers)
    if result.get_providers()[0] != provider.name:
        raise RuntimeError(f"the runtime fell back to the CPU: {gist(troubles.getvalue())}")
    result.disable_fallback()
    return result


def plain(made: Any, views: int | None, images: Pixels) -> Prepared:
    """As the engine runs it: images from the host, answers to the host."""
    feeds: dict[str, NDArray[Any]] = {"images": images}
    if views is not None:
        feeds["crops"] = np.array(views, np.int64)

    def step() -> Answers:
        probabilities: Answers = made.run(["probabilities"], feeds)[0]
        return probabilities

    return step, step


def bound(made: Any, classes: int, copies: bool, images: Pixels) -> Prepared:
    """
    A run with input and output at fixed places on the device, which a CUDA graph wants.

    With `copies` the images come from the host and the answers go there each time, as a server
    would need; without, only the device's work is left.
    """
    import onnxruntime

    device = "cuda" if made.get_providers()[0] == CUDA.name else "cpu"
    source = onnxruntime.OrtValue.ortvalue_from_numpy(images.copy(), device, 0)
    target = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        (len(images), classes), np.float32, device, 0
    )
    binding = made.io_binding()
    binding.bind_ortvalue_input("images", source)
    binding.bind_ortvalue_output("probabilities", target)
    options = onnxruntime.RunOptions()
    if device == "cuda":  # one graph for each shape, and for each pair of places
        options.add_run_config_entry("gpu_graph_id", str(2 * len(images) + copies))

    def step() -> object:
        if copies:
            source.update_inplace(images)
        made.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return target.numpy() if copies else None

    def answer() -> Answers:
        step()
        probabilities: Answers = target.numpy()
        return probabilities

    return step, answer


def with_fixed_crops(path: Path, views: int) -> bytes:
    """The file with `crops` a constant: neither IOBinding nor a CUDA graph can take the choice."""
    import onnx

    model: onnx.ModelProto = onnx.load(path)
    graph = model.graph
    kept = [value for value in graph.input if value.name != "crops"]
    del graph.input[:]
    graph.input.extend(kept)
    (default,) = (value for value in graph.initializer if value.name == "crops")
    default.CopyFrom(onnx.numpy_helper.from_array(np.array(views, np.int64), "crops"))
    content: bytes = model.SerializeToString()
    return content


def timed(run: Callable[[], object], size: int, extent: Extent) -> Row:
    """Images/s, and the latency of one run in ms: median and 99th percentile."""
    for _ in range(extent.warm_up):
        run()
    times: list[float] = []
    while len(times) < extent.runs or sum(times) < extent.seconds:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return {
        "runs": len(times),
        "rate": size * len(times) / sum(times),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def served(bench: Bench, path: Path) -> Iterator[Row]:
    """The whole service under load, over what the engine alone did in full batches before it: with
    fewer in flight than a full batch, the ratio says what small batches cost, too."""
    engine = bench.engine(path)
    images = bench.batch(bench.max_batch)
    rates = {}
    for crops, views in engine.model.crops.items():
        step = partial(engine.run, images, views)
        rates[crops] = timed(step, len(images), bench.extent)["rate"]
        del step
    del engine
    gc.collect()  # the server shall have the device to itself
    with serving(path, device=bench.device, max_batch=bench.max_batch) as server:
        for crops, rate in rates.items():
            for in_flight in bench.extent.in_flight:
                figures = load(
                    server,
                    crops=crops,
                    seconds=bench.extent.load_seconds,
                    warm_up=1.0,
                    in_flight=in_flight,
                )
                row = {"model": path.name, "crops": crops, "in_flight": in_flight}
                row |= {"bare_rate": rate, "ratio": figures["rate"] / rate, **figures}
                print(
                    f"  {crops:>6}, {in_flight:>3} in flight: {figures['rate']:.0f} images/s, "
                    f"{row['ratio']:.2f} of the bare {rate:.0f}; p50 {figures['p50']:.1f}, "
                    f"p95 {figures['p95']:.1f}, p99 {figures['p99']:.1f} ms",
                    flush=True,
                )
                yield row


@contextmanager
def reported(bench: Bench, what: str) -> Iterator[None]:
    """A failure inside is printed and counted; what comes after goes on."""
    try:
        yield
    # Whatever it is, the other figures are still worth having; SystemExit comes from `processes`.
    except (Exception, SystemExit) as error:
        bench.fail(f"{what}: {gist(error)}")


@contextmanager
def noted(bench: Bench, what: str) -> Iterator[None]:
    """A setting that the runtime may refuse."""
    try:
        yield
    except Exception as error:  # the runtime has no common class for its refusals
        bench.note(f"{what} is refused: {gist(error)}")


def facts(device: str) -> dict[str, str]:
    """What was measured on: names and versions."""
    import onnxruntime

    gpu = nvidia_smi("name,driver_version,memory.total") or "none: nvidia-smi does not answer"
    wheels = [
        f"{wheel.name} {wheel.version}"
        for wheel in importlib.metadata.distributions()
        if re.match("nvidia-(cudnn|cublas|cuda-runtime)", wheel.name or "")
    ]
    return {
        "measured": device,
        "gpu": gpu,
        "cpu": f"{describe(device)['cpu']}, {cpu_quota()} cores",
        "onnxruntime": f"{onnxruntime.__version__}, "
        f"CUDA {getattr(onnxruntime, 'cuda_version', None) or 'not built in'}",
        "wheels": ", ".join(sorted(wheels)) or "none of NVIDIA's",
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def nvidia_smi(query: str) -> str:
    """The first GPU's answer; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip().partition("\n")[0]


def gpu_memory() -> int | None:
    """MiB in use on the first GPU, by everyone."""
    answer = nvidia_smi("memory.used")
    return int(answer) if answer.isdigit() else None


def reach_libraries() -> None:
    """
    Start again with CUDA's libraries in reach, if they lie elsewhere than beside the runtime.

    The runtime looks into the `nvidia` folder beside its own, and then where the system's loader
    does, which reads LD_LIBRARY_PATH once, at the start of a process.
    """
    runtime = importlib.util.find_spec("onnxruntime")
    if runtime is None or runtime.origin is None:
        return  # Engine.load says so
    beside = Path(runtime.origin).parents[1] / "nvidia"
    folders = [str(f) for entry in sys.path for f in sorted(Path(entry).glob("nvidia/*/lib"))]
    known = os.environ.get("LD_LIBRARY_PATH", "")
    if beside.is_dir() or set(folders) <= set(known.split(":")):
        return
    os.environ["LD_LIBRARY_PATH"] = ":".join([*folders, *filter(None, [known])])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def load_images(folder: Path, limit: int) -> Pixels:
    """The folder's JPEGs as the service decodes them."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in {".jpg", ".jpeg"})[:limit]
    if not files:
        raise SystemExit(f"there are no JPEGs in {folder}; name another folder with --pictures")
    return np.stack(
        [
            decode(f.read_bytes(), DecodeLimits(max_pixels=10**8, max_aspect_ratio=100.0))
            for f in files
        ]
    )


def main() -> int:
    """Run the parts, print them, write them; the status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--part", action="append", choices=PARTS, help="all, if none is named")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--pictures", dest="images", type=Path, default=PACKAGED, help="a folder of JPEGs"
    )
    parser.add_argument("--max-batch", type=int, default=16, help="the service's setting")
    parser.add_argument("--quick", action="store_true", help="a trial, no measurement")
    parser.add_argument("-o", "--output", type=Path, help="write all of it here, as JSON")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        reach_libraries()
    extent = QUICK if arguments.quick else Extent()
    images = load_images(arguments.images, extent.images)
    bench = Bench(arguments.device, extent, images, arguments.max_batch)
    machine = facts(arguments.device)
    for name, text in machine.items():
        print(f"{name}: {text}")
    measures = {"provider": provider, "answers": answers, "bare": bare, "served": served}
    for part in arguments.part or PARTS:
        for path in arguments.models:
            print(f"\n{part}: {path}", flush=True)
            with reported(bench, f"{part}, {path.name}"):
                for row in measures[part](bench, path):
                    bench.results[part].append(row)
                    bench.write(arguments.output, machine)
            bench.write(arguments.output, machine)
    print(f"\n{len(bench.failures)} failures, {len(bench.notes)} notes")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
