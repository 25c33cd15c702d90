"""The OpenAPI document as one page for people: no script, no font and no picture from anywhere.

Pure: a document in, HTML out. Everything that stands in the document is escaped here.
"""

import json
import re
import shlex
from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import Any

from orca_master.http.openapi import Document

Schema = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --fore: #1c2430; --back: #ffffff; --soft: #f2f4f7; --line: #d5dae1;
  --faint: #56606e; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --fore: #dde3ea; --back: #14181d; --soft: #1f252c;
  --line: #37414c; --faint: #a3aebb; --link: #8ec1f8; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 1rem; max-width: 56rem; color: var(--fore); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.75rem; } h2 { font-size: 1.4rem; margin-top: 3rem; }
h3 { font-size: 1.1rem; margin: 0 0 .5rem; } h4 { font-size: 1rem; margin: 1rem 0 .25rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { padding: .75rem; overflow-x: auto; background: var(--soft); border-radius: .3rem; }
article { padding: 1.25rem 0; border-top: 1px solid var(--line); }
dl { margin: 0; } dt { margin-top: .4rem; } dd { margin: 0 0 0 1.25rem; color: var(--faint); }
nav ul { padding-left: 1.25rem; } nav li { padding: .15rem 0; }
summary { margin-top: 1rem; cursor: pointer; font-weight: bold; }
.kind { color: var(--faint); }
"""


def page(document: Document) -> str:
    """The whole page."""
    operations = _by_tag(document)
    title = f"{document.info['title']} API {document.info['version']}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<header><h1>{escape(title)}</h1>{_introduction(document)}</header>",
            f'<nav aria-label="Contents">{_contents(operations)}</nav><main>',
            *(_section(tag, each) for tag, each in operations),
            '<section><h2 id="types">Types</h2>',
            *(_type(name, each) for name, each in sorted(document.components["schemas"].items())),
            "</section></main></body></html>\n",
        ]
    )


Operation = tuple[str, str, dict[str, Any]]
"""Method, path, and what the document says of it."""


def _by_tag(document: Document) -> list[tuple[str, list[Operation]]]:
    found: list[Operation] = [
        (method.upper(), path, about)
        for path, methods in document.paths.items()
        for method, about in methods.items()
    ]
    found.sort(key=lambda each: (each[2]["tags"][0], each[1], each[0]))
    return [(tag, list(each)) for tag, each in groupby(found, key=lambda each: each[2]["tags"][0])]


def _introduction(document: Document) -> str:
    return (
        f"<p>{_prose(document.info['description'])} The same for programs:"
        ' <a href="openapi.json">openapi.json</a>.</p>'
        "<p>In the examples <code>$ORCA</code> is the address of a master, such as"
        " <code>http://127.0.0.1:6880</code>, and <code>$TOKEN</code> a token. Words in capitals in a"
        " path stand for a name.</p>"
    )


def _contents(operations: list[tuple[str, list[Operation]]]) -> str:
    parts = ["<h2>Contents</h2>"]
    for tag, each in operations:
        parts.append(f'<h3><a href="#{escape(tag)}">{escape(tag.capitalize())}</a></h3><ul>')
        parts += [
            f'<li><a href="#{about["operationId"]}"><code>{method} {escape(path)}</code></a>'
            f" {_prose(about['summary'])}</li>"
            for method, path, about in each
        ]
        parts.append("</ul>")
    parts.append('<h3><a href="#types">Types</a></h3>')
    return "\n".join(parts)


def _section(tag: str, operations: list[Operation]) -> str:
    shown = "\n".join(_operation(*each) for each in operations)
    return f'<section><h2 id="{escape(tag)}">{escape(tag.capitalize())}</h2>\n{shown}</section>'


def _operation(method: str, path: str, about: dict[str, Any]) -> str:
    who = about.get("description", "Needs no token.")
    parts = [
        f'<article><h3 id="{about["operationId"]}"><code>{method} {escape(path)}</code></h3>',
        f"<p>{_prose(about['summary'])}. {_prose(who)}</p>",
    ]
    if about["parameters"]:
        parts += ["<h4>Parameters</h4><dl>", *map(_parameter, about["parameters"]), "</dl>"]
    if "requestBody" in about:
        schema = about["requestBody"]["content"]["application/json"]["schema"]
        parts.append(f"<h4>Body</h4><p>{_kind(schema)}</p>")
    parts.append(f"<h4>Example</h4><pre><code>{escape(_curl(method, path, about))}</code></pre>")
    done = {status: each for status, each in about["responses"].items() if status < "300"}
    wrong = {status: each for status, each in about["responses"].items() if status >= "300"}
    parts += ["<h4>Answers</h4><dl>", *_responses(done), "</dl>"]
    parts += [f"<details><summary>Errors: {', '.join(wrong)}</summary><dl>", *_responses(wrong)]
    return "\n".join([*parts, "</dl></details></article>"])


def _parameter(parameter: dict[str, Any]) -> str:
    place = "" if parameter["in"] == "query" else f" in the {parameter['in']}"
    return _entry(
        parameter["name"],
        parameter["schema"],
        is_required=parameter["required"],
        told=parameter.get("description", ""),
        place=place,
    )


def _entry(name: str, schema: Schema, *, is_required: bool, told: str, place: str = "") -> str:
    words = [_kind(schema) + escape(place)]
    if is_required:
        words.append("required")
    elif schema.get("default") not in (None, "", {}, []):
        words.append(f"default <code>{escape(json.dumps(schema['default']))}</code>")
    shown = f'<dt><code>{escape(name)}</code> <span class="kind">{", ".join(words)}</span></dt>'
    return f"{shown}<dd>{_prose(told)}</dd>" if told else shown


def _responses(responses: dict[str, Any]) -> Iterator[str]:
    for status, about in responses.items():
        kinds = [
            f"<code>{escape(media)}</code> {_kind(each['schema'])}"
            for media, each in about.get("content", {}).items()
        ]
        shown = f'<span class="kind">{"; ".join(kinds)}</span>'
        others = [name for name in about.get("headers", {}) if name != "X-Request-Id"]
        told = _prose(about["description"])
        if others:
            told += " Headers: " + ", ".join(f"<code>{escape(name)}</code>" for name in others)
        yield f"<dt><strong>{status}</strong> {shown}</dt><dd>{told}</dd>"


def _type(name: str, schema: Schema) -> str:
    required = schema.get("required", [])
    fields = [
        _entry(field, each, is_required=field in required, told=each.get("description", ""))
        for field, each in schema.get("properties", {}).items()
    ]
    told = f"<p>{_prose(schema['description'])}</p>" if "description" in schema else ""
    shown = f"<dl>{''.join(fields)}</dl>" if fields else f"<p>{_kind(schema)}</p>"
    return f'<article><h3 id="type-{escape(name)}">{escape(name)}</h3>{told}{shown}</article>'


def _kind(schema: Schema) -> str:
    """What a value is, in words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type-{name}">{name}</a>'
    if "contentSchema" in schema:
        return f"each one {_kind(schema['contentSchema'])}"
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    if isinstance(kind, list):
        kind = " or ".join(kind)
    return escape(kind + _limits(schema))


def _limits(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    if low is not None:
        return f" from {low:,}"
    return f" up to {high:,}" if high is not None else ""


def _curl(method: str, path: str, about: dict[str, Any]) -> str:
    where = re.sub(r"\{(\w+)\}", lambda part: part[1].upper(), path)
    words = ["curl", *(["-N"] if "101" in about["responses"] else [])]
    if method != "GET":
        words += ["-X", method]
    lines = [" ".join([*words, f'"$ORCA{where}"'])]
    if about["security"]:
        lines.append('  -H "Authorization: Bearer $TOKEN"')
    if "requestBody" in about:
        content = about["requestBody"]["content"]["application/json"]
        lines.append('  -H "Content-Type: application/json"')
        lines += [
            f"  -d {shlex.quote(json.dumps(example['value'], indent=2))}"
            for example in content.get("examples", {}).values()
        ]
    return " \\\n".join(lines)


def _prose(text: str) -> str:
    """Text with `code` in it, and paragraphs, as HTML."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return "<br>".join(part.replace("\n", " ") for part in marked.split("\n\n"))
