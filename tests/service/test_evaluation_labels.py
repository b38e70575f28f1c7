"""What `alexnet evaluate` takes the images of a folder for."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.errors import SettingsInvalid
from service.evaluation.labels import Classes, EvaluationFailed, LabelledImages, read_labels
from service.inference.model_file import Label

TENCH, GOLDFISH, CRANE_BIRD, CRANE, SUIT = (
    Label("n01440764", "tench, Tinca tinca"),
    Label("n01443537", "goldfish, Carassius auratus"),
    Label("n02012849", "crane"),
    Label("n03126707", "crane"),
    Label("n03710721", "maillot, tank suit"),
)
IMAGENET = Classes([TENCH, GOLDFISH, CRANE_BIRD, CRANE, SUIT, Label("n03710637", "maillot")])
OWN = Classes([Label(None, "T-shirt/top"), Label(None, "Ankle boot"), Label(None, "3")])


def folder(top: Path, *names: str) -> Path:
    """Empty files of these names."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    return top


def indices(labelled: LabelledImages, model: int = 0) -> dict[str, int]:
    """The class of each image."""
    names = (os.fsdecode(name) for name in labelled.names)
    return dict(zip(names, labelled.classes[model].tolist(), strict=True))


def out(labelled: LabelledImages) -> dict[str, str]:
    """Why the others were left out."""
    return {os.fsdecode(skipped.name): skipped.code for skipped in labelled.left_out}


def read(top: Path, *classes: Classes, table: str | None = None) -> LabelledImages:
    """With the models' classes, and the text of a table."""
    path = None
    if table is not None:
        path = top.parent / "truth.csv"
        path.write_text(table, "utf-8")
    return read_labels(top, classes or (IMAGENET,), path)


def test_folders_called_by_the_wordnet_id_say_the_class(tmp_path: Path) -> None:
    labelled = read(folder(tmp_path, "n01443537/a.jpg", "n01440764/deep/er/b.PNG"))

    assert indices(labelled) == {"n01443537/a.jpg": 1, "n01440764/deep/er/b.PNG": 0}
    assert out(labelled) == {}


@pytest.mark.parametrize(
    "name", ["tench", "Tinca tinca", "tinca_tinca", "TENCH", "tench, Tinca tinca"]
)
def test_folders_called_by_one_of_a_classs_names_say_the_class(name: str, tmp_path: Path) -> None:
    assert list(indices(read(folder(tmp_path, f"{name}/a.jpg"))).values()) == [0]


def test_the_outermost_folder_that_is_called_like_a_class_says_it(tmp_path: Path) -> None:
    labelled = read(
        folder(tmp_path, "val/tench/goldfish/n03126707.jpg", "n01443537/n01440764_1.jpg")
    )

    assert indices(labelled) == {
        "val/tench/goldfish/n03126707.jpg": 0,
        "n01443537/n01440764_1.jpg": 1,
    }


@pytest.mark.parametrize(
    "name",
    ["n01443537.jpg", "n01443537_12.JPEG", "n01443537-goldfish.jpg", "any/n01443537 (2).webp"],
)
def test_files_whose_names_begin_with_the_id_say_the_class(name: str, tmp_path: Path) -> None:
    assert indices(read(folder(tmp_path, name))) == {name: 1}


def test_a_longer_number_is_no_wordnet_id(tmp_path: Path) -> None:
    labelled = read(folder(tmp_path, "n014435370.jpg", "n01443537.jpg"))

    assert out(labelled) == {"n014435370.jpg": "unlabelled"}


def test_classes_of_ones_own_are_known_by_their_names(tmp_path: Path) -> None:
    labelled = read(folder(tmp_path, "T-shirt_top/a.jpg", "ankle_boot/b.jpg", "3/c.jpg"), OWN)

    assert indices(labelled) == {"3/c.jpg": 2, "T-shirt_top/a.jpg": 0, "ankle_boot/b.jpg": 1}


def test_what_has_no_class_of_the_model_is_left_out_with_the_reason(tmp_path: Path) -> None:
    names = ("tench/a.jpg", "unicorn/b.jpg", "n99999999.jpg", "c.jpg")
    labelled = read(folder(tmp_path, *names, "notes.txt", ".hidden.jpg"))

    assert indices(labelled) == {"tench/a.jpg": 0}
    assert out(labelled) == {
        "c.jpg": "unlabelled",
        "n99999999.jpg": "label_unknown",
        "unicorn/b.jpg": "label_unknown",
    }
    assert labelled.others == 2


def test_only_images_that_every_model_knows_are_asked_about(tmp_path: Path) -> None:
    few = Classes([GOLDFISH, TENCH])
    labelled = read(
        folder(tmp_path, "tench/a.jpg", "goldfish/b.jpg", "n02012849/c.jpg"), IMAGENET, few
    )

    assert indices(labelled, 0) == {"goldfish/b.jpg": 1, "tench/a.jpg": 0}
    assert indices(labelled, 1) == {"goldfish/b.jpg": 0, "tench/a.jpg": 1}
    assert out(labelled) == {"n02012849/c.jpg": "label_unknown"}


@pytest.mark.parametrize(("name", "ids"), [("crane", (CRANE_BIRD, CRANE)), ("maillot", (SUIT,))])
def test_a_name_of_several_classes_is_refused_with_what_to_do(
    name: str, ids: Sequence[Label], tmp_path: Path
) -> None:
    with pytest.raises(SettingsInvalid, match="rename the folder to the WordNet id") as caught:
        read(folder(tmp_path, f"{name}/a.jpg", "tench/b.jpg"))

    assert all(str(row.wordnet_id) in str(caught.value) for row in ids)


def test_a_doubtful_folder_is_no_matter_where_the_file_says_the_id(tmp_path: Path) -> None:
    assert list(indices(read(folder(tmp_path, "crane/n03126707_1.jpg"))).values()) == [3]


def test_a_table_says_the_class_by_id_name_or_index(tmp_path: Path) -> None:
    top = folder(tmp_path / "p", "a.jpg", "b.jpg", "deep/c.jpg", "d.jpg")
    table = "label,by,file\nn01443537,me,a.jpg\nTinca tinca,me,./b.jpg\n3,me,deep/c.jpg\n\n"

    labelled = read(top, table="\ufeff" + table)

    assert indices(labelled) == {"a.jpg": 1, "b.jpg": 0, "deep/c.jpg": 3}
    assert out(labelled) == {"d.jpg": "unlabelled"}


def test_a_table_wins_over_folders(tmp_path: Path) -> None:
    top = folder(tmp_path / "p", "tench/n01440764.jpg")

    assert list(
        indices(read(top, table="file,label\ntench/n01440764.jpg,goldfish\n")).values()
    ) == [1]


def test_a_number_is_a_classs_name_before_it_is_an_index(tmp_path: Path) -> None:
    top = folder(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg")

    labelled = read(top, OWN, table=f"file,label\na.jpg,3\nb.jpg,1\nc.jpg,{'9' * 5000}\n")

    assert indices(labelled) == {"a.jpg": 2, "b.jpg": 1}
    assert out(labelled) == {"c.jpg": "label_unknown"}


def test_folders_are_not_taken_for_indices(tmp_path: Path) -> None:
    assert out(read(folder(tmp_path, "1/a.jpg", "tench/b.jpg"))) == {"1/a.jpg": "label_unknown"}


def test_an_image_in_the_table_that_is_nowhere_is_asked_for(tmp_path: Path) -> None:
    labelled = read(folder(tmp_path / "p", "a.jpg"), table="file,label\na.jpg,tench\nb.jpg,tench\n")

    assert indices(labelled) == {"a.jpg": 0, "b.jpg": 0}  # and reported when it cannot be read


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("name,label\na.jpg,tench\n", "there is no file"),
        ("", "there is no file and no label"),
        ("file,label\na.jpg,tench\na.jpg,goldfish\n", "line 3: a.jpg has another label above"),
        ('file,label\n"a.jpg,tench\n', "is not CSV"),
        ("file,label\na.jpg,crane\n", "write that into the table instead"),
        ("file,label\na\0.jpg,tench\n", "line 2: the name of a file cannot hold .* NUL"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(table: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=why):
        read(folder(tmp_path / "p", "a.jpg"), table=table)


def test_a_table_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    top = folder(tmp_path / "p", "a.jpg")
    (tmp_path / "latin.csv").write_bytes(b"file,label\na.jpg,\xe9\n")

    with pytest.raises(SettingsInvalid, match="is not CSV in UTF-8"):
        read_labels(top, [IMAGENET], tmp_path / "latin.csv")
    with pytest.raises(SettingsInvalid, match="No such file"):
        read_labels(top, [IMAGENET], tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((), "there is no image in"),
        (("a.jpg", "b.jpg"), "none of the 2 images .* put them into folders called like"),
        (("unicorn/a.jpg",), "No class of the model is called 'unicorn'"),
    ],
)
def test_a_folder_without_a_labelled_image_is_an_error(
    names: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationFailed, match=why):
        read(folder(tmp_path, *names))


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="there is no such folder"):
        read(tmp_path / "none")


def test_names_that_are_no_text_are_labelled_by_their_folder(tmp_path: Path) -> None:
    folder(tmp_path, "tench/a.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/tench/\xff.jpg")).touch()

    assert read(tmp_path).names == [b"tench/a.jpg", b"tench/\xff.jpg"]
