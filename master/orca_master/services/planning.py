"""What a deploy would do, without doing it. Pure."""

from collections.abc import Collection
from typing import Any

import msgspec

from orca_master.services.answers import PlannedOut
from orca_master.services.dependencies import lacking
from orca_master.services.model import SERVICES, Policy, Service, ServiceSpec, owner_of
from orca_master.services.operations import task_spec
from orca_master.services.rollouts.model import Kind
from orca_master.services.rollouts.operations import base_of, open_deployment, spec_of
from orca_master.services.rollouts.strategies import stops_first, truly
from orca_master.state.transaction import View
from orca_master.tasks.operations import rooms
from orca_master.tasks.placement import Demand, place

MOST_PLACED = 1000
"""Replicas that are placed to see whether all of them fit."""


def planned(
    view: View,
    tenant: str,
    project: str,
    name: str,
    spec: ServiceSpec,
    replicas: int,
    policy: Policy,
    *,
    now: float,
    doubtful: Collection[str],
    beside: Collection[str] = (),
) -> PlannedOut:
    """`action`: `nothing`, `in place` (no replica is replaced), `create`, `replace`. `beside`: names of its
    project that the same request deploys."""
    service = view.get(SERVICES, tenant, project, name)
    if service is None:
        fields, action = [], "create"
    else:
        fields = changed_fields(service.spec, spec)
        same = (service.replicas, service.policy) == (replicas, policy)
        is_on = not service.stopped and not service.purge
        action = "replace" if fields else "nothing" if same and is_on else "in place"
    strategy, order, reason = "", "", ""
    if service is not None and fields:
        strategy, order, reason = _way(view, service, spec, policy)
    running = 0 if service is None else service.wanted_replicas
    needed = replicas if fields or service is None else max(0, replicas - running)
    return PlannedOut(
        service=name,
        project=project,
        action=action,
        revision=_revision(service, is_new=bool(fields)),
        fields=fields,
        replicas_before=running,
        replicas=replicas,
        strategy=strategy or None,
        order=order or None,
        reason=reason or None,
        blocked=_blocked(view, owner_of(tenant, project, name), spec, needed, now, doubtful),
        waits=_waits(view, tenant, project, policy, beside) if needed else [],
    )


def _waits(
    view: View, tenant: str, project: str, policy: Policy, beside: Collection[str]
) -> list[str]:
    """For those that the same request deploys, until these are there; for the others, as they are now."""
    with_it = [each for each in policy.depends_on if each.name in beside]
    before = [each for each in policy.depends_on if each.name not in beside]
    told = [f"waits for {each.name}, of this deploy, to be {each.condition}" for each in with_it]
    return told + lacking(view, tenant, project, before)


def _revision(service: Service | None, *, is_new: bool) -> int:
    if service is None:
        return 1
    return max(service.newest, service.revision) + 1 if is_new else service.revision


def _way(view: View, service: Service, spec: ServiceSpec, policy: Policy) -> tuple[str, str, str]:
    """The strategy that would really be used, its order, and why."""
    base = base_of(view, service)
    old = spec_of(view, service, base) if base else None
    why_first = stops_first(policy.rollout, spec, old)
    strategy, changed = truly(policy.rollout, Kind.DEPLOY, stop_first=bool(why_first))
    reasons = [f"stop-first, because {why_first}" if why_first else "", changed]
    if open_deployment(view, service) is not None:
        reasons.append("it supersedes the rollout that is under way")
    if not base:
        reasons.append("nothing was stable before, so there is no way back")
    return strategy, "stop-first" if why_first else "start-first", "; ".join(filter(None, reasons))


def changed_fields(before: ServiceSpec, after: ServiceSpec) -> list[str]:
    """The dotted names of what is different."""
    old, new = _flat(msgspec.to_builtins(before)), _flat(msgspec.to_builtins(after))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, part in value.items():
        found |= _flat(part, f"{path}.{name}" if path else name)
    return found


def _blocked(
    view: View,
    owner: str,
    spec: ServiceSpec,
    needed: int,
    now: float,
    doubtful: Collection[str],
) -> str | None:
    """Why not all replicas that have to start would find a node, beside what runs now."""
    some = min(needed, MOST_PLACED)
    if not some:
        return None
    demand = Demand("", owner, task_spec(spec), spec.constraints, -1)
    placements = place([demand] * some, rooms(view, now=now, doubtful=doubtful))
    missing = [placement for placement in placements if not placement.node]
    if not missing:
        return None
    return f"{some - len(missing)} of {some} replicas find a node: {missing[0].reason}"
