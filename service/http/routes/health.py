"""
GET /health, /livez and /readyz, and /metrics for Prometheus.

Live means that the dispatcher runs; ready, that an image sent now would be classified.  They need
no key and are not refused under load, since they touch no queue.
"""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from service.cgroups import memory_limit
from service.http.middleware.errors import ErrorAnswer, documented
from service.http.routes.v1 import ModelAnswer
from service.http.state import ServiceState, state_of
from service.telemetry.metrics import OPEN_METRICS, Metrics, Snapshot

EXPOSITIONS: Final = ("text/plain", OPEN_METRICS)
RELOADED: Final = ("model", "key file", "certificate")  # the names in `ServiceState.stale`
NOT_READY: Final = "Not ready: starting or draining"
FOLDERS: Final = re.compile(r"(?<![\w.:/])/(?:[\w.+@-]+/)+")  # of a path, not of a URL


class HealthModel(ModelAnswer):
    """The model in use, with what was measured of it."""

    accuracy: Any


class HealthQueue(BaseModel):
    """Images that wait, and how many may."""

    pending: int
    limit: int


class HealthAnswer(BaseModel):
    """Readiness with its details."""

    status: str
    model: HealthModel
    provider: str
    nodes: dict[str, int] = Field(
        description="How many of the network's nodes each provider computes; none where all are "
        "the CPU's."
    )
    device_requested: str
    warning: str | None
    queue: HealthQueue


class StatusAnswer(BaseModel):
    """Readiness or liveness in a word."""

    status: str


def unwell(answer: type[BaseModel], reason: str = NOT_READY) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` of a check: what any request may meet, and its own 503."""
    responses = documented()
    responses[503] |= {"model": answer | ErrorAnswer, "description": reason}
    return responses


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def check(
    router: APIRouter, path: str, answer: type[BaseModel], *, summary: str, unready: str = NOT_READY
) -> Callable[[Endpoint], Endpoint]:
    """Route GET and HEAD of a check, which answers with `answer`: 200, or 503 when `unready`."""

    def route(endpoint: Endpoint) -> Endpoint:
        responses = unwell(answer, unready)
        router.get(path, summary=summary, response_model=answer, responses=responses)(endpoint)
        router.head(path, include_in_schema=False)(endpoint)
        return endpoint

    return route


router = APIRouter(tags=["operations"])


@check(router, "/health", HealthAnswer, summary="Ready or not, and the details")
async def health(request: Request) -> Response:
    """What runs, where it runs, and how full the queue is."""
    state = state_of(request)
    return report(_health(state), state.ready)


@check(router, "/readyz", StatusAnswer, summary="Readiness probe")
async def readyz(request: Request) -> Response:
    """200 while an image sent now would be classified, 503 otherwise."""
    state = state_of(request)
    return report(StatusAnswer(status=state.status), state.ready)


@check(
    router,
    "/livez",
    StatusAnswer,
    summary="Liveness probe",
    unready="The dispatcher has stopped",
)
async def livez(request: Request) -> Response:
    """200 while the dispatcher's heart beats; 503 asks for a restart."""
    alive = state_of(request).classifier.batcher.alive
    return report(StatusAnswer(status="alive" if alive else "stopped"), alive)


@router.head("/metrics", include_in_schema=False)
@router.get(
    "/metrics",
    summary="For Prometheus",
    response_class=Response,
    responses=documented()
    | {
        200: {
            "content": {kind: {"schema": {"type": "string"}} for kind in EXPOSITIONS},
            "description": "OK",
        }
    },
)
async def metrics(request: Request) -> Response:
    """Counters, histograms and gauges: Prometheus's text format, or OpenMetrics if accepted."""
    measured: Metrics = request.app.state.metrics
    text, media_type = measured.text(request.headers.get("accept", ""))
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    return Response(text, media_type=media_type, headers=headers)


def reading(state: ServiceState) -> Snapshot:
    """What the metrics tell of a service, read when they are asked for."""
    engine, batcher, settings = state.engine, state.classifier.batcher, state.settings
    return Snapshot(
        pending=batcher.pending,
        limit=settings.max_queue,
        batch_limit=settings.max_batch,
        in_flight=state.in_flight,
        held=state.held,
        held_limit=settings.max_uploads,
        memory_limit=memory_limit(),
        ready=state.ready,
        degraded=engine.warning is not None,
        reloads={what: what in state.stale for what in RELOADED},
        facts={
            "provider": engine.provider,
            "device_requested": engine.device_requested,
            **engine.model.facts("model"),
        },
    )


def _health(state: ServiceState) -> HealthAnswer:
    engine, model, batcher = state.engine, state.engine.model, state.classifier.batcher
    return HealthAnswer(
        status=state.status,
        model=HealthModel(**model.facts(), accuracy=model.accuracy),
        provider=engine.provider,
        nodes=dict(engine.nodes),
        device_requested=engine.device_requested,
        # Reasons are the runtime's own words, which may name where it is installed.
        warning=FOLDERS.sub("", state.warning) if state.warning else None,
        queue=HealthQueue(pending=batcher.pending, limit=state.settings.max_queue),
    )


def report(answer: BaseModel, well: bool) -> Response:
    """Answer a check: 200 or 503, never from a cache."""
    headers = {"Cache-Control": "no-store"}
    return JSONResponse(answer.model_dump(mode="json"), 200 if well else 503, headers=headers)
