"""This node's certificate: kept in its folder, renewed over the stream, shown at the next connection.

`node.pem` holds the certificate and its key together, so that a crash leaves one pair or the other.
`node.key` is only the key with which the node joined.
"""

import asyncio
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto.identity import NotABearer, bearer_of_client, renew_at
from orca_worker.enrol import Membership, keep_certificate
from orca_worker.ports import Refused

LOOK_SECONDS = 3600.0
REST_PART = 0.1
"""Of its life, but no longer than LOOK_SECONDS: a clock that is far ahead makes no storm of renewals."""
AGAIN_SECONDS = 5.0
"""What is not renewed is asked for again so soon, or after a tenth of what is left, if that is less."""

log = get_logger("certificate")


class NotTheCertificate(Exception):
    """What the master sent is not what was asked for."""


class Asker(Protocol):
    async def certified(self, request: bytes) -> tuple[bytes, bytes]:
        """(certificate, authorities), PEM, for this request (PKCS #10, DER), over the open stream.

        Raises ConnectionError, TimeoutError, Refused."""
        ...


class NodeCertificate:
    """What the node shows to masters, and whose certificates it trusts; PEM all."""

    def __init__(self, env: Env, folder: Path, membership: Membership) -> None:
        self._env = env
        self._folder = folder
        self.authorities = membership.ca
        self.certificate = membership.certificate
        self.key = membership.key

    @property
    def _own(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def _life_seconds(self) -> float:
        own = self._own
        return (own.not_valid_after_utc - own.not_valid_before_utc).total_seconds()

    def expired(self) -> str | None:
        """By this machine's clock: what to do about it."""
        end = self._own.not_valid_after_utc
        if self._env.now() < end.timestamp():
            return None
        return (
            f"this node's certificate has expired ({end:%Y-%m-%d %H:%MZ}): if the clock is right, make"
            " a token with `orca nodes token` and start this worker with it (--join); it stays the"
            " node that it was"
        )

    async def stay(self, asker: Asker) -> None:
        """Renew it whenever two thirds of its life are over. Runs until cancelled."""
        while True:
            due = renew_at(self._own) - self._env.now()
            if due > 0:
                await asyncio.sleep(min(due, LOOK_SECONDS))
                continue
            try:
                await self._renew(asker)
                await asyncio.sleep(min(LOOK_SECONDS, REST_PART * self._life_seconds))
                continue
            except (OSError, TimeoutError, Refused, NotTheCertificate) as error:
                said = str(error) or type(error).__name__
                log.warning("the certificate is not renewed yet", reason=said)
            left = self._own.not_valid_after_utc.timestamp() - self._env.now()
            await asyncio.sleep(min(AGAIN_SECONDS, max(0.2, left / 10)))

    async def _renew(self, asker: Asker) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = empty.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        certificate, authorities = await asker.certified(request)
        self._check(certificate, authorities, key)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        keep_certificate(self._folder, certificate, pem, authorities)
        self.authorities, self.certificate, self.key = authorities, certificate, pem
        log.info("this node's certificate was renewed", until=str(self._own.not_valid_after_utc))

    def _check(
        self, certificate: bytes, authorities: bytes, key: ec.EllipticCurvePrivateKey
    ) -> None:
        try:
            given = x509.load_pem_x509_certificate(certificate)
            if given.public_key() != key.public_key():
                raise NotTheCertificate("the certificate is for another key")
            if bearer_of_client(certificate) != bearer_of_client(self.certificate):
                raise NotTheCertificate("the certificate names another node")
            if not any(_issued(given, ca) for ca in x509.load_pem_x509_certificates(authorities)):
                raise NotTheCertificate("the certificate is of none of the cluster's authorities")
        except (ValueError, NotABearer) as error:
            raise NotTheCertificate(f"the certificate cannot be used: {error}") from error


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
