"""The verbs of rollouts: begin one, carry it on, promote, pause, resume, go back."""

import math
from collections.abc import Collection, Sequence

from msgspec.structs import replace

from orca_master.errors import Conflict, NotFound
from orca_master.identity.secrets.model import SecretUse
from orca_master.identity.secrets.operations import find_uses, version_of
from orca_master.services.model import SERVICES, Service, ServiceSpec
from orca_master.services.rollouts.advance import (
    advance,
    enter_stage,
    go_back,
    next_look,
    paused,
    promote,
    resumed,
    say,
)
from orca_master.services.rollouts.model import (
    DEPLOYMENTS,
    REVISIONS,
    Deployment,
    DeploymentState,
    Kind,
    PausedFor,
    Revision,
    number_key,
)
from orca_master.services.rollouts.scene import Scene
from orca_master.services.rollouts.strategies import stops_first, truly
from orca_master.services.strategy import Strategy
from orca_master.state.transaction import Transaction, View
from orca_master.tasks import operations as tasks
from orca_master.tasks.model import TASKS, Task, Wanted

MOST_REVISIONS = 50
MOST_DEPLOYMENTS = 20


def revision_of(view: View, service: Service, number: int) -> Revision | None:
    return view.get(REVISIONS, *service.key, number_key(number))


def revisions_of(view: View, service: Service) -> list[Revision]:
    """Oldest first."""
    return view.find(REVISIONS, "service", "/".join(service.key))


def deployments_of(view: View, service: Service) -> list[Deployment]:
    """Oldest first."""
    return view.find(DEPLOYMENTS, "service", "/".join(service.key))


def last_deployment(view: View, service: Service) -> Deployment | None:
    return view.get(DEPLOYMENTS, *service.key, number_key(service.deployment))


def open_deployment(view: View, service: Service) -> Deployment | None:
    found = last_deployment(view, service)
    return None if found is None or found.state.is_over else found


def spec_of(view: View, service: Service, number: int) -> ServiceSpec | None:
    """How replicas of this revision run; None: it is not known any more."""
    if number == service.revision:
        return service.spec
    found = revision_of(view, service, number)
    return None if found is None else found.spec


def secrets_of(view: View, service: Service, number: int) -> tuple[SecretUse, ...]:
    """Which versions of secrets replicas of this revision get."""
    found = revision_of(view, service, number)
    return () if found is None else found.secrets


def begin(
    tx: Transaction,
    service: Service,
    *,
    kind: Kind,
    now: float,
    by: str,
    message: str,
    base: int,
) -> Service:
    """Open a deployment that takes `service` (its row as it is to be) to its revision from `base`."""
    before = open_deployment(tx, service)
    if before is not None:
        why = f"superseded by revision {service.revision}"
        over = replace(before, state=DeploymentState.SUPERSEDED, reason=why, ended_at=now)
        tx.put(DEPLOYMENTS, say(over, why, now))
    number = service.deployment + 1
    old = spec_of(tx, service, base) if base else None
    rollout = service.policy.rollout
    reason = stops_first(rollout, service.spec, old)
    strategy, changed = truly(rollout, kind, stop_first=bool(reason))
    deployment = Deployment(
        *service.key,
        number,
        service.revision,
        base,
        started_at=now,
        kind=kind,
        strategy=strategy,
        stop_first=bool(reason),
        fetching=bool(base) and bool(reason) and _must_fetch(service, old),
        holding=bool(base) and strategy in (Strategy.CANARY, Strategy.BLUE_GREEN),
        progress_at=now,
        by=by,
        message=message,
    )
    if not base:
        text = f"revision {service.revision}: nothing was stable before, so there is no way back"
    else:
        order = f"stop-first, because {reason}" if reason else "start-first"
        text = f"{kind.value}: revision {service.revision} replaces {base}, {strategy}, {order}"
        text += f"; {changed}" if changed else ""
    deployment = say(deployment, text, now)
    if deployment.fetching:
        deployment = say(deployment, "first its image is fetched where replicas run", now)
    waits = must_wait(service) and kind is not Kind.ROLLBACK
    if waits:
        deployment = say(deployment, f"begins once {needed(service)}", now)
    tx.put(DEPLOYMENTS, deployment)
    _forget_oldest(tx, service)
    return replace(service, deployment=number, waits=waits)


def is_fetching(deployment: Deployment) -> bool:
    """Whether its image is still brought to the nodes, and nothing is to be touched."""
    return deployment.fetching and deployment.state is DeploymentState.RUNNING


def is_untouched(deployment: Deployment) -> bool:
    """As `is_fetching`, also while it is paused meanwhile."""
    is_on = deployment.state in (DeploymentState.RUNNING, DeploymentState.PAUSED)
    return deployment.fetching and is_on


def _must_fetch(service: Service, old: ServiceSpec | None) -> bool:
    """Whether another image is to be on the nodes before replicas stop for it."""
    spec = service.spec
    is_another = bool(spec.image) and (old is None or spec.image != old.image)
    return is_another and spec.pull_policy != "never" and service.wanted_replicas > 0


def must_wait(service: Service) -> bool:
    """Whether replicas of it that start now have to wait for others."""
    return bool(service.policy.depends_on) and service.wanted_replicas > 0


def needed(service: Service) -> str:
    return " and ".join(f"{d.name} is {d.condition}" for d in service.policy.depends_on)


def release(tx: Transaction, service: Service, now: float) -> Service:
    """What it waited for is there: its rollout begins, with its deadlines from now on."""
    going = open_deployment(tx, service)
    if going is not None:
        begun = replace(going, progress_at=now)
        tx.put(DEPLOYMENTS, say(begun, "what it depends on is there: it begins", now))
    service = replace(service, waits=False)
    tx.put(SERVICES, service)
    return service


def keep_revision(
    tx: Transaction, service: Service, *, now: float, by: str, message: str
) -> Service:
    """Number `service.spec` as a revision, with its secrets as they are now, and make it the wanted one. If
    the spec is that of the revision before, so is the image.

    Raises Conflict for a secret that does not exist."""
    uses, missing = find_uses(tx, service.tenant, service.project, service.spec.secret_keys)
    if missing:
        raise Conflict("; ".join(f"{service.name}: {each.reason}" for each in missing))
    number = max(service.newest, service.revision) + 1
    revision = Revision(*service.key, number, service.spec, now, by, message, secrets=uses)
    before = revision_of(tx, service, service.revision)
    if before is not None and before.spec == service.spec:
        revision = replace(revision, image_digest=before.image_digest)
    tx.put(REVISIONS, revision)
    return replace(service, revision=number, newest=number)


def base_of(view: View, service: Service) -> int:
    """Where a rollout that begins now would go back to."""
    going = open_deployment(view, service)
    return service.stable if going is None else going.base


def tend(
    tx: Transaction, service: Service, mine: Sequence[Task], down: Collection[str], now: float
) -> tuple[Service, Deployment | None, float]:
    """One step on. Returns the service, its last deployment, and when to look again (Unix seconds).
    While the service waits for others, or for its image, every slot keeps what it has."""
    deployment = last_deployment(tx, service)
    if deployment is None:
        return service, None, math.inf
    if service.waits or is_untouched(deployment):
        return service, replace(deployment, holding=False, moved=0), math.inf
    scene = scene_of(tx, service, deployment, mine, down=down, now=now)
    rollout = service.policy.rollout
    after = advance(deployment, rollout, scene)
    if after is not deployment:
        tx.put(DEPLOYMENTS, after)
        service = took_effect(tx, service, deployment, after, now)
    return service, after, next_look(after, rollout, scene)


def scene_of(
    view: View,
    service: Service,
    deployment: Deployment,
    mine: Sequence[Task],
    *,
    down: Collection[str],
    now: float,
) -> Scene:
    settle = service.policy.rollout.settle_seconds(has_check=service.spec.has_check)
    both = (revision_of(view, service, n) for n in (deployment.goal, deployment.origin))
    known = frozenset[str]().union(*(proven(r, deployment, mine) for r in both if r is not None))
    return Scene(service.wanted_replicas, mine, down, now, settle, known)


def proven(revision: Revision, deployment: Deployment, mine: Sequence[Task]) -> frozenset[str]:
    """Ids of replicas that need not show again that they stay ready: of a revision whose rollout succeeded,
    and there since then; on a way back, since before the rollout that it takes back."""
    if not revision.stable_at:
        return frozenset()
    is_home = deployment.is_way_back and revision.number == deployment.goal
    since = deployment.started_at if is_home else revision.stable_at
    return frozenset(t.id for t in mine if t.revision == revision.number and t.created_at <= since)


def took_effect(
    tx: Transaction, service: Service, before: Deployment, after: Deployment, now: float
) -> Service:
    """What a new state of a deployment means for the service and its revisions."""
    if after.state is before.state:
        return service
    found = service
    if after.state is DeploymentState.REVERTING:
        found = replace(_take_to(tx, service, after.base), waits=False)
        _mark(tx, service, after.revision, rejected=True)
    elif after.state is DeploymentState.SUCCEEDED and service.wanted_replicas:
        _mark(tx, service, after.revision, rejected=False, stable_at=now)
        if after.kind is Kind.ROLLBACK:
            _mark(tx, service, after.base, rejected=True)
        found = replace(service, stable=after.revision)
    if found is not service:
        tx.put(SERVICES, found)
    return found


def _take_to(tx: Transaction, service: Service, number: int) -> Service:
    revision = revision_of(tx, service, number)
    if revision is None:
        raise Conflict(f"revision {number} of service {service.name} is not kept any more")
    return replace(service, revision=number, spec=revision.spec)


def _mark(tx: Transaction, service: Service, number: int, **fields: object) -> None:
    revision = revision_of(tx, service, number)
    if revision is not None:
        tx.put(REVISIONS, replace(revision, **fields))


def cancel(tx: Transaction, service: Service, why: str, now: float) -> Service:
    """End an open deployment where it stands; what it did not finish is not taken up again."""
    going = open_deployment(tx, service)
    if going is None:
        return service
    over = replace(going, state=DeploymentState.CANCELLED, reason=why, ended_at=now)
    tx.put(DEPLOYMENTS, say(over, f"cancelled: {why}", now))
    if going.base and going.base != service.revision:
        return _take_to(tx, service, going.base)
    return service


def promote_canary(
    tx: Transaction, service: Service, *, by: str, one_step: bool, now: float
) -> Deployment:
    """Give the canary's revision to all replicas; with `one_step` go to its next step. Raises Conflict."""
    going = _held(tx, service, "promote")
    stages = service.policy.rollout.canary.stages
    rollout = service.policy.rollout
    has_begun = not service.waits and not is_untouched(going)
    if one_step and not has_begun:
        raise Conflict(f"the canary of service {service.name} has not begun yet: ask again later")
    if one_step and going.stage + 1 < len(stages):
        after = enter_stage(going, rollout, going.stage + 1, now)
    else:
        after = promote(going, rollout, service.wanted_replicas, f"promoted by {by}", now)
        after = after if has_begun else replace(after, moved=0)
    tx.put(DEPLOYMENTS, after)
    return after


def pause(tx: Transaction, service: Service, *, by: str, now: float) -> Deployment:
    """No further replica is changed until it is resumed. Raises Conflict."""
    going = _going(tx, service, "pause")
    if going.state is DeploymentState.REVERTING:
        raise Conflict(f"service {service.name} is going back to revision {going.base}; let it")
    if going.state is DeploymentState.PAUSED:
        return going
    why = f"paused by {by}"
    after = say(paused(going, PausedFor.PERSON, why), why, now)
    tx.put(DEPLOYMENTS, after)
    return after


def resume(tx: Transaction, service: Service, *, by: str, now: float) -> Deployment:
    """Go on: a canary whose step waits goes to the next one, and after the last to all. Raises Conflict."""
    going = _going(tx, service, "resume")
    if going.state is not DeploymentState.PAUSED:
        raise Conflict(f"the rollout of service {service.name} is not paused")
    rollout = service.policy.rollout
    after = say(going, f"resumed by {by}", now)
    if going.paused_for is not PausedFor.STEP:
        after = resumed(after, now)
        _try_failed_again(tx, service, going.revision)
    elif going.stage + 1 < len(rollout.canary.stages):
        after = enter_stage(after, rollout, going.stage + 1, now)
    else:
        after = promote(after, rollout, service.wanted_replicas, f"resumed by {by}", now)
    tx.put(DEPLOYMENTS, after)
    return after


def _try_failed_again(tx: Transaction, service: Service, revision: int) -> None:
    for task in tx.find(TASKS, "owner", service.owner):
        is_waiting = not task.node and task.not_before > 0
        is_due = task.observed.state.is_over or is_waiting
        if is_due and task.revision == revision and task.wanted is Wanted.RUN:
            tasks.stop(tx, task)


def roll_back(
    tx: Transaction, service: Service, *, to: int | None, by: str, now: float
) -> Deployment:
    """Away with an open rollout, canary or not; else to the last stable revision before, or to revision
    `to`: a rollout of its own. Raises Conflict, NotFound."""
    going = open_deployment(tx, service)
    if going is not None and to in (None, going.base) and going.base:
        if going.state is DeploymentState.REVERTING:
            return going
        after = go_back(going, f"rolled back by {by}", now)
        tx.put(DEPLOYMENTS, after)
        took_effect(tx, service, going, after, now)
        return after
    number = _rollback_target(tx, service) if to is None else to
    target = revision_of(tx, service, number)
    if target is None:
        raise NotFound("revision", f"{number} of service {service.name}")
    _check_secrets(tx, service, target)
    if number == service.revision and going is None:
        raise Conflict(f"service {service.name} is at revision {number} already")
    base = base_of(tx, service)
    before = service.revision
    after_service = _take_to(tx, service, number)
    after_service = begin(
        tx,
        replace(after_service, stopped=False, updated_at=now),
        kind=Kind.ROLLBACK,
        now=now,
        by=by,
        message=f"rollback from revision {before}",
        base=base if base != number else before,
    )
    tx.put(SERVICES, after_service)
    return _just_begun(tx, after_service)


def _check_secrets(view: View, service: Service, target: Revision) -> None:
    gone = [use for use in target.secrets if version_of(view, use) is None]
    if gone:
        told = ", ".join(f"version {use.version} of secret {use.name}" for use in gone)
        raise Conflict(
            f"revision {target.number} of service {service.name} was made with {told}, which is not"
            " kept any more: deploy what you want to go back to"
        )


def _just_begun(tx: Transaction, service: Service) -> Deployment:
    found = last_deployment(tx, service)
    assert found is not None, "it was just written"
    return found


def return_home(tx: Transaction, service: Service, going: Deployment, now: float) -> Service:
    """What is asked for now is what the open rollout came from."""
    why = f"superseded: what revision {going.base} is was deployed again"
    after = go_back(going, why, now)
    tx.put(DEPLOYMENTS, after)
    return took_effect(tx, service, going, after, now)


def _rollback_target(view: View, service: Service) -> int:
    """The stable revision that was last the one that ran, other than the present one. Raises Conflict."""
    known = revisions_of(view, service)
    good = [r for r in known if r.stable_at and not r.rejected and r.number != service.revision]
    if not good:
        raise Conflict(
            f"service {service.name} has no stable revision to go back to;"
            " `orca history` lists them, and a number takes it to any of them"
        )
    return max(good, key=lambda r: (r.stable_at, r.number)).number


def restart(tx: Transaction, service: Service, *, by: str, now: float) -> Deployment:
    """Replace all replicas by new ones of the same spec, as a rollout. Raises Conflict."""
    if service.stopped or service.purge:
        raise Conflict(f"service {service.name} is stopped; start it")
    if open_deployment(tx, service) is not None:
        raise Conflict(f"a rollout of service {service.name} is under way; let it end first")
    base = service.stable
    again = keep_revision(tx, service, now=now, by=by, message="restart")
    again = replace(again, updated_at=now)
    again = begin(tx, again, kind=Kind.RESTART, now=now, by=by, message="restart", base=base)
    tx.put(SERVICES, again)
    return _just_begun(tx, again)


def forget(tx: Transaction, service: Service) -> None:
    """Everything that was kept of a service that is gone."""
    for revision in revisions_of(tx, service):
        tx.delete(REVISIONS, *service.key, number_key(revision.number))
    for deployment in deployments_of(tx, service):
        tx.delete(DEPLOYMENTS, *service.key, number_key(deployment.number))


def _forget_oldest(tx: Transaction, service: Service) -> None:
    used = {service.revision, service.stable, base_of(tx, service)}
    used |= {task.revision for task in tx.find(TASKS, "owner", service.owner)}
    revisions = revisions_of(tx, service)
    for revision in revisions[: max(0, len(revisions) - MOST_REVISIONS)]:
        if revision.number not in used:
            tx.delete(REVISIONS, *service.key, number_key(revision.number))
    deployments = deployments_of(tx, service)
    for deployment in deployments[: max(0, len(deployments) - MOST_DEPLOYMENTS)]:
        tx.delete(DEPLOYMENTS, *service.key, number_key(deployment.number))


def _going(view: View, service: Service, verb: str) -> Deployment:
    going = open_deployment(view, service)
    if going is None:
        raise Conflict(f"service {service.name} has no rollout to {verb}")
    return going


def _held(view: View, service: Service, verb: str) -> Deployment:
    going = open_deployment(view, service)
    if going is None or not going.holding or going.strategy is not Strategy.CANARY:
        raise Conflict(f"service {service.name} has no canary to {verb}")
    return going
