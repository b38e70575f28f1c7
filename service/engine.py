"""
uint8 pictures -> float32 probabilities, in ONNX Runtime, on the device that was asked for.

A CUDA session that silently computes on the CPU is the trap here: the runtime lists CUDA, accepts
it, and falls back without an error, while loading or as late as in the first run.  So a session
counts as CUDA's only after four steps: CUDA is offered; the session is created; CUDA is its first
provider; with fallback switched off, a real picture gives the answer stored in the model file.
"""

import io
import math
import os
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service import model_file
from service.errors import ModelUnusable, ProviderUnusable, RuntimeMissing
from service.model_file import Label, Model

__all__ = ["CPU", "CUDA", "Device", "Engine", "Label", "Model", "inspect", "usable_cores"]

Device = Literal["auto", "cuda", "cpu"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
CGROUPS = Path("/sys/fs/cgroup")
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
        warning: str | None = None,
    ) -> None:
        """`failures` are the runtime's own exceptions, `warning` why `auto` is not on CUDA."""
        self._session = session
        self._failures = failures
        self.model = model
        self.device_requested: Device = device
        self.provider: str = session.get_providers()[0]
        self.warning = warning

    @classmethod
    def load(
        cls, path: Path, *, device: Device = "auto", threads: int = 0, gpu_memory_limit: int = 0
    ) -> Self:
        """
        Load a model file and prove that it answers right on the device.

        `threads` 0 takes all usable cores; `gpu_memory_limit` is in bytes, 0 for none.  Raises
        `RuntimeMissing`, `ModelUnusable` or `ProviderUnusable`.
        """
        sha256 = model_file.checksum(path)
        runtime = _runtime()
        warning = None
        if device != "cpu":
            try:
                return cls._load_cuda(runtime, path, sha256, device, gpu_memory_limit)
            except ProviderUnusable as error:
                if device == "cuda":
                    raise
                # Without a driver and without the GPU runtime nobody expected a GPU.
                if CUDA in runtime.get_available_providers() or NVIDIA_DRIVER.exists():
                    warning = str(error)
        options = _options(runtime, threads or usable_cores())
        session = _session(runtime, path, options, [CPU])
        model = _model(path, sha256, session)
        engine = cls(session, model, device=device, failures=_failures(runtime), warning=warning)
        engine.check()
        return engine

    @classmethod
    def _load_cuda(
        cls, runtime: ModuleType, path: Path, sha256: str, device: Device, memory_limit: int
    ) -> Self:
        """The docstring's four steps; `ProviderUnusable` names the one that failed."""
        if CUDA not in runtime.get_available_providers():
            raise ProviderUnusable(
                "CUDA is not in use because the installed ONNX Runtime is built without it; "
                "replace onnxruntime: pip install 'alexnet-service[gpu]'."
            )
        failures = _failures(runtime)
        # The runtime prints and logs its troubles in many lines; ours is one, and names the first.
        runtime.set_default_logger_severity(FATAL_ONLY)
        troubles = io.StringIO()
        try:
            with redirect_stdout(troubles):
                runtime.preload_dlls()
            provider = CUDA, _cuda_options(memory_limit)
            session = runtime.InferenceSession(
                path, _options(runtime, threads=1), providers=[provider, CPU]
            )
        except failures as error:
            raise _cuda_failed("creating the session", error) from error
        finally:
            runtime.set_default_logger_severity(ERRORS_ONLY)
        if session.get_providers()[0] != CUDA:
            reason = troubles.getvalue().strip() or "the runtime fell back to the CPU"
            raise _cuda_failed("loading CUDA", reason)
        session.disable_fallback()
        engine = cls(session, _model(path, sha256, session), device=device, failures=failures)
        try:
            engine.check()
        except ModelUnusable as error:
            raise _cuda_failed("the start-up picture", error) from error
        return engine

    def run(self, images: NDArray[np.uint8], crops: int) -> NDArray[np.float32]:
        """uint8 `(N, 256, 256, 3)` to float32 `(N, classes)`, the mean over `crops` views."""
        feeds = {"images": images, "crops": np.array(crops, np.int64)}
        probabilities: NDArray[np.float32] = self._session.run(["probabilities"], feeds)[0]
        return probabilities

    def check(self) -> None:
        """Compare the start-up picture's answer with the one in the file, or `ModelUnusable`."""
        golden, path = self.model.golden, self.model.path
        views = self.model.crops.get("ten", max(self.model.crops.values()))
        picture = self.model.golden_picture()
        try:
            answer = self.run(picture, views)[0]
        except self._failures as error:
            raise ModelUnusable(
                f"The model file {path} loads but does not run ({_first_line(error)}); "
                "export it again."
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
                f"The model file {path} answers its own start-up picture wrongly on "
                f"{self.provider}: a probability is {max(apart, behind):.2g} off where "
                f"{tolerance:.2g} is allowed; export it again."
            )


def inspect(path: Path) -> Model:
    """What a model file says about itself, its checksum verified, its network not run."""
    sha256 = model_file.checksum(path)
    runtime = _runtime()
    options = _options(runtime, threads=1)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _model(path, sha256, _session(runtime, path, options, [CPU]))


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """
    Cores that this process may really use: its CPU affinity, or its container's quota if less.

    `cgroups` is the root of the control groups, version 2 (`cpu.max`) or 1 (`cpu.cfs_quota_us`).
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    for quota, period in (
        _numbers(cgroups / "cpu.max"),
        _numbers(cgroups / "cpu/cpu.cfs_quota_us", cgroups / "cpu/cpu.cfs_period_us"),
    ):
        if quota > 0 and period > 0:
            cores = min(cores, math.ceil(quota / period))
    return max(1, cores)


def _numbers(*files: Path) -> tuple[int, int]:
    """Quota and period in microseconds; zeros where there is no file or no limit."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota), int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return 0, 0


def _runtime() -> ModuleType:
    """ONNX Runtime, imported only when it is needed, so that its absence is one clear sentence."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        raise RuntimeMissing(
            "Both onnxruntime and onnxruntime-gpu are installed, and they overwrite each other's "
            "files; run pip uninstall onnxruntime onnxruntime-gpu, then pip install "
            "'alexnet-service[cpu]' or 'alexnet-service[gpu]'."
        )
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeMissing(
            "ONNX Runtime is not installed; run pip install 'alexnet-service[cpu]', or "
            "'alexnet-service[gpu]' where there is an NVIDIA GPU."
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


def _options(runtime: ModuleType, threads: int) -> Any:
    """Session options, set on purpose."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is a chain
    options.log_severity_level = ERRORS_ONLY
    # An idle pool that spins takes the cores that decode the next pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _cuda_options(memory_limit: int) -> dict[str, str]:
    """CUDA's options: DEFAULT is slow and EXHAUSTIVE searches anew for every batch size."""
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
            f"({_first_line(error)}); upgrade it, or export the model again."
        ) from error


def _model(path: Path, sha256: str, session: Any) -> Model:
    """The record in the file, and that the graph keeps its side of the contract."""
    model = model_file.read(path, sha256, session.get_modelmeta().custom_metadata_map)
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
    return ProviderUnusable(
        f"CUDA is not in use: {step} failed ({_first_line(reason)}); check that nvidia-smi answers "
        "with driver 580 or later, and that pip install 'alexnet-service[gpu]' is complete, or "
        "choose --device cpu."
    )


def _first_line(reason: object) -> str:
    """The gist of a foreign message, fit to stand inside a sentence."""
    lines = str(reason).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(reason).__name__
