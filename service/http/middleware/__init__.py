"""
Middleware and authentication, outermost first.  Access log, tracing, admission (with CORS); then
keys and rates, before the endpoints that classify.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.params import Depends as Dependency

from service.http.middleware import errors
from service.http.middleware.access_log import AccessLog
from service.http.middleware.admission import Admission, Cors, check_origins
from service.http.middleware.auth import AccessControl
from service.http.middleware.tracing import Traced
from service.http.state import ServiceState
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def install(
    app: FastAPI,
    state: ServiceState,
    metrics: Metrics,
    paths: Collection[str],
    tracer: "TracerProvider | None" = None,
) -> list[Dependency]:
    """
    Add the middleware to an application that has no routes yet; `paths` will classify.

    Returns the dependencies of every router that classifies.  Raises `SettingsInvalid`.
    """
    settings = state.settings
    check_origins(settings.cors_origins)
    access = AccessControl.from_settings(settings)
    app.state.access, app.state.metrics = access, metrics
    errors.install(app)
    # The last to be added is the outermost.
    app.add_middleware(Admission, state=state, paths=paths)
    if settings.cors_origins:
        app.add_middleware(Cors, state=state)
    if tracer is not None:
        app.add_middleware(Traced, provider=tracer)
    app.add_middleware(AccessLog, metrics=metrics, lines=settings.access_log)
    return access.dependencies
