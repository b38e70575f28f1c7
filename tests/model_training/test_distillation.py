"""The parts of the distillation, each against an independent computation."""

from __future__ import annotations

import io
import pickle
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from model_export.alexnet import owt
from model_export.variants import Weights
from model_training.distillation import pretrained
from model_training.distillation.calibration import score, temperature_of
from model_training.distillation.crops import LUMA, random_crop
from model_training.distillation.dataset import PLACES, Dataset, label_of, read_excluded
from model_training.distillation.distil import write
from model_training.distillation.duplicates import (
    SHARED,
    alike,
    local_features,
    scenes,
    shared_keypoints,
    thumbnails,
    turned,
)
from model_training.distillation.image_reader import clone, contents, decode, entries
from model_training.distillation.sources import ImageSet, read_manifest
from model_training.distillation.student import FEATURES, Head, folded
from model_training.distillation.train import Recipe, StudentTrainer
from model_training.errors import RunUnusable, TrainingError
from tests.support.photographs import jpeg, photograph, repository

CPU = torch.device("cpu")


def a_set(commit: str, **other: object) -> ImageSet:
    fields: dict[str, object] = {
        "name": "some", "repository": "someone/some", "commit": commit, "paths": "^train/",
        "images": 2, "crops": 1, "smallest": 0.25, "licence": "CC0", "shows": "things",
    }  # fmt: skip
    return ImageSet(**(fields | other))  # type: ignore[arg-type]


def test_a_set_is_its_commits_images_each_content_once(tmp_path: Path) -> None:
    one, two = jpeg(photograph(0)), jpeg(photograph(1))
    files = {
        "train/a.jpg": one, "train/again.JPG": one, "train/b.jpeg": two,
        "train/huge.jpg": bytes(4 * 2**20), "train/notes.txt": b"no image",
        "test/c.jpg": jpeg(photograph(2)),
    }  # fmt: skip
    images = a_set(repository(tmp_path / "someone+some", files))

    place = clone(images, tmp_path)
    result = entries(images, place)

    assert {entry.path for entry in result} == {"train/a.jpg", "train/b.jpeg"}
    assert {data for _, data in contents(place, result)} == {one, two}


def test_a_repository_is_fetched_at_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = repository(tmp_path / "origin", {"train/a.jpg": jpeg(photograph(0))})
    monkeypatch.setattr(ImageSet, "url", str(tmp_path / "origin"))

    place = clone(a_set(commit), tmp_path / "clones")

    assert [entry.path for entry in entries(a_set(commit), place)] == ["train/a.jpg"]


def test_a_repository_without_the_commit_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "origin", {"train/a.jpg": b""})
    monkeypatch.setattr(ImageSet, "url", str(tmp_path / "origin"))

    with pytest.raises(TrainingError, match=r"git fetch failed in .*take it out of the manifest"):
        clone(a_set("0" * 40), tmp_path / "clones")


def test_the_manifest_lists_sets_with_commits_and_licences() -> None:
    manifest = read_manifest()

    assert len(manifest.sets) > 20
    for source in (*manifest.sets, manifest.validation):
        assert len(source.commit) == 40
        assert source.licence
        assert source.url == f"https://github.com/{source.repository}"


@pytest.mark.parametrize("text", ["", "[[set]]\nname = 'x'\n", "[[set"])
def test_what_is_no_manifest_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "sets.toml").write_text(text)

    with pytest.raises(TrainingError, match="is no manifest"):
        read_manifest(tmp_path / "sets.toml")


@pytest.mark.parametrize(
    "data", [b"", b"no image", jpeg(Image.new("RGB", (31, 300))), jpeg(photograph())[:900]]
)
def test_what_shows_nothing_is_left_out(data: bytes) -> None:
    assert decode(data) is None


def test_a_large_image_is_brought_down_to_512_pixels() -> None:
    image = decode(jpeg(Image.new("RGB", (3000, 1500))))

    assert image is not None
    assert image.size == (1024, 512)


def test_a_crop_is_a_place_of_the_image_of_the_size_that_was_asked_for() -> None:
    # Red tells the column, green the row: a crop's means tell where it was, their spans how large.
    rows, columns = np.mgrid[0:200, 0:300]
    pixels = np.stack([columns * 255 / 299, rows * 255 / 199, np.full((200, 300), 60)], -1)
    image = Image.fromarray(pixels.astype(np.uint8))
    rng = np.random.default_rng(0)
    areas, lefts, mirrored = [], [], 0
    for _ in range(300):
        crop = plain(image, 0.25, rng).astype(float)
        across, down = crop[:, -1, 0].mean() - crop[:, 0, 0].mean(), np.ptp(crop[:, :, 1].mean(1))
        mirrored += across < 0
        areas.append(abs(across) / 255 * down / 255)
        lefts.append(min(crop[:, 0, 0].mean(), crop[:, -1, 0].mean()) / 255)

    assert min(areas) == pytest.approx(0.25, abs=0.03)
    assert 0.8 < max(areas) < 1.0
    assert 120 < mirrored < 180
    assert min(lefts) < 0.02
    assert max(lefts) > 0.4


def plain(image: Image.Image, smallest: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A crop without its jitter."""
    from model_training.distillation import crops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "jittered", lambda crop, rng: crop.astype(np.uint8))
        return random_crop(image, smallest, rng)


def test_jitter_changes_brightness_contrast_and_colour_within_its_bounds() -> None:
    from model_training.distillation.crops import jittered

    pixels = np.random.default_rng(1).uniform(90, 150, (64, 64, 3)).astype(np.float32)
    rng = np.random.default_rng(0)
    made = np.stack([jittered(pixels, rng) for _ in range(400)]).astype(float)
    grey = made @ LUMA

    brightness = made.mean((1, 2, 3)) / pixels.mean()
    contrast = grey.std((1, 2)) / (pixels @ LUMA).std() / brightness
    colour = (made - grey[..., None]).std((1, 2, 3))
    assert brightness.min() == pytest.approx(0.8, abs=0.02)
    assert brightness.max() == pytest.approx(1.2, abs=0.02)
    assert contrast.min() == pytest.approx(0.8, abs=0.05)
    assert contrast.max() == pytest.approx(1.2, abs=0.05)
    assert colour.max() / colour.min() > 2


def test_an_image_is_known_again_after_scaling_cropping_to_a_square_and_jpeg() -> None:
    photographs = np.stack([thumbnails(photograph(i)) for i in range(20)])
    wide = photograph(7)
    crop_size = min(wide.size)
    left, top = ((length - crop_size) // 2 for length in wide.size)
    square = wide.crop((left, top, left + crop_size, top + crop_size)).resize((84, 84))
    squeezed = wide.resize((64, 64))

    again = [decode(jpeg(image, 60)) for image in (square, squeezed)]

    assert all(image is not None for image in again)
    assert alike(np.stack([thumbnails(p) for p in again if p]), photographs).all()


@pytest.mark.parametrize("way", list(Image.Transpose))
def test_an_image_is_known_again_turned_or_mirrored(way: Image.Transpose) -> None:
    photographs = turned(np.stack([thumbnails(photograph(i)) for i in range(20)]))
    other = photograph(3).transpose(way)

    assert alike(thumbnails(other)[None], photographs).all()
    assert not alike(thumbnails(photograph(30).transpose(way))[None], photographs).any()


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_that_was_cut_from_a_photograph_is_known_by_its_keypoints(mirrored: bool) -> None:
    whole = photograph(7)
    width, height = whole.size
    box = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
    part = decode(jpeg(whole.crop(box).resize((200, 200 * height // width)), 60))
    assert part is not None
    if mirrored:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ways = whole, whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    shared = [shared_keypoints(local_features(part), local_features(way)) for way in ways]

    assert not alike(thumbnails(part)[None], turned(thumbnails(whole)[None])).any()
    assert shared[mirrored] >= SHARED
    assert shared[not mirrored] < SHARED


def test_other_photographs_and_what_shows_nothing_share_few_keypoints() -> None:
    images = [local_features(photograph(i)) for i in range(12)]
    images.append(local_features(Image.new("RGB", (200, 200))))

    shared = [
        shared_keypoints(image, other) for image in images for other in images if image is not other
    ]

    assert max(shared) < SHARED


def test_a_scene_is_most_like_itself() -> None:
    random = np.random.default_rng(0)
    features = random.integers(0, 9, (6, FEATURES), np.uint8)
    logits = random.normal(0, 3, (6, 1000)).astype(np.float16)

    vectors = scenes(features, logits)

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert ((vectors @ vectors.T).argmax(1) == np.arange(6)).all()


def test_other_images_are_not_taken_for_the_same() -> None:
    some = np.stack([thumbnails(photograph(i)) for i in range(30)])
    others = np.stack([thumbnails(photograph(i)) for i in range(30, 60)])

    assert not alike(some, others).any()


def test_the_folded_layers_are_owts_and_say_what_the_head_said() -> None:
    torch.manual_seed(0)
    head = Head((8, 7, 6))
    features = torch.randn(64, FEATURES).relu()
    head.train()
    for _ in range(3):  # so that the running statistics are not their start
        head(features + torch.randn_like(features))
    for norm in head.norms:
        assert isinstance(norm.weight, torch.Tensor)
        assert isinstance(norm.bias, torch.Tensor)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    head.eval()

    network = owt(ranks=(8, 7, 6)).eval()
    trunk = {f"features.{k}": v for k, v in network.features.state_dict().items()}
    network.load_state_dict(trunk | folded(head, temperature=1.7))

    with torch.inference_mode():
        torch.testing.assert_close(
            network.classifier(features), head(features) / 1.7, rtol=1e-4, atol=1e-4
        )


def dataset(count: int, *, high: int = 9, labels: torch.Tensor | None = None) -> Dataset:
    """Maps from which a linear teacher's answer can be learned."""
    random = torch.Generator().manual_seed(3)
    features = torch.zeros(count, FEATURES, dtype=torch.uint8)
    seen = torch.randint(0, 10, (count,), generator=random)
    for row, kind in enumerate(seen):
        features[row, 900 * kind : 900 * kind + 900] = 40
    features += torch.randint(0, 8, features.shape, dtype=torch.uint8, generator=random)
    logits = high * functional.one_hot(seen, 1000).half()
    unknown = torch.full((count,), -1)
    return Dataset(features, logits, unknown if labels is None else labels, 0)


PLACES_OF_CLASSES = (torch.eye(1000, 32), torch.zeros(1000))
SMALL = Recipe(
    ranks=(16, 16, 16), epochs=4, batch=50, rate=3e-3, dropout=0.1, adjustment=0.0, label=0.0
)


@pytest.mark.external  # learns for seconds
def test_the_head_learns_what_the_teacher_says(tmp_path: Path) -> None:
    """A teacher who is half sure: the probabilities come within 0.05."""
    some = dataset(500, high=7)
    recipe = replace(SMALL, epochs=20)
    trainer = StudentTrainer(some, 0.1, PLACES_OF_CLASSES, recipe, tmp_path / "learner.pt", CPU)

    losses = [trainer.epoch().loss for _ in range(20)]

    trainer.head.eval()
    with torch.inference_mode():
        predicted = trainer.head(some.features.float() * 0.1).softmax(1)
    expected = some.logits.float().softmax(1)
    assert losses[-1] < 0.1 * losses[0]
    torch.testing.assert_close(predicted.max(1).values, expected.max(1).values, atol=0.1, rtol=0)
    assert torch.equal(predicted.argmax(1), expected.argmax(1))


def test_a_stopped_learner_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    some = dataset(100)
    whole = StudentTrainer(some, 0.1, PLACES_OF_CLASSES, SMALL, tmp_path / "whole.pt", CPU)
    for _ in range(3):
        whole.epoch()

    StudentTrainer(some, 0.1, PLACES_OF_CLASSES, SMALL, tmp_path / "halves.pt", CPU).epoch()
    halves = StudentTrainer(some, 0.1, PLACES_OF_CLASSES, SMALL, tmp_path / "halves.pt", CPU)
    assert halves.done == 1
    halves.epoch()
    halves.epoch()

    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, halves.head.state_dict()[name]), name


def test_a_learner_of_another_recipe_is_refused(tmp_path: Path) -> None:
    StudentTrainer(
        dataset(100), 0.1, PLACES_OF_CLASSES, SMALL, tmp_path / "learner.pt", CPU
    ).epoch()

    with pytest.raises(RunUnusable, match=r"another recipe \(crops 100, now 150\)"):
        StudentTrainer(dataset(150), 0.1, PLACES_OF_CLASSES, SMALL, tmp_path / "learner.pt", CPU)


@pytest.mark.external  # learns for seconds
def test_rare_classes_are_lifted_by_the_adjustment(tmp_path: Path) -> None:
    # Nine of ten crops are of class 0; what stands between the two could be either.
    features = torch.full((500, FEATURES), 5, dtype=torch.uint8)
    random = torch.Generator().manual_seed(0)
    features += torch.randint(0, 3, features.shape, dtype=torch.uint8, generator=random)
    seen = (torch.arange(500) % 10 == 0).long()
    some = Dataset(features, 9 * functional.one_hot(seen, 1000).half(), torch.full((500,), -1), 0)
    shares = []
    for adjustment in (0.0, 1.0):
        recipe = replace(SMALL, adjustment=adjustment, epochs=12)
        trainer = StudentTrainer(
            some, 0.1, PLACES_OF_CLASSES, recipe, tmp_path / f"{adjustment}.pt", CPU
        )
        for _ in range(12):
            trainer.epoch()
        trainer.head.eval()
        with torch.inference_mode():
            predicted = trainer.head(some.features.float() * 0.1).softmax(1).mean(0)
        shares.append(float(predicted[1] / (predicted[0] + predicted[1])))

    assert shares[0] == pytest.approx(0.1, abs=0.05)
    assert shares[1] == pytest.approx(0.5, abs=0.15)


def test_an_image_s_own_label_has_its_share(tmp_path: Path) -> None:
    labels = torch.zeros(500, dtype=torch.int64)
    recipe = replace(SMALL, label=0.5, epochs=8)
    trainer = StudentTrainer(
        dataset(500, labels=labels), 0.1, PLACES_OF_CLASSES, recipe, tmp_path / "learner.pt", CPU
    )
    for _ in range(8):
        trainer.epoch()

    trainer.head.eval()
    with torch.inference_mode():
        predicted = trainer.head(trainer._dataset.features.float() * 0.1).softmax(1)
    assert predicted[:, 0].mean() == pytest.approx(0.55, abs=0.05)  # the teacher says it of a tenth


def test_the_photographs_that_measure_the_model_are_excluded() -> None:
    # Every second one of the samples is among them: one of every class.
    excluded = read_excluded()

    assert len(excluded) >= 500
    assert all(len(blob) == 40 for blob in excluded)


def test_labels_are_the_last_wordnet_id_of_a_path() -> None:
    assert label_of("n02085620-Chihuahua/n02085620_10074.jpg") == 151
    assert label_of("photo/cat/n02121620_1308.jpg") == -1  # of WordNet, not of the thousand
    assert label_of("images/000000000139.jpg") == -1
    assert label_of("n02085620/train00012345.jpg") == 151
    assert len(PLACES) == 1000


def test_scores_are_those_of_the_mean_of_ten_softmaxes() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 3, (40, 10, 1000)), random.integers(0, 1000, 40)
    labels[:20] = logits[:20].mean(1).argmax(1)

    result = score(torch.tensor(logits), torch.tensor(labels))

    shares = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    mean = shares.mean(1)
    ranked = np.argsort(-mean, 1)
    assert result.top1 == pytest.approx((ranked[:, 0] == labels).mean())
    assert result.top5 == pytest.approx((ranked[:, :5] == labels[:, None]).any(1).mean())
    assert result.surprise == pytest.approx(-np.log(mean[range(40), labels]).mean())
    assert result.confidence == pytest.approx(mean.max(1).mean())


def test_the_temperature_that_labels_were_drawn_at_is_found_again() -> None:
    random = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(4000, 1, 1000, generator=random)
    labels = torch.multinomial((logits[:, 0] / 1.6).softmax(1), 1, generator=random)[:, 0]

    assert temperature_of(logits, labels) == pytest.approx(1.6, abs=0.05)


def archive(path: Path, things: object) -> Weights:
    """A file as the convolutions' one is, and its record."""
    data = pickle.dumps(things)
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo(pretrained.MEMBER)
        member.size = len(data)
        file.addfile(member, io.BytesIO(data))
    from model_export.checkpoints import sha256

    return Weights(path.name, "http://127.0.0.1:9/", sha256(path), "none")


def test_the_convolutions_are_turned_from_jax_s_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = owt(ranks=(1, 1, 1)).features
    convolutions = [layer for layer in network if isinstance(layer, torch.nn.Conv2d)]
    layers = {
        f"Conv_{place}": {
            "kernel": layer.weight.detach().permute(2, 3, 1, 0).numpy(),
            "bias": layer.bias.detach().numpy() if layer.bias is not None else None,
        }
        for place, layer in enumerate(convolutions)
    }
    weights = archive(tmp_path / "lpips.tar.gz", {"AlexNet_0": layers})
    monkeypatch.setattr(pretrained, "CONVOLUTIONS", weights)

    trunk = pretrained.trunk(tmp_path)

    views = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(views), network(views))


def test_a_convolutions_file_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = archive(tmp_path / "lpips.tar.gz", {"AlexNet_0": subprocess.Popen})
    monkeypatch.setattr(pretrained, "CONVOLUTIONS", weights)

    with pytest.raises(TrainingError, match=r"names subprocess\.Popen, which is no array"):
        pretrained.trunk(tmp_path)


def test_the_teacher_knows_a_cat() -> None:
    with Image.open(Path(__file__).parents[1] / "pictures" / "cat.jpg") as image:
        cat = np.asarray(image.convert("RGB").resize((224, 224)))
    from model_training.distillation.crops import normalised

    views = torch.from_numpy(normalised(cat[None], pretrained.TEACHER_PREPARATION))
    with torch.inference_mode():
        best = pretrained.teacher()(views)[0].topk(5).indices.tolist()

    assert set(best) & {281, 282, 285}  # tabby, tiger cat, Egyptian cat


def test_what_is_written_is_read_back_as_owt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_export import checkpoints
    from model_export.variants import VARIANTS

    trunk = owt(ranks=(1, 1, 1)).features
    monkeypatch.setattr(pretrained, "trunk", lambda downloads: trunk)
    head = Head((5, 4, 3)).eval()

    write(tmp_path / "weights.safetensors", head, 1.0)

    path = tmp_path / "weights.safetensors"
    network = checkpoints.build(VARIANTS["owt"], checkpoints.read(path), source=path.name)
    features = torch.randn(3, FEATURES)
    with torch.inference_mode():
        torch.testing.assert_close(
            network.classifier(features), head(features), rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(network.features[0].weight, trunk[0].weight)


def test_the_page_lists_the_manifest_s_sets() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text("utf-8")
    rows: dict[str, list[str]] = {}
    for source in read_manifest().sets:
        rows.setdefault(source.licence, []).append(
            f"[{source.repository}]({source.url}) {source.images:,}"
        )

    for licence, sources in rows.items():
        assert f"| {licence} | {', '.join(sources)} |" in page
    assert read_manifest().validation.url in page
