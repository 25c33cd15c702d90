"""Which nodes are down: `ready → down` is the only step of a node's silence that enters the log.

Runs on the leader. It judges nobody before it has listened for a whole TTL: when it begins to lead,
and again when its own loop was away for longer than a beat (SIGSTOP, a machine that stood still). When
too many nodes are lost at once it gives up none of them (`brake`) until some are back, or until
somebody says that they are gone.
"""

import asyncio
from collections.abc import Callable, Iterable

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.cluster.brake import is_mass_loss
from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.cluster.operations import mark_down
from orca_master.cluster.presence import Presence
from orca_master.cluster.standing import Word
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

NAMES_SHOWN = 5

log = get_logger("cluster")


class Liveness:
    """`held`: names of the nodes that are not given up because too many were lost at once."""

    def __init__(
        self,
        env: Env,
        store: Store,
        presence: Presence,
        silent_masters: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`silent_masters`: the ids of those that this leader does not hear at the moment."""
        self._env = env
        self._silent_masters = silent_masters
        self._store = store
        self._presence = presence
        self._pulse_at = env.monotonic()
        self._given_up: dict[str, float] = {}
        self.held: tuple[str, ...] = ()

    async def run(self) -> None:
        self._given_up.clear()
        self._pulse_at = self._env.monotonic()
        self._presence.listen_anew()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pulse())
                await self._watch()
        finally:
            self.held = ()

    def alarm(self) -> list[str]:
        """What health says of it."""
        if not self.held:
            return []
        shown = ", ".join(self.held[:NAMES_SHOWN]) + (", …" if self.held[NAMES_SHOWN:] else "")
        return [
            f"{len(self.held)} nodes were lost at once ({shown}) and their work is not given to others:"
            " it goes on when they come back; if they are gone, say `orca nodes evict --confirm`"
        ]

    def give_up_held(self, tx: Transaction, *, reason: str) -> list[Node]:
        """Somebody knows better: all that are held are down."""
        names = set(self.held)
        gone = [node for node in self._silent(tx.scan(NODES)) if node.name in names]
        for node in gone:
            mark_down(tx, node.id, reason=reason, now=self._env.now())
        return gone

    async def _pulse(self) -> None:
        """Notices when this process was away, also while the other loop waits for a commit."""
        while True:
            await asyncio.sleep(self._look_seconds())
            self._notice_absence()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds())
            self._notice_absence()
            for master_id in self._silent_masters():
                self._presence.master_is_silent(master_id)
            due = {node.id: self._presence.contact(node.id).heard for node in self._due()}
            if self._is_mass_loss(due):
                self._hold(due)
                continue
            self._let_go()
            if due:
                await self._give_up(due)

    def _notice_absence(self) -> None:
        now, pace = self._env.monotonic(), self._presence.pace(self._count())
        away = now - self._pulse_at - pace.look
        self._pulse_at = now
        if away > pace.beat:
            log.warning("this master was away; all nodes get their time again", seconds=away)
            self._presence.listen_anew()

    def _due(self) -> list[Node]:
        return self._silent(self._store.state.scan(NODES))

    def _silent(self, nodes: Iterable[Node]) -> list[Node]:
        """Those that were silent for the whole TTL and are not down yet."""
        count = self._count()
        return [
            node
            for node in nodes
            if node.state is NodeState.READY
            and self._presence.standing(node.id, nodes=count).is_over
        ]

    def _is_mass_loss(self, due: dict[str, float]) -> bool:
        state, count = self._store.state, self._count()
        ttl = self._presence.pace(count).ttl
        self._forget_old_losses(due, ttl)
        if not due:
            return False
        ready = [node.id for node in state.scan(NODES) if node.state is NodeState.READY]
        missing = dict(self._given_up)
        for id in ready:
            if self._presence.standing(id, nodes=count).word is not Word.READY:
                missing[id] = self._presence.contact(id).heard
        nodes = len(missing.keys() | set(ready))
        return is_mass_loss(due.values(), missing.values(), nodes=nodes, ttl=ttl)

    def _forget_old_losses(self, due: dict[str, float], ttl: float) -> None:
        oldest = min(due.values(), default=self._env.monotonic() - ttl) - ttl
        state = self._store.state
        for id, heard in list(self._given_up.items()):
            node = state.get(NODES, id)
            if node is None or node.state is not NodeState.DOWN or heard < oldest:
                del self._given_up[id]

    async def _give_up(self, due: dict[str, float]) -> None:
        """Who was heard of while the commit waited stays."""
        ttl = self._presence.pace(self._count()).ttl
        reason = f"not heard of for {ttl:g} s"

        def give_up(tx: Transaction) -> list[Node]:
            self._notice_absence()
            gone = [node for node in self._silent(tx.scan(NODES)) if node.id in due]
            for node in gone:
                mark_down(tx, node.id, reason=reason, now=self._env.now())
            return gone

        for node in await self._store.update(give_up):
            self._given_up[node.id] = due[node.id]
            log.warning("node is down", node=node.name, id=node.id, reason=reason)

    def _hold(self, due: dict[str, float]) -> None:
        state = self._store.state
        nodes = [node for id in due if (node := state.get(NODES, id)) is not None]
        if not self.held:
            log.error("evictions are held: too many nodes were lost at once", nodes=len(nodes))
        self.held = tuple(sorted(node.name for node in nodes))

    def _let_go(self) -> None:
        if self.held:
            log.warning("evictions go on", held=len(self.held))
        self.held = ()

    def _count(self) -> int:
        return self._store.state.count(NODES)

    def _look_seconds(self) -> float:
        return self._presence.pace(self._count()).look
