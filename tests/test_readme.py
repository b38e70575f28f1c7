"""What the pages show is what the code does, as far as nothing need be built or run for it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.http.middleware.errors import FRAMEWORK, INTERNAL, STATUSES
from service.inference.engine import Engine
from service.inference.image import decode
from service.inference.limits import DecodeLimits
from service.settings import SECRETS, Settings, groups

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text("utf-8")
START = (ROOT / "docs" / "start.md").read_text("utf-8")
KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(r"^\| `ALEXNET_(\w+)` \| (.+?) \| (.+?) \|$", SETTINGS, re.M)

    shown = {name.lower(): (default, text) for name, default, text in rows}

    assert shown == {
        name: (
            "the bundled model" if name == "model" else default_text(field.default),
            " ".join((field.description or "").split()),
        )
        for name, field in Settings.model_fields.items()
    }


def test_the_page_says_which_settings_have_no_flag() -> None:
    without = re.findall(r"`ALEXNET_(\w+)` has no flag", SETTINGS)

    assert [name.lower() for name in without] == list(SECRETS)


def test_the_settings_stand_in_the_groups_of_the_command_line() -> None:
    sections = re.findall(r"^## (.+)\n((?:.|\n)*?)(?=^## |\Z)", SETTINGS, re.M)
    shown = {
        heading: [name.lower() for name in re.findall(r"^\| `ALEXNET_(\w+)`", text, re.M)]
        for heading, text in sections
    }

    assert {group: names for group, names in shown.items() if names} == groups()


def default_text(default: object) -> str:
    if default in (None, ()):
        return "none"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_the_error_table_is_the_table_of_statuses() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", ERRORS, re.M)

    told = {(status, kind.code) for kind, status in STATUSES.items()}
    told |= {(status, code) for status, (code, _) in FRAMEWORK.items()} | {(500, INTERNAL[0])}
    assert [(int(status), code) for status, code in rows] == sorted(told)


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"@(tests/[\w/.]+\w)|\]\((docs/[\w.-]+)|`(docker/[\w.]+\w)`", README))

    missing = [path for group in named for path in group if path and not (ROOT / path).exists()]

    assert named
    assert not missing


def test_no_link_of_a_markdown_file_is_broken() -> None:
    """As they are shown where the repository is: files by name, headings as GitHub calls them."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = []
    for file in files:
        for link in re.findall(r"\]\(([^)\s]+)\)", _prose(file)):
            parts = urlsplit(link)
            target = (file.parent / parts.path).resolve() if parts.path else file
            if parts.scheme:
                continue
            if not target.exists() or (parts.fragment and parts.fragment not in _slugs(target)):
                broken.append(f"{file.name}: {link}")

    assert not broken


@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_the_answer_shown_is_the_bundled_models(page: str, bundled_model: Path) -> None:
    """The version and the first two classes of the example, against a real run."""
    classifier = Engine.load(bundled_model, device="cpu")
    pixels = decode((ROOT / "tests" / "pictures" / "cat.jpg").read_bytes(), DecodeLimits())
    shown = re.findall(r'"index": (\d+), .*?"label": "(.+?)", "probability": ([\d.]+)', page)

    probabilities = classifier.run(pixels[None], 10)[0]

    assert f'"version": "{classifier.model.version}"' in page
    assert len(shown) == 2
    for index, label, probability in shown:
        assert classifier.model.labels[int(index)].name == label
        # Processors round differently in 8 bit: the file's own tolerance.
        assert abs(probabilities[int(index)] - float(probability)) < 0.1


def test_every_path_that_the_page_on_kubernetes_names_is_there() -> None:
    paths = set(re.findall(r"\b(?:deploy|docker|tests|docs)/[\w./-]*\w", KUBERNETES))

    assert {"deploy/kubernetes/overlays/cpu", "deploy/kserve"} <= paths
    own = "deploy/kubernetes/overlays/mine"  # what a reader makes
    assert [path for path in paths if not (ROOT / path).exists() and not path.startswith(own)] == []


def test_the_page_on_kubernetes_takes_away_each_thing_that_it_puts_there() -> None:
    put, taken = (
        set(re.findall(rf"kubectl {verb} -k (\S+)", KUBERNETES)) for verb in ("apply", "delete")
    )

    for folder in ("deploy/kubernetes/overlays/cpu", "deploy/kubernetes/overlays/mine"):
        assert folder in put & taken


def test_a_placeholder_in_a_path_is_in_upper_case() -> None:
    """As in the help: FOLDER/CLASS/image."""
    bracketed = re.compile(r"[\w.]/<[a-z]+>|<[a-z]+>/\w")
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    code = {file.name: re.findall(r"`[^`\n]+`", file.read_text("utf-8")) for file in files}

    assert code["weights.md"]
    assert [(name, span) for name, spans in code.items() for span in spans
            if bracketed.search(span)] == []  # fmt: skip


def _prose(file: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", file.read_text("utf-8"), flags=re.M | re.S)


def _slugs(file: Path) -> set[str]:
    """The anchors of a file's headings: small letters, no punctuation, spaces to hyphens."""
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_make_help_lists_every_target() -> None:
    declared = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert declared

    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    lines = [line.split(maxsplit=1) for line in shown.stdout.splitlines()]
    assert [target for target, _ in lines] == declared[1].split()
