"""Certificates for tests, made here, trusted by nobody else."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def a_certificate(
    *domains: str, days: float = 30, rsa_bits: int = 0, name: str = "test"
) -> tuple[bytes, bytes]:
    """Chain and key in PEM, signed by itself; negative `days`: it has expired so long ago."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if rsa_bits:
        key = rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 60 * DAY)
        .not_valid_after(now + days * DAY)
    )
    if domains:
        names = x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains])
        builder = builder.add_extension(names, critical=False)
    chain = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def a_pair() -> dict[str, str]:
    """What is given to `PUT /api/v1/certificates/{name}`."""
    chain, key = a_certificate("pair.example.com")
    return {"certificate": chain.decode(), "key": key.decode()}
