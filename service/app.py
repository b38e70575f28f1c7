"""
Settings and an engine -> an ASGI application, and the server that carries it.

The only place where the parts are put together.  Nothing is built at import.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.errors import SettingsInvalid
from service.http import server
from service.http.access import Keys
from service.http.middleware import errors, headers, tracing
from service.http.middleware.admission import Admission
from service.http.routes import docs, health, open_inference, page, torchserve, v1
from service.http.server.reload import Reloader
from service.http.state import Running
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.settings import Settings, limits, spelled
from service.telemetry.metrics import Metrics

log = logging.getLogger("service.app")

CRASHED: Final = 70  # EX_SOFTWARE of sysexits.h
FAREWELL: Final = 0.5  # seconds that idle connections stay open at the end, to be told that it is
VERSION: Final = "1"  # of the HTTP interface, the 1 of /v1

DESCRIPTION: Final = """\
Send an image, get its best ImageNet classes from AlexNet, averaged over ten crops.

    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' http://HOST:PORT/v1/predict

Whatever is refused is answered with `{"error": "...", "code": "..."}`.
"""


def create_app(settings: Settings, engine: Engine) -> FastAPI:
    """Build the application around an engine that is loaded and checked."""
    doors_that_classify = (v1, open_inference, torchserve)
    paths = [path for door in doors_that_classify for path in door.PATHS]
    metrics = Metrics(lambda: health.reading(running), routes=paths)
    classifier = Classifier(
        engine,
        limits(settings),
        on_run=metrics.ran,
        on_death=lambda reason: running.lose(reason),
    )
    running = Running(settings, classifier)
    tracer = tracing.provider(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await classifier.start()
        try:
            yield
        finally:
            await running.stop()
            if tracer is not None:
                left = running.deadline - asyncio.get_running_loop().time()
                await tracing.flush(tracer, left)

    app = FastAPIOffline(
        title="AlexNet",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,  # routes/docs.py has it
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,  # a path with a stray slash is a 404 in our shape
        telemetry=tracing.telemetry(tracer),
    )
    app.state.running = running
    app.add_middleware(Admission, running=running, paths=paths)
    errors.install(app)
    guards = headers.install(app, running, metrics, tracer)
    for door in doors_that_classify:
        app.include_router(door.router, dependencies=guards)
    for open_to_all in (
        health.router,
        open_inference.about,
        torchserve.about,
        page.router,
        docs.router,
    ):
        app.include_router(open_to_all)
    return app


class Server(uvicorn.Server):
    """
    uvicorn, ended politely.

    It would close its port at once on SIGTERM.  Here readiness turns 503 first and the
    port stays open until what was accepted is answered, so that probes see a server that
    drains rather than one that crashed.
    """

    def __init__(
        self, app: FastAPI, announce: Callable[[], None], load: Callable[[Engine], Engine]
    ) -> None:
        self._running: Running = app.state.running
        self._keys: Keys = app.state.doors.keys
        self._announce = announce
        self._load = load
        self._on_terminal = _is_terminal()
        settings = self._running.settings
        config = uvicorn.Config(
            app,
            log_config=None,  # __main__ has set up logging
            log_level=settings.log_level,
            access_log=False,  # ours says more under load, and costs less
            server_header=False,
            ws="none",
            http=server.protocol(
                server.Limits(
                    header_timeout=settings.header_timeout,
                    keep_alive=settings.keep_alive,
                    max_headers=settings.max_headers,
                    max_connections=server.within_file_limit(settings.max_connections),
                ),
                headers=headers.SECURITY_HEADERS,
                admin_port=self._running.admin_port,
            ),
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
        with _certificate_read(settings):
            config.load()
        self._tls = server.greet_within_limits(config)
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise SettingsInvalid(
                f"cannot listen: {error.strerror}; another server has just taken the port, choose "
                "another with --port or --admin-port"
            ) from error
        self.reloader = Reloader(self._running, self._load, self._renewable())
        # Windows has no SIGHUP; and as uvicorn's own signals, it is the main thread's alone.
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._announce()

    def _hang_up(self) -> None:
        """SIGHUP is the wish to reload; unless the terminal that we were started from is gone."""
        if self._on_terminal and not _is_terminal():
            self.should_exit = True
        else:
            self.reloader.request()

    def _renewable(self) -> dict[str, Callable[[], object]]:
        """What is read again on SIGHUP beside the model."""
        renewable: dict[str, Callable[[], object]] = {}
        if self._running.settings.api_keys_file is not None:
            renewable["key file"] = self._keys.reload
        if self._tls is not None:
            renewable["certificate"] = _certificate_read(self._running.settings)(self._tls.renew)
        return renewable

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop: asked to, or since nothing can be answered any more."""
        return await super().on_tick(counter) or self._running.dead

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn unready, let accepted work finish within the limit, then close."""
        running = self._running
        running.draining = True
        # Clients that come again on a connection are told not to, lest they do while it is closed.
        self.server_state.default_headers.append((b"connection", b"close"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = running.deadline = began + running.settings.shutdown_timeout
        farewell = min(deadline, began + FAREWELL)
        # uvicorn's force_exit is a plain flag, with nothing to wait on.
        while not self.force_exit and (  # noqa: ASYNC110
            (running.in_flight and loop.time() < deadline)
            or (self.server_state.connections and loop.time() < farewell)
        ):
            await asyncio.sleep(0.02)
        if running.classifier.batcher.pending and not self.force_exit:
            running.die(running.too_late)
            running.classifier.batcher.give_up(running.too_late)
        # To write the last answers out.
        self.config.timeout_graceful_shutdown = 1
        await super().shutdown(sockets)


@contextmanager
def _certificate_read(settings: Settings) -> Iterator[None]:
    """One sentence for whatever keeps a certificate or its key from being read."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        key = settings.ssl_keyfile or "the key is in it too"
        raise SettingsInvalid(
            f"{spelled('ssl_certfile')} ({settings.ssl_certfile}) and {spelled('ssl_keyfile')} "
            f"({key}) cannot be used ({error.strerror or error}); both are PEM, and the key must "
            "be the certificate's."
        ) from error


def _is_terminal() -> bool:
    """Whether somebody is there to see what we print."""
    terminal = sys.__stdout__  # sys.stdout is redirected while a model is loaded
    return terminal is not None and terminal.isatty()


def serve(
    app: FastAPI,
    listeners: Sequence[socket.socket],
    announce: Callable[[], None],
    load: Callable[[Engine], Engine],
) -> int:
    """
    Serve on bound sockets, the second of them the admin port, until SIGTERM or SIGINT.

    `load` reads the model again, on SIGHUP, in place of the current engine.  Returns the exit
    status: 0, or `CRASHED` if the model can no longer be run, to be started again.
    """
    service: Running = app.state.running
    if len(listeners) > 1:
        service.admin_port = listeners[1].getsockname()[1]
    if service.engine.warning:
        log.warning(service.engine.warning)
    server = Server(app, announce, load)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises a captured signal anew when it has shut down, to die of it; with
        # its own handler in place beforehand that is harmless, and the exit status is 0.
        signal.signal(number, server.handle_exit)
    # What is loaded stays: the garbage collector need not walk it again and again, 50 ms each time.
    gc.freeze()
    server.run(sockets=list(listeners))
    return CRASHED if service.dead else 0
