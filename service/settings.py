"""
All settings: `ALEXNET_*` variables, or flags of the same name.

They are read once, at the start; inner modules get plain values.  Every setting has a default that
works, a range, a unit and a reason.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import SettingsInvalid
from service.http.access import parse_rate
from service.inference.formats import BOUNDS, FORMAT_NAMES
from service.inference.limits import DecodeLimits, Limits
from service.inference.providers import CPU, candidates, devices

if TYPE_CHECKING:
    from service.inference.engine import Engine

    Device = str
else:
    Device = Literal[devices()]

PREFIX = "ALEXNET_"
BUNDLED = Path(__file__).parent / "bundled" / "alexnet.onnx"
SECRETS = ("api_keys",)  # never a flag, never in a message
SIZE = re.compile(r"\s*[0-9.]+\s*[A-Za-z]*\s*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as it stands in a path
PATH = re.compile(r"/[A-Za-z0-9._~:/-]{0,1023}")
# What Vertex AI tells a container, and then asks by; it wins over the variables of the same fields.
OF_VERTEX_AI = {
    "port": "AIP_HTTP_PORT",
    "predict_route": "AIP_PREDICT_ROUTE",
    "health_route": "AIP_HEALTH_ROUTE",
}
# Variables of `alexnet bench`, and of the tests.
OF_OTHERS = ("api_key", "test_containers", "test_kserve")


def _split(value: object) -> object:
    """`a, b` -> `("a", "b")`."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return value


def _rate(value: str | None) -> str | None:
    if value is not None:
        parse_rate(value)
    return value


def _bytes(value: object) -> object:
    """`20MB`, `256MiB` or a number of bytes -> bytes."""
    if not isinstance(value, str):
        return value
    try:
        if not SIZE.fullmatch(value):  # pydantic passes over what comes behind the unit
            raise ValueError
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValueError:  # ValidationError is one
        raise ValueError("expected a size such as 20MB, 256MiB, or a number of bytes") from None


def _formats(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or not set(names) <= set(FORMAT_NAMES):
        raise ValueError(f"expected one or several of {', '.join(FORMAT_NAMES)}")
    return names


def _model_name(name: str) -> str:
    # /v2/models/stats is the statistics of all models.
    if not NAME.fullmatch(name) or name == "stats":
        raise ValueError(
            "expected 1 to 64 letters, digits, dots, hyphens or underscores, the first a letter or "
            "digit, and not stats"
        )
    return name


def _route(path: str | None) -> str | None:
    if path is not None and not PATH.fullmatch(path):
        raise ValueError("expected a path such as /predict, in letters, digits and -._~:/")
    return path


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
Formats = Annotated[Names, AfterValidator(_formats)]
Size = Annotated[int, BeforeValidator(_bytes)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Route = Annotated[str | None, AfterValidator(_route)]
RateLimit = Annotated[str | None, AfterValidator(_rate)]


def _in(group: str) -> Callable[..., Any]:
    """`Field` for the settings of a group, as `--help` and docs/settings.md show them together."""
    return partial(Field, json_schema_extra={"group": group})


_model = _in("Model and device")
_address = _in("Addresses")
_batches = _in("Batches and queue")
_images = _in("Images")
_requests = _in("Requests and connections")
_access = _in("Access control")
_logs = _in("Logs and traces")


class Settings(BaseSettings):
    """The service's settings; a flag wins over the environment, that over the default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: Path = _model(
        default=BUNDLED,
        description="The model file, as alexnet-export writes it; by default the bundled one.",
    )
    model_name: ModelName = _model(
        default="alexnet",
        description="The model's name in other servers' APIs; with _image after it, the model "
        "that takes encoded images at /v2.",
    )
    device: Device = _model(
        default="auto",
        description="Where to compute: cuda refuses to start without a working GPU, auto falls "
        "back to the CPU with a warning.",
    )
    threads: int = _model(
        default=0,
        ge=0,
        le=1024,
        description="Threads for the network on the CPU; 0 takes all cores of the quota.",
    )
    gpu: int | None = _model(
        default=None,
        ge=0,
        description="The GPU's number, from 0, by default the first; with it, auto too refuses to "
        "start without a working GPU.",
    )
    gpu_memory_limit: Size = _model(
        default=0,
        ge=0,
        description="Bytes of GPU memory that the runtime may take; 0 sets no limit.",
    )

    host: str = _address(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on; 0.0.0.0 opens the service to the network.",
    )
    port: int = _address(
        default=8000,
        ge=0,
        le=65535,
        description="The TCP port; 0 lets the system choose one. Vertex AI's AIP_HTTP_PORT sets "
        "it too.",
    )
    predict_route: Route = _address(
        default=None,
        description="A further path that classifies, for Vertex AI, whose AIP_PREDICT_ROUTE sets "
        "it too.",
    )
    health_route: Route = _address(
        default=None,
        description="A further readiness probe, for Vertex AI, whose AIP_HEALTH_ROUTE sets it too.",
    )
    admin_port: int | None = _address(
        default=None,
        ge=0,
        le=65535,
        description="A second TCP port, for /docs, /metrics and the health checks alone, without "
        "a key.",
    )
    admin_host: str = _address(
        default="127.0.0.1", min_length=1, description="The address that the second port is on."
    )
    docs: Literal["main", "admin", "off"] = _address(
        default="main",
        description="Which port has /docs and /openapi.json: main, admin or off.",
    )
    metrics: Literal["main", "admin", "off"] = _address(
        default="main",
        description="Which port has /metrics: main, admin or off.",
    )

    max_batch: int = _batches(
        default=16,
        ge=1,
        le=1024,
        description="Images per run of the network; each may be ten crops, so memory grows fast.",
    )
    max_delay: float = _batches(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Seconds to wait for more images before a batch starts; 0 waits, "
        "25 ms at most, only for images already being decoded, and for clients that usually come "
        "back at once.",
    )
    max_queue: int = _batches(
        default=256,
        ge=1,
        le=1_000_000,
        description="Images accepted and unanswered; beyond it a request gets 503 at once.",
    )
    max_files: int = _batches(
        default=64,
        ge=1,
        le=10_000,
        description="Images per request; they must fit into the queue together.",
    )
    heatmaps: bool = _batches(
        default=True,
        description="Whether heatmaps are offered (details=heatmap); each runs the network for 65 "
        "images.",
    )
    run_timeout: float = _batches(
        default=60.0,
        gt=0.0,
        le=3600.0,
        description="Seconds that one run of the network may take; beyond it the process ends "
        "with status 70, to be started again.",
    )

    formats: Formats = _images(
        default=FORMAT_NAMES,
        description="Image formats that are read, separated by commas; each format "
        "you disable removes a decoder from the attack surface.",
    )
    max_pixels: int = _images(
        default=DecodeLimits.max_pixels,
        ge=1,
        description="Pixels per image, checked before decoding; each takes 4 to 12 bytes while "
        "it is decoded, in WebP, AVIF and HEIC 16.",
    )
    max_decoding_pixels: int = _images(
        default=Limits.max_decoding_pixels,
        ge=1,
        description="Pixels of all large images decoded at once, others wait: this bounds the "
        "memory of decoding, whatever the number of cores.",
    )
    decode_timeout: float = _images(
        default=DecodeLimits.decode_timeout,
        gt=0.0,
        le=600.0,
        description="Seconds of CPU time that decoding one image may take; each also bounds the "
        f"megapixels: {BOUNDS}, and progressive JPEG, times its scans, to 500.",
    )
    scaled_decoding: bool = _images(
        default=DecodeLimits.scaled_decoding,
        description="Let libjpeg shrink large JPEGs while it decodes them: several times as fast "
        "at 12 megapixels, but up to 11 grey levels away, which changes 1 to 3 best classes in "
        "100.",
    )
    colour_profiles: bool = _images(
        default=DecodeLimits.colour_profiles,
        description="Convert images with an embedded colour profile to sRGB, as browsers show "
        "them; false takes their numbers as they are, as torchvision does.",
    )

    max_body: Size = _requests(
        default=20 * 2**20,
        ge=1,
        description="Bytes per request body, all its images together, such as 20MB or 20MiB; they "
        "are kept in memory.",
    )
    max_uploads: Size = _requests(
        default=256 * 2**20,
        ge=1,
        description="Bytes of all bodies held at once; beyond it is 503, so that uploads cannot "
        "fill the memory.",
    )
    max_connections: int = _requests(
        default=4096,
        ge=1,
        description="Open connections of the main port, the admin port has 64 of its own; for one "
        "more the longest idle one is closed, and if none is idle, it gets 503.",
    )
    max_connections_per_address: int | None = _requests(
        default=None,
        ge=1,
        description="Open connections of the main port that one address may hold, IPv6 by /64; "
        "beyond it is 503. Leave it off behind a proxy, whose address all clients share.",
    )
    timeout: float = _requests(
        default=30.0,
        gt=0.0,
        le=3600.0,
        description="Seconds from the end of a request's headers to its answer; later is 504.",
    )
    body_timeout: float = _requests(
        default=20.0,
        gt=0.0,
        le=3600.0,
        description="Seconds that a request's body may take to arrive; slower is 408.",
    )
    header_timeout: float = _requests(
        default=10.0,
        gt=0.0,
        le=3600.0,
        description="Seconds that a request's headers may take to arrive; slower is 408.",
    )
    keep_alive: float = _requests(
        default=5.0,
        gt=0.0,
        le=3600.0,
        description="Seconds that a connection may be idle between two requests; behind a load "
        "balancer, more than its own limit.",
    )
    shutdown_timeout: float = _requests(
        default=30.0,
        ge=0.0,
        le=3600.0,
        description="Seconds that accepted work may take to finish after SIGTERM.",
    )

    api_keys_file: Path | None = _access(
        default=None,
        description="A file with one API key per line, # for comments; read again on SIGHUP.",
    )
    rate_limit: RateLimit = _access(
        default=None,
        description="Images that one API key, or without keys one address, may send, such as "
        "100/minute; beyond it is 429.",
    )
    cors_origins: Names = _access(
        default=(),
        description="Origins whose web pages may send requests (CORS), separated by commas, such "
        "as https://example.com; * is any.",
    )
    ssl_certfile: Path | None = _access(
        default=None,
        description="The certificate chain, PEM; it turns on TLS on both ports.",
    )
    ssl_keyfile: Path | None = _access(
        default=None, description="The certificate's private key, PEM, if it is in another file."
    )
    api_keys: Keys = _access(
        default=(),
        description="API keys, separated by commas; without these and a file of them, no key is "
        "needed. In the environment only, since every user of a machine can see flags.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = _logs(
        default="info", description="The least severe message that is logged."
    )
    log_format: Literal["auto", "text", "json"] = _logs(
        default="auto",
        description="text for people, json for programs, one object a line; auto is text on a "
        "terminal and json elsewhere.",
    )
    access_log: Literal["all", "requests", "off"] = _logs(
        default="requests",
        description="Which answers are logged: all; requests, without successful health checks, "
        "metrics and files of the page; or off for none.",
    )
    tracing: bool = _logs(
        default=False,
        description="Send OpenTelemetry spans of requests, decoding, queue and runs to "
        "OTEL_EXPORTER_OTLP_ENDPOINT.",
    )

    @model_validator(mode="after")
    def _a_gpus_number_is_for_a_gpu(self) -> Self:
        if self.gpu is not None and not candidates(self.device, self.gpu):
            raise ValueError(
                f"{spelled('gpu')} is {self.gpu}, but {spelled('device')} is {self.device!r}; "
                "choose another device, or leave the number out"
            )
        return self

    @model_validator(mode="after")
    def _a_full_request_fits_into_the_queue(self) -> Self:
        if self.max_queue < self.max_files:
            raise ValueError(
                f"{spelled('max_queue')} is {self.max_queue}, less than {spelled('max_files')} "
                f"({self.max_files}), so a full request could never be accepted; raise the first "
                "or lower the second"
            )
        return self

    @model_validator(mode="after")
    def _the_second_port_is_there(self) -> Self:
        for field in ("docs", "metrics"):
            if getattr(self, field) == "admin" and self.admin_port is None:
                raise ValueError(
                    f"{spelled(field)} is 'admin', but there is no second port; set "
                    f"{spelled('admin_port')}, or choose 'off'"
                )
        return self

    @model_validator(mode="after")
    def _a_key_has_its_certificate(self) -> Self:
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError(
                f"{spelled('ssl_keyfile')} is set without {spelled('ssl_certfile')}; set both"
            )
        return self

    @model_validator(mode="after")
    def _the_ports_are_two(self) -> Self:
        if self.port and self.port == self.admin_port:  # even on two addresses
            raise ValueError(
                f"{spelled('admin_port')} is {self.port}, the same as {spelled('port')}; choose "
                "another for one of them"
            )
        return self

    @model_validator(mode="after")
    def _one_fits_into_what_all_may_take(self) -> Self:
        for less, more in (("max_body", "max_uploads"), ("max_pixels", "max_decoding_pixels")):
            if getattr(self, less) > getattr(self, more):
                raise ValueError(
                    f"{spelled(less)} is {getattr(self, less)}, more than {spelled(more)} "
                    f"({getattr(self, more)}); lower the first or raise the second"
                )
        return self


def limits(settings: Settings) -> Limits:
    """The limits of the classifier."""

    def chosen(kind: type[DecodeLimits | Limits]) -> dict[str, Any]:
        return settings.model_dump(include={field.name for field in fields(kind)})

    return Limits(decoding=DecodeLimits(**chosen(DecodeLimits)), **chosen(Limits))


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """What `Engine.load` takes beside the model file, as plain values."""
    return settings.model_dump(
        include={"device", "threads", "max_batch", "gpu", "gpu_memory_limit"}
    )


def load_engine(settings: Settings, current: "Engine | None" = None) -> "Engine":
    """
    The engine of these settings; never on the CPU in place of a `current` one that is not.

    Raises what `Engine.load` raises.
    """
    from service.inference.engine import Engine

    arguments = engine_arguments(settings)
    if current is not None and current.execution_provider != CPU:
        arguments["device"] = current.execution_provider.device
    engine = Engine.load(settings.model, **arguments)
    engine.device_requested = settings.device
    return engine


def groups() -> dict[str, list[str]]:
    """The settings of each group, in order."""
    grouped: dict[str, list[str]] = {}
    for name, field in Settings.model_fields.items():
        assert isinstance(field.json_schema_extra, dict)
        grouped.setdefault(str(field.json_schema_extra["group"]), []).append(name)
    return grouped


def spelled(field: str) -> str:
    """A field's names, as operators know them: `ALEXNET_MAX_BATCH / --max-batch`."""
    if field in SECRETS:
        return f"{PREFIX}{field.upper()}"
    return f"{PREFIX}{field.upper()} / --{field.replace('_', '-')}"


def load_settings(**overrides: Any) -> Settings:
    """
    Settings from the flags given (those that are None were not), Vertex AI's variables and the
    environment.

    Raises `SettingsInvalid` with one sentence that names each setting at fault.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    told = {
        field: variable
        for field, variable in OF_VERTEX_AI.items()
        if os.environ.get(variable) and field not in given
    }
    given |= {field: os.environ[variable] for field, variable in told.items()}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsInvalid(_sentence(error, told), settings=_at_fault(error)) from error


def usable_settings(flags: Mapping[str, str | None]) -> tuple[Settings, list[str]]:
    """
    The settings, and what is wrong with them: each that is named there has its default instead.

    For the doctor; what is wrong is taken out of this process's environment.
    """
    left, faults = dict(flags), list[str]()
    while True:
        try:
            return load_settings(**left), faults
        except SettingsInvalid as error:
            faults.append(str(error))
            variables = {f"{PREFIX}{name.upper()}" for name in error.settings}
            for variable in [name for name in os.environ if name.upper() in variables]:
                del os.environ[variable]
            left = {name: value for name, value in left.items() if name not in error.settings}


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are not: misspelt ones, as a rule."""
    return sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX)
        and name.upper().removeprefix(PREFIX).lower() not in {*Settings.model_fields, *OF_OTHERS}
    )


def _at_fault(error: ValidationError) -> set[str]:
    """The fields that the faults are of; a rule between settings names both in its words."""
    faults = error.errors(include_url=False)
    named = {str(fault["loc"][0]) for fault in faults if fault["loc"]}
    rules = " ".join(fault["msg"] for fault in faults if not fault["loc"])
    return named | {field for field in Settings.model_fields if spelled(field) in rules}


def _sentence(error: ValidationError, told: Mapping[str, str]) -> str:
    """One sentence from pydantic's list; `told` are fields that a platform's variable has set."""
    faults = []
    for fault in error.errors(include_url=False):
        reason = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # a rule between settings names them itself
            faults.append(reason)
            continue
        field = str(fault["loc"][0])
        rule = reason[:1].lower() + reason[1:]
        value = "given" if field in SECRETS else repr(fault["input"])
        faults.append(f"{told.get(field) or spelled(field)} is {value}: {rule}")
    return "; ".join(faults) + "."
