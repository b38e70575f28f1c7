"""
ONNX Runtime's execution providers, one row of `PROVIDERS` each.

A session that silently computes on the CPU is the trap here: the runtime lists CUDA, accepts it,
and falls back without an error, while loading or as late as in the first run, or for a few layers
alone.  So a session counts as a provider's only after five steps: the runtime offers the provider;
the session is created; the provider is its first; it has all layers of the network; with fallback
switched off, a real image gives the answer stored in the model file.  `create_session` takes the
first three, `Engine.load` the others.

The settings and flags, `alexnet doctor`, the page and Ray read the table, and `--help` reads the
settings: so nothing heavy is imported here before it is used.
"""

import io
import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from ctypes import CDLL
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from service.cgroups import cpu_quota
from service.errors import ProviderUnusable, RuntimeMissing

ERRORS_ONLY: Final = 3  # ONNX Runtime's severity; its warning about an input's default is expected
FATAL_ONLY: Final = 4
# What a GPU is there for: each that the CPU computes costs copies of its feature maps both ways.
LAYERS: Final = frozenset({"Conv", "Gemm", "LRN", "MatMul", "MaxPool"})
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Provider:
    """
    One execution provider.  Where it is unusable, `auto` takes the next row, and the device's own
    name refuses to start.
    """

    name: str  # ONNX Runtime's
    device: str  # the word for ALEXNET_DEVICE / --device
    label: str  # what people are shown
    distribution: str  # the package that brings it
    built_for: str  # what that package computes on
    extra: str  # this project's extra that installs the package

    gpu: bool = False  # computes on a GPU: one thread feeds it, and Ray must have assigned it
    # Runs only batches of one size, padded up to it, because each change of shape is expensive.
    fixed_size: bool = False
    driver: Path | None = None  # exists where the driver is loaded
    driver_maker: str = ""
    # From the limit of its memory, in bytes, 0 for none, and the GPU's number, None for the first,
    # to the provider's options.
    options: Callable[[int, int | None], dict[str, str]] = lambda memory_limit, gpu: {}
    prepare: Callable[[ModuleType], object] = lambda runtime: None  # before a session is created
    # Why a session is not on it though the runtime printed nothing.
    fallback_reason: Callable[[], str] = lambda: "the runtime fell back to the CPU"
    failure: re.Pattern[str] | None = None  # the part that matters of a message of the runtime
    out_of_memory: re.Pattern[str] | None = None  # in such a message; no exception class shows it
    no_such_gpu: re.Pattern[str] | None = None  # in such a message
    remedy: str = ""  # what to check after any other failure

    @property
    def has_driver(self) -> bool:
        return self.driver is not None and self.driver.exists()

    def driver_note(self) -> str:
        """For people who wonder why it is not in use."""
        return "there is a driver" if self.has_driver else f"no {self.driver_maker} driver here"

    def not_built_in(self) -> ProviderUnusable:
        """The error where the installed runtime does not offer it."""
        return ProviderUnusable(
            f"{self.label} is not in use because the installed ONNX Runtime is built without it; "
            f"install the extra {self.extra} in place of cpu (DEVICE={self.extra} scripts/install "
            "run)."
        )

    def failed(self, step: str, reason: object) -> ProviderUnusable:
        """The error after a failed step, with what to do about it."""
        if self.out_of_memory and self.out_of_memory.search(str(reason)):
            return ProviderUnusable(
                f"{self.label} is not in use: {step} ran out of GPU memory; lower "
                "ALEXNET_MAX_BATCH / --max-batch, or raise ALEXNET_GPU_MEMORY_LIMIT / "
                "--gpu-memory-limit (0 is no limit) where other programs leave room, or choose "
                "--device cpu."
            )
        if self.no_such_gpu and self.no_such_gpu.search(str(reason)):
            return ProviderUnusable(
                f"{self.label} is not in use: {step} failed ({gist(reason)}); choose another "
                "number with ALEXNET_GPU / --gpu (they begin at 0, and CUDA_VISIBLE_DEVICES leaves "
                "GPUs out), or leave it out for the first."
            )
        return ProviderUnusable(
            f"{self.label} is not in use: {step} failed ({gist(reason)}); {self.remedy}, or "
            "choose --device cpu."
        )


def _cuda_options(memory_limit: int, gpu: int | None) -> dict[str, str]:
    """cuDNN's newer heuristics, which HEURISTIC has named since ONNX Runtime 1.20; DEFAULT is its
    fallback.  TF32 is off: simulated, it moves the start-up image of a `caffe` network by 1.2e-3,
    where 1e-3 is allowed."""
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    chosen = {"gpu_mem_limit": memory_limit or None, "device_id": gpu}
    return options | {name: str(value) for name, value in chosen.items() if value is not None}


def _cuda_fallback_reason() -> str:
    """Why CUDA is not in use though its libraries are there: usually, there is no driver."""
    try:
        CDLL("libcuda.so.1")
    except OSError as error:  # the runtime has met it too, but only logged it
        return f"no NVIDIA driver: {error}"
    return "the runtime fell back to the CPU"


CUDA: Final = Provider(
    name="CUDAExecutionProvider",
    device="cuda",
    label="CUDA",
    distribution="onnxruntime-gpu",
    built_for="for NVIDIA GPUs and CPUs",
    extra="gpu",
    gpu=True,
    # The runtime keeps one cuDNN plan for each convolution (its issue 23006): each change of the
    # batch rebuilds all of them, some 20 ms, which is more than the largest batch takes.
    fixed_size=True,
    driver=NVIDIA_DRIVER,
    driver_maker="NVIDIA",
    options=_cuda_options,
    prepare=lambda runtime: runtime.preload_dlls(),
    fallback_reason=_cuda_fallback_reason,
    # In a line of a thousand characters of C++.
    failure=re.compile(r"(CUDA|CUDNN|CUBLAS) failure \d+: [^;\n]+|Invalid device ID: [^.\n]+"),
    # The words of the runtime's arena, CUDA, cuDNN and cuBLAS.
    out_of_memory=re.compile(
        r"failed to allocate memory|smaller than requested bytes|out of memory|alloc_failed"
        r"|memoryallocation",
        re.IGNORECASE,
    ),
    no_such_gpu=re.compile("invalid device (id|ordinal)", re.IGNORECASE),
    remedy="check that nvidia-smi answers with driver 580 or later, and that the extra gpu is "
    "wholly installed (DEVICE=gpu scripts/install run)",
)

CPU: Final = Provider(
    name="CPUExecutionProvider",
    device="cpu",
    label="the CPU",
    distribution="onnxruntime",
    built_for="for CPUs",
    extra="cpu",
)

# In the order in which `auto` tries them; the last one works everywhere.
PROVIDERS: tuple[Provider, ...] = (CUDA, CPU)


def devices() -> tuple[str, ...]:
    """The words that ALEXNET_DEVICE and --device take."""
    return "auto", *(provider.device for provider in PROVIDERS)


def candidates(device: str, gpu: int | None = None) -> tuple[Provider, ...]:
    """The providers to try for a device's word, in this order; with a GPU's number, no other."""
    return tuple(
        provider
        for provider in PROVIDERS
        if device in ("auto", provider.device) and (gpu is None or provider.gpu)
    )


def needs_gpu(device: str) -> bool:
    """Whether nothing but a GPU will do for a device's word."""
    return all(provider.gpu for provider in candidates(device))


def runtimes() -> dict[str, str]:
    """The packages that bring ONNX Runtime, of which one may be installed: what each is for."""
    return {provider.distribution: provider.built_for for provider in reversed(PROVIDERS)}


def load_runtime() -> ModuleType:
    """ONNX Runtime, imported only when it is needed, so that its absence is one clear sentence."""
    if len(installed := [name for name in runtimes() if any(distributions(name=name))]) > 1:
        extras = " and ".join(provider.extra for provider in reversed(PROVIDERS))
        raise RuntimeMissing(
            f"Both {' and '.join(installed)} are installed, and they overwrite each other's "
            f"files; run pip uninstall {' '.join(installed)}, then install one of the extras "
            f"{extras} (scripts/install run makes a new .venv)."
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


def failures(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """What the runtime raises: classes of its own, without a common base, and Python's."""
    state = import_module(f"{runtime.__name__}.capi.onnxruntime_pybind11_state")
    classes = [
        value
        for value in vars(state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    return *classes, RuntimeError, ValueError, OSError


def session_options(runtime: ModuleType, provider: Provider = CPU, threads: int = 0) -> Any:
    """Session options, set on purpose; `threads` 0 takes all usable cores of the CPU."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1 if provider.gpu else threads or cpu_quota()
    options.inter_op_num_threads = 1  # the graph is a chain
    options.log_severity_level = ERRORS_ONLY
    # An idle pool that spins takes the cores that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def create_session(
    runtime: ModuleType,
    provider: Provider,
    path: Path,
    threads: int,
    provider_options: dict[str, str],
) -> Any:
    """
    A session that is on `provider` first, its fallback switched off.

    `ProviderUnusable` names the step that failed.
    """
    if provider.name not in runtime.get_available_providers():
        raise provider.not_built_in()
    options = session_options(runtime, provider, threads)
    # The runtime prints and logs an error in many lines, and raises it too: one line is enough.
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    runtime.set_default_logger_severity(FATAL_ONLY)
    order = [(provider.name, provider_options), CPU.name]
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            provider.prepare(runtime)
            session = runtime.InferenceSession(path, options, providers=order)
    except failures(runtime) as error:
        raise provider.failed("creating the session", error) from error
    finally:
        runtime.set_default_logger_severity(ERRORS_ONLY)
    if session.get_providers()[0] != provider.name:
        reason = printed.getvalue() or provider.fallback_reason()
        raise provider.failed(f"loading {provider.label}", reason)
    session.disable_fallback()
    return session


def placement(session: Any) -> dict[str, Counter[str]]:
    """How many nodes of the network each provider computes in a session of `create_session`, by
    operator; those of both branches where the graph has some."""
    placed: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes = placed.setdefault(part.ep_name, Counter())
        nodes.update(node.op_type for node in part.get_nodes())
    return placed


def gist(reason: object) -> str:
    """The part of a foreign message that matters, fit to stand inside a sentence."""
    for provider in PROVIDERS:
        if provider.failure and (match := provider.failure.search(str(reason))):
            return match[0].strip()
    # The runtime frames what it prints before it falls back in lines of asterisks.
    lines = [line for line in str(reason).strip().splitlines() if not line.startswith("*")]
    return lines[0].rstrip(".") if lines else type(reason).__name__
