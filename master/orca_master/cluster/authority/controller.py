"""Takes a change of the authority on, step by step, when nobody is waited for. On the leader only."""

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.cluster.authority.model import HOLDINGS, ROTATIONS, RotationStep
from orca_master.cluster.authority.operations import advance, the_rotation, those_missing
from orca_master.cluster.authority.rotation import waited_for
from orca_master.cluster.masters.port import Membership
from orca_master.cluster.model import MASTERS, NODES
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

LOOK_EVERY_SECONDS = 1.0

log = get_logger("authority")


class AuthorityController:
    def __init__(self, env: Env, store: Store, membership: Membership) -> None:
        self._env = env
        self._store = store
        self._membership = membership

    async def run(self) -> None:
        with self._store.follow(ROTATIONS, HOLDINGS, MASTERS, NODES) as follower:
            while True:
                goes_on = the_rotation(self._store.state) is not None
                await follower.next(LOOK_EVERY_SECONDS if goes_on else None)
                await self.step()

    async def step(self) -> None:
        """One step at most. Raises NotLeader, OutcomeUnknown."""
        state, now = self._store.state, self._env.now()
        rotation = the_rotation(state)
        connected = connected_masters(self._membership)
        if rotation is None or waited_for(rotation, those_missing(state, rotation, connected), now):
            return

        def step(tx: Transaction) -> list[str] | None:
            rotation = the_rotation(tx)
            if rotation is None:
                return None
            those = those_missing(tx, rotation, connected)
            if advance(tx, those, now=now) is None:
                return None
            return [each.member.name for each in those]

        behind = await self._store.update(step)
        if behind is None:
            return
        if rotation.step is RotationStep.TRUSTING:
            said = "both authorities are trusted; from now on the new one signs"
        else:
            said = "the authority was replaced; the old one is trusted no more"
        log.info(said, fingerprint=rotation.new_fingerprint, left_behind=behind)


def connected_masters(membership: Membership) -> frozenset[str]:
    """Ids of those that the leader reaches, itself among them."""
    return frozenset(each.id for each in membership.members() if each.is_connected)
