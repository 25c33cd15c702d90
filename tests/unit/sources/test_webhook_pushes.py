"""What deliveries say, whom they are for, and which image they make."""

from typing import Any
from urllib.parse import urlencode

import pytest

from forges import (
    BEFORE,
    NOBODY,
    SHA,
    bitbucket_push,
    body_of,
    generic_push,
    github_push,
    gitlab_push,
    registry_push,
)
from orca_master.errors import Malformed
from orca_master.sources.webhooks.forges import Ignored, pushes
from orca_master.sources.webhooks.matching import check, check_template, image_of, message_of
from orca_master.sources.webhooks.model import Forge, Hook, Push

PAYLOADS = {
    "github": github_push(),
    "gitea": github_push(),
    "gitlab": gitlab_push(),
    "bitbucket": bitbucket_push(),
    "generic": generic_push(),
}


def read(forge: str, payload: Any, **headers: str) -> Push:
    (push,) = pushes(Forge(forge), {k: [v] for k, v in headers.items()}, body_of(payload))
    return push


def a_hook(**fields: Any) -> Hook:
    values: dict[str, Any] = {
        "tenant": "default", "id": "h", "forge": Forge.GITHUB, "repo": "shop/web",
        "project": "default", "service": "web", "secrets": (), "owner": "t", "owner_name": "ci",
        "made_at": 0.0,
    }  # fmt: skip
    return Hook(**(values | fields))


@pytest.mark.parametrize("forge", PAYLOADS)
def test_every_forges_push_is_read(forge: str) -> None:
    push = read(forge, PAYLOADS[forge])
    assert (push.repo, push.branch, push.tag, push.after) == ("shop/web", "main", "", SHA)
    assert push.text.startswith("Faster start")
    assert not push.is_deletion
    if forge != "generic":
        assert (push.before, "Ada" in push.author) == (BEFORE, True)


def test_tags_and_deletions() -> None:
    assert read("github", github_push(ref="refs/tags/v1.2")).tag == "v1.2"
    assert read("gitlab", gitlab_push(ref="refs/tags/v1.2")).tag == "v1.2"
    assert read("bitbucket", bitbucket_push(name="v1.2", kind="tag")).tag == "v1.2"
    assert read("registry", registry_push()).tag == "main"
    assert read("github", github_push(after=NOBODY)).is_deletion
    assert read("gitlab", gitlab_push(after=NOBODY)).is_deletion
    gone = bitbucket_push()
    gone["push"]["changes"][0]["new"] = None
    assert read("bitbucket", gone).is_deletion


def test_a_form_is_read_as_github_sends_it() -> None:
    body = urlencode({"payload": body_of(github_push()).decode()}).encode()
    kind = {"content-type": ["application/x-www-form-urlencoded"]}
    (push,) = pushes(Forge.GITHUB, kind, body)
    assert push.after == SHA


@pytest.mark.parametrize(
    ("forge", "headers", "payload", "reason"),
    [
        ("github", {"x-github-event": "ping"}, {"zen": "Keep it simple"}, "a ping"),
        ("github", {"x-github-event": "issues"}, {}, "nothing is done for the event 'issues'"),
        ("gitlab", {}, {"object_kind": "note"}, "nothing is done for the event 'note'"),
        ("github", {}, github_push(ref="refs/pull/1/head"), "is neither a branch nor a tag"),
        ("registry", {}, {"events": [{"action": "pull", "target": {"tag": "x"}}]}, "no push"),
        ("bitbucket", {"x-event-key": "pullrequest:created"}, {}, "nothing is done"),
    ],
)
def test_wh_28_other_events_are_left_alone(
    forge: str, headers: dict[str, str], payload: Any, reason: str
) -> None:
    with pytest.raises(Ignored, match=reason):
        read(forge, payload, **headers)


@pytest.mark.parametrize("forge", [*PAYLOADS, "registry"])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"\xff", b'"x"', b"{}", b'{"ref": 5}', b"[" * 100_000,
        b'{"repository": null, "ref": "refs/heads/main", "after": "x"}',
        b'{"project": 1, "object_kind": "push", "ref": "refs/heads/main"}',
        b'{"push": {"changes": [null]}, "repository": {"full_name": "a/b"}}',
        b'{"events": [1]}', b'{"events": null}', b'{"repo": "a/b"}',
        b'{"repo": "a", "after": "$(id)", "branch": "m"}',
    ],
    ids=range(16),
)  # fmt: skip
def test_what_is_no_push_is_refused_and_breaks_nothing(forge: str, body: bytes) -> None:
    with pytest.raises((Malformed, Ignored)):
        pushes(Forge(forge), {}, body)


@pytest.mark.parametrize(
    ("hook", "push", "reason"),
    [
        ({}, {"branch": "main"}, None),
        ({}, {"branch": "other"}, "branch other is not main"),
        ({"branch": "release/*"}, {"branch": "release/1"}, None),
        ({}, {"tag": "v1"}, "tag v1 is not asked for"),
        ({"tag": "v*"}, {"tag": "v1"}, None),
        ({}, {"branch": "main", "is_deletion": True}, "main was deleted"),
        ({}, {"branch": "main", "text": "x [Skip Deploy] y"}, "skip deploy"),
        ({"paths": ("api/**",)}, {"branch": "main", "files": ("docs/a.md",)}, "changed files"),
        ({"paths": ("api/**",)}, {"branch": "main", "files": ("api/x/y.py",)}, None),
        ({"paths": ("api/**",)}, {"branch": "main", "files": None}, None),
        ({"not_paths": ("docs/**",)}, {"branch": "main", "files": ("docs/a.md",)}, "changed"),
        ({"not_paths": ("docs/**",)}, {"branch": "main", "files": ("docs/a", "b")}, None),
    ],
)
def test_wh_24_wh_27_what_a_hook_asks_for(
    hook: dict[str, Any], push: dict[str, Any], reason: str | None
) -> None:
    pushed = Push("shop/web", **push)
    if reason is None:
        check(a_hook(**hook), pushed)
        return
    with pytest.raises(Ignored, match=reason):
        check(a_hook(**hook), pushed)


def test_images_are_made_of_what_was_pushed() -> None:
    push = Push("shop/web", branch="feature/a", after=SHA)
    assert image_of("shop/web:{sha}", push) == f"shop/web:{SHA}"
    assert image_of("shop/web:{branch}-{short_sha}", push) == f"shop/web:feature-a-{SHA[:7]}"
    with pytest.raises(Ignored, match="has no tag"):
        image_of("shop/web:{tag}", push)


@pytest.mark.parametrize("branch", ["main;rm -rf /", "$(id)", "../../x", "a b", "é", "-x"])
def test_wh_26_a_hostile_branch_is_no_part_of_an_image(branch: str) -> None:
    with pytest.raises(Ignored, match="cannot be a part of an image's name"):
        image_of("shop/web:{branch}", Push("shop/web", branch=branch))


@pytest.mark.parametrize("template", ["a:{who}", "a:{sha", "a:{}", "a:{sha}{SHA}"])
def test_templates_have_known_fields_only(template: str) -> None:
    with pytest.raises(ValueError, match="may have"):
        check_template(template)


def test_a_revisions_message_is_one_printable_line() -> None:
    push = Push(
        "r", branch="main", after=SHA, text="a\x1b[31m b\nc", author="Ada", link="https://x"
    )
    assert message_of(push) == f"{SHA[:7]} a[31m b by Ada (https://x)"
