"""`alexnet predict FOLDER --output FILE`, as a process of its own."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from live import ROOT, alexnet, environment, picture

from service.engine import Engine, inspect
from service.scoring.files import Pictures
from service.scoring.journal import opened
from service.scoring.progress import Progress, counted

parquet = pytest.importorskip(
    "pyarrow.parquet", reason="needs pyarrow: scripts/install test, or pip install pyarrow"
)

MANY = 2000  # pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in two folders, two that cannot be read, and what is no picture."""
    top = tmp_path / "pictures"
    (top / "cats" / "old").mkdir(parents=True)
    (top / ".thumbnails").mkdir()
    (top / "a.jpg").write_bytes(picture())
    (top / "cats" / "b.PNG").write_bytes(picture("PNG", (300, 400)))
    (top / "cats" / "old" / "c.webp").write_bytes(picture("WEBP", (260, 300)))
    (top / "cats" / "cut.jpeg").write_bytes(picture()[:600])
    (top / "empty.bmp").touch()
    (top / "notes.txt").write_text("nothing to see here")
    (top / ".DS_Store").touch()
    (top / ".thumbnails" / "a.jpg").write_bytes(picture())
    return top


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many names of a few pictures."""
    return make_crowd(tmp_path_factory.mktemp("crowd"), MANY)


def make_crowd(top: Path, number: int) -> Path:
    """Eight pictures and a broken one, under `number` names in ten folders."""
    originals = []
    for index in range(9):
        original = top.parent / f"{top.name}-{index}.jpg"
        original.write_bytes(picture(size=(260 + 9 * index, 256)) if index else b"GIF89a")
        originals.append(original)
    for index in range(number):
        place = top / f"{index % 10}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[index % 9], place / f"{index:05}.jpg")
    return top


def predict(*arguments: object, **settings: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run it to its end."""
    return alexnet("predict", *map(str, arguments), **settings)


def sentence(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Assert that it failed with one line; return it."""
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("alexnet: "), text
    assert len(text.splitlines()) == 1, text
    return text


def rows(output: Path) -> list[dict[str, Any]]:
    """A table of any of the formats, as JSON has it."""
    if output.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(output).to_pylist()
        return found
    with output.open(encoding="utf-8", newline="") as file:
        if output.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return [
            row
            | {
                "index": int(row["index"]),
                "wordnet_id": row["wordnet_id"] or None,
                "probability": float(row["probability"]),
                "classes": json.loads(row["classes"]),
            }
            for row in csv.DictReader(file)
        ]


def started(*arguments: object, **settings: Any) -> "subprocess.Popen[bytes]":
    """Run it, and do not wait."""
    return subprocess.Popen(
        [sys.executable, "-m", "service", "predict", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**settings),
        stderr=subprocess.PIPE,
    )


def struck(strike: str, *arguments: object, **settings: Any) -> "tuple[int, str]":
    """Run it, and do something to it when it has scored a third; its status, what it said."""
    code = (
        "import os, resource, signal, sys\n"
        "from service.scoring import journal\n"
        f"add, left = journal.Journal.add, {MANY // 3}\n"
        "def counted(self, outcome):\n"
        "    global left\n"
        "    add(self, outcome)\n"
        "    left -= 1\n"
        "    if not left:\n"
        f"        {strike}\n"
        "journal.Journal.add = counted\n"
        "journal.COMMIT_EVERY = 0.01\n"
        f"sys.argv = ['alexnet', 'predict', *{[str(one) for one in arguments]!r}]\n"
        "import service.__main__ as command; command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stderr.decode()


def signalled(number: int) -> str:
    """A signal to itself."""
    return f"os.kill(os.getpid(), {int(number)})"


def went_on(done: "subprocess.CompletedProcess[bytes]") -> bool:
    """Whether it did a part of the work, and found the rest done."""
    report = done.stderr.decode()
    assert done.returncode == 0, report
    found = re.search(r"(\d+) pictures scored, (\d+) of them before", report)
    return found is not None and 0 < int(found[2]) < int(found[1])


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
    """Pictures by their paths, in order; what has no scores stands in a table of its own."""
    output = folder.parent / "scores.parquet"

    done = predict(folder, "-o", output, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    assert [row["path"] for row in rows(output)] == ["a.jpg", "cats/b.PNG", "cats/old/c.webp"]
    with Path(f"{output}.skipped.csv").open() as file:
        skipped = {row["path"]: row["code"] for row in csv.DictReader(file)}
    assert skipped == {"cats/cut.jpeg": "image_unreadable", "empty.bmp": "body_empty"}
    report = done.stderr.decode()
    assert "3 pictures scored; 2 skipped; 3 other files passed over" in report
    assert "cats/cut.jpeg: " in report
    assert sorted(os.listdir(folder.parent)) == [
        "pictures",
        "scores.parquet",
        "scores.parquet.skipped.csv",
    ]


def test_scores_are_those_of_predict(tiny_model: Path, folder: Path) -> None:
    """Bit for bit with one crop, in each format; with ten a batch of one is rounded otherwise."""
    files = [folder / "a.jpg", folder / "cats/b.PNG", folder / "cats/old/c.webp"]
    asked = ("--top", 3, "--crops", "one")
    answer = json.loads(predict(*files, "--json", *asked, model=tiny_model).stdout)
    expected = [
        {"path": str(file.relative_to(folder)), **one["classes"][0], "classes": one["classes"]}
        for file, one in zip(files, answer["predictions"], strict=True)
    ]

    for suffix in ("parquet", "jsonl", "csv"):
        output = folder.parent / f"scores.{suffix}"
        done = predict(folder, "-o", output, *asked, model=tiny_model)
        assert done.returncode == 0, done.stderr.decode()
        assert rows(output) == expected, suffix


def test_the_company_of_a_picture_changes_its_scores_in_the_last_bits(tiny_model: Path) -> None:
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
    odd = folder.parent / "picture.from-camera"
    odd.write_bytes(picture())
    output = folder.parent / "scores.jsonl"
    cats, old = (os.path.relpath(folder / place, ROOT) for place in ("cats", "cats/old"))
    (folder / "link").symlink_to(folder / "cats" / "old")
    above = folder / "link" / ".." / "b.PNG"  # of what the link leads to

    given = (cats, odd, f"./{cats}/", f"{old}/c.webp", above)
    done = predict(*given, "-o", output, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    wanted = [f"{cats}/b.PNG", f"{cats}/old/c.webp", str(odd), str(above)]
    assert [row["path"] for row in rows(output)] == sorted(wanted)
    assert "4 pictures scored; 1 skipped" in done.stderr.decode()


def test_a_place_that_is_given_twice_counts_once(folder: Path) -> None:
    """As if it had been given once, down to the names."""
    twice = Pictures([str(folder), f"{folder}/"])

    assert sorted(map(str, twice)) == sorted(map(str, Pictures([str(folder)])))


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
    """Before a picture is read."""
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
    assert "none of the 2 pictures" in done.stderr.decode()
    assert Path(f"{output}.skipped.csv").exists()
    assert not output.exists()


def test_killed_twice_it_goes_on(
    tiny_model: Path, crowd: Path, undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """From where it was; every picture once, and scores as from a run that nobody disturbed."""
    output = tmp_path / "scores.jsonl"
    asked = (crowd, "-o", output, "--crops", "one")
    for _ in range(2):
        status, _said = struck(signalled(signal.SIGKILL), *asked, model=tiny_model)
        assert status == -signal.SIGKILL
        assert not output.exists()

    done = predict(*asked, model=tiny_model)

    assert went_on(done)
    before = int(done.stderr.decode().partition(" of them before")[0].split()[-1])
    assert before > len(undisturbed) / 2
    assert rows(output) == undisturbed
    assert sorted(os.listdir(tmp_path)) == ["scores.jsonl", "scores.jsonl.skipped.csv"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_sentence(
    tiny_model: Path, crowd: Path, tmp_path: Path, number: int
) -> None:
    """It says how to go on; the status is the one that shells expect."""
    output = tmp_path / "scores.csv"

    status, said = struck(signalled(number), crowd, "-o", output, model=tiny_model)

    assert status == 128 + number, said
    assert not output.exists()
    assert said.startswith("alexnet: Stopped.")
    assert "the same command goes on" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("broken", ["None", "lambda *_: threading.Event().wait()"])
def test_an_engine_that_fails_or_hangs_ends_it(
    tiny_model: Path, crowd: Path, tmp_path: Path, broken: str
) -> None:
    """Not every picture left is at fault; whoever started it may start it again."""
    output = tmp_path / "scores.csv"
    asked = (crowd, "-o", output, "--crops", "one")
    strike = f"import threading, service.engine; service.engine.Engine._run = {broken}"

    status, said = struck(strike, *asked, model=tiny_model, run_timeout=2)

    assert status == 70, said
    assert "alexnet: The engine has failed" in said.splitlines()[-1]
    assert went_on(predict(*asked, model=tiny_model))
    assert len(rows(output)) == MANY - len(range(0, MANY, 9))


def test_what_was_skipped_is_tried_again(tiny_model: Path, crowd: Path, tmp_path: Path) -> None:
    """A job that goes on reads a file that was mended meanwhile."""
    top = make_crowd(tmp_path / "crowd", MANY)
    output = tmp_path / "scores.csv"
    asked = (top, "-o", output, "--crops", "one")
    struck(signalled(signal.SIGTERM), *asked, model=tiny_model)
    (tmp_path / "crowd-0.jpg").write_bytes(picture())

    done = predict(*asked, model=tiny_model)

    assert went_on(done)
    assert f"{MANY} pictures scored" in done.stderr.decode()
    assert "; 0 skipped" in done.stderr.decode()


@pytest.mark.parametrize("change", [["--crops", "ten"], ["--top", "4"], ["--model"]])
def test_it_goes_on_with_the_same_question_only(
    tiny_model: Path, other_model: Path, folder: Path, change: list[str]
) -> None:
    """Scores of two models in one table would mean nothing."""
    output = folder.parent / "scores.csv"
    asked = ["--crops", "one", "--model", str(tiny_model)]
    journal = begun(output, folder, tiny_model)
    kept = journal.read_bytes()
    changed = [*change, str(other_model)] if change == ["--model"] else change

    text = sentence(predict(folder, "-o", output, *asked, *changed))

    assert str(journal) in text
    assert changed[0].strip("-") in text
    assert journal.read_bytes() == kept
    assert predict(folder, "-o", output, *asked).returncode == 0


def test_it_goes_on_with_the_same_places_only(tiny_model: Path, folder: Path) -> None:
    """A table would have pictures of both."""
    output = folder.parent / "scores.csv"
    journal = begun(output, ROOT, tiny_model)

    text = sentence(
        predict(folder / "cats", folder, "-o", output, "--crops", "one", model=tiny_model)
    )

    assert "places ['.'], now" in text
    assert journal.exists()


def begun(output: Path, folder: Path, model: Path) -> Path:
    """A journal as a job for these has just begun it."""
    about = {
        "model": inspect(model).version,
        "crops": "one",
        "top": 5,
        "scaled decoding": False,
        "folder": str(folder),
        "places": ["."],
    }
    with opened(path := Path(f"{output}.partial"), about):
        pass
    return path


def test_a_strange_file_in_place_of_the_journal_is_left_alone(
    tiny_model: Path, folder: Path
) -> None:
    """Somebody may need it."""
    output = folder.parent / "scores.csv"
    strange = Path(f"{output}.partial")
    strange.write_text("my novel, chapter one; " * 100)

    assert str(strange) in sentence(predict(folder, "-o", output, model=tiny_model))
    assert strange.read_text().startswith("my novel")


def test_two_processes_do_not_write_one_table(tiny_model: Path, folder: Path) -> None:
    """The second one is told so; the lock is the system's, and goes with its process."""
    output = folder.parent / "scores.csv"

    with opened(Path(f"{output}.partial"), {}) as journal:
        journal.commit()
        text = sentence(predict(folder, "-o", output, model=tiny_model))

    assert "Another process" in text


def without(module: str, *arguments: object, **settings: Any) -> Any:
    """Run it where a module is not installed."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"sys.argv = ['alexnet', 'predict', *{[str(one) for one in arguments]!r}]\n"
        "import service.__main__ as command; command.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        timeout=60,
    )


def test_without_pyarrow_the_extra_to_install_is_named(tiny_model: Path, folder: Path) -> None:
    """At the start, not after a night's work; the other formats need nothing."""
    output = folder.parent / "scores.parquet"

    text = sentence(without("pyarrow", folder, "-o", output, model=tiny_model))

    assert "scripts/install run parquet" in text
    output = output.with_suffix(".jsonl")
    assert without("pyarrow", folder, "-o", output, model=tiny_model).returncode == 0
    assert len(rows(output)) == 3


def test_without_ray_the_extra_to_install_is_named(tiny_model: Path, folder: Path) -> None:
    """Likewise."""
    output = folder.parent / "scores.csv"

    text = sentence(without("ray", folder, "-o", output, "--ray", "auto", model=tiny_model))

    assert "scripts/install run ray" in text


def test_names_need_not_be_utf_8(tiny_model: Path, tmp_path: Path) -> None:
    """Bytes that no text has are written as escapes, alike in each format."""
    top = tmp_path / "pictures"
    top.mkdir()
    for name in (b"caf\xe9.jpg", 'œuf, "dur".jpg'.encode(), b"line\nbreak.jpg", b"re\rturn.jpg"):
        Path(os.fsdecode(os.fsencode(top) + b"/" + name)).write_bytes(picture())
    Path(os.fsdecode(os.fsencode(top) + b"/\xff.png")).touch()

    for suffix in ("parquet", "jsonl", "csv"):
        output = tmp_path / f"scores.{suffix}"
        done = predict(top, "-o", output, model=tiny_model)
        assert done.returncode == 0, done.stderr.decode()
        wanted = ["caf\\xe9.jpg", "line\nbreak.jpg", "re\rturn.jpg", 'œuf, "dur".jpg']
        assert [row["path"] for row in rows(output)] == wanted
        assert '\n"\\xff.png"' in Path(f"{output}.skipped.csv").read_text()


def test_links_are_followed_but_not_in_circles(tiny_model: Path, folder: Path) -> None:
    """Sets of pictures are often folders of links; what leads nowhere is reported."""
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

    found = sum(1 for _ in Pictures([str(folder)]))

    assert found <= 5 + 2 * len(names)


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
    photo = picture("BMP", (700, 600))
    (folder / "fits.bmp").write_bytes(photo)
    (folder / "larger.bmp").write_bytes(photo + b"\0")
    output = folder.parent / "scores.jsonl"

    done = predict(folder, "-o", output, model=tiny_model, max_body=len(photo))

    assert "fits.bmp" in [row["path"] for row in rows(output)]
    skipped = Path(f"{output}.skipped.csv").read_text()
    assert '"larger.bmp","body_too_large",' in skipped, done.stderr.decode()


def test_a_full_disk_is_one_sentence(tiny_model: Path, crowd: Path, tmp_path: Path) -> None:
    """Here a limit for files; without it the same command goes on from there."""
    output = tmp_path / "scores.csv"
    asked = (crowd, "-o", output, "--crops", "one", "--top", 100)
    full = f"resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (os.path.getsize('{output}.partial'),))"

    status, said = struck(full, *asked, model=tiny_model)

    assert status == 1
    assert said.startswith(f"alexnet: {output} or its journal cannot be written: "), said
    assert len(said.splitlines()) == 1
    assert went_on(predict(*asked, model=tiny_model))
    assert len(rows(output)) == MANY - len(range(0, MANY, 9))


def peak_memory(*arguments: object, **settings: Any) -> int:
    """Bytes that a run to its end had resident at most."""
    process = started(*arguments, **settings)
    assert process.stderr is not None
    process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return 1024 * usage.ru_maxrss


def test_memory_does_not_grow_with_the_folder(
    tiny_model: Path, crowd: Path, tmp_path: Path
) -> None:
    """Ten times as many pictures."""
    small = make_crowd(tmp_path / "small", 200)
    asked = ("--crops", "one", "--top", 1000)

    few = peak_memory(small, "-o", tmp_path / "few.csv", *asked, model=tiny_model)
    many = peak_memory(crowd, "-o", tmp_path / "many.csv", *asked, model=tiny_model)

    assert many < few + 12e6, f"{few / 1e6:.0f} MB, then {many / 1e6:.0f} MB"


def test_a_terminal_shows_how_far_it_is(tiny_model: Path, crowd: Path, tmp_path: Path) -> None:
    """Pictures, rate and time; elsewhere there are lines, and no codes for a terminal."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "service", "predict", str(crowd)),
            *("--crops", "one", "-o", str(tmp_path / "scores.csv")),
        ],
        cwd=ROOT,
        env=environment(model=tiny_model) | {"TERM": "xterm", "COLUMNS": "120"},
        stderr=there,
    )
    os.close(there)
    shown = b"".join(until_closed(here))

    assert process.wait(60) == 0
    assert f"{MANY}/{MANY}".encode() in shown
    assert re.search(rb"[\d.]+/s, .* so far, \d+ skipped", shown)


def test_the_rate_is_that_of_this_run() -> None:
    """What an earlier one did took it no time, and the time that is left follows."""
    progress = Progress(1000)
    progress.total = 3000
    assert str(progress) == "1000/3000, starting"

    progress.update(1000, 0)
    time.sleep(0.05)  # at least
    progress.update(1010, 2)

    found = re.fullmatch(r"1010/3000 ([\d.]+)/s, (.+) left, \d+ s so far, 2 skipped", str(progress))
    assert found is not None, str(progress)
    assert 0 < float(found[1]) <= 10 / 0.05


def test_a_walk_that_only_counts_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C would have to wait too."""
    slow = Event()
    monkeypatch.setattr(Pictures, "__iter__", lambda _: iter([b""] * slow.wait(30)))

    with counted(Pictures([str(folder)]), Progress(0)):
        pass

    (walk,) = [thread for thread in threading.enumerate() if thread.name == "alexnet-count"]
    slow.set()
    walk.join()


def until_closed(terminal: int) -> Iterator[bytes]:
    """What is written to the other end."""
    try:
        while data := os.read(terminal, 4096):
            yield data
    except OSError:  # Linux says so that nobody has it open any more
        pass
    finally:
        os.close(terminal)
