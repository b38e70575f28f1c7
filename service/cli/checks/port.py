"""
The address: free, or who answers there.
"""

import socket
from collections.abc import Iterator
from typing import Final

from service.cli.addresses import in_url, listener, reached
from service.cli.checks import Finding, failed, ok
from service.client import Client, ClientError, Health
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
    model = health.model
    yield failed(
        check,
        f"this service answers at {address} already: {health.status}, {model.name} "
        f"{model.variant} {model.precision} on {health.provider}",
        f"nothing, if that is the one you want; another needs another {spelled(setting)}",
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


def _health(host: str, port: int, *, tls: bool) -> Health | None:
    """What our server says of itself there; None if it is another's."""
    url = f"{'https' if tls else 'http'}://{in_url(host)}:{port}"
    try:
        # Its certificate may be for another name, and nothing is told to it.
        with Client(url, timeout=PATIENCE, retries=0, verify=False) as client:
            return client.health()
    except (ClientError, ValueError):  # the latter for a name that cannot be one
        return None
