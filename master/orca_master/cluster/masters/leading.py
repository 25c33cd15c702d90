"""Who leads and where he is reached, for those who pass requests on to him."""

import asyncio

from orca_master.cluster.model import MASTERS
from orca_master.errors import NotLeader
from orca_master.state.store import Store

LOOK_AGAIN_SECONDS = 0.1
"""A leader whose address is not known yet: its row is on the way."""


class WhoLeads:
    def __init__(self, store: Store, me: str) -> None:
        self._store = store
        self._me = me

    async def leader(self, seconds: float) -> str | None:
        """See `http.forward.Leading`."""
        if self._store.leadership.is_leader:
            return None
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                while True:
                    seen = self._store.leadership
                    if seen.is_leader:
                        return None
                    address = self._address_of(seen.leader)
                    if address is not None:
                        return address
                    if seen.leader in (None, self._me):
                        await self._store.leadership_change(seen)
                    else:
                        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        except TimeoutError as error:
            raise NotLeader(
                "no master leads at the moment: too few of them reach each other;"
                " nothing was changed, ask again"
            ) from error

    def address(self) -> str | None:
        """See `http.forward.Leading`."""
        return self._address_of(self._store.leadership.leader)

    def _address_of(self, leader: str | None) -> str | None:
        if leader is None or leader == self._me:
            return None
        master = self._store.state.get(MASTERS, leader)
        return master.peers or None if master is not None else None
