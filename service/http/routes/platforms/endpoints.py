"""
The endpoints of the rows in `contracts.py`, and the platforms' own checks of health.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Final, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel

from service.errors import ServiceError, SettingsInvalid
from service.http.middleware.errors import STATUSES, documented, methods_of, refusal
from service.http.routes.health import StatusAnswer, check, report
from service.http.routes.parameters import Crops, Top
from service.http.routes.platforms.contracts import (
    Contract,
    PredictionsAnswer,
    Query,
    by_path,
    read,
)
from service.http.routes.request import AcceptedRequest, Chunks, accept, write_answer
from service.http.routes.uploads import media_type
from service.http.state import ServiceState, state_of
from service.inference.limits import DEFAULT_TOP
from service.inference.predictions import top_k
from service.settings import Settings, spelled
from service.telemetry.request_record import VERSION

JSON: Final = "application/json"
TAG: Final = "platforms"

READINESS: Final = ("/health", "/readyz", "/ping", "/v2/health/ready")


def paths(settings: Settings) -> tuple[str, ...]:
    """Those that classify, and a full queue refuses."""
    return tuple(by_path(settings))


def router(settings: Settings) -> APIRouter:
    """The endpoints that classify, to be behind the keys."""
    routes = APIRouter(tags=[TAG])
    for path, contract in by_path(settings).items():
        routes.post(
            path,
            name=contract.operation,
            summary=f"Classify images, as {contract.platform} does",
            response_model=contract.answer,
            responses=documented(*STATUSES),
            openapi_extra={"requestBody": contract.request_body},
        )(_handler(contract))
    return routes


def _handler(contract: Contract) -> Callable[..., Awaitable[Response]]:
    """What classifies by one of the contracts."""

    async def classify(request: Request, top: Top = DEFAULT_TOP, crops: Crops = "ten") -> Response:
        async with accept(request, crops) as accepted:
            query = await accepted.read(
                lambda chunks: _query(request, chunks, contract, accepted, top)
            )
            accepted.crops = query.crops
            results = await accepted.classify(query.images)
        probabilities = []
        for number, result in enumerate(results):
            if isinstance(result, ServiceError):
                place = f"{contract.images}[{number}]: {result}"
                return refusal(result, place if len(results) > 1 else None)
            probabilities.append(result.probabilities)
        labels = accepted.engine.model.labels

        def body() -> str:
            best = [top_k(row, labels, query.top) for row in probabilities]
            return contract.write(best).model_dump_json()

        return Response(await write_answer(len(results) * query.top, body), media_type=JSON)

    classify.__doc__ = f"`{contract.images}` in JSON: encoded images in base64" + (
        "; or the image itself." if contract.raw else "."
    )
    return classify


async def _query(
    request: Request, chunks: Chunks, contract: Contract, accepted: AcceptedRequest, top: int
) -> Query:
    body = b"".join([chunk async for chunk in chunks])
    return read(
        body,
        contract,
        accepted.settings.max_files,
        is_json=media_type(request.headers) == JSON,
        top=top,
        crops=accepted.crops,
    )


class VersionError(BaseModel):
    """TensorFlow Serving's word for a version that is well, or not."""

    error_code: Literal["OK", "UNAVAILABLE"]
    error_message: str


class VersionStatus(BaseModel):
    """One version of a model, as TensorFlow Serving tells of it."""

    version: str
    state: Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]
    status: VersionError


class ModelStatus(BaseModel):
    """Readiness, as KServe's clients read it and as TensorFlow Serving's do."""

    name: str
    ready: bool
    model_version_status: list[VersionStatus]


def about(settings: Settings) -> APIRouter:
    """The checks, open to all."""
    routes = APIRouter(tags=[TAG])
    check(
        routes,
        _status_path(settings),
        ModelStatus,
        summary="Whether the model answers, as KServe v1 and TensorFlow Serving say it",
    )(model_status)
    route = settings.health_route
    if route is not None and route not in _readiness(settings):
        check(
            routes,
            route,
            StatusAnswer,
            summary="Whether the service can answer, as Vertex AI asks",
        )(health_route)
    return routes


async def model_status(request: Request) -> Response:
    """As /readyz, with what both platforms' clients look for."""
    state = state_of(request)
    return report(_model_status(state), state.ready)


async def health_route(request: Request) -> Response:
    """As /readyz."""
    state = state_of(request)
    return report(StatusAnswer(status=state.status), state.ready)


def _status_path(settings: Settings) -> str:
    return f"/v1/models/{settings.model_name}"


def _readiness(settings: Settings) -> tuple[str, ...]:
    """Where a platform may ask whether the service is ready, without a further route."""
    return (*READINESS, _status_path(settings))


def _model_status(state: ServiceState) -> ModelStatus:
    states: dict[str, Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]] = {
        "starting": "LOADING",
        "ready": "AVAILABLE",
        "draining": "UNLOADING",
        "dead": "END",
    }
    well = VersionError(error_code="OK", error_message="")
    unwell = VersionError(error_code="UNAVAILABLE", error_message=f"the service is {state.status}")
    version = VersionStatus(
        version=VERSION, state=states[state.status], status=well if state.ready else unwell
    )
    return ModelStatus(name=state.names.tensor, ready=state.ready, model_version_status=[version])


def check_routes(app: FastAPI, settings: Settings) -> None:
    """Raise `SettingsInvalid` for a further route where another endpoint answers; `app` has all
    endpoints but those of this package."""
    others = by_path(settings.model_copy(update={"predict_route": None}))
    alike = [path for path, its in others.items() if its.answer is PredictionsAnswer]
    _check_route(app, "predict_route", settings.predict_route, "POST", others, alike)
    _check_route(app, "health_route", settings.health_route, "GET", (), _readiness(settings))


def _check_route(
    app: FastAPI,
    field: str,
    route: str | None,
    method: str,
    others: Collection[str],
    alike: Collection[str],
) -> None:
    """`alike` are paths that answer as the further route would."""
    if route is None or route in alike:
        return
    if route in others or method in methods_of(app, route):
        raise SettingsInvalid(
            f"{spelled(field)} is {route!r}, where another endpoint of the service answers; choose "
            f"a path that is free, or one of {', '.join(alike)}."
        )
