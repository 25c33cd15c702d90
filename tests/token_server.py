"""A token server for a registry's `auth: token`: one account, RS256, its certificate in each token."""

import base64
import datetime
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from engine import ACCOUNT

SERVICE, ISSUER = "here", "the-tests"


class TokenServer:
    """A context; `auth` is the registry's configuration. `refused` counts who was not let in."""

    def __init__(self, folder: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._certificate = _own_certificate(self._key)
        bundle = folder / "tokens.pem"
        bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self.refused = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = server.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        realm = f"http://127.0.0.1:{self._server.server_port}/token"
        self.auth = (
            f"token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER},"
            f" rootcertbundle: {bundle}}}"
        )

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        pair = base64.b64encode(":".join(ACCOUNT).encode()).decode()
        if authorization != f"Basic {pair}":
            self.refused += 1
            return 401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "no such account"}]}'
        asked = parse_qs(urlsplit(path).query)
        access = [_access(scope) for text in asked.get("scope", []) for scope in text.split(" ")]
        return 200, json.dumps({"token": self._token(access)}).encode()

    def _token(self, access: list[dict[str, object]]) -> str:
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": SERVICE, "sub": ACCOUNT[0], "exp": now + 300, "nbf": now - 60,
            "iat": now, "jti": str(time.monotonic_ns()), "access": access,
        }  # fmt: skip
        signed = f"{_packed(json.dumps(head).encode())}.{_packed(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_packed(signature)}"


def _access(scope: str) -> dict[str, object]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _own_certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
