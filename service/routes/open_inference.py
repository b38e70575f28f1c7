"""
The Open Inference Protocol, version 2, over REST, as Triton's clients speak it.
"""

from typing import Final

from fastapi import APIRouter

PATHS: Final[tuple[str, ...]] = ()  # that a full queue refuses

router = APIRouter(tags=["open inference"])  # behind the keys
about = APIRouter(tags=["open inference"])  # open to all
