"""Whose certificates are trusted: the cluster's authorities, of which there are two while one replaces
the other. They are told apart by fingerprints: SHA-256 of the certificate, in hex."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

VOUCHED = b"orca authority vouched for 1\0"
"""What goes before the certificate (DER) that one authority signs for the other."""


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


@lru_cache(maxsize=16)
def fingerprints(pem: bytes) -> tuple[str, ...]:
    """Of these certificates, sorted. Raises ValueError."""
    return tuple(sorted(fingerprint(each) for each in x509.load_pem_x509_certificates(pem)))


def issuer(
    certificate: x509.Certificate, authorities: Iterable[x509.Certificate]
) -> x509.Certificate | None:
    """The one of these authorities that has signed the certificate."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return authority
    return None


def vouched(
    named: x509.Certificate, others: Iterable[tuple[x509.Certificate, bytes]]
) -> list[x509.Certificate]:
    """`named` and those of the others, each with a voucher, that it has vouched for."""
    key = named.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "an authority's key is on P-256"
    trusted = [named]
    for other, voucher in others:
        try:
            key.verify(
                voucher, VOUCHED + other.public_bytes(Encoding.DER), ec.ECDSA(hashes.SHA256())
            )
        except InvalidSignature:
            continue
        trusted.append(other)
    return trusted


def bundle(authorities: Sequence[x509.Certificate]) -> bytes:
    """PEM, one after the other."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in authorities)
