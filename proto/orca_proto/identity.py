"""How a certificate names its bearer, for both ends of every internal connection.

Each certificate carries one URI `orca://<cluster id>/<role>/<id>` as subject alternative name. A
master's also carries the DNS name `MASTER_NAME`, which no other role gets: clients check the server
against that name, wherever it is reached.
"""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

MASTER_NAME = "master.orca.internal"


class NodeRole(StrEnum):
    MASTER = "master"
    WORKER = "worker"


class NotABearer(Exception):
    """The certificate does not name a bearer of ours; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Bearer:
    cluster: str
    role: NodeRole
    id: str

    @property
    def uri(self) -> str:
        return f"orca://{self.cluster}/{self.role}/{self.id}"


def renew_at(certificate: x509.Certificate) -> float:
    """When two thirds of its life are over, in Unix seconds: there is time left to try again."""
    begin = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return end - (end - begin) / 3


def bearer_of_client(pem: bytes) -> Bearer:
    """Who presents this client certificate. The chain has been verified by TLS already.

    The library accepts certificates without the client usage, and the CA's own: both are refused
    here. Raises NotABearer.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    extensions = certificate.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise NotABearer("a CA certificate is no client certificate")
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise NotABearer(f"the certificate lacks {error.oid.dotted_string}") from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise NotABearer("the certificate is not for clients")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise NotABearer("the certificate must carry exactly one URI name")
    parts = urlsplit(uris[0])
    role, _, id = parts.path.removeprefix("/").partition("/")
    if parts.scheme != "orca" or role not in list(NodeRole) or not id:
        raise NotABearer(f"the certificate's name {uris[0]!r} is none of ours")
    return Bearer(parts.netloc, NodeRole(role), id)
