"""What a delivery says, read from each forge's own words. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from orca_master.errors import Malformed, Problem
from orca_master.sources.webhooks.model import Forge, Push
from orca_master.sources.webhooks.signatures import Headers

MOST_FILES = 5000
MOST_TEXT = 500
NOBODY = "0" * 40

_SHA = re.compile(r"[0-9a-f]{7,64}", re.ASCII)
_EVENTS = {
    Forge.GITHUB: ("x-github-event", "push"),
    Forge.GITEA: ("x-gitea-event", "push"),
    Forge.BITBUCKET: ("x-event-key", "repo:push"),
}
_PINGS = ("ping", "diagnostics:ping")


class Ignored(Exception):
    """Rightly signed, and nothing to do; the text says why. `is_ping`: the forge only asks."""

    def __init__(self, reason: str, *, is_ping: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_ping = is_ping


def pushes(forge: Forge, headers: Headers, body: bytes) -> list[Push]:
    """Every push that the delivery tells of. Raises Ignored; Malformed for what cannot be read."""
    event = _event(forge, headers)
    payload = _payload(headers, body)
    if event in _PINGS:
        raise Ignored("a ping", is_ping=True)
    try:
        match forge:
            case Forge.GITHUB | Forge.GITEA:
                found = [_github(payload)]
            case Forge.GITLAB:
                found = [_gitlab(payload, event)]
            case Forge.BITBUCKET:
                found = _bitbucket(payload)
            case Forge.REGISTRY:
                found = _registry(payload)
            case Forge.GENERIC:
                found = [_generic(payload)]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Malformed(
            [Problem("", f"is no push of {forge}: {error!r} is missing or wrong")]
        ) from None
    if not found:
        raise Ignored("it tells of no push")
    return found


def _event(forge: Forge, headers: Headers) -> str:
    """Raises Ignored for an event that is neither a push nor a ping."""
    if forge is Forge.GITLAB:
        return str(next(iter(headers.get("x-gitlab-event", ())), ""))
    if forge not in _EVENTS:
        return ""
    name, wanted = _EVENTS[forge]
    event = next(iter(headers.get(name, ())), wanted)
    if event != wanted and event not in _PINGS:
        raise Ignored(f"nothing is done for the event {event[:60]!r}")
    return event


def _payload(headers: Headers, body: bytes) -> Mapping[str, Any]:
    kind = next(iter(headers.get("content-type", ())), "").partition(";")[0].strip().lower()
    try:
        text = body.decode()
        if kind == "application/x-www-form-urlencoded":
            text = parse_qs(text, strict_parsing=True, max_num_fields=10)["payload"][0]
        found = json.loads(text)
    except (ValueError, KeyError, RecursionError) as error:
        raise Malformed([Problem("", f"the body is no JSON: {error}")]) from None
    if not isinstance(found, dict):
        raise Malformed([Problem("", "the body must be a JSON object")])
    return found


def _sha(value: object) -> str:
    """Empty for none; a commit that is no commit is none of ours."""
    text = str(value or "")
    if text == NOBODY or not text:
        return ""
    if not _SHA.fullmatch(text):
        raise KeyError("commit")
    return text


def _ref(ref: object) -> tuple[str, str]:
    """(branch, tag), one of them empty. Raises Ignored for what is neither."""
    if not isinstance(ref, str):
        raise TypeError("ref")
    branch, tag = ref.removeprefix("refs/heads/"), ref.removeprefix("refs/tags/")
    if branch and branch != ref:
        return branch[:MOST_TEXT], ""
    if tag and tag != ref:
        return "", tag[:MOST_TEXT]
    raise Ignored(f"{ref[:80]!r} is neither a branch nor a tag")


def _text(value: object) -> str:
    return str(value or "")[:MOST_TEXT]


def _files(commits: object) -> tuple[str, ...] | None:
    """Every file that the commits touch; None where that is not said, or not all of it."""
    if not isinstance(commits, list) or not commits:
        return None
    found: dict[str, None] = {}
    for commit in commits:
        for kind in ("added", "modified", "removed"):
            names = commit.get(kind)
            if not isinstance(names, list):
                return None
            found |= dict.fromkeys(str(name) for name in names)
    return tuple(found) if 0 < len(found) <= MOST_FILES else None


def _github(payload: Mapping[str, Any]) -> Push:
    branch, tag = _ref(payload["ref"])
    commits = payload.get("commits")
    head: Mapping[str, Any] = payload.get("head_commit") or (commits or [{}])[-1]
    author = head.get("author") or {}
    after = _sha(payload.get("after"))
    is_all = isinstance(commits, list) and len(commits) < 2048 and not payload.get("forced")
    return Push(
        repo=str(payload["repository"]["full_name"]),
        before=_sha(payload.get("before")),
        after=after,
        is_deletion=bool(payload.get("deleted")) or not after,
        files=_files(commits) if is_all else None,
        text=_text(head.get("message")),
        author=_text(author.get("name") or (payload.get("pusher") or {}).get("name")),
        link=_text(head.get("url") or payload.get("compare")),
        branch=branch,
        tag=tag,
    )


def _gitlab(payload: Mapping[str, Any], event: str) -> Push:
    kind = payload.get("object_kind")
    if kind not in ("push", "tag_push"):
        raise Ignored(f"nothing is done for the event {str(kind or event)[:60]!r}")
    branch, tag = _ref(payload["ref"])
    commits = payload.get("commits") or []
    head = commits[-1] if commits else {}
    after = _sha(payload.get("checkout_sha") or payload.get("after"))
    is_deletion = _sha(payload.get("after")) == ""
    is_all = payload.get("total_commits_count", 0) == len(commits)
    return Push(
        repo=str(payload["project"]["path_with_namespace"]),
        before=_sha(payload.get("before")),
        after="" if is_deletion else after,
        is_deletion=is_deletion,
        files=_files(commits) if is_all else None,
        text=_text(head.get("message")),
        author=_text((head.get("author") or {}).get("name") or payload.get("user_name")),
        link=_text(head.get("url")),
        branch=branch,
        tag=tag,
    )


def _bitbucket(payload: Mapping[str, Any]) -> list[Push]:
    repo = str(payload["repository"]["full_name"])
    return [_bitbucket_change(repo, change) for change in payload["push"]["changes"]]


def _bitbucket_change(repo: str, change: Mapping[str, Any]) -> Push:
    new, old = change.get("new"), change.get("old")
    named: Mapping[str, Any] = new or old or {}
    is_tag, name = named["type"] == "tag", str(named["name"])[:MOST_TEXT]
    target = (new or {}).get("target") or {}
    return Push(
        repo=repo,
        before=_sha(((old or {}).get("target") or {}).get("hash")),
        after=_sha(target.get("hash")),
        is_deletion=new is None,
        text=_text(target.get("message")),
        author=_text((target.get("author") or {}).get("raw")),
        link=_text(((target.get("links") or {}).get("html") or {}).get("href")),
        branch="" if is_tag else name,
        tag=name if is_tag else "",
    )


def _registry(payload: Mapping[str, Any]) -> list[Push]:
    """Docker registry notifications: pushes of manifests with a tag."""
    found = []
    for event in payload["events"]:
        target = event.get("target") or {}
        if event.get("action") == "push" and target.get("tag"):
            actor = (event.get("actor") or {}).get("name")
            found.append(
                Push(
                    repo=str(target["repository"]),
                    tag=str(target["tag"])[:MOST_TEXT],
                    text=f"pushed {_text(target.get('digest'))}",
                    author=_text(actor),
                    link=_text(target.get("digest")),
                )
            )
    return found


def _generic(payload: Mapping[str, Any]) -> Push:
    """`{repo, branch | tag, before?, after?, files?, message?, author?, link?}`"""
    is_tag = bool(payload.get("tag"))
    name = str(payload["tag" if is_tag else "branch"])[:MOST_TEXT]
    files = payload.get("files")
    return Push(
        repo=str(payload["repo"]),
        before=_sha(payload.get("before")),
        after=_sha(payload.get("after")),
        files=tuple(map(str, files[:MOST_FILES])) if isinstance(files, list) and files else None,
        text=_text(payload.get("message")),
        author=_text(payload.get("author")),
        link=_text(payload.get("link")),
        branch="" if is_tag else name,
        tag=name if is_tag else "",
    )
