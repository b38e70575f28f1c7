"""
GET /: the page to try pictures on.  It comes out of `static/`, and asks no other server.

Its addresses are relative, so that it also works behind a proxy that serves it below a
path of its own.  Content types are written out: the system's own table may be wrong.
What the model is and offers is written into the page as it is served: no choice appears late,
or only to be refused.
"""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from service.http.state import ServiceState, state_of
from service.inference import occlusion
from service.inference.formats import SUFFIXES
from service.inference.model_file import CENTRE, Model

STATIC: Final = Path(__file__).parents[2] / "static"

MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".jpg": "image/jpeg"}
ASSETS: Final = {  # what there is to ask for, and nothing else
    path.relative_to(STATIC).as_posix(): path
    for path in STATIC.rglob("*")
    if path.suffix in MEDIA_TYPES
}

HEADERS: Final = {
    # Pictures that were chosen are shown from memory: blob:.  The icon is written in the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-cache",  # ask each time: an upgrade must not meet an old script
}


class Choice(NamedTuple):
    """One choice of crops: what the API calls it, what the page calls it, what to know of it."""

    value: str
    name: str
    remark: str


CHOICES: Final = (
    Choice("ten", "Ten crops", "default (AlexNet paper)"),
    Choice("one", "One crop", "fastest"),
    Choice("dense", "Dense", "ten crops, approximated"),
)


class Sample(NamedTuple):
    """A picture to click: its file in static/samples and what it shows."""

    file: str
    name: str


SAMPLES: Final = (
    Sample("cat.jpg", "Cat"),
    Sample("panda.jpg", "Panda"),
    Sample("espresso.jpg", "Coffee"),
    Sample("guitar.jpg", "Guitar"),
    Sample("okapi.jpg", "Okapi"),
    Sample("rocket.jpg", "Rocket"),
)

# What `[project.urls]` in pyproject.toml may name -> what the page calls it.
LINKS: Final = {"Documentation": "Documentation", "Source": "Source code"}

IMAGENET_CLASSES: Final = 1000

# Of the best class's probability, below which the page says "Not sure".  Of the 209 photographs of
# docs/evaluation.md below it, with ten crops, 45 were right (22%; 95% interval 17 to 28); of the
# 291 above it 179 (62%).  `alexnet evaluate`, the first five bins of `calibration` in its JSON.
UNSURE: Final = 1 / 3

router = APIRouter(include_in_schema=False)

_templates = Environment(
    loader=FileSystemLoader(STATIC),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@router.head("/")
@router.get("/")
def page(request: Request) -> HTMLResponse:
    """The page itself, with what the running model is and offers."""
    html = _templates.get_template("index.html").render(facts(state_of(request)))
    return HTMLResponse(html, headers=HEADERS)


@router.head("/static/{name:path}")
@router.get("/static/{name:path}")
async def asset(name: str) -> FileResponse:
    """What the page is made of; only the names in `ASSETS` exist."""
    if name not in ASSETS:
        raise HTTPException(404)
    path = ASSETS[name]
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)


def facts(state: ServiceState) -> dict[str, Any]:
    """What the page says and needs to know, all of it as plain values."""
    engine, settings = state.engine, state.settings
    model = engine.model
    of_imagenet = knows_imagenet(model)
    return {
        "title": "AlexNet" if of_imagenet else model.name,
        "model": model,
        "provider": engine.execution_provider.label,
        "choices": choices(model),
        "views": views(model),
        "accuracy": accuracy(model),
        "samples": SAMPLES if of_imagenet else (),
        "docs": settings.docs == "main",
        "links": links(),
        "unsure": UNSURE,
        "heatmaps": settings.heatmaps,
        "windows": occlusion.WINDOWS,
        "colours": settings.colour_profiles,
        "keyed": bool(settings.api_keys or settings.api_keys_file),
        "max_body": settings.max_body,
        "max_pixels": settings.max_pixels,
        "suffixes": SUFFIXES,  # which a browser's own list of images may lack
    }


def links() -> dict[str, str]:
    """Where documentation and source are, by name, as far as the installed distribution says."""
    with suppress(PackageNotFoundError):  # a checkout that was never installed
        named = metadata("alexnet-service").get_all("Project-URL", [])
        addresses = dict(line.split(", ", 1) for line in named)
        return {LINKS[label]: addresses[label] for label in LINKS if label in addresses}
    return {}


def knows_imagenet(model: Model) -> bool:
    """Whether its classes are ImageNet's, which the samples show."""
    labels = model.labels
    return len(labels) == IMAGENET_CLASSES and all(label.wordnet_id for label in labels)


def choices(model: Model) -> list[Choice]:
    """The choices of crops that a model offers; one that is unknown here has but its name."""
    known = {choice.value: choice for choice in CHOICES}
    return [known.get(value, Choice(value, value, "")) for value in model.crops]


def views(model: Model) -> list[dict[str, Any]]:
    """The ten views' places in words, in the order of the answers, and which is the centre's."""
    return [
        {"name": view.name, "mirrored": view.mirrored, "centre": number == CENTRE}
        for number, view in enumerate(model.views)
    ]


def accuracy(model: Model) -> list[dict[str, Any]]:
    """What was measured of the model, by data and by whom; an entry may lack anything."""
    names = {choice.value: choice.name for choice in CHOICES}
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in model.accuracy:
        source = tuple(str(entry.get(key, "")) for key in ("data", "by"))
        group = groups.setdefault(source, {"data": source[0], "by": source[1], "rows": []})
        crops = str(entry.get("crops", ""))
        row = {"crops": names.get(crops, crops), "top1": _share(entry, "top1")}
        group["rows"].append(row | {"top5": _share(entry, "top5")})
    for group in groups.values():
        group["intervals"] = any(row[key][1] for row in group["rows"] for key in ("top1", "top5"))
    return list(groups.values())


def _share(entry: dict[str, Any], key: str) -> tuple[str, str]:
    """`44.8%` and `40.5 to 49.2`, either of them empty where it is not known."""
    share = interval = ""
    with suppress(KeyError, TypeError, ValueError):
        share = f"{100 * entry[key]:.1f}%"
        low, high = entry[f"{key}_interval"]
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
    return share, interval
