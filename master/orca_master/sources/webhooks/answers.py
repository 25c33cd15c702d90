"""What the endpoints of webhooks answer. A secret is shown once, when it is made."""

import msgspec
from msgspec import UNSET, UnsetType

from orca_master.sources.webhooks.model import Delivery, Hook


class DeliveryOut(msgspec.Struct, frozen=True):
    """One push. `state`: queued, deploying, deployed, failed, superseded (a newer one was deployed instead),
    ignored; `again_of`: the delivery that this one repeats."""

    delivery: int
    webhook: str
    at: float
    state: str
    reason: str | None
    repo: str
    branch: str | None
    tag: str | None
    commit: str | None
    message: str
    author: str
    link: str
    revision: int | None
    deployment: int | None
    ended_at: float | None
    again_of: int | None


class HookOut(msgspec.Struct, frozen=True):
    """`url`: the path that the forge delivers to; `secrets`: how many are taken just now (two while one is
    rotated out); `secret`: only when it was just made; `last_invocation`: the newest delivery."""

    id: str
    repo: str
    service_name: str
    project: str
    forge: str
    branch: str
    tag: str
    path: list[str]
    not_path: list[str]
    image: str
    signing: bool
    has_secret: bool
    secrets: int
    url: str
    owner: str
    made_at: float
    last_invocation: DeliveryOut | None
    secret: str | UnsetType = UNSET


class HooksOut(msgspec.Struct, frozen=True):
    webhooks: list[HookOut]


class RemovedOut(msgspec.Struct, frozen=True):
    status: str
    count: int


class DeliveriesOut(msgspec.Struct, frozen=True):
    """The newest first."""

    deliveries: list[DeliveryOut]


class TriedOut(msgspec.Struct, frozen=True):
    """What a push would do now. `image`: what would be deployed, where that does not depend on the push."""

    ok: str
    image: str | None


class ReceivedOut(msgspec.Struct, frozen=True):
    """`ok`: what was made of it. `deliveries`: one for each webhook that it was signed for."""

    ok: str
    deliveries: list[DeliveryOut]


def delivery_out(delivery: Delivery) -> DeliveryOut:
    push = delivery.push
    return DeliveryOut(
        delivery=delivery.number,
        webhook=delivery.hook,
        at=delivery.at,
        state=delivery.state,
        reason=delivery.reason or None,
        repo=push.repo,
        branch=push.branch or None,
        tag=push.tag or None,
        commit=push.after or None,
        message=push.text,
        author=push.author,
        link=push.link,
        revision=delivery.revision or None,
        deployment=delivery.deployment or None,
        ended_at=delivery.ended_at or None,
        again_of=delivery.again_of or None,
    )


def hook_out(hook: Hook, last: Delivery | None, *, now: float, secret: str = "") -> HookOut:
    taken = [each for each in hook.secrets if not each.until or each.until > now]
    return HookOut(
        id=hook.id,
        repo=hook.repo,
        service_name=hook.service,
        project=hook.project,
        forge=hook.forge,
        branch=hook.branch,
        tag=hook.tag,
        path=list(hook.paths),
        not_path=list(hook.not_paths),
        image=hook.image,
        signing=hook.signing,
        has_secret=bool(taken),
        secrets=len(taken),
        url=f"/api/v1/webhooks/{hook.forge}/{hook.id}",
        owner=hook.owner_name,
        made_at=hook.made_at,
        last_invocation=None if last is None else delivery_out(last),
        secret=secret or UNSET,
    )
