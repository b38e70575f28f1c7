"""
GET /: a page to try a picture on, out of `static/`, with no request to anywhere else.

Its addresses are relative, so that it also works behind a proxy that serves it below a
path of its own.  Content types are written out: the system's own table may be wrong.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

STATIC: Final = Path(__file__).parent.parent / "static"

MEDIA_TYPES: Final = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
}

HEADERS: Final = {
    # Pictures that were chosen are shown from memory: blob:.  The icon is written in the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask each time: an upgrade must not meet an old script
}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    return _file("index.html")


@router.head("/static/{name}")
@router.get("/static/{name}")
async def asset(name: str) -> FileResponse:
    """What the page is made of; only the names in `MEDIA_TYPES` exist."""
    if name not in MEDIA_TYPES:
        raise HTTPException(404)
    return _file(name)


def _file(name: str) -> FileResponse:
    return FileResponse(STATIC / name, media_type=MEDIA_TYPES[name], headers=HEADERS)
