"""Where old replicas stop first, their nodes have the new image before: a task on each fetches it.

Nothing that runs is touched until then, so an image that cannot be had costs nobody anything. The tasks
have an owner of their own, and are no replicas.
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from orca_master.cluster.model import NODES, NodeState
from orca_master.services import images
from orca_master.services.model import OWNER_PREFIX, Service
from orca_master.services.reconcile import next_try
from orca_master.services.rollouts import operations as rollouts
from orca_master.services.rollouts.advance import TRIES, failed, say
from orca_master.services.rollouts.model import DEPLOYMENTS, Deployment, DeploymentState
from orca_master.services.strategy import OnFailure
from orca_master.state.transaction import Transaction, View
from orca_master.tasks import operations as tasks
from orca_master.tasks.constraints import Constraints
from orca_master.tasks.endings import describe_end
from orca_master.tasks.model import TASKS, Task, TaskSpec, Wanted

FETCHER_PREFIX = "image:"


def fetcher_of(owner: str) -> str:
    """The owner of the tasks that fetch images for a service's replicas."""
    return FETCHER_PREFIX + owner.removeprefix(OWNER_PREFIX)


def served_by(fetcher: str) -> str:
    """The inverse of `fetcher_of`."""
    return OWNER_PREFIX + fetcher.removeprefix(FETCHER_PREFIX)


def stop_all(tx: Transaction, owner: str) -> None:
    for task in tx.find(TASKS, "owner", fetcher_of(owner)):
        tasks.stop(tx, task)


def next_tries(view: View, owner: str, now: float) -> list[float]:
    """When one that has failed is to be placed again; Unix seconds."""
    found = view.find(TASKS, "owner", fetcher_of(owner))
    return [task.not_before for task in found if not task.node and task.not_before > now]


def tend(
    tx: Transaction, service: Service, mine: Sequence[Task], now: float, new_id: Callable[[], str]
) -> Service:
    """`mine`: the service's replicas. Asks for what is missing; says so when all of it is there, or
    cannot be had. Returns the service, which a failure takes back."""
    going = rollouts.open_deployment(tx, service)
    if going is None or not rollouts.is_fetching(going):
        stop_all(tx, service.owner)
        return service
    every = tx.find(TASKS, "owner", fetcher_of(service.owner))
    found = [task for task in every if task.revision == going.revision]
    for task in every:
        if task.revision != going.revision:
            tasks.stop(tx, task)
    nodes = _nodes(tx, mine)
    missing = [node for node in nodes if not any(_is_done(task, node) for task in found)]
    if not missing:
        text = f"its image is on {len(nodes)} nodes: it begins" if nodes else "it begins"
        begun = replace(going, fetching=False, progress_at=now)
        return _settled(tx, service, going, say(begun, text, now), now)
    for node in missing:
        of_it = [task for task in found if _node_of(task) == node]
        ended = [task for task in of_it if task.observed.state.is_over]
        if len(ended) < len(of_it):
            continue
        if ended and (last := max(ended, key=lambda task: task.order)).attempt + 1 >= TRIES:
            return _settled(tx, service, going, _given_up(tx, service, going, last, now), now)
        for task in ended:
            tasks.stop(tx, task)
        _create(tx, service, going, node, ended, now=now, id=new_id())
    return service


def _nodes(view: View, mine: Sequence[Task]) -> list[str]:
    """Ids of those that run replicas and can be given something."""
    ids = {task.node for task in mine if task.node and not task.observed.state.is_over}
    nodes = [view.get(NODES, id) for id in sorted(ids)]
    return [n.id for n in nodes if n is not None and n.schedulable and n.state is NodeState.READY]


def _node_of(task: Task) -> str:
    return task.constraints.node


def _is_done(task: Task, node: str) -> bool:
    seen = task.observed
    is_over = seen.state.is_over and task.wanted is Wanted.RUN
    return is_over and not seen.reason and seen.exit_code == 0 and _node_of(task) == node


def _create(
    tx: Transaction,
    service: Service,
    going: Deployment,
    node: str,
    ended: Sequence[Task],
    *,
    now: float,
    id: str,
) -> None:
    spec = images.pinned(tx, service, going.revision, service.spec)
    again = next_try(1, going.revision, ended, ended, now)
    tasks.create(
        tx,
        id=id,
        owner=fetcher_of(service.owner),
        project=service.project,
        name=service.name,
        revision=going.revision,
        slot=1,
        spec=TaskSpec(
            runtime=spec.runtime, image=spec.image, pull_policy=spec.pull_policy, image_only=True
        ),
        constraints=Constraints(node=node),
        now=now,
        attempt=again.attempt,
        not_before=again.not_before,
        last_failure=again.last_failure,
        generation=again.generation,
    )


def _given_up(
    tx: Transaction, service: Service, going: Deployment, last: Task, now: float
) -> Deployment:
    node = tx.get(NODES, _node_of(last))
    where = node.name if node is not None else _node_of(last)
    why = f"its image cannot be had on node {where}: {describe_end(last)} (try {TRIES} of {TRIES})"
    rollout = service.policy.rollout
    after = replace(going, fetching=False, progress_at=now)
    if rollout.on_failure is OnFailure.CONTINUE:
        return say(replace(after, reason=why), f"{why}; going on, as on_failure says", now)
    if rollout.on_failure is OnFailure.PAUSE:
        after = replace(after, fetching=True)  # whoever resumes it has it tried again
    return failed(after, rollout, why, now)


def _settled(
    tx: Transaction, service: Service, before: Deployment, after: Deployment, now: float
) -> Service:
    tx.put(DEPLOYMENTS, after)
    stop_all(tx, service.owner)
    if after.state is not DeploymentState.RUNNING:
        return rollouts.took_effect(tx, service, before, after, now)
    return service
