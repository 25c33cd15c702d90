"""A server that puts terminal escapes into everything it says: none of it reaches the terminal."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from orca.main import cli

EVIL = (
    "x\x1b[31mred\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil\x1b\\y\x1b]8;;\x1b\\"
    "\x9b1m\x9d0;t\x9c\x85\x08\r\x07\x00\u202e\u2066\u200f\x1bc\x7fz"
)
FORBIDDEN = set("\x1b\x07\x08\r\x00\x7f\x85\x9b\x9c\x9d\u202e\u2066\u200f")

TASK = {
    "replica": 1, "state": EVIL, "healthy": True, "node": EVIL, "address": EVIL, "revision": 1,
    "attempt": 0, "id": EVIL, "reason": EVIL + "\nfake row",
}  # fmt: skip
SERVICE = {
    "name": EVIL, "project": EVIL, "status": EVIL, "running_replicas": 1, "desired_replicas": 1,
    "image": EVIL, "command": [EVIL], "revision": 1, "reason": EVIL, "tasks": [TASK],
    "rollout": {"strategy": EVIL, "revision": 1, "state": EVIL, "ready": 1, "weight": 5},
}  # fmt: skip
MASTER = {
    "name": EVIL, "role": "leader", "connected": True, "behind": 0, "api": EVIL, "version": EVIL,
}  # fmt: skip
NODE = {
    "name": EVIL, "state": EVIL, "schedulable": False, "tasks": 2,
    "runtimes": [EVIL], "capacity": {"cpu": 1.0, "memory_bytes": 1},
    "address": EVIL, "version": EVIL, "reason": EVIL, "state_since": 1.0, "labels": {EVIL: EVIL},
    "drain": {"left": [{"service": EVIL, "replica": 1, "reason": EVIL}]},
}  # fmt: skip
TOKEN = {
    "name": EVIL, "role": EVIL, "project": EVIL, "created_at": 0.0, "expires_at": 1.0,
    "expired": True, "token": EVIL,
}  # fmt: skip
EVENT = {"at": 0.0, "actor": EVIL, "action": EVIL, "resource": EVIL, "details": {EVIL: EVIL}}
HAPPENED = {
    "id": EVIL, "at": 0.0, "kind": EVIL, "text": EVIL, "service": EVIL, "project": EVIL,
    "details": {EVIL: EVIL},
}  # fmt: skip
VERDICT = {
    "node": EVIL, "fits": False, "heard": False, "cost": 1.0, "replicas": 1, "spread": 0, "failures": 0,
    "affinity": 0.0, "share": 0.1, "reason": EVIL,
}  # fmt: skip
PLACED = {"replica": 1, "revision": 1, "node": None, "reason": EVIL}
DELIVERY = {
    "delivery": 1, "at": 0.0, "state": EVIL, "branch": EVIL, "tag": None, "commit": EVIL, "revision": 1,
    "message": EVIL + "\nfake row", "reason": EVIL,
}  # fmt: skip
HOOK = {
    "id": EVIL, "forge": EVIL, "repo": EVIL, "branch": EVIL, "tag": EVIL, "project": EVIL,
    "service_name": EVIL, "last_invocation": DELIVERY, "url": EVIL, "secret": EVIL,
}  # fmt: skip
PLANNED = {
    "service": EVIL, "action": EVIL, "revision": 1, "fields": [EVIL], "replicas_before": 1, "replicas": 2,
    "strategy": EVIL, "order": EVIL, "reason": EVIL, "blocked": EVIL, "waits": [EVIL],
}  # fmt: skip
DONE = {"ok": EVIL, "deployment": 1, "revision": 1}
REVISION = {
    "revision": 1, "current": True, "stable": True, "rejected": False, "made_at": 0.0, "by": EVIL,
    "message": EVIL, "spec": {"image": EVIL, EVIL: EVIL}, "image_digest": EVIL,
}  # fmt: skip
DEPLOYMENT = {
    "deployment": 1, "kind": EVIL, "revision": 2, "base": 1, "strategy": EVIL, "order": EVIL,
    "state": "paused", "reason": EVIL, "said": [{"at": 0.0, "text": EVIL}],
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "GET /api/v1/status": {"services": [SERVICE, SERVICE | {"name": "web"}]},
    "POST /api/v1/deploy": {
        "deployed": [EVIL], "errors": [EVIL], "plan": [PLANNED],
        "outcomes": [{"service": EVIL, "state": state, "reason": EVIL} for state in ("accepted", "paused")],
    },
    "POST /api/v1/services/web/promote": DONE,
    "POST /api/v1/services/web/rollback": DONE,
    "POST /api/v1/services/web/pause": DONE,
    "POST /api/v1/services/web/resume": DONE,
    "POST /api/v1/services/web/restart": DONE,
    "POST /api/v1/services/web/start": {"ok": EVIL},
    "GET /api/v1/services/web/revisions": {"revisions": [REVISION, REVISION | {"revision": 2, "spec": {}}]},
    "GET /api/v1/services/web/deployments": {"deployments": [DEPLOYMENT]},
    "POST /api/v1/services/web/scale": {"service": EVIL, "replicas": 2},
    "DELETE /api/v1/services/web": {"ok": EVIL},
    "POST /api/v1/stop": {"ok": EVIL, "stopped": [EVIL]},
    "GET /api/v1/cluster/info": {
        "cluster_name": EVIL, "leader": {"name": EVIL}, "nodes": [NODE], "masters": [MASTER],
    },
    "GET /api/v1/services/web/placement": {"replicas": [PLACED], "nodes": [VERDICT], "waits": [EVIL]},
    "POST /api/v1/cluster/nodes/n/drain": {"status": EVIL, "node": NODE},
    "PUT /api/v1/cluster/nodes/n/labels": NODE,
    "DELETE /api/v1/cluster/nodes/n": {"ok": EVIL},
    "POST /api/v1/cluster/evictions/resume": {"evicted": [EVIL]},
    "POST /api/v1/cluster/join-tokens": {"token": EVIL},
    "GET /api/v1/cluster/masters": {
        "masters": [MASTER, MASTER | {"role": EVIL, "connected": False}],
        "term": 1, "voters": 2, "tolerates": 0,
    },
    "DELETE /api/v1/cluster/masters/m": {"ok": EVIL},
    "POST /api/v1/cluster/masters/transfer": {"leader": EVIL},
    "GET /api/v1/registries": {
        "registries": [{"host": EVIL, "project": EVIL, "username": EVIL, "made_at": 0.0, "by": EVIL}],
    },
    "PUT /api/v1/registries/r.io": {
        "host": EVIL, "project": EVIL, "username": EVIL, "changed": True, "checked": False, "reason": EVIL,
    },
    "DELETE /api/v1/registries/r.io": {"ok": EVIL},
    "GET /api/v1/webhooks": {"webhooks": [HOOK, HOOK | {"last_invocation": None}]},
    "POST /api/v1/webhooks": HOOK,
    "DELETE /api/v1/webhooks/h": {"status": EVIL, "count": 1},
    "POST /api/v1/webhooks/h/test": {"ok": EVIL, "image": EVIL},
    "POST /api/v1/webhooks/h/rotate": HOOK,
    "GET /api/v1/webhooks/h/deliveries": {"deliveries": [DELIVERY]},
    "POST /api/v1/webhooks/h/redeliver": DELIVERY,
    "GET /api/v1/tokens": {"tokens": [TOKEN]},
    "POST /api/v1/tokens": TOKEN,
    "DELETE /api/v1/tokens/t": {"ok": EVIL},
    "GET /api/v1/audit": {"events": [EVENT], "next": None},
}  # fmt: skip
LOG = f"web/1 | {EVIL}\n{EVIL}\n".encode() + b"\xff\xfe\n"

STRUCTURED = [
    ["status"], ["deploy", "FILE"], ["scale", "web", "2"], ["stop", "--all"], ["nodes"],
    ["masters", "list"], ["masters", "status"], ["tokens", "list"],
    ["tokens", "create", "t", "--role", "viewer"], ["audit"], ["events"], ["version"], ["rm", "web"],
    ["context", "list"], ["status", "web", "--explain"], ["history", "web"],
    ["deployments", "web"], ["diff", "web", "1", "2"], ["promote", "web", "--no-wait"],
    ["rollback", "web", "--no-wait"], ["pause", "web"], ["start", "web"], ["plan", "FILE"],
    ["webhooks", "list"], ["webhooks", "add", "--repo", "a/b", "--service", "web"],
    ["webhooks", "remove", "h"], ["webhooks", "test", "h"], ["webhooks", "rotate", "h"],
    ["webhooks", "deliveries", "h"], ["webhooks", "redeliver", "h", "1"],
    ["registry", "list"], ["registry", "logout", "r.io"],
    ["registry", "login", "r.io", "-u", "me", "--password-stdin"],
]  # fmt: skip
PLAIN = [
    ["status", "web"], ["logs", "web"], ["logs", "web", "--raw"], ["nodes", "token"],
    ["masters", "token"], ["masters", "remove", "m"], ["masters", "transfer"],
    ["tokens", "revoke", "t"], ["nodes", "drain", "n"], ["nodes", "label", "n", "a=b"],
    ["nodes", "rm", "n"], ["nodes", "evict", "--confirm"], ["resume", "web", "--no-wait"],
    ["restart", "web", "--no-wait"],
]  # fmt: skip


class Hostile:
    """With `fails` set, every answer is a refusal with this status."""

    def __init__(self) -> None:
        self.fails = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.fails:
            problems = [{"field": EVIL, "message": EVIL}] if self.fails == 400 else []
            body = {"error": EVIL, "code": EVIL, "problems": problems}
            return web.json_response(body, status=self.fails)
        if request.path.endswith("/logs"):
            return web.Response(body=LOG, content_type="text/plain")
        if request.path == "/api/v1/events":
            body = f"data: {json.dumps(HAPPENED)}\n\n".encode()
            return web.Response(body=body, content_type="text/event-stream")
        return web.json_response(ANSWERS[f"{request.method} {request.path}"])


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    made, app = Hostile(), web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/"))
        yield made


async def orca(server: Hostile, folder: Path, words: list[str]) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)"""
    file = folder / "service.json"
    file.write_text('{"name": "web", "image": "app:1"}')
    given = [str(file) if word == "FILE" else word for word in words]
    environment = {name: None for name in os.environ if name.startswith("ORCA_")}
    runner = CliRunner(env={**environment, "HOME": str(folder), "XDG_CONFIG_HOME": None})
    done = await asyncio.to_thread(
        runner.invoke,
        cli,
        ["--api", server.url, *given],
        input="what is asked for",
        prog_name="orca",
        catch_exceptions=False,
    )
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("words", [*STRUCTURED, *PLAIN], ids=lambda words: "-".join(words)[:30])
async def test_in_27_nothing_raw_is_printed_whatever_the_server_says(
    hostile: Hostile, tmp_path: Path, words: list[str]
) -> None:
    code, out, err = await orca(hostile, tmp_path, words)
    assert "Traceback" not in err
    if "--raw" in words:
        assert out.count("\x1b[31m") == 2
        out = out.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert not set(out + err) & FORBIDDEN
    assert code == (1 if words[0] in ("deploy", "plan") else 0)
    assert "fake row" not in [line.strip() for line in out.splitlines()]


@pytest.mark.parametrize("words", STRUCTURED, ids=lambda words: "-".join(words)[:30])
async def test_json_and_yaml_are_the_same_and_hide_nothing(
    hostile: Hostile, tmp_path: Path, words: list[str]
) -> None:
    _, as_json, _ = await orca(hostile, tmp_path, [*words, "-o", "json"])
    _, as_yaml, _ = await orca(hostile, tmp_path, [*words, "-o", "yaml"])
    assert not set(as_json + as_yaml) & FORBIDDEN
    assert json.loads(as_json) == yaml.safe_load(as_yaml)
    if words[0] not in ("rm", "context", "start"):
        assert EVIL in _texts(json.loads(as_json))


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for k, v in value.items() for text in [k, *_texts(v)]]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(("status", "expected"), [(400, 1), (404, 1), (500, 1), (401, 4), (403, 4)])
@pytest.mark.parametrize(
    "words", [["status"], ["deploy", "FILE"], ["logs", "web"], ["logs", "web", "-f"], ["tokens"]],
    ids=lambda words: "-".join(words),
)  # fmt: skip
async def test_in_27_errors_are_harmless_and_have_their_code(
    hostile: Hostile, tmp_path: Path, words: list[str], status: int, expected: int
) -> None:
    hostile.fails = status
    code, out, err = await orca(hostile, tmp_path, words)
    assert not set(out + err) & FORBIDDEN
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert code == expected
