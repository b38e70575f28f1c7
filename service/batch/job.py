"""
`alexnet predict FOLDER --output FILE`, from settings to its end.  Walk, score, write down, make the
table.

    FILE.partial       the result store, while the job is under way
    FILE               the scores, all at once at the end
    FILE.skipped.csv   what has none; only if there is any

Whatever ends the job early, the same command goes on from where it stopped.
"""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Final

from service import __version__
from service.batch import tables
from service.batch.files import Images, Skipped, none_in, text
from service.batch.reader import Outcome, Record, Score, Scorer, ScoringOptions, window
from service.batch.store import ResultStore, opened
from service.console import counted, say, shown
from service.errors import NotReady, ServiceError, SettingsInvalid
from service.inference.classifier import Classifier
from service.inference.engine import Engine, Model, inspect
from service.inference.limits import Limits
from service.inference.model_file import NO_FEATURES
from service.inference.predictions import Detail
from service.settings import Settings, engine_arguments, limits, load_engine

FEW: Final = 5  # skipped images that are shown
ENGINE_DEAD: Final = 70  # exit status, as the server's


class ScoringFailed(ServiceError):
    """The job could not be done, or not to its end."""

    code = "scoring_failed"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is scored, with which model, and where the scores go."""

    images: Images
    options: ScoringOptions
    model: Model
    scaled_decoding: bool
    colour_profiles: bool
    output: Path

    @property
    def partial(self) -> Path:
        """What is kept until the job is done."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def skipped(self) -> Path:
        """The table of what has no scores."""
        return self.output.with_name(self.output.name + ".skipped.csv")

    @property
    def features(self) -> int:
        """How many each row of the table has."""
        return self.model.features if "features" in self.options.details else 0

    @property
    def to_be_continued(self) -> str:
        """What is left of a job that is ended early."""
        return f"What was scored is kept in {self.partial}: the same command goes on from there."

    def depends_on(self) -> dict[str, object]:
        """What may not change between two runs of one job."""
        return {
            "model": self.model.version,
            "crops": self.options.crops,
            "top": self.options.top,
            "features": bool(self.features),
            "scaled decoding": self.scaled_decoding,
            "colour profiles": self.colour_profiles,
            "folder": text(self.options.base),
            "places": [text(name) for name in self.images.roots],
        }

    def about(self) -> dict[str, str]:
        """What a reader of the table may want to know."""
        facts = {
            **self.model.facts("model"),
            "crops": self.options.crops,
            "top": str(self.options.top),
            "service": __version__,
        }
        return {f"alexnet.{name}": fact for name, fact in facts.items()}


def score(
    settings: Settings,
    places: Sequence[str],
    output: Path,
    *,
    crops: str,
    top: int,
    features: bool,
    overwrite: bool,
    ray: str | None,
) -> None:
    """
    Score all images in `places`, here or on the Ray cluster at `ray`.

    Raises a `ServiceError` if that cannot be done; ends the process if it is stopped.
    """
    _check(places, output, overwrite=overwrite)
    # With Ray other machines compute: here it is only read what the classes are called.
    engine = None if ray is not None else load_engine(settings)
    model = inspect(settings.model) if engine is None else engine.model
    if crops not in model.crops:
        raise SettingsInvalid(f"--crops {crops}: this model offers {', '.join(model.crops)}")
    if features and not model.features:
        raise SettingsInvalid(f"--features: {NO_FEATURES}")
    images, allowed = Images(places), limits(settings)
    options = ScoringOptions(
        base=images.base,
        crops=crops,
        top=min(top, len(model.labels)),
        details=frozenset[Detail](["features"] if features else []),
        max_body=settings.max_body,
        max_uploads=settings.max_uploads,
    )
    job = Job(
        images=images,
        options=options,
        model=model,
        scaled_decoding=settings.scaled_decoding,
        colour_profiles=settings.colour_profiles,
        output=output,
    )
    try:
        if engine is not None:
            return _run(job, on_this_machine(engine, allowed, options))
        from service.batch import cluster

        with cluster.connected(str(ray)):
            engines = engine_arguments(settings)
            return _run(job, cluster.on_the_cluster(settings.model, engines, allowed, options))
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:  # it had not begun: Ray was being reached
            raise
        reason, status = "Stopped.", 128 + interrupt.args[0]
    except NotReady as error:
        reason, status = f"The engine has failed ({error}).", ENGINE_DEAD
    except (sqlite3.Error, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ScoringFailed(
            f"{output} or its result store cannot be written: {why}. {job.to_be_continued}"
        ) from error
    say(f"alexnet: {reason} {job.to_be_continued}")
    os._exit(status)  # not sys.exit: a run that never comes back would be waited for


def _check(places: Sequence[str], output: Path, *, overwrite: bool) -> None:
    """Before anything slow: raises `SettingsInvalid` unless the places are there, and the scores
    can be written to `output`."""
    tables.check(output)
    if output.exists() and not overwrite:
        raise SettingsInvalid(
            f"--output {output}: there is such a file; give --overwrite to have it replaced at "
            "the end, or choose another"
        )
    if "" in places:
        raise SettingsInvalid("an empty name is no image; was a variable of the shell empty?")
    for place in places:
        if not os.path.exists(place):
            raise SettingsInvalid(f"{place}: there is no such file or folder")


def on_this_machine(engine: Engine, limits: Limits, options: ScoringOptions) -> Score:
    """Score with one engine, in this process."""

    async def score(names: Iterable[bytes], record: Record) -> None:
        reasons: list[str] = []
        try:
            async with Classifier(engine, limits, on_death=reasons.append) as classifier:
                await Scorer(classifier, options, window=window(limits)).score(names, record)
        except NotReady as error:
            raise NotReady("; ".join(reasons)) from error

    return lambda names, record, progress: asyncio.run(score(names, record))


def _run(job: Job, score: Score) -> None:
    """
    Do the job, or what is left of it.

    Raises `ScoringFailed` with a sentence, `StoreUnusable`, and what `score` raises.
    """
    with interrupted_by_signals(), opened(job.partial, job.depends_on()) as store:
        walk = Images(job.images.places)
        with shown(store.scored) as progress, counted(walk, progress):

            def record(outcome: Outcome) -> None:
                store.add(outcome)
                progress.update(store.scored + store.skipped, store.skipped)

            def names() -> Iterator[bytes]:
                for entry in job.images:
                    if isinstance(entry, Skipped):
                        record(entry)
                    elif entry not in store:
                        yield entry

            score(names(), record, progress)
        _finish(job, store)


def _finish(job: Job, store: ResultStore) -> None:
    """The tables, in place of the store; then, for people, what was done."""
    store.commit()
    if store.scored:
        tables.write(job.output, store.rows(), job.model.labels, job.about(), job.features)
    if store.skipped:
        tables.write_skipped(job.skipped, store.without_scores())
    else:
        job.skipped.unlink(missing_ok=True)  # of an earlier job
    job.partial.unlink()
    before = f", {store.before} of them before" if store.before else ""
    files = "file" if job.images.others == 1 else "files"
    say(
        f"{job.output}: {store.scored} images scored{before}; {store.skipped} skipped; "
        f"{job.images.others} other {files} passed over"
    )
    if store.skipped:
        reasons = ", ".join(f"{number} {code}" for code, number in store.reasons().items())
        say(f"{job.skipped}: {reasons}")
        for image in islice(store.without_scores(), FEW):
            say(f"  {text(image.name)}: {image.error}")
        if store.skipped > FEW:
            say("  ...")
    if not store.scored:
        places = job.images.places
        raise ScoringFailed(
            f"none of the {store.skipped} images in {', '.join(places)} could be scored"
            if store.skipped
            else none_in(places)
        )


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """
    SIGTERM ends the block as Ctrl-C does: with a `KeyboardInterrupt`, whose argument is the signal.

    A handler that is set for Ctrl-C meanwhile, as by asyncio, is called for SIGTERM too.
    """
    terminated = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(int(signal.SIGTERM if terminated else signal.SIGINT)) from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
