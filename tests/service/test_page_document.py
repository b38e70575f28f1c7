"""The page as it is served: what it is made of, and what it says of the model."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from service.http.routes.page import STATIC, UNSURE, links
from service.inference import model_file
from service.inference.formats import SUFFIXES
from tests.support.models import altered
from tests.support.servers import Live, serving

KINDS = {".css": "text/css", ".js": "text/javascript", ".jpg": "image/jpeg"}
ADDRESS = re.compile(r"""(?:src|href)="([^"]*)"|\bfrom "([^"]*)\"""")


@pytest.fixture(scope="module")
def live(bundled_model: Path) -> Iterator[Live]:
    """A server with the bundled model."""
    with serving(bundled_model) as server:
        yield server


def reached(live: Live) -> set[str]:
    """Every path that the page and what it is made of refer to."""
    found, left = set[str](), ["/"]
    while left:
        path = left.pop()
        text = live.client.get(path).text if not path.endswith(".jpg") else ""
        if path != "/" and not path.startswith("/static/"):
            continue
        for address in (one or other for one, other in ADDRESS.findall(text)):
            if address.startswith(("#", "data:")):
                continue
            assert not address.startswith("/"), f"{path} refers to {address}: not relative"
            if address in links().values():
                continue
            assert "://" not in address, f"{path} refers to {address}: not ours"
            if (next_one := urljoin(path, address)) not in found:
                found.add(next_one)
                left.append(next_one)
    return found


def test_the_file_dialog_offers_every_format_that_is_read(live: Live) -> None:
    """Also those that a system does not know for images."""
    offered = re.findall(r'accept="image/\*,([^"]*)"', live.client.get("/").text)

    assert [one.split(",") for one in offered] == [list(SUFFIXES)]


def test_the_page_is_made_of_its_own_parts_of_the_right_types(live: Live) -> None:
    """Each by a relative address, with its type, under the policy; nothing lies about unused."""
    parts = {path for path in reached(live) if path.startswith("/static/")}

    lying = {f"/static/{path.relative_to(STATIC)}" for path in STATIC.rglob("*.*")}
    assert parts == {path for path in lying if Path(path).suffix in KINDS}
    for path in parts:
        reply = live.client.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(KINDS[Path(path).suffix])
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert live.client.head(path).content == b""


@pytest.mark.parametrize(
    "name", ["index.html", "samples/README.md", "../app.py", "%2e%2e/app.py", "nothing.js"]
)
def test_nothing_else_is_served(live: Live, name: str) -> None:
    """Neither the template nor what lies beside it."""
    assert live.client.get(f"/static/{name}").status_code == 404


def test_the_samples_are_small_and_say_whose_they_are(live: Live) -> None:
    """Under 300 kB, each with its author and licence beside it and its author on the page."""
    samples = sorted((STATIC / "samples").glob("*.jpg"))
    record = (STATIC / "samples" / "README.md").read_text()
    page = live.client.get("/").text

    assert len(samples) == 6
    assert sum(sample.stat().st_size for sample in samples) < 300_000
    for sample in samples:
        assert f"`{sample.name}`" in record
        assert f'data-file="{sample.name}"' in page
    for author in ("Stéfan van der Walt", "Rachel Michetti", "SpaceX", "Caltech 101"):
        assert author in record
        assert author in page


def test_the_model_card_tells_what_the_file_records(live: Live, bundled_model: Path) -> None:
    """Name, version, licence, and each accuracy with its interval and on what it was measured."""
    page = live.client.get("/").text
    health = live.client.get("/health").json()["model"]

    assert health["version"] in page
    assert "on the CPU" in page
    assert "ExecutionProvider" not in page
    for entry in health["accuracy"]:
        assert f"{100 * entry['top1']:.1f}%" in page
        low, high = entry["top1_interval"]
        assert f"{100 * low:.1f} to {100 * high:.1f}" in page
        assert entry["data"] in page
    assert model_file.checksum(bundled_model)[:12] in page


def test_without_scripts_the_page_says_what_to_do(live: Live) -> None:
    """That it needs JavaScript, and how to ask without it."""
    words = live.client.get("/").text.partition("<noscript>")[2].partition("</noscript>")[0]

    assert "needs JavaScript" in words
    assert "curl --data-binary @picture.jpg" in words


def test_the_level_of_doubt_is_the_measured_one(live: Live) -> None:
    """A third, which the page gives its scripts, and explains."""
    page = live.client.get("/").text

    assert f'data-unsure="{UNSURE}"' in page
    assert "Below 33% the page says “Not sure”" in page
    assert pytest.approx(1 / 3) == UNSURE


def test_what_a_file_says_cannot_become_markup(tiny_model: Path, tmp_path: Path) -> None:
    """Names come out of a file that somebody else may have written."""
    bold = altered(tiny_model, tmp_path / "bold.onnx", name="<b>bold</b>")

    with serving(bold) as live:
        page = live.client.get("/").text

    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


@pytest.mark.parametrize(("where", "linked"), [("main", True), ("off", False)])
def test_the_interface_is_linked_where_it_is(tiny_model: Path, where: str, linked: bool) -> None:
    """No link to what is on another port, or nowhere."""
    with serving(tiny_model, docs=where) as live:
        assert ('href="docs"' in live.client.get("/").text) is linked


METADATA = """\
Metadata-Version: 2.4
Name: alexnet-service
Version: 0.1.0
"""
ADDRESSES = """\
Project-URL: Changelog, https://example.org/changes
Project-URL: Source, https://example.org/alexnet
Project-URL: Documentation, https://example.org/docs/?a=1&b=2
"""


@pytest.mark.parametrize(
    ("addresses", "linked"),
    [
        ("", []),
        (
            ADDRESSES,
            [
                ("https://example.org/docs/?a=1&amp;b=2", "Documentation"),
                ("https://example.org/alexnet", "Source code"),
            ],
        ),
    ],
)
def test_documentation_and_source_are_linked_where_the_distribution_names_them(
    live: Live,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    addresses: str,
    linked: list[tuple[str, str]],
) -> None:
    """By `[project.urls]`, as it is installed; there is no place to guess."""
    installed = tmp_path / "alexnet_service-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(METADATA + addresses)
    monkeypatch.syspath_prepend(tmp_path)

    footer = live.client.get("/").text.partition("<footer>")[2]

    assert re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', footer) == linked
