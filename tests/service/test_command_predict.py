"""`alexnet predict`: what it takes, and what it prints to whom."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import console
from service.batch.files import read
from service.batch.reader import FileClassifier
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.inference.formats import SUFFIXES
from service.settings import Settings, limits
from tests.support.commands import BUFFERED, Stream, alexnet, plain
from tests.support.images import image
from tests.support.memory import most_allocated
from tests.support.servers import PATIENCE, ROOT, serving
from tests.support.terminals import Counter, on_real_terminal, on_terminal

PHOTOGRAPHS = "tests/pictures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images at three levels, a broken one, a hidden one, and what is no image."""
    top = tmp_path / "pictures"
    (top / "b" / "deep").mkdir(parents=True)
    (top / "a").mkdir()
    for name in ("z.jpg", "10.jpg", "b/1.jpg", "b/deep/2.PNG", "a/3.webp", ".hidden.jpg"):
        kind = {".PNG": "PNG", ".webp": "WEBP"}.get(Path(name).suffix, "JPEG")
        (top / name).write_bytes(image(kind))
    (top / "b" / "broken.jpg").write_bytes(image()[:400])
    (top / "notes.txt").write_text("nothing to see here")
    return top


ORDER = ["10.jpg", "z.jpg", "a/3.webp", "b/1.jpg", "b/broken.jpg", "b/deep/2.PNG"]


def many(folder: Path, number: int) -> Path:
    """So many names of one image."""
    folder.mkdir()
    (folder / "0000.jpg").write_bytes(image(size=(256, 256)))
    for index in range(1, number):
        os.link(folder / "0000.jpg", folder / f"{index:04}.jpg")
    return folder


def test_a_folder_is_answered_in_the_order_of_its_names(tiny_model: Path, folder: Path) -> None:
    """Of each folder its images, then its folders; a broken one does not stop the others."""
    done = alexnet("predict", str(folder), "--json", "--top", "1", model=tiny_model)

    assert done.returncode == 1
    assert done.stderr == b""
    predictions = json.loads(done.stdout)["predictions"]
    assert [entry["filename"] for entry in predictions] == [str(folder / name) for name in ORDER]
    assert [entry["filename"] for entry in predictions if "error" in entry] == [
        str(folder / "b/broken.jpg")
    ]


def test_piped_it_prints_fields_for_cut_and_awk(tiny_model: Path, folder: Path) -> None:
    """Tabs between, no escape sequence; what failed is on the other stream, by its name."""
    done = alexnet("predict", str(folder), "--top", "2", model=tiny_model)

    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    whole = [name for name in ORDER if "broken" not in name]
    assert [line[0] for line in lines] == [str(folder / name) for name in whole for _ in range(2)]
    assert all(len(line) == 4 for line in lines)
    assert all(0 <= float(line[1]) <= 1 and re.fullmatch(r"n\d{8}", line[2]) for line in lines)
    assert done.stderr.decode().startswith(f"{folder}/b/broken.jpg: ")
    assert len(done.stderr.decode().splitlines()) == 1


def test_json_lines_have_what_the_document_has(tiny_model: Path, folder: Path) -> None:
    arguments = ("predict", str(folder), "--top", "3", "--crops", "one")
    lines = alexnet(*arguments, "--json-lines", model=tiny_model)
    document = alexnet(*arguments, "--json", model=tiny_model)

    assert [json.loads(line) for line in lines.stdout.splitlines()] == json.loads(document.stdout)[
        "predictions"
    ]
    assert (lines.returncode, lines.stderr) == (1, b"")


def test_the_document_is_the_servers_answer(tiny_model: Path, tmp_path: Path) -> None:
    """Of an image and of a broken one; written piece by piece, it is byte for byte the same."""
    file, broken = tmp_path / "a.jpg", tmp_path / "b.jpg"
    file.write_bytes(image())
    broken.write_bytes(image()[:400])
    done = alexnet("predict", str(file), str(broken), "--json", "--top", "2", model=tiny_model)

    with serving(tiny_model) as server:
        files = [("file", (str(name), name.read_bytes())) for name in (file, broken)]
        answer = server.client.post("/v1/predict?top=2", files=files)

    def rounded(document: bytes) -> str:
        """The order of keys stays; the last digits may depend on how many threads compute."""
        return json.dumps(json.loads(document, parse_float=lambda digits: f"{float(digits):.4f}"))

    assert done.stdout.decode() == json.dumps(json.loads(done.stdout), indent=2) + "\n"
    assert rounded(done.stdout) == rounded(answer.content)


def test_the_answer_as_json_needs_no_web_framework(tiny_model: Path) -> None:
    """In a process of its own: it begins sooner, and takes less memory."""
    code = (
        "import sys; sys.argv = ['alexnet', 'predict', 'tests/pictures/cat.jpg', '--json']\n"
        "import service.__main__ as command\n"
        "try: command.main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "found = {'fastapi', 'starlette', 'uvicorn', 'service.http.routes'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=plain(model=tiny_model),
        capture_output=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stderr.decode()
    assert len(json.loads(done.stdout)["predictions"]) == 1


def test_names_come_from_a_file_or_from_standard_input(tiny_model: Path, folder: Path) -> None:
    """One a line, folders too."""
    listed = folder.parent / "names"
    listed.write_text(f"{folder}/z.jpg\n\n{folder}/a\n")
    arguments = ("--top", "1", "--files-from")

    from_file = alexnet("predict", *arguments, str(listed), model=tiny_model)
    from_input = alexnet("predict", *arguments, "-", stdin=listed.read_bytes(), model=tiny_model)

    assert from_file.returncode == 0, from_file.stderr.decode()
    names = [line.split("\t")[0] for line in from_file.stdout.decode().splitlines()]
    assert names == [f"{folder}/z.jpg", f"{folder}/a/3.webp"]
    assert from_input.stdout == from_file.stdout


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_before_a_list_of_names_is_skipped(
    tiny_model: Path, tmp_path: Path, encoding: str
) -> None:
    """As Windows writes lists: Notepad in UTF-8, PowerShell in UTF-16."""
    photo, listed = tmp_path / "кошка.jpg", tmp_path / "names"
    photo.write_bytes(image())
    listed.write_bytes(f"{photo}\r\n".encode(encoding))

    done = alexnet("predict", "--top", "1", "--files-from", str(listed), model=tiny_model)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split("\t")[0] == str(photo)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "koi8-r"])
@pytest.mark.parametrize("flags", [(), ("--json-lines",), ("--json",)])
def test_names_that_the_output_cannot_show_do_not_end_the_run(
    tiny_model: Path, tmp_path: Path, encoding: str, flags: tuple[str, ...]
) -> None:
    """They are told as standard error tells them, and the images after them are answered."""
    names = ["кошка.JPG", "猫.jpg", "broken 猫.jpg", "plain.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(image()[: 400 if "broken" in name else None])
    arguments = ["predict", *(str(tmp_path / name) for name in names), "--top", "1", *flags]

    done = alexnet(*arguments, about={"PYTHONIOENCODING": encoding}, model=tiny_model)

    assert done.returncode == 1, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    told = done.stdout.decode(encoding)
    assert "plain.jpg" in told
    assert r"\u732b.jpg" in told
    shown = "кошка.JPG" if encoding == "koi8-r" and not flags else r"\u043a\u043e\u0448\u043a\u0430"
    assert shown in told
    broken = told if flags else done.stderr.decode(encoding)
    assert r"broken \u732b.jpg" in broken


def test_a_terminal_that_cannot_show_a_name_gets_its_bars(tiny_model: Path, tmp_path: Path) -> None:
    photo = tmp_path / "кошка.jpg"
    photo.write_bytes(image())

    status, shown = on_terminal(
        "predict", str(photo), about={"PYTHONIOENCODING": "ascii"}, model=tiny_model
    )

    assert (status, shown.count("%")) == (0, 5)
    # The terminal breaks a long name where a line ends.
    assert r"\u043a\u043e\u0448\u043a\u0430.jpg" in "".join(
        re.sub(r"\x1b\[[0-9;]*m", "", shown).split()
    )


def test_names_are_bytes_that_end_with_a_line(tiny_model: Path, tmp_path: Path) -> None:
    """One that is not UTF-8, and one that holds what only Python takes for a line's end."""
    names = [os.fsencode(tmp_path) + name for name in (b"/caf\xe9.jpg", "/a\u2028b.jpg".encode())]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(image())

    done = alexnet("predict", "--files-from", "-", stdin=b"\r\n".join(names), model=tiny_model)

    assert (done.returncode, done.stderr) == (0, b"")
    assert len({line.split(b"\t")[0] for line in done.stdout.splitlines()}) == 2


def test_the_output_of_a_command_is_an_image_too(tiny_model: Path) -> None:
    """The shell's <(...) is a pipe with a name."""
    line = f"{sys.executable} -m service predict <(cat {PHOTOGRAPHS}/cat.jpg) --top 1"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=plain(model=tiny_model),
        capture_output=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"/dev/fd/")


def test_a_pipe_that_lies_in_a_folder_is_not_waited_for(tiny_model: Path, tmp_path: Path) -> None:
    """Nobody may ever write into it."""
    (tmp_path / "a.jpg").write_bytes(image())
    os.mkfifo(tmp_path / "b.jpg")

    done = alexnet("predict", str(tmp_path), model=tiny_model)

    assert done.returncode == 1
    assert b"a.jpg" in done.stdout
    assert b"b.jpg: This is not a regular file" in done.stderr


@pytest.mark.parametrize("closed", ["<&- 2>&-", ">&-"])
def test_a_stream_that_is_closed_is_an_empty_one(tiny_model: Path, closed: str) -> None:
    """A parent process need not give any."""
    line = f"{sys.executable} -m service predict - {PHOTOGRAPHS}/cat.jpg {closed}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=plain(model=tiny_model),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 1  # no image comes from an empty input
    assert b"Traceback" not in done.stderr
    assert (b"cat.jpg" in done.stdout) == (closed != ">&-")


def test_a_file_beyond_the_limit_is_refused_by_itself(tiny_model: Path, tmp_path: Path) -> None:
    """From the disk and from standard input; the others are answered."""
    small, large = tmp_path / "small.jpg", tmp_path / "large.jpg"
    small.write_bytes(image(size=(64, 64)))
    large.write_bytes(image(size=(600, 600)) + bytes(100_000))

    done = alexnet(
        *("predict", str(large), "-", str(small), "--json-lines"),
        stdin=large.read_bytes(),
        model=tiny_model,
        max_body=50_000,
    )

    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry.get("code") for entry in entries] == ["body_too_large", "body_too_large", None]
    assert "ALEXNET_MAX_BODY" in entries[0]["error"]


@pytest.mark.parametrize("form", ["--json", "--json-lines", None])
def test_a_name_is_no_command_for_the_terminal(
    form: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    """Escape sequences, ends of lines, bytes that are no UTF-8."""
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9\n\x1b[31m.jpg")
    with open(name, "wb") as file:
        file.write(image())
    arguments = ["predict", str(tmp_path), "--top", "1"] + ([form] if form else [])

    done = alexnet(*arguments, model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    assert b"\x1b" not in done.stdout
    if form == "--json-lines":
        assert json.loads(done.stdout)["filename"] == f"{tmp_path}/caf\\xe9\n\x1b[31m.jpg"
    if form is None:
        assert len(done.stdout.splitlines()) == 1


def test_a_folder_without_images_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    """And in JSON one object."""
    done = alexnet("predict", str(tmp_path), model=tiny_model)
    as_json = alexnet("predict", str(tmp_path), "--json", model=tiny_model)

    assert (done.returncode, as_json.returncode) == (1, 1)
    assert done.stderr.decode().startswith(f"alexnet: there is no image in {tmp_path};")
    assert done.stderr.decode().endswith(f" {', '.join(SUFFIXES)}\n")
    assert json.loads(as_json.stderr)["code"] == "file_unreadable"
    assert as_json.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-", "--files-from", "-"], "give - once"),
        (["--files-from", "gone"], "gone cannot be read"),
        (["-", "--json", "--json-lines"], "choose one"),
        (["-", "--json", "-o", "scores.csv"], "FILE.jsonl"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    arguments: list[str], word: str, tiny_model: Path
) -> None:
    done = alexnet("predict", *arguments, model=tiny_model)

    assert done.returncode == 1
    assert word in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1
    assert done.stderr.startswith(b'{"error"' if "--json" in arguments else b"alexnet: ")


def test_bars_fit_the_terminal_and_leave_the_labels_whole() -> None:
    """Also at 60 columns; where there is room, with WordNet ids."""
    arguments = ("predict", f"{PHOTOGRAPHS}/cat.jpg")
    as_json = alexnet(*arguments, "--json")
    labels = [entry["label"] for entry in json.loads(as_json.stdout)["predictions"][0]["classes"]]
    colourless = {"NO_COLOR": "1"}

    for columns in (60, 100):
        status, sent = on_terminal(*arguments, columns=columns, about=colourless)
        text = re.sub(r"\x1b\[\d*m", "", sent)

        assert status == 0
        assert all(len(line) <= columns for line in text.splitlines())
        assert text.count(" % ") == 5
        assert "━" in text
        assert all(label in text for label in labels)
        assert bool(re.search(r"n\d{8}", text)) == (columns == 100)


def test_bars_are_as_wide_as_the_system_says_that_the_terminal_is(tiny_model: Path) -> None:
    """No variable says it there."""
    arguments = ("predict", f"{PHOTOGRAPHS}/cat.jpg")
    status, sent = on_real_terminal(*arguments, columns=60, model=tiny_model)

    shown = on_terminal(*arguments, columns=60, model=tiny_model)
    assert (status, sent.replace("\r\n", "\n")) == shown
    assert shown != on_terminal(*arguments, columns=100, model=tiny_model)


def test_bars_are_ascii_where_the_terminal_is() -> None:
    _, sent = on_terminal(
        *("predict", f"{PHOTOGRAPHS}/cat.jpg"),
        about={"TERM": "dumb", "PYTHONIOENCODING": "ascii"},
    )

    assert sent.isascii()
    assert "--" in sent


def test_many_images_have_a_bar_that_leaves_nothing_behind(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, if that is a terminal; what is piped on stays as it is."""
    monkeypatch.setattr(console, "Thread", Counter)
    monkeypatch.setattr(console, "LINE_EVERY", 0.001)  # where there were lines, they would come
    folder, output, few = many(tmp_path / "many", 40), Stream(), Stream()
    arguments = ("predict", str(folder), "--top", "1", "--crops", "one")

    status, sent = on_terminal(*arguments, stdout=output, model=tiny_model)
    _, nothing = on_terminal("predict", PHOTOGRAPHS, stdout=few, model=tiny_model)
    piped = alexnet(*arguments, model=tiny_model)

    assert status == 0
    assert "40/40" in sent
    assert sent.endswith("\x1b[2K")
    assert nothing == ""
    assert len(few.written().splitlines()) > 5
    assert output.written() == piped.stdout
    assert piped.stderr == b""
    assert len(piped.stdout.splitlines()) == 40


def test_answers_come_before_the_end(tiny_model: Path, tmp_path: Path) -> None:
    """A reader that leaves after the first line ends it, quietly, with the status of a pipe."""
    folder = many(tmp_path / "many", 2000)
    line = f"{sys.executable} -m service predict {folder} --crops one --top 1 | head -1"
    done = subprocess.run(
        ["bash", "-c", line + '; exit "${PIPESTATUS[0]}"'],
        cwd=ROOT,
        env=plain(BUFFERED, model=tiny_model),
        capture_output=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 141
    assert done.stdout.decode().startswith(f"{folder}/0000.jpg\t")
    assert done.stderr == b""


def test_answers_that_are_broken_off_leave_nothing_under_way(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Not a task that would end, or fail, when nobody looks any more."""
    folder = many(tmp_path / "many", 40)

    async def after_the_first() -> set[asyncio.Task[Any]]:
        settings = Settings(device="cpu")
        async with Classifier(
            Engine.load(tiny_model, device="cpu"), limits(settings)
        ) as classifier:
            before = asyncio.all_tasks()
            files = FileClassifier(
                classifier, read, crops="one", window=16, max_body=10**6, max_uploads=10**6
            )
            results = files.results(os.fsencode(path) for path in folder.iterdir())
            await anext(results)
            await results.aclose()
            left = asyncio.all_tasks() - before
            return {task for task in left if task.get_name() != "alexnet-run"}  # its own batcher's

    assert asyncio.run(after_the_first()) == set()


def test_ctrl_c_ends_it_quietly(tiny_model: Path, tmp_path: Path) -> None:
    """With 130, as the shell counts.  The lines are more than a pipe takes: it cannot be done."""
    folder = many(tmp_path / "many", 1000)
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "predict", str(folder), "--json-lines"],
        cwd=ROOT,
        env=plain(model=tiny_model),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert complaint == b""


@pytest.mark.external  # a trial of memory
def test_memory_does_not_grow_with_the_number_of_images(tiny_model: Path, tmp_path: Path) -> None:
    """Neither of the document; each is forgotten when it is printed."""
    arguments = ("--json", "--top", "250", "--crops", "one")
    alexnet(
        "predict", f"{PHOTOGRAPHS}/cat.jpg", *arguments, model=tiny_model
    )  # imports what it needs
    few, more = (
        most_allocated(
            "predict", str(many(tmp_path / str(number), number)), *arguments, model=tiny_model
        )
        for number in (5, 35)
    )

    # 30 answers of 250 classes are 1.3 MB of JSON, and as objects more; an image, which may still
    # be held when the next one comes, is 0.2 MB.
    assert more - few < 0.7e6
