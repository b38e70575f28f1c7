"""The page at /, in a real browser."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import write_tiny
from live import Live, picture, serving

from model_export.variants import VARIANTS

if TYPE_CHECKING:
    from playwright.sync_api import Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """A server for the page."""
    with serving(tiny_model) as server:
        yield server


@pytest.fixture
def page(live: Live) -> Iterator["Page"]:
    """The page of a model that offers every choice of crops."""
    with opened(live) as shown:
        yield shown


@contextmanager
def opened(live: Live) -> Iterator["Page"]:
    """The page on a phone; it may ask nobody but its server and must not complain."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}; set CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        shown = browser.new_page(viewport={"width": 390, "height": 844})
        complaints: list[str] = []
        asked: list[str] = []
        shown.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(live.url)
        yield shown
        browser.close()
    # A refusal's status is written to the console by the browser itself.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    assert [url for url in asked if not url.startswith((live.url, "blob:", "data:"))] == []


@pytest.fixture
def model_without_dense(tmp_path: Path) -> Path:
    """As ``caffe``: crops of 227 pixels, which begin between two places of its maps."""
    return write_tiny(VARIANTS["caffe"], tmp_path / "caffe.onnx")


def choose(page: "Page", name: str, data: bytes) -> None:
    """Give the page a file, as a click would."""
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": data})


def test_a_picture_shows_five_bars(page: "Page") -> None:
    """Label, probability and WordNet id for each, and the picture itself."""
    choose(page, "gradient.jpg", picture())

    rows = page.locator("#classes li")
    sync_api.expect(rows).to_have_count(5)
    sync_api.expect(rows.first).to_contain_text("%")
    sync_api.expect(page.locator("#picture")).to_be_visible()
    sync_api.expect(page.locator("#curl")).to_contain_text("@gradient.jpg")


def test_the_switch_asks_again_with_one_crop(page: "Page") -> None:
    """Ten crops at first; then the curl line follows the switch too."""
    choose(page, "gradient.jpg", picture())
    sync_api.expect(page.locator("#state")).to_contain_text("Ten crops")

    page.get_by_text("One crop").click()

    sync_api.expect(page.locator("#state")).to_contain_text("One crop")
    sync_api.expect(page.locator("#curl")).to_contain_text("crops=one")


def test_dense_crops_are_reached_by_keyboard_and_answer(page: "Page") -> None:
    """The arrow keys move the switch, and the server is asked for what it shows."""
    choose(page, "gradient.jpg", picture())
    sync_api.expect(page.locator("#state")).to_contain_text("Ten crops")

    with page.expect_response(lambda reply: "crops=dense" in reply.url) as answered:
        page.get_by_role("radio", name="Ten crops").press("ArrowLeft")

    assert answered.value.json()["crops"] == "dense"
    sync_api.expect(page.get_by_role("radio", name="Dense")).to_be_checked()
    sync_api.expect(page.locator("#state")).to_contain_text("Dense, ")
    sync_api.expect(page.locator("#curl")).to_contain_text("crops=dense")
    sync_api.expect(page.locator("#classes li")).to_have_count(5)


def test_only_what_the_model_offers_can_be_chosen(model_without_dense: Path) -> None:
    """Two choices where the crops do not fit the maps, the first one set."""
    with serving(model_without_dense) as live, opened(live) as page:
        radios = page.get_by_role("radio")

        sync_api.expect(radios).to_have_count(2)
        sync_api.expect(radios.first).to_be_checked()
        sync_api.expect(page.get_by_text("Dense")).to_have_count(0)
        choose(page, "gradient.jpg", picture())
        page.get_by_text("One crop").click()
        sync_api.expect(page.locator("#state")).to_contain_text("One crop")


def test_a_text_file_shows_the_servers_words(page: "Page", live: Live) -> None:
    """The error's sentence, and no bars left over."""
    choose(page, "gradient.jpg", picture())
    sync_api.expect(page.locator("#classes li")).to_have_count(5)

    choose(page, "notes.txt", b"nothing but text in this file")

    said = live.client.post("/v1/predict", content=b"nothing but text in this file").json()
    sync_api.expect(page.locator("#error")).to_have_text(said["error"])
    sync_api.expect(page.locator("#classes li")).to_have_count(0)


def test_the_page_is_made_of_the_right_types_and_refers_to_nothing_external(live: Live) -> None:
    """HTML, CSS and a JavaScript module, with relative addresses."""
    kinds = {"/": "text/html", "/static/page.css": "text/css", "/static/page.js": "text/javascript"}
    for path, kind in kinds.items():
        answer = live.client.get(path)

        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert live.client.head(path).content == b""
