"""
What an operator can choose: `ALEXNET_*` in the environment, or the flag of the same name.

Read once, at the door; the inside gets plain values.  Every setting has a default that works,
a range, a unit and a reason.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsInvalid

PREFIX = "ALEXNET_"
BUNDLED = Path(__file__).parent / "bundled" / "alexnet.onnx"


class Settings(BaseSettings):
    """The service's settings; a flag wins over the environment, that over the default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: Path = Field(
        default=BUNDLED,
        description="The model file, as alexnet-export writes it; by default the bundled one.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto",
        description="Where to compute: cuda refuses to start without a working GPU, auto falls "
        "back to the CPU and says so.",
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on; 0.0.0.0 opens the service to the network.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="The TCP port; 0 lets the system choose one."
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads for the network on the CPU; 0 takes all cores of our quota.",
    )
    max_batch: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Images per run of the network; each may be ten crops, so memory grows fast.",
    )
    max_delay: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Seconds to wait for anybody before a batch starts; with 0 only for company "
        "that is on its way, 25 ms at most, and batches still form while the engine is busy.",
    )
    max_queue: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Images accepted and unanswered; beyond it we answer 503 at once, since a "
        "longer wait helps nobody.",
    )
    max_files: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Pictures per request; they must fit into the queue together.",
    )
    max_body: int = Field(
        default=20 * 2**20,
        ge=1,
        description="Bytes per request body, all its pictures together; they are kept in memory.",
    )
    max_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Pixels per picture, checked before decoding; each takes up to 4 bytes, "
        "several times over.",
    )
    max_aspect_ratio: float = Field(
        default=32.0,
        ge=1.0,
        le=1000.0,
        description="Long side over short side; scaling a ribbon's short side to 256 would "
        "multiply its memory.",
    )
    scaled_decoding: bool = Field(
        default=False,
        description="Let libjpeg shrink large JPEGs while it decodes them: several times as fast "
        "at 12 megapixels, but up to 11 grey levels away, which changes 1 to 3 best classes in "
        "100.",
    )
    timeout: float = Field(
        default=30.0,
        gt=0.0,
        le=3600.0,
        description="Seconds from a request's arrival to its answer; later is 504.",
    )
    shutdown_timeout: float = Field(
        default=30.0,
        ge=0.0,
        le=3600.0,
        description="Seconds that accepted work may take to finish after SIGTERM.",
    )
    gpu_memory_limit: int = Field(
        default=0,
        ge=0,
        description="Bytes of GPU memory that the runtime may take; 0 sets no limit.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe message that is logged."
    )

    @model_validator(mode="after")
    def _a_full_request_fits_into_the_queue(self) -> Self:
        if self.max_queue < self.max_files:
            raise ValueError(
                f"{spelled('max_queue')} is {self.max_queue}, less than {spelled('max_files')} "
                f"({self.max_files}), so a full request could never be accepted; raise the first "
                "or lower the second"
            )
        return self


def spelled(field: str) -> str:
    """A field's two names, as operators know them: `ALEXNET_MAX_BATCH / --max-batch`."""
    return f"{PREFIX}{field.upper()} / --{field.replace('_', '-')}"


def load_settings(**overrides: Any) -> Settings:
    """
    Settings from the flags given (those that are None were not) and the environment.

    Raises `SettingsInvalid` with one sentence that names each setting at fault.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsInvalid(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    """One sentence from pydantic's list."""
    faults = []
    for fault in error.errors(include_url=False):
        reason = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # a rule between settings names them itself
            faults.append(reason)
            continue
        field = str(fault["loc"][0])
        rule = reason[:1].lower() + reason[1:]
        faults.append(f"{spelled(field)} is {fault['input']!r}: {rule}")
    return "; ".join(faults) + "."
