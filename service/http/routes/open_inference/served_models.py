"""
The two served models, as the protocol describes them.  Metadata, configuration, statistics.

Names and shapes are those of the Open Inference Protocol; `config` and `stats` are Triton's own,
with the fields of its `ModelConfig` and of its statistics extension.
"""

from dataclasses import dataclass
from typing import Any, Final

from service.http.state import ServiceState
from service.inference.limits import DEFAULT_TOP
from service.telemetry.metrics import Statistics
from service.telemetry.request_record import VERSION, ModelNames

# An output of both models, where a request asks for it.  Metadata and configuration do not list it:
# Triton's image_client takes no model with two outputs, and perf_analyzer asks for all of them.
FEATURES: Final = "features"
# Of both models.  Not an ensemble, as Triton would have it: clients look for the steps of one.
PLATFORM: Final = "onnxruntime_onnx"


@dataclass(frozen=True)
class Tensor:
    """What goes in or comes out; `row` is the shape without the batch."""

    name: str
    datatype: str
    row: tuple[int, ...]

    @property
    def shape(self) -> list[int]:
        """With the batch, whose size is free."""
        return [-1, *self.row]

    @property
    def config(self) -> dict[str, Any]:
        """As in Triton's configuration, where BYTES is called STRING."""
        kind = {"BYTES": "STRING"}.get(self.datatype, self.datatype)
        return {"name": self.name, "data_type": f"TYPE_{kind}", "dims": list(self.row)}


@dataclass(frozen=True)
class Served:
    """A model by its name; each has one input and one output."""

    name: str
    input: Tensor
    output: str
    default_classes: int | None  # None answers with all probabilities

    def output_of(self, classes: int) -> Tensor:
        """The output of a network that tells so many classes apart."""
        if self.default_classes is None:
            return Tensor(self.output, "FP32", (classes,))
        return Tensor(self.output, "BYTES", (min(classes, self.default_classes),))


def models(name: str) -> dict[str, Served]:
    """Both models by their names, of which `name` is the first."""
    names = ModelNames(name)
    pixels = Tensor("images", "UINT8", (256, 256, 3))
    image = Tensor("image", "BYTES", (1,))
    both = (
        Served(names.tensor, pixels, "probabilities", None),
        Served(names.image, image, "classes", DEFAULT_TOP),
    )
    return {served.name: served for served in both}


def metadata(served: Served, state: ServiceState) -> dict[str, Any]:
    """What the protocol tells of a model."""
    output = served.output_of(len(state.engine.model.labels))
    return {
        "name": served.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_described(served.input)],
        "outputs": [_described(output)],
    }


def config(served: Served, state: ServiceState) -> dict[str, Any]:
    """Triton's `ModelConfig`; rows count as a batch, so `dims` are without them."""
    model, settings = state.engine.model, state.settings
    parameters = {
        "crops": ",".join(model.crops),
        "variant": model.variant,
        "precision": model.precision,
        "version": model.version,
        "provider": state.engine.provider,
        FEATURES: str(model.features),
    }
    pixels = served.name == state.names.tensor
    return {
        "name": served.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": settings.max_files,  # whose rows fit into the queue together
        "input": [
            served.input.config | {"format": "FORMAT_NHWC" if pixels else "FORMAT_NONE"},
        ],
        "output": [served.output_of(len(model.labels)).config | {"label_filename": ""}],
        "dynamic_batching": {
            "preferred_batch_size": [settings.max_batch],
            "max_queue_delay_microseconds": round(settings.max_delay * 1e6),
        },
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }


def statistics(served: Served, its: Statistics) -> dict[str, Any]:
    """One entry of Triton's `model_stats`; durations are in nanoseconds."""
    none = _spent(0, 0)
    return {
        "name": served.name,
        "version": VERSION,
        "last_inference": its.last,
        "inference_count": its.inferences,
        "execution_count": its.executions,
        "inference_stats": {
            "success": _spent(its.success, its.success_ns),
            "fail": _spent(its.failure, its.failure_ns),
            "queue": _spent(its.success, its.queue_ns),
            "compute_input": _spent(its.success, its.input_ns),
            "compute_infer": _spent(its.success, its.infer_ns),
            "compute_output": _spent(its.success, its.output_ns),
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _spent(runs, 0),  # not told by batch
                "compute_infer": _spent(runs, nanoseconds),
                "compute_output": _spent(runs, 0),
            }
            for size, (runs, nanoseconds) in sorted(its.batches.items())
        ],
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _spent(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}
