"""
One flag for each setting, in groups, for `alexnet serve` and `alexnet doctor`.

`Settings` parses their text, as it does the environment's, and describes them.
"""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from service.cli.options import choices
from service.settings import OF_OTHERS, PREFIX, SECRETS, Settings, unknown_variables

GROUPS: Final = {
    "Model and device": ("model", "model_name", "device", "threads", "gpu_memory_limit"),
    "Addresses": (
        "host",
        "port",
        "predict_route",
        "health_route",
        "admin_port",
        "admin_host",
        "docs",
        "metrics",
    ),
    "Batches and queue": (
        "max_batch",
        "max_delay",
        "max_queue",
        "max_files",
        "heatmaps",
        "run_timeout",
    ),
    "Images": (
        "formats",
        "max_pixels",
        "max_decoding_pixels",
        "decode_timeout",
        "max_aspect_ratio",
        "scaled_decoding",
        "colour_profiles",
    ),
    "Requests and connections": (
        "max_body",
        "max_uploads",
        "max_headers",
        "max_connections",
        "max_connections_per_address",
        "timeout",
        "body_timeout",
        "header_timeout",
        "keep_alive",
        "shutdown_timeout",
    ),
    "Access control": (
        "api_keys_file",
        "rate_limit",
        "cors_origins",
        "ssl_certfile",
        "ssl_keyfile",
    ),
    "Logs and traces": ("log_level", "log_format", "access_log", "tracing"),
}
# The placeholder of a flag whose description does not begin with its unit.
METAVARS: Final = {
    "threads": "COUNT",
    "max_connections": "COUNT",
    "max_connections_per_address": "COUNT",
    "max_aspect_ratio": "RATIO",
    "formats": "NAMES",
    "predict_route": "PATH",
    "health_route": "PATH",
    "rate_limit": "N/TIME",
    "cors_origins": "ORIGINS",
}
UNITS: Final = ("Seconds", "Bytes", "Pixels", "Images")


def takes_settings(command: Callable[..., None], **switches: object) -> None:
    """
    Give a command a flag for each setting, each a `str | None`; secrets are no flags.

    `switches` are further flags: names and annotations.
    """
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, _option(name, panel)],
        )
        for panel, names in GROUPS.items()
        for name in names
        if name not in SECRETS
    ]
    flags += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in switches.items()
    ]
    command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}


def unknown_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that look like settings and are not, and of each what to do about it."""
    unknown = {}
    for name in unknown_variables(environment):
        word = name.upper().removeprefix(PREFIX).lower()
        similar = get_close_matches(word, (*Settings.model_fields, *OF_OTHERS), 1)
        known = f"{PREFIX}{similar[0].upper()}" if similar else ""
        unknown[name] = f"Did you mean {known}?" if known else "See alexnet serve --help."
    return unknown


def _option(name: str, panel: str) -> object:
    field = Settings.model_fields[name]
    words = _words(field.annotation)
    return typer.Option(
        "--" + name.replace("_", "-"),
        help=_help(field.description, field.default),
        show_default=False,
        metavar="|".join(words) or _metavar(name, field.annotation, field.description or ""),
        autocompletion=choices(*words) if words else None,
        rich_help_panel=panel,
    )


def _words(kind: object) -> tuple[str, ...]:
    """The words that a flag takes, if it takes nothing else."""
    words = ("true", "false") if kind is bool else get_args(kind)
    return words if all(isinstance(word, str) for word in words) else ()


def _metavar(name: str, kind: object, description: str) -> str:
    if Path in (kind, *get_args(kind)):
        return "FILE"
    unit = description.split()[0]
    if name not in METAVARS and unit in UNITS:
        return unit.upper()
    return METAVARS.get(name, name.rpartition("_")[2].upper())


def _help(description: str | None, default: object) -> str:
    # The bundled model's path is long, and differs from machine to machine.
    if isinstance(default, Path) or default is None or default == ():
        return str(description)
    shown = ",".join(default) if isinstance(default, tuple) else default
    shown = str(shown).lower() if isinstance(shown, bool) else shown
    return f"{description} Default: {shown}."
