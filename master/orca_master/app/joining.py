"""How a master joins a cluster: from a one-time token to an identity, then to the cluster's key.

    1  ask any master for the CA, check it against the token         (plain HTTP is enough)
    2  have a certificate request signed by the token's key enrolled  → id, certificate, addresses
    3  over mutual TLS, on the port between masters: the key-encryption key

What travels in step 1 and 2 lets nobody else in; see docs/adr/0005 and 0013.
"""

import asyncio
import base64
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orca_common.logs import get_logger
from orca_master.app.folder import first_peers, joined_folder, write_private
from orca_master.http.forward import ALPN
from orca_proto.identity import MASTER_NAME, NodeRole
from orca_proto.join import ANOTHER_CLUSTER, JoinToken, trusted_by
from orca_proto.trust import bundle, issuer

API_PORT = 6880
ANSWER_SECONDS = 15.0
ENROL_TRIES = 100
KEY_SECONDS = 30.0
BETWEEN_TRIES_SECONDS = 0.3
TRY_AGAIN = {502, 503, 504}

log = get_logger("joining")


class CannotJoin(Exception):
    """The text says why, and what to do."""


class NotNow(CannotJoin):
    """It may go in a moment."""


async def enrol(apis: list[str], token: JoinToken, *, name: str, peers: str, folder: Path) -> None:
    """Steps 1 and 2, with the first of these API addresses that answers. Raises CannotJoin."""
    problems = []
    for api in apis:
        address = _url(api)
        try:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            async with aiohttp.ClientSession(address, timeout=timeout) as session:
                await _enrol(session, token, name, peers, folder)
            return
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
            said = str(error) or type(error).__name__
            problems.append(f"no master answers properly at {address}: {said}")
    raise CannotJoin("; ".join(problems))


def _url(api: str) -> str:
    """`HOST` and `HOST:PORT` are short for `http://HOST:6880`."""
    url = api if "//" in api else f"http://{api}"
    parts = urlsplit(url)
    bare = parts.scheme == "http" and parts.port is None and not parts.path
    return f"{url}:{API_PORT}" if bare else url.rstrip("/")


async def fetch_key(folder: Path) -> None:
    """Step 3, from whichever master has this one in its state first. Raises CannotJoin."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        addresses = first_peers(folder)
        tls.load_cert_chain(folder / "tls" / "master.pem")
        tls.load_verify_locations(folder / "tls" / "ca.pem")
    except (OSError, ValueError, KeyError) as error:
        raise CannotJoin(f"{folder} is damaged ({error}): join again in a new folder") from error
    tls.set_alpn_protocols([ALPN])
    problem = "no other master is known"
    try:
        async with asyncio.timeout(KEY_SECONDS), aiohttp.ClientSession() as session:
            while True:
                for address in addresses:
                    url = f"https://{address}/internal/v1/keys"
                    try:
                        async with session.get(
                            url, ssl=tls, server_hostname=MASTER_NAME
                        ) as response:
                            answer = await response.json()
                            if response.status == 200:
                                write_private(folder / "kek", base64.b64decode(answer["kek"]))
                                return
                            problem = str(answer.get("error"))
                    except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
                        problem = f"{address}: {str(error) or type(error).__name__}"
                await asyncio.sleep(BETWEEN_TRIES_SECONDS)
    except TimeoutError as error:
        raise CannotJoin(
            f"no master hands over the cluster's key ({problem}): the port between masters must be"
            " open in both directions; start again to go on"
        ) from error


async def _enrol(
    session: aiohttp.ClientSession, token: JoinToken, name: str, peers: str, folder: Path
) -> None:
    authorities = trusted_by(token, await _json(session, "GET", "ca"))
    if not authorities:
        raise CannotJoin(ANOTHER_CLUSTER)
    key = ec.generate_private_key(ec.SECP256R1())
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = empty.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    signature = token.sign(f"{name} {peers}", request, NodeRole.MASTER)
    body = {
        "name": name,
        "peers": peers,
        "token": token.public_key,
        "request": base64.b64encode(request).decode(),
        "signature": base64.b64encode(signature).decode(),
    }
    answer = await _enrolled(session, body)
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    if issuer(certificate, authorities) is None:
        raise CannotJoin("the certificate in the answer is not of the cluster's CA")
    if certificate.public_key() != key.public_key():
        raise CannotJoin("the certificate in the answer is for another key")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    joined_folder(
        folder,
        cluster_id=answer["cluster_id"],
        master_id=answer["id"],
        authority=bundle(authorities),
        certificate_and_key=certificate.public_bytes(Encoding.PEM) + pem,
        first_peers={str(id): str(at) for id, at in answer["masters"].items() if at},
    )
    log.info("enrolled", id=answer["id"], cluster=answer["cluster_id"])


async def _enrolled(session: aiohttp.ClientSession, body: dict[str, str]) -> dict[str, Any]:
    """The answer to a request that may be repeated: the same key is the same master. Who leads may
    change while it is under way, and then nobody knows what came of it."""
    for _ in range(ENROL_TRIES):
        try:
            return await _json(session, "POST", "masters/enroll", body)
        except (NotNow, aiohttp.ClientError, TimeoutError) as error:
            log.info("asking again to be enrolled", reason=str(error) or type(error).__name__)
        await asyncio.sleep(BETWEEN_TRIES_SECONDS)
    return await _json(session, "POST", "masters/enroll", body)


async def _json(
    session: aiohttp.ClientSession, method: str, path: str, body: object = None
) -> dict[str, Any]:
    async with session.request(method, f"/api/v1/cluster/{path}", json=body) as response:
        raw = await response.text()
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise CannotJoin(f"{response.url} is no Orca master") from error
        if not isinstance(answer, dict):
            raise CannotJoin(f"{response.url} is no Orca master")
        if response.status >= 400:
            kind = NotNow if response.status in TRY_AGAIN else CannotJoin
            raise kind(str(answer.get("error", f"the master answered {response.status}")))
        return answer
