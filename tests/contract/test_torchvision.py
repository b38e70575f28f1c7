"""torchvision's own AlexNet and preset: the service answers what they answer.

The weights are the bundled ones, multiplied out to torchvision's layers, so that answers mean
something; the images are photographs of several shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from alexnet_client import ClientError
from benchmarks.models import BUNDLED, expand
from model_export.__main__ import main
from tests.model_export.conftest import one_registry as one_registry
from tests.support.commands import here
from tests.support.servers import InThread, serving

pytestmark = pytest.mark.external

CLASSES = 1000
PICTURES = Path(__file__).parents[2] / "model_export" / "pictures"
PHOTOGRAPHS = sorted(PICTURES.glob("*.jpg"))[::4]
# In probability; of all 64 photographs 0.012 with one crop and 0.010 with ten.
LARGEST = 0.02


@pytest.fixture(scope="module")
def models() -> Any:
    """`torchvision.models`."""
    # PyPI's build looks for CUDA; on a CPU it lacks operators of its own, which AlexNet has not.
    operators: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("torchvision.models")


@pytest.fixture(scope="module")
def network(models: Any, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """Its AlexNet, which takes the state dict by its own names."""
    full = tmp_path_factory.mktemp("full") / "full.safetensors"
    expand(BUNDLED, full)
    alexnet: torch.nn.Module = models.alexnet()
    alexnet.load_state_dict(load_file(full))
    return alexnet.eval()


@pytest.fixture(scope="module")
def server(
    network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InThread]:
    """The network, saved as people save it, exported in float32 by the command and served."""
    folder = tmp_path_factory.mktemp("torchvision")
    torch.save(network.state_dict(), folder / "alexnet.pth")
    for path in PHOTOGRAPHS[:7]:  # no fewer are verified on
        (folder / path.name).symlink_to(path)
    model = folder / "alexnet.onnx"
    done = here(
        *(main, "alexnet-export", "--variant", "owt", "--precision", "fp32"),
        *("--weights", str(folder / "alexnet.pth"), "--pictures", str(folder), "-o", str(model)),
    )
    assert done.returncode == 0, done.stderr.decode()
    with serving(model, max_files=len(PHOTOGRAPHS)) as started:
        yield started


def expected(models: Any, network: torch.nn.Module, crops: str) -> NDArray[np.float32]:
    """The softmax of torchvision's network on its preset, or the mean over its ten crops of the
    preset's square: float32 `(images, classes)`."""
    transforms = import_module("torchvision.transforms.v2")
    preset = models.AlexNet_Weights.IMAGENET1K_V1.transforms
    square = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(256)])
    ten, as_it_is = transforms.TenCrop(224), preset(resize_size=224)
    answers = []
    for path in PHOTOGRAPHS:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        views = [preset()(image)] if crops == "one" else map(as_it_is, ten(square(image)))
        with torch.inference_mode():
            answers.append(network(torch.stack([*views])).softmax(1).mean(0).numpy())
    return np.stack(answers)


def answered(server: InThread, crops: str) -> NDArray[np.float32]:
    """What the service answers for the files as they are."""
    answers = np.zeros((len(PHOTOGRAPHS), CLASSES), np.float32)
    for row, found in zip(
        answers, server.service.classify_many(PHOTOGRAPHS, crops=crops, top=CLASSES), strict=True
    ):
        assert not isinstance(found, ClientError), found
        for each in found.classes:
            row[each.index] = each.probability
    return answers


@pytest.mark.parametrize("crops", ["one", "ten"])
def test_a_checkpoint_of_torchvisions_is_answered_as_by_torchvision(
    models: Any, network: torch.nn.Module, server: InThread, crops: str
) -> None:
    """The preset's pixels differ by a level here and there, in fixed point."""
    right, found = expected(models, network, crops), answered(server, crops)

    assert (found.argmax(1) == right.argmax(1)).all()
    assert np.abs(found - right).max() < LARGEST
    assert np.abs(found - right).mean() < LARGEST / CLASSES
