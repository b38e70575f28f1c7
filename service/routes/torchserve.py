"""
TorchServe's door: POST /predictions/alexnet, GET /ping.
"""

from typing import Final

from fastapi import APIRouter

PATHS: Final[tuple[str, ...]] = ()  # that a full queue refuses

router = APIRouter(tags=["torchserve"])  # behind the keys
about = APIRouter(tags=["torchserve"])  # open to all
