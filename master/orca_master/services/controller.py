"""When services are looked at: whenever they, their tasks or the nodes change, or a wait is over."""

import math
from collections.abc import Iterable
from functools import partial
from typing import TypeVar

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.cluster.leases import Leases
from orca_master.cluster.model import NODES
from orca_master.cluster.presence import Presence
from orca_master.control.aside import Aside
from orca_master.errors import Trouble
from orca_master.services.fetching import FETCHER_PREFIX, served_by
from orca_master.services.model import OWNER_PREFIX, SERVICES, key_of_owner, owner_of
from orca_master.services.operations import reconcile_owner
from orca_master.services.rollouts.model import DEPLOYMENTS
from orca_master.state.follow import Changed
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS
from orca_master.tasks.operations import plan_placements, take_placements

OWNERS_PER_TRANSACTION = 10
PLACED_PER_TRANSACTION = 100

T = TypeVar("T")

log = get_logger("services")


class ServicesController:
    """Holds no truth: killing and restarting it is always safe. Runs on the leader only."""

    def __init__(self, env: Env, store: Store, presence: Presence, leases: Leases) -> None:
        self._env = env
        self._store = store
        self._presence = presence
        self._leases = leases
        self._term = -1
        self.aside = Aside(env, "service")
        self._look_at: dict[str, float] = {}

    async def run(self) -> None:
        self._leases.begin()
        self._term = self._store.leadership.term
        with self._store.follow(SERVICES, DEPLOYMENTS, TASKS, NODES) as follower:
            while True:
                changed = await follower.next(self._seconds_to_next_look())
                owners = self._owners(changed)
                for batch in _batches(sorted(owners), OWNERS_PER_TRANSACTION):
                    await self._look(batch)
                await self._place()

    async def _look(self, owners: list[str]) -> None:
        """One transaction for the batch; if it fails, one for each, so that one bad row stops one
        service only."""
        try:
            await self._store.tend(lambda tx: self._reconcile(tx, owners))
        except Trouble:
            raise
        except Exception as error:
            if len(owners) == 1:
                self._look_at[owners[0]] = self.aside.failed(owners[0], error)
                return
            for owner in owners:
                await self._look([owner])
        else:
            for owner in owners:
                self.aside.succeeded(owner)

    def _reconcile(self, tx: Transaction, owners: list[str]) -> None:
        now = self._env.now()
        for owner in owners:
            again_at = reconcile_owner(
                tx, owner, now=now, new_id=self._env.new_id, lease_left=self._lease_left
            )
            if again_at is None:
                self._look_at.pop(owner, None)
            else:
                self._look_at[owner] = again_at

    def _lease_left(self, node_id: str) -> float:
        """Asked while a transaction runs: what was noted in an earlier leadership says nothing."""
        if self._store.leadership.term != self._term:
            return math.inf
        return self._leases.left(node_id)

    async def _place(self) -> None:
        state = self._store.state
        doubtful = self._presence.doubtful(nodes=state.count(NODES))
        plan = plan_placements(state, now=self._env.now(), doubtful=doubtful)
        for batch in _batches(plan, PLACED_PER_TRANSACTION):
            await self._store.tend(partial(take_placements, placements=batch))

    def _owners(self, changed: Changed) -> set[str]:
        now = self._env.now()
        owners = {owner for owner, at in self._look_at.items() if at <= now}
        if changed.everything or changed.of(NODES.name):
            state = self._store.state
            owners |= {owner_of(*key) for key in state.keys(SERVICES)}
            owners |= {key[0] for key in state.keys(TASKS) if key[0].startswith(OWNER_PREFIX)}
        owners |= {owner_of(*key) for key in changed.of(SERVICES.name)}
        owners |= {owner_of(*key[:3]) for key in changed.of(DEPLOYMENTS.name)}
        owners |= {key[0] for key in changed.of(TASKS.name) if key[0].startswith(OWNER_PREFIX)}
        fetchers = {key[0] for key in changed.of(TASKS.name) if key[0].startswith(FETCHER_PREFIX)}
        owners |= {served_by(fetcher) for fetcher in fetchers}
        owners |= self._waiting(owners)
        return {owner for owner in owners if not self.aside.is_aside(owner)}

    def _waiting(self, owners: set[str]) -> set[str]:
        """Services that wait for others, in the projects of these."""
        projects = {"/".join(key_of_owner(owner)[:2]) for owner in owners}
        found = [self._store.state.find(SERVICES, "waits", project) for project in projects]
        return {service.owner for services in found for service in services}

    def _seconds_to_next_look(self) -> float | None:
        if not self._look_at:
            return None
        return max(0.0, min(self._look_at.values()) - self._env.now()) + 0.001


def _batches(items: list[T], size: int) -> Iterable[list[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
