"""
Query parameters of endpoints that take encoded images.  The route that reads them is here too.
"""

import inspect
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Annotated, Any, Final, get_args

from fastapi import Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from service.errors import ParameterInvalid
from service.http.middleware.auth import authenticate
from service.inference.limits import MOST_CLASSES
from service.inference.occlusion import WINDOWS
from service.inference.predictions import Detail

LISTS: Final = ("details", "classes")  # which may be given more than once
NAMES: Final = ("top", "crops", "threshold", "renormalise", *LISTS)  # of POST /v1/predict
DETAILS: Final[tuple[Detail, ...]] = get_args(Detail)


def _is_top(text: str) -> bool:
    """Whether it is a whole number from 1 to `MOST_CLASSES`."""
    digits = text.isascii() and text.isdecimal() and len(text) <= 4
    return digits and 1 <= int(text) <= MOST_CLASSES


def _whole_number(value: object) -> object:
    if not _is_top(str(value)):
        raise PydanticCustomError("top", f"must be a whole number from 1 to {MOST_CLASSES}")
    return value


def _true_or_false(value: object) -> object:
    if value not in ("true", "false"):
        raise PydanticCustomError("renormalise", "must be true or false")
    return value


Top = Annotated[
    int,
    BeforeValidator(_whole_number),
    Query(
        description="How many classes to answer with.",
        # Not ge= and le=: behind a validator of this service they would stand here as they are.
        json_schema_extra={"minimum": 1, "maximum": MOST_CLASSES},
    ),
]
Crops = Annotated[
    str,
    Query(
        description="ten: ten crops (default, AlexNet paper); one: the centre crop; dense: ten "
        "crops cut from the maps of the whole image, where the model offers it."
    ),
]


Threshold = Annotated[
    float, Query(ge=0, le=1, description="The least probability of a class in the answer.")
]
Renormalise = Annotated[
    bool,
    BeforeValidator(_true_or_false),
    Query(
        description="With `classes`: whether their probabilities are divided by their sum, so that "
        "it is 1; else they stay those among all classes."
    ),
]

# Of their own in the document: the framework would describe what may be null.
Classes = Annotated[list[str] | None, Query(include_in_schema=False)]
CLASSES_PARAMETER: Final[dict[str, Any]] = {
    "name": "classes",
    "in": "query",
    "required": False,
    "style": "form",
    "explode": True,
    "description": "Answer with these classes alone: WordNet ids, indices, labels or names in "
    "them, in upper or lower case; also separated by commas. A name that several classes have "
    "means all of them.",
    "schema": {"type": "array", "items": {"type": "string"}, "minItems": 1},
}
Details = Annotated[list[str] | None, Query(include_in_schema=False)]
DETAILS_PARAMETER: Final[dict[str, Any]] = {
    "name": "details",
    "in": "query",
    "required": False,
    "style": "form",
    "explode": True,  # as clients send lists: details=views&details=heatmap
    "description": "views: the answer of each view alone, at no further run of the network; "
    f"heatmap: where in the image the evidence for each class lies, at {WINDOWS} further runs "
    "for each image; features: what the network's last layer takes, at no further run. In any "
    "order, in upper or lower case; also separated by commas.",
    "schema": {
        "type": "array",
        "items": {"type": "string", "enum": list(DETAILS)},
        "minItems": 1,
    },
}


def check_names(given: Sequence[str]) -> None:
    """`ParameterInvalid` for an unknown name, and for one that comes twice, unless it is a list."""
    for name in given:
        if name not in NAMES:
            raise ParameterInvalid(
                f"there is no parameter {name!r} here; there are {', '.join(NAMES)}"
            )
        if given.count(name) > 1 and name not in LISTS:
            raise ParameterInvalid(f"{name} is given more than once; give it once")


def details_in(values: Sequence[str] | None) -> frozenset[Detail]:
    """The values of `details`, such as `views,heatmap`, as a set; raises `ParameterInvalid`."""
    if values is None:
        return frozenset()
    words = ",".join(values)
    given = {word.strip().lower() for word in words.split(",")}
    if not given <= set(DETAILS):
        raise ParameterInvalid(
            f"details={words!r}: must be one of {', '.join(DETAILS)}, or several of them"
        )
    return frozenset(detail for detail in DETAILS if detail in given)


class DirectRoute(APIRoute):
    """
    An endpoint that is called without the framework where its query is as most clients send it.

    Solving dependencies takes 0.4 ms, a third of what a request costs beside its decoding and the
    network.  Everything else, such as a parameter that is wrong, is left to the framework.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, and a short way past it."""
        by_framework = super().get_route_handler()
        names = set(inspect.signature(self.endpoint).parameters) & {"top", "crops"}

        async def handle(request: Request) -> Response:
            authenticate(request)
            if (values := _plain(request.scope["query_string"], names)) is None:
                return await by_framework(request)
            response: Response = await self.endpoint(request, **values)
            return response

        return handle


def _plain(query: bytes, names: Collection[str]) -> dict[str, Any] | None:
    """The parameters of a query that needs no decoding and breaks no rule, or None."""
    values: dict[str, Any] = {}
    for part in query.decode("latin-1").split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in names or name in values or not (value.isascii() and value.isalnum()):
            return None
        values[name] = value
    if "top" in values:
        if not _is_top(values["top"]):
            return None
        values["top"] = int(values["top"])
    return values
