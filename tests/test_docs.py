"""The documentation's site: it builds without a warning, is whole, and needs no network."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt  # what MyST reads with

from service.app import create_app
from service.inference.engine import Engine
from service.settings import Settings
from tests.support.servers import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Shown

pytestmark = pytest.mark.external

ROOT = Path(__file__).parents[1]
SCREEN = 800  # pixels, of a screen 1280 wide

# What scripts/docs does, and then whether anything of it took torch.
BUILD = """
import sys
from sphinx.cmd.build import main
status = main(sys.argv[1:])
sys.exit(status or ("torch came with it" if "torch" in sys.modules else 0))
"""
# About as a repository's front page is shown.
STYLE = """
<style>body { font: 16px/1.5 sans-serif; max-width: 950px; margin: 24px auto }
img { max-width: 100% } pre { padding: 16px; font-size: 13.6px; line-height: 1.45; overflow: auto }
td, th { padding: 6px 13px; border: 1px solid; text-align: left } table { border-spacing: 0 }
h2 { margin-top: 24px; padding-bottom: 5px }</style>
"""


@dataclass
class Page(HTMLParser):
    """What a page of the site refers to, and what can be referred to in it."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)  # of <a>
    parts: list[str] = field(default_factory=list)  # scripts, styles, fonts, images
    tags: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.ids |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and "href" in given):
            self.parts.append(given.get("src") or given["href"])
        if "style" in given:
            self.parts += _urls(given["style"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it was built into."""
    folder = tmp_path_factory.mktemp("documentation")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "-c", "docs"]
    built = subprocess.run(
        [sys.executable, "-c", BUILD, *options, "-d", folder / "read", ".", folder / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
    )
    assert (built.returncode, built.stdout) == (0, ""), built.stdout + built.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """All of its pages."""
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, with nothing to reach."""
    from tests.support.pages import launched

    with launched() as one:
        yield one


@pytest.fixture
def shown(browser: Browser) -> Iterator[Shown]:
    """A page of the browser's."""
    page = browser.new_page(viewport={"width": 1280, "height": SCREEN})
    page.set_default_timeout(1000 * PATIENCE)
    yield page
    page.close()


def test_every_page_is_built_and_is_in_the_contents(site: Path, pages: dict[Path, Page]) -> None:
    contents = {urlsplit(link).path for link in pages[site / "docs" / "index.html"].links}

    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}

    assert written
    assert {f"{name}.html" for name in written} <= contents
    assert {"../SECURITY.html", "../CONTRIBUTING.html", "../CHANGELOG.html"} <= contents
    assert all((site / "docs" / f"{name}.html").exists() for name in written)


def test_no_link_of_the_site_is_broken(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links + page.parts:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and anchor not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")

    assert not broken


def test_the_site_takes_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    parts = [(path, part) for path, page in pages.items() for part in page.parts]
    for style in site.rglob("*.css"):
        parts += [(style, url) for url in _urls(style.read_text("utf-8"))]

    foreign = [f"{path.relative_to(site)}: {part}" for path, part in parts if _foreign(part)]

    assert parts
    assert not foreign


def test_each_page_has_one_title(site: Path, pages: dict[Path, Page]) -> None:
    titles = {str(path.relative_to(site)): page.tags["h1"] for path, page in pages.items()}

    assert titles.pop("search.html") == 0  # the theme's, whose title is a script's
    assert set(titles.values()) == {1}, titles


def test_the_api_is_that_of_the_service(site: Path, tiny_model: Path) -> None:
    """Every path and parameter of the OpenAPI document, and the codes of refusals."""
    page = (site / "docs" / "api.html").read_text("utf-8")
    shown = html.unescape(re.sub(r"<[^>]+>", "", page)).replace(
        "\N{RIGHT SINGLE QUOTATION MARK}", "'"
    )

    described = create_app(Settings(), Engine.load(tiny_model, device="cpu")).openapi()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    assert set(re.findall(r"(?:GET|POST|PUT) /[\w/{}]*(?::\w+)?", shown)) == set(operations)
    for operation in operations.values():
        assert operation["summary"] in shown
        for each in operation.get("parameters", ()):
            assert each.get("description", each["name"]).replace("`", "") in shown
    assert all(code in shown for code in ("image_unreadable", "overloaded", "deadline_exceeded"))
    assert "ValidationError" not in shown


def test_notes_about_examples_are_not_shown(pages: dict[Path, Page]) -> None:
    noted = [path for path in (ROOT / "docs").glob("*.md") if "<!-- not run" in path.read_text()]

    assert noted
    assert not [path for path in pages if "&lt;!-- not run" in path.read_text("utf-8")]


def test_the_search_finds_a_page_without_a_network(site: Path, shown: Shown) -> None:
    asked: list[str] = []
    said: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))

    shown.goto((site / "search.html").as_uri() + "?q=TorchServe")
    shown.get_by_role("link", name="Moving from TorchServe").last.wait_for()

    assert not [url for url in asked if not url.startswith("file:")]
    assert not said


def test_no_page_is_wider_than_the_screen(
    site: Path, pages: dict[Path, Page], shown: Shown
) -> None:
    """Tables and code scroll by themselves, on a phone and on a desk."""
    wide = []
    for path in pages.keys() - {site / "index.html"}:  # which leads on to the first page at once
        shown.goto(path.as_uri())
        for width in (390, 1280):
            shown.set_viewport_size({"width": width, "height": SCREEN})
            if shown.evaluate("document.documentElement.scrollWidth") > width:
                wide.append((width, str(path.relative_to(site))))

    assert not wide


def test_the_readme_is_two_screens_at_most(shown: Shown, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    written = MarkdownIt("commonmark").enable("table").render(readme)
    file = tmp_path / "readme.html"
    file.write_text(f'<!doctype html><base href="{ROOT.as_uri()}/">{STYLE}{written}', "utf-8")

    shown.goto(file.as_uri())

    images = "Array.from(document.images).every(i => i.naturalWidth > 0) && document.images.length"
    assert shown.evaluate(images) == 1
    assert shown.evaluate("document.documentElement.scrollHeight") <= 2 * SCREEN


def _urls(style: str) -> list[str]:
    return [url for url in re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", style)
            for url in url if url]  # fmt: skip


def _foreign(part: str) -> bool:
    return bool(urlsplit(part).netloc) or urlsplit(part).scheme not in ("", "data")
