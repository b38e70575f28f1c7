"""Hugging Face's own client, unmodified, to a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.support.images import IMAGES, image
from tests.support.servers import PATIENCE, Live, serving

CAT = IMAGES / "cat.jpg"
KEY = "alice-0123456789"


@pytest.fixture(scope="module")
def live(bundled_model: Path) -> Iterator[Live]:
    with serving(bundled_model, api_keys=KEY) as server:
        yield server


@pytest.fixture
def client(live: Live) -> InferenceClient:
    return InferenceClient(model=f"{live.url}/models/alexnet", token=KEY, timeout=PATIENCE)


def test_it_classifies_a_file(client: InferenceClient) -> None:
    best = client.image_classification(str(CAT))

    assert len(best) == 5
    assert best[0].label == "Egyptian cat"
    assert [each.score for each in best] == sorted((each.score for each in best), reverse=True)


def test_with_parameters_it_sends_json(client: InferenceClient) -> None:
    best = client.image_classification(CAT.read_bytes(), top_k=2, function_to_apply="softmax")

    assert [each.label for each in best] == ["Egyptian cat", "tiger cat"]


def test_its_error_has_the_services_sentence(client: InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError, match=r"422.*(?s:.)*function_to_apply must be softmax"):
        client.image_classification(image(), function_to_apply="sigmoid")


def test_its_token_is_the_key(live: Live) -> None:
    stranger = InferenceClient(model=f"{live.url}/models/alexnet", token="none", timeout=PATIENCE)

    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.image_classification(image())
