"""Certificates name their bearers; whatever else a CA may sign is refused as a client."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orca_common.real import real_env
from orca_master.cluster import pki
from orca_master.identity.wrapping.keyring import Keyring, WrappingKey
from orca_proto.identity import MASTER_NAME, Bearer, NodeRole, NotABearer, bearer_of_client
from orca_proto.join import JoinToken, NotAToken, parse, verify

KEK = bytes(32)


@pytest.fixture
def signer() -> pki.Signer:
    env = real_env(threads=1)
    return pki.open_authority(
        pki.create_authority(env, "c1", WrappingKey(KEK)), "c1", Keyring(env, [KEK])
    )


def a_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_workers_certificate_names_it(signer: pki.Signer) -> None:
    request = pki.read_request(a_request(ec.generate_private_key(ec.SECP256R1())))
    pem = pki.issue_worker(real_env(threads=1), signer, request, "n1")
    assert bearer_of_client(pem) == Bearer("c1", NodeRole.WORKER, "n1")
    x509.load_pem_x509_certificate(pem).verify_directly_issued_by(signer.certificate)


def test_a_masters_certificate_names_it(signer: pki.Signer) -> None:
    pem, _ = pki.issue_master(real_env(threads=1), signer, "m1")
    assert bearer_of_client(pem) == Bearer("c1", NodeRole.MASTER, "m1")


def test_the_authority_itself_is_no_client_cl_07(signer: pki.Signer) -> None:
    with pytest.raises(NotABearer, match="CA certificate"):
        bearer_of_client(signer.pem)


@pytest.mark.parametrize(
    ("uri", "usage"),
    [
        ("orca://c1/worker/n1", ExtendedKeyUsageOID.SERVER_AUTH),
        ("orca://c1/worker/n1", None),
        ("orca://c1/admin/n1", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("orca://c1/worker/", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("spiffe://c1/worker/n1", ExtendedKeyUsageOID.CLIENT_AUTH),
        (None, ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_certificates_without_the_client_usage_or_a_name_of_ours_are_refused_cl_07(
    signer: pki.Signer, uri: str | None, usage: x509.ObjectIdentifier | None
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _a_certificate(signer, key)
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(NotABearer):
        bearer_of_client(pem)


def test_what_a_request_asks_for_besides_its_key_is_not_given_cl_05(signer: pki.Signer) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "master m1")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(MASTER_NAME), x509.UniformResourceIdentifier("orca://c1/master/m1")]
            ),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    request = pki.read_request(wanted.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    pem = pki.issue_worker(real_env(threads=1), signer, request, "n1")
    given = x509.load_pem_x509_certificate(pem)
    names = given.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = given.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [name.value for name in names] == ["orca://c1/worker/n1"]
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not given.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "m1" not in given.subject.rfc4514_string()


def test_the_common_name_says_nothing_cl_08(signer: pki.Signer) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier("orca://c1/worker/n1")
    builder = _a_certificate(signer, key, "master m1").add_extension(
        x509.SubjectAlternativeName([uri]), critical=False
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(usage, critical=False)
    pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    assert bearer_of_client(pem) == Bearer("c1", NodeRole.WORKER, "n1")


def _a_certificate(
    signer: pki.Signer, key: ec.EllipticCurvePrivateKey, name: str = ""
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )


def test_the_wrong_key_opens_no_authority() -> None:
    env = real_env(threads=1)
    authority = pki.create_authority(env, "c1", WrappingKey(KEK))
    with pytest.raises(pki.WrongKey, match="put back the file `kek`"):
        pki.open_authority(authority, "c1", Keyring(env, [bytes([1]) * 32]))


def test_a_join_token_survives_its_text_and_hides_itself() -> None:
    token = JoinToken(bytes(range(32)), bytes(range(32, 64)))
    assert parse(token.text()) == token
    assert parse(f" {token.text()}\n") == token
    assert "***" in repr(token)


@pytest.mark.parametrize(
    "text", ["", "orca-join-", "orca-join-AAAA", "x" * 96, "orca-join-" + "é" * 9]
)
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(NotAToken, match="orca nodes token"):
        parse(text)


def test_a_signature_holds_for_its_name_and_request_only() -> None:
    token = JoinToken(bytes(32), bytes(range(32)))
    signature = token.sign("a", b"request")
    assert verify(token.public_key, signature, "a", b"request")
    assert not verify(token.public_key, signature, "b", b"request")
    assert not verify(token.public_key, signature, "a", b"other")
    assert not verify(token.public_key, signature[:-1] + b"\0", "a", b"request")
