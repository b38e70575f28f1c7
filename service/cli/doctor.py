"""
`alexnet doctor`: the checks of a start, reported together.  They are those that `alexnet serve`
makes.

As in all messages of this service, what is wrong stands before the first semicolon, and what to do
about it behind.  So what a check returns is well, or with a semicolon a warning, as what is logged
meanwhile; a `ServiceError` that it raises is a problem.  Packages are imported where they are used:
one that is missing ends only the checks that need it.
"""

import json
import logging
import os
import platform
import resource
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import requires
from logging.handlers import BufferingHandler
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer
from rich.filesize import decimal

from command_help import Status, epilog
from service.cgroups import cpu_quota, free_memory, memory_limit
from service.cli.options import (
    DISTRIBUTION,
    AsJson,
    installed,
    takes_settings,
    unknown_settings,
)
from service.cli.serve import listener, open_to_all
from service.console import clean, console, print_rows
from service.errors import ProviderUnusable, ServiceError, StartError
from service.inference.providers import CPU, PROVIDERS, load_runtime, runtimes
from service.settings import PREFIX, Settings, load_engine, spelled, usable_settings

if TYPE_CHECKING:
    from service.inference.engine import Engine

log = logging.getLogger("service.doctor")

EPILOG: Final = epilog(
    {
        "alexnet doctor": "would alexnet serve start here?",
        "alexnet doctor --port 8080 --device cuda": "and with these flags?",
        "alexnet doctor --json": "for programs",
    },
    Status.USAGE,
    done="it would start, and be usable; there may be warnings",
    failed="it would not, or could not be used; each problem says what to do",
)
SIGNS: Final = {"ok": "✓+", "warning": "!!", "failed": "✗x"}  # the second where only ASCII is known
COLOURS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}

INSTALL: Final = "install it again: scripts/install run"
SOON: Final = 14  # days until a certificate ends
SQUARE: Final = 256 * 256 * 3  # bytes of an image in the queue
DECODING: Final = 12  # bytes a pixel, at most; WebP takes 16, and has a limit of its own
SAMPLE: Final = 16  # images of a batch that is run to see what it takes


class Finding(NamedTuple):
    """The result of a check; `remedy` is what to do about it."""

    check: str
    verdict: str  # one of SIGNS; with a warning the server starts all the same
    result: str
    remedy: str | None = None


def doctor(as_json: bool = False, **flags: str | None) -> None:
    """Check what a server needs here, and say what to fix.

    Looks at the settings, keys and certificates, Python and its packages, the runtime,
    the model file, the device, cores, memory, open files and the port, and goes on to
    the next one whatever it finds. Takes the flags of alexnet serve, and the same
    variables. Prints a line for each, and below it what to do.
    """
    findings = _examine(flags)
    well = all(finding.verdict != "failed" for finding in findings)
    if as_json:
        keys = ("check", "verdict", "found", "remedy")
        checks = [dict(zip(keys, finding, strict=True)) for finding in findings]
        typer.echo(json.dumps({"well": well, "checks": checks}, indent=2))
    else:
        _print(findings)
    if not well:
        raise typer.Exit(Status.FAILED)


takes_settings(doctor, as_json=AsJson)


def _examine(flags: Mapping[str, str | None]) -> list[Finding]:
    """All the findings, in the order in which a server would meet them."""
    environment = dict(os.environ)
    settings, faults = usable_settings(flags)
    remedy = "correct it, or leave it out for its default"
    findings = [Finding("settings", "failed", fault.rstrip("."), remedy) for fault in faults]
    findings += _run("settings", _variables, environment)
    findings += _run("python", platform.python_version)
    findings += _run("packages", _packages)
    for check in (_keys, _certificate, _tracing, _cores, _files):
        findings += _run(check.__name__.removeprefix("_"), check, settings)
    runtime = _run("runtime", _runtime)
    findings += runtime
    engines: list[Engine] = []
    if runtime[0].verdict == "ok":
        findings += _run("model", _model, settings, engines.append)
    for engine in engines:
        findings += _run("provider", _provider, settings, engine)
        findings += _run("memory", _memory, settings, engine)
    findings += _run("port", _port, settings)
    findings += _run("admin port", _port, settings, "admin_")
    if engines and all(finding.verdict != "failed" for finding in findings):
        seen = {finding[2:] for finding in findings}  # such as warnings about the keys
        further = _run("settings", _application, settings, *engines)
        findings += [finding for finding in further if finding[2:] not in seen]
    return findings


def _run(name: str, check: Callable[..., str | None], *arguments: Any) -> list[Finding]:
    """What a check returns, raises and logs; an error, of any kind, ends this check only."""
    logged = BufferingHandler(capacity=1000)
    logged.setLevel(logging.WARNING)
    logging.getLogger().addHandler(logged)
    verdict, message = "failed", ""
    try:
        if message := check(*arguments) or "":
            verdict = "warning" if "; " in message else "ok"
    except ServiceError as error:
        name, message = "provider" if isinstance(error, ProviderUnusable) else name, str(error)
    except Exception as error:  # the other checks are wanted all the same
        message = f"this check itself has failed ({type(error).__name__}: {error}); report it"
    finally:
        logging.getLogger().removeHandler(logged)
    findings = [_finding(name, verdict, message.rstrip("."))] if message else []
    return findings + [_finding(name, "warning", each.getMessage()) for each in logged.buffer]


def _finding(check: str, verdict: str, message: str) -> Finding:
    result, _, remedy = message.partition("; ")
    if verdict == "failed":
        remedy = remedy or "correct it, or leave the setting out"
    return Finding(check, verdict, result, remedy or None)


def _variables(environment: Mapping[str, str]) -> str | None:
    """Which settings are in the environment."""
    unknown = unknown_settings(environment)
    for name, remedy in unknown.items():
        log.warning("unknown setting %s (ignored); %s", name, remedy)
    names = sorted({name for name in environment if name.upper().startswith(PREFIX)} - {*unknown})
    if not names:
        return None if unknown else "none in the environment"
    listed = ", ".join(name.removeprefix(PREFIX).lower() for name in names)
    return f"{len(names)} from the environment: {listed}"


def _packages() -> str:
    """What is installed against what the package asks for, the extras aside."""
    from packaging.requirements import Requirement

    if installed() is None:
        return f"this is a checkout that is not installed; {INSTALL}"
    needed = [Requirement(line) for line in requires(DISTRIBUTION) or () if "extra ==" not in line]
    wrong = [
        f"{package.name} is {version or 'not installed'}, and {package} is needed"
        for package in needed
        if not (version := installed(package.name))
        or not package.specifier.contains(version, prereleases=True)
    ]
    if wrong:
        raise StartError(f"{', '.join(wrong)}; {INSTALL}")
    return f"all {len(needed)} that are needed are installed"


def _keys(settings: Settings) -> str:
    """Whether the file of keys can be used, and who may send requests."""
    from service.http.middleware.auth import AccessControl

    if AccessControl.from_settings(settings).keys:
        return "every request must have one"
    return open_to_all(settings) or "none, and only this machine can ask"


def _certificate(settings: Settings) -> str | None:
    """Whether it can be read, fits its key, is valid today, and for how long."""
    if (file := settings.ssl_certfile) is None:
        return None
    from service.app import certificate_read
    from service.http.server.tls import RENEW, valid_until

    with certificate_read(settings):
        end = valid_until(file, settings.ssl_keyfile)
    days = (ssl.cert_time_to_seconds(end) - time.time()) / 86400
    if days < SOON:
        return f"{file} ends in {days:.0f} days, {end}; {RENEW}"
    return f"{file} fits its key, and is valid until {end}"


def _tracing(settings: Settings) -> str | None:
    """Whether spans have somewhere to go."""
    from service.http.middleware.tracing import provider

    if (tracer := provider(settings)) is None:
        return None
    tracer.shutdown()
    return "on"


def _cores(settings: Settings) -> str:
    """What the network may use."""
    result = f"{cpu_quota()} may be used"
    if settings.threads > cpu_quota():
        result += f", and {spelled('threads')} is {settings.threads}: they will wait for each other"
        result += "; leave it at 0, which takes what there is"
    return result


def _files(settings: Settings) -> str | None:
    """Whether as many files may be open as connections may come; if not, the server warns."""
    from service.http.server import within_file_limit

    if within_file_limit(settings.max_connections) < settings.max_connections:
        return None
    return f"enough may be open for {settings.max_connections} connections"


def _runtime() -> str:
    """ONNX Runtime, and whether it can be imported."""
    version = load_runtime().__version__
    builds = (built_for for name, built_for in runtimes().items() if installed(name))
    return f"ONNX Runtime {version}, {next(builds, 'of another build')}"


def _model(settings: Settings, on_load: "Callable[[Engine], None]") -> str:
    """What is in the file; that it answers its start-up image right, the engine proves."""
    engine = load_engine(settings)
    on_load(engine)
    model = engine.model
    if not model.accuracy:
        remedy = "alexnet evaluate FOLDER --record record.json, then alexnet-export --record"
        log.warning("nobody recorded how good it is; %s", remedy)
    return (
        f"{model.path}, {decimal(model.size_bytes)}, SHA-256 {model.sha256}, as it says: "
        f"{model.name} {model.variant} {model.precision}, {len(model.labels)} classes, crops "
        f"{', '.join(model.crops)}, its start-up image is answered right"
    )


def _provider(settings: Settings, engine: "Engine") -> str | None:
    """What computes, and if it is the CPU, why."""
    number = "" if settings.gpu is None else f", GPU {settings.gpu}"
    name = f"{engine.provider} (device {engine.device_requested}{number})"
    if engine.warning:
        log.warning("%s: %s", name, engine.warning)
        return None
    if engine.execution_provider != CPU:
        return name
    return ", ".join([name, *(each.driver_note() for each in PROVIDERS if each.driver)])


def _memory(settings: Settings, engine: "Engine") -> str:
    """What the service takes at its busiest, against what there is."""
    import numpy as np

    batch = min(settings.max_batch, SAMPLE)
    # With the most views, the network takes most.
    engine.run(np.zeros((batch, 256, 256, 3), np.uint8), max(engine.model.crops.values()))
    # This process is one like the server's, and the doctor's own parts are small.
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken *= 1 if sys.platform == "darwin" else 1024
    images = settings.max_decoding_pixels * DECODING + settings.max_queue * SQUARE
    busy = taken + settings.max_uploads + images
    limits = []
    if (allowed := memory_limit()) is not None:
        limits.append((allowed, f"the container's limit is {decimal(allowed)}"))
    if (free := free_memory()) is not None:
        # What this process has taken is no longer free.
        limits.append((free + taken, f"this machine has {decimal(free + taken)} free"))
    room, limit = min(limits, default=(busy, "what is free is not known"))
    result = f"{decimal(taken)} after a batch of {batch}, "
    result += f"{decimal(busy)} at the very most when busy, and {limit}"
    if room < taken:
        raise StartError(f"{result}; give it {decimal(busy)}")
    if room < busy:
        names = map(spelled, ("max_decoding_pixels", "max_uploads", "max_queue"))
        result += f"; lower one of {', '.join(names)}, or give it {decimal(busy)}"
    return result


def _port(settings: Settings, prefix: str = "") -> str | None:
    """Whether the address can be bound; `prefix` is the setting's."""
    host, port = getattr(settings, f"{prefix}host"), getattr(settings, f"{prefix}port")
    if port is None:
        return None
    listener(host, port, f"{prefix}port").close()
    return f"{host}:{port} is free" if port else "the system chooses one"


def _application(settings: Settings, engine: "Engine") -> None:
    """What else would keep it from being built, such as an origin that no browser sends."""
    from service.app import create_app

    create_app(settings.model_copy(update={"tracing": False}), engine)  # which has been tried


def _print(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check, verdict, result, remedy in findings:
        sign = SIGNS[verdict][0 if screen.encoding.startswith("utf") else 1]
        text = Text(clean(result))
        if remedy:
            text.append(f"\n-> {clean(remedy)}", style=COLOURS[verdict])
        table.add_row(Text(sign, style=COLOURS[verdict]), check, text)
    print_rows(table, screen)
    problems, warnings = (
        sum(finding.verdict == verdict for finding in findings) for verdict in ("failed", "warning")
    )
    total = f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}."
    screen.print(f"\n{total if problems or warnings else 'All is well.'}")
