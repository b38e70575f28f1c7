"""
The OpenAPI document -> Markdown, for the directive ``openapi``.

The document is that of an application built as ``alexnet serve`` builds it, while the site is
built, so no page can tell of an interface that is no longer there.
"""

import warnings
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from service.app import create_app
from service.inference.engine import Engine
from service.settings import BUNDLED, Settings

Json = dict[str, Any]

# FastAPI tells of errors in this shape for each route with a parameter; the service's own errors
# take their place.
OF_FASTAPI = "ValidationError"


class OpenApi(SphinxDirective):
    """All operations by tag, then the shapes of what they answer."""

    def run(self) -> list[nodes.Node]:
        markdown = "\n".join(render(document()))
        return self.parse_text_to_nodes(markdown, allow_section_headings=True)


def document() -> Json:
    """What ``/openapi.json`` answers with the default settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = Engine.load(BUNDLED, device="cpu")
        return create_app(Settings.model_construct(), engine).openapi()


def render(described: Json) -> Iterator[str]:
    """Markdown whose first heading is of level 2."""
    tags: dict[str, list[str]] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            lines = list(_operation(f"{method.upper()} {path}", operation))
            tags.setdefault(operation["tags"][0], []).extend(lines)
    for tag, lines in tags.items():
        yield from (f"## {tag[0].upper()}{tag[1:]}", "", *lines)
    yield from ("## Shapes", "")
    for name, schema in described["components"]["schemas"].items():
        if OF_FASTAPI not in name:
            yield from _shape(name, schema)


def _operation(title: str, operation: Json) -> Iterator[str]:
    yield from (f"### `{title}`", "", f"**{operation['summary']}.** {operation['description']}", "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | default | |", "|---|---|---|---|---|")
        for each in parameters:
            schema = each["schema"]
            default = f"`{schema['default']}`" if "default" in schema else "none"
            text = each.get("description", "")
            yield f"| `{each['name']}` | {each['in']} | {_type(schema)} | {default} | {text} |"
        yield ""
    if body := operation.get("requestBody"):
        types = ", ".join(f"`{name}`" for name in body["content"])
        yield from (f"Body: {types}. {body.get('description', '')}", "")
    yield from ("| status | answer |", "|---|---|")
    for status, response in operation["responses"].items():
        if OF_FASTAPI in str(response):
            continue
        yield f"| {status} {HTTPStatus(int(status)).phrase} | {_answer(response)} |"
    yield ""


def _answer(response: Json) -> str:
    """The media types with their shapes; of refusals, the codes."""
    content = response.get("content", {})
    parts = [
        f"`{media}`: {_type(body['schema'])}"
        for media, body in content.items()
        if "examples" not in body or "anyOf" in body["schema"]
    ]
    codes = {
        example["value"]["code"]: None
        for body in content.values()
        for example in body.get("examples", {}).values()
    }
    parts += [f"[`{code}`](errors.md)" for code in codes]
    parts += [f"with the header `{name}`" for name in response.get("headers", {})]
    return ", ".join(parts)


def _shape(name: str, schema: Json) -> Iterator[str]:
    yield from (f"### {name}", "", schema.get("description", ""), "")
    required = schema.get("required", ())
    yield from ("| field | type | |", "|---|---|---|")
    for field, inner in schema.get("properties", {}).items():
        text = inner.get("description", "")
        if field not in required:
            text = f"{text} May be missing.".strip()
        yield f"| `{field}` | {_type(inner)} | {text} |"
    yield ""


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    kind: str = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if {"minimum", "maximum"} <= schema.keys():
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    return "bytes" if schema.get("format") == "binary" else kind
