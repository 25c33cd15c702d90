"""The endpoints of webhooks (API document 002): what forges push to, and how hooks are managed."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.errors import Forbidden, NotFound, NotReady, Refusal, UnsupportedMediaType
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, Open, Raw, Reply, Route
from orca_master.identity.model import DEFAULT_TENANT, TOKENS, Permission
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.services.model import SERVICES
from orca_master.sources.webhooks import operations
from orca_master.sources.webhooks.answers import (
    DeliveriesOut,
    DeliveryOut,
    HookOut,
    HooksOut,
    ReceivedOut,
    RemovedOut,
    TriedOut,
    delivery_out,
    hook_out,
)
from orca_master.sources.webhooks.forges import Ignored, pushes
from orca_master.sources.webhooks.model import DeliveryState, Forge, Hook, Push, Sealed
from orca_master.sources.webhooks.operations import Received
from orca_master.sources.webhooks.payload import AgainIn, DeliveriesQuery, HookIn, RotateIn
from orca_master.sources.webhooks.registry import Digests
from orca_master.sources.webhooks.verifying import Verifier, purpose
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction, View

MOST_BODY_BYTES = 25 << 20
"""GitHub sends no more."""
SECRET_BYTES = 32
HOOK = {"repo": "shop/web", "service_name": "web", "image": "registry.example/shop/web:{sha}"}


@dataclass(frozen=True, slots=True)
class WebhookRoutes:
    """`keyring`: what secrets are wrapped with."""

    env: Env
    store: Store
    keyring: Keyring
    digests: Digests
    verifier: Verifier = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verifier", Verifier(self.env, self.keyring))

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="webhooks")
        path = "/api/v1/webhooks"
        write, read = Permission.SERVICES_DEPLOY, Permission.SERVICES_READ
        return [
            *self._deliveries(route),
            route(f"GET {path}", read, self.list, "Webhooks", answer=HooksOut),
            route(
                f"POST {path}",
                write,
                self.register,
                "Register a webhook",
                body=HookIn,
                answer=HookOut,
                statuses=(201,),
                example=HOOK,
                refusals=(NotFound,),
            ),
            route(
                f"DELETE {path}/{{id}}",
                write,
                self.remove,
                "Remove a webhook, or all of a service",
                answer=RemovedOut,
            ),
            route(
                f"POST {path}/{{id}}/test",
                write,
                self.test,
                "What would a push do now?",
                answer=TriedOut,
            ),
            route(
                f"POST {path}/{{id}}/rotate",
                write,
                self.rotate,
                "Give it a new secret",
                body=RotateIn,
                answer=HookOut,
                example={"overlap": 3600},
            ),
            route(
                f"GET {path}/{{id}}/deliveries",
                read,
                self.deliveries,
                "What was delivered, and what became of it",
                query=DeliveriesQuery,
                answer=DeliveriesOut,
            ),
            route(
                f"POST {path}/{{id}}/redeliver",
                write,
                self.redeliver,
                "Deploy a delivery once more",
                body=AgainIn,
                answer=DeliveryOut,
                statuses=(202,),
                example={"delivery": 1},
            ),
        ]

    def _deliveries(self, route: Callable[..., Route]) -> list[Route]:
        """The bare path of each forge, and one for each of its webhooks."""
        received = partial(
            route,
            permission=Open.SIGNED,
            takes_raw=True,
            most_body_bytes=MOST_BODY_BYTES,
            statuses=(200, 202),
            answer=ReceivedOut,
        )
        found = []
        for forge in Forge:
            handle = partial(self.receive, forge)
            summary = f"A push from {forge}"
            line = f"POST /api/v1/webhooks/{forge}"
            found.append(received(line, handle=handle, summary=summary))
            found.append(received(f"{line}/{{id}}", handle=handle, summary=summary))
        return found

    async def receive(self, forge: Forge, call: Call[Any, None]) -> Reply:
        """202 once it is durable; 200 for what came before, a ping, and what there is nothing to do for."""
        assert call.raw is not None, "the route asks for it"
        raw = call.raw
        if raw.headers.get("content-encoding"):
            raise UnsupportedMediaType(
                "a delivery must not be compressed: what is signed is the body"
            )
        state = self.store.state
        found = operations.candidates(state, DEFAULT_TENANT, forge, call.path.get("id", ""))
        try:
            hooks = await self.verifier.signed_for(forge, raw, found)
        except Refusal as refusal:
            await self._note_rejected(forge, raw, refusal.message)
            raise
        try:
            told = pushes(forge, raw.headers, raw.body)
        except Ignored as ignored:
            said = "pong" if ignored.is_ping else f"ignored: {ignored.reason}"
            return Reply(ReceivedOut(said, []), 200 if ignored.is_ping else 202)
        received = await self._keep(hooks, told, raw.body)
        return _answer(received)

    async def _keep(
        self, hooks: Sequence[Hook], told: Sequence[Push], body: bytes
    ) -> list[Received]:
        now = self.env.now()

        def keep(tx: Transaction) -> list[Received]:
            found = [
                operations.receive(
                    tx, hook.id, hook.tenant, push, _digest(hook, body, number), now=now
                )
                for hook in hooks
                for number, push in enumerate(told)
                if push.repo.casefold() == hook.repo.casefold()
            ]
            return [each for each in found if each is not None]

        return await self.store.update(keep)

    async def _note_rejected(self, forge: Forge, raw: Raw, reason: str) -> None:
        """In the trail; what is refused for coming too often is not, or it would fill it."""
        if reason.startswith("too many"):
            return

        def note(tx: Transaction) -> None:
            trail(
                tx,
                actor="nobody",
                action="webhook.rejected",
                resource=f"webhooks/{forge}",
                now=self.env.now(),
                client=raw.client,
                reason=reason,
            )

        await self.store.update(note)

    async def list(self, call: Call[Any, None]) -> HooksOut:
        state = await self.store.fresh()
        now, own = self.env.now(), call.scope(None)
        hooks = [h for h in operations.hooks_of(state, call.tenant) if own in (None, h.project)]
        shown = []
        for hook in hooks:
            last = next(iter(operations.deliveries_of(state, hook)), None)
            shown.append(hook_out(hook, last, now=now))
        return HooksOut(shown)

    async def register(self, call: Call[Any, HookIn]) -> Reply:
        given, now = call.body, self.env.now()
        call.scope(given.project)
        id, secret = self.env.new_id(), given.secret or self._new_secret()

        def register(tx: Transaction) -> Hook:
            owner = next((t for t in tx.scan(TOKENS) if t.name == call.actor), None)
            if owner is None:
                raise Forbidden("the token of this request was revoked")
            hook = Hook(
                tenant=call.tenant,
                id=id,
                forge=Forge(given.forge),
                repo=given.repo,
                project=given.project,
                service=given.service_name,
                secrets=(self._sealed(tx, id, secret),),
                owner=owner.id,
                owner_name=owner.name,
                made_at=now,
                branch=given.branch,
                tag=given.tag,
                paths=tuple(given.path),
                not_paths=tuple(given.not_path),
                image=given.image,
                signing=given.signing,
            )
            self._note(tx, call, "create", hook, repo=hook.repo, service=hook.service)
            return operations.register(tx, hook)

        hook = await self.store.update(register)
        return Reply(hook_out(hook, None, now=now, secret=secret), 201)

    async def remove(self, call: Call[Any, None]) -> RemovedOut:
        def remove(tx: Transaction) -> int:
            found = operations.find_hooks(tx, call.tenant, call.path["id"])
            for hook in found:
                call.scope(hook.project)
                operations.remove(tx, hook)
                self._note(tx, call, "remove", hook)
            return len(found)

        return RemovedOut("removed", await self.store.update(remove))

    async def test(self, call: Call[Any, None]) -> TriedOut:
        """May its owner deploy, is the service there, does the registry know the image? Changes nothing."""
        state = await self.store.fresh()
        hook = operations.the_hook(state, call.tenant, call.path["id"])
        call.scope(hook.project)
        operations.check_owner(state, hook, now=self.env.now())
        service = state.get(SERVICES, hook.tenant, hook.project, hook.service)
        if service is None or service.stopped or service.purge:
            raise NotReady(f"service {hook.service} does not run: a push would be refused")
        if hook.image:
            return TriedOut(f"a push would deploy {hook.image}", None)
        digest = await self.digests.digest_of(
            service.spec.image, tenant=hook.tenant, project=hook.project
        )
        return TriedOut(f"a push would look {service.spec.image} up: now {digest}", digest)

    async def rotate(self, call: Call[Any, RotateIn]) -> HookOut:
        secret, now = call.body.secret or self._new_secret(), self.env.now()
        found = operations.the_hook(self.store.state, call.tenant, call.path["id"])
        call.scope(found.project)

        def rotate(tx: Transaction) -> Hook:
            hook = operations.the_hook(tx, call.tenant, found.id)
            self._note(tx, call, "rotate", hook, overlap=call.body.overlap)
            sealed = self._sealed(tx, hook.id, secret)
            return operations.rotate(tx, hook, sealed, until=now + call.body.overlap)

        hook = await self.store.update(rotate)
        last = next(iter(operations.deliveries_of(self.store.state, hook)), None)
        return hook_out(hook, last, now=now, secret=secret)

    async def deliveries(self, call: Call[DeliveriesQuery, None]) -> DeliveriesOut:
        state = await self.store.fresh()
        hook = operations.the_hook(state, call.tenant, call.path["id"])
        call.scope(hook.project)
        found = operations.deliveries_of(state, hook)[: call.query.limit]
        return DeliveriesOut([delivery_out(each) for each in found])

    async def redeliver(self, call: Call[Any, AgainIn]) -> Reply:
        def again(tx: Transaction) -> DeliveryOut:
            hook = operations.the_hook(tx, call.tenant, call.path["id"])
            call.scope(hook.project)
            self._note(tx, call, "redeliver", hook, delivery=call.body.delivery)
            done = operations.again(tx, hook, call.body.delivery, now=self.env.now())
            return delivery_out(done)

        return Reply(await self.store.update(again), 202)

    def _new_secret(self) -> str:
        raw = self.env.random.token_bytes(SECRET_BYTES)
        return "whsec_" + base64.b64encode(raw).decode()

    def _sealed(self, view: View, hook_id: str, secret: str) -> Sealed:
        id = self.env.new_id()
        return Sealed(id, self.keyring.wrap(view, purpose(hook_id, id), secret.encode()))

    def _note(
        self, tx: Transaction, call: Call[Any, Any], verb: str, hook: Hook, **details: object
    ) -> None:
        resource, now = f"webhooks/{hook.id}", self.env.now()
        trail(tx, actor=call.actor, action=f"webhook.{verb}", resource=resource, now=now, **details)


def _digest(hook: Hook, body: bytes, number: int) -> str:
    """Of one push of a delivery: some forges tell of several at once."""
    return operations.digest_of(f"{hook.id}/{number}", body)


def _answer(received: Sequence[Received]) -> Reply:
    shown = [delivery_out(each.delivery) for each in received]
    if not received:
        return Reply(ReceivedOut("ignored: no webhook of this secret is for that repository", []))
    fresh = [each.delivery for each in received if each.is_new]
    if not fresh:
        return Reply(ReceivedOut("duplicate: it came before", shown))
    if any(each.state is DeliveryState.QUEUED for each in fresh):
        return Reply(ReceivedOut("accepted", shown), 202)
    return Reply(ReceivedOut(f"{fresh[0].state}: {fresh[0].reason}", shown))
