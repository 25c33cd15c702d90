"""This master's own certificate and the TLS that masters speak with each other.

The certificate is kept on disk because a master needs it to hear from the others before it has the
state from which it could make a new one. Each start with a known state renews it, and so does a master
that runs, when two thirds of its life are over; connections that stand are not touched.
"""

import ssl

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from orca_common.env import Env
from orca_master.app.folder import BadFolder, Folder, write_private
from orca_master.cluster import pki
from orca_master.http.port import NotAllowedHere
from orca_proto.identity import NodeRole, NotABearer, bearer_of_client, renew_at


class Credentials:
    """What was renewed is used from then on, also by the TLS contexts that were given out."""

    def __init__(self, env: Env, folder: Folder) -> None:
        self._env = env
        self._folder = folder
        self._contexts: list[ssl.SSLContext] = []

    @property
    def exist(self) -> bool:
        return self._folder.own_certificate.exists() and self._folder.authority.exists()

    def renew(self, signer: pki.Signer) -> None:
        """A new key and certificate for this master. Raises OSError."""
        certificate, key = pki.issue_master(self._env, signer, self._folder.master_id)
        self._folder.authority.parent.mkdir(exist_ok=True, mode=0o700)
        write_private(self._folder.authority, signer.pem)
        write_private(self._folder.own_certificate, certificate + key)
        for context in self._contexts:
            context.load_cert_chain(self._folder.own_certificate)

    def renew_at(self) -> float:
        """Unix seconds."""
        return renew_at(load_pem_x509_certificate(self._folder.own_certificate.read_bytes()))

    def authority(self) -> bytes:
        return self._folder.authority.read_bytes()

    def certificate_and_key(self) -> tuple[bytes, bytes]:
        """PEM both."""
        both = self._folder.own_certificate.read_bytes()
        certificate = load_pem_x509_certificate(both).public_bytes(Encoding.PEM)
        return certificate, both[both.index(b"-----BEGIN PRIVATE KEY") :]

    def server(self) -> ssl.SSLContext:
        """TLS 1.3; whoever connects shows a certificate of the cluster's authority. Raises BadFolder."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """TLS 1.3; checks the server's certificate and name. Raises BadFolder."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def verify(self, certificate: bytes) -> str:
        """The id of the master of this cluster that shows this certificate (DER).

        Raises NotAllowedHere.
        """
        try:
            pem = ssl.DER_cert_to_PEM_cert(certificate).encode()
            bearer = bearer_of_client(pem)
        except (NotABearer, ValueError) as error:
            raise NotAllowedHere(f"the certificate is refused: {error}") from error
        if bearer.cluster != self._folder.cluster_id or bearer.role is not NodeRole.MASTER:
            raise NotAllowedHere(f"{bearer.uri} is no master of this cluster")
        return bearer.id

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self._folder.own_certificate)
            context.load_verify_locations(self._folder.authority)
        except (OSError, ssl.SSLError) as error:
            raise BadFolder(f"{self._folder.path}/tls cannot be used: {error}") from error
        self._contexts.append(context)
        return context
