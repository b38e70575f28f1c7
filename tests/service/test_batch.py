"""`alexnet predict FOLDER --output FILE`: folders of any size, into one table."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from service import console
from service.batch.files import Images, Skipped
from service.batch.reader import Outcome, Scored
from service.batch.store import ResultStore, opened
from service.console import Progress, counted
from service.inference.engine import Engine, inspect
from tests.support.batch import make_crowd, predict, rows, signalled, struck, went_on
from tests.support.commands import Done
from tests.support.images import image
from tests.support.memory import ONE_AT_ONCE, growth
from tests.support.servers import ROOT
from tests.support.terminals import Counter, on_terminal

parquet = pytest.importorskip(
    "pyarrow.parquet", reason="needs pyarrow: scripts/install test, or pip install pyarrow"
)

MANY = 480  # images
SCORED = MANY - len(range(0, MANY, 9))  # the others are broken
PART = 100  # images until something happens


@pytest.fixture(autouse=True)
def no_lines_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes here."""
    monkeypatch.setattr(console, "LINE_EVERY", 3600.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in two folders, two that cannot be read, and what is no image."""
    top = tmp_path / "pictures"
    (top / "cats" / "old").mkdir(parents=True)
    (top / ".thumbnails").mkdir()
    (top / "a.jpg").write_bytes(image())
    (top / "cats" / "b.PNG").write_bytes(image("PNG", (300, 400)))
    (top / "cats" / "old" / "c.webp").write_bytes(image("WEBP", (260, 300)))
    (top / "cats" / "cut.jpeg").write_bytes(image()[:600])
    (top / "empty.bmp").touch()
    (top / "notes.txt").write_text("nothing to see here")
    (top / ".DS_Store").touch()
    (top / ".thumbnails" / "a.jpg").write_bytes(image())
    return top


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many names of a few images."""
    return make_crowd(tmp_path_factory.mktemp("crowd"), MANY)


def sentence(done: Done) -> str:
    """Assert that it failed with one line; return it."""
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("alexnet: "), text
    assert len(text.splitlines()) == 1, text
    return text


@pytest.fixture(scope="session")
def undisturbed(
    crowd: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The crowd's scores from one run."""
    output = tmp_path_factory.mktemp("undisturbed") / "scores.jsonl"
    done = predict(crowd, "-o", output, "--crops", "one", model=tiny_model)
    assert done.returncode == 0, done.stderr.decode()
    return rows(output)


def test_a_folder_becomes_a_table_and_a_report(tiny_model: Path, folder: Path) -> None:
    """Images by their paths, in order; what has no scores stands in a table of its own."""
    output = folder.parent / "scores.parquet"

    done = predict(folder, "-o", output, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    assert [row["path"] for row in rows(output)] == ["a.jpg", "cats/b.PNG", "cats/old/c.webp"]
    with Path(f"{output}.skipped.csv").open() as file:
        skipped = {row["path"]: row["code"] for row in csv.DictReader(file)}
    assert skipped == {"cats/cut.jpeg": "image_unreadable", "empty.bmp": "body_empty"}
    report = done.stderr.decode()
    assert "3 images scored; 2 skipped; 3 other files passed over" in report
    assert "cats/cut.jpeg: " in report
    assert sorted(os.listdir(folder.parent)) == [
        "pictures",
        "scores.parquet",
        "scores.parquet.skipped.csv",
    ]


def test_scores_are_those_of_predict(tiny_model: Path, folder: Path) -> None:
    """Bit for bit with one crop, in each format; with ten a batch of one is rounded otherwise."""
    files = [folder / "a.jpg", folder / "cats/b.PNG", folder / "cats/old/c.webp"]
    arguments = ("--top", 3, "--crops", "one")
    answer = json.loads(predict(*files, "--json", *arguments, model=tiny_model).stdout)
    expected = [
        {
            "path": str(file.relative_to(folder)),
            **prediction["classes"][0],
            "classes": prediction["classes"],
        }
        for file, prediction in zip(files, answer["predictions"], strict=True)
    ]

    for suffix in ("parquet", "jsonl", "csv"):
        output = folder.parent / f"scores.{suffix}"
        done = predict(folder, "-o", output, *arguments, model=tiny_model)
        assert done.returncode == 0, done.stderr.decode()
        assert rows(output) == expected, suffix


def test_the_company_of_an_image_changes_its_scores_in_the_last_bits(tiny_model: Path) -> None:
    """With one crop not even those; the mean of several is rounded otherwise in a batch of one."""
    engine = Engine.load(tiny_model, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (16, 256, 256, 3), dtype=np.uint8)

    for views, tolerance in ((1, 0.0), (10, 1e-6), (2, 1e-6)):
        together = engine.run(images, views)
        for batch in (1, 3):
            few = [engine.run(images[i : i + batch], views) for i in range(0, 16, batch)]
            np.testing.assert_allclose(np.concatenate(few), together, rtol=tolerance)


def test_a_parquet_file_says_where_it_comes_from(tiny_model: Path, folder: Path) -> None:
    """Types are the smallest that hold the values; the metadata names the model."""
    output = folder.parent / "scores.parquet"
    predict(folder, "-o", output, "--crops", "one", model=tiny_model)

    schema = parquet.read_schema(output)

    best = "index: int32, wordnet_id: string, label: string, probability: float"
    assert ", ".join(f"{field.name}: {field.type}" for field in schema) == (
        f"path: string, {best}, classes: list<element: struct<{best}>>"
    )
    about = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert about["alexnet.crops"] == "one"
    assert about["alexnet.top"] == "5"
    assert len(about["alexnet.version"]) == 12


def test_several_places_keep_the_paths_that_they_were_given_by(
    tiny_model: Path, folder: Path
) -> None:
    """Whatever a named file is called, and once, however often it is named."""
    odd = folder.parent / "image.from-camera"
    odd.write_bytes(image())
    output = folder.parent / "scores.jsonl"
    cats, old = (os.path.relpath(folder / place, ROOT) for place in ("cats", "cats/old"))
    (folder / "link").symlink_to(folder / "cats" / "old")
    above = folder / "link" / ".." / "b.PNG"  # of what the link leads to

    places = (cats, odd, f"./{cats}/", f"{old}/c.webp", above)
    done = predict(*places, "-o", output, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    expected = [f"{cats}/b.PNG", f"{cats}/old/c.webp", str(odd), str(above)]
    assert [row["path"] for row in rows(output)] == sorted(expected)
    assert "4 images scored; 1 skipped" in done.stderr.decode()


def test_a_place_that_is_given_twice_counts_once(folder: Path) -> None:
    """As if it had been given once, down to the names."""
    twice = Images([str(folder), f"{folder}/"])

    assert sorted(map(str, twice)) == sorted(map(str, Images([str(folder)])))


def test_a_place_that_is_not_there_is_one_sentence(tiny_model: Path, folder: Path) -> None:
    """Before anything is written: who mistypes a folder wants no table."""
    missing = folder.parent / "picturs"

    for places in ([missing], [folder, missing]):
        done = predict(*places, "-o", folder.parent / "scores.csv", model=tiny_model)

        assert sentence(done) == f"alexnet: {missing}: there is no such file or folder\n"
        assert os.listdir(folder.parent) == ["pictures"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-o", "scores.txt"], ".jsonl"),
        (["-o", "no/such/folder/scores.csv"], "no/such/folder"),
        (["-o", "scores.csv", "-"], "without -"),
        (["-o", "scores.csv", "--crops", "six"], "ten, one"),
        (["-o", "scores.csv", ""], "an empty name"),
        (["--overwrite"], "--output"),
        (["--ray", "auto"], "--output"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tiny_model: Path, arguments: list[str], word: str
) -> None:
    """Before an image is read."""
    cat = ROOT / "tests/pictures/cat.jpg"

    assert word in sentence(predict(cat, *arguments, model=tiny_model))


def test_a_finished_table_is_replaced_only_if_asked(tiny_model: Path, folder: Path) -> None:
    """And at the end; a report of what was skipped then goes with it."""
    output = folder.parent / "scores.csv"
    predict(folder, "-o", output, model=tiny_model)
    before = output.read_bytes()

    assert "--overwrite" in sentence(predict(folder, "-o", output, model=tiny_model))
    assert output.read_bytes() == before

    shutil.rmtree(folder / "cats")
    (folder / "empty.bmp").unlink()
    done = predict(folder, "-o", output, "--overwrite", model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    assert [row["path"] for row in rows(output)] == ["a.jpg"]
    assert not Path(f"{output}.skipped.csv").exists()


def test_a_folder_in_place_of_the_table_is_one_sentence(tiny_model: Path, folder: Path) -> None:
    """Even with --overwrite."""
    output = folder.parent / "scores.csv"
    output.mkdir()

    text = sentence(predict(folder, "-o", output, "--overwrite", model=tiny_model))

    assert "this is a folder" in text
    assert output.is_dir()


def test_what_else_lies_there_is_left_alone(tiny_model: Path, folder: Path) -> None:
    """Another output's report, a table of the user's own, and what a link leads to."""
    own = folder.parent / "scores.skipped.csv"
    own.write_text("mine")
    for suffix in ("csv", "jsonl"):
        output = folder.parent / f"scores.{suffix}"
        Path(f"{output}.writing").symlink_to(own)
        done = predict(folder, "-o", output, model=tiny_model)
        assert done.returncode == 0, done.stderr.decode()
        if suffix == "csv":  # the second one has nothing to report
            (folder / "empty.bmp").unlink()
            (folder / "cats" / "cut.jpeg").unlink()

    assert own.read_text() == "mine"
    assert sorted(os.listdir(folder.parent)) == [
        *("pictures", "scores.csv", "scores.csv.skipped.csv", "scores.jsonl", "scores.skipped.csv")
    ]


def test_an_empty_folder_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    """It says which names count."""
    (tmp_path / "empty").mkdir()

    done = predict(tmp_path / "empty", "-o", tmp_path / "scores.csv", model=tiny_model)

    assert done.returncode == 1
    assert ".jpeg" in done.stderr.decode().splitlines()[-1]
    assert os.listdir(tmp_path) == ["empty"]


def test_status_1_means_that_nothing_could_be_scored(tiny_model: Path, folder: Path) -> None:
    """The reasons are still told."""
    for good in ("a.jpg", "cats/b.PNG", "cats/old/c.webp"):
        (folder / good).unlink()
    output = folder.parent / "scores.csv"

    done = predict(folder, "-o", output, model=tiny_model)

    assert done.returncode == 1
    assert "none of the 2 images" in done.stderr.decode()
    assert Path(f"{output}.skipped.csv").exists()
    assert not output.exists()


def test_killed_and_stopped_it_goes_on(
    tiny_model: Path, crowd: Path, undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """From where it was; every image once, and scores as from a run that nobody disturbed."""
    output = tmp_path / "scores.jsonl"
    arguments = (crowd, "-o", output, "--crops", "one")
    safe = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        status, message = struck(signalled(number), *arguments, after=PART, model=tiny_model)

        assert not output.exists()
        before, safe = safe, scored_so_far(output)
        if number == signal.SIGKILL:
            assert status == -number
            assert safe > 0
        else:
            check_stopped(status, message, number)
            assert safe >= before + PART // 2  # it goes on from there

    done = predict(*arguments, model=tiny_model)

    assert went_on(done)
    assert f"{SCORED} images scored, {safe} of them before" in done.stderr.decode()
    assert rows(output) == undisturbed
    assert sorted(os.listdir(tmp_path)) == ["scores.jsonl", "scores.jsonl.skipped.csv"]


def check_stopped(status: int, said: str, number: int) -> None:
    """It says how to go on; the status is the one that shells expect."""
    assert status == 128 + number, said
    assert said.startswith("alexnet: Stopped.")
    assert "the same command goes on" in said
    assert len(said.splitlines()) == 1


def scored_so_far(output: Path) -> int:
    """By the store."""
    with closing(sqlite3.connect(f"{output}.partial")) as database:
        (number,) = database.execute("SELECT count(*) FROM images WHERE code IS NULL").fetchone()
    return int(number)


FAILS = "import service.inference.engine; service.inference.engine.Engine._run = None"
HANGS = (
    "import service.inference.engine, service.inference.batching, threading; "
    "service.inference.engine.Engine._run = lambda *_: threading.Event().wait(); "
    "service.inference.batching.Batcher._run_timeout = property(lambda it: 0.2)"
)


@pytest.mark.parametrize("broken", [FAILS, HANGS], ids=["fails", "hangs"])
def test_an_engine_that_fails_or_hangs_ends_it(
    tiny_model: Path, crowd: Path, tmp_path: Path, broken: str
) -> None:
    """Not every image left is at fault; the user may start it again."""
    output = tmp_path / "scores.csv"
    arguments = (crowd, "-o", output, "--crops", "one")

    status, message = struck(broken, *arguments, after=PART, model=tiny_model)

    assert status == 70, message
    assert "alexnet: The engine has failed" in message.splitlines()[-1]
    assert went_on(predict(*arguments, model=tiny_model))
    assert len(rows(output)) == SCORED


def test_what_was_skipped_is_tried_again(tiny_model: Path, folder: Path) -> None:
    """A job that goes on reads a file that was repaired meanwhile."""
    output = folder.parent / "scores.csv"
    scores = np.linspace(0.5, 0.1, 5, dtype=np.float32)
    outcomes = (
        Scored(b"a.jpg", np.arange(5, dtype=np.int32), scores),
        Skipped(b"cats/cut.jpeg", "image_unreadable", "It was cut off."),
    )
    begun(output, folder, tiny_model, *outcomes)
    (folder / "cats" / "cut.jpeg").write_bytes(image())

    done = predict(folder, "-o", output, "--crops", "one", model=tiny_model)

    assert went_on(done)
    assert "4 images scored, 1 of them before; 1 skipped" in done.stderr.decode()
    assert [row["path"] for row in rows(output)] == [
        *("a.jpg", "cats/b.PNG", "cats/cut.jpeg", "cats/old/c.webp")
    ]


@pytest.mark.parametrize("change", [["--crops", "ten"], ["--top", "4"], ["--model"]])
def test_it_goes_on_with_the_same_question_only(
    tiny_model: Path, other_model: Path, folder: Path, change: list[str]
) -> None:
    """Scores of two models in one table would mean nothing."""
    output = folder.parent / "scores.csv"
    arguments = ["--crops", "one", "--model", str(tiny_model)]
    store = begun(output, folder, tiny_model)
    kept = store.read_bytes()
    changed = [*change, str(other_model)] if change == ["--model"] else change

    text = sentence(predict(folder, "-o", output, *arguments, *changed))

    assert str(store) in text
    assert changed[0].strip("-") in text
    assert store.read_bytes() == kept
    assert predict(folder, "-o", output, *arguments).returncode == 0


def test_it_goes_on_with_the_same_places_only(tiny_model: Path, folder: Path) -> None:
    """A table would have images of both."""
    output = folder.parent / "scores.csv"
    store = begun(output, ROOT, tiny_model)

    text = sentence(
        predict(folder / "cats", folder, "-o", output, "--crops", "one", model=tiny_model)
    )

    assert "places ['.'], now" in text
    assert store.exists()


def begun(output: Path, folder: Path, model: Path, *outcomes: Outcome) -> Path:
    """A store as a job for these has just begun it, with so much in it."""
    about = {
        "model": inspect(model).version,
        "crops": "one",
        "top": 5,
        "features": False,
        "scaled decoding": False,
        "colour profiles": True,
        "folder": str(folder),
        "places": ["."],
    }
    with opened(path := Path(f"{output}.partial"), about) as store:
        for outcome in outcomes:
            store.add(outcome)
    return path


def test_a_strange_file_in_place_of_the_store_is_left_alone(tiny_model: Path, folder: Path) -> None:
    """Somebody may need it."""
    output = folder.parent / "scores.csv"
    strange = Path(f"{output}.partial")
    strange.write_text("my novel, chapter one; " * 100)

    assert str(strange) in sentence(predict(folder, "-o", output, model=tiny_model))
    assert strange.read_text().startswith("my novel")


def test_a_folder_that_cannot_be_written_to_is_named_at_the_start(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write wherever it likes, so the system's answer is replaced."""
    really, closed = os.access, folder.parent
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != closed and really(path, mode)
    )

    text = sentence(predict(folder, "-o", closed / "scores.csv", model=tiny_model))

    assert f"the folder {closed} cannot be written to; choose another" in text
    assert not list(closed.glob("scores.csv*"))


def test_two_processes_do_not_write_one_table(tiny_model: Path, folder: Path) -> None:
    """The second one is told so; the lock is the system's, and goes with its process."""
    output = folder.parent / "scores.csv"

    with opened(Path(f"{output}.partial"), {}) as store:
        store.commit()
        text = sentence(predict(folder, "-o", output, model=tiny_model))

    assert "Another process" in text


def test_without_pyarrow_the_extra_to_install_is_named(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, not after a night's work; the other formats need nothing."""
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    output = folder.parent / "scores.parquet"

    text = sentence(predict(folder, "-o", output, model=tiny_model))

    assert "scripts/install run parquet" in text
    output = output.with_suffix(".jsonl")
    assert predict(folder, "-o", output, model=tiny_model).returncode == 0
    assert len(rows(output)) == 3


def test_without_ray_the_extra_to_install_is_named(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise."""
    monkeypatch.setitem(sys.modules, "ray", None)
    output = folder.parent / "scores.csv"

    text = sentence(predict(folder, "-o", output, "--ray", "auto", model=tiny_model))

    assert "scripts/install run ray" in text


def test_names_need_not_be_utf_8(tiny_model: Path, tmp_path: Path) -> None:
    """Bytes that no text has are written as escapes, alike in each format."""
    top = tmp_path / "pictures"
    top.mkdir()
    for name in (b"caf\xe9.jpg", 'œuf, "dur".jpg'.encode(), b"line\nbreak.jpg", b"re\rturn.jpg"):
        Path(os.fsdecode(os.fsencode(top) + b"/" + name)).write_bytes(image())
    Path(os.fsdecode(os.fsencode(top) + b"/\xff.png")).touch()

    for suffix in ("parquet", "jsonl", "csv"):
        output = tmp_path / f"scores.{suffix}"
        done = predict(top, "-o", output, model=tiny_model)
        assert done.returncode == 0, done.stderr.decode()
        expected = ["caf\\xe9.jpg", "line\nbreak.jpg", "re\rturn.jpg", 'œuf, "dur".jpg']
        assert [row["path"] for row in rows(output)] == expected
        assert '\n"\\xff.png"' in Path(f"{output}.skipped.csv").read_text()


def test_links_are_followed_but_not_in_circles(tiny_model: Path, folder: Path) -> None:
    """Sets of images are often folders of links; what leads nowhere is reported."""
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    (folder / "more").symlink_to(folder / "cats" / "old")
    (folder / "cats" / "old" / "up").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    os.mkfifo(folder / "pipe.jpg")
    output = folder.parent / "scores.jsonl"

    done = predict(folder, "-o", output, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    assert [row["path"] for row in rows(output)] == [
        *("a.jpg", "cats/b.PNG", "cats/old/c.webp", "link.jpg", "more/c.webp")
    ]
    assert "3 file_unreadable" in done.stderr.decode()


def test_folders_that_link_to_each_other_come_to_an_end(folder: Path) -> None:
    """Through each of them once, not on every way that there is."""
    names = "abcdefgh"
    for here in names:
        (folder / here).mkdir()
        (folder / here / "x.jpg").touch()
        for there in names.replace(here, ""):
            (folder / here / there).symlink_to(folder / there)

    count = sum(1 for _ in Images([str(folder)]))

    assert count <= 5 + 2 * len(names)


def test_a_folder_that_cannot_be_listed_is_reported(tiny_model: Path, folder: Path) -> None:
    """Here for its path, which is longer than the system takes."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    output = folder.parent / "scores.jsonl"

    done = predict(folder, "-o", output, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    assert len(rows(output)) == 3
    assert "folder_unreadable" in done.stderr.decode()


def test_a_file_may_be_as_large_as_an_upload(tiny_model: Path, folder: Path) -> None:
    """A larger one is not read."""
    photo = image("BMP", (700, 600))
    (folder / "fits.bmp").write_bytes(photo)
    (folder / "larger.bmp").write_bytes(photo + b"\0")
    output = folder.parent / "scores.jsonl"

    done = predict(folder, "-o", output, model=tiny_model, max_body=len(photo))

    assert "fits.bmp" in [row["path"] for row in rows(output)]
    skipped = Path(f"{output}.skipped.csv").read_text()
    assert '"larger.bmp","body_too_large",' in skipped, done.stderr.decode()


def test_a_full_disk_is_one_sentence(
    tiny_model: Path, crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a limit for files; without it the same command goes on from there."""
    output = tmp_path / "scores.csv"
    store = Path(f"{output}.partial")
    arguments = (crowd, "-o", output, "--crops", "one", "--top", 100)
    left = iter(range(PART, -1, -1))
    add = ResultStore.add

    with no_larger_files() as fill, monkeypatch.context() as patched:

        def counted(self: ResultStore, outcome: Outcome) -> None:
            add(self, outcome)
            if next(left, None) == 0:
                fill(2 * store.stat().st_size)

        patched.setattr("service.batch.store.COMMIT_EVERY", 0.01)
        patched.setattr(ResultStore, "add", counted)
        done = predict(*arguments, model=tiny_model)

    message = sentence(done)
    assert message.startswith(f"alexnet: {output} or its result store cannot be written: "), message
    assert went_on(predict(*arguments, model=tiny_model))
    assert len(rows(output)) == SCORED


@contextmanager
def no_larger_files() -> Iterator[Any]:
    """What it yields sets how large this process's files may grow until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.external  # a trial of memory
def test_memory_does_not_grow_with_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    """Four times as many images.  The second time is like all that come: the first engine is
    dropped only when there is another."""
    small, large = (make_crowd(tmp_path / str(number), number) for number in (75, 300))
    commands = [
        ["predict", str(top), "-o", str(tmp_path / f"{n}.csv"), "--crops", "one", "--top", "300"]
        for n, top in enumerate([small, small, large])
    ]

    # The table of 300 has 8 MB, and as objects many times as much.
    assert growth(commands, model=tiny_model) < 4e6


def test_no_score_is_kept_in_memory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that were written down, and of those that are read for the table."""
    add, read = ResultStore.add, ResultStore.rows
    added, loaded = Living(), Living()

    def adding(self: ResultStore, outcome: Outcome) -> None:
        if isinstance(outcome, Scored):
            added.count(outcome.probabilities)
        add(self, outcome)

    def reading(self: ResultStore) -> Iterator[Scored]:
        for row in read(self):
            loaded.count(row.probabilities)
            yield row

    monkeypatch.setattr(ResultStore, "add", adding)
    monkeypatch.setattr(ResultStore, "rows", reading)
    top, output = make_crowd(tmp_path / "crowd", 90), tmp_path / "scores.csv"
    done = predict(top, "-o", output, "--crops", "one", model=tiny_model, **ONE_AT_ONCE)

    assert done.returncode == 0, done.stderr.decode()
    assert added.all == loaded.all == 80
    assert added.most < 10
    assert loaded.most < 10


class Living:
    """How many of the arrays that were counted are there at once."""

    def __init__(self) -> None:
        self.all = self.most = self._now = 0

    def count(self, array: NDArray[np.float32]) -> None:
        """Until it is dropped."""
        self.all += 1
        self._now += 1
        self.most = max(self.most, self._now)
        weakref.finalize(array, self._drop)

    def _drop(self) -> None:
        self._now -= 1


def test_a_terminal_shows_how_far_it_is(
    tiny_model: Path, crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images, rate and time; elsewhere there are lines, and no codes for a terminal."""
    monkeypatch.setattr(console, "Thread", Counter)
    arguments = ("predict", str(crowd), "--crops", "one", "-o", str(tmp_path / "scores.csv"))

    status, shown = on_terminal(*arguments, columns=120, model=tiny_model)

    assert status == 0
    assert f"{MANY}/{MANY}" in shown
    assert re.search(r"[\d.]+/s, .* so far, \d+ skipped", shown)


def test_the_rate_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier one did took it no time, and the time that is left follows."""
    clock = Mock()
    clock.monotonic.return_value = 50.0
    monkeypatch.setattr(console, "time", clock)
    shown = Progress(1000)
    shown.total = 3000
    assert str(shown) == "1000/3000, starting"

    shown.update(1000, 0)
    clock.monotonic.return_value += 5
    shown.update(1010, 2)

    assert str(shown) == "1010/3000 2.0/s, 0:16:35 left, 5 s so far, 2 skipped"


def test_a_walk_that_only_counts_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C would have to wait too."""
    slow = Event()
    monkeypatch.setattr(Images, "__iter__", lambda _: iter([b""] * slow.wait(30)))

    with counted(Images([str(folder)]), Progress(0)):
        pass

    (walk,) = [thread for thread in threading.enumerate() if thread.name == "alexnet-count"]
    slow.set()
    walk.join()
