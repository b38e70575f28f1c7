"""
The checks of `alexnet doctor`: each uses the part of the server that it is about.

What a check returns is well, a `ServiceError` that it raises is a problem, and what is logged
meanwhile are warnings.  As in all messages of this service, what is wrong stands before the first
semicolon, and what to do about it behind.  Packages are imported where they are used: one that is
missing ends only the checks that need it.
"""

import errno
import logging
import math
import os
import platform
import resource
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.filesize import decimal

from service.cgroups import cpu_quota, memory_limit
from service.cli.addresses import in_url, listener
from service.cli.installed import DISTRIBUTION, RUNTIMES, installed
from service.cli.settings_options import warn_of_unknown_settings
from service.errors import RuntimeMissing, SettingsInvalid, StartError
from service.http.access import Keys
from service.inference.providers import CPU, PROVIDERS
from service.settings import PREFIX, Settings, load_engine, load_settings, spelled

if TYPE_CHECKING:
    from service.inference.engine import Engine

log = logging.getLogger("service.doctor")

INSTALL: Final = "install it again: scripts/install run"
RENEW: Final = "have it renewed, and send SIGHUP to a server that runs"
SOON: Final = 14  # days until a certificate ends
PATIENCE: Final = 3.0  # seconds for another program on this machine to answer
MEMORY: Final = Path("/proc/meminfo")
SQUARE: Final = 256 * 256 * 3  # bytes of an image in the queue
DECODING: Final = 12  # bytes a pixel, at most; WebP takes 16, and has a limit of its own
SAMPLE: Final = 16  # images of a batch that is run to see what it takes


def usable_settings(flags: Mapping[str, str | None]) -> tuple[Settings, list[str]]:
    """
    The settings, and what is wrong with them: each that is named there has its default instead.

    What is wrong is taken out of this process's environment.
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


def variables(environment: Mapping[str, str], faults: Sequence[str]) -> str | None:
    """Which settings are in the environment, if these have no `faults`."""
    unknown = warn_of_unknown_settings(environment)
    names = {name for name in environment if name.upper().startswith(PREFIX)} - set(unknown)
    if faults or (unknown and not names):
        return None
    listed = ", ".join(sorted(name.removeprefix(PREFIX).lower() for name in names))
    return f"{len(names)} from the environment: {listed}" if names else "none in the environment"


def python() -> str:
    """Python's version against what the package asks for."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if installed(DISTRIBUTION) is None:
        return f"{version}; a checkout that is not installed asks for none"
    needed = SpecifierSet(metadata(DISTRIBUTION)["Requires-Python"])
    if not needed.contains(version, prereleases=True):
        raise StartError(f"{version}, but {needed} is needed; {INSTALL}")
    return f"{version}, {needed} is needed"


def packages() -> str | None:
    """What is installed against what the package asks for, the extras aside."""
    from packaging.requirements import Requirement

    if installed(DISTRIBUTION) is None:
        log.warning("this is a checkout that is not installed; %s", INSTALL)
        return None
    needed = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [
        f"{package.name} is {version or 'not installed'}, and {package} is needed"
        for package in needed
        if not (version := installed(package.name))
        or not package.specifier.contains(version, prereleases=True)
    ]
    if wrong:
        raise StartError(f"{', '.join(wrong)}; {INSTALL}")
    return f"all {len(needed)} that are needed are installed"


def keys(settings: Settings) -> str | None:
    """Whether the file of keys can be used, and who may send requests."""
    if Keys([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file):
        return "every request must have one"
    if settings.host in ("127.0.0.1", "::1", "localhost"):
        return "none, and only this machine can ask"
    remedy = f"set {spelled('api_keys_file')}, or let a proxy ask for keys"
    log.warning("everybody who reaches %s may ask; %s", settings.host, remedy)
    return None


def certificate(settings: Settings) -> str | None:
    """Whether it can be read, fits its key, is valid today, and for how long."""
    file, key = settings.ssl_certfile, settings.ssl_keyfile
    if file is None:
        return None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(file, key, password="")  # not to be asked for one
        end = _end_of_validity(file, server)
    except ssl.SSLCertVerificationError as error:
        raise SettingsInvalid(f"{file}: {error.verify_message}; {RENEW}") from error
    except OSError as error:  # ssl.SSLError is one
        raise SettingsInvalid(
            f"{file} and {key or 'the key in it'} cannot be used ({error.strerror or error}); "
            f"check {spelled('ssl_certfile')} and {spelled('ssl_keyfile')}: PEM, a pair, and not "
            "encrypted"
        ) from error
    days = (ssl.cert_time_to_seconds(end) - time.time()) / 86400
    if days >= SOON:
        return f"{file} fits its key, and is valid until {end}"
    log.warning("%s ends in %.0f days, %s; %s", file, days, end, RENEW)
    return None


def _end_of_validity(file: Path, server: ssl.SSLContext) -> str:
    """From a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Whoever signed it, it is trusted here: the question is whether it is valid today.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, answering, asking):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return str((asking.getpeercert() or {})["notAfter"])


def tracing(settings: Settings) -> str | None:
    """Whether spans have somewhere to go."""
    from service.http.middleware.tracing import provider

    if (tracer := provider(settings)) is None:
        return None
    tracer.shutdown()
    return "on"


def cores(settings: Settings) -> str | None:
    """What the network may use."""
    found = f"{cpu_quota()} may be used"
    if settings.threads <= cpu_quota():
        return found
    found += f", and {spelled('threads')} is {settings.threads}: they will wait for each other"
    log.warning("%s; leave it at 0, which takes what there is", found)
    return None


def files(settings: Settings) -> str | None:
    """Whether as many files may be open as connections may come; if not, the server warns."""
    from service.http.server import within_file_limit

    if within_file_limit(settings.max_connections) < settings.max_connections:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "as many as it likes" if soft == resource.RLIM_INFINITY else str(soft)
    return f"{limit} may be open, enough for {settings.max_connections} connections"


def runtime() -> str:
    """ONNX Runtime, and whether it can be imported."""
    from service.inference.providers import load_runtime

    version = load_runtime().__version__
    build = next((RUNTIMES[name] for name in RUNTIMES if installed(name)), "of another build")
    return f"ONNX Runtime {version}, {build}"


def model_file(settings: Settings) -> str:
    """The file as it lies there: no runtime is needed for that."""
    from service.inference.model_file import checksum

    path, sha256 = settings.model, checksum(settings.model)
    return f"{path}, {decimal(path.stat().st_size)}, SHA-256 {sha256}, as it says"


def network(settings: Settings, on_load: "Callable[[Engine], None]") -> str | None:
    """What is in the file; that it answers its start-up image right, the engine proves."""
    from service.inference.model_file import FORMAT

    try:
        engine = load_engine(settings)
    except RuntimeMissing:  # which `runtime` has found
        return None
    on_load(engine)
    model = engine.model
    if not model.accuracy:
        remedy = "alexnet evaluate FOLDER --record record.json, then alexnet-export --record"
        log.warning("nobody recorded how good it is; %s", remedy)
    return (
        f"format {FORMAT}: {model.name} {model.variant} {model.precision}, {len(model.labels)} "
        f"classes, crops {', '.join(model.crops)}; its start-up image is answered right"
    )


def provider(engine: "Engine") -> str | None:
    """What computes, and if it is the CPU, why."""
    name = f"{engine.provider} (device {engine.device_requested})"
    if engine.warning:
        log.warning("%s: %s", name, engine.warning)
        return None
    if engine.execution_provider != CPU:
        return name
    return "; ".join([name, *(each.driver_note() for each in PROVIDERS if each.driver)])


def memory(settings: Settings, engine: "Engine | None" = None) -> str | None:
    """What the service takes at its busiest, against what there is."""
    free, limit = _free_memory()
    if engine is None:
        return f"{limit}; what a server takes is not known, since no model is loaded"
    import numpy as np

    batch = min(settings.max_batch, SAMPLE)
    # With the most views, the network takes most.
    engine.run(np.zeros((batch, 256, 256, 3), np.uint8), max(engine.model.crops.values()))
    after = _peak()
    decoding = settings.max_decoding_pixels * DECODING
    busy = after + settings.max_uploads + decoding + settings.max_queue * SQUARE
    found = f"{decimal(after)} after a batch of {batch}, {decimal(busy)} at the very most when busy"
    if free < after:
        raise StartError(f"{found}, and {limit}; give it {decimal(busy)}")
    if free >= busy:
        return f"{found}; {limit}"
    names = map(spelled, ("max_decoding_pixels", "max_uploads", "max_queue"))
    remedy = f"lower one of {', '.join(names)}, or give it {decimal(busy)}"
    log.warning("%s, and %s; %s", found, limit, remedy)
    return None


def _free_memory() -> tuple[float, str]:
    """Bytes that this process may take, and who says so."""
    free, limit = math.inf, memory_limit()
    with suppress(OSError, KeyError, ValueError):  # not on Linux
        lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
        # What this process has taken, which is one like the server's, is no longer free.
        free = int(lines["MemAvailable"].split()[0]) * 1024 + _peak()
    if limit is not None and limit < free:
        return limit, f"the container's limit is {decimal(limit)}"
    return (
        free,
        f"this machine has {decimal(int(free))} free"
        if free < math.inf
        else "what is free is not known",
    )


def _peak() -> int:
    """Bytes that this process has taken so far; the doctor's own parts are small."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def port(settings: Settings, prefix: str = "") -> str | None:
    """Whether the address can be bound, and who has it if not; `prefix` is the setting's."""
    from service.client import Client, ClientError

    host, number = getattr(settings, f"{prefix}host"), getattr(settings, f"{prefix}port")
    if number is None:
        return None
    setting, address = spelled(f"{prefix}port"), f"{host}:{number}"
    try:
        listener(host, number, f"{prefix}port").close()
    except SettingsInvalid as error:
        if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
            raise
        url = f"{'https' if settings.ssl_certfile else 'http'}://{in_url(host)}:{number}"
        found = f"{address} is taken, by something that does not answer as this service"
        remedy = f"stop it, or choose another with {setting}"
        # Its certificate may be for another name, and nothing secret is sent to it.
        client = Client(url, timeout=PATIENCE, retries=0, verify=False)
        with client, suppress(ClientError):
            health = client.health()
            model = f"{health.model.name} {health.model.variant} {health.model.precision}"
            found = f"this service answers at {address} already: {health.status}, {model} "
            found += f"on {health.provider}"
            remedy = f"nothing, if that is the one you want; another needs another {setting}"
        raise StartError(f"{found}; {remedy}") from error
    return f"{address} is free" if number else "the system chooses one"
