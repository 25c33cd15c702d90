"""A command in the place of a plain process: its environment, folder, user and limits."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from orca_worker.runtime.port import RuntimeRefusal
from orca_worker.runtime.process import shim

COMMANDS_AT_ONCE = 8
KILLED_SECONDS = 15.0


class Executing:
    """Waiting for one's turn among the node's commands does not count as the command's own time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(COMMANDS_AT_ONCE)

    async def run(self, folder: str, command: Sequence[str], *, seconds: float) -> int:
        """Its exit code. What has not ended in time is killed. Raises TimeoutError, RuntimeRefusal."""
        async with self._turns:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", shim.__file__, folder, *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(seconds):
                    code = await process.wait()
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(KILLED_SECONDS):
                            await process.wait()
        if code == shim.CANNOT_RUN:
            raise RuntimeRefusal(f"the command {command[0]} cannot be run", permanent=True)
        return code if code >= 0 else 128 - code
