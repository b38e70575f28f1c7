"""What the README shows, and the tables of settings and errors, is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.engine import Engine
from service.image import decode
from service.routes.errors import FRAMEWORK, INTERNAL, STATUSES
from service.settings import SECRETS, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text("utf-8")
START = (ROOT / "docs" / "start.md").read_text("utf-8")


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(
        r"^\| `ALEXNET_(\w+)` \| (?:`--([\w-]+)`|none) \| (.+?) \| (.+?) \|$", SETTINGS, re.M
    )

    shown = {
        name.lower(): (flag.replace("-", "_"), default, text) for name, flag, default, text in rows
    }

    assert shown == {
        name: (
            "" if name in SECRETS else name,
            "the bundled model" if name == "model" else default_text(field.default),
            " ".join((field.description or "").split()),
        )
        for name, field in Settings.model_fields.items()
    }


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


@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_the_answer_shown_is_the_bundled_models(page: str, bundled_model: Path) -> None:
    """The version and the first two classes of the example, against a real run."""
    classifier = Engine.load(bundled_model, device="cpu")
    pixels = decode(
        (ROOT / "tests" / "pictures" / "cat.jpg").read_bytes(),
        max_pixels=10**6,
        max_aspect_ratio=10.0,
    )
    shown = re.findall(r'"index": (\d+), .*?"label": "(.+?)", "probability": ([\d.]+)', page)

    probabilities = classifier.run(pixels[None], 10)[0]

    assert f'"version": "{classifier.model.version}"' in page
    assert len(shown) == 2
    for index, label, probability in shown:
        assert classifier.model.labels[int(index)].name == label
        # Processors round differently in 8 bit: the file's own tolerance.
        assert abs(probabilities[int(index)] - float(probability)) < 0.1
