"""How a network's images were prepared: who says so, and whether the network then sees."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model_export import preparation, sight, verify, weight_files
from model_export.alexnet import AlexNet
from model_export.crops import load_images
from model_export.errors import ExportError
from model_export.variants import IMAGENET, VARIANTS, Given, Normalisation
from tests.support.exported import tiny_network
from tests.support.networks import noise

OWT = VARIANTS["owt"]
HALF = Normalisation((127.5,) * 3, (127.5,) * 3)
CAFFE = VARIANTS["caffe"].normalisation
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _found(path: Path, given: Given | None = None, channels: int = 3) -> preparation.Preparation:
    file = weight_files.load(path)
    return preparation.find(OWT, path, file, channels=channels, given=given)


def _near(result: Normalisation, expected: Normalisation) -> bool:
    figures = [(*each.mean, *each.std) for each in (result, expected)]
    return result.channels == expected.channels and figures[0] == pytest.approx(figures[1])


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


@pytest.mark.parametrize("key", ["config", "pretrained_cfg", "args"])
def test_a_checkpoints_own_settings_count(key: str, tmp_path: Path) -> None:
    figures = {"mean": [0.5, 0.5, 0.5], "std": (0.5, 0.5, 0.5), "lr": 0.1}
    settings: object = argparse.Namespace(**figures) if key == "args" else figures
    torch.save({key: settings, "state_dict": {"a": torch.zeros(2)}}, tmp_path / "a.pth")

    result = _found(tmp_path / "a.pth")

    assert _near(result.normalisation, HALF)
    assert result.source == f"{key} of a.pth"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "preprocessor_config.json",
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255},
            HALF,
        ),
        (
            "preprocessor_config.json",
            {"image_mean": [104, 117, 123], "image_std": [1, 1, 1], "do_rescale": False}
            | {"do_flip_channel_order": True},
            Normalisation((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "BGR"),
        ),
        (
            "preprocessor_config.json",
            {"image_mean": MEAN, "image_std": STD, "do_normalize": False},
            Normalisation((0.0,) * 3, (255.0,) * 3),
        ),
        (
            "config.json",
            {"architecture": "alexnet", "pretrained_cfg": {"mean": MEAN, "std": STD}},
            IMAGENET,
        ),
    ],
)
def test_a_file_beside_the_checkpoint_counts(
    name: str, content: dict[str, object], expected: Normalisation, plain: Path
) -> None:
    plain.with_name(name).write_text(json.dumps(content), "utf-8")

    result = _found(plain)

    assert _near(result.normalisation, expected)
    assert result.source == name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Given(mean=(0.5,), std=(0.5,)), HALF),
        (Given(mean=MEAN, std=STD), IMAGENET),
        (Given(mean=(104.0, 117.0, 123.0), std=(1.0,), channels="bgr"),
         Normalisation((104.0, 117.0, 123.0), (1.0,) * 3, "BGR")),
        (Given(range="-1-1"), HALF),
        (Given(range="0-255"), Normalisation((0.0,) * 3, (1.0,) * 3)),
        (Given(mean=(0.0,), std=(1.0,), range="0-1"), Normalisation((0.0,) * 3, (255.0,) * 3)),
        (Given(channels="bgr"), Normalisation(IMAGENET.mean[::-1], IMAGENET.std[::-1], "BGR")),
        (Given(std=(1.0,), range="0-255"), Normalisation(IMAGENET.mean, (1.0,) * 3)),
    ],
)  # fmt: skip
def test_the_command_line_counts_first(given: Given, expected: Normalisation, plain: Path) -> None:
    plain.with_name("config.json").write_text(json.dumps({"mean": MEAN, "std": STD}), "utf-8")

    result = _found(plain, given)

    assert _near(result.normalisation, expected)
    assert result.source == "the command line"


def test_a_network_of_one_channel_gets_grey(plain: Path) -> None:
    given = Given(mean=(0.1307,), std=(0.3081,), channels="grey")

    result = _found(plain, given, channels=1).normalisation

    assert _near(result, Normalisation((0.1307 * 255,), (0.3081 * 255,), "L"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Given(mean=(0.0,), std=(1.0,)), "say which with --range"),
        (Given(mean=(0.5,), std=(0.0,)), "deviations above 0"),
        (Given(mean=(float("nan"),)), "finite"),
        (Given(mean=MEAN, std=STD, channels="grey"), "take 1 figures"),
        (Given(channels="grey"), "the first convolution sees three"),
    ],
)
def test_figures_that_cannot_be_are_one_sentence(given: Given, words: str, plain: Path) -> None:
    with pytest.raises(ExportError, match=words):
        _found(plain, given)


# ---- does it see?


@pytest.fixture(scope="module")
def network() -> AlexNet:
    return tiny_network(10)


@pytest.fixture(scope="module")
def labelled(network: AlexNet) -> sight.Labelled:
    """Images with the labels that the network gives them where it is prepared as caffe's."""
    images = load_images()[:40]
    answers = verify.reference(network, images, crop_size=224, normalisation=CAFFE, crops="one")
    return sight.Labelled(images, answers[:, 0].argmax(1).astype(np.int64))


def test_a_preparation_that_fits_better_is_named(
    network: AlexNet, labelled: sight.Labelled
) -> None:
    own, warning = sight.looked_at(network, 224, IMAGENET, labelled)

    assert own.startswith("check: ")
    assert "--channels bgr" in warning
    assert "it would be 100.0%" in warning


def test_the_right_preparation_has_no_warning(network: AlexNet, labelled: sight.Labelled) -> None:
    assert sight.looked_at(network, 224, CAFFE, labelled) == [
        "check: 100.0% of 40 labelled images get their own label"
    ]


def test_a_network_that_tells_nothing_apart_looks_blind(network: AlexNet) -> None:
    torch.manual_seed(0)
    images = load_images()[:8]
    dull = tiny_network(10)
    with torch.no_grad():
        for parameter in dull.parameters():
            parameter.mul_(0.01)

    assert sight.blind(network, 224, IMAGENET, images) is None
    assert "looks blind" in (sight.blind(dull, 224, IMAGENET, images) or "")


def test_labelled_folders_are_found_by_name_and_by_id(tmp_path: Path) -> None:
    for place in ("Egyptian_cat", "n02099601"):
        (tmp_path / place).mkdir()
        Image.fromarray(noise(1)[0]).save(tmp_path / place / "1.png")

    result = sight.read_labelled(
        tmp_path, [("n02124075", "Egyptian cat"), (None, "x"), ("n02099601", "golden retriever")]
    )

    assert sorted(result.classes.tolist()) == [0, 2]
    with pytest.raises(ExportError, match=r"the folder n02099601 is not named as one of the label"):
        sight.read_labelled(tmp_path, [("n02124075", "Egyptian cat")])
    with pytest.raises(ExportError, match="holds no images"):
        sight.read_labelled(tmp_path / "gone", [(None, "cat")])
