"""When deliveries are deployed: one at a time of each hook, the newest of those that wait."""

import math
from functools import partial

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.control.aside import Aside
from orca_master.errors import NotReady, Trouble
from orca_master.services.model import SERVICES
from orca_master.services.outcome import outcome
from orca_master.services.rollouts.model import DEPLOYMENTS
from orca_master.sources.webhooks import operations
from orca_master.sources.webhooks.forges import Ignored
from orca_master.sources.webhooks.matching import image_of
from orca_master.sources.webhooks.model import (
    DELIVERIES,
    HOOKS,
    Delivery,
    DeliveryState,
    Hook,
)
from orca_master.sources.webhooks.registry import Digests, pinned
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS

log = get_logger("webhooks")


class WebhookController:
    """Holds no truth. Runs on the leader only."""

    def __init__(self, env: Env, store: Store, digests: Digests) -> None:
        self._env = env
        self._store = store
        self._digests = digests
        self.aside = Aside(env, "webhook")
        self._look_at = math.inf

    async def run(self) -> None:
        with self._store.follow(DELIVERIES, DEPLOYMENTS, SERVICES, TASKS) as follower:
            while True:
                await follower.next(self._seconds_to_next_look())
                self._look_at = math.inf
                state = self._store.state
                for hook_id in {d.hook for d in state.find(DELIVERIES, "open", "yes")}:
                    if not self.aside.is_aside(hook_id):
                        await self._look(hook_id)

    def _seconds_to_next_look(self) -> float | None:
        if math.isinf(self._look_at):
            return None
        return max(0.0, self._look_at - self._env.now()) + 0.001

    async def _look(self, hook_id: str) -> None:
        try:
            await self._carry_on(hook_id)
        except Trouble:
            raise
        except Exception as error:
            self._look_at = min(self._look_at, self.aside.failed(hook_id, error))
        else:
            self.aside.succeeded(hook_id)

    async def _carry_on(self, hook_id: str) -> None:
        state = self._store.state
        found = state.find(HOOKS, "id", hook_id)
        if not found:
            return
        deploying, newest, _ = operations.next_of(state, hook_id)
        if deploying is not None:
            if not await self._has_ended(found[0], deploying):
                return
            _, newest, _ = operations.next_of(self._store.state, hook_id)
        if newest is not None:
            await self._start(found[0], newest)

    async def _has_ended(self, hook: Hook, delivery: Delivery) -> bool:
        state, now = self._store.state, self._env.now()
        service = state.get(SERVICES, hook.tenant, hook.project, hook.service)
        if service is not None:
            left = operations.as_left(service, delivery)
            found = outcome(state, left, now)
            if found.ending is None:
                self._look_at = min(self._look_at, found.look_at)
                return False
        await self._store.tend(partial(operations.settle, hook=hook, delivery=delivery, now=now))
        return True

    async def _start(self, hook: Hook, delivery: Delivery) -> None:
        try:
            image = await self._image(hook, delivery)
        except Ignored as ignored:
            await self._end(delivery, DeliveryState.IGNORED, ignored.reason)
            return
        except NotReady as error:
            await self._end(delivery, DeliveryState.FAILED, error.message)
            return
        now = self._env.now()
        await self._store.tend(
            partial(operations.start, hook=hook, number=delivery.number, image=image, now=now)
        )

    async def _image(self, hook: Hook, delivery: Delivery) -> str:
        """Raises Ignored, NotReady."""
        if hook.image:
            return image_of(hook.image, delivery.push)
        service = self._store.state.get(SERVICES, hook.tenant, hook.project, hook.service)
        if service is None or not service.spec.image:
            raise Ignored(f"service {hook.service} has no image to look up")
        digest = await self._digests.digest_of(
            service.spec.image, tenant=hook.tenant, project=hook.project
        )
        return pinned(service.spec.image, digest)

    async def _end(self, delivery: Delivery, state: DeliveryState, reason: str) -> None:
        now = self._env.now()

        def end(tx: Transaction) -> None:
            row = tx.get(DELIVERIES, delivery.hook, f"{delivery.number:012}")
            if row is not None and row.state is DeliveryState.QUEUED:
                operations.end(tx, row, state, reason, now)

        await self._store.tend(end)
