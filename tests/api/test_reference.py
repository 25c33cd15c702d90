"""The reference page: whole, true to the document, and in need of nothing from elsewhere."""

import json
import re
import shlex
from html import unescape
from html.parser import HTMLParser

import pytest

from certificates import a_pair
from forges import a_hook_with_a_delivery
from inprocess import InProcess
from orca_master.http.openapi import Document
from orca_master.http.reference import page

PATH = "/api/v1/reference"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Raises AssertionError for elements that are not closed where they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.headings: list[int] = []
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        told = dict(attrs)
        self.attributes |= told.keys()
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_it_tells_every_route_parameter_field_and_status(cluster: InProcess) -> None:
    text = (await cluster.call("GET", PATH, token=None)).text
    document = (await cluster.call("GET", "/api/v1/openapi.json")).json
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            start = text.index(f'<h3 id="{about["operationId"]}">')
            article = text[start : text.index("</article>", start)]
            assert f"<code>{method.upper()} {path}</code>" in article
            names = [f"<code>{parameter['name']}</code>" for parameter in about["parameters"]]
            assert [name for name in names if name not in article] == []
            assert [status for status in about["responses"] if status not in article] == []
    for name, schema in document["components"]["schemas"].items():
        start = text.index(f'<h3 id="type-{name}">')
        article = text[start : text.index("</article>", start)]
        fields = [f"<code>{field}</code>" for field in schema.get("properties", {})]
        assert [field for field in fields if field not in article] == []


async def test_it_is_well_formed_and_a_screen_reader_can_find_its_way(cluster: InProcess) -> None:
    found = Page((await cluster.call("GET", PATH)).text)
    assert len(found.ids) == len(set(found.ids))
    inside = [link.removeprefix("#") for link in found.links if link.startswith("#")]
    assert set(inside) <= set(found.ids)
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    steps = zip(found.headings, found.headings[1:], strict=False)
    assert all(below <= above + 1 for above, below in steps), "no level is left out"
    assert {"main", "nav", "header"} <= found.tags


async def test_it_loads_nothing_and_may_load_nothing(cluster: InProcess) -> None:
    answer = await cluster.call("GET", PATH, token=None)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    found = Page(answer.text)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not found.attributes & {"src", "style", "onclick", "onload", "srcset"}
    assert [link for link in found.links if not link.startswith("#")] == ["openapi.json"]
    assert "url(" not in answer.text
    assert "@import" not in answer.text


async def test_it_shows_nothing_of_the_cluster(cluster: InProcess) -> None:
    before = (await cluster.call("GET", PATH)).text
    await cluster.deploy({"name": "very-secret-name"})
    after = (await cluster.call("GET", PATH)).text
    assert after == before
    assert "very-secret-name" not in after


async def test_its_commands_do_what_they_say(cluster: InProcess) -> None:
    """Each is taken apart as a shell would, and what it would send is sent."""
    text = (await cluster.call("GET", PATH)).text
    commands = [unescape(each) for each in re.findall(r"<pre><code>(.*?)</code></pre>", text, re.S)]
    public = (await cluster.call("GET", "/api/v1/openapi.json")).json["paths"]
    hook = await a_hook_with_a_delivery(cluster)
    assert len(commands) == sum(len(methods) for methods in public.values())
    for command in commands:
        words = shlex.split(command)
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        path = next(word for word in words if word.startswith("$ORCA")).removeprefix("$ORCA")
        body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        if "-N" in words or body is None or path.endswith("enroll"):
            continue
        if path.endswith("/certificates/NAME"):
            body = a_pair()  # nobody's key is in a document
        if path.endswith(("/scale", "/certificates/NAME")):
            path = path.replace("NAME", "web")
        id = hook if "/webhooks/" in path else cluster.worker.name
        path = path.replace("/ID/", f"/{id}/").replace("/HOST", "/127.0.0.1:9")
        answer = await cluster.call(method, path, body)
        assert answer.status in (200, 201, 202), (command, answer.text)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '"quoted"'])
def test_what_the_document_says_is_text_not_html(text: str) -> None:
    operation = {
        "summary": text,
        "operationId": "get_x",
        "tags": ["x"],
        "security": [],
        "parameters": [
            {"name": text, "in": "query", "required": False, "schema": {"enum": [text]}}
        ],
        "responses": {"200": {"description": text}},
    }
    schemas = {"X": {"type": "object", "description": text, "properties": {text: {"const": text}}}}
    info = {"title": text, "version": "1", "description": text}
    made = page(Document("3.1.0", info, {"/x": {"get": operation}}, {"schemas": schemas}))
    found = Page(made)
    assert "script" not in found.tags
    assert text not in made
