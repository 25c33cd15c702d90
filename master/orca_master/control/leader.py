"""Leader-only loops: started together on election, cancelled together on loss."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.logs import get_logger
from orca_master.errors import TooLarge, Trouble
from orca_master.state.log import Leadership
from orca_master.state.store import Store

log = get_logger("control")


class Controller(Protocol):
    """A loop that decides something; see ARCHITECTURE.md, "a slice"."""

    async def run(self) -> None: ...


async def run_while_leader(store: Store, controllers: Sequence[Controller]) -> None:
    """Run the controllers whenever this master leads, until cancelled.

    A controller that cannot commit (leadership is going, the disk is full, a change took longer than
    it may because the machine is starved) ends the round; the next one begins a second later, if this
    master still leads. Any other exception is a fault of the kernel and ends the process.
    """
    seen = store.leadership
    while True:
        if seen.is_leader:
            log.info("leadership began", term=seen.term)
            seen = await _lead(store, controllers)
            log.info("leadership round ended", term=seen.term, leader=seen.is_leader)
        else:
            seen = await store.leadership_change(seen)


async def _lead(store: Store, controllers: Sequence[Controller]) -> Leadership:
    try:
        async with asyncio.TaskGroup() as group:
            for controller in controllers:
                group.create_task(controller.run())
            await store.leadership_change(store.leadership)
            raise _Ended
    except* _Ended:
        go_on_unless_cancelled()
    except* (Trouble, TooLarge) as troubles:
        go_on_unless_cancelled()
        log.warning("controllers paused", reasons=[str(e) for e in troubles.exceptions])
        await asyncio.sleep(1.0)
    return store.leadership


class _Ended(Exception):
    """Leadership has changed; ends the round."""
