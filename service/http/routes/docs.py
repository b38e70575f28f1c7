"""
GET /docs: Swagger UI over /openapi.json.  Its files come with `fastapi_offline`.

Its addresses are relative, as the page's.  The script that starts it is written in it, and
allowed by its hash alone.
"""

import base64
import hashlib
import re
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from service.http.routes.parameters import DETAILS
from service.http.state import ServiceState

FORM: Final = "multipart/form-data"
ASSETS: Final = "static-offline-docs"  # where `FastAPIOffline` serves them

# Swagger UI writes style attributes; no script can come in by them.
POLICY: Final = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
INLINE: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)

router = APIRouter(include_in_schema=False)


def describe_choices(app: FastAPI, state: ServiceState) -> None:
    """Have the document say which crops the running model offers, and what the settings allow."""
    write = app.openapi

    def openapi() -> dict[str, Any]:
        document = write()  # the same one each time; a model that was read again may differ
        for operation in (each for path in document["paths"].values() for each in path.values()):
            _describe_query(operation, state)
            _describe_body(operation, state)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does


def _describe_query(operation: dict[str, Any], state: ServiceState) -> None:
    schemas = {each["name"]: each["schema"] for each in operation.get("parameters", ())}
    if "crops" in schemas:
        schemas["crops"]["enum"] = list(state.engine.model.crops)
    if "details" in schemas:
        offered = {
            "heatmap": state.settings.heatmaps,
            "features": bool(state.engine.model.features),
        }
        names = [name for name in DETAILS if offered.get(name, True)]
        schemas["details"]["items"] = {"type": "string", "enum": names}


def _describe_body(operation: dict[str, Any], state: ServiceState) -> None:
    content = operation.get("requestBody", {}).get("content", {})
    for kind in (FORM, "application/json"):
        fields = content.get(kind, {}).get("schema", {}).get("properties", {})
        for images in (fields[name] for name in ("file", "instances") if name in fields):
            if images.get("type") == "array":
                images["maxItems"] = state.settings.max_files
        parameters = fields.get("parameters", {}).get("properties", {})
        if {"top", "crops"} <= parameters.keys():
            parameters["crops"]["enum"] = list(state.engine.model.crops)


def operation_id(route: APIRoute) -> str:
    """What generated clients call an operation: `predict`, `v2_metadata`, `predictions_put`."""
    words = ["v2"] * route.path.startswith("/v2") + [route.name.replace(" ", "_")]
    words += ["put"] * (route.methods == {"PUT"})
    return "_".join(words)


@router.head("/docs")
@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The interface, to read and to try."""
    html = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        oauth2_redirect_url=None,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
    ).body
    text = bytes(html).decode()
    policy = POLICY.format(
        scripts=" ".join(f"'{_hash(script)}'" for script in INLINE.findall(text))
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
