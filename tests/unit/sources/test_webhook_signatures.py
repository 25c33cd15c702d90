"""How deliveries are signed: published vectors, and what must never be taken."""

import pytest

from forges import SECRET, hex_of, signed, standard
from orca_master.sources.webhooks.model import Forge
from orca_master.sources.webhooks.signatures import is_signed

NOW = 1_769_860_800.0
GITHUBS = "It's a Secret to Everybody"
HELLO = b"Hello, World!"
VECTOR = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def taken(
    forge: str, headers: dict[str, str], body: bytes, secret: str = SECRET, *, signing: bool = False
) -> bool:
    lower = {name.lower(): [value] for name, value in headers.items()}
    return is_signed(Forge(forge), lower, body, secret.encode(), now=NOW, signing=signing)


def test_githubs_published_vector_wh_01() -> None:
    assert taken("github", {"X-Hub-Signature-256": f"sha256={VECTOR}"}, HELLO, GITHUBS)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": f"sha256={VECTOR[:-1]}8"},
        {},
        {"X-Hub-Signature": "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59"},
        {"X-Hub-Signature-256": VECTOR},
        {"X-Hub-Signature-256": f"sha512={VECTOR}"},
        {"X-Hub-Signature-256": f"SHA256={VECTOR}"},
        {"X-Hub-Signature-256": f"sha256={VECTOR[:-1]}"},
        {"X-Hub-Signature-256": f"sha256={VECTOR}0"},
        {"X-Hub-Signature-256": f"sha256={VECTOR} "},
        {"X-Hub-Signature-256": "sha256="},
        {"X-Hub-Signature-256": f"sha256={VECTOR.upper()}"},
        {"X-Hub-Signature": f"sha256={VECTOR}"},
        {"X-Gitea-Signature": VECTOR},
        {"X-Gitlab-Token": GITHUBS},
        {"Authorization": f"Bearer {GITHUBS}"},
    ],
    ids=[
        "wh-02-last-digit", "wh-03-none", "wh-04-sha1", "wh-05-bare", "wh-06-sha512", "wh-06-upper",
        "wh-07-63", "wh-07-65", "wh-07-trailing", "wh-08-empty", "capitals", "wh-38-bitbucket",
        "wh-32-gitea", "gitlab", "registry",
    ],
)  # fmt: skip
def test_what_github_does_not_send_is_not_taken(headers: dict[str, str]) -> None:
    assert not taken("github", headers, HELLO, GITHUBS)


def test_of_two_signatures_none_counts_wh_10() -> None:
    both = {"x-hub-signature-256": [f"sha256={VECTOR}", f"sha256={'0' * 64}"]}
    assert not is_signed(Forge.GITHUB, both, HELLO, GITHUBS.encode(), now=NOW)


def test_what_is_signed_is_the_body_as_it_came_wh_11() -> None:
    headers = signed("github", b'{"a":1}', at=NOW)
    assert taken("github", headers, b'{"a":1}')
    assert not taken("github", headers, b'{"a": 1}')


def test_any_bytes_can_be_signed_wh_12() -> None:
    body = '{"ref":"refs/heads/ünïcødé"}'.encode()
    given = "sha256=45e4910584da8a51c5f989c1daa8709b6f163cd6165923386a2424933cf37112"
    assert taken("github", {"X-Hub-Signature-256": given}, body, GITHUBS)


def test_gitea_sends_bare_digits_wh_30_wh_31() -> None:
    assert taken("gitea", {"X-Gitea-Signature": VECTOR}, HELLO, GITHUBS)
    assert not taken("gitea", {"X-Gitea-Signature": f"sha256={VECTOR}"}, HELLO, GITHUBS)
    assert not taken("gitea", {"X-Hub-Signature-256": f"sha256={VECTOR}"}, HELLO, GITHUBS)


@pytest.mark.parametrize("given", [SECRET[:-1], SECRET + "x", SECRET.upper(), SECRET + " ", ""])
def test_gitlabs_token_is_taken_exactly_wh_33(given: str) -> None:
    assert taken("gitlab", {"X-Gitlab-Token": SECRET}, HELLO)
    assert not taken("gitlab", {"X-Gitlab-Token": given}, HELLO)


def test_gitlab_may_sign_and_then_its_token_is_not_taken_wh_35_wh_37() -> None:
    assert taken("gitlab", standard(HELLO, at=NOW), HELLO, signing=True)
    assert not taken("gitlab", {"X-Gitlab-Token": SECRET}, HELLO, signing=True)
    assert not taken("gitlab", standard(HELLO, at=NOW), HELLO, signing=False)


def test_bitbuckets_header_is_its_own_wh_38() -> None:
    assert taken("bitbucket", {"X-Hub-Signature": f"sha256={hex_of(HELLO)}"}, HELLO)
    assert not taken("bitbucket", {"X-Hub-Signature-256": f"sha256={hex_of(HELLO)}"}, HELLO)
    assert not taken("bitbucket", {"X-Hub-Signature": f"sha1={hex_of(HELLO)}"}, HELLO)


def test_a_registry_sends_its_secret() -> None:
    assert taken("registry", {"Authorization": f"Bearer {SECRET}"}, HELLO)
    assert taken("registry", {"Authorization": f"bearer {SECRET}"}, HELLO)
    for wrong in (SECRET, f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer "):
        assert not taken("registry", {"Authorization": wrong}, HELLO)


def test_standard_webhooks() -> None:
    """The specification's own example."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    lower = {name: [value] for name, value in headers.items()}
    assert is_signed(Forge.GENERIC, lower, body, secret.encode(), now=1614265330.0 + 299)
    assert not is_signed(Forge.GENERIC, lower, body, secret.encode(), now=1614265330.0 + 301)
    several = lower | {"webhook-signature": [f"v1,AAAA {headers['webhook-signature']}"]}
    assert is_signed(Forge.GENERIC, several, body, secret.encode(), now=1614265330.0)
    other = lower | {"webhook-signature": [headers["webhook-signature"].replace("v1,", "v2,")]}
    assert not is_signed(Forge.GENERIC, other, body, secret.encode(), now=1614265330.0)


@pytest.mark.parametrize("at", ["", "-1", "nan", "1e9", "9" * 30, "１６１４２６５３３０"])
def test_a_timestamp_that_is_none_is_refused(at: str) -> None:
    headers = standard(HELLO, at=NOW) | {"webhook-timestamp": at}
    assert not taken("generic", headers, HELLO)
