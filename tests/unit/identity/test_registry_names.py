"""Names of images and registries, challenges, and passwords that are kept sealed."""

import pytest
from hypothesis import given, strategies

from orca_common.real import real_env
from orca_master.app.schema import SCHEMA
from orca_master.errors import NotReady
from orca_master.identity.registries.accounts import Account, Accounts
from orca_master.identity.registries.challenges import Challenge, challenges
from orca_master.identity.registries.model import Login
from orca_master.identity.registries.reference import Reference, base_url, check_host, parse
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.state.rows import State
from orca_proto.images import host_of
from orca_worker.runtime.docker.errors import registry_of

DIGEST = "@sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "host", "path", "tag"),
    [
        ("nginx", "docker.io", "library/nginx", "latest"),
        ("shop/web:7", "docker.io", "shop/web", "7"),
        ("docker.io/shop/web", "docker.io", "shop/web", "latest"),
        ("index.docker.io/nginx:1", "docker.io", "library/nginx", "1"),
        ("r.example/a/b/c:1" + DIGEST, "r.example", "a/b/c", "1"),
        ("localhost/app", "localhost", "app", "latest"),
        ("R.Example:5000/app:x", "r.example:5000", "app", "x"),
        ("[::1]:5000/app", "[::1]:5000", "app", "latest"),
        ("registry/app", "docker.io", "registry/app", "latest"),
    ],
)
def test_an_image_says_which_registry_it_comes_from(
    image: str, host: str, path: str, tag: str
) -> None:
    assert parse(image) == Reference(host, path, tag)
    assert host_of(image) == host


@pytest.mark.parametrize("image", ["nginx", "a/b", "r.io/a", "localhost/a", "r:5000/a/b:1", "a:1"])
def test_a_worker_and_the_engine_mean_the_same_registry(image: str) -> None:
    assert host_of(image) == registry_of(image)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("r.example:5000", "https://r.example:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.9.9.9", "http://127.9.9.9"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("localhost", "http://localhost"),
        ("localhost.evil.example", "https://localhost.evil.example"),
        ("127.0.0.1.evil.example:1", "https://127.0.0.1.evil.example:1"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
    ],
)
def test_only_this_machine_is_asked_without_tls(host: str, url: str) -> None:
    assert base_url(host) == url


def test_names_of_one_registry_become_one() -> None:
    assert check_host("Registry.Example:5000") == "registry.example:5000"
    assert {check_host(name) for name in ("docker.io", "index.docker.io", "Docker.IO")} == {
        "docker.io"
    }
    assert check_host("[::1]:5000") == "[::1]:5000"


@pytest.mark.parametrize(
    "text",
    [
        "", "https://r.example", "r.example/", "r.example/team", "user@r.example", "r.example:",
        "r.example:port", "r example", "r.example\n", "-r.example", "r.example:123456", "registry",
        "a" * 300 + ".example", "r.example:5000:1", "ｒ.example", "r.example?x", "[::1", "..",
    ],
)  # fmt: skip
def test_what_is_no_registry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a registry's host|names no registry"):
        check_host(text)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        (['Basic realm="r"'], [("basic", {"realm": "r"})]),
        (["BASIC REALM=r"], [("basic", {"realm": "r"})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (
            ['Basic realm="a, Bearer realm=b" , Bearer realm="c"'],
            [("basic", {"realm": "a, Bearer realm=b"}), ("bearer", {"realm": "c"})],
        ),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["NTLM YWJj==, Basic realm=x"], [("ntlm", {}), ("basic", {"realm": "x"})]),
        ([r'Basic realm="say \"hi\" \\ "'], [("basic", {"realm": r'say "hi" \ '})]),
        (["Basic realm=a", "Bearer realm=b"], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ([',, Basic  realm = "x" ,, charset="UTF-8",'], [("basic", {"realm": "x", "charset": "UTF-8"})]),
        (["Bearer realm=one, realm=two"], [("bearer", {"realm": "one"})]),
        (['Bearer realm="never closed'], [("bearer", {})]),
        (["=;=", "Basic realm=x"], [("basic", {"realm": "x"})]),
    ],
)  # fmt: skip
def test_challenges_are_read_as_they_are_meant(
    headers: list[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    found = challenges(headers)
    if headers == ['Bearer realm="never closed']:
        assert found[0] == Challenge("bearer", {})
        assert all("realm" not in each.parameters for each in found)
    else:
        assert [(each.scheme, each.parameters) for each in found] == expected


@given(strategies.text(alphabet='Basic realm=",\\ \t;=x', max_size=60))
def test_no_challenge_is_too_odd_to_be_read(text: str) -> None:
    for each in challenges([text]):
        assert each.scheme


def a_login(accounts: Accounts, password: str = "correct-horse") -> Login:
    sealed = accounts.sealed(State(SCHEMA), "default", "shop", "r.example", password)
    return Login("default", "shop", "r.example", "me", sealed, 0.0, "admin")


def test_a_password_opens_for_its_registry_and_project_only() -> None:
    env = real_env(threads=1)
    accounts = Accounts(Keyring(env, [b"k" * 32]))
    login = a_login(accounts)
    assert accounts.open(login) == Account("me", "correct-horse", "shop")
    assert b"correct-horse" not in login.ciphertext
    assert "correct-horse" not in repr(accounts.open(login))
    for project, host in (("", "r.example"), ("other", "r.example"), ("shop", "evil.example")):
        moved = Login("default", project, host, "me", login.ciphertext, 0.0, "admin")
        with pytest.raises(NotReady, match="orca registry login"):
            accounts.open(moved)
    with pytest.raises(NotReady, match="set it again"):
        Accounts(Keyring(env, [b"x" * 32])).open(login)
    with pytest.raises(NotReady, match="no key-encryption key"):
        Accounts(Keyring(env)).open(login)
