"""Which image a tag names now, asked of its registry (OCI distribution specification, `/v2`)."""

import asyncio
import json
import re
import socket
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

import aiohttp

from orca_master.errors import NotReady

HUB = "registry-1.docker.io"
ANSWER_SECONDS = 10.0
MOST_TOKEN_BYTES = 1 << 20
ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_PLAIN = ("localhost", "127.0.0.1", "[::1]")


class Digests(Protocol):
    async def digest_of(self, image: str) -> str:
        """`sha256:…` of what this image names now. Raises NotReady with the reason."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """`registry.example/team/app:1` in its parts, with the defaults filled in."""

    host: str
    path: str
    tag: str

    @property
    def base(self) -> str:
        scheme = "http" if self.host.partition(":")[0] in _PLAIN else "https"
        return f"{scheme}://{self.host}"


def parse(image: str) -> Reference:
    name, _, _ = image.partition("@")
    first, slash, rest = name.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    host, path = (first, rest) if has_host else (HUB, name if slash else f"library/{name}")
    path, colon, tag = path.rpartition(":") if ":" in path else (path, "", "")
    return Reference(HUB if host == "docker.io" else host, path, tag if colon else "latest")


def pinned(image: str, digest: str) -> str:
    """The same image, by its digest; the tag stays for people to read, and to be asked for again."""
    name, _, _ = image.partition("@")
    return f"{name}@{digest}"


class Registries:
    """Asks without an account, or with the token that a registry gives to anybody."""

    async def digest_of(self, image: str) -> str:
        reference = parse(image)
        url = f"{reference.base}/v2/{reference.path}/manifests/{reference.tag}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS), aiohttp.ClientSession() as session:
                return await self._asked(session, url, image)
        except (aiohttp.ClientError, OSError, socket.gaierror, TimeoutError, ValueError) as error:
            raise NotReady(f"the registry of {image} does not answer: {error!r}"[:300]) from error

    async def _asked(self, session: aiohttp.ClientSession, url: str, image: str) -> str:
        headers = {"Accept": ACCEPTED}
        async with session.head(url, headers=headers) as answer:
            status, told = answer.status, answer.headers
        if status == 401 and (token := await _token(session, told.get("WWW-Authenticate", ""))):
            headers["Authorization"] = f"Bearer {token}"
            async with session.head(url, headers=headers) as answer:
                status, told = answer.status, answer.headers
        if status != 200:
            raise NotReady(
                f"the registry of {image} answered {status} when asked which image that is"
            )
        digest = told.get("Docker-Content-Digest", "")
        if not _DIGEST.fullmatch(digest):
            raise NotReady(f"the registry of {image} does not say which image that is")
        return digest


async def _token(session: aiohttp.ClientSession, challenge: str) -> str:
    """That anybody gets who asks as the registry says; empty for another scheme."""
    if not challenge.lower().startswith("bearer "):
        return ""
    asked = dict(_CHALLENGE.findall(challenge))
    realm = asked.pop("realm", "")
    if not realm.startswith("https://"):
        return ""
    async with session.get(f"{realm}?{urlencode(asked)}") as answer:
        body = await answer.content.read(MOST_TOKEN_BYTES)
    found = json.loads(body)
    return str(found.get("token") or found.get("access_token") or "")
