"""GET /v2 and below: metadata, without a key.  It is that of the server and its models."""

from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.params import Depends as Dependency
from fastapi.responses import JSONResponse

from service import __version__
from service.http.middleware.errors import documented, missing
from service.http.routes.health import check, report, unwell
from service.http.routes.open_inference import served_models
from service.http.routes.open_inference.schema import (
    UNKNOWN,
    IndexEntry,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.http.routes.open_inference.served_models import Served
from service.http.state import state_of
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import VERSION

EXTENSIONS: Final = ("binary_tensor_data", "classification", "model_configuration", "statistics")
NO_STORE: Final = {"Cache-Control": "no-store"}

about = APIRouter(tags=["open inference"])
about_models = APIRouter(tags=["open inference"])  # after `about`, to depend on `names_model`


def names_model(name: str) -> Dependency:
    """What declares the path's `model`, whose names the OpenAPI document lists."""
    listed = Path(json_schema_extra={"enum": list(served_models.models(name))})

    async def declared(model: Annotated[str, listed]) -> None:
        """Others are refused by the endpoints."""

    return cast(Dependency, Depends(declared))


@check(
    about,
    "/v2/health/live",
    ServerLive,
    summary="Liveness probe",
    unready="The dispatcher has stopped",
)
async def live(request: Request) -> Response:
    """As /livez."""
    alive = state_of(request).classifier.batcher.alive
    return report(ServerLive(live=alive), alive)


@check(about, "/v2/health/ready", ServerReady, summary="Readiness probe")
async def ready(request: Request) -> Response:
    """As /readyz."""
    well = state_of(request).ready
    return report(ServerReady(ready=well), well)


@about.get(
    "/v2",
    summary="The server and its extensions",
    response_model=ServerMetadata,
    responses=documented(),
)
async def server() -> Response:
    """Only the extensions that are here whole."""
    answer = ServerMetadata(
        name="alexnet-service", version=__version__, extensions=list(EXTENSIONS)
    )
    return JSONResponse(answer.model_dump())


@about.get(
    "/v2/models/stats",
    summary="What the models have done",
    response_model=dict[str, Any],
    responses=documented(),
)
async def all_statistics(request: Request) -> Response:
    """Triton's statistics of both models."""
    return _statistics(request, list(_models(request).values()))


@about.post(
    "/v2/repository/index",
    summary="The models",
    response_model=list[IndexEntry],
    responses=documented(),
)
async def index(request: Request) -> Response:
    """Both models; the body is not looked at."""
    state = state_of(request)
    status, reason = ("READY", "") if state.ready else ("UNAVAILABLE", state.status)
    return JSONResponse(
        [
            {"name": name, "version": VERSION, "state": status, "reason": reason}
            for name in _models(request)
        ],
        headers=NO_STORE,
    )


@about_models.get("/v2/models/{model}/versions/{version}", include_in_schema=False)
@about_models.get(
    "/v2/models/{model}",
    summary="What a model takes and gives",
    response_model=ModelMetadata,
    responses=documented() | UNKNOWN,
)
async def metadata(request: Request) -> Response:
    """Inputs and outputs; also at /versions/1."""
    if (served := _served(request)) is None:
        return _not_found(request)
    return JSONResponse(served_models.metadata(served, state_of(request)))


@about_models.head("/v2/models/{model}/versions/{version}/ready", include_in_schema=False)
@about_models.head("/v2/models/{model}/ready", include_in_schema=False)
@about_models.get("/v2/models/{model}/versions/{version}/ready", include_in_schema=False)
@about_models.get(
    "/v2/models/{model}/ready",
    summary="Whether a model answers",
    response_model=ModelReady,
    responses=unwell(ModelReady) | UNKNOWN,
)
async def model_ready(request: Request) -> Response:
    """As /readyz: both models are ready, or none."""
    if (served := _served(request)) is None:
        return _not_found(request)
    well = state_of(request).ready
    return report(ModelReady(name=served.name, ready=well), well)


@about_models.get("/v2/models/{model}/versions/{version}/config", include_in_schema=False)
@about_models.get(
    "/v2/models/{model}/config",
    summary="How a model is set up",
    response_model=dict[str, Any],
    responses=documented() | UNKNOWN,
)
async def config(request: Request) -> Response:
    """Triton's model configuration; the crops that are offered are among its parameters."""
    if (served := _served(request)) is None:
        return _not_found(request)
    return JSONResponse(served_models.config(served, state_of(request)))


@about_models.get("/v2/models/{model}/versions/{version}/stats", include_in_schema=False)
@about_models.get(
    "/v2/models/{model}/stats",
    summary="What a model has done",
    response_model=dict[str, Any],
    responses=documented() | UNKNOWN,
)
async def model_statistics(request: Request) -> Response:
    """Triton's statistics of one model."""
    if (served := _served(request)) is None:
        return _not_found(request)
    return _statistics(request, [served])


@about_models.post("/v2/models/{model}/versions/{version}/infer", include_in_schema=False)
@about_models.post("/v2/models/{model}/infer", include_in_schema=False)
async def unknown(request: Request) -> Response:
    """The models that there are have routes of their own, behind the keys."""
    return _not_found(request)


def _models(request: Request) -> dict[str, Served]:
    return served_models.models(state_of(request).names.tensor)


def _served(request: Request) -> Served | None:
    if request.path_params.get("version", VERSION) != VERSION:
        return None
    return _models(request).get(request.path_params["model"])


def _not_found(request: Request) -> Response:
    asked = "".join(f", {name} {value!r}" for name, value in request.path_params.items())
    known = " and ".join(_models(request))
    text = f"there is no such model{asked}; there are {known}, of version {VERSION}"
    return missing(request.url.path, text)


def _statistics(request: Request, served: list[Served]) -> Response:
    metrics: Metrics = request.app.state.metrics
    stats = [served_models.statistics(one, metrics.statistics[one.name]) for one in served]
    return JSONResponse({"model_stats": stats}, headers=NO_STORE)
