"""An asynchronous client of the HTTP API. Methods return the API's JSON; errors are exceptions."""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
DEPLOY_MARGIN_SECONDS = 30.0


class OrcaError(Exception):
    """The text is for people. `status` is the HTTP status, 0 when there was none."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CannotReach(OrcaError):
    """No master answered."""


class NotAllowed(OrcaError):
    """The token is missing, wrong (401), or lacks a permission (403)."""


class Refused(OrcaError):
    """The cluster refused or failed; `problems` lists each mistake of an invalid request."""

    def __init__(
        self, message: str, *, status: int, problems: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(message, status=status)
        self.problems = list(problems)


class Client:
    """Use as an asynchronous context. `api` is such as `http://127.0.0.1:6880`."""

    def __init__(self, api: str, token: str | None = None) -> None:
        self._api = api.rstrip("/")
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

    async def health(self) -> dict[str, Any]:
        return await self._json("GET", "/api/v1/health")

    async def deploy(
        self, services: Sequence[Mapping[str, Any]], *, wait: bool = True, timeout: float = 120.0
    ) -> dict[str, Any]:
        """`{deployed: [names], errors: ["name: reason"]}`; some or all may have failed."""
        return await self._json(
            "POST",
            "/api/v1/deploy",
            params={"wait": str(wait).lower(), "timeout": str(timeout)},
            body={"services": list(services)},
            answers_with_errors=True,
            seconds=timeout + DEPLOY_MARGIN_SECONDS,
        )

    async def status(self, *, project: str | None = None) -> list[dict[str, Any]]:
        answer = await self._json("GET", "/api/v1/status", params=_given(project=project))
        services: list[dict[str, Any]] = answer["services"]
        return services

    async def scale(
        self, name: str, replicas: int, *, project: str | None = None
    ) -> dict[str, Any]:
        return await self._json(
            "POST",
            f"/api/v1/services/{name}/scale",
            params=_given(project=project),
            body={"replicas": replicas},
        )

    async def stop(
        self, name: str, *, project: str | None = None, purge: bool = False
    ) -> dict[str, Any]:
        params = _given(project=project, purge="true" if purge else None)
        return await self._json("DELETE", f"/api/v1/services/{name}", params=params)

    async def stop_project(self, project: str, *, purge: bool = False) -> dict[str, Any]:
        params = _given(purge="true" if purge else None)
        return await self._json("DELETE", f"/api/v1/projects/{project}", params=params)

    async def stop_all(self, *, purge: bool = False) -> dict[str, Any]:
        params = _given(purge="true" if purge else None)
        return await self._json("POST", "/api/v1/stop", params=params)

    async def logs(
        self, name: str, *, tail: int = 100, project: str | None = None
    ) -> AsyncIterator[bytes]:
        path = f"/api/v1/services/{name}/logs"
        params = _given(tail=str(tail), project=project)
        async with self._request("GET", path, params=params) as response:
            if response.status >= 400:
                raise await _error(response)
            async for chunk in response.content.iter_any():
                yield chunk

    async def cluster_info(self) -> dict[str, Any]:
        return await self._json("GET", "/api/v1/cluster/info")

    async def join_token(self, *, ttl: float = 3600.0, uses: int = 1) -> str:
        """A token with which a worker can join."""
        body = {"ttl": float(ttl), "uses": uses}
        answer = await self._json("POST", "/api/v1/cluster/join-tokens", body=body)
        return str(answer["token"])

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        answers_with_errors: bool = False,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        try:
            async with self._request(
                method, path, params=params, body=body, seconds=seconds
            ) as response:
                failed = response.status >= 400
                if failed and not (answers_with_errors and response.status == 500):
                    raise await _error(response)
                answer: dict[str, Any] = await response.json(content_type=None)
                if failed and "errors" not in answer:
                    raise Refused(str(answer.get("error")), status=response.status)
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreached(error) from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:
        assert self._session is not None, "use the client as a context: async with Client(...)"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        return self._session.request(
            method, self._api + path, params=params, json=body, timeout=timeout
        )

    def _unreached(self, error: Exception) -> CannotReach:
        reason = str(error) or type(error).__name__
        return CannotReach(f"no master answers at {self._api} ({reason})")


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


async def _error(response: aiohttp.ClientResponse) -> OrcaError:
    try:
        answer = await response.json(content_type=None)
        message, problems = str(answer["error"]), answer.get("problems", [])
    except (ValueError, KeyError, TypeError):
        message, problems = f"the server answered {response.status}", []
    if response.status in (401, 403):
        return NotAllowed(message, status=response.status)
    return Refused(message, status=response.status, problems=problems)
