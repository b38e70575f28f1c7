"""`alexnet evaluate FOLDER`, from images to tables, JSON, record and report."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from service import console
from service.__main__ import app
from service.errors import ServiceError, SettingsInvalid
from service.evaluation.intervals import wilson
from service.evaluation.labels import Classes, EvaluationFailed, read_labels
from service.evaluation.predicted import Candidate, Decoder, Predictions, predict
from service.evaluation.report import FEW
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.inference.predictions import Prediction
from service.loadtest.generator import photographs
from service.settings import Settings, limits
from tests.support.classifying import classify_many
from tests.support.models import OWN, altered
from tests.support.servers import PATIENCE

EVALUATION = Path(__file__).parents[3] / "shared" / "data" / "evaluation"
# Stanford Dogs, which the bundled model learned from, has a part of each.
CUT_FROM = {
    "n02085936", "n02092002", "n02093647", "n02105162",
    "n02107312", "n02107683", "n02110806", "n02112018",
}  # fmt: skip
IMAGES = 24
HOSTILE = '<img src=x onerror="alert(1)">&.jpg'


def evaluate(folder: Path, *arguments: object) -> Result:
    """Run the command here, on the CPU; raises the error that it would say."""
    command = ["evaluate", str(folder), "--device", "cpu", *map(str, arguments)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "110"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def measured(folder: Path, *arguments: object) -> dict[str, Any]:
    """What it says as JSON."""
    results: dict[str, Any] = json.loads(evaluate(folder, *arguments, "--json").stdout)
    return results


def served(model: Path, images: list[bytes], crops: str) -> list[list[Prediction]]:
    """All classes of each image, as the service answers."""

    async def classified() -> list[list[Prediction] | ServiceError]:
        async with Classifier(Engine.load(model, device="cpu"), limits(Settings())) as classifier:
            return await classify_many(classifier, images, crops=crops, top=1000)

    answers = asyncio.run(classified())
    return [answer for answer in answers if not isinstance(answer, ServiceError)]


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Images labelled by what the service answers with ten crops: the best class is the right one
    of the first twelve, the third best of the next six, and one far behind of the others.
    """
    top = tmp_path_factory.mktemp("labelled")
    images = photographs(IMAGES)
    for number, best in enumerate(served(tiny_model, images, "ten")):
        right = best[0 if number < 12 else 2 if number < 18 else 40 * number]
        (top / f"{right.wordnet_id}_{number:02}.jpg").write_bytes(images[number])
    return top


def test_the_figures_are_those_of_the_services_answers(folder: Path, tiny_model: Path) -> None:
    results = measured(folder, "--model", tiny_model, "--crops", "ten")

    (run,) = results["runs"]
    assert (run["pictures"], run["top1"], run["top5"]) == (IMAGES, 0.5, 0.75)
    assert (run["crops"], run["model"], run["variant"]) == ("ten", "tiny", "owt")
    assert run["version"] == Engine.load(tiny_model, device="cpu").model.version
    assert run["top1_interval"] == pytest.approx(wilson(12, 24), abs=1e-6)
    assert run["top5_interval"] == pytest.approx(wilson(18, 24), abs=1e-6)
    assert results["comparisons"] == []


def test_each_choice_of_crops_is_measured_as_the_service_answers_it(
    folder: Path, tiny_model: Path
) -> None:
    files = sorted(folder.iterdir())
    results = measured(folder, "--model", tiny_model)

    assert [run["crops"] for run in results["runs"]] == ["ten", "one", "dense"]
    for run in results["runs"]:
        best = served(tiny_model, [file.read_bytes() for file in files], run["crops"])
        ranks = [
            [prediction.wordnet_id for prediction in classes].index(file.name[:9])
            for file, classes in zip(files, best, strict=True)
        ]
        assert run["top1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]), abs=1e-6)
        assert run["top5"] == pytest.approx(np.mean([rank < 5 for rank in ranks]), abs=1e-6)
        assert run["confidence"] == pytest.approx(
            np.mean([classes[0].probability for classes in best]), rel=1e-5
        )
        of_truth = [classes[rank].probability for classes, rank in zip(best, ranks, strict=True)]
        assert run["nll"] == pytest.approx(-np.log(of_truth).mean(), rel=1e-5)
    assert [
        (comparison["run"], comparison["against"]) for comparison in results["comparisons"]
    ] == [(1, 0), (2, 0)]


def test_two_models_are_compared_on_the_same_images(
    folder: Path, tiny_model: Path, other_model: Path
) -> None:
    arguments = ("--model", tiny_model, "--model", other_model, "--crops", "one,ten")
    results = measured(folder, *arguments)

    names = [run["name"] for run in results["runs"]]
    assert names == ["tiny, one", "tiny, ten", "caffe, one", "caffe, ten"]
    first, last = results["runs"][0], results["runs"][2]
    (between,) = (
        comparison
        for comparison in results["comparisons"]
        if (comparison["run"], comparison["against"]) == (2, 0)
    )
    top1 = between["top1"]
    assert top1["difference"] == pytest.approx(last["top1"] - first["top1"], abs=1e-5)
    assert top1["gained"] - top1["lost"] == round(IMAGES * top1["difference"])
    assert top1["interval"][0] < top1["difference"] < top1["interval"][1]


def test_the_same_model_twice_differs_by_nothing(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (copy := tmp_path / "copy.onnx").write_bytes(tiny_model.read_bytes())

    results = measured(folder, "--crops", "one", "--model", tiny_model, "--model", copy)

    (between,) = results["comparisons"]
    assert between["same_best"] == 1.0
    assert (between["top1"]["gained"], between["top1"]["lost"], between["top1"]["p"]) == (0, 0, 1)
    assert (between["ece_difference"], between["ece_interval"]) == (0, [0, 0])


def test_the_figures_do_not_depend_on_the_batch(folder: Path, tiny_model: Path) -> None:
    engine = Engine.load(tiny_model, device="cpu")
    labelled = read_labels(folder, [Classes(engine.model.labels)], None)
    decode = Decoder(labelled.base, limits(Settings()), 2**20)

    def predictions(batch: int) -> Predictions:
        candidates = [(0, Candidate(engine, "ten"))]
        predicted = predict(labelled, candidates, decode, batch=batch, progress=lambda *_: None)
        return predicted.predictions[0]

    single, seven = predictions(1), predictions(7)

    assert np.array_equal(single.best, seven.best)
    assert np.allclose(single.probabilities, seven.probabilities, atol=1e-6)
    assert np.allclose(single.label_probabilities, seven.label_probabilities, atol=1e-6)


def test_the_same_command_says_the_same(folder: Path, tiny_model: Path) -> None:
    arguments = (folder, "--model", tiny_model, "--crops", "one", "--json")

    assert evaluate(*arguments).stdout == evaluate(*arguments).stdout


def test_what_is_printed_written_and_recorded_are_the_same_numbers(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    output, record = tmp_path / "results.json", tmp_path / "record.json"
    data = ("--data", "24 synthetic photographs")
    arguments = ("--model", tiny_model, "-o", output, "--record", record, *data)

    printed = evaluate(folder, *arguments).stdout

    written, recorded = (json.loads(path.read_text()) for path in (output, record))
    assert recorded["weights"] == {}
    for run, entry in zip(written["runs"], recorded["accuracy"], strict=True):
        assert entry["data"] == written["data"] == "24 synthetic photographs"
        assert entry["by"].startswith("alexnet evaluate")
        assert {key: run[key] for key in entry if key not in ("data", "by")} == {
            key: value for key, value in entry.items() if key not in ("data", "by")
        }
        shown = [
            f"{100 * entry[key]:.1f} ({100 * entry[f'{key}_interval'][0]:.1f}-"
            f"{100 * entry[f'{key}_interval'][1]:.1f})"
            for key in ("top1", "top5", "ece")
        ]
        line = next(line for line in printed.splitlines() if line.startswith(entry["crops"]))
        assert re.split(r"\s{2,}", line.strip())[1:4] == shown


def test_the_record_keeps_what_else_is_in_it(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (record := tmp_path / "record.json").write_text(
        json.dumps(
            {
                "weights": {"licence": "mine"},
                "accuracy": [{"data": "old", "top1": 0.1}, {"data": "these", "top1": 0.9}],
            }
        )
    )
    arguments = ("--model", tiny_model, "--crops", "one", "--record", record, "--data", "these")
    evaluate(folder, *arguments)

    results = json.loads(record.read_text())
    assert results["weights"] == {"licence": "mine"}
    old, new = results["accuracy"]
    assert old == {"data": "old", "top1": 0.1}
    assert (new["data"], new["crops"], new["pictures"]) == ("these", "one", IMAGES)


def test_a_model_file_with_the_record_shows_the_accuracy(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ("--model", tiny_model, "--crops", "one", "--record", tmp_path / "record.json")
    evaluate(folder, *arguments)
    (entry,) = json.loads((tmp_path / "record.json").read_text())["accuracy"]
    path = altered(tiny_model, tmp_path / "told.onnx", accuracy=json.dumps([entry]))

    shown = CliRunner().invoke(app, ["inspect", str(path)], env={"COLUMNS": "110"}).stdout

    assert Engine.load(path, device="cpu").model.accuracy == [entry]
    for name in ("top1", "top5", "ece"):
        low, high = entry[f"{name}_interval"]
        assert re.search(rf"accuracy, {name}_interval\t{low} to {high}", shown)


def test_images_that_are_left_out_are_counted_and_named(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "n01440764_cut.jpg").write_bytes(photographs(1)[0][:600])
    (tmp_path / "n01440764_empty.png").touch()
    (tmp_path / "n99999999.jpg").write_bytes(photographs(1)[0])
    (tmp_path / "holiday\x1b[31m.jpg").write_bytes(photographs(1)[0])
    (tmp_path / "notes.txt").touch()
    arguments = ("--model", tiny_model, "--crops", "one")

    results, printed = measured(tmp_path, *arguments), evaluate(tmp_path, *arguments).stdout

    (run,), (without_them,) = results["runs"], measured(folder, *arguments)["runs"]
    for figure in ("pictures", "top1", "top5", "ece", "nll"):
        assert run[figure] == pytest.approx(without_them[figure], rel=1e-5)
    codes = {file["file"]: file["code"] for file in results["left_out"]["files"]}
    assert codes == {
        "holiday\x1b[31m.jpg": "unlabelled",
        "n01440764_cut.jpg": "image_unreadable",
        "n01440764_empty.png": "body_empty",
        "n99999999.jpg": "label_unknown",
    }
    assert sum(results["left_out"]["reasons"].values()) == 4
    assert (results["pictures"], results["others"]) == (IMAGES, 1)
    assert "4 left out: 1 unlabelled, 1 label_unknown, 1 image_unreadable, 1 body_empty" in printed
    assert "\x1b" not in printed
    assert len(results["runs"][0]["classes_without_pictures"]) == 1000 - results["classes"]
    assert f"{1000 - results['classes']} of the model's 1000 classes have no image" in printed


def test_a_folder_of_broken_images_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "n01440764.jpg").write_bytes(b"\xff\xd8\xff")

    with pytest.raises(EvaluationFailed, match="none of the 1 images could be read"):
        evaluate(tmp_path, "--model", tiny_model)


def test_a_file_beyond_the_limit_is_left_out_as_the_service_would_refuse_it(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(file.stat().st_size for file in folder.iterdir())
    monkeypatch.setenv("ALEXNET_MAX_BODY", str(largest - 1))

    results = measured(folder, "--model", tiny_model, "--crops", "one")

    assert results["left_out"]["reasons"] == {"body_too_large": IMAGES - results["pictures"]}
    assert results["pictures"] < IMAGES


def test_a_model_with_classes_of_ones_own_is_measured_by_folder_names(tmp_path: Path) -> None:
    images = photographs(6)
    best = served(OWN, images, "ten")
    for number, (data, classes) in enumerate(zip(images, best, strict=True)):
        place = tmp_path / "p" / classes[number % 2].label.replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(data)
    report = tmp_path / "report.html"
    arguments = ("--model", OWN, "--crops", "ten")

    results = measured(tmp_path / "p", *arguments)
    printed = evaluate(tmp_path / "p", *arguments, "--report", report).stdout

    (run,) = results["runs"]
    assert (run["top1"], run["top5"], run["number_of_classes"]) == (0.5, 1.0, 3)
    assert all(row["true"]["wordnet_id"] is None for row in run["classes"])
    assert "with 3 classes the right one is always among five" in printed
    assert "<b>birds" not in report.read_text()


def test_every_class_is_printed_on_demand(folder: Path, tiny_model: Path) -> None:
    arguments = ("--model", tiny_model, "--crops", "ten")
    results = measured(folder, *arguments)["runs"][0]

    few, every = (evaluate(folder, *arguments, *more).stdout for more in ((), ("--per-class",)))

    ids = {row["true"]["wordnet_id"] for row in results["classes"]}
    assert len(ids) > FEW
    assert all(wordnet_id in every for wordnet_id in ids)
    assert "All classes" in every
    assert "The worst classes" in few
    worst = results["confusions"][0]
    assert re.search(rf"1 .*{worst['true']['wordnet_id']} .*{worst['said']['wordnet_id']}", few)


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "action", "srcset", "data", "poster")
        self.references += [value or "" for name, value in attrs if name in names]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(folder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with a hostile name among the worst mistakes."""
    top = tmp_path_factory.mktemp("hostile")
    for file in folder.iterdir():
        (top / file.name).write_bytes(file.read_bytes())
    wrong = sorted(folder.iterdir(), key=lambda file: file.name[-6:])[-1]
    (top / wrong.name).rename(top / f"{wrong.name[:9]}{HOSTILE}")
    evaluate(top, "--model", tiny_model, "--crops", "ten,one", "--report", top / "r.html")
    return (top / "r.html").read_text("utf-8")


def test_the_report_refers_to_nothing_outside_itself(report: str) -> None:
    page = Page(report)

    assert page.references
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in page.references)
    assert "url(" not in report
    assert "@import" not in report
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "default-src 'none'" in report


def test_names_in_the_report_are_text_and_not_markup(report: str) -> None:
    assert HOSTILE not in report
    assert HOSTILE in Page(report).text


def test_the_report_shows_the_worst_mistakes_as_the_network_saw_them(
    report: str, folder: Path
) -> None:
    shown = Page(report).references
    images = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in shown]

    assert len(images) >= 12
    assert {image.size for image in images} == {(160, 160)}
    assert {image.format for image in images} == {"JPEG"}


def test_the_report_has_the_figures_the_plots_and_all_tables(
    report: str, folder: Path, tiny_model: Path
) -> None:
    results = measured(folder, "--model", tiny_model, "--crops", "ten,one")
    page = Page(report)

    for run in results["runs"]:
        assert f"{100 * run['top1']:.1f}" in page.text
        low, high = run["ece_interval"]
        assert f"{100 * low:.1f}-{100 * high:.1f}" in page.text
    text = " ".join(page.text.split())
    for bin in (bin for run in results["runs"] for bin in run["calibration"] if bin["pictures"]):
        assert f"{bin['pictures']} images above {100 * bin['low']:.1f}" in text
    assert page.tags.count("figure") == 2
    for row in results["runs"][0]["classes"]:
        assert row["true"]["wordnet_id"] in page.text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--crops", "four"), "--crops four: .* offers ten, one, dense"),
        (("--crops", ""), "offers ten, one, dense"),
        (("--report", "report.txt"), r"must end in \.html"),
        (("--output", "none/results.json"), "there is no folder none; make it"),
        (("-o", "a.json", "--record", "./a.json"), "must be different files"),
        (("--model", "none.onnx"), "none.onnx cannot be read"),
        (("--record", "a.json", "--model", "a.onnx", "--model", "b.onnx"), "is about one model"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    arguments: tuple[str, ...],
    why: str,
    folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = () if "--model" in arguments else ("--model", str(tiny_model))

    with pytest.raises(ServiceError, match=why):
        evaluate(folder, *model, *arguments)

    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_record_is_not_written_over(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (record := tmp_path / "package.json").write_text('{"name": "precious"}')

    output = tmp_path / "results.json"

    with pytest.raises(SettingsInvalid, match="is not a record"):
        evaluate(folder, "--model", tiny_model, "--record", record, "-o", output)

    assert record.read_text() == '{"name": "precious"}'
    assert not output.exists()  # it was said before anything was measured


@pytest.mark.parametrize("option", ["--output", "--record", "--report"])
def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_measured(
    option: str, folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write wherever it likes, so the system's answer is generated."""
    really = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path and really(path, mode)
    )
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("measured"))
    path = tmp_path / f"it.{'html' if option == '--report' else 'json'}"

    with pytest.raises(SettingsInvalid, match="cannot be written to; choose another"):
        evaluate(folder, "--model", tiny_model, option, path)


@pytest.mark.parametrize("option", ["--output", "--record", "--report"])
@pytest.mark.parametrize("shown", ["--crops=one", "--json"])
def test_what_was_measured_is_shown_though_it_cannot_be_written(
    option: str, shown: str, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"it.{'html' if option == '--report' else 'json'}"
    (tmp_path / f"{path.name}.writing").mkdir()  # in the way, as a full disk would be
    arguments = ["--device", "cpu", "--model", tiny_model, "--crops", "one", shown, option, path]

    done = CliRunner().invoke(app, ["evaluate", str(folder), *map(str, arguments)])

    assert isinstance(done.exception, EvaluationFailed)
    assert re.search(r"it\.\w+ cannot be written \(.*\); choose another place", str(done.exception))
    assert json.loads(done.stdout)["runs"] if shown == "--json" else "top-1" in done.stdout


@pytest.mark.parametrize("terminal", [True, False])
def test_it_says_how_far_it_is(
    terminal: bool, folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal with a bar, elsewhere with a line now and then."""
    opened, line_printed = list[bytes](), threading.Event()
    decode: Callable[[Decoder, bytes], Any] = Decoder.__call__
    say = console.say

    def decode_the_last_when_it_was_said(self: Decoder, name: bytes) -> Any:
        opened.append(name)
        if len(opened) == IMAGES and not terminal:
            assert line_printed.wait(PATIENCE)
        return decode(self, name)

    def say_and_tell(line: str) -> None:
        say(line)
        if re.match(rf"[1-9]\d*/{IMAGES} ", line):
            line_printed.set()

    monkeypatch.setattr(Decoder, "__call__", decode_the_last_when_it_was_said)
    monkeypatch.setattr(console, "say", say_and_tell)
    monkeypatch.setattr(console, "LINE_EVERY", 0.001)
    monkeypatch.setenv("ALEXNET_MAX_BATCH", "1")
    command = ["evaluate", str(folder), "--device", "cpu", "--model", str(tiny_model)]
    environment = {"COLUMNS": "110", "TERM": "xterm-256color"}  # rich keeps a style's first colours
    environment |= {"FORCE_COLOR": "1"} if terminal else {}

    done = CliRunner().invoke(app, [*command, "--crops", "one"], env=environment)

    assert done.exit_code == 0
    assert re.search(rf"\b[1-9]\d*/{IMAGES} \d+\.\d/s", done.stderr)
    assert ("\u2501" in done.stderr) == terminal


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_no_file(
    number: signal.Signals,
    status: int,
    folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really: Callable[[Decoder, bytes], Any] = Decoder.__call__
    opened: list[bytes] = []

    def decode(self: Decoder, name: bytes) -> Any:
        opened.append(name)
        if len(opened) == 3:
            os.kill(os.getpid(), number)
        return really(self, name)

    monkeypatch.setattr(Decoder, "__call__", decode)
    monkeypatch.setenv("ALEXNET_MAX_BATCH", "1")
    output = tmp_path / "results.json"

    done = evaluate(folder, "--model", tiny_model, "-o", output)

    assert done.exit_code == status
    assert "Stopped. Nothing was written." in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.skipif(not EVALUATION.is_dir(), reason="needs the evaluation images, not shipped")
@pytest.mark.external  # half a minute
def test_the_bundled_models_own_record_is_what_is_measured(
    bundled_model: Path, tmp_path: Path
) -> None:
    for image in EVALUATION.glob("n*.jpg"):
        if image.stem not in CUT_FROM:
            (tmp_path / image.name).symlink_to(image)
    crops = ("ten", "one", "dense")
    recorded = {
        entry["crops"]: entry
        for entry in Engine.load(bundled_model, device="cpu").model.accuracy
        if entry["data"].startswith("492 labelled photographs")
    }

    runs = measured(tmp_path, "--crops", ",".join(crops))["runs"]

    assert set(recorded) == {"ten", "one", "dense"}
    assert [run["crops"] for run in runs] == list(crops)
    for run in runs:
        entry = recorded[run["crops"]]
        assert run["pictures"] == 492
        assert (run["top1"], run["top5"]) == (entry["top1"], entry["top5"])
        assert run["ece"] == pytest.approx(entry["ece"], abs=1e-4)
