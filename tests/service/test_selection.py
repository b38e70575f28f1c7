"""Which classes an answer has: `threshold`, `classes` and `renormalise`, over HTTP and as flags."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import ParameterInvalid
from service.inference.model_file import Label
from service.inference.predictions import Selection, class_indices
from tests.support.commands import alexnet
from tests.support.images import image
from tests.support.servers import Live, serving

PREDICT = "/v1/predict"
LABELS = (
    Label("n1", "tabby, tabby cat"),
    Label("n2", "Egyptian cat"),
    Label("n3", "crane"),
    Label("n4", "crane"),
    Label(None, "2"),
)

Class = dict[str, Any]


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """A server that only answers."""
    with serving(tiny_model) as server:
        yield server


@pytest.fixture(scope="module")
def everything(live: Live) -> list[Class]:
    """All classes of one image, the most probable first."""
    return asked(live, top=1000)


def asked(live: Live, **query: Any) -> list[Class]:
    """The classes of one image's answer."""
    prediction = answered(live, **query)
    classes: list[Class] = prediction["classes"]
    return classes


def answered(live: Live, **query: Any) -> dict[str, Any]:
    answer = live.client.post(PREDICT, params=query, content=image())
    assert answer.status_code == 200, answer.text
    prediction: dict[str, Any] = answer.json()["predictions"][0]
    return prediction


def test_a_threshold_leaves_out_what_is_less_probable(live: Live, everything: list[Class]) -> None:
    """The class that has exactly this probability is in; there may be none."""
    third = everything[2]["probability"]

    assert asked(live, threshold=third, top=1000) == everything[:3]
    assert asked(live, threshold=third, top=2) == everything[:2]
    assert asked(live, threshold=1) == []


def test_a_subset_keeps_the_probabilities_among_all_classes(
    live: Live, everything: list[Class]
) -> None:
    """By id, index or label, in either form of a list; the most probable first."""
    first, second, last = everything[3], everything[7], everything[-1]
    names = [last["wordnet_id"], str(first["index"]), second["label"].upper()]
    wanted = [first, second, last]

    assert asked(live, classes=names) == wanted
    assert asked(live, classes=",".join(names)) == wanted
    assert asked(live, classes=names, top=1) == wanted[:1]
    assert asked(live, classes=names, threshold=second["probability"]) == wanted[:2]


def test_renormalised_probabilities_of_a_subset_sum_to_one(
    live: Live, everything: list[Class]
) -> None:
    """The threshold is one of these; without a subset there is nothing to divide."""
    chosen = everything[4:7]
    names = [one["wordnet_id"] for one in chosen]

    classes = asked(live, classes=names, renormalise="true")

    total = sum(one["probability"] for one in chosen)
    assert [one["index"] for one in classes] == [one["index"] for one in chosen]
    assert [one["probability"] for one in classes] == pytest.approx(
        [one["probability"] / total for one in chosen], rel=1e-5
    )
    above = asked(live, classes=names, renormalise="true", threshold=classes[1]["probability"])
    assert above == classes[:2]
    assert asked(live, renormalise="true", top=1000) == everything


def test_details_are_of_the_same_classes(live: Live, everything: list[Class]) -> None:
    chosen = [one["index"] for one in everything[4:6]]

    prediction = answered(live, classes=chosen, details="views,heatmap", crops="one")

    plain = answered(live, top=6, details="heatmap", crops="one")
    assert {one["index"] for one in prediction["views"][0]["classes"]} == {*chosen}
    maps = {one["index"]: one["values"] for one in prediction["heatmap"]["classes"]}
    assert maps.keys() == {*chosen}
    for one in plain["heatmap"]["classes"]:
        if one["index"] in maps:
            assert np.allclose(maps[one["index"]], one["values"], atol=1e-6)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"classes": "zebu-like"}, "classes='zebu-like': the model has no such class"),
        ({"classes": ""}, "classes='': the model has no such class"),
        ({"classes": "1,,2"}, "classes='': the model has no such class"),
        ({"threshold": "1.5"}, "threshold='1.5'"),
        ({"threshold": "nan"}, "threshold='nan'"),
        ({"renormalise": "1"}, "renormalise='1': must be true or false"),
        ({"threshold": ["0.1", "0.2"]}, "threshold is given more than once"),
    ],
)
def test_what_cannot_be_is_refused_before_the_body_is_looked_at(
    live: Live, query: dict[str, str], words: str
) -> None:
    answer = live.client.post(PREDICT, params=query, content=b"no image")

    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("values", "indices"),
    [
        (["n2"], (1,)),
        (["N2, n1"], (0, 1)),
        (["tabby, tabby cat"], (0,)),
        (["TABBY", "egyptian cat"], (0, 1)),
        (["crane"], (2, 3)),
        (["2"], (2,)),  # an index before a label
        (["4", "4", "n1"], (0, 4)),
    ],
)
def test_a_class_goes_by_several_names(values: list[str], indices: tuple[int, ...]) -> None:
    assert class_indices(values, LABELS) == indices


def test_a_model_without_ids_has_no_class_without_a_name() -> None:
    with pytest.raises(ParameterInvalid, match=r"such as 'tabby, tabby cat'"):
        class_indices([" "], LABELS)


def test_a_subset_that_has_no_probability_stays_without() -> None:
    """Nothing is divided by nothing."""
    selection = Selection(5, indices=(1, 2), renormalise=True)

    best, probabilities = selection.best(np.array([1, 0, 0], np.float32))

    assert (best.tolist(), probabilities.tolist()) == ([1, 2], [0, 0])


def test_the_flags_of_predict_choose_as_the_server_does(
    live: Live, everything: list[Class], tiny_model: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(image())
    names = ",".join(one["wordnet_id"] for one in everything[3:6])
    flags = ["--classes", names, "--renormalise", "--threshold", "0.3"]

    done = alexnet("predict", str(photo), "--json", *flags, model=tiny_model)
    none = alexnet("predict", str(photo), "--threshold", "1", model=tiny_model)

    assert (done.returncode, none.returncode, none.stdout) == (0, 0, b"")
    [printed] = json.loads(done.stdout)["predictions"]
    answer = asked(live, classes=names, renormalise="true", threshold=0.3)
    assert [one["index"] for one in printed["classes"]] == [one["index"] for one in answer]
    assert [one["probability"] for one in printed["classes"]] == pytest.approx(
        [one["probability"] for one in answer], rel=1e-4
    )


def test_a_class_that_is_not_there_and_a_table_are_told(tiny_model: Path, tmp_path: Path) -> None:
    unknown = alexnet("predict", str(tmp_path), "--classes", "zebu-like", model=tiny_model)
    table = tmp_path / "scores.csv"
    to_table = alexnet(
        "predict", str(tmp_path), "-o", str(table), "--threshold", "0.5", model=tiny_model
    )

    assert (unknown.returncode, to_table.returncode) == (1, 1)
    assert b"'zebu-like': the model has no such class" in unknown.stderr
    assert b"choose among them when you read it" in to_table.stderr
