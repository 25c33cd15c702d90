"""Certificates and keys as people give them: what is in them, and what is wrong with them. Pure."""

from dataclasses import dataclass
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from orca_master.errors import Invalid, Problem

LEAST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Read:
    """`chain`: PEM, the host's own first; `key`: PEM, PKCS #8. Times in Unix seconds."""

    chain: bytes
    key: bytes
    domains: tuple[str, ...]
    not_before: float
    not_after: float
    issuer: str


def read(chain: str, key: str, now: float) -> Read:
    """Raises Invalid, which never repeats the key."""
    certificates = _certificates(chain)
    own = certificates[0]
    private = _private(key)
    if _public(private.public_key()) != _public(own.public_key()):
        _refuse("key", "does not belong to the first certificate: give that of the host first")
    not_after = own.not_valid_after_utc.timestamp()
    if not_after <= now:
        _refuse("certificate", f"has expired on {own.not_valid_after_utc:%Y-%m-%d}")
    for below, above in pairwise(certificates):
        if below.issuer != above.subject:
            _refuse(
                "certificate", "must be in order: that of the host, then who issued it, and so on"
            )
    return Read(
        chain=b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
        key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        domains=_domains(own),
        not_before=own.not_valid_before_utc.timestamp(),
        not_after=not_after,
        issuer=own.issuer.rfc4514_string(),
    )


def covers(domain: str, names: tuple[str, ...]) -> bool:
    """Whether one of a certificate's names is the domain, or a wildcard for it (RFC 6125: one label)."""
    return domain in names or (
        not domain.startswith("*.") and "*." + domain.partition(".")[2] in names
    )


def _certificates(text: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise Invalid([Problem("certificate", "holds no certificates in PEM")]) from error


def _private(
    text: str,
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError as error:
        raise Invalid([Problem("key", "is encrypted: give it without a passphrase")]) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid([Problem("key", "is no private key in PEM")]) from error
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < LEAST_RSA_BITS:
        _refuse("key", f"is too short: RSA keys need {LEAST_RSA_BITS} bits")
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        _refuse("key", "must be RSA or ECDSA (P-256, P-384)")
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        _refuse("key", "must be on the curve P-256 or P-384")
    return key


_CURVES = ("secp256r1", "secp384r1")


def _public(key: object) -> bytes:
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _domains(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    found = names.get_values_for_type(x509.DNSName) if names is not None else []
    if not found:
        _refuse("certificate", "names no domain: it needs a subject alternative name")
    return tuple(sorted({name.lower() for name in found}))


def _refuse(field: str, why: str) -> None:
    raise Invalid([Problem(field, why)])
