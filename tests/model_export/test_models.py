"""The files of tests/models are what the exporter makes today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from model_export.precision import PRECISIONS
from tests.support import exported
from tests.support.models import MODELS

NEAR = 1e-5  # torch's random numbers may differ in their last bit from processor to processor
AGAIN = "python -m tests.support.exported writes the files of tests/models again"


def test_the_committed_model_files_are_those_that_the_exporter_makes(tmp_path: Path) -> None:
    exported.write_all(tmp_path)

    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == sorted(file.name for file in MODELS.iterdir()), AGAIN
    for name in names:
        kept, made = (onnx.load(folder / name) for folder in (MODELS, tmp_path))
        assert _graph(kept) == _graph(made), f"{name} has another graph: {AGAIN}"
        assert _told(kept) == _told(made), f"{name} tells something else: {AGAIN}"
        near = pytest.approx(_answer(made), abs=PRECISIONS["fp32"].golden_tolerance)
        assert _answer(kept) == near, f"{name} answers otherwise: {AGAIN}"
        for (key, one), (_, other) in zip(_weights(kept), _weights(made), strict=True):
            assert np.allclose(one, other, rtol=0, atol=NEAR), f"{name}: other {key}: {AGAIN}"


def _graph(model: ModelProto) -> ModelProto:
    """The model without its weights' values, its metadata and who made it."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
    bare.ClearField("metadata_props")
    bare.ClearField("producer_version")
    return bare


def _told(model: ModelProto) -> dict[str, Any]:
    """The metadata but for the exporter's versions, the golden probabilities and the checksum."""
    metadata = _metadata(model)
    golden = json.loads(metadata["golden"])
    golden["classes"] = [each["index"] for each in golden["classes"]]
    del metadata["exporter"], metadata["checksum"]
    return {**metadata, "golden": golden}


def _answer(model: ModelProto) -> list[float]:
    """The golden probabilities."""
    return [each["probability"] for each in json.loads(_metadata(model)["golden"])["classes"]]


def _metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _weights(model: ModelProto) -> list[tuple[str, Any]]:
    return [(tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
