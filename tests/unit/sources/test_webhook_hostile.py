"""Signatures that somebody made up: none is taken, and none takes other work than another (WH-40)."""

import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from forges import SECRET, SHA, body_of, generic_push, github_push, signed, standard
from orca_common.real import real_env
from orca_master.errors import Unauthenticated
from orca_master.http.route import Raw
from orca_master.identity.wrapping.keyring import Keyring, WrappingKey
from orca_master.sources.webhooks.forges import Ignored, pushes
from orca_master.sources.webhooks.matching import image_of
from orca_master.sources.webhooks.model import Forge, Hook, Sealed
from orca_master.sources.webhooks.signatures import Headers, is_signed
from orca_master.sources.webhooks.verifying import MOST_CANDIDATES, Verifier, purpose

NOW = 1_769_860_800.0
BODY = body_of(github_push())
CARRIERS = {
    "github": "x-hub-signature-256",
    "gitea": "x-gitea-signature",
    "gitlab": "x-gitlab-token",
    "bitbucket": "x-hub-signature",
    "registry": "authorization",
    "generic": "webhook-signature",
}
KEK = b"k" * 32


def right(forge: str, body: bytes = BODY, secret: str = SECRET) -> dict[str, list[str]]:
    given = signed(forge, body, at=NOW, secret=secret)
    return {name.lower(): [value] for name, value in given.items()}


def taken(forge: str, headers: Headers, body: bytes = BODY) -> bool:
    return is_signed(Forge(forge), headers, body, SECRET.encode(), now=NOW)


def with_value(forge: str, value: str) -> dict[str, list[str]]:
    return right(forge) | {CARRIERS[forge]: [value]}


@pytest.mark.parametrize("forge", CARRIERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda value: "", lambda value: f"\t{value}", lambda value: f"{value},{value}",
        lambda value: f"{value};", lambda value: value[:-1], lambda value: value + "\0",
        lambda value: value[::-1], lambda value: "x" * 100_000, lambda value: "\udcff" + value,
        lambda value: value.replace("a", "а"), lambda value: value.swapcase(),
        lambda value: f"sha256=sha256={value}",
    ],
    ids=[
        "empty", "tab", "twice", "semicolon", "short", "nul", "backwards", "long", "surrogate",
        "cyrillic", "case", "prefixes",
    ],
)  # fmt: skip
def test_a_value_that_is_nearly_right_is_not_taken(forge: str, change: Any) -> None:
    value = right(forge)[CARRIERS[forge]][0]
    assert taken(forge, right(forge))
    changed = change(value)
    if changed == value:
        changed = value + "a"
    assert not taken(forge, with_value(forge, changed))


@pytest.mark.parametrize("forge", CARRIERS)
def test_a_header_that_comes_twice_is_not_taken(forge: str) -> None:
    value = right(forge)[CARRIERS[forge]][0]
    assert not taken(forge, right(forge) | {CARRIERS[forge]: [value, value]})


@pytest.mark.parametrize("forge", sorted(CARRIERS.keys() - {"gitlab", "registry"}))
def test_a_body_that_was_changed_on_the_way_is_not_taken(forge: str) -> None:
    for body in (BODY + b"\n", BODY[:-1], b"", BODY.replace(SHA.encode(), b"f" * 40)):
        assert not taken(forge, right(forge), body)


@pytest.mark.parametrize("forge", CARRIERS)
@pytest.mark.parametrize("other", CARRIERS)
def test_what_one_forge_signs_is_not_another_ones(forge: str, other: str) -> None:
    assert taken(forge, right(other)) is (forge == other or (forge, other) == ("github", "gitea"))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "None", "null", "sha256="])
@pytest.mark.parametrize("forge", CARRIERS)
def test_a_secret_that_anybody_could_guess_is_not_ours(forge: str, secret: str) -> None:
    try:
        headers = right(forge, secret=secret)
    except ValueError:  # no key can be made of it
        headers = {}
    assert not taken(forge, headers)


@pytest.mark.parametrize("field", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_part_of_a_standard_signature_is_needed(field: str) -> None:
    headers = right("generic")
    assert not taken("generic", headers | {field: []})
    assert not taken("generic", headers | {field: [*headers[field], *headers[field]]})


def test_of_many_standard_signatures_only_the_first_ten_are_looked_at() -> None:
    good = standard(BODY, at=NOW)["webhook-signature"]
    assert taken("generic", with_value("generic", " ".join(["v1,AAAA"] * 9 + [good])))
    assert not taken("generic", with_value("generic", " ".join(["v1,AAAA"] * 10 + [good])))


def work_of(forge: Forge, headers: Headers) -> Counter[str]:
    """How often each function of the cryptographic modules is called for one delivery."""
    calls: Counter[str] = Counter()

    def note(_: FrameType, event: str, function: Any) -> None:
        module = getattr(function, "__module__", "") or ""
        if event == "c_call" and module in ("_operator", "_hashlib", "_hmac", "_sha256"):
            calls[function.__name__] += 1

    sys.setprofile(note)
    try:
        is_signed(forge, headers, BODY, SECRET.encode(), now=NOW)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("forge", CARRIERS)
def test_wh_40_right_wrong_and_missing_signatures_take_the_same_work(forge: str) -> None:
    """How long that takes is measured by `bench/signatures.py`."""
    value = right(forge)[CARRIERS[forge]][0]
    other = "0" if value[-1] != "0" else "1"
    expected = work_of(Forge(forge), right(forge))
    assert expected["compare_digest"] == 1
    assert expected.total() >= 2
    for wrong in (value[:-1] + other, other + value[1:], "", "sha256=", "sha256=zz", value * 9):
        assert work_of(Forge(forge), with_value(forge, wrong)) == expected, wrong[:80]
    assert work_of(Forge(forge), {}) == expected


async def test_wh_40_every_candidate_is_tried_whichever_is_the_right_one() -> None:
    env = real_env(threads=1)
    verifier = Verifier(env, Keyring(env, [KEK]))

    def hook(number: int, secret: str) -> Hook:
        id = f"hook-{number}"
        sealed = Sealed("s", WrappingKey(KEK).wrap(env, purpose(id, "s"), secret.encode()))
        return Hook(
            "default", id, Forge.GITHUB, "shop/web", "default", "web", (sealed,), "t", "ci", 0.0
        )

    raw = Raw(right("github"), BODY, "192.0.2.1")
    for place in (0, 5, 9):
        secrets = [
            SECRET if number == place else f"another-secret-{number}" for number in range(10)
        ]
        found = await verifier.signed_for(Forge.GITHUB, raw, list(map(hook, range(10), secrets)))
        assert [each.id for each in found] == [f"hook-{place}"]
    both = [hook(0, SECRET), hook(1, "another-secret-of-16"), hook(2, SECRET)]
    assert len(await verifier.signed_for(Forge.GITHUB, raw, both)) == 2
    crowd = [hook(n, "another-secret-of-16") for n in range(MOST_CANDIDATES)] + [hook(999, SECRET)]
    for candidates in (crowd, []):
        with pytest.raises(Unauthenticated):
            await verifier.signed_for(Forge.GITHUB, raw, candidates)


@pytest.mark.parametrize(
    "ref",
    [
        "refs/heads/", "refs/tags/", "main", "", "refs/heads", "refs/notes/commits", "HEAD",
        "refs/merge-requests/1/head", "REFS/HEADS/main", " refs/heads/main",
    ],
)  # fmt: skip
def test_a_ref_that_is_no_branch_and_no_tag_deploys_nothing(ref: str) -> None:
    with pytest.raises(Ignored, match="neither a branch nor a tag"):
        pushes(Forge.GITHUB, {}, body_of(github_push(ref=ref)))


@pytest.mark.parametrize(
    "tag",
    ["v1;id", "v1\n", "-v1", ".v1", "v" * 129, "v1@sha256", "v1:latest", "v1/../..", "\u202ev1"],
)
def test_wh_26_a_hostile_tag_is_no_part_of_an_image(tag: str) -> None:
    (push,) = pushes(Forge.GENERIC, {}, body_of(generic_push() | {"tag": tag}))
    with pytest.raises(Ignored, match="cannot be a part of an image's name"):
        image_of("shop/web:{tag}", push)
