"""
The command `alexnet predict FOLDER --output FILE`: from its settings to a job.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from service.batch import job
from service.batch.files import Images
from service.batch.reader import ScoringOptions
from service.batch.signals import Stopped
from service.errors import SettingsInvalid
from service.inference.engine import inspect
from service.settings import Settings, engine_arguments, limits, load_engine


def score(
    settings: Settings,
    places: Sequence[str],
    output: Path,
    *,
    crops: str,
    top: int,
    overwrite: bool,
    ray: str | None,
) -> None:
    """
    Score all images in `places`, here or on a Ray cluster.

    Raises a `ServiceError` if that cannot be done; ends the process if it is stopped.
    """
    job.check(output, overwrite=overwrite)
    if "" in places:
        raise SettingsInvalid("an empty name is no image; was a variable of the shell empty?")
    for place in places:
        if not os.path.exists(place):
            raise SettingsInvalid(f"{place}: there is no such file or folder")
    # With Ray other machines compute: here it is only read what the classes are called.
    engine = None if ray is not None else load_engine(settings)
    model = inspect(settings.model) if engine is None else engine.model
    if crops not in model.crops:
        raise SettingsInvalid(f"--crops {crops}: this model offers {', '.join(model.crops)}")
    images = Images(places)
    options = ScoringOptions(
        base=images.base,
        crops=crops,
        top=min(top, len(model.labels)),
        max_body=settings.max_body,
        max_uploads=settings.max_uploads,
    )
    work = job.Job(
        images=images,
        options=options,
        model=model,
        scaled_decoding=settings.scaled_decoding,
        output=output,
    )
    try:
        if engine is not None:
            job.run(work, job.on_this_machine(engine, limits(settings), options))
        else:
            _on_ray(str(ray), settings, work)
    except Stopped as stopped:
        print(f"alexnet: {stopped}", file=sys.stderr, flush=True)
        # Not sys.exit: a run that never comes back would be waited for.
        os._exit(stopped.status)


def _on_ray(address: str, settings: Settings, work: job.Job) -> None:
    from service.batch import cluster

    engine = cluster.EngineOptions(**engine_arguments(settings))
    with cluster.connected(address):
        job.run(
            work,
            cluster.on_the_cluster(settings.model, engine, limits(settings), work.options),
        )
