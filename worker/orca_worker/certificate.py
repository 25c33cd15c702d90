"""This node's certificate: kept in its folder, renewed over the stream, shown at the next connection.

`node.pem` holds the certificate and its key together, so that a crash leaves one pair or the other.
`node.key` is only the key with which the node joined.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto import worker_pb2 as pb
from orca_proto.identity import NotABearer, bearer_of_client, renew_at
from orca_proto.join import JoinToken
from orca_proto.trust import fingerprint, fingerprints, issuer
from orca_worker.enrol import Membership, keep_authorities, keep_certificate
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

    async def tell(self, trusted: pb.Trusted) -> None:
        """Say what the node has, if there is a stream. Raises ConnectionError, Refused."""
        ...


class NodeCertificate:
    """What the node shows to masters, and whose certificates it trusts; PEM all."""

    def __init__(self, env: Env, folder: Path, membership: Membership) -> None:
        self._env = env
        self._folder = folder
        self._joined_with = membership.token
        self.authorities = membership.ca
        self.certificate = membership.certificate
        self.key = membership.key
        self._wanted = ""
        self._wanted_at = 0.0
        self._told = asyncio.Event()

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

    def stranger(self) -> str:
        return (
            "the master has a certificate of an authority that this node does not trust: if the"
            " cluster's authority was replaced while this node was away, make a token with `orca nodes"
            " token` and start this worker with it (--join), in its old folder; it stays the node that"
            " it was"
        )

    def knows(self, token: JoinToken) -> bool:
        """Whether the node has a certificate of the authority that the token names, or has joined with
        this very token."""
        own, authorities = self._own, x509.load_pem_x509_certificates(self.authorities)
        found = issuer(own, authorities)
        is_of_it = found is not None and token.trusts(found.public_bytes(Encoding.DER))
        return is_of_it or token.public_key == self._joined_with

    def trust(self, told: pb.Trust) -> pb.Trusted:
        """Keep whom a master says to trust, and be certified anew in time if another one signs. What the
        node has now. Raises OSError, ValueError."""
        if set(fingerprints(told.authorities)) != set(fingerprints(self.authorities)):
            keep_authorities(self._folder, told.authorities)
            self.authorities = told.authorities
            log.info("whom this node trusts has changed")
        if told.signs not in (self._shows(), self._wanted):
            share = self._env.random.uniform(0.0, 1.0)
            self._wanted_at = self._env.now() + share * min(told.within_seconds, LOOK_SECONDS)
        self._wanted = told.signs
        self._told.set()
        return self._has()

    def _has(self) -> pb.Trusted:
        return pb.Trusted(authorities=fingerprints(self.authorities), shows=self._shows())

    def _shows(self) -> str:
        """The fingerprint of the authority that has issued the certificate; empty: it is not trusted."""
        found = issuer(self._own, x509.load_pem_x509_certificates(self.authorities))
        return fingerprint(found) if found is not None else ""

    def _due(self) -> float:
        """When a new one is to be asked for, Unix seconds."""
        due = renew_at(self._own)
        if self._wanted and self._wanted != self._shows():
            return min(due, self._wanted_at)
        return due

    async def stay(self, asker: Asker) -> None:
        """Renew it whenever two thirds of its life are over, or another authority signs. Runs until
        cancelled."""
        while True:
            due = self._due() - self._env.now()
            if due > 0:
                await self._sleep(min(due, LOOK_SECONDS))
                continue
            try:
                await self._renew(asker)
                if self._wanted:
                    with suppress(OSError, Refused):  # else the next stream asks for it
                        await asker.tell(self._has())
                is_of_another = self._wanted not in ("", self._shows())
                rest = min(LOOK_SECONDS, REST_PART * self._life_seconds)
                await self._sleep(AGAIN_SECONDS if is_of_another else rest)
                continue
            except (OSError, TimeoutError, Refused, NotTheCertificate) as error:
                said = str(error) or type(error).__name__
                log.warning("the certificate is not renewed yet", reason=said)
            left = self._own.not_valid_after_utc.timestamp() - self._env.now()
            await asyncio.sleep(min(AGAIN_SECONDS, max(0.2, left / 10)))

    async def _sleep(self, seconds: float) -> None:
        """Or until a master has said whom to trust."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()
        self._told.clear()

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
            if issuer(given, x509.load_pem_x509_certificates(authorities)) is None:
                raise NotTheCertificate("the certificate is of none of the cluster's authorities")
        except (ValueError, NotABearer) as error:
            raise NotTheCertificate(f"the certificate cannot be used: {error}") from error
