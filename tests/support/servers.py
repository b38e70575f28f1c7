"""
Real servers on real ports: in a thread of this process, or as a process of their own.

A thread is the default: it starts in milliseconds.  A process is for tests about processes, which
are those of signals, memory, descriptors, standard output, or of a run that never comes back.
"""

import asyncio
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from alexnet_client import Client
from service import app as application
from service.cli.serve import in_url, listener
from service.http.server.connection import Connection
from service.http.state import ServiceState
from service.inference.engine import Engine
from service.settings import Settings, load_engine, load_settings
from service.telemetry import logs

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds; only a failing test waits so long
LATER = 600  # seconds; what no test comes to
# Limits of time that a server has unless a test asks for others: on a busy machine, too, none ends.
LIMITS = dict.fromkeys(
    ("timeout", "body_timeout", "header_timeout", "keep_alive", "run_timeout"), LATER
)
CLIENTS = ("httpx2", "httpcore2", "urllib3")  # who logs in this process but is not the server


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALEXNET_")}
    given = {f"ALEXNET_{name.upper()}": str(value) for name, value in settings.items()}
    ours = {"ALEXNET_DEVICE": "cpu", "ALEXNET_LOG_FORMAT": "text"}
    return kept | ours | given | {"PYTHONUNBUFFERED": "1"}


@dataclass
class Live:
    """A server that runs, clients of it (a raw one, and the package's own), and its log."""

    url: str
    client: httpx2.Client
    service: Client
    log: list[str]

    @property
    def address(self) -> tuple[str, int]:
        """For those who speak to it through a socket."""
        place = urlsplit(self.url)
        return str(place.hostname), place.port or 0

    def logged(self, words: str) -> bool:
        """Whether a line of the log has these words."""
        return any(words in line for line in self.log)

    def until_pending(self, wanted: int) -> None:
        """Wait until so many images are accepted and unanswered."""
        health = partial(self.client.get, "/health")
        until(lambda: health().json()["queue"]["pending"] == wanted, f"{wanted} pending")


@dataclass
class InThread(Live):
    """A server in a thread of this process, whose engine can be held."""

    app: FastAPI
    server: application.Server
    gate: "Gate"
    thread: threading.Thread
    statuses: list[int] = field(default_factory=list)

    @property
    def running(self) -> ServiceState:
        """What the application runs on, and what it is in the middle of."""
        return cast(ServiceState, self.app.state.service)

    def until_queued(self) -> None:
        """Wait until no image that was accepted is on its way to the queue: read, decoded."""
        batcher = self.running.classifier.batcher
        until(lambda: not batcher._expected, "all that was accepted is in the queue")

    def terminate(self) -> None:
        """What SIGTERM does."""
        self.server.should_exit = True

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit status, once the server has ended."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the server did not end"
        return self.statuses[0]

    def reload(self) -> None:
        """What SIGHUP does."""
        loop = self.server.servers[0].get_loop()
        loop.call_soon_threadsafe(self.server.reloader.request)


@dataclass
class InProcess(Live):
    """A server of its own process."""

    process: "subprocess.Popen[str]"


class Gate:
    """Where the runs of an engine wait while it is closed."""

    def __init__(self, engine: Engine) -> None:
        self._open = threading.Event()
        self._open.set()
        self._arrived = threading.Semaphore(0)
        engine.outputs = partial(self._pass, engine.outputs)  # type: ignore[method-assign]

    def _pass(self, run: Callable[..., Any], *arguments: Any, **how: Any) -> Any:
        if not self._open.is_set():
            self._arrived.release()
            assert self._open.wait(PATIENCE), "the gate was not opened"
        return run(*arguments, **how)

    @contextmanager
    def closed(self) -> Iterator["Gate"]:
        """Hold every run that begins in the block, until its end or `open`."""
        self._arrived = threading.Semaphore(0)  # those of earlier blocks are not counted
        self._open.clear()
        try:
            yield self
        finally:
            self._open.set()

    def open(self) -> None:
        """Let all runs go on."""
        self._open.set()

    def until_held(self) -> None:
        """Wait until one more run stands before the gate."""
        assert self._arrived.acquire(timeout=PATIENCE), "no run has begun"


@contextmanager
def serving(model: Path, **settings: Any) -> Iterator[InThread]:
    """Serve `model` in a thread until the block ends."""
    with ExitStack() as block:
        given = {"port": 0, "model": model, **LIMITS, **settings}
        with patch.dict(os.environ, environment(**given), clear=True):
            wanted = load_settings()
            log = block.enter_context(_logging(wanted))
            engine = load_engine(wanted)
            app = application.create_app(wanted, engine)
        listeners = [listener(wanted.host, wanted.port, "port")]
        if wanted.admin_port is not None:
            listeners.append(listener(wanted.admin_host, wanted.admin_port, "admin_port"))
            app.state.service.admin_port = listeners[1].getsockname()[1]
        started = threading.Event()
        server = Server(app, started.set, partial(load_engine, wanted))
        statuses: list[int] = []

        def run() -> None:
            try:
                server.run(sockets=listeners)
                dead = app.state.service.dead
                statuses.append(application.CRASHED if dead else 0)
            finally:
                started.set()

        thread = threading.Thread(target=run, name="server")
        thread.start()
        block.callback(_end, server, thread)
        assert started.wait(PATIENCE), "the server did not start"
        scheme = "https" if wanted.ssl_certfile else "http"
        port = listeners[0].getsockname()[1]
        url = f"{scheme}://{in_url(wanted.host)}:{port}"
        client, service = block.enter_context(_clients(url))
        gate = Gate(engine)
        yield InThread(url, client, service, log, app, server, gate, thread, statuses)


class Server(application.Server):
    """It closes at its end what the end of a process would close."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            cast(Connection, connection).abort()
        await asyncio.sleep(0)  # for the loop to do so


def _end(server: application.Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the server did not end"


@contextmanager
def _logging(settings: Settings) -> Iterator[list[str]]:
    """The lines that `alexnet serve` would log, as they come."""
    log = Lines()
    handler = logs.handler(log, as_json=logs.is_json(settings.log_format, None))
    handler.addFilter(_its_own)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    try:
        yield log.lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _its_own(record: logging.LogRecord) -> bool:
    record.exc_text = None  # how another handler, pytest's, has written the traceback
    return not record.name.startswith(CLIENTS)


class Lines(StringIO):
    """A stream that keeps what is written as a list of lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        self.lines += text.splitlines(keepends=True)
        return len(text)


@contextmanager
def _clients(url: str) -> Iterator[tuple[httpx2.Client, Client]]:
    with (  # the tests' certificates are signed by nobody
        httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False, verify=False) as client,
        Client(url, timeout=PATIENCE, retries=0, verify=False) as service,
    ):
        yield client, service


@contextmanager
def serving_process(
    model: Path,
    *,
    program: Sequence[str] = ("-m", "service", "serve"),
    folder: Path = ROOT,
    **settings: Any,
) -> Iterator[InProcess]:
    """Serve `model` in a process until the block ends; it chooses its port and prints it."""
    variables = environment(**{"port": 0, "model": model, **LIMITS, **settings})
    paths = [str(ROOT), *filter(None, [variables.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=folder,
        env=variables | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    log: list[str] = []
    # Reads on once the server has started, so that a full pipe does not stop it.
    reader = threading.Thread(target=log.extend, args=(process.stdout,), daemon=True)
    try:
        url = ""
        for line in process.stdout:
            log.append(line)
            if found := re.search(r"answers at (https?://\S+)", line):
                url = found[1]
                break
        assert url, f"the server did not start: {''.join(log)}"
        reader.start()
        with _clients(url) as (client, service):
            yield InProcess(url, client, service, log, process)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            if reader.is_alive():
                reader.join(PATIENCE)
            process.stdout.close()


def until(holds: Callable[[], object], what: str = "what was waited for") -> None:
    """Wait until it holds; no test knows how long that takes."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.02)


def certified(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate that `name` has signed itself, and its key; skips where it cannot be made."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs the openssl command")
    paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
    subprocess.run(
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split()
        + f"-days 2 -subj /CN={name} -out {paths[0]} -keyout {paths[1]}".split(),
        check=True,
        capture_output=True,
    )
    return paths
