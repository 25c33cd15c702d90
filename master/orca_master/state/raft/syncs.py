"""Making the journal durable, and what is learned from it: how quick the disk is, and how well."""

from orca_common.env import Env
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.meters import Meters
from orca_master.state.raft.wellbeing import Wellbeing
from orca_master.state.solo.pace import Pace


class Syncs:
    """The driver's: one at a time. Each raises LogFailed: nobody knows what is durable; stop."""

    def __init__(self, env: Env, journal: Journal, meters: Meters) -> None:
        self._env = env
        self._journal = journal
        self._meters = meters
        self.pace = Pace()
        self.wellbeing = Wellbeing()
        self.are_under_way = False
        """In a thread: the loop turns meanwhile."""
        self.one_was_made = False
        """Since the driver last set this back."""

    def at_once(self) -> None:
        """On the loop, which stands still for so long."""
        self._note(self._timed())

    async def in_thread(self) -> None:
        self.are_under_way = True
        try:
            took = await self._env.threads.run(self._timed)
        finally:
            self.are_under_way = False
        self._note(took)

    def _timed(self) -> float:
        """The disk's seconds alone: with a thread's own, what was slow once would stay slow."""
        started = self._env.monotonic()
        self._journal.sync()
        return self._env.monotonic() - started

    def _note(self, took: float) -> None:
        self.one_was_made = True
        self.pace.took(took)
        self._meters.last_fsync_seconds = took
        self._meters.fsync.observe(took)
        average = self.pace.average_seconds
        self.wellbeing.was_synced(self._env.monotonic(), average_seconds=average)
