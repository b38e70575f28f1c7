"""
How Sphinx makes the site: ``scripts/docs``.

Sphinx's source folder is the whole repository, so that a link from a page to a file outside
``docs/`` is the same on the site, in an editor and where the repository is shown.
"""

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

project = "AlexNet service"
author = "The alexnet-service authors"
copyright = author
extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
# Folders that have none of these: Sphinx need not walk through an environment's packages.
exclude_patterns = [".*", "build", "dist", "tests", "client", "command_help", "service", "model_*"]

nitpicky = True
# JSON with an ellipsis in it is meant for people.
suppress_warnings = ["misc.highlighting_failure"]
myst_heading_anchors = 4  # the anchors that links name are those of the headings, as on GitHub

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False  # it would be empty: there are headings, and the search
# Summaries are fetched from the pages, which browsers refuse to a site that is read from the disk.
html_show_search_summary = False
html_show_sphinx = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Sphinx) -> None:
    """Adds the directive that shows the API, and what highlights Prometheus's queries."""
    from api_reference import OpenApi

    app.add_directive("openapi", OpenApi)
    app.add_lexer("promql", TextLexer)  # Pygments knows none
    app.add_lexer("csv", TextLexer)
    app.connect("build-finished", _index)


def _index(app: Sphinx, exception: Exception | None) -> None:
    """The site's own address leads to its first page."""
    if exception is None:
        page = f"{root_doc}.html"
        Path(app.outdir, "index.html").write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{project}</title>'
            f'<meta http-equiv="refresh" content="0; url={page}"></head>'
            f'<body><h1>{project}</h1><p><a href="{page}">Documentation</a></p></body></html>\n',
            "utf-8",
        )
