"""
GET /: a page to try a picture on, out of `static/`, with no request to anywhere else.

Its addresses are relative, so that it also works behind a proxy that serves it below a
path of its own.  Content types are written out: the system's own table may be wrong.
What the model offers is written into the page as it is served: no choice appears late, or
only to be refused.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

from service.routes import running

STATIC: Final = Path(__file__).parent.parent / "static"

MEDIA_TYPES: Final = {
    "page.css": "text/css",
    "page.js": "text/javascript",
}

HEADERS: Final = {
    # Pictures that were chosen are shown from memory: blob:.  The icon is written in the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-cache",  # ask each time: an upgrade must not meet an old script
}

CROPS: Final = {  # name -> what the page calls it, what to know of it
    "ten": ("Ten crops", "the paper's"),
    "one": ("One crop", "the least work"),
    "dense": ("Dense", "ten windows, less work"),
}
CROPS_PLACE: Final = "<!-- crops -->"  # in index.html
DOCS_PLACE: Final = "<!-- docs -->"
DOCS_LINK: Final = '<a href="docs">The interface</a> · '

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
def page(request: Request) -> HTMLResponse:
    """The page itself, with the choices of crops that the running model offers."""
    html = (STATIC / "index.html").read_text("utf-8")
    service = running(request)
    html = html.replace(CROPS_PLACE, _radios(service.engine.model.crops))
    html = html.replace(DOCS_PLACE, DOCS_LINK if service.settings.docs == "main" else "")
    return HTMLResponse(html, headers=HEADERS)


@router.head("/static/{name}")
@router.get("/static/{name}")
async def asset(name: str) -> FileResponse:
    """What the page is made of; only the names in `MEDIA_TYPES` exist."""
    if name not in MEDIA_TYPES:
        raise HTTPException(404)
    return FileResponse(STATIC / name, media_type=MEDIA_TYPES[name], headers=HEADERS)


def _radios(offered: Iterable[str]) -> str:
    """A radio button for each choice, the first one set; a choice unknown here has but its name."""
    radios = []
    for place, name in enumerate(offered):
        label, remark = (escape(words) for words in CROPS.get(name, (name, "")))
        checked = "" if place else " checked"
        radios.append(
            f'<label><input type="radio" name="crops" value="{escape(name)}"{checked}>'
            f"<span><b>{label}</b> <small>{remark}</small></span></label>"
        )
    return "\n    ".join(radios)
