"""Do all masters hold the same? Each compares its marks with the others'; the odd one stops.

Marks are digests of the state at every 1,000th version. What differs was damaged in memory, or was
applied by code that is not the same: to go on would spread it.
"""

import asyncio
from typing import Protocol

from orca_common.logs import get_logger
from orca_master.cluster.masters.port import Membership
from orca_master.errors import OrcaError
from orca_master.state.marks import Agreement, Marks, odd_one_out
from orca_master.state.store import Store

COMPARE_EVERY_SECONDS = 2.0

log = get_logger("masters")


class Diverged(Exception):
    """This master's state is not what a majority holds. Stop the process."""


class AsksForMarks(Protocol):
    def addresses(self) -> dict[str, str]: ...
    async def marks(self, name: str) -> Marks: ...


class AgreementWatch:
    """Runs on every master. `doubts` says what is known of a difference that nobody could decide."""

    def __init__(self, store: Store, membership: Membership, others: AsksForMarks) -> None:
        self._store = store
        self._membership = membership
        self._others = others
        self._compared: Marks = {}
        self.doubts: list[str] = []

    async def run(self) -> None:
        """Raises Diverged."""
        while True:
            await asyncio.sleep(COMPARE_EVERY_SECONDS)
            if self._store.marks != self._compared:
                await self.compare()

    async def compare(self) -> None:
        """Raises Diverged."""
        mine = self._store.marks
        voters = sum(member.is_voter for member in self._membership.members())
        asked = []
        for name in self._others.addresses():
            try:
                asked.append(await self._others.marks(name))
            except (OrcaError, ValueError, KeyError) as error:
                log.info("a master was not compared with", name=name, reason=str(error))
        verdict = odd_one_out(mine, asked, voters)
        if verdict.agreement is Agreement.ODD:
            raise Diverged(
                f"the state of this master at version {verdict.version} is not what the majority of"
                " masters holds: its memory or its software is at fault. It stops so that nothing"
                " worse comes of it; let it join again in a new folder"
            )
        if verdict.agreement is Agreement.UNDECIDED:
            self.doubts = [f"masters hold different states at version {verdict.version}"]
            log.error("masters hold different states", version=verdict.version)
            return
        self.doubts = []
        if len(asked) == len(self._others.addresses()):
            self._compared = mine
