"""The cluster's certificate authority: makes itself, signs workers' requests and masters' keys.

P-256 throughout. The authority's key is kept in the replicated state, wrapped (AES-256-GCM) with
a key-encryption key, which lives in a file of its own on each master and never in the state.
"""

import base64
import datetime
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orca_common.env import Env
from orca_master.cluster.model import Authority
from orca_master.errors import Forbidden, Invalid, Problem
from orca_master.identity.wrapping.keyring import Keyring, Unopened, WrappingKey
from orca_proto.identity import MASTER_NAME, Bearer, NodeRole
from orca_proto.trust import VOUCHED

CA_SECONDS = 3650 * 86400.0
LEAF_SECONDS = 90 * 86400.0
SKEW_SECONDS = 600.0
"""Certificates are valid a little before they are made, because clocks differ; short ones less so."""

PURPOSE = b"orca authority key 1"
"""What the authority's key is wrapped for."""


class WrongKey(Exception):
    """The key-encryption key does not open the authority's key."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The authority, opened. `leaf_seconds`: how long what it issues is valid."""

    cluster: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    leaf_seconds: float = LEAF_SECONDS

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> bytes:
        return self.certificate.fingerprint(hashes.SHA256())


def create_authority(env: Env, cluster_id: str, kek: WrappingKey, *, mark: str = "") -> Authority:
    """`mark` goes into its name: of two that are trusted at the same time, TLS libraries look only at
    the first that has the name of a certificate's issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = f"orca {cluster_id} {mark}".rstrip()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called)])
    builder = _builder(env, name, name, key.public_key(), CA_SECONDS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    wrapped = kek.wrap(env, PURPOSE, _key_pem(key))
    return Authority(certificate=certificate.public_bytes(Encoding.PEM), wrapped_key=wrapped)


def open_authority(
    authority: Authority, cluster_id: str, keyring: Keyring, *, leaf_seconds: float = LEAF_SECONDS
) -> Signer:
    """Raises WrongKey, NotReady."""
    try:
        pem = keyring.unwrap(PURPOSE, authority.wrapped_key)
    except Unopened as error:
        raise WrongKey(
            f"the key-encryption key ({', '.join(keyring.ids)}) does not fit this cluster's state: put"
            " back the file `kek` that belongs to this data folder, or to the backup that it is from"
        ) from error
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise WrongKey("the authority's key is of an unknown kind")
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    return Signer(cluster_id, certificate, key, leaf_seconds)


def vouch(signer: Signer, other: bytes) -> bytes:
    """The signature with which this authority says that the other one (PEM) is the cluster's too."""
    der = x509.load_pem_x509_certificate(other).public_bytes(Encoding.DER)
    return signer.key.sign(VOUCHED + der, ec.ECDSA(hashes.SHA256()))


def request_of(text: str) -> tuple[bytes, x509.CertificateSigningRequest]:
    """(DER, request) of a certificate request in base64. Raises Invalid, Forbidden."""
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Invalid([Problem("request", "must be base64")]) from error
    return der, read_request(der)


def read_request(der: bytes) -> x509.CertificateSigningRequest:
    """A certificate request, its own signature checked. Raises Invalid, Forbidden."""
    try:
        request = x509.load_der_x509_csr(der)
    except ValueError as error:
        raise Invalid([Problem("request", "is no certificate request (PKCS #10, DER)")]) from error
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid([Problem("request", "the key must be on the curve P-256")])
    if not request.is_signature_valid:
        raise Forbidden("the certificate request is not signed with its own key")
    return request


def key_of(request: x509.CertificateSigningRequest) -> str:
    """SHA-256, in hex, of the request's public key."""
    key = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def issue_worker(
    env: Env, signer: Signer, request: x509.CertificateSigningRequest, node_id: str
) -> bytes:
    """A worker's certificate (PEM). The master chooses the name; the request gives only the key."""
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    bearer = Bearer(signer.cluster, NodeRole.WORKER, node_id)
    return _issue(env, signer, bearer, key, [], [ExtendedKeyUsageOID.CLIENT_AUTH])


def issue_master(env: Env, signer: Signer, master_id: str) -> tuple[bytes, bytes]:
    """(certificate, key) of a master, PEM, with a key that is made here."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _issue_master(env, signer, master_id, key.public_key()), _key_pem(key)


def sign_master(
    env: Env, signer: Signer, request: x509.CertificateSigningRequest, master_id: str
) -> bytes:
    """The certificate (PEM) of a master that joins. The request gives only the key."""
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return _issue_master(env, signer, master_id, key)


def _issue_master(env: Env, signer: Signer, id: str, key: ec.EllipticCurvePublicKey) -> bytes:
    bearer = Bearer(signer.cluster, NodeRole.MASTER, id)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(env, signer, bearer, key, [x509.DNSName(MASTER_NAME)], usages)


def _issue(
    env: Env,
    signer: Signer,
    bearer: Bearer,
    key: ec.EllipticCurvePublicKey,
    names: list[x509.DNSName],
    usages: list[x509.ObjectIdentifier],
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{bearer.role} {bearer.id}")])
    builder = _builder(env, subject, signer.certificate.subject, key, signer.leaf_seconds)
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(bearer.uri), *names])
    builder = builder.add_extension(san, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _builder(
    env: Env, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, seconds: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(env.now(), datetime.UTC)
    skew = datetime.timedelta(seconds=min(SKEW_SECONDS, seconds / 10))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(env.random.token_bytes(16), "big") >> 1)
        .not_valid_before(now - skew)
        .not_valid_after(now + datetime.timedelta(seconds=seconds))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
