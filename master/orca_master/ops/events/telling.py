"""From a commit to what happened in it: its records, and its rows before and after. Pure.

The order does not depend on the master, so an event has the same place on all of them.
"""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, TypeVar

import msgspec

from orca_master.audit.model import KIND, AuditEvent
from orca_master.cluster.model import NODES, Node
from orca_master.ops.events import replicas
from orca_master.ops.events.model import Detail, Happening
from orca_master.services.rollouts.model import DEPLOYMENTS, Deployment, Kind, Sentence
from orca_master.sources.webhooks.model import DELIVERIES, HOOKS, Delivery
from orca_master.state.follow import Commit
from orca_master.state.history.event import Event
from orca_master.state.table import Table
from orca_master.tasks.model import TASKS

R = TypeVar("R", bound=msgspec.Struct)

TABLES: dict[str, Table[Any]] = {
    table.name: table for table in (NODES, DEPLOYMENTS, TASKS, DELIVERIES)
}
RECORDED = ("service", "secret")
"""Nouns of the trail that are told: what else stands there is for those who may read it."""


def tells(commit: Commit) -> bool:
    """Whether there may be anything in it."""
    return bool(commit.recorded) or any(table in TABLES for table, _ in commit.changes)


def happenings(commit: Commit, now: float) -> Iterator[Happening]:
    """In order. `now` is the time of what has none of its own."""
    yield from recorded(commit.recorded)
    version, numbers = commit.after.version, count(len(commit.recorded) + 1)
    for name, table in TABLES.items():
        for key in sorted(key for changed, key in commit.changes if changed == name):
            try:
                before, after = commit.before.get(table, *key), commit.after.get(table, *key)
                found = list(_of_row(commit, before, after, now))
            except msgspec.MsgspecError:  # of a newer master
                continue
            for each in found:
                yield msgspec.structs.replace(each, version=version, n=next(numbers))


def recorded(events: Iterable[Event]) -> Iterator[Happening]:
    """What people changed, as the trail has it: from a commit, or from the history."""
    for event in events:
        if event.kind != KIND:
            continue
        noted = event.decode(AuditEvent)
        noun, _, verb = noted.action.partition(".")
        parts = noted.resource.split("/")
        if noun not in RECORDED or len(parts) != 3:
            continue
        project, name = parts[1].removeprefix("-"), parts[2]
        told = [f"{key}={value}" for key, value in noted.details.items()]
        details: dict[str, Detail] = {**noted.details}
        yield Happening(
            event.version,
            event.n,
            noted.at,
            noted.action,
            " ".join([f"{noted.actor}: {verb} {name}", *told]),
            project=project,
            service=name if noun == "service" else "",
            actor=noted.actor,
            details=details if noun == "service" else {"key": name, **details},
        )


def _of_row(commit: Commit, before: Any, after: Any, now: float) -> Iterator[Happening]:
    either = after if after is not None else before
    match either:
        case Node():
            yield from _of_node(before, after, now)
        case Deployment() if after is not None:
            yield from _of_deployment(before, after, now)
        case Delivery() if after is not None:
            yield from _of_delivery(commit, before, after, now)
        case None | Deployment() | Delivery():  # forgotten, which is no news
            pass
        case task:
            node = commit.after.get(NODES, task.node) or commit.before.get(NODES, task.node)
            yield from replicas.of_task(before, after, node.name if node else task.node, now)


def _of_node(before: Node | None, after: Node | None, now: float) -> Iterator[Happening]:
    def told(node: Node, verb: str, text: str, **details: Detail) -> Happening:
        text = f"node {node.name} {text}"
        kind = f"node.{verb}"
        return Happening(0, 0, now, kind, text, node=node.name, node_id=node.id, details=details)

    if after is None:
        if before is not None:
            yield told(before, "removed", "was removed")
        return
    if before is None:
        yield told(after, "joined", "joined")
    elif before.state is not after.state:
        why = f": {after.state_reason}" if after.state_reason else ""
        yield told(after, after.state, f"is {after.state}{why}", reason=after.state_reason)
    if before is not None and before.schedulable != after.schedulable:
        if after.schedulable:
            yield told(after, "undrained", "takes work again")
        else:
            yield told(after, "drained", "gets no work any more")


def _of_deployment(before: Deployment | None, after: Deployment, now: float) -> Iterator[Happening]:
    def told(verb: str, text: str, at: float = now) -> Happening:
        details: dict[str, Detail] = {
            "deployment": after.number,
            "of": after.kind,
            "state": after.state,
            "strategy": after.strategy,
            "revision": after.revision,
            "base": after.base,
        }
        return Happening(
            0,
            0,
            at,
            f"deployment.{verb}",
            text,
            tenant=after.tenant,
            project=after.project,
            service=after.service,
            actor=after.by if verb == "begun" else "",
            details=details | ({"reason": after.reason} if after.reason else {}),
        )

    if before is None:
        origin = f" from {after.base}" if after.base else ""
        what = "restart of" if after.kind is Kind.RESTART else f"{after.kind} to"
        way = f"{what} revision {after.revision}{origin if what.endswith('to') else ''}"
        yield told("begun", f"{way}, {after.strategy}", after.started_at)
    new = _new_sentences(before.said if before else (), after.said)
    for sentence in new:
        yield told("step", sentence.text, sentence.at)
    if before is not None and before.state is after.state:
        return
    why = f": {after.reason}" if after.reason else ""
    if after.state.is_over:
        yield told("ended", f"{after.state}{why}", after.ended_at or now)
    elif before is not None and not new:
        yield told("step", f"{after.state}{why}")


def _new_sentences(
    before: tuple[Sentence, ...], after: tuple[Sentence, ...]
) -> tuple[Sentence, ...]:
    """Of many the middle ones are forgotten, so they are not counted but looked for."""
    if not before:
        return after
    last = before[-1]
    for index in range(len(after) - 1, -1, -1):
        if after[index] == last:
            return after[index + 1 :]
    return after[1:]


def _of_delivery(
    commit: Commit, before: Delivery | None, after: Delivery, now: float
) -> Iterator[Happening]:
    if before is not None and before.state is after.state:
        return
    hooks = [
        hook for s in (commit.after, commit.before) for hook in s.find(HOOKS, "id", after.hook)
    ]
    if not hooks:
        return
    hook, push = hooks[0], after.push
    why = f": {after.reason}" if after.reason else ""
    ref = push.tag or push.branch
    details: dict[str, Detail] = {"webhook": hook.id, "delivery": after.number, "repo": push.repo}
    known: dict[str, Detail] = {
        "ref": ref,
        "commit": push.after,
        "revision": after.revision,
        "reason": after.reason,
    }
    yield Happening(
        0,
        0,
        after.at if before is None else now,
        f"delivery.{after.state}",
        f"push {after.number} to {push.repo}{f' {ref}' if ref else ''} {after.state}{why}",
        tenant=hook.tenant,
        project=hook.project,
        service=hook.service,
        details=details | {key: value for key, value in known.items() if value},
    )
