"""Ports for programs that have to be told one."""

import socket
from contextlib import suppress
from random import SystemRandom

# Below those that the system gives to anyone who asks for any, so that no other test is given it.
FEW = range(20_000, 30_000)


def free_port() -> int:
    """A port where nothing listens, and nothing is going to by chance."""
    while True:
        port = SystemRandom().choice(FEW)  # the tests' own are all sown with one seed
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
