"""What is written into a model file is what the other half, and onnx, read there."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.inference.engine import Engine
from tests.support.exported import write_tiny
from tests.support.images import image
from tests.support.models import altered, entry


def test_what_evaluate_records_is_what_the_service_tells_of_the_file_exported_with_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    (images := tmp_path / "pictures").mkdir()
    (images / "n01440764.jpg").write_bytes(image())
    given = ["--device", "cpu", "--model", tiny_model, "--record", tmp_path / "record.json"]
    done = CliRunner().invoke(app, ["evaluate", str(images), *map(str, given)])
    assert done.exit_code == 0
    recorded = json.loads((tmp_path / "record.json").read_text())["accuracy"]

    path = write_tiny(tmp_path / "told.onnx", accuracy=recorded)

    assert [one["crops"] for one in recorded] == ["ten", "one", "dense"]
    assert Engine.load(path, device="cpu").model.accuracy == recorded


@pytest.mark.parametrize("value", ["other", "ä" * 300, None])
def test_a_copy_with_other_metadata_differs_in_nothing_else(
    value: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    """What the service's tests make without onnx is what onnx would make."""
    path = altered(tiny_model, tmp_path / "other.onnx", name=value)

    before, after = onnx.load(tiny_model), onnx.load(path)
    told, kept = (
        {prop.key: prop.value for prop in model.metadata_props} for model in (after, before)
    )
    del told["checksum"], kept["checksum"]
    assert told == {key: one for key, one in (kept | {"name": value}).items() if one is not None}
    assert entry(tiny_model, "name") == kept["name"]
    for model in (before, after):
        del model.metadata_props[:]
    assert before == after
