"""
The application as a deployment of Ray Serve.  Its address is `import_path: service.ray_app:build`.

    Ray's proxy -> one of several replicas -> `create_app`, around an engine of the replica's own

A replica is a process that loads the model, batches for itself, and computes with the CPUs or the
GPU that Ray has given it.  Ray owns the port and the connections, starts and stops replicas, and
replaces one that has died or whose `check_health` fails.  See docs/ray.md and deploy/ray/.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.errors import NotReady, SettingsInvalid, StartError
from service.http.state import ServiceState
from service.inference.providers import CPU, PROVIDERS, needs_gpu
from service.settings import SECRETS, Settings, load_engine, load_settings, spelled
from service.telemetry import logs

try:
    import ray
    from ray import serve
    from ray.serve.config import AutoscalingConfig, BackpressureConfig
except ImportError as error:
    raise StartError(
        "Ray Serve is not installed: scripts/install run ray, or pip install 'ray[serve]'"
    ) from error

log = logging.getLogger("service.ray_app")

NAME: Final = "AlexNet"  # of the deployment, to which a Serve config refers
# Of Ray's proxy: where it accepts, how long it keeps a connection, how it speaks TLS.
OF_THE_PROXY: Final = (
    "host",
    "port",
    "header_timeout",
    "keep_alive",
    "max_connections",
    "max_connections_per_address",
    "admin_host",
    "admin_port",
    "ssl_certfile",
    "ssl_keyfile",
)
IN_HAND: Final = 4  # batches: one runs, one waits, two are on their way to be decoded
AFTERWARDS: Final = 5.0  # seconds to end, once what was accepted is answered


class Arguments(BaseModel):
    """The `args` of an application in a Serve config."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = Field(
        default={}, description="ALEXNET_* settings by their names, such as max_batch."
    )


def build(args: Arguments) -> serve.Application:
    """The application; `deployments` in the Serve config wins.  Raises `SettingsInvalid`."""
    return deployment(args.settings).bind(args.settings)


def deployment(chosen: Mapping[str, Any]) -> serve.Deployment:
    """
    The deployment with defaults that follow the settings; bind it to the same ones.

    A replica asks for another when it holds a full batch of requests, so that batches form before
    replicas do.  It takes up to `IN_HAND` batches; what is more waits in the proxy, where it is
    not lost with the replica, up to `max_queue` requests, and is then refused with 503.

    Raises `SettingsInvalid`.
    """
    settings = _settings(chosen)
    return serve.deployment(
        name=NAME,
        autoscaling_config=AutoscalingConfig(
            min_replicas=1, max_replicas=2, target_ongoing_requests=settings.max_batch
        ),
        max_ongoing_requests=min(IN_HAND * settings.max_batch, settings.max_queue),
        max_queued_requests=settings.max_queue,
        backpressure_config=BackpressureConfig(retry_after_s=1),
        health_check_period_s=2,  # Ray replaces a replica that fails three checks
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.shutdown_timeout + AFTERWARDS,
        max_constructor_retry_count=3,  # what fails to start thrice will go on to
    )(_Replica)


@serve.ingress()
class _Replica:
    """One process with one engine; Ray calls its methods."""

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        self._chosen = chosen

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Load and check the engine; Ray runs the lifespan.  Raises `StartError`."""
        given = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        settings = within(_settings(self._chosen), given)  # the environment is this node's
        logs.install(settings.log_level, as_json=logs.is_json(settings.log_format, sys.stderr))
        engine = load_engine(settings)
        log.info("%s on %s, threads: %d", engine.model.name, engine.provider, settings.threads)
        app = create_app(settings, engine)
        app.add_middleware(_OneRequestId)
        self._state: ServiceState = app.state.service
        return app

    async def check_health(self) -> None:
        """Raise if no image can be classified any more."""
        if not self._state.ready:
            raise NotReady(f"the replica is {self._state.status}; its log says why")


class _OneRequestId:
    """Leaves `X-Request-ID` to Ray's proxy, which adds the one that it sent with the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def leaving_out(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message["headers"] if k != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, leaving_out)


def _settings(chosen: Mapping[str, Any]) -> Settings:
    """From a Serve config and the environment.  Raises `SettingsInvalid`."""
    for name in chosen:
        if name in OF_THE_PROXY:
            raise SettingsInvalid(
                f"{name} means nothing behind Ray's proxy, which owns the connections; take it "
                "away, and see http_options in the Serve config."
            )
        if name in SECRETS:
            raise SettingsInvalid(
                f"{name} cannot be in a Serve config, which Ray shows to anyone who asks; "
                f"set {spelled(name)} in the environment of the nodes, or api_keys_file."
            )
    return load_settings(**chosen)


def within(settings: Settings, given: Mapping[str, float]) -> Settings:
    """
    The settings that keep a replica to the resources that Ray has given it.

    Where the operator has not chosen, `threads` are its CPUs, and `device` is the first that
    computes on a GPU if it has one, else the CPU.  Raises `SettingsInvalid` for such a device
    without a GPU, and for a GPU's number.
    """
    cpus, gpus = given.get("CPU", 0), given.get("GPU", 0)
    if settings.gpu is not None:
        raise SettingsInvalid(
            f"{spelled('gpu')} is {settings.gpu}, but Ray chooses the GPU of each replica; leave "
            "it out, and set num_gpus in ray_actor_options."
        )
    if needs_gpu(settings.device) and not gpus:
        raise SettingsInvalid(
            f"{spelled('device')} is {settings.device!r}, but Ray has given the replica no GPU; "
            "set num_gpus in ray_actor_options."
        )
    automatic = next((each for each in PROVIDERS if each.gpu and gpus), CPU)
    return settings.model_copy(
        update={
            "threads": settings.threads or (max(1, int(cpus)) if cpus else 0),
            "device": automatic.device if settings.device == "auto" else settings.device,
        }
    )
