"""
A host and a port -> a bound socket, or how a person reaches them.
"""

import socket

from service.errors import SettingsInvalid


def listener(host: str, port: int, setting: str) -> socket.socket:
    """
    A socket that is bound, and does not listen yet.

    Raises `SettingsInvalid`, which names the port's `setting`, for an address that cannot be bound.
    """
    from service.settings import spelled

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


def reached(host: str) -> str:
    """How this machine reaches an address: 0.0.0.0 and :: stand for all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def in_url(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{reached(host)}]" if ":" in host else reached(host)
