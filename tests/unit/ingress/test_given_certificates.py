"""Certificates as people give them, and which one a domain is shown with."""

import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from certificates import a_certificate
from orca_master.errors import Invalid
from orca_master.ingress.certificates.choosing import chosen
from orca_master.ingress.certificates.model import Certificate
from orca_master.ingress.certificates.reading import covers, read

CHAIN, KEY = a_certificate("app.example.com", "*.Example.org")
OTHER_CHAIN, OTHER_KEY = a_certificate("other.example.com", name="other")
FORMS = (Encoding.PEM, PrivateFormat.PKCS8)


def test_what_is_in_a_certificate_is_read() -> None:
    told = read(CHAIN.decode(), KEY.decode(), time.time())
    assert told.domains == ("*.example.org", "app.example.com")
    assert told.issuer == "CN=test"
    assert 29 * 86400 < told.not_after - time.time() < 31 * 86400
    assert told.chain == CHAIN


def test_an_rsa_key_in_its_own_format_is_taken() -> None:
    chain, key = a_certificate("a.example.com", rsa_bits=2048)
    assert read(chain.decode(), key.decode(), time.time()).domains == ("a.example.com",)


def _encrypted() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(*FORMS, BestAvailableEncryption(b"secret")).decode()


def _of_another_kind() -> str:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(*FORMS, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("chain", "key", "said"),
    [
        ("nothing", KEY.decode(), "certificate: holds no certificates in PEM"),
        (CHAIN.decode(), "nothing", "key: is no private key in PEM"),
        (CHAIN.decode(), CHAIN.decode(), "key: is no private key in PEM"),
        (CHAIN.decode(), OTHER_KEY.decode(), "key: does not belong to the first certificate"),
        (CHAIN.decode(), _encrypted(), "key: is encrypted: give it without a passphrase"),
        (CHAIN.decode(), _of_another_kind(), "key: must be RSA or ECDSA"),
        ((CHAIN + OTHER_CHAIN).decode(), KEY.decode(), "certificate: must be in order"),
    ],
)
def test_what_is_wrong_is_said_and_the_key_is_not(chain: str, key: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(chain, key, time.time())
    (problem,) = refused.value.problems
    assert f"{problem.field}: {problem.message}".startswith(said)
    assert "PRIVATE" not in str(refused.value)


def test_one_that_has_expired_names_no_domain_or_is_weak_is_refused() -> None:
    for chain, key, said in (
        (*a_certificate("a.example.com", days=-1), "has expired on"),
        (*a_certificate(), "names no domain"),
        (*a_certificate("a.example.com", rsa_bits=1024), "is too short: RSA keys need 2048 bits"),
    ):
        with pytest.raises(Invalid, match=said):
            read(chain.decode(), key.decode(), time.time())


@pytest.mark.parametrize(
    ("domain", "names", "fits"),
    [
        ("a.example.com", ("a.example.com",), True),
        ("a.example.com", ("*.example.com",), True),
        ("a.b.example.com", ("*.example.com",), False),
        ("example.com", ("*.example.com",), False),
        ("*.example.com", ("*.example.com",), True),
        ("*.example.com", ("*.com",), False),
    ],
)
def test_a_wildcard_covers_one_label(domain: str, names: tuple[str, ...], fits: bool) -> None:
    assert covers(domain, names) is fits


def a_row(name: str, *domains: str, not_after: float = 100.0, project: str = "") -> Certificate:
    return Certificate("t", name, domains, b"", b"", 0.0, not_after, "", 0.0, project=project)


def test_the_one_that_lasts_longest_is_shown_and_none_of_another_project() -> None:
    rows = [
        a_row("old", "a.example.com"),
        a_row("new", "*.example.com", not_after=200.0),
        a_row("blog", "a.example.com", not_after=900.0, project="blog"),
    ]
    assert chosen(rows, "a.example.com", "shop") == rows[1]
    assert chosen(rows, "a.example.com", "blog") == rows[2]
    assert chosen(rows, "example.com", "shop") is None
