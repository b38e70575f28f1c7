"""
uint8 images -> float32 probabilities, in ONNX Runtime.  The device is the operator's choice.

Some execution providers run only batches of one size, padded up to it (`fixed_size` in
providers.py).  It runs once at load, so that what does not fit into the memory is known before the
service is ready.

On a CPU there are two sessions on the same file: one whose runs take all cores, and one whose runs
take the core that calls, so that each core can run a batch of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.cgroups import cpu_quota
from service.errors import ModelUnusable, ProviderUnusable
from service.inference import model_file
from service.inference.model_file import Label, Model
from service.inference.providers import (
    CPU,
    LAYERS,
    Provider,
    candidates,
    create_session,
    devices,
    failures,
    gist,
    load_runtime,
    placement,
    session_options,
)

__all__ = ["Engine", "Label", "Model", "OutputsRun", "inspect", "padded"]

MAX_BATCH = 16  # images; the service's own default
# Bytes of a model file that two sessions may hold, each with weights of its own.
LARGEST_TWICE = 64 * 2**20


class Engine:
    """One model file in sessions; `load` builds it, `run` may be called from any thread."""

    def __init__(
        self,
        session: Any,
        model: Model,
        provider: Provider,
        *,
        device: str,
        failures: tuple[type[Exception], ...],
        fixed_size: int = 0,
        one_core: Any = None,
        cores: int = 1,
        nodes: Mapping[str, int] = {},
    ) -> None:
        """
        `device` is the operator's choice, `failures` are the runtime's own exceptions; `one_core`
        is a second session whose runs take one core, of which `cores` may be under way at once.

        `fixed_size` is the only batch that will run, in images; with 0, each runs as it comes.
        `nodes` are how many of the network's each provider computes, if there is more than one.
        """
        self._session = session
        self._one_core = one_core or session
        self._failures = failures
        self.cores = cores
        self.fixed_size = fixed_size
        self.model = model
        self.device_requested = device
        self.execution_provider = provider
        self.nodes = nodes
        self.warning: str | None = (
            None  # why another provider computes than people expect, or slowly
        )

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what computes."""
        return self.execution_provider.name

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        threads: int = 0,
        max_batch: int = MAX_BATCH,
        gpu_memory_limit: int = 0,
        gpu: int | None = None,
    ) -> Self:
        """
        Load a model file, and prove that it answers right on the first of the device's providers
        that works.

        `threads` 0 takes all usable cores of the CPU.  For a GPU are `max_batch`, the maximum of
        images in one run (more are split), `gpu_memory_limit` in bytes, 0 for none, and `gpu`, its
        number, with which no CPU will do.  Raises `RuntimeMissing`, `ModelUnusable` or
        `ProviderUnusable`.
        """
        with model_file.unchanged(path):
            sha256 = model_file.checksum(path)
            runtime = load_runtime()
            warning = None
            for provider in candidates(device, gpu):
                options = provider.options(gpu_memory_limit, gpu)
                cores = _cores(provider, path, threads)
                try:
                    # Side by side: each takes 50 ms of one core.
                    with ThreadPoolExecutor(1) as pool:
                        one_core = (
                            pool.submit(_session, runtime, CPU, path, 1, {}) if cores > 1 else None
                        )
                        session = _session(runtime, provider, path, threads, options)
                    model = _model(path, sha256, session)
                    placed = {} if provider == CPU else placement(session)
                    slow = _misplaced(provider, placed, model)
                    engine = cls(
                        session,
                        model,
                        provider,
                        device=device,
                        failures=failures(runtime),
                        fixed_size=max_batch if provider.fixed_size else 0,
                        one_core=one_core.result() if one_core else None,
                        cores=cores,
                        nodes={name: nodes.total() for name, nodes in placed.items()},
                    )
                    engine.prove()
                except ProviderUnusable as error:
                    if device != "auto" or gpu is not None:
                        raise
                    # Without its driver and its runtime nobody expects the provider.
                    if provider.has_driver or provider.name in runtime.get_available_providers():
                        warning = warning or str(error)
                else:
                    engine.warning = warning or slow
                    return engine
        raise ValueError(f"device {device!r} is not one of {', '.join(devices())}")

    def run(
        self, images: NDArray[np.uint8], crops: int, *, one_core: bool = False
    ) -> NDArray[np.float32]:
        """uint8 `(N, 256, 256, 3)` to float32 `(N, classes)`, the mean over `crops` views, on all
        cores or on one."""
        return self.outputs(["probabilities"], images, crops, one_core=one_core)[0]

    def outputs(
        self,
        names: Sequence[str],
        images: NDArray[np.uint8],
        crops: int,
        *,
        one_core: bool = False,
    ) -> list[NDArray[np.float32]]:
        """
        The network's outputs of these names, all from the same run: float32, `probabilities` as
        from `run`, `view_probabilities` `(N, V, classes)`, `features` `(N, model.features)`.
        """
        # From several runs if there are more images than fit into one.
        if not (step := self.fixed_size):
            return self._run(images, crops, names, one_core)
        parts = [images[i : i + step] for i in range(0, max(1, len(images)), step)]
        runs = [
            [
                output[: len(part)]
                for output in self._run(padded(part, step), crops, names, one_core)
            ]
            for part in parts
        ]
        return runs[0] if len(runs) == 1 else [*map(np.concatenate, zip(*runs, strict=True))]

    def _run(
        self, images: NDArray[np.uint8], crops: int, names: Sequence[str], one_core: bool
    ) -> list[NDArray[np.float32]]:
        feeds = {"images": images, "crops": np.array(crops, np.int64)}
        session = self._one_core if one_core else self._session
        outputs: list[NDArray[np.float32]] = session.run(names, feeds)
        return outputs

    def prove(self) -> None:
        """
        Warm up, then check.

        A wrong answer on the CPU is the file's fault, `ModelUnusable`; elsewhere it is the
        provider's, `ProviderUnusable`.
        """
        # The check runs a single image: before the warm-up, the memory arena would begin small.
        self.warm()
        try:
            self.check()
        except ModelUnusable as error:
            if self.execution_provider == CPU:
                raise
            raise self.execution_provider.failed("the start-up image", error) from error

    def warm(self) -> None:
        """Run `fixed_size` with each choice, most crops first; raises `ProviderUnusable`."""
        if not (size := self.fixed_size):
            return
        shape = self.model.golden_image().shape[1:]
        for views in sorted(self.model.crops.values(), reverse=True):
            try:
                self.run(np.zeros((size, *shape), np.uint8), views)
            except self._failures as error:
                step = f"warming up a batch of {size}"
                raise self.execution_provider.failed(step, error) from error

    def check(self) -> None:
        """Compare the start-up image's answer with the one in the file; raises `ModelUnusable`."""
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
            error_of_known = max(abs(float(answer[i]) - p) for i, p in expected.items())
            best = max(expected, key=lambda index: expected[index])
            lead_of_others = float(answer.max() - answer[best])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelUnusable(
                f"The model file {path} has no usable metadata entry 'golden'; export it again."
            ) from error
        # Negated, so that NaN fails too.
        if not (error_of_known <= tolerance and lead_of_others <= tolerance):
            raise ModelUnusable(
                f"The model file {path} answers its own start-up image wrongly on "
                f"{self.provider}: a probability is {max(error_of_known, lead_of_others):.2g} off "
                f"where {tolerance:.2g} is allowed; export it again."
            )


@dataclass(frozen=True)
class OutputsRun:
    """Runs an engine for some of the network's outputs; what equal ones run can be one batch."""

    engine: Engine
    names: tuple[str, ...]

    def __call__(
        self, images: NDArray[np.uint8], crops: int, *, one_core: bool = False
    ) -> list[tuple[NDArray[np.float32], ...]]:
        """`Engine.outputs`, as a tuple for each image."""
        outputs = self.engine.outputs(self.names, images, crops, one_core=one_core)
        return [*zip(*outputs, strict=True)]


def inspect(path: Path) -> Model:
    """The record in a model file; its checksum is verified, its network is not run."""
    sha256 = model_file.checksum(path)
    runtime = load_runtime()
    options = session_options(runtime, threads=1)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _model(path, sha256, _cpu_session(runtime, path, options))


def padded(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`(N, 256, 256, 3)`, N at most `size`, with black images added up to it; a copy, unless N is
    `size`."""
    if len(images) == size:
        return images
    filled = np.zeros((size, *images.shape[1:]), images.dtype)
    filled[: len(images)] = images
    return filled


def _session(
    runtime: ModuleType, provider: Provider, path: Path, threads: int, options: dict[str, str]
) -> Any:
    if provider == CPU:
        return _cpu_session(runtime, path, session_options(runtime, CPU, threads))
    return create_session(runtime, provider, path, threads, options)


def _misplaced(provider: Provider, placed: Mapping[str, Counter[str]], model: Model) -> str | None:
    """`ProviderUnusable` where the CPU would compute a layer for a GPU; of an int8 file, which no
    GPU has 8-bit kernels for, a warning."""
    if not provider.gpu:
        return None
    if model.precision == "int8":
        return (
            f"{model.path} is int8, which is for CPUs: {provider.label} computes it in float, with "
            f"copies to the CPU and back. Make an fp16 file of it: alexnet-export --variant "
            f"{model.variant} --weights {model.path} --precision fp16 -o alexnet-fp16.onnx"
        )
    on_cpu = placed.get(CPU.name, Counter())
    if left := sorted(LAYERS & on_cpu.keys()):
        layers = ", ".join(f"{on_cpu[operator]} {operator}" for operator in left)
        raise ProviderUnusable(
            f"{provider.label} is not in use: the CPU would compute {layers} of the network's "
            "layers; export the model again, or choose --device cpu."
        )
    return None


def _cores(provider: Provider, path: Path, threads: int) -> int:
    """How many runs may be under way at once, each on one core."""
    if provider != CPU or path.stat().st_size > LARGEST_TWICE:
        return 1
    return threads or cpu_quota()


def _cpu_session(runtime: ModuleType, path: Path, options: Any) -> Any:
    """
    A session on the CPU, where any failure is the file's: `ModelUnusable`.

    By path: with bytes, the whole file would lie in memory a second time.
    """
    try:
        return runtime.InferenceSession(path, options, providers=[CPU.name])
    except failures(runtime) as error:
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
    # A default makes `crops` an overridable initialiser to the runtime, not an input.
    inputs = session.get_inputs() + session.get_overridable_initializers()
    outputs = {output.name: output.shape for output in session.get_outputs()}
    if {"images", "crops"} - {each.name for each in inputs} or "probabilities" not in outputs:
        raise ModelUnusable(
            f"The model file {path} lacks an input (images, crops) or the output probabilities; "
            "export it again."
        )
    features = outputs.get("features", [0])[-1]
    width = features if isinstance(features, int) else 0
    model = model_file.read(path, sha256, metadata, features=width)
    classes = outputs["probabilities"][-1]
    if isinstance(classes, int) and classes != len(model.labels):
        raise _classes_differ(path, len(model.labels), classes)
    return model


def _classes_differ(path: Path, labels: int, classes: int) -> ModelUnusable:
    return ModelUnusable(
        f"The model file {path} has {labels} labels for {classes} classes; export it again with "
        "a matching --labels file."
    )
