"""The page at /, in a real browser: pictures are given, and answered."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from PIL import Image

from service.http.access import RateLimiter
from service.http.middleware.auth import AccessControl
from tests.support.images import IMAGES, image
from tests.support.models import CAFFE
from tests.support.pages import (
    DESK,
    ELSEWHERE,
    KEY,
    REFUSED,
    a_browser,
    a_locked_server,
    bars,
    choose,
    compared,
    expect,
    give,
    opened,
    shows,
    sync_api,
    unfold,
)
from tests.support.servers import PATIENCE, ROOT, Live, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.external

CAT = (IMAGES / "cat.jpg").read_bytes()
TEXT = b"nothing but text in this file"
browser, locked = a_browser, a_locked_server


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """A server for the page."""
    with serving(tiny_model) as server:
        yield server


@pytest.fixture
def page(browser: "Browser", live: Live) -> Iterator["Page"]:
    """The page of a model that offers every choice of crops."""
    with opened(browser, live) as shown:
        yield shown


def answer(live: Live, data: bytes, **query: str) -> dict[str, Any]:
    """What the API says of a picture."""
    kind = {"Content-Type": "application/octet-stream"}
    reply = live.client.post("/v1/predict", content=data, headers=kind, params=query).json()
    found: dict[str, Any] = reply["predictions"][0]
    return found


def near(probability: float) -> Any:
    """The same image's in a batch of another size, whose sums are rounded elsewhere."""
    return pytest.approx(probability, rel=1e-5)


def percent(probability: float) -> str:
    """As the page writes it."""
    return "<0.1%" if 0 < probability < 0.001 else f"{100 * probability:.1f}%"


def test_the_page_has_something_to_show_at_once(page: "Page", live: Live) -> None:
    """The first sample is answered unasked; its bars are the API's five classes, as text too."""
    shows(page, "Cat")

    known = answer(live, CAT)["classes"]
    assert bars(page) == [
        {
            "label": one["label"].split(", ")[0],
            "wordnet": " · ".join([one["wordnet_id"], *one["label"].split(", ", 1)[1:]]),
            "probability": percent(one["probability"]),
            "width": pytest.approx(100 * one["probability"], abs=0.01),
        }
        for one in known
    ]
    expect(page.locator("#sentence")).to_contain_text(known[0]["label"].split(", ")[0])
    expect(page.locator("#door")).to_be_hidden()


def test_a_page_that_nobody_runs_asks_for_nothing(tiny_model: Path) -> None:
    """A probe that fetches the page costs no run of the network."""
    with serving(tiny_model) as live:
        live.client.post("/v1/predict", content=image())
        before = live.client.get("/metrics").text

        live.client.get("/")

        after = live.client.get("/metrics").text
    count = re.compile(r"^alexnet_(?:images_total|batch_images_count).*$", re.MULTILINE)
    assert len(count.findall(before)) >= 2
    assert count.findall(before) == count.findall(after)


def test_a_sample_is_answered_when_it_is_clicked(page: "Page") -> None:
    """Its name, its five bars, and the button that says it is the one."""
    for name in ("Panda", "Coffee", "Guitar", "Okapi", "Rocket"):
        page.get_by_role("button", name=name).click()

        shows(page, name)
        expect(page.locator("#classes li")).to_have_count(5)
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_file_can_be_given_anywhere_on_the_page(page: "Page", way: Any) -> None:
    """Dropped on the last line or pasted there, it is answered."""
    shows(page, "Cat")

    give(page, way, ("gradient.jpg", image()))

    shows(page, "gradient.jpg")
    expect(page.locator("#classes li")).to_have_count(5)
    expect(page.locator("#veil")).to_be_hidden()
    expect(page.locator("#picture")).to_have_attribute("aria-label", re.compile(r"gradient\.jpg"))


def test_a_photograph_can_be_taken(page: "Page") -> None:
    """A second input asks a phone for its camera."""
    camera = page.locator("#camera")

    expect(camera).to_have_attribute("capture", "environment")
    camera.set_input_files({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": image()})

    shows(page, "photo.jpg")


def bitmap() -> bytes:
    """The cat as a file of many bytes."""
    encoded = BytesIO()
    with Image.open(BytesIO(CAT)) as opened_image:
        opened_image.save(encoded, "BMP")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("limit", "size"),
    [({"max_body": 200_000}, (451, 300)), ({"max_pixels": 100_000}, (385, 256))],
    ids=lambda each: str(each),
)
def test_of_a_picture_that_is_too_large_a_smaller_copy_is_answered(
    browser: "Browser", tiny_model: Path, limit: dict[str, int], size: tuple[int, int]
) -> None:
    """In bytes or in pixels; the page says so, and the copy can be saved; others go as they are."""
    with serving(tiny_model, **limit) as live, opened(browser, live) as page:
        choose(page, ("cat.bmp", bitmap()))
        shows(page, "cat.bmp")

        expect(page.locator("#copy")).to_contain_text(
            f"The answer is of a smaller copy, {size[0]} x {size[1]} pixels."
        )
        expect(page.locator("#curl")).to_contain_text("'@cat-smaller.jpg'")
        with page.expect_download() as download:
            page.get_by_text("Save the copy").click()
        assert download.value.suggested_filename == "cat-smaller.jpg"
        copy = Path(download.value.path()).read_bytes()
        with Image.open(BytesIO(copy)) as saved:
            assert saved.size == size
        assert [bar["probability"] for bar in bars(page)] == [
            percent(one["probability"]) for one in answer(live, copy)["classes"]
        ]

        choose(page, ("small.jpg", image()))
        shows(page, "small.jpg")
        assert [bar["probability"] for bar in bars(page)] == [
            percent(one["probability"]) for one in answer(live, image())["classes"]
        ]
        expect(page.locator("#copy")).to_be_hidden()


def test_what_is_too_large_and_no_picture_is_refused(browser: "Browser", tiny_model: Path) -> None:
    """In words; nothing can be made smaller that the browser cannot read."""
    with serving(tiny_model, max_body=1000) as live, opened(browser, live) as page:
        choose(page, ("notes.txt", 100 * TEXT))
        shows(page, "notes.txt")

        expect(page.locator("#wrong")).to_contain_text("Send it scaled down.")
        expect(page.locator("#copy")).to_be_hidden()


LIGHT = """() => [document.querySelector("#preview").srcObject?.active ?? false,
    globalThis.track?.readyState]"""


@pytest.mark.parametrize("closed_by", ["picture", "Close", "Escape"])
def test_the_webcam_is_on_only_while_its_window_is_open(
    browser: "Browser", live: Live, closed_by: str
) -> None:
    """It is asked for by its button; the picture that is taken is answered."""
    with opened(browser, live, size=DESK, permissions=["camera"]) as page:
        shows(page, "Cat")
        assert page.evaluate(LIGHT) == [False, None]
        page.get_by_role("button", name="Webcam").click()
        expect(page.get_by_role("button", name="Take picture")).to_be_focused()
        page.evaluate(
            "globalThis.track = document.querySelector('#preview').srcObject.getTracks()[0]"
        )
        assert page.evaluate(LIGHT) == [True, "live"]

        if closed_by == "Escape":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("dialog").get_by_role("button", name=closed_by).click()

        expect(page.get_by_role("dialog")).to_be_hidden()
        page.wait_for_function("track.readyState === 'ended'")
        assert page.evaluate(LIGHT) == [False, "ended"]
        shows(page, "webcam-1.jpg" if closed_by == "picture" else "Cat")
        ratio = page.locator("#picture").evaluate("canvas => canvas.width / canvas.height")
        assert ratio == pytest.approx(4 / 3 if closed_by == "picture" else 451 / 300, abs=0.01)


def test_a_webcam_that_may_not_be_used_is_told(page: "Page") -> None:
    """And what to do; the page goes on."""
    page.set_viewport_size({"width": DESK[0], "height": DESK[1]})

    page.get_by_role("button", name="Webcam").click()

    expect(page.locator("#note")).to_contain_text("Allow it in the browser")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_no_webcam_is_offered_where_browsers_give_none(browser: "Browser", live: Live) -> None:
    """To pages without TLS; phones have their own button."""
    elsewhere = replace(live, url=live.url.replace("127.0.0.1", ELSEWHERE))
    for server, touch in ((elsewhere, False), (live, True)):
        with opened(browser, server, touch=touch) as page:
            shows(page, "Cat")
            expect(page.get_by_text("Webcam")).to_be_hidden()


def test_of_several_images_a_broken_one_spoils_nothing(page: "Page", live: Live) -> None:
    """Each has its answer or its error in its own place; one is shown."""
    choose(page, ("first.jpg", image()), ("notes.txt", TEXT), ("cat.jpg", CAT))

    shows(page, "first.jpg")
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text(refused(live, TEXT))
    expect(rows.nth(2)).to_contain_text("%")
    expect(page.locator("#filecount")).to_have_text("2 of 3 pictures classified, 1 failed")
    expect(page.locator("#error")).to_be_hidden()

    rows.nth(1).click()

    expect(page.get_by_role("alert")).to_contain_text(refused(live, TEXT))
    expect(page.locator("#classes li")).to_have_count(0)
    expect(page.locator("#viewsection")).to_be_hidden()

    rows.nth(2).get_by_role("button").press("Enter")

    shows(page, "cat.jpg")
    expect(page.locator("#classes li")).to_have_count(5)
    expect(page.locator("#error")).to_be_hidden()


def test_one_picture_costs_one_request(page: "Page") -> None:
    """The choices of crops are compared when that is asked for, and not before."""
    sent: list[str] = []
    shows(page, "Cat")
    page.on("request", lambda request: sent.append(request.url))

    choose(page, ("gradient.jpg", image()))
    shows(page, "gradient.jpg")
    unfold(page)
    assert len([url for url in sent if "/v1/predict" in url]) == 1

    compared(page)
    assert len([url for url in sent if "/v1/predict" in url]) == 3


def test_seventy_pictures_are_found_again(browser: "Browser", live: Live) -> None:
    """By a filter, by walking through them; all are copied as CSV and JSON, and cleared."""
    allowed = ["clipboard-read", "clipboard-write"]
    with opened(browser, live, permissions=allowed) as page:
        shows(page, "Cat")
        files = [(f"{number}.jpg", image()) for number in range(69)]
        choose(page, *files, ('said "no", loudly.txt', TEXT))
        expect(page.locator("#filecount")).to_have_text("69 of 70 pictures classified, 1 failed")
        expect(page.locator("#walked")).to_have_text("1 of 70")

        page.locator("#files").scroll_into_view_if_needed()
        page.get_by_role("button", name="Previous picture").evaluate("button => button.click()")
        expect(page.locator("#walked")).to_have_text("70 of 70")
        expect(page.locator("#rows tr").last).to_be_in_viewport()
        page.get_by_role("button", name="Next picture").click()
        shows(page, "0.jpg")

        page.get_by_label("Filter by name, class or error").fill("LOUDLY")
        expect(page.locator("#rows tr:visible")).to_have_count(1)
        page.get_by_label("Filter by name, class or error").fill("")
        expect(page.locator("#rows tr:visible")).to_have_count(70)

        known = answer(live, image())["classes"]
        page.get_by_role("button", name="Copy CSV").click()
        expect(page.get_by_text("Copied")).to_be_visible()
        table = list(csv.DictReader(StringIO(page.evaluate("navigator.clipboard.readText()"))))
        assert [row["filename"] for row in table[:2]] == ["0.jpg", "1.jpg"]
        assert table[0]["label"] == known[0]["label"]
        assert float(table[0]["probability"]) == near(known[0]["probability"])
        assert table[69]["filename"] == 'said "no", loudly.txt'
        assert table[69]["error"] == refused(live, TEXT)
        page.get_by_role("button", name="Copy JSON").click()
        expect(page.get_by_text("Copied")).to_have_count(2)
        copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert copied[0]["filename"] == "0.jpg"
        assert [{**found, "probability": near(found["probability"])} for found in known] == (
            copied[0]["classes"]
        )
        assert copied[69] == {"filename": 'said "no", loudly.txt', "error": refused(live, TEXT)}

        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#files")).to_be_hidden()


def test_the_models_classes_are_listed_and_found(page: "Page", live: Live) -> None:
    """Under their indices, by a part of the name, by index and by WordNet id, with a count."""
    rows, count = page.locator("#labellist li"), page.locator("#labelcount")
    expect(rows).to_have_count(0)  # until somebody looks: laying them out doubles the page's time
    page.get_by_text("List of 1000 classes").press("Enter")
    expect(rows.filter(visible=True)).to_have_count(1000)
    expect(count).to_be_empty()
    page.get_by_label("Filter by name, index or WordNet id").press_sequentially("TABBY")

    expect(rows.filter(visible=True)).to_have_text("tabby, tabby cat n02123045")
    expect(count).to_have_text("1 of 1000")
    assert rows.filter(visible=True).evaluate("row => row.value") == 281
    for wanted in ("n02123045", "281"):
        page.get_by_label("Filter by name, index or WordNet id").fill(wanted)
        expect(rows.nth(281)).to_be_visible()
        expect(rows.nth(0)).to_be_hidden()
    page.get_by_label("Filter by name, index or WordNet id").fill("no such class")
    expect(count).to_have_text("0 of 1000")


def refused(live: Live, data: bytes) -> str:
    """The API's words on what it cannot read."""
    kind = {"Content-Type": "application/octet-stream"}
    said: str = live.client.post("/v1/predict", content=data, headers=kind).json()["error"]
    return said


def test_a_truncated_image_shows_the_servers_words(page: "Page", live: Live) -> None:
    """The error's sentence, no bars left over, and nothing to try again."""
    choose(page, ("cut.jpg", CAT[:9000]))

    expect(page.locator("#wrong")).to_have_text(refused(live, CAT[:9000]))
    expect(page.locator("#classes li")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_the_choices_stand_side_by_side(page: "Page", live: Live) -> None:
    """Each with a time and its three best, as the API answers."""
    choose(page, ("cat.jpg", CAT))
    shows(page, "cat.jpg")
    compared(page)

    for crops in ("ten", "one", "dense"):
        row = page.locator(f"[data-crops={crops}]")
        expect(row.locator(".time")).to_have_text(re.compile(r"^[\d.]+\sm?s$"))
        for one, shown in zip(
            answer(live, CAT, crops=crops)["classes"], row.locator("li").all(), strict=False
        ):
            expect(shown).to_contain_text(one["label"].split(", ")[0])
            expect(shown).to_contain_text(percent(one["probability"]))


def test_a_choice_is_moved_by_keyboard_and_shown_in_detail(page: "Page", live: Live) -> None:
    """The arrow keys move it; bars, times and the lines to copy follow."""
    choose(page, ("cat.jpg", CAT))
    shows(page, "cat.jpg")
    unfold(page)

    page.get_by_role("radio", name="Ten crops").press("ArrowUp")

    expect(page.get_by_role("radio", name="Dense")).to_be_checked()
    shows(page, "Dense")
    best = answer(live, CAT, crops="dense")["classes"][0]
    expect(page.locator("#classes li").first).to_contain_text(percent(best["probability"]))
    expect(page.locator("#curl")).to_contain_text("crops=dense")
    expect(page.locator("#python")).to_contain_text('crops="dense"')


def test_only_what_the_model_offers_can_be_chosen(browser: "Browser") -> None:
    """Two choices where the crops do not fit the maps, the first one set."""
    with serving(CAFFE) as live, opened(browser, live) as page:
        unfold(page)
        radios = page.locator("#choices").get_by_role("radio")

        expect(radios).to_have_count(2)
        expect(radios.first).to_be_checked()
        compared(page, 2)
        page.locator("[data-crops=one]").click()
        shows(page, "One crop")


def test_the_times_of_the_steps_are_told(page: "Page") -> None:
    """A bar for the eye and the same in text, whose parts make up the whole."""
    shows(page, "Cat")
    unfold(page)

    legend = page.locator("#stepslegend li").all_inner_texts()
    assert [text.split()[0] for text in legend] == ["read", "decode", "queue", "run", "rest"]
    parts = sum(float(text.split()[1]) for text in legend)
    whole = float(page.locator("#took").inner_text().split()[0])
    assert parts == pytest.approx(whole, abs=0.06 * len(legend) + 0.05 * whole)
    expect(page.locator("#stepsbar span")).to_have_count(5)


def test_an_answer_that_comes_late_does_not_win(page: "Page") -> None:
    """A visitor who has gone on to another picture sees that one, whatever arrives afterwards."""
    held: list[Route] = []
    shows(page, "Cat")
    page.route(
        "**/v1/predict*", lambda route: held.append(route) if not held else route.continue_()
    )
    choose(page, ("slow.jpg", image()))
    expect(page.locator("#busy")).to_contain_text("slow.jpg")
    expect(page.locator("#whose")).to_contain_text("Cat")  # stays until there is something else
    expect(page.locator("#classes li")).to_have_count(5)

    choose(page, ("quick.jpg", CAT))
    shows(page, "quick.jpg")
    held[0].continue_()

    expect(page.locator("#rows tr").first).to_contain_text("%")
    shows(page, "quick.jpg")


def test_a_full_server_is_asked_again_when_it_says(browser: "Browser", tiny_model: Path) -> None:
    """Retry-After is kept to, with a word to who waits."""
    clock = Mock(return_value=0)  # stands still, whatever the machine's speed
    limiter = RateLimiter(rate := "1/second", clock)
    with serving(tiny_model, rate_limit=rate) as live:
        live.app.state.access = AccessControl(live.app.state.access.keys, limiter)
        with opened(browser, live, frozen=True) as page:
            shows(page, "Cat")
            choose(page, ("gradient.jpg", image()))
            expect(page.locator("#retry")).to_have_text("Rate limit reached. Retrying in 1 s.")
            page.clock.run_for(900)
            expect(page.locator("#retry")).to_be_visible()  # until it does
            shows(page, "Cat")  # the picture and the answer that belong together
            expect(page.locator("#picture")).to_have_attribute("aria-label", "Cat")
            clock.side_effect = time.monotonic_ns
            page.clock.resume()

            shows(page, "gradient.jpg")

            expect(page.locator("#retry")).to_be_hidden()
            expect(page.locator("#error")).to_be_hidden()


def test_a_busy_server_is_asked_again_when_it_says(page: "Page") -> None:
    """As where a client has its own limit; two that wait send nothing until then."""
    shows(page, "Cat")
    refusals = [503, 503]

    def refuse(route: "Route") -> None:
        if not refusals:
            route.continue_()
            return
        route.fulfill(
            status=refusals.pop(),
            headers={"Retry-After": "1"},
            json={"error": "The queue is full.", "code": "overloaded"},
        )

    page.route("**/v1/predict*", refuse)
    choose(page, ("first.jpg", image()), ("cat.jpg", CAT))

    expect(page.locator("#retry")).to_have_text("The server is busy. Retrying in 1 s.")
    expect(page.locator("#filecount")).to_have_text("2 of 2 pictures classified")
    expect(page.locator("#retry")).to_be_hidden()


def test_a_server_that_has_gone_is_told_and_can_be_tried_again(page: "Page") -> None:
    """In words, with a button that asks again."""
    shows(page, "Cat")
    page.route("**/v1/predict*", lambda route: route.abort())
    choose(page, ("cat.jpg", CAT), ("gradient.jpg", image()))
    expect(page.locator("#wrong")).to_have_text("Cannot reach the server. Is it still running?")
    expect(page.locator("#filecount")).to_contain_text("2 failed")

    page.unroute("**/v1/predict*")
    page.get_by_role("button", name="Try again").click()

    shows(page, "Ten crops")
    expect(page.locator("#classes li")).to_have_count(5)
    expect(page.locator("#filecount")).to_have_text("2 of 2 pictures classified")


def test_a_key_is_asked_for_where_one_is_needed(browser: "Browser", locked: Live) -> None:
    """At once, and in the page's words; a right one is kept in memory alone, shown nowhere."""
    with opened(browser, locked) as page:
        door = page.locator("#door")
        expect(door).to_contain_text("This server needs an API key.")
        expect(page.locator("#sentence")).to_contain_text("First the key")
        expect(page.locator("#classes li")).to_have_count(0)  # no sample either
        choose(page, ("gradient.jpg", image()))
        expect(page.locator("#best")).to_have_text("No answer yet")
        expect(page.get_by_label("API key")).to_be_focused()
        page.get_by_label("API key").fill("bob-0123456789012")
        page.get_by_role("button", name="Use it").click()
        expect(door).to_contain_text("That key is not one of this server")
        expect(page.locator("#error")).to_be_hidden()
        assert "curl" not in page.locator("#answer").inner_text()

        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")

        expect(page.locator("#classes li")).to_have_count(5)
        expect(door).to_be_hidden()
        expect(page.locator("#curl")).to_contain_text("Authorization: Bearer KEY")
        expect(page.locator("#python")).to_contain_text('api_key="KEY"')
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert KEY not in page.content()
        assert KEY not in page.url


def test_a_key_that_is_given_first_is_tried_on_a_sample(browser: "Browser", locked: Live) -> None:
    """A visitor without a picture sees at once that it is right."""
    with opened(browser, locked) as page:
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use it").click()

        shows(page, "Cat")
        expect(page.locator("#door")).to_be_hidden()


def test_the_lines_to_copy_are_copied_and_true(
    browser: "Browser", live: Live, tmp_path: Path
) -> None:
    """Run as they are in an empty folder, they give the answer that the page shows."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    allowed = ["clipboard-read", "clipboard-write"]
    with opened(browser, live, permissions=allowed) as page:
        shows(page, "Cat")
        best = page.locator("#classes .label").first.inner_text()
        copied = {}
        for name in ("curl", "Python"):
            button = page.get_by_role("button", name=f"Copy the {name} line")
            button.click()
            expect(page.get_by_role("button", name=f"Copied the {name} line")).to_be_visible()
            copied[name] = page.evaluate("navigator.clipboard.readText()")

    quiet = copied["curl"].replace("curl ", "curl -s --noproxy '*' ")
    said = subprocess.run(["sh", "-c", quiet], cwd=tmp_path, capture_output=True, timeout=PATIENCE)
    told = subprocess.run(
        [sys.executable, "-c", copied["Python"]],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=PATIENCE,
    )

    assert f'"label":"{best}' in said.stdout.decode()
    assert best in told.stdout.decode(), told.stderr.decode()
    assert len(told.stdout.splitlines()) == 5  # for people to read


def test_details_that_nobody_wants_are_not_in_the_lines(page: "Page") -> None:
    """Neither as an empty list nor as an empty parameter."""
    shows(page, "Cat")  # the page itself writes no more

    page.evaluate(
        "async () => (await import(new URL('static/code.js', document.baseURI).href))"
        ".showCode(null, { crops: 'ten', details: '', keyed: false })"
    )

    expect(page.locator("#python")).not_to_contain_text("details")
    expect(page.locator("#curl")).not_to_contain_text("details")


def test_many_images_are_decoded_two_at_a_time(page: "Page") -> None:
    """A photograph takes 48 MB while it is."""
    shows(page, "Cat")
    page.evaluate(
        """() => {
            window.most = window.now = 0;
            const decode = createImageBitmap;
            window.createImageBitmap = async (...given) => {
                most = Math.max(most, ++now);
                try { return await decode(...given); } finally { now -= 1; }
            };
        }"""
    )

    choose(page, *[(f"{number}.jpg", CAT) for number in range(12)])

    expect(page.locator("#rows .probability", has_text="%")).to_have_count(12)
    page.wait_for_function("now === 0")
    assert page.evaluate("most") == 2


def test_a_name_cannot_break_out_of_the_lines(page: "Page") -> None:
    """Quotes in a file's name are the shell's and Python's own affair."""
    choose(page, ('it\'s "one".jpg', image()))

    expect(page.locator("#curl")).to_contain_text("'@it'\\''s \"one\".jpg'")
    expect(page.locator("#python")).to_contain_text('"it\'s \\"one\\".jpg"')


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
    with opened(browser, locked, "/docs", tolerated=f"{REFUSED}|Could not find component") as page:
        page.get_by_role("button", name="Authorize").click()
        page.get_by_label("auth-bearer-value").fill(KEY)
        page.get_by_role("button", name="Apply credentials").first.click()
        page.get_by_role("button", name="Close").first.click()
        page.locator("#operations-predict-predict").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()

        status = page.locator(".live-responses-table tbody .response-col_status")
        expect(status).to_contain_text("400")  # past the door, without a picture
