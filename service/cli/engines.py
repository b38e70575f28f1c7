"""
Settings -> the engine that they ask for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.inference.engine import Engine
    from service.settings import Settings


def engine_for(settings: "Settings", current: "Engine | None" = None) -> "Engine":
    """The engine that is wanted; never on the CPU in place of a `current` one on CUDA."""
    from service.inference.engine import CUDA, Engine

    on_cuda = current is not None and current.provider == CUDA
    engine = Engine.load(
        settings.model,
        device="cuda" if on_cuda else settings.device,
        threads=settings.threads,
        max_batch=settings.max_batch,
        gpu_memory_limit=settings.gpu_memory_limit,
    )
    engine.device_requested = settings.device
    return engine
