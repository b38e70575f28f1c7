"""The page's ten views and its heatmap: what is drawn is what was cut, and what was answered."""

import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.inference.image import decode
from service.inference.limits import DecodeLimits
from tests.support.images import IMAGES
from tests.support.models import OWN, altered
from tests.support.pages import DESK, a_browser, bars, choose, expect, opened, shows, unfold
from tests.support.profiles import PROPHOTO, gamma, rgb
from tests.support.servers import Live, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.external

CAT = (IMAGES / "cat.jpg").read_bytes()
browser = a_browser

GREY = np.array([0.3, 0.59, 0.11])  # of red, green, blue


@pytest.fixture(scope="module")
def live(bundled_model: Path) -> Iterator[Live]:
    """A server whose answers mean something."""
    with serving(bundled_model) as server:
        yield server


@pytest.fixture(scope="module")
def quick(tiny_model: Path) -> Iterator[Live]:
    """One whose heatmaps take no time."""
    with serving(tiny_model) as server:
        yield server


@pytest.fixture
def page(browser: "Browser", live: Live) -> Iterator["Page"]:
    """On a desk, where there is a mouse."""
    with opened(browser, live, size=DESK) as shown:
        shows(shown, "Cat")
        yield shown


def answer(live: Live, data: bytes, **query: str) -> dict[str, Any]:
    """What the API says of a picture."""
    kind = {"Content-Type": "application/octet-stream"}
    reply = live.client.post("/v1/predict", content=data, headers=kind, params=query).json()
    found: dict[str, Any] = reply["predictions"][0]
    return found


def first(found: dict[str, Any]) -> str:
    """The usual one of a class's names."""
    name: str = found["label"].split(", ")[0]
    return name


def drawn(page: "Page", selector: str) -> NDArray[np.uint8]:
    """A canvas's pixels, `(height, width, 3)`."""
    url = page.locator(selector).evaluate("canvas => canvas.toDataURL()")
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    return np.asarray(image)


def upright() -> bytes:
    """As it is."""
    return CAT


def turned() -> bytes:
    """Stored on its side, with EXIF data that say so."""
    encoded, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(CAT)) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(encoded, "JPEG", exif=exif, quality=95)
    return encoded.getvalue()


def seen_through() -> bytes:
    """A PNG whose upper half is transparent."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as image:
        image.putalpha(255)
        image.paste((0, 0, 0, 0), (0, 0, image.width, image.height // 2))
        image.save(encoded, "PNG")
    return encoded.getvalue()


def turned_webp() -> bytes:
    """A WebP on its side, which browsers leave there."""
    encoded, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 5
    with Image.open(io.BytesIO(CAT)) as image:
        image.transpose(Image.Transpose.TRANSPOSE).save(encoded, "WEBP", exif=exif, quality=95)
    return encoded.getvalue()


def turned_late() -> bytes:
    """A JPEG whose EXIF data come last, behind XMP that browsers do not follow either."""
    data = turned()
    start = data.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    scan = data.index(b"\xff\xda")
    return data[:start] + data[end:scan] + data[start:end] + data[scan:]


def turned_png() -> bytes:
    """A PNG whose EXIF data stand behind the pixels, the first of them with a wrong checksum."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(encoded, "PNG")
    broken, whole = exif_chunk(3)[:-4] + bytes(4), exif_chunk(6)
    data = encoded.getvalue()
    return data[:-12] + broken + whole + data[-12:]


def exif_chunk(orientation: int) -> bytes:
    """Of a PNG; the orientation is of type LONG."""
    body = b"eXIf" + struct.pack("<4sIHHHIII", b"II*\0", 8, 1, 0x0112, 4, 1, orientation, 0)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def turned_avif() -> bytes:
    """An AVIF whose container says how it is turned, which browsers do themselves."""
    encoded, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(CAT)) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(encoded, "AVIF", exif=exif, quality=95)
    return encoded.getvalue()


def coloured() -> bytes:
    """A PNG that says it is linear, which the service does not look at."""
    encoded, chunks = io.BytesIO(), PngInfo()
    chunks.add(b"gAMA", (100_000).to_bytes(4, "big"))
    with Image.open(io.BytesIO(CAT)) as image:
        image.save(encoded, "PNG", pnginfo=chunks)
    return encoded.getvalue()


def in_prophoto() -> bytes:
    """Colours that look dull where nobody looks at their profile."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as image:
        image.save(encoded, "JPEG", icc_profile=rgb(PROPHOTO, gamma(1.8)), quality=95)
    return encoded.getvalue()


SUFFIXES = {seen_through: "png", coloured: "png", turned_png: "png", turned_webp: "webp"}
SUFFIXES[turned_avif] = "avif"


@pytest.mark.parametrize(
    "make",
    [
        *(upright, turned, turned_webp, turned_late, turned_png, turned_avif),
        *(seen_through, coloured, in_prophoto),
    ],
)
def test_the_ten_views_are_drawn_as_they_were_cut(page: "Page", live: Live, make: Any) -> None:
    """Pixel for pixel what the service cuts, to within how browsers scale; mirrored ones are."""
    data = make()
    choose(page, (f"given.{SUFFIXES.get(make, 'jpg')}", data))
    shows(page, "given")

    square = decode(data, DecodeLimits(max_pixels=10**7, max_aspect_ratio=32)).astype(int)
    cut = answer(live, data, details="views")["views"]
    assert len(cut) == 10
    for number, view in enumerate(cut):
        left, top, side = view["box"]["left"], view["box"]["top"], view["box"]["side"]
        expected = square[top : top + side, left : left + side]
        if view["mirrored"]:
            expected = expected[:, ::-1]
        seen = drawn(page, f"[data-view='{number}'] canvas").astype(int)
        assert np.abs(seen - expected).mean() < 4
        assert np.abs(seen - expected[:, ::-1]).mean() > 8  # else this test would see nothing


def test_each_view_tells_its_own_best_class(page: "Page", live: Live) -> None:
    """And which of them differ from the answer of all."""
    page.get_by_role("button", name="Rocket").click()
    shows(page, "Rocket")

    data = live.client.get("/static/samples/rocket.jpg").content
    found = answer(live, data, details="views")
    mine = sum(
        view["classes"][0]["index"] == found["classes"][0]["index"] for view in found["views"]
    )
    assert 0 < mine < 10
    expect(page.locator(".dissent")).to_have_count(10 - mine)
    assert mine == 7
    mean = f"{100 * found['classes'][0]['probability']:.1f}"
    assert float(mean) < 33
    expect(page.locator("#best")).to_have_text("Not sure")
    guesses = [first(one) for one in found["classes"][:3]]
    expect(page.locator("#sentence")).to_have_text(
        f"Best guesses: {guesses[0]}, {guesses[1]} or {guesses[2]}. 7 of 10 crops predict obelisk, "
        f"2 mosque, 1 pole. Average: {mean}%."
    )
    for number, view in enumerate(found["views"]):
        card = page.locator(f"[data-view='{number}']")
        expect(card).to_contain_text(first(view["classes"][0]))
        expect(card).to_contain_text(f"{100 * view['classes'][0]['probability']:.1f}")


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        ("aaaaa", "All 5 crops predict a. Average: 43.6%."),
        ("aaabc", "3 of 5 crops predict a, 1 b, 1 c. Average: 43.6%."),
        ("abbbc", "3 of 5 crops predict b, 1 a, 1 c. On average a is ahead: 43.6%."),
        ("bbbcc", "3 of 5 crops predict b, 2 c. On average a is ahead: 43.6%."),
        ("b", "The centre crop alone: a, 43.6%."),
    ],
)
def test_what_the_crops_predict_is_said_in_words(page: "Page", votes: str, words: str) -> None:
    """Also where the average is ahead in few of them, or in none."""
    best = {name: {"index": ord(name), "label": name, "probability": 0.4356} for name in "abc"}
    found = {"classes": [best["a"]], "views": [{"classes": [best[vote]]} for vote in votes]}

    said = page.evaluate(
        "async (found) => (await import(new URL('static/words.js', document.baseURI).href))"
        ".agreement(found)",
        found,
    )

    assert said == words


def test_a_view_that_is_pointed_at_shows_its_box_and_its_own_classes(
    page: "Page", live: Live
) -> None:
    """As long as it is; then the answer of all is back."""
    view = answer(live, CAT, details="views")["views"][3]

    page.locator("[data-view='3']").hover()

    expect(page.locator("#whose")).to_contain_text("bottom right")
    assert [bar["label"] for bar in bars(page)] == [first(one) for one in view["classes"]]
    frame, box = page.locator("#crop").bounding_box(), page.locator("#box").bounding_box()
    assert frame
    assert box
    scale = frame["width"] / 256
    assert box["x"] - frame["x"] == pytest.approx(view["box"]["left"] * scale, abs=2)
    assert box["y"] - frame["y"] == pytest.approx(view["box"]["top"] * scale, abs=2)
    assert box["width"] == pytest.approx(view["box"]["side"] * scale, abs=2)

    page.locator("h1").hover()

    shows(page, "Ten crops")
    expect(page.locator("#box")).to_be_hidden()


def test_a_view_is_chosen_by_keyboard_and_stays(page: "Page") -> None:
    """The arrow keys go from all of them to the first view, and on; Escape goes back."""
    page.get_by_role("radio", name="Average").press("ArrowRight")
    page.keyboard.press("ArrowRight")

    expect(page.get_by_role("radio", name="Top right:")).to_be_checked()
    expect(page.locator("#whose")).to_contain_text("top right")
    expect(page.locator("#box")).to_be_visible()

    page.keyboard.press("Escape")

    expect(page.get_by_role("radio", name="Average")).to_be_focused()
    expect(page.get_by_role("radio", name="Average")).to_be_checked()
    shows(page, "Ten crops")
    expect(page.locator("#box")).to_be_hidden()


def test_the_dots_on_a_bar_are_the_views_own_shares(page: "Page", live: Live) -> None:
    """Their mean is the bar, which is what averaging does."""
    found = answer(live, CAT, details="views")
    best = found["classes"][0]

    dots = page.locator("#classes li").first.locator(".dots i")

    shares = [float(dot.evaluate("dot => parseFloat(dot.style.left)")) for dot in dots.all()]
    assert len(shares) == 10
    assert np.mean(shares) == pytest.approx(100 * best["probability"], abs=0.1)


def test_one_crop_has_one_view(page: "Page") -> None:
    """The centre's."""
    unfold(page)
    page.locator("[data-crops=one]").click()

    shows(page, "One crop")
    expect(page.locator("[data-view]:visible")).to_have_count(1)
    expect(page.locator("[data-view='4']")).to_be_visible()


def test_the_evidence_is_drawn_for_the_class_that_is_selected(page: "Page", live: Live) -> None:
    """The lighter, the more hiding changes; another class, another map; and in words."""
    maps = answer(live, CAT, details="heatmap")["heatmap"]["classes"]
    plain = drawn(page, "#picture")
    grey = (decode(CAT, DecodeLimits(max_pixels=10**7, max_aspect_ratio=32)) @ GREY)[
        ..., np.newaxis
    ]

    page.get_by_role("switch").click()

    expect(page.locator("#heat")).to_be_visible()
    most = max(np.abs(one["values"]).max(initial=1e-4) for one in maps)
    for place in (0, 1):
        page.locator("#classes li").nth(place).click()
        values = np.asarray(maps[place]["values"])
        expect(page.locator("#heathigh")).to_have_text(points(most))  # one scale
        shade = (drawn(page, "#heat") - 0.3 * grey)[16::32, 16::32] / 0.7  # in the cells' middles
        change = np.corrcoef((shade @ GREY).ravel(), np.abs(values).ravel())[0, 1]
        assert change > 0.95
        strong = np.abs(values) > np.abs(values).max() / 4
        assert ((shade[..., 0] > shade[..., 2]) == (values > 0))[strong].all()  # warm or cold
        name = page.locator("#classes .label").nth(place).inner_text()
        expect(page.locator("#heatwords")).to_contain_text(name)
    expect(page.locator("#heatlegend")).to_contain_text("points of probability lost when hidden")
    expect(page.locator("#curl")).to_contain_text("heatmap")
    page.get_by_label("Opacity").fill("40")
    assert page.locator("#heat").evaluate("canvas => canvas.style.opacity") == "0.4"

    page.get_by_role("switch").click()

    expect(page.locator("#heat")).to_be_hidden()
    assert np.array_equal(drawn(page, "#picture"), plain)


def points(share: float) -> str:
    """As the legend writes them."""
    return f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ((1, 4), "upper middle"),
        ((4, 4), "centre"),
        ((7, 0), "lower left"),
        ((3, 7), "middle right"),
    ],
)
def test_where_the_evidence_lies_is_said_in_words(
    page: "Page", cell: tuple[int, int], words: str
) -> None:
    """A ninth of the picture has a name."""
    values = np.full((8, 8), -0.01)
    values[cell] = 0.5

    said = page.evaluate(
        "async (values) => (await import(new URL('static/heat.js', document.baseURI).href))"
        ".heatWords(values, 'lynx')",
        values.tolist(),
    )

    assert said == f"Most of the evidence for lynx lies in the {words}."


@pytest.mark.parametrize(("least", "told"), [(0, False), (-0.0001, False), (-0.2, True)])
def test_a_scale_tells_what_less_than_nothing_means(
    browser: "Browser", quick: Live, least: float, told: bool
) -> None:
    """Where it has such values, and only there."""
    with opened(browser, quick, size=DESK) as page:
        shows(page, "Cat")
        page.get_by_role("switch").click()
        expect(page.locator("#heat")).to_be_visible()

        page.evaluate(
            "async (values) => (await import(new URL('static/heat.js', document.baseURI).href))"
            ".drawScale(values)",
            [[least, 0.5]],
        )

        said = page.get_by_text("negative: more probable without it")
        expect(said).to_be_visible(visible=told)


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A network of three classes of one's own, without WordNet ids, accuracy or places of views."""
    labels = json.dumps([[None, "apple"], [None, "pear"], [None, "quince"]])
    return altered(OWN, tmp_path / "own.onnx", labels=labels, name="fruit", views=None)


def test_a_model_of_ones_own_looks_right(browser: "Browser", own_model: Path) -> None:
    """Its name, three bars without ids, no samples of ImageNet, and no word of an accuracy."""
    with serving(own_model) as live, opened(browser, live, size=DESK) as page:
        expect(page.locator("h1")).to_have_text("fruit")
        expect(page).to_have_title("fruit")
        expect(page.locator("#samples")).to_have_count(0)
        assert "sample" not in page.locator("body").inner_text().lower()
        assert 'alexnet_images_total{code="200"' not in live.client.get("/metrics").text
        choose(page, ("cat.jpg", CAT))
        shows(page, "cat.jpg")

        expect(page.locator("#classes li")).to_have_count(3)
        assert {bar["wordnet"] for bar in bars(page)} == {""}
        assert {bar["label"] for bar in bars(page)} == {"apple", "pear", "quince"}
        expect(page.locator("[data-view]")).to_have_count(10)
        expect(page.locator("[data-view] canvas:visible")).to_have_count(0)
        page.locator("[data-view='3']").hover()
        expect(page.locator("#whose")).to_contain_text("bottom right")
        expect(page.locator("#box")).to_be_hidden()
        expect(page.locator("#model")).to_contain_text("records no accuracy")
        page.get_by_text("List of 3 classes").click()
        expect(page.locator("#labellist li")).to_have_text(["apple", "pear", "quince"])
        assert "None" not in page.locator("body").inner_text()


def panorama() -> bytes:
    """Eight times as wide as high, the cat in its middle."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as image:
        wide = Image.new("RGB", (2400, 300), "white")
        wide.paste(image.resize((300, 300)), (1050, 0))
        wide.save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def test_the_whole_picture_is_shown_with_its_crop_outlined(page: "Page") -> None:
    """Of a panorama seven eighths are never seen by the network, and the page says so."""
    choose(page, ("wide.jpg", panorama()))
    shows(page, "wide.jpg")

    whole, crop = (page.locator(part).bounding_box() for part in ("#picture", "#crop"))
    assert whole
    assert crop
    assert whole["width"] / whole["height"] == pytest.approx(8, rel=0.03)
    assert crop["width"] == pytest.approx(whole["width"] / 8, abs=1)
    assert crop["x"] - whole["x"] == pytest.approx(whole["width"] * 7 / 16, abs=1)
    expect(page.locator("#crop")).to_have_class(re.compile("outlined"))
    expect(page.locator("#cropnote")).to_contain_text("outlined square: 13% of the picture")


def test_a_picture_that_the_browser_cannot_show_is_answered(page: "Page") -> None:
    """HEIC: the page says why there is no picture, and shows what the server says of it."""
    pillow_heif = pytest.importorskip("pillow_heif")
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as image:
        pillow_heif.from_pillow(image).save(encoded, quality=90)

    choose(page, ("photo.heic", encoded.getvalue()))
    shows(page, "photo.heic")

    expect(page.locator("#placeholder")).to_have_text(
        "Your browser cannot show this HEIC file. The server can: its answer is shown."
    )
    expect(page.locator("#classes li")).to_have_count(5)
    expect(page.locator("[data-view] b").first).not_to_be_empty()


def test_a_heatmap_can_be_cancelled_and_is_off_for_the_next_picture(
    browser: "Browser", quick: Live
) -> None:
    """It says that it is computed; a user who cancels it goes on without."""
    with opened(browser, quick, size=DESK) as page:
        shows(page, "Cat")
        held: list[Route] = []
        page.route("**/v1/predict?details=heatmap", lambda route: held.append(route))
        page.get_by_role("switch").click()
        expect(page.locator("#heattime")).to_contain_text("Computing heatmap: 0 s of about")

        page.get_by_role("button", name="Cancel").click()

        expect(page.get_by_role("switch")).not_to_be_checked()
        expect(page.locator("#heatwait")).to_be_hidden()
        expect(page.locator("#note")).to_be_empty()

        page.unroute("**/v1/predict?details=heatmap")
        page.get_by_role("switch").click()
        expect(page.locator("#heat")).to_be_visible()
        page.get_by_role("button", name="Panda").click()
        shows(page, "Panda")
        expect(page.get_by_role("switch")).not_to_be_checked()
        expect(page.locator("#heat")).to_be_hidden()
