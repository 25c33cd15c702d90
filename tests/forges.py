"""Deliveries in the recorded shape of each forge, and how each signs."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from inprocess import InProcess

SECRET = "a-secret-of-more-than-16"
SHA = "9f2c1d0e5b6a7f8091a2b3c4d5e6f708192a3b4c"
BEFORE = "1111111111111111111111111111111111111111"
NOBODY = "0" * 40


def body_of(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload).encode()


def github_push(
    *, ref: str = "refs/heads/main", after: str = SHA, before: str = BEFORE, **more: Any
) -> dict[str, Any]:
    files = more.pop("files", ["api/app.py"])
    message = more.pop("message", "Faster start\n\nbody")
    commit = {
        "id": after, "message": message, "timestamp": "2026-01-31T12:00:00+01:00",
        "url": f"https://github.example/shop/web/commit/{after}",
        "author": {"name": "Ada", "email": "ada@example.org", "username": "ada"},
        "added": [], "removed": [], "modified": files,
    }  # fmt: skip
    return {
        "ref": ref, "before": before, "after": after, "created": False, "deleted": after == NOBODY,
        "forced": False, "compare": "https://github.example/shop/web/compare/1...9",
        "repository": {"id": 1, "name": "web", "full_name": "shop/web", "private": True},
        "pusher": {"name": "ada", "email": "ada@example.org"},
        "commits": [] if after == NOBODY else [commit],
        "head_commit": None if after == NOBODY else commit,
    } | more  # fmt: skip


def gitlab_push(*, ref: str = "refs/heads/main", after: str = SHA) -> dict[str, Any]:
    commit = {
        "id": after, "message": "Faster start", "timestamp": "2026-01-31T12:00:00+01:00",
        "url": "https://gitlab.example/shop/web/-/commit/9f2c", "title": "Faster start",
        "author": {"name": "Ada", "email": "ada@example.org"},
        "added": [], "modified": ["api/app.py"], "removed": [],
    }  # fmt: skip
    is_tag = ref.startswith("refs/tags/")
    return {
        "object_kind": "tag_push" if is_tag else "push", "event_name": "push", "before": BEFORE,
        "after": after, "ref": ref, "checkout_sha": None if after == NOBODY else after,
        "user_name": "Ada", "project_id": 15,
        "project": {"id": 15, "name": "web", "path_with_namespace": "shop/web"},
        "commits": [commit], "total_commits_count": 1,
    }  # fmt: skip


def bitbucket_push(*, name: str = "main", kind: str = "branch") -> dict[str, Any]:
    target = {
        "type": "commit", "hash": SHA, "message": "Faster start", "date": "2026-01-31T12:00:00+01:00",
        "author": {"type": "author", "raw": "Ada <ada@example.org>"},
        "links": {"html": {"href": "https://bitbucket.example/shop/web/commits/9f2c"}},
    }  # fmt: skip
    return {
        "actor": {"display_name": "Ada"}, "repository": {"full_name": "shop/web", "name": "web"},
        "push": {"changes": [{
            "old": {"type": kind, "name": name, "target": {"hash": BEFORE}},
            "new": {"type": kind, "name": name, "target": target},
            "created": False, "closed": False, "forced": False,
        }]},
    }  # fmt: skip


def registry_push(*, repository: str = "shop/web", tag: str = "main") -> dict[str, Any]:
    digest = "sha256:" + "ab" * 32
    return {
        "events": [{
            "id": "320678d8", "timestamp": "2026-01-31T12:00:00Z", "action": "push",
            "target": {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "size": 708,
                "digest": digest, "repository": repository, "tag": tag,
            },
            "request": {"id": "6df24a34", "addr": "192.0.2.1", "method": "PUT"},
            "actor": {"name": "ci"}, "source": {"addr": "registry:5000"},
        }],
    }  # fmt: skip


def generic_push(*, branch: str = "main") -> dict[str, Any]:
    return {"repo": "shop/web", "branch": branch, "after": SHA, "message": "Faster start"}


PUSHES = {
    "github": github_push(),
    "gitea": github_push(),
    "gitlab": gitlab_push(),
    "bitbucket": bitbucket_push(),
    "registry": registry_push(),
    "generic": generic_push(),
}


def hex_of(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def standard(body: bytes, *, at: float, id: str = "msg_1", secret: str = SECRET) -> dict[str, str]:
    """Standard Webhooks."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{id}.{int(at)}.".encode() + body
    value = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": id, "webhook-timestamp": str(int(at)), "webhook-signature": f"v1,{value}"}


def signed(forge: str, body: bytes, *, at: float, secret: str = SECRET) -> dict[str, str]:
    """The headers of a right delivery."""
    plain = {"Content-Type": "application/json"}
    match forge:
        case "github":
            more = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "72d3162e"}
            return plain | more | {"X-Hub-Signature-256": f"sha256={hex_of(body, secret)}"}
        case "gitea":
            both = {"X-Hub-Signature-256": f"sha256={hex_of(body, secret)}"}
            more = {"X-Gitea-Event": "push", "X-GitHub-Event": "push", **both}
            return plain | more | {"X-Gitea-Signature": hex_of(body, secret)}
        case "gitlab":
            return plain | {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": secret}
        case "bitbucket":
            more = {"X-Event-Key": "repo:push"}
            return plain | more | {"X-Hub-Signature": f"sha256={hex_of(body, secret)}"}
        case "registry":
            kind = {"Content-Type": "application/vnd.docker.distribution.events.v1+json"}
            return kind | {"Authorization": f"Bearer {secret}"}
        case _:
            return plain | standard(body, at=at, secret=secret)


async def a_hook_with_a_delivery(cluster: InProcess) -> str:
    """The id of a webhook of a service `web`, with delivery 1."""
    await cluster.deploy({"name": "web"})
    given = {"repo": "shop/web", "service_name": "web", "image": "app:2", "secret": SECRET}
    made = await cluster.call("POST", "/api/v1/webhooks", given)
    body = body_of(github_push())
    headers = signed("github", body, at=0.0)
    answer = await cluster.call("POST", made.json["url"], token=None, data=body, headers=headers)
    assert answer.json["deliveries"][0]["delivery"] == 1
    return str(made.json["id"])
