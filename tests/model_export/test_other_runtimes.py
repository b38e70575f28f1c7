"""Model files in other runtimes than the service's: OpenVINO, and ONNX Runtime in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from model_export import export
from model_export.crops import load_images
from model_export.graph import CROPS
from model_export.precision import Runner
from model_export.variants import VARIANTS
from tests.support.networks import narrow
from tests.support.servers import PATIENCE

pytestmark = pytest.mark.external
NEAR = 1e-4  # in probability
CHOICES = (None, "ten", "one")
# Reads a model and an image, and prints the mean over the views.
PROGRAM = """
const { InferenceSession, Tensor } = require('onnxruntime-node');
const { readFileSync } = require('fs');
(async () => {
  const session = await InferenceSession.create(process.argv[1]);
  const images = new Tensor('uint8', readFileSync(process.argv[2]), [1, 256, 256, 3]);
  const { probabilities } = await session.run({ images });
  console.log(JSON.stringify(Array.from(probabilities.data)));
})();
"""


def _model(variant: str, crops: str | None) -> ModelProto:
    row = VARIANTS[variant]
    images = load_images(limit=8)[:2]
    return export.build_model(narrow(row), row, precision="fp32", calibration=images, crops=crops)


@pytest.mark.parametrize("crops", CHOICES)
@pytest.mark.parametrize("variant", ["owt", "paper", "caffe"])
def test_openvino_reads_a_file_and_answers_alike(
    variant: str, crops: str | None, tmp_path: Path
) -> None:
    """Which takes the default of an input for certain: ten crops, where nothing else was fixed."""
    openvino = pytest.importorskip("openvino", reason="needs openvino: pip install openvino")
    model, image = _model(variant, crops), load_images(limit=8)[:1]
    onnx.save(model, tmp_path / "a.onnx")

    answer = openvino.compile_model(openvino.Core().read_model(tmp_path / "a.onnx"), "CPU")(
        {"images": image}
    )

    expected = Runner(model).run(image, CROPS[crops or "ten"])[0]
    assert np.abs(answer["probabilities"] - expected).max() < NEAR


@pytest.mark.parametrize("crops", CHOICES)
def test_onnxruntime_node_answers_alike(crops: str | None, tmp_path: Path) -> None:
    """Without the input `crops`, which it cannot set."""
    node = shutil.which("node")
    found = node and subprocess.run([node, "-e", "require('onnxruntime-node')"], timeout=PATIENCE)
    if node is None or not found or found.returncode:
        pytest.skip("needs node, with onnxruntime-node in NODE_PATH: npm install onnxruntime-node")
    model, image = _model("owt", crops), load_images(limit=8)[:1]
    onnx.save(model, tmp_path / "a.onnx")
    image.tofile(tmp_path / "image")

    done = subprocess.run(
        [node, "-e", PROGRAM, str(tmp_path / "a.onnx"), str(tmp_path / "image")],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )

    expected = Runner(model).run(image, CROPS[crops or "ten"])[0][0]
    assert np.abs(np.array(json.loads(done.stdout)) - expected).max() < NEAR
