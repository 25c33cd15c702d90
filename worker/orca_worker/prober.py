"""Health checks over HTTP, against this node's own ports."""

import aiohttp

from orca_proto import worker_pb2 as pb


class HttpProber:
    """One per worker. A check succeeds on any status from 200 to 399; redirects are not followed."""

    def __init__(self) -> None:
        self._client: aiohttp.ClientSession | None = None

    async def check(self, check: pb.HealthCheck, host_port: int) -> str | None:
        if self._client is None:
            connector = aiohttp.TCPConnector(limit=64, force_close=True)
            self._client = aiohttp.ClientSession(connector=connector, trust_env=False)
        timeout = aiohttp.ClientTimeout(total=check.timeout_seconds)
        url = f"http://127.0.0.1:{host_port}{check.path}"
        try:
            async with self._client.get(url, timeout=timeout, allow_redirects=False) as answer:
                if 200 <= answer.status < 400:
                    return None
                return f"answered {answer.status}"
        except TimeoutError:
            return f"no answer within {check.timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return _in_words(error)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nothing listens on its port"
    return str(error) or type(error).__name__
