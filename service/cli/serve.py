"""
`alexnet serve`: from the settings to a server that answers.
"""

import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from command_help import Status, epilog
from service.cgroups import cpu_quota
from service.cli.options import takes_settings, unknown_settings
from service.errors import SettingsInvalid
from service.settings import Settings, load_engine, load_settings, spelled

if TYPE_CHECKING:
    from service.inference.engine import Engine

log = logging.getLogger("service")

EPILOG: Final = epilog(
    {
        "alexnet serve": "the bundled model at http://127.0.0.1:8000, which has a page to try",
        "alexnet serve --port 8080 --model alexnet.onnx": "another port, another model",
        "alexnet serve --host 0.0.0.0 --api-keys-file keys.txt": "open to the network, with keys",
        "alexnet doctor --port 8080": "whether a server with these flags would start",
    },
    Status.USAGE,
    Status.CANNOT_GO_ON,
    done="stopped by SIGTERM or Ctrl-C, after the last answers",
    failed="it could not start; standard error says why and what to do",
)


def serve(**flags: str | None) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C.

    Prints where it answers and a curl line to try; the log goes to standard error,
    with --log-format json as one JSON object a line, which is this command's --json.
    Each flag is also a variable of the environment: --max-batch is ALEXNET_MAX_BATCH.
    """
    from service.telemetry import logs

    # Until there is something to stop or to reload: process 1 of a container ignores them else.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load_settings(**flags)
    as_json = logs.is_json(settings.log_format, sys.stderr)
    logs.install(settings.log_level, as_json=as_json)
    for name, remedy in unknown_settings(os.environ).items():
        log.warning("unknown setting %s (ignored). %s", name, remedy)
    # A line for each broken form, and a text that Python keeps for each odd GIF: clients may send
    # any number of them, and get an error as their answer.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    status = _run(settings, as_json=as_json)
    # Not sys.exit: it would wait for a run of the network that never ends, or crash one.
    logging.shutdown()
    os._exit(status)


takes_settings(serve)


def _run(settings: Settings, *, as_json: bool) -> int:
    with ExitStack() as bound:
        # Before anything slow: a port that is taken is reported at once.
        listeners = [bound.enter_context(listener(settings.host, settings.port, "port"))]
        if settings.admin_port is not None:
            second = listener(settings.admin_host, settings.admin_port, "admin_port")
            listeners.append(bound.enter_context(second))

        from service.app import create_app
        from service.app import serve as run

        web = create_app(settings, engine := load_engine(settings))
        _log_what_serves(settings, engine)
        return run(
            web,
            listeners,
            lambda: _announce(settings, listeners, as_json=as_json),
            load=partial(load_engine, settings),
        )


def _log_what_serves(settings: Settings, engine: "Engine") -> None:
    """The first line of a start that goes well, and a warning if it is open to all."""
    fields = {
        **engine.model.facts("model"),
        "provider": engine.provider,
        "threads": settings.threads or cpu_quota(),
        "api_keys": has_keys(settings),
    }
    keys = "required" if has_keys(settings) else "none"
    log.info(
        "Serving %(model)s %(variant)s %(precision)s, version %(version)s, on %(provider)s, "
        f"threads: %(threads)d, API keys: {keys}",
        fields,
        extra=fields,
    )
    if warning := open_to_all(settings):
        log.warning(warning)


def has_keys(settings: Settings) -> bool:
    """Whether a request needs an API key; a file without any would end the start."""
    return bool(settings.api_keys or settings.api_keys_file)


def open_to_all(settings: Settings) -> str | None:
    """What to say of a server without keys that other machines can reach."""
    if has_keys(settings) or settings.host in ("127.0.0.1", "::1", "localhost"):
        return None
    remedy = f"set {spelled('api_keys_file')}, or let a proxy ask for keys"
    return f"every client that reaches {settings.host} is answered; {remedy}"


def _announce(settings: Settings, listeners: Sequence[socket.socket], *, as_json: bool) -> None:
    scheme = "https" if settings.ssl_certfile else "http"
    hosts = (settings.host, settings.admin_host)
    address, *second = (
        f"{scheme}://{in_url(host)}:{bound.getsockname()[1]}"
        for host, bound in zip(hosts, listeners, strict=False)
    )
    key = "-H 'Authorization: Bearer KEY' " if has_keys(settings) else ""
    places = {"main": [address], "admin": second}.get(settings.docs, [])
    docs = "".join(f"{place}/docs" for place in places)
    if as_json:
        fields = {"url": address} | ({"docs": docs} if docs else {})
        log.info("AlexNet answers at %s until SIGTERM", address, extra=fields)
        return
    try:
        hint = f"docs: {docs}, " if docs else ""
        print(f"AlexNet answers at {address}  ({hint}stop: Ctrl-C).  Try:")
        print(
            f"  curl --data-binary @tests/pictures/cat.jpg -H 'Content-Type: image/jpeg' "
            f"{key}{address}/v1/predict",
            flush=True,
        )
    except OSError:  # the disk is full, or the reader is gone: no reason to stop
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  so that it is not tried again at exit


def listener(host: str, port: int, setting: str) -> socket.socket:
    """
    A socket that is bound, and does not listen yet.

    Raises `SettingsInvalid`, which names the port's `setting`, for an address that cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter for a name that is not a host's
        raise SettingsInvalid(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', error)}; "
            f"choose another with {spelled(setting)}, or {spelled(setting.replace('port', 'host'))}"
        ) from error
    return bound


def in_url(host: str) -> str:
    """A host as this machine reaches it, and as it stands in a URL: 0.0.0.0 and :: are all."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{reached}]" if ":" in host else reached
