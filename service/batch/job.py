"""
One scoring job from its beginning to its end: walk, score, write down, make the table.

    FILE.partial       the result store, while the job is under way
    FILE               the scores, all at once at the end
    FILE.skipped.csv   what has none; only if there is any

Whatever ends the job early, the same command goes on from where it stopped.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from service import __version__
from service.batch import tables
from service.batch.files import SUFFIXES, Images, Skipped, text
from service.batch.progress import Progress, counted, say, shown
from service.batch.reader import Outcome, Record, Scorer, ScoringOptions, window
from service.batch.signals import Stopped, interrupted_by_signals
from service.batch.store import ResultStore, opened
from service.errors import NotReady, ServiceError, SettingsInvalid
from service.inference.classifier import Classifier
from service.inference.engine import Engine, Model
from service.inference.limits import Limits

FEW: Final = 5  # skipped images that are shown
ENGINE_DEAD: Final = 70  # exit status, as the server's

Score = Callable[[Iterable[bytes], Record, Progress], None]


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
    output: Path

    @property
    def partial(self) -> Path:
        """What is kept until the job is done."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def skipped(self) -> Path:
        """The table of what has no scores."""
        return self.output.with_name(self.output.name + ".skipped.csv")

    def depends_on(self) -> dict[str, object]:
        """What may not change between two runs of one job."""
        return {
            "model": self.model.version,
            "crops": self.options.crops,
            "top": self.options.top,
            "scaled decoding": self.scaled_decoding,
            "folder": text(self.options.base),
            "places": [text(name) for name in self.images.roots],
        }

    def about(self) -> dict[str, str]:
        """What a reader of the table may want to know."""
        facts = {
            "model": self.model.name,
            "variant": self.model.variant,
            "precision": self.model.precision,
            "version": self.model.version,
            "crops": self.options.crops,
            "top": str(self.options.top),
            "service": __version__,
        }
        return {f"alexnet.{name}": fact for name, fact in facts.items()}


def check(output: Path, *, overwrite: bool) -> None:
    """Before anything slow: `SettingsInvalid` unless the scores can be written to `output`."""
    tables.check(output)
    if output.is_dir():
        raise SettingsInvalid(f"--output {output}: this is a folder; choose the name of a file")
    if output.exists() and not overwrite:
        raise SettingsInvalid(
            f"--output {output}: there is such a file; give --overwrite to have it replaced at "
            "the end, or choose another"
        )


def run(job: Job, score: Score) -> None:
    """
    Do the job, or what is left of it; `score` scores names, records each one's outcome, and may
    say to the progress what it waits for.

    Raises `ScoringFailed` with a sentence, `StoreUnusable`, or `Stopped`.
    """
    try:
        with interrupted_by_signals(), opened(job.partial, job.depends_on()) as store:
            with shown(store.scored) as progress, counted(job.images, progress):
                score(*_work(job, store, progress), progress)
            _finish(job, store)
    except KeyboardInterrupt as interrupt:
        (number,) = interrupt.args
        raise Stopped(_to_be_continued("Stopped.", job), 128 + number) from interrupt
    except NotReady as error:
        raise Stopped(
            _to_be_continued(f"The engine has failed ({error}).", job), ENGINE_DEAD
        ) from error
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScoringFailed(
            _to_be_continued(f"{job.output} or its result store cannot be written: {reason}.", job)
        ) from error


def on_this_machine(engine: Engine, limits: Limits, options: ScoringOptions) -> Score:
    """Score with one engine, in this process."""

    def score(names: Iterable[bytes], record: Record, progress: Progress) -> None:
        asyncio.run(_score(names, record))

    async def _score(names: Iterable[bytes], record: Record) -> None:
        reasons: list[str] = []
        classifier = Classifier(engine, limits, on_death=reasons.append)
        try:
            async with classifier:
                await Scorer(classifier, options, window=window(limits)).score(names, record)
        except NotReady as error:
            raise NotReady("; ".join(reasons)) from error

    return score


def _work(job: Job, store: ResultStore, progress: Progress) -> tuple[Iterator[bytes], Record]:
    """The names that are not in the store, and what writes outcomes into it."""

    def record(outcome: Outcome) -> None:
        store.add(outcome)
        progress.update(store.scored + store.skipped, store.skipped)

    def names() -> Iterator[bytes]:
        for entry in job.images:
            if isinstance(entry, Skipped):
                record(entry)
            elif entry not in store:
                yield entry

    return names(), record


def _finish(job: Job, store: ResultStore) -> None:
    """The tables, in place of the store; then the report."""
    store.commit()
    if store.scored:
        tables.write(job.output, store.rows(), job.model.labels, job.about())
    if store.skipped:
        tables.write_skipped(job.skipped, store.without_scores())
    else:
        job.skipped.unlink(missing_ok=True)  # of an earlier job
    job.partial.unlink()
    _report(job, store)
    if not store.scored:
        places = ", ".join(map(str, job.images.places))
        raise ScoringFailed(
            f"none of the {store.skipped} images in {places} could be scored"
            if store.skipped
            else f"there is no image in {places}; their names end in "
            f"{', '.join(map(text, SUFFIXES))}"
        )


def _report(job: Job, store: ResultStore) -> None:
    """What was done, for people."""
    before = f", {store.before} of them before" if store.before else ""
    files = "file" if job.images.others == 1 else "files"
    lines = [
        f"{job.output}: {store.scored} images scored{before}; {store.skipped} skipped; "
        f"{job.images.others} other {files} passed over"
    ]
    if store.skipped:
        reasons = ", ".join(f"{number} {code}" for code, number in store.reasons().items())
        lines.append(f"{job.skipped}: {reasons}")
        lines += [
            f"  {text(image.name)}: {image.error}" for image in islice(store.without_scores(), FEW)
        ]
        if store.skipped > FEW:
            lines.append("  ...")
    for line in lines:
        say(line)


def _to_be_continued(what: str, job: Job) -> str:
    return f"{what} What was scored is kept in {job.partial}: the same command goes on from there."
