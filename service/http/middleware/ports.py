"""
Which paths each port serves: health on both, docs and metrics where the settings say.

The port is the one that the connection came in by; no header is believed for it.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.middleware.errors import missing
from service.http.state import ServiceState

BOTH: Final = "both"
HEALTH: Final = ("/health", "/livez", "/readyz", "/ping")
DOCS: Final = ("/docs", "/openapi.json", "/static-offline-docs")


class Ports:
    """Answers 404 for a path that the request's port does not serve."""

    def __init__(self, app: ASGIApp, state: ServiceState) -> None:
        self._app = app
        self._state = state
        settings = state.settings
        self._ports = (
            dict.fromkeys(HEALTH, BOTH)
            | dict.fromkeys(DOCS, settings.docs)
            | {"/metrics": settings.metrics}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404, or pass the request on."""
        if scope["type"] == "http":
            first = "/" + scope["path"][1:].partition("/")[0]
            port = "admin" if came_by_admin_port(scope, self._state) else "main"
            if self._ports.get(first, "main") not in (port, BOTH):
                await missing(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def came_by_admin_port(scope: Scope, state: ServiceState) -> bool:
    """Whether the request's connection is one to the admin port."""
    server = scope.get("server")
    return bool(server and state.admin_port and server[1] == state.admin_port)
