"""
Settings and an engine -> ASGI application and its server.

The only place where the parts are put together.  Nothing is built at import.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi_offline import FastAPIOffline

from service.errors import SettingsInvalid
from service.http import middleware, server
from service.http.access import Keys
from service.http.middleware import tracing
from service.http.middleware.access_log import SECURITY_HEADERS
from service.http.routes import docs, health, open_inference, page, platforms, torchserve, v1
from service.http.server.reload import Reloader
from service.http.state import ServiceState
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.settings import Settings, limits, spelled
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import ModelNames

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
    name = settings.model_name
    paths = (*v1.PATHS, *open_inference.paths(name), *torchserve.paths(name))
    paths += platforms.paths(settings)
    metrics = Metrics(lambda: health.reading(state), ModelNames(name), routes=paths)
    classifier = Classifier(
        engine,
        limits(settings),
        on_run=metrics.ran,
        on_death=lambda reason: state.on_engine_death(reason),
    )
    state = ServiceState(settings, classifier)
    tracer = tracing.provider(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await classifier.start()
        try:
            yield
        finally:
            await state.stop()
            if tracer is not None:
                left = state.deadline - asyncio.get_running_loop().time()
                await tracing.flush(tracer, left)

    app = FastAPIOffline(
        title="AlexNet",
        version=VERSION,
        description=DESCRIPTION,
        # Relative to the document: below a proxy's path prefix, too, it is the service's address.
        servers=[{"url": "."}],
        docs_url=None,  # routes/docs.py serves it
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,  # a path with a stray slash is a 404 in the service's shape
        generate_unique_id_function=docs.operation_id,
        telemetry=tracing.telemetry(tracer),
    )
    app.state.service = state
    guards = middleware.install(app, state, metrics, paths, tracer)
    for classifying in (v1.router, open_inference.router(name), torchserve.router(name)):
        app.include_router(classifying, dependencies=guards)
    app.include_router(health.router)
    app.include_router(open_inference.about)
    app.include_router(open_inference.about_models, dependencies=[open_inference.names_model(name)])
    for open_to_all in (torchserve.about, page.router, docs.router):
        app.include_router(open_to_all)
    docs.describe_choices(app, state)
    platforms.check_routes(app, settings)
    app.include_router(platforms.router(settings), dependencies=guards)
    app.include_router(platforms.about(settings))
    # The framework would build its routes at the first request, for 0.1 s.
    deque(iter_route_contexts(app.routes), maxlen=0)
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
        self._state: ServiceState = app.state.service
        self._keys: Keys = app.state.access.keys
        self._announce = announce
        self._load = load
        self._on_terminal = _is_terminal()
        settings = self._state.settings
        config = uvicorn.Config(
            app,
            log_config=None,  # __main__ has set up logging
            log_level=settings.log_level,
            access_log=False,  # middleware/access_log.py says more under load, and costs less
            server_header=False,
            ws="none",
            http=server.protocol(
                server.Limits(
                    header_timeout=settings.header_timeout,
                    keep_alive=settings.keep_alive,
                    max_connections=server.within_file_limit(settings.max_connections),
                    max_connections_per_address=settings.max_connections_per_address,
                ),
                headers=SECURITY_HEADERS,
                admin_port=self._state.admin_port,
            ),
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
        with certificate_read(settings):
            config.load()
        self._tls = server.accept_tls_within_limits(config)
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
        self.reloader = Reloader(self._state, self._load, self._renewable())
        # As uvicorn's own signals, it is the main thread's alone.
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._announce()

    def _hang_up(self) -> None:
        """SIGHUP asks to reload, unless the terminal that started the process is gone."""
        if self._on_terminal and not _is_terminal():
            self.should_exit = True
        else:
            self.reloader.request()

    def _renewable(self) -> dict[str, Callable[[], object]]:
        """What is read again on SIGHUP beside the model."""
        renewable: dict[str, Callable[[], object]] = {}
        if self._state.settings.api_keys_file is not None:
            renewable["key file"] = self._keys.reload
        if self._tls is not None:
            renewable["certificate"] = certificate_read(self._state.settings)(self._tls.renew)
        return renewable

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop: it was asked to, or nothing can be answered any more."""
        return await super().on_tick(counter) or self._state.dead

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn unready, let accepted work finish within the limit, then close."""
        state = self._state
        state.draining = True
        # Clients are told not to use a connection again, so that none does while it is closed.
        self.server_state.default_headers.append((b"connection", b"close"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = state.deadline = began + state.settings.shutdown_timeout
        farewell = min(deadline, began + FAREWELL)
        # uvicorn's force_exit is a plain flag, with nothing to wait on.
        while not self.force_exit and (  # noqa: ASYNC110
            (state.in_flight and loop.time() < deadline)
            or (self.server_state.connections and loop.time() < farewell)
        ):
            await asyncio.sleep(0.02)
        if state.classifier.batcher.pending and not self.force_exit:
            state.die(state.too_late)
            state.classifier.batcher.abandon(state.too_late)
        # To write the last answers out.
        self.config.timeout_graceful_shutdown = 1
        await super().shutdown(sockets)


@contextmanager
def certificate_read(settings: Settings) -> Iterator[None]:
    """One sentence for what keeps a certificate or its key from being read."""
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
    """Whether standard output is a terminal."""
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
    state: ServiceState = app.state.service
    if len(listeners) > 1:
        state.admin_port = listeners[1].getsockname()[1]
    if state.engine.warning:
        log.warning(state.engine.warning)
    server = Server(app, announce, load)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises a captured signal again when it has shut down, to die of it; with
        # its own handler in place beforehand that is harmless, and the exit status is 0.
        signal.signal(number, server.handle_exit)
    # The garbage collector need not walk what is loaded again and again, 50 ms each time.
    gc.freeze()
    server.run(sockets=list(listeners))
    return CRASHED if state.dead else 0
