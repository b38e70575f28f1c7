"""The page at /, in a real browser."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import write_tiny
from live import Live, picture, serving

from model_export.variants import VARIANTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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
REFUSED = "Failed to load resource"  # a refusal's status, which the browser itself writes


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """A server for the page."""
    with serving(tiny_model) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One for all tests; each has pages of its own."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}; set CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: "Browser", live: Live) -> Iterator["Page"]:
    """The page of a model that offers every choice of crops."""
    with opened(browser, live) as shown:
        yield shown


@contextmanager
def opened(
    browser: "Browser", live: Live, path: str = "/", tolerated: str = REFUSED
) -> Iterator["Page"]:
    """A page on a phone; it may ask nobody but its server and must not complain."""
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        shown = context.new_page()
        complaints: list[str] = []
        asked: list[str] = []
        shown.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(live.url + path)
        yield shown
    assert [text for text in complaints if not re.search(tolerated, text)] == []
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
    sync_api.expect(page.locator("#door")).to_be_hidden()


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


def test_only_what_the_model_offers_can_be_chosen(
    browser: "Browser", model_without_dense: Path
) -> None:
    """Two choices where the crops do not fit the maps, the first one set."""
    with serving(model_without_dense) as live, opened(browser, live) as page:
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


KEY = "alice-0123456789"


@pytest.fixture(scope="module")
def locked(tiny_model: Path) -> Iterator[Live]:
    """A server that asks for a key."""
    with serving(tiny_model, api_keys=KEY) as server:
        yield server


def test_a_key_is_asked_for_where_one_is_needed(browser: "Browser", locked: Live) -> None:
    """A wrong one is told so; a right one is used, kept in memory alone and shown nowhere."""
    with opened(browser, locked) as page:
        door, error = page.locator("#door"), page.locator("#error")
        sync_api.expect(door).to_be_hidden()
        choose(page, "gradient.jpg", picture())
        sync_api.expect(door).to_be_visible()
        sync_api.expect(error).to_contain_text("needs an API key")
        page.get_by_label("API key").fill("bob-0123456789012")
        page.get_by_role("button", name="Use it").click()
        sync_api.expect(error).to_contain_text("not one of ours")

        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")

        sync_api.expect(page.locator("#classes li")).to_have_count(5)
        sync_api.expect(door).to_be_hidden()
        sync_api.expect(page.locator("#curl")).to_contain_text("Authorization: Bearer KEY")
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert KEY not in page.content()
        assert KEY not in page.url


def test_a_script_that_is_not_ours_does_not_run(browser: "Browser", live: Live) -> None:
    """Should a hole ever let one into the page, its policy stops it: by either of two rules."""
    with opened(browser, live, tolerated="TrustedHTML|TrustedScript|script-src") as page:
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.append("window.taken = true");
                document.body.append(script);
            }"""
        )
        with pytest.raises(sync_api.Error, match="TrustedHTML"):
            page.evaluate("() => { document.body.innerHTML = '<b>bold</b>'; }")

        assert page.evaluate("window.taken") is None


def test_the_documentation_can_be_tried_with_a_key(browser: "Browser", locked: Live) -> None:
    """Swagger UI under a policy that allows nothing inline but what starts it."""
    with opened(browser, locked, "/docs", f"{REFUSED}|Could not find component") as page:
        page.get_by_role("button", name="Authorize").click()
        page.get_by_label("auth-bearer-value").fill(KEY)
        page.get_by_role("button", name="Apply credentials").first.click()
        page.get_by_role("button", name="Close").first.click()
        page.locator("#operations-predict-predict_v1_predict_post").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()

        answer = page.locator(".live-responses-table tbody .response-col_status")
        sync_api.expect(answer).to_contain_text("400")  # past the door, without a picture


def test_the_page_is_made_of_the_right_types_and_refers_to_nothing_external(live: Live) -> None:
    """HTML, CSS and a JavaScript module, with relative addresses."""
    kinds = {"/": "text/html", "/static/page.css": "text/css", "/static/page.js": "text/javascript"}
    for path, kind in kinds.items():
        answer = live.client.get(path)

        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert live.client.head(path).content == b""
