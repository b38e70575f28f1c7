"""
Middleware and authentication, outermost first: access log and metrics, tracing, security headers,
CORS, ports, unhandled errors, admission; then keys and rates, before the endpoints that classify.
"""

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.params import Depends as Dependency

from service.http.middleware.access_log import AccessLog, Observed
from service.http.middleware.auth import AccessControl
from service.http.middleware.errors import LastResort
from service.http.middleware.headers import Cors, SecurityHeaders, check_origins
from service.http.middleware.ports import Ports
from service.http.middleware.tracing import Traced
from service.http.state import ServiceState
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def install(
    app: FastAPI, state: ServiceState, metrics: Metrics, tracer: "TracerProvider | None" = None
) -> list[Dependency]:
    """
    Add the middleware to an application that has no routes yet.

    Returns the dependencies of every router that classifies.  Raises `SettingsInvalid`.
    """
    settings = state.settings
    check_origins(settings.cors_origins)
    access = AccessControl.from_settings(settings)
    app.state.access, app.state.metrics = access, metrics
    # The last to be added is the outermost.
    app.add_middleware(LastResort)
    app.add_middleware(Ports, state=state)
    if settings.cors_origins:
        app.add_middleware(Cors, state=state)
    app.add_middleware(SecurityHeaders)
    if tracer is not None:
        app.add_middleware(Traced, made=tracer)
    app.add_middleware(Observed, observers=[metrics.count, AccessLog()])
    return [access.dependency]
