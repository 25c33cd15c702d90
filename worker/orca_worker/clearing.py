"""Stopping and removing all that runs on a node that left its cluster."""

import asyncio
from collections.abc import Iterable

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_worker.runtime.port import Runtime, RuntimeRefusal

GRACE_SECONDS = 5.0
TRY_SECONDS = 60.0
AGAIN_SECONDS = 0.5

log = get_logger("worker")


class NotCleared(Exception):
    """Something still runs here; the text says what."""


async def clear_all(env: Env, runtimes: Iterable[Runtime]) -> None:
    """What does not go at once is tried again: the machine may be busy, or a start be under way.

    Raises NotCleared.
    """
    until = env.monotonic() + TRY_SECONDS
    for runtime in runtimes:
        while refused := await _clear_once(runtime):
            if env.monotonic() > until:
                raise NotCleared(
                    f"what runs here could not all be stopped: {'; '.join(refused)}: mend that, then"
                    " start the worker with --clear"
                )
            log.warning("not all is stopped yet", reasons=refused)
            await asyncio.sleep(AGAIN_SECONDS)


async def _clear_once(runtime: Runtime) -> list[str]:
    """Why some of it is still there."""
    try:
        found = await runtime.list()
        ends = await asyncio.gather(*(_clear_one(runtime, each.task) for each in found))
        await runtime.sweep(())
    except RuntimeRefusal as refusal:
        return [str(refusal)]
    return [end for end in ends if end is not None]


async def _clear_one(runtime: Runtime, task_id: str) -> str | None:
    try:
        await runtime.stop(task_id, grace_seconds=GRACE_SECONDS)
        await runtime.remove(task_id)
    except RuntimeRefusal as refusal:
        return str(refusal)
    return None
