"""Asking registries: the OCI distribution specification's `/v2`, with Basic and token authentication.

A password goes to the registry itself, or to the token server that it names, over TLS; without TLS only
where both are on this machine. Nothing that is raised holds it.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from orca_master.errors import NotReady
from orca_master.identity.registries.accounts import Account
from orca_master.identity.registries.challenges import Challenge, challenges
from orca_master.identity.registries.reference import Reference, base_url, is_loopback

ANSWER_SECONDS = 10.0
MOST_ANSWER_BYTES = 1 << 20
MOST_REASON_CHARACTERS = 200
REFUSALS = (401, 403)


class WrongAccount(Exception):
    """The registry, or its token server, does not let this account in. The text is its reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a registry. `reason`: what it says of an error, for people."""

    status: int
    digest: str = ""
    reason: str = ""
    challenges: Sequence[Challenge] = ()


async def manifest(
    image: str, reference: Reference, account: Account | None, accept: str
) -> Answer:
    """What a registry says when asked for an image, without its content. Raises NotReady."""
    url = URL(f"{base_url(reference.host)}/v2/{reference.path}/manifests/{reference.tag}")
    scope = f"repository:{reference.path}:pull"
    try:
        async with _session(f"the registry of {image}") as session:
            return await _let_in(session, "HEAD", url, account, {"Accept": accept}, scope)
    except WrongAccount as error:
        return Answer(401, reason=str(error))


async def check(host: str, account: Account) -> None:
    """Whether the registry lets the account in. Raises WrongAccount; NotReady: it cannot be known."""
    url = URL(f"{base_url(host)}/v2/")
    async with _session(f"registry {host}") as session:
        first = await _asked(session, "GET", url, {})
        if first.status == 200:
            raise NotReady(f"registry {host} lets everybody in, whatever the password")
        answer = await _let_in(session, "GET", url, account, {}, "", first=first)
    if answer.status in REFUSALS:
        raise WrongAccount(answer.reason or f"it answered {answer.status}")
    if answer.status != 200:
        raise NotReady(f"registry {host} answered {answer.status}")


@asynccontextmanager
async def _session(whose: str) -> AsyncIterator[aiohttp.ClientSession]:
    """What goes wrong inside, and what takes too long, is raised as NotReady."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS), aiohttp.ClientSession() as session:
            yield session
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        told = _printable(str(error)) or type(error).__name__
        why = "in time" if isinstance(error, TimeoutError) else f"as it should ({told})"
        raise NotReady(f"{whose} does not answer {why}") from error


async def _let_in(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    account: Account | None,
    headers: dict[str, str],
    scope: str,
    *,
    first: Answer | None = None,
) -> Answer:
    """The answer once it was told who asks, if it wants to know. Raises WrongAccount."""
    answer = first or await _asked(session, method, url, headers)
    if answer.status != 401:
        return answer
    for challenge in answer.challenges:
        if challenge.scheme == "bearer" and "realm" in challenge.parameters:
            token = await _token(session, url, challenge, account, scope)
            return await _asked(
                session, method, url, headers | {"Authorization": f"Bearer {token}"}
            )
        if challenge.scheme == "basic" and account is not None:
            return await _asked(session, method, url, headers | {"Authorization": _basic(account)})
    return answer


async def _token(
    session: aiohttp.ClientSession,
    registry: URL,
    challenge: Challenge,
    account: Account | None,
    scope: str,
) -> str:
    """From the server that the registry names. Raises WrongAccount, ValueError."""
    realm = URL(challenge.parameters["realm"])
    is_on_this_machine = is_loopback(registry.host or "") and is_loopback(realm.host or "")
    if realm.scheme != "https" and not (realm.scheme == "http" and is_on_this_machine):
        raise ValueError(f"its token server {realm.host} is not asked without TLS")
    asked = {"service": challenge.parameters.get("service", "")}
    asked["scope"] = challenge.parameters.get("scope", "") or scope
    headers = {} if account is None else {"Authorization": _basic(account)}
    async with session.get(
        realm.update_query({name: value for name, value in asked.items() if value}),
        headers=headers,
        allow_redirects=False,
    ) as answer:
        body = await _body(answer)
        if answer.status in REFUSALS:
            raise WrongAccount(_reason(body) or f"its token server answered {answer.status}")
        if answer.status != 200:
            raise ValueError(f"its token server answered {answer.status}")
    found = json.loads(body)
    token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
    if not isinstance(token, str):
        raise ValueError("its token server gave no token")
    return token


async def _asked(
    session: aiohttp.ClientSession, method: str, url: URL, headers: dict[str, str]
) -> Answer:
    async with session.request(method, url, headers=headers, allow_redirects=False) as answer:
        return Answer(
            status=answer.status,
            digest=answer.headers.get("Docker-Content-Digest", ""),
            reason=_reason(await _body(answer)),
            challenges=challenges(answer.headers.getall("WWW-Authenticate", [])),
        )


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """All of it, as far as it is of use."""
    pieces, left = [], MOST_ANSWER_BYTES
    while left and (piece := await answer.content.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _reason(body: bytes) -> str:
    """The sentence in `{"errors": [{"message"}]}`, or in what token servers say instead."""
    try:
        told = json.loads(body)
        first = told["errors"][0] if told.get("errors") else told
        said = first.get("message") or first.get("details") or ""
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return ""
    return _printable(said) if isinstance(said, str) else ""


def _basic(account: Account) -> str:
    pair = f"{account.username}:{account.password}".encode()
    return "Basic " + b64encode(pair).decode()


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:MOST_REASON_CHARACTERS]
