"""The one-time join token: how a worker or a master proves that it may join, without sending a secret.

A token is `orca-join-<base64url>` of the SHA-256 of the cluster's CA certificate (32 bytes) and an
Ed25519 private key (32 bytes). The master keeps only the public key. The worker checks the CA it is
shown against the fingerprint, makes its own key, and signs its certificate request with the token's
key. What goes over the wire lets nobody else join, so the request may travel in the clear; see
docs/adr/0005-join-tokens.md.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orca_proto.identity import NodeRole
from orca_proto.trust import vouched

PREFIX = "orca-join-"
NO_TOKEN = (
    "this is not a join token: make one with `orca nodes token` for a worker, `orca masters token`"
    " for a master"
)
ANOTHER_CLUSTER = (
    "this is not the cluster that the token was made for (another CA); or its CA was replaced since: then"
    " make a new token"
)
_DOMAINS = {
    NodeRole.WORKER: b"orca enrolment 1\0",
    NodeRole.MASTER: b"orca enrolment of a master 1\0",
}


class NotAToken(ValueError):
    """The text is not a join token."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    ca_fingerprint: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "JoinToken(***)"

    def text(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(self.ca_fingerprint + self.seed).decode().rstrip(
            "="
        )

    @property
    def public_key(self) -> str:
        """Hex; also the token's name on the master."""
        public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, name: str, request: bytes, role: NodeRole = NodeRole.WORKER) -> bytes:
        """Sign a certificate request (DER), the name that is asked for, and what to join as."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(_message(name, request, role))

    def trusts(self, ca_certificate_der: bytes) -> bool:
        return hashlib.sha256(ca_certificate_der).digest() == self.ca_fingerprint


def parse(text: str) -> JoinToken:
    """Raises NotAToken."""
    text = text.strip()
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (ValueError, binascii.Error) as error:
        raise NotAToken(NO_TOKEN) from error
    token = JoinToken(raw[:32], raw[32:])
    if len(raw) != 64 or token.text() != text:  # no character is without meaning
        raise NotAToken(NO_TOKEN)
    return token


def trusted_by(token: JoinToken, answer: Mapping[str, Any]) -> list[x509.Certificate]:
    """The authorities of `GET /api/v1/cluster/ca` that the holder of the token trusts; none: it is
    another cluster. What the answer says beyond that counts only if the one that the token names has
    signed it. Raises ValueError, KeyError."""
    found = [(x509.load_pem_x509_certificate(str(answer["certificate"]).encode()), b"")]
    for each in answer.get("authorities", ()):
        certificate = x509.load_pem_x509_certificate(str(each["certificate"]).encode())
        found.append((certificate, base64.b64decode(each["voucher"], validate=True)))
    for certificate, _ in found:
        if token.trusts(certificate.public_bytes(Encoding.DER)):
            others = [(other, voucher) for other, voucher in found if other != certificate]
            return vouched(certificate, others)
    return []


def verify(
    public_key: str,
    signature: bytes,
    name: str,
    request: bytes,
    role: NodeRole = NodeRole.WORKER,
) -> bool:
    """Whether the holder of the token with this public key signed this request for this name."""
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    try:
        key.verify(signature, _message(name, request, role))
    except InvalidSignature:
        return False
    return True


def _message(name: str, request: bytes, role: NodeRole) -> bytes:
    return _DOMAINS[role] + name.encode() + b"\0" + request
