"""TLS for the public API, from files that may be replaced while the master runs."""

import ssl
from pathlib import Path


class BadCertificate(ValueError):
    """The files cannot be used; the text says why."""


class ApiTls:
    """`context` is for the listening socket. Raises BadCertificate and OSError, `reload` as well."""

    def __init__(self, certificate: str, key: str) -> None:
        """Paths of PEM files: the chain, the master's own certificate first, and its key."""
        self._certificate, self._key = Path(certificate), Path(key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.reload()

    def reload(self) -> None:
        """Connections that come from now on get what is in the files; the others go on as they are."""
        if self._key.stat().st_mode & 0o077:
            raise BadCertificate(f"{self._key} can be read by others: chmod 600 {self._key}")
        try:
            # First into another context: a half that is wrong must not replace what works.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
        except ssl.SSLError as error:
            raise BadCertificate(
                f"{self._certificate} and {self._key} are no certificate and its key: {error.reason}"
            ) from error
        self.context.load_cert_chain(self._certificate, self._key)
