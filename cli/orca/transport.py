"""How the client asks: one master after the other, again where nothing was done, errors as exceptions."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp

from orca.errors import CannotReach, NotAllowed, OrcaError, Refused

CONNECT_SECONDS = 5.0
ROUNDS = 2
BETWEEN_ROUNDS_SECONDS = 0.5
AGAIN = (503, 504)
"""Another master may know better, or the same one in a moment."""
ANSWER_SECONDS = 30.0

_NOT_ORCA = "the answer is not Orca's: is this the address of a master's API?"


class Transport:
    """See `client.Client`. `rounds`: how often every master is asked where asking again does no harm, half a
    second between; the patient outlast an election on a busy machine."""

    def __init__(
        self, api: str | Sequence[str], token: str | None = None, *, rounds: int = ROUNDS
    ) -> None:
        self._rounds = rounds
        self._apis = [each.rstrip("/") for each in ([api] if isinstance(api, str) else api)]
        self._first = 0
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        answers_with_errors: bool = False,
        seconds: float = ANSWER_SECONDS,
        once: bool = True,
    ) -> dict[str, Any]:
        async with self._answered(
            method, path, params=params, body=body, seconds=seconds, once=once
        ) as response:
            failed = response.status >= 400
            if failed and not (answers_with_errors and response.status == 500):
                raise await error_of(response)
            try:
                answer: dict[str, Any] = await response.json(content_type=None)
            except ValueError as error:
                raise Refused(_NOT_ORCA, status=response.status) from error
            if not isinstance(answer, dict):
                raise Refused(_NOT_ORCA, status=response.status)
            if failed and "errors" not in answer:
                raise Refused(str(answer.get("error")), status=response.status)
            return answer

    @asynccontextmanager
    async def _answered(
        self, method: str, path: str, *, once: bool = False, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`once` says that the change may be sent again: it is done once under its key."""
        try:
            response = await self._ask(method, path, once=once, **request)
            async with response:
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise CannotReach(f"the master was lost while it answered ({_why(error)})") from error

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        once: bool,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> aiohttp.ClientResponse:
        """The answer of the first master that gives one. Raises CannotReach, Refused."""
        may_repeat = method == "GET" or once
        headers = dict(headers or {})
        if once and method != "GET":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        tries = len(self._apis) * (self._rounds if may_repeat else 1)
        problems: list[str] = []
        refused: OrcaError | None = None
        for number in range(1, tries + 1):
            api = self._apis[self._first % len(self._apis)]
            try:
                response = await self._request(method, api + path, headers=headers, **request)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                problems.append(f"{api} ({_why(error)})")
                if not may_repeat and not isinstance(error, aiohttp.ClientConnectorError):
                    raise CannotReach(
                        f"the master at {problems[-1]} was lost before it answered:"
                        " look whether it was done, then ask again"
                    ) from error
            else:
                if response.status not in AGAIN or not may_repeat or number == tries:
                    return response
                refused = await error_of(response)
                response.release()
            self._first += 1
            if number % len(self._apis) == 0:
                await asyncio.sleep(BETWEEN_ROUNDS_SECONDS)
        if refused is not None:  # by one that can be reached: it knows more than a connection
            raise refused
        raise CannotReach(f"no master answers at {', '.join(dict.fromkeys(problems))}")

    async def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        body: Any = None,
        seconds: float | None = ANSWER_SECONDS,
        silent_seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "use the client as a context: async with Client(...)"
        timeout = aiohttp.ClientTimeout(
            total=seconds, sock_connect=CONNECT_SECONDS, sock_read=silent_seconds
        )
        return await self._session.request(
            method, url, params=params, json=body, timeout=timeout, headers=headers
        )


def _why(error: Exception) -> str:
    """In few words: which address it was stands beside it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or str(error)
        return f"its certificate is not trusted: {why}; SSL_CERT_FILE names a file of authorities"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS: is it http://?"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return (os.strerror(cause.errno) if cause.errno and cause.errno > 0 else str(cause)).lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


async def error_of(response: aiohttp.ClientResponse) -> OrcaError:
    try:
        answer = await response.json(content_type=None)
        message, problems = str(answer["error"]), answer.get("problems", [])
    except (ValueError, KeyError, TypeError):
        message, problems = f"the server answered {response.status}", []
    if response.status in (401, 403):
        return NotAllowed(message, status=response.status)
    return Refused(message, status=response.status, problems=problems)
