"""Health checks over HTTP, against this node's own ports."""

import asyncio

from orca_proto import worker_pb2 as pb
from orca_worker.http import NotHttp, get_status

HOST = "127.0.0.1"
CHECKS_AT_ONCE = 64


class HttpProber:
    """One per worker. A check succeeds on any status from 200 to 399; redirects are not followed."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(self, check: pb.HealthCheck, host_port: int) -> str | None:
        try:
            async with asyncio.timeout(check.timeout_seconds), self._slots:
                status = await get_status(HOST, host_port, check.path)
        except TimeoutError:
            return f"no answer within {check.timeout_seconds:g} s"
        except ConnectionRefusedError:
            return "nothing listens on its port"
        except (NotHttp, OSError) as error:
            return str(error) or type(error).__name__
        return None if status < 400 else f"answered {status}"
