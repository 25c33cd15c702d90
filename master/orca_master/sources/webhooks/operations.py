"""The verbs of hooks: register, rotate, receive, start a deploy, say how it went."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from orca_master.errors import Conflict, Forbidden, NotFound
from orca_master.identity.model import TOKENS, Permission
from orca_master.identity.operations import is_expired, principal
from orca_master.services import operations as services
from orca_master.services.model import SERVICES, Service
from orca_master.services.outcome import Ending, outcome
from orca_master.sources.webhooks.forges import Ignored
from orca_master.sources.webhooks.matching import check, message_of
from orca_master.sources.webhooks.model import (
    DELIVERIES,
    DELIVERY_COUNTER,
    HOOKS,
    SEEN,
    Counter,
    Delivery,
    DeliveryState,
    Forge,
    Hook,
    Push,
    Sealed,
    Seen,
)
from orca_master.state.transaction import Transaction, View

SEEN_SECONDS = 7 * 86400.0
MOST_SEEN = 100_000
MOST_DELIVERIES = 100
"""Of one hook, beside those that are still open."""


@dataclass(frozen=True, slots=True)
class Received:
    """What was made of a signed push at one hook. `is_new` False: it came before."""

    delivery: Delivery
    is_new: bool


def digest_of(hook_id: str, body: bytes) -> str:
    return hashlib.sha256(hook_id.encode() + b"\0" + body).hexdigest()


def register(tx: Transaction, hook: Hook) -> Hook:
    """Raises NotFound for a service that there is not, Forbidden where the owner may not deploy it."""
    if tx.get(SERVICES, hook.tenant, hook.project, hook.service) is None:
        raise NotFound("service", f"{hook.service} in project {hook.project}")
    check_owner(tx, hook, now=hook.made_at)
    tx.put(HOOKS, hook)
    return hook


def check_owner(view: View, hook: Hook, *, now: float) -> None:
    """A hook acts with its owner's rights as they are now. Raises Forbidden."""
    token = view.get(TOKENS, hook.owner)
    if token is None:
        raise Forbidden(
            f"the token {hook.owner_name} that made this hook was revoked; make it again"
        )
    if is_expired(token, now):
        raise Forbidden(f"the token {hook.owner_name} that made this hook has expired")
    owner = principal(token)
    if not owner.may(Permission.SERVICES_DEPLOY) or owner.project not in ("", hook.project):
        raise Forbidden(f"the token {hook.owner_name} that made this hook may not deploy here")


def hooks_of(view: View, tenant: str) -> list[Hook]:
    return view.find(HOOKS, "tenant", tenant)


def find_hooks(view: View, tenant: str, id: str) -> list[Hook]:
    """The one with this id, or all of the service with this name. Raises NotFound."""
    hook = view.get(HOOKS, tenant, id)
    found = [hook] if hook is not None else []
    found = found or [h for h in hooks_of(view, tenant) if h.service == id]
    if not found:
        raise NotFound("webhook", id)
    return found


def the_hook(view: View, tenant: str, id: str) -> Hook:
    """Raises NotFound, Conflict for a name of a service with several."""
    found = find_hooks(view, tenant, id)
    if len(found) > 1:
        raise Conflict(f"service {id} has {len(found)} webhooks: name one by its id")
    return found[0]


def remove(tx: Transaction, hook: Hook) -> None:
    tx.delete(HOOKS, hook.tenant, hook.id)
    for delivery in tx.find(DELIVERIES, "hook", hook.id):
        tx.delete(DELIVERIES, delivery.hook, f"{delivery.number:012}")


def rotate(tx: Transaction, hook: Hook, secret: Sealed, *, until: float) -> Hook:
    """A new secret; the one before is taken until then (Unix seconds)."""
    before = [replace(hook.secrets[0], until=until)] if hook.secrets else []
    after = replace(hook, secrets=(secret, *before))
    tx.put(HOOKS, after)
    return after


def receive(
    tx: Transaction, hook_id: str, tenant: str, push: Push, digest: str, *, now: float
) -> Received | None:
    """Keep a push that was signed for this hook, once. None: the hook was removed meanwhile."""
    hook = tx.get(HOOKS, tenant, hook_id)
    if hook is None:
        return None
    seen = tx.get(SEEN, digest)
    if seen is not None:
        known = delivery_of(tx, seen.delivery)
        if known is not None:
            return Received(known, is_new=False)
        state, reason = DeliveryState.IGNORED, "it came before"
    else:
        state, reason = _first_word(tx, hook, push)
    number = 1 + (c.last if (c := tx.get(DELIVERY_COUNTER, "deliveries")) is not None else 0)
    ended_at = 0.0 if state.is_open else now
    delivery = Delivery(hook.id, number, now, push, state, reason, ended_at=ended_at)
    tx.put(DELIVERY_COUNTER, Counter(number))
    tx.put(DELIVERIES, delivery)
    tx.put(SEEN, Seen(digest, number, now))
    _forget_oldest(tx, hook.id)
    return Received(delivery, is_new=seen is None)


def _first_word(view: View, hook: Hook, push: Push) -> tuple[DeliveryState, str]:
    try:
        check(hook, push)
    except Ignored as ignored:
        return DeliveryState.IGNORED, ignored.reason
    newer = [
        d for d in view.find(DELIVERIES, "hook", hook.id)
        if push.after and d.push.before == push.after and _same_ref(d.push, push)
    ]  # fmt: skip
    if newer:
        return DeliveryState.SUPERSEDED, f"a newer push, {newer[-1].number}, came before it"
    return DeliveryState.QUEUED, ""


def _same_ref(one: Push, other: Push) -> bool:
    return (one.repo, one.branch, one.tag) == (other.repo, other.branch, other.tag)


def again(tx: Transaction, hook: Hook, number: int, *, now: float) -> Delivery:
    """Queue what was delivered once more, as a delivery of its own. Raises NotFound."""
    found = tx.get(DELIVERIES, hook.id, f"{number:012}")
    if found is None:
        raise NotFound("delivery", str(number))
    last = tx.get(DELIVERY_COUNTER, "deliveries")
    next_one = 1 + (last.last if last is not None else 0)
    delivery = Delivery(
        hook.id, next_one, now, found.push, DeliveryState.QUEUED, again_of=found.number
    )
    tx.put(DELIVERY_COUNTER, Counter(next_one))
    tx.put(DELIVERIES, delivery)
    return delivery


def delivery_of(view: View, number: int) -> Delivery | None:
    found = view.find(DELIVERIES, "number", str(number))
    return found[0] if found else None


def deliveries_of(view: View, hook: Hook) -> list[Delivery]:
    """The newest first."""
    return view.find(DELIVERIES, "hook", hook.id)[::-1]


def next_of(view: View, hook_id: str) -> tuple[Delivery | None, Delivery | None, list[Delivery]]:
    """What is being deployed for a hook, what comes next, and what that supersedes."""
    found = [d for d in view.find(DELIVERIES, "hook", hook_id) if d.state.is_open]
    deploying = next((d for d in found if d.state is DeliveryState.DEPLOYING), None)
    queued = [d for d in found if d.state is DeliveryState.QUEUED]
    newest = queued[-1] if queued else None
    older = [d for d in queued[:-1] if newest is not None and _same_ref(d.push, newest.push)]
    if newest is not None and len(older) < len(queued) - 1:
        newest = queued[0]  # of several branches or tags: one after the other
        older = []
    return deploying, newest, older


def start(tx: Transaction, hook: Hook, number: int, image: str, *, now: float) -> Delivery | None:
    """Deploy what a delivery brings. None: it is not queued any more."""
    delivery = tx.get(DELIVERIES, hook.id, f"{number:012}")
    if delivery is None or delivery.state is not DeliveryState.QUEUED:
        return None
    _, _, older = next_of(tx, hook.id)
    for each in older:
        end(tx, each, DeliveryState.SUPERSEDED, f"superseded by delivery {number}", now)
    service = tx.get(SERVICES, hook.tenant, hook.project, hook.service)
    try:
        check_owner(tx, hook, now=now)
    except Forbidden as refusal:
        return end(tx, delivery, DeliveryState.FAILED, refusal.message, now)
    if service is None or service.purge or service.stopped:
        what = "is stopped; start it" if service is not None else "does not exist any more"
        return end(tx, delivery, DeliveryState.FAILED, f"service {hook.service} {what}", now)
    if not service.spec.image:
        why = f"service {hook.service} is a plain process: it has no image to change"
        return end(tx, delivery, DeliveryState.FAILED, why, now)
    accepted = services.deploy(
        tx,
        tenant=hook.tenant,
        project=hook.project,
        name=hook.service,
        spec=replace(service.spec, image=image),
        replicas=service.replicas,
        now=now,
        policy=service.policy,
        by=f"webhook {hook.id}",
        message=message_of(delivery.push),
    )
    after = replace(
        delivery,
        state=DeliveryState.DEPLOYING,
        reason="" if accepted.changed else f"{image} is what runs already",
        revision=accepted.service.revision,
        deployment=accepted.service.deployment,
    )
    tx.put(DELIVERIES, after)
    return after


def settle(tx: Transaction, hook: Hook, delivery: Delivery, *, now: float) -> float | None:
    """Say how a deploy went, once that is known; else when to look again (Unix seconds), if by time."""
    service = tx.get(SERVICES, hook.tenant, hook.project, hook.service)
    if service is None:
        end(tx, delivery, DeliveryState.FAILED, "the service was removed", now)
        return None
    found = outcome(tx, as_left(service, delivery), now)
    match found.ending:
        case None:
            return found.look_at
        case Ending.RUNNING | Ending.PAUSED:
            reason = found.reason or delivery.reason
            end(tx, delivery, DeliveryState.DEPLOYED, reason, now)
        case _:
            end(tx, delivery, DeliveryState.FAILED, found.reason, now)
    return None


def as_left(service: Service, delivery: Delivery) -> Service:
    return replace(service, revision=delivery.revision, deployment=delivery.deployment)


def end(
    tx: Transaction, delivery: Delivery, state: DeliveryState, reason: str, now: float
) -> Delivery:
    after = replace(delivery, state=state, reason=reason, ended_at=now)
    tx.put(DELIVERIES, after)
    return after


def _forget_oldest(tx: Transaction, hook_id: str) -> None:
    found = tx.find(DELIVERIES, "hook", hook_id)
    for delivery in found[: max(0, len(found) - MOST_DELIVERIES)]:
        if not delivery.state.is_open:
            tx.delete(DELIVERIES, delivery.hook, f"{delivery.number:012}")


def old(view: View, now: float) -> list[Seen]:
    """What came so long ago, or so many before, that nobody delivers it again."""
    last = view.get(DELIVERY_COUNTER, "deliveries")
    oldest = 0 if last is None else last.last - MOST_SEEN
    return [s for s in view.scan(SEEN) if s.at < now - SEEN_SECONDS or s.delivery <= oldest]


def forget(tx: Transaction, rows: Sequence[Seen]) -> None:
    for each in rows:
        tx.delete(SEEN, each.digest)


def candidates(view: View, tenant: str, forge: Forge, hook_id: str) -> list[Hook]:
    """The hooks whose secret a delivery may be signed with."""
    if hook_id:
        found = view.get(HOOKS, tenant, hook_id)
        return [found] if found is not None and found.forge is forge else []
    return view.find(HOOKS, "forge", f"{tenant}/{forge}")
