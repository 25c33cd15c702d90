"""Joining a cluster: from a one-time token to a certificate of this node's own."""

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from orca_common.logs import get_logger
from orca_proto.join import ANOTHER_CLUSTER, JoinToken, trusted_by
from orca_proto.trust import bundle, issuer
from orca_worker import http

TIMEOUT_SECONDS = 30.0
BETWEEN_TRIES_SECONDS = 0.3
TRY_AGAIN = {502, 503, 504}
KEY_BEGINS = b"-----BEGIN PRIVATE KEY"

log = get_logger("joining")


class CannotJoin(Exception):
    """The text says why, and what to do."""


class NotNow(CannotJoin):
    """It may go in a moment."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a node keeps of having joined. `masters` are `host:port` for the worker stream; `ca`: one
    authority, or two while one replaces the other; `token`: the public key of what it joined with.
    """

    node_id: str
    cluster_id: str
    masters: list[str]
    ca: bytes
    certificate: bytes
    key: bytes
    token: str = ""


def saved(folder: Path) -> Membership | None:
    """What an earlier `join` kept, or None. Raises CannotJoin when it is damaged."""
    if not (folder / "node.json").exists():
        return None
    try:
        node = json.loads((folder / "node.json").read_text())
        both = (folder / "node.pem").read_bytes()
        at = both.index(KEY_BEGINS)
        certificate, key = both[:at], both[at:]
        x509.load_pem_x509_certificate(certificate)
        return Membership(
            node_id=node["node_id"],
            cluster_id=node["cluster_id"],
            masters=list(node["masters"]),
            ca=(folder / "ca.pem").read_bytes(),
            certificate=certificate,
            key=key,
            token=str(node.get("token", "")),
        )
    except (OSError, ValueError, KeyError) as error:
        raise CannotJoin(
            f"{folder} is damaged ({error}): remove it and join again with a new token"
        ) from error


def keep_masters(folder: Path, masters: list[str]) -> None:
    """Remember where the masters are now. A disk that takes nothing loses only that."""
    try:
        node = json.loads((folder / "node.json").read_text())
        _write(folder / "node.json", json.dumps(node | {"masters": masters}).encode())
    except (OSError, ValueError) as error:
        log.warning("the masters' addresses are not kept", reason=str(error))


def keep_authorities(folder: Path, authorities: bytes) -> None:
    """Replace whom the node trusts. OSError."""
    _write(folder / "ca.pem", authorities)


def keep_certificate(folder: Path, certificate: bytes, key: bytes, authorities: bytes) -> None:
    """Replace what the node shows, and whom it trusts: the latter first, as it has the issuer. OSError."""
    keep_authorities(folder, authorities)
    _write(folder / "node.pem", certificate + key)


async def join(api: str, token: JoinToken, name: str, folder: Path) -> Membership:
    """Enrol with the master at this API address and keep the result. Raises CannotJoin, OSError."""
    api = api.rstrip("/")
    key = _own_key(folder)
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = empty.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            authorities = await _trusted(api, token)
            body = {
                "name": name,
                "token": token.public_key,
                "request": base64.b64encode(request).decode(),
                "signature": base64.b64encode(token.sign(name, request)).decode(),
            }
            answer = await _enrolled(f"{api}/api/v1/cluster/enroll", body)
    except (TimeoutError, OSError) as error:
        said = str(error) or type(error).__name__
        raise CannotJoin(f"the master at {api} cannot be reached: {said}") from error
    membership = Membership(
        node_id=answer["node_id"],
        cluster_id=answer["cluster_id"],
        masters=list(answer["masters"]),
        ca=bundle(authorities),
        certificate=answer["certificate"].encode(),
        key=_pem(key),
        token=token.public_key,
    )
    _check_certificate(membership, authorities, key)
    _save(membership, folder)
    return membership


def _own_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Kept before it is used: a worker that was killed while it joined asks again as the same node."""
    path = folder / "node.key"
    if path.exists():
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise CannotJoin(f"{path} is damaged ({error}): remove it and join again") from error
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
        raise CannotJoin(f"{path} is no key of this program: remove it and join again")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    _write(path, _pem(key))
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def _trusted(api: str, token: JoinToken) -> list[x509.Certificate]:
    answer = await _json("GET", f"{api}/api/v1/cluster/ca")
    try:
        authorities = trusted_by(token, answer)
    except (ValueError, KeyError, TypeError) as error:
        raise CannotJoin(f"{api} is no Orca master: {error}") from error
    if not authorities:
        raise CannotJoin(ANOTHER_CLUSTER)
    return authorities


async def _enrolled(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that may be repeated: the same key is the same node. Who leads may
    change while it is under way, and then nobody knows what came of it."""
    while True:
        try:
            return await _json("POST", url, body)
        except (NotNow, OSError) as error:
            log.info("asking again to be enrolled", reason=str(error) or type(error).__name__)
        await asyncio.sleep(BETWEEN_TRIES_SECONDS)


async def _json(method: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    try:
        raw = None if body is None else json.dumps(body).encode()
        status, text = await http.request(method, url, body=raw)
    except http.NotHttp as error:
        raise CannotJoin(f"{url} is no Orca master: {error}") from error
    except ValueError as error:
        raise CannotJoin(str(error)) from error
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise CannotJoin(f"{url} is no Orca master (status {status})") from error
    if not isinstance(answer, dict):
        raise CannotJoin(f"{url} is no Orca master (status {status})")
    if status >= 400:
        kind = NotNow if status in TRY_AGAIN else CannotJoin
        raise kind(str(answer.get("error", f"the master answered {status}")))
    return answer


def _check_certificate(
    membership: Membership,
    authorities: list[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
) -> None:
    certificate = x509.load_pem_x509_certificate(membership.certificate)
    if issuer(certificate, authorities) is None:
        raise CannotJoin("the certificate in the answer is not of the cluster's CA")
    if certificate.public_key() != key.public_key():
        raise CannotJoin("the master answered with a certificate for another key")


def _save(membership: Membership, folder: Path) -> None:
    """`node.json` last: a folder without it counts as not joined."""
    node = {
        "node_id": membership.node_id,
        "cluster_id": membership.cluster_id,
        "masters": membership.masters,
        "token": membership.token,
    }
    keep_certificate(folder, membership.certificate, membership.key, membership.ca)
    _write(folder / "node.json", json.dumps(node).encode())


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
