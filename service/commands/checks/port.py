"""
The address: free, or who answers there.
"""

import json
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final

from service.commands.addresses import listener, reached
from service.commands.checks import Finding, failed, ok, warning
from service.settings import Settings, spelled

PATIENCE: Final = 3.0  # seconds for somebody on this machine to answer


def ports(its: Settings) -> Iterator[Finding]:
    """The main port, and the second one."""
    tls = its.ssl_certfile is not None
    yield from _port(its.host, its.port, "port", tls=tls)
    if its.admin_port is not None:
        yield from _port(its.admin_host, its.admin_port, "admin_port", tls=tls)


def _port(host: str, port: int, setting: str, *, tls: bool) -> Iterator[Finding]:
    check, address = setting.replace("_", " "), f"{host}:{port}"
    if not _answers(host, port):
        # Bound for a moment, and never listened on: there is no other way to know.
        listener(host, port, setting).close()
        yield ok(check, f"{address} is free" if port else "the system chooses one")
        return
    health = _health(host, port, tls=tls)
    if health is None:
        yield failed(
            check,
            f"{address} is taken, by something that is not this service",
            f"stop it, or choose another with {spelled(setting)}",
        )
        return
    model = health["model"]
    yield warning(
        check,
        f"this service answers at {address} already: {health['status']}, {model['name']} "
        f"{model['variant']} {model['precision']} on {health['provider']}",
        f"nothing, if that is the one; another needs another {spelled(setting)}",
    )


def _answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    if not port:
        return False
    try:
        socket.create_connection((reached(host), port), PATIENCE).close()
    except (OSError, UnicodeError):  # the latter for a name that cannot be one
        return False
    return True


def _health(host: str, port: int, *, tls: bool) -> dict[str, Any] | None:
    """What our server says of itself there; None if it is another's."""
    # Its certificate may be for another name, and nothing is told to it.
    anybody = ssl._create_unverified_context() if tls else None
    connection = (
        HTTPSConnection(reached(host), port, timeout=PATIENCE, context=anybody)
        if tls
        else HTTPConnection(reached(host), port, timeout=PATIENCE)
    )
    try:
        connection.request("GET", "/health")
        found = json.loads(connection.getresponse().read(2**20))
        ours = {"status", "provider"} <= found.keys() and {"name", "variant", "precision"} <= (
            found["model"].keys()
        )
    except (OSError, HTTPException, ValueError, KeyError, AttributeError):
        return None
    finally:
        connection.close()
    return dict(found) if ours else None
