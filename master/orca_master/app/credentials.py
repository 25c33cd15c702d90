"""This master's own certificate, whose certificates it trusts, and the TLS that masters speak.

Both are kept on disk because a master needs them to hear from the others before it has the state from
which it could make new ones. What is renewed, and who is trusted besides, is used from then on, also
by the TLS contexts that were given out. Who is trusted no more cannot be taken out of such a context:
`verify` refuses him, and `asking` gives a new one. Connections that stand are for those to look at who
have them, when they are told (`when_trust_changes`).
"""

import ssl
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from orca_common.env import Env
from orca_master.app.folder import BadFolder, Folder, write_private
from orca_master.cluster import pki
from orca_master.http.port import NotAllowedHere
from orca_proto.identity import NodeRole, NotABearer, bearer_of_client, renew_at
from orca_proto.trust import fingerprint, fingerprints, issuer

MOST_VERIFIED = 100

AWAY = (
    "it was away while the cluster's authority was replaced: remove it with `orca masters remove`, and"
    " let it join again in a new folder"
)


class Credentials:
    def __init__(self, env: Env, folder: Folder) -> None:
        self._env = env
        self._folder = folder
        self._contexts: list[ssl.SSLContext] = []
        self._asking: ssl.SSLContext | None = None
        self._verified: dict[bytes, str] = {}
        self._listeners: list[Callable[[], None]] = []

    @property
    def exist(self) -> bool:
        return self._folder.own_certificate.exists() and self._folder.authority.exists()

    def renew(self, signer: pki.Signer) -> None:
        """A new key and certificate for this master; its authority is trusted. Raises OSError."""
        certificate, key = pki.issue_master(self._env, signer, self._folder.master_id)
        self._folder.authority.parent.mkdir(exist_ok=True, mode=0o700)
        trusted = self.authority() if self._folder.authority.exists() else b""
        if signer.fingerprint.hex() not in (fingerprints(trusted) if trusted else ()):
            self.trust(signer.pem + trusted)
        write_private(self._folder.own_certificate, certificate + key)
        for context in self._contexts:
            context.load_cert_chain(self._folder.own_certificate)
        self._asking = None

    def trust(self, authorities: bytes) -> None:
        """These (PEM) and nobody else from now on. Raises OSError."""
        write_private(self._folder.authority, authorities)
        for context in self._contexts:
            context.load_verify_locations(self._folder.authority)
        self._asking = None
        self._verified.clear()
        for tell in self._listeners:
            tell()

    def when_trust_changes(self, tell: Callable[[], None]) -> None:
        """`tell` is called whenever others are trusted than before."""
        self._listeners.append(tell)

    def renew_at(self) -> float:
        """Unix seconds."""
        return renew_at(self._own())

    def has_expired(self) -> bool:
        return self._env.now() >= self._own().not_valid_after_utc.timestamp()

    def authority(self) -> bytes:
        """Those that are trusted, PEM."""
        return self._folder.authority.read_bytes()

    def trusts(self) -> tuple[str, ...]:
        """Fingerprints of the authorities that are trusted."""
        return fingerprints(self.authority())

    def shows(self) -> str:
        """The fingerprint of the authority that has issued this master's certificate; empty: it is
        none of those that are trusted."""
        found = issuer(self._own(), x509.load_pem_x509_certificates(self.authority()))
        return fingerprint(found) if found is not None else ""

    def certificate_and_key(self) -> tuple[bytes, bytes]:
        """PEM both."""
        both = self._folder.own_certificate.read_bytes()
        certificate = x509.load_pem_x509_certificate(both).public_bytes(Encoding.PEM)
        return certificate, both[both.index(b"-----BEGIN PRIVATE KEY") :]

    def server(self) -> ssl.SSLContext:
        """TLS 1.3; whoever connects shows a certificate of the cluster's authority. Raises BadFolder."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        self._contexts.append(context)
        return context

    def client(self) -> ssl.SSLContext:
        """TLS 1.3; checks the server's certificate and name. Raises BadFolder."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        self._contexts.append(context)
        return context

    def asking(self) -> ssl.SSLContext:
        """As `client`, for one request: another context as soon as anything was renewed, so that no
        connection is used again that was made with what is worth nothing any more. Raises BadFolder."""
        if self._asking is None:
            self._asking = self._context(ssl.PROTOCOL_TLS_CLIENT)
        return self._asking

    def verify(self, certificate: bytes) -> str:
        """The id of the master of this cluster that shows this certificate (DER).

        Raises NotAllowedHere.
        """
        known = self._verified.get(certificate)
        if known is not None:
            return known
        try:
            pem = ssl.DER_cert_to_PEM_cert(certificate).encode()
            bearer = bearer_of_client(pem)
            shown = x509.load_pem_x509_certificate(pem)
        except (NotABearer, ValueError) as error:
            raise NotAllowedHere(f"the certificate is refused: {error}") from error
        if bearer.cluster != self._folder.cluster_id or bearer.role is not NodeRole.MASTER:
            raise NotAllowedHere(f"{bearer.uri} is no master of this cluster")
        if issuer(shown, x509.load_pem_x509_certificates(self.authority())) is None:
            raise NotAllowedHere(f"master {bearer.id} shows an old certificate; {AWAY}")
        if len(self._verified) >= MOST_VERIFIED:
            self._verified.clear()
        self._verified[certificate] = bearer.id
        return bearer.id

    def _own(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._folder.own_certificate.read_bytes())

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self._folder.own_certificate)
            context.load_verify_locations(self._folder.authority)
        except (OSError, ssl.SSLError) as error:
            raise BadFolder(f"{self._folder.path}/tls cannot be used: {error}") from error
        return context
