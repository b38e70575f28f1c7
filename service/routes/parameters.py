"""
What a query may say, at every door that takes encoded pictures.
"""

from typing import Annotated, Final

from fastapi import Query
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

MOST_CLASSES: Final = 1000


def _whole_number(value: object) -> object:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 4) or not (
        1 <= int(text) <= MOST_CLASSES
    ):
        raise PydanticCustomError("top", f"must be a whole number from 1 to {MOST_CLASSES}")
    return value


Top = Annotated[
    int,
    BeforeValidator(_whole_number),
    Query(
        description="How many classes to answer with.",
        # Not ge= and le=: behind a validator of our own they would stand here as they are.
        json_schema_extra={"minimum": 1, "maximum": MOST_CLASSES},
    ),
]
Crops = Annotated[
    str,
    Query(
        description="ten: the paper's ten views; one: the centre; dense: ten views cut from "
        "the maps of the whole picture, where the model offers it."
    ),
]
