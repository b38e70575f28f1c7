"""Which images a labelled folder holds, and which of them are set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_training.errors import ImagesUnusable
from model_training.image_folder import Division, divide


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten and five images, some of them deeper, and what is not an image."""
    for number in range(10):
        _touch(tmp_path / "pictures" / "cat" / f"{number}.jpg")
    for number in range(5):
        _touch(tmp_path / "pictures" / "a dog" / "deeper" / f"{number}.PNG")
    for name in ("cat/notes.txt", "cat/.hidden.jpg", ".thumbnails/1.jpg", "alone.jpg"):
        _touch(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def test_classes_are_the_folders_and_images_lie_anywhere_below_them(folder: Path) -> None:
    division = divide(folder, validation=None, held_out=0.2)

    assert division.classes == ("a dog", "cat")
    assert len(_paths(division)) == 15
    assert {e.path.relative_to(folder).parts[0] for e in division.training if e.label == 1} == {
        "cat"
    }


def test_a_share_of_each_class_is_held_out_and_nothing_is_on_both_sides(folder: Path) -> None:
    division = divide(folder, validation=None, held_out=0.2)

    assert [sum(e.label == c for e in division.validation) for c in (0, 1)] == [1, 2]
    assert len({e.path for e in division.training} | {e.path for e in division.validation}) == 15


def test_what_is_held_out_is_the_same_wherever_the_folder_lies(
    folder: Path, tmp_path: Path
) -> None:
    before = divide(folder, validation=None, held_out=0.4)
    moved = folder.rename(tmp_path / "moved")

    after = divide(moved, validation=None, held_out=0.4)

    names = [[e.path.relative_to(d.base) for e in d.validation] for d in (before, after)]
    assert names[0] == names[1]
    assert names[0] != sorted(_paths(after))[: len(names[0])]


def test_an_image_more_moves_at_most_one_to_the_other_side(folder: Path) -> None:
    before = {e.path for e in divide(folder, validation=None, held_out=0.4).validation}
    _touch(folder / "cat" / "new.jpg")

    after = {e.path for e in divide(folder, validation=None, held_out=0.4).validation}

    assert len(before - after) <= 1


def test_one_image_of_a_class_is_always_left_to_learn_from(folder: Path) -> None:
    division = divide(folder, validation=None, held_out=0.9)

    assert {e.label for e in division.training} == {0, 1}


def test_validation_images_may_lie_in_a_folder_of_their_own(folder: Path, tmp_path: Path) -> None:
    _touch(tmp_path / "other" / "cat" / "1.jpg")

    division = divide(folder, validation=tmp_path / "other", held_out=0.2)

    assert len(division.training) == 15
    assert [(e.path.name, e.label) for e in division.validation] == [("1.jpg", 1)]
    assert division.base == tmp_path / "other"


@pytest.mark.parametrize(
    ("files", "held_out", "message"),
    [
        ([], 0.2, "holds no class"),
        (["cat/1.jpg", "cat/2.jpg"], 0.2, "one class only, cat"),
        (["cat/1.jpg", "dog/notes.txt"], 0.2, "dog holds no image"),
        (["cat/1.jpg", "dog/1.jpg"], 0.2, "no images to validate on"),
        (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], 0.0, "no images to validate on"),
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_one_sentence(
    tmp_path: Path, files: list[str], held_out: float, message: str
) -> None:
    for name in files:
        _touch(tmp_path / name)

    with pytest.raises(ImagesUnusable, match=message):
        divide(tmp_path, validation=None, held_out=held_out)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImagesUnusable, match="no folder at"):
        divide(tmp_path / "gone", validation=None, held_out=0.2)


def test_a_validation_class_that_is_not_learned_is_refused(folder: Path, tmp_path: Path) -> None:
    _touch(tmp_path / "other" / "bird" / "1.jpg")

    with pytest.raises(ImagesUnusable, match="bird is not one of the 2 classes"):
        divide(folder, validation=tmp_path / "other", held_out=0.2)


def test_validation_images_that_are_learned_from_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)

    with pytest.raises(ImagesUnusable, match="is among the images to learn from"):
        divide(folder, validation=tmp_path / "link", held_out=0.2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat\nn", "dog"), r"cat\\nn' in .* has a name that no class can have"),
        (("caf\u00a0e", "dog"), "no class can have"),
        (("_ _", "dog"), "no class can have"),
        (("T-shirt top", "t-SHIRT_top"), "the classes T-shirt top and t-SHIRT_top in .* alike"),
        (("cat\udcff", "dog"), r"cat\\xff.* is not UTF-8|no class can have"),
    ],
)
def test_names_that_would_be_refused_after_the_training_are_refused_before(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        _touch(tmp_path / name / "1.jpg")
        _touch(tmp_path / name / "2.jpg")

    with pytest.raises(ImagesUnusable, match=message) as refused:
        divide(tmp_path, validation=None, held_out=0.5)

    assert str(refused.value).isprintable()


def test_a_files_name_that_is_not_utf_8_is_refused(folder: Path) -> None:
    """The list of the validation images could not hold it."""
    _touch(folder / "cat" / "\udcff.jpg")

    with pytest.raises(ImagesUnusable, match=r"cat/\\xff.jpg is not UTF-8: rename") as refused:
        divide(folder, validation=None, held_out=0.2)

    assert str(refused.value).isprintable()


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _paths(division: Division) -> list[Path]:
    return [e.path for e in (*division.training, *division.validation)]
