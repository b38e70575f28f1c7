"""
uint8 images -> float32 probabilities, in ONNX Runtime, on the device that was asked for.

A CUDA session that silently computes on the CPU is the trap here: the runtime lists CUDA, accepts
it, and falls back without an error, while loading or as late as in the first run.  So a session
counts as CUDA's only after four steps: CUDA is offered; the session is created; CUDA is its first
provider; with fallback switched off, a real image gives the answer stored in the model file.

On CUDA every run is of one of a few sizes, padded up to it: each new shape costs a search for
convolutions and makes the memory arena grow, which never shrinks.  All of them run once at load,
the largest first, so that what does not fit is known before the service is ready.
"""

import io
import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import redirect_stdout
from ctypes import CDLL
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service.cgroups import cpu_quota
from service.errors import ModelUnusable, ProviderUnusable, RuntimeMissing
from service.inference import model_file
from service.inference.model_file import Label, Model

__all__ = [
    "CPU",
    "CUDA",
    "Device",
    "Engine",
    "Label",
    "Model",
    "batch_sizes",
    "cuda_options",
    "gist",
    "inspect",
    "load_runtime",
    "padded",
    "session_options",
]

Device = Literal["auto", "cuda", "cpu"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MAX_BATCH = 16  # images; the service's own default
# How the runtime's arena, CUDA, cuDNN and cuBLAS each say it; no exception class tells it apart.
OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|smaller than requested bytes|out of memory|alloc_failed"
    r"|memoryallocation",
    re.IGNORECASE,
)
# The one part that tells, in a line of a thousand characters of C++.
CUDA_FAILURE = re.compile(r"(CUDA|CUDNN|CUBLAS) failure \d+: [^;\n]+")
ERRORS_ONLY = 3  # ONNX Runtime's severity; its warning about a default for an input is by design
FATAL_ONLY = 4


class Engine:
    """One session on one model file; `load` builds it, `run` may be called from any thread."""

    def __init__(
        self,
        session: Any,
        model: Model,
        *,
        device: Device,
        failures: tuple[type[Exception], ...],
        sizes: Sequence[int] = (),
        warning: str | None = None,
    ) -> None:
        """
        `failures` are the runtime's own exceptions, `warning` why `auto` is not on CUDA.

        `sizes`, rising, are the only batches that will run; without any, each runs as it comes.
        """
        self._session = session
        self._failures = failures
        self.sizes = tuple(sizes)
        self.model = model
        self.device_requested: Device = device
        self.provider: str = session.get_providers()[0]
        self.warning = warning

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: Device = "auto",
        threads: int = 0,
        max_batch: int = MAX_BATCH,
        gpu_memory_limit: int = 0,
    ) -> Self:
        """
        Load a model file and prove that it answers right on the device.

        `threads` 0 takes all usable cores of the CPU.  For CUDA are `max_batch`, the most images
        in one run (more are split), and `gpu_memory_limit` in bytes, 0 for none.  Raises
        `RuntimeMissing`, `ModelUnusable` or `ProviderUnusable`.
        """
        with model_file.unchanged(path):
            return cls._load(path, device, threads, batch_sizes(max_batch), gpu_memory_limit)

    @classmethod
    def _load(
        cls, path: Path, device: Device, threads: int, sizes: Sequence[int], memory_limit: int
    ) -> Self:
        """On CUDA if it is wanted and works, else on the CPU."""
        sha256 = model_file.checksum(path)
        runtime = load_runtime()
        warning = None
        if device != "cpu":
            try:
                return cls._load_cuda(runtime, path, sha256, device, sizes, memory_limit)
            except ProviderUnusable as error:
                if device == "cuda":
                    raise
                # Without a driver and without the GPU runtime nobody expected a GPU.
                if CUDA in runtime.get_available_providers() or NVIDIA_DRIVER.exists():
                    warning = str(error)
        options = session_options(runtime, threads or cpu_quota())
        session = _session(runtime, path, options, [CPU])
        model = _model(path, sha256, session)
        engine = cls(session, model, device=device, failures=_failures(runtime), warning=warning)
        engine.check()
        return engine

    @classmethod
    def _load_cuda(
        cls,
        runtime: ModuleType,
        path: Path,
        sha256: str,
        device: Device,
        sizes: Sequence[int],
        memory_limit: int,
    ) -> Self:
        """The docstring's four steps; `ProviderUnusable` names the one that failed."""
        if CUDA not in runtime.get_available_providers():
            raise ProviderUnusable(
                "CUDA is not in use because the installed ONNX Runtime is built without it; "
                "install the extra gpu in place of cpu (DEVICE=gpu scripts/install run)."
            )
        failures = _failures(runtime)
        # The runtime prints and logs its troubles in many lines; ours is one, with their gist.
        runtime.set_default_logger_severity(FATAL_ONLY)
        options = session_options(runtime, threads=1)
        options.log_severity_level = FATAL_ONLY  # the errors that it logs, it raises too
        providers = [(CUDA, cuda_options(memory_limit)), CPU]
        troubles = io.StringIO()
        try:
            with redirect_stdout(troubles):
                runtime.preload_dlls()
                session = runtime.InferenceSession(path, options, providers=providers)
        except failures as error:
            raise _cuda_failed("creating the session", error) from error
        finally:
            runtime.set_default_logger_severity(ERRORS_ONLY)
        if session.get_providers()[0] != CUDA:
            raise _cuda_failed("loading CUDA", troubles.getvalue() or _driver_trouble())
        session.disable_fallback()
        model = _model(path, sha256, session)
        engine = cls(session, model, device=device, failures=failures, sizes=sizes)
        # The check runs a single image: before the warm-up, the arena would begin with the least.
        engine.warm()
        try:
            engine.check()
        except ModelUnusable as error:
            raise _cuda_failed("the start-up image", error) from error
        return engine

    def run(self, images: NDArray[np.uint8], crops: int) -> NDArray[np.float32]:
        """uint8 `(N, 256, 256, 3)` to float32 `(N, classes)`, the mean over `crops` views."""
        return self._outputs(images, crops, ["probabilities"])[0]

    def run_views(self, images: NDArray[np.uint8], crops: int) -> NDArray[np.float32]:
        """`run` that also tells what it is the mean of: float32 `(N, 1 + V, classes)`, the mean
        first, then the V views in the order of the model file; they come of the same run."""
        mean, views = self._outputs(images, crops, ["probabilities", "view_probabilities"])
        return np.concatenate([mean[:, np.newaxis], views], axis=1)

    def _outputs(
        self, images: NDArray[np.uint8], crops: int, names: list[str]
    ) -> list[NDArray[np.float32]]:
        """What one run gives under these names; one for each part, if there are more images than
        the largest of `sizes`."""
        if not self.sizes:
            return self._run(images, crops, names)
        step = self.sizes[-1]
        parts = [images[i : i + step] for i in range(0, max(1, len(images)), step)]
        answers = [
            [output[: len(part)] for output in self._run(padded(part, self.sizes), crops, names)]
            for part in parts
        ]
        return (
            answers[0] if len(answers) == 1 else [*map(np.concatenate, zip(*answers, strict=True))]
        )

    def _run(
        self, images: NDArray[np.uint8], crops: int, names: list[str]
    ) -> list[NDArray[np.float32]]:
        feeds = {"images": images, "crops": np.array(crops, np.int64)}
        outputs: list[NDArray[np.float32]] = self._session.run(names, feeds)
        return outputs

    def warm(self) -> None:
        """Run each size with each choice of crops, the largest first, or `ProviderUnusable`."""
        side = self.model.golden_image().shape[1:]
        for size in reversed(self.sizes):
            for views in sorted(self.model.crops.values(), reverse=True):
                try:
                    self.run(np.zeros((size, *side), np.uint8), views)
                except self._failures as error:
                    raise _cuda_failed(f"warming up a batch of {size}", error) from error

    def check(self) -> None:
        """Compare the start-up image's answer with the one in the file, or `ModelUnusable`."""
        golden, path = self.model.golden, self.model.path
        views = self.model.crops.get("ten", max(self.model.crops.values()))
        image = self.model.golden_image()
        try:
            answer = self.run(image, views)[0]
        except self._failures as error:
            raise ModelUnusable(
                f"The model file {path} loads but does not run ({gist(error)}); export it again."
            ) from error
        if answer.shape != (len(self.model.labels),):
            raise _classes_differ(path, len(self.model.labels), answer.size)
        try:
            tolerance = float(golden["tolerance"])
            expected = {int(row["index"]): float(row["probability"]) for row in golden["classes"]}
            apart = max(abs(float(answer[index]) - p) for index, p in expected.items())
            best = max(expected, key=lambda index: expected[index])
            behind = float(answer.max() - answer[best])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelUnusable(
                f"The model file {path} has no usable metadata entry 'golden'; export it again."
            ) from error
        # Negated, so that NaN fails too.
        if not (apart <= tolerance and behind <= tolerance):
            raise ModelUnusable(
                f"The model file {path} answers its own start-up image wrongly on "
                f"{self.provider}: a probability is {max(apart, behind):.2g} off where "
                f"{tolerance:.2g} is allowed; export it again."
            )


def inspect(path: Path) -> Model:
    """What a model file says about itself, its checksum verified, its network not run."""
    sha256 = model_file.checksum(path)
    runtime = load_runtime()
    options = session_options(runtime, threads=1)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _model(path, sha256, _session(runtime, path, options, [CPU]))


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... and `max_batch` itself, rising."""
    return *(2**power for power in range((max_batch - 1).bit_length())), max_batch


def padded(images: NDArray[np.uint8], sizes: Sequence[int]) -> NDArray[np.uint8]:
    """`(N, 256, 256, 3)` with black images added up to the next of `sizes`, which rise; a copy,
    unless N is one of them."""
    size = sizes[bisect_left(sizes, len(images))]
    if len(images) == size:
        return images
    filled = np.zeros((size, *images.shape[1:]), images.dtype)
    filled[: len(images)] = images
    return filled


def load_runtime() -> ModuleType:
    """ONNX Runtime, imported only when it is needed, so that its absence is one clear sentence."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        raise RuntimeMissing(
            "Both onnxruntime and onnxruntime-gpu are installed, and they overwrite each other's "
            "files; run pip uninstall onnxruntime onnxruntime-gpu, then install one of the extras "
            "cpu and gpu (scripts/install run makes a new .venv)."
        )
    # Official builds report to their maker, unless this is set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeMissing(
            "ONNX Runtime is not installed; install the extra cpu, or gpu where there is an NVIDIA "
            "GPU (scripts/install run chooses)."
        ) from error


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _failures(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """What the runtime raises: classes of its own, without a common base, and Python's."""
    state = import_module(f"{runtime.__name__}.capi.onnxruntime_pybind11_state")
    own = [
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    return *own, RuntimeError, ValueError, OSError


def session_options(runtime: ModuleType, threads: int) -> Any:
    """Session options, set on purpose."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is a chain
    options.log_severity_level = ERRORS_ONLY
    # An idle pool that spins takes the cores that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def cuda_options(memory_limit: int = 0) -> dict[str, str]:
    """
    The CUDA provider's options; `memory_limit` in bytes, 0 for none.

    The search for convolutions: DEFAULT is slow, EXHAUSTIVE searches anew for every batch size.
    """
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return options | ({"gpu_mem_limit": str(memory_limit)} if memory_limit else {})


def _session(runtime: ModuleType, path: Path, options: Any, providers: list[Any]) -> Any:
    """A session; by path, since from bytes the whole file would lie in memory once more."""
    try:
        return runtime.InferenceSession(path, options, providers=providers)
    except _failures(runtime) as error:
        raise ModelUnusable(
            f"The model file {path} cannot be loaded by ONNX Runtime {runtime.__version__} "
            f"({gist(error)}); upgrade it, or export the model again."
        ) from error


def _model(path: Path, sha256: str, session: Any) -> Model:
    """The record in the file, and that the graph keeps its side of the contract."""
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ModelUnusable(
            f"The model file {path} has metadata that is no text; export it again."
        ) from error
    model = model_file.read(path, sha256, metadata)
    # A default makes `crops` an overridable initialiser to the runtime, not an input.
    inputs = session.get_inputs() + session.get_overridable_initializers()
    outputs = {output.name: output.shape for output in session.get_outputs()}
    if {"images", "crops"} - {given.name for given in inputs} or "probabilities" not in outputs:
        raise ModelUnusable(
            f"The model file {path} lacks an input (images, crops) or the output probabilities; "
            "export it again."
        )
    classes = outputs["probabilities"][-1]
    if isinstance(classes, int) and classes != len(model.labels):
        raise _classes_differ(path, len(model.labels), classes)
    return model


def _classes_differ(path: Path, labels: int, classes: int) -> ModelUnusable:
    return ModelUnusable(
        f"The model file {path} has {labels} labels for {classes} classes; export it again with "
        "a matching --labels file."
    )


def _cuda_failed(step: str, reason: object) -> ProviderUnusable:
    if OUT_OF_MEMORY.search(str(reason)):
        return ProviderUnusable(
            f"CUDA is not in use: {step} ran out of GPU memory; lower ALEXNET_MAX_BATCH / "
            "--max-batch, or raise ALEXNET_GPU_MEMORY_LIMIT / --gpu-memory-limit (0 is no limit) "
            "where other programs leave room, or choose --device cpu."
        )
    return ProviderUnusable(
        f"CUDA is not in use: {step} failed ({gist(reason)}); check that nvidia-smi answers "
        "with driver 580 or later, and that the extra gpu is wholly installed (DEVICE=gpu "
        "scripts/install run), or choose --device cpu."
    )


def _driver_trouble() -> str:
    """Why CUDA is not in use though its libraries are there: most often there is no driver."""
    try:
        CDLL("libcuda.so.1")
    except OSError as error:  # what the runtime has met too, but only logged
        return f"no NVIDIA driver: {error}"
    return "the runtime fell back to the CPU"


def gist(reason: object) -> str:
    """What a foreign message comes to, fit to stand inside a sentence."""
    if found := CUDA_FAILURE.search(str(reason)):
        return found[0].strip()
    # The runtime frames what it prints before it falls back in lines of asterisks.
    lines = [line for line in str(reason).strip().splitlines() if not line.startswith("*")]
    return lines[0].rstrip(".") if lines else type(reason).__name__
