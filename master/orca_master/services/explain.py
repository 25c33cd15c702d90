"""Why replicas are where they are, and what every node would be for one more. Pure."""

from collections.abc import Collection

from orca_master.services.answers import PlacementOut, ReplicaOut, VerdictOut
from orca_master.services.dependencies import waiting_for
from orca_master.services.model import Service
from orca_master.services.operations import task_spec
from orca_master.state.transaction import View
from orca_master.tasks.model import TASKS, Wanted
from orca_master.tasks.operations import rooms
from orca_master.tasks.placement import Demand, Verdict, verdicts


def explained(
    view: View, service: Service, *, now: float, doubtful: Collection[str]
) -> PlacementOut:
    """As `tasks.placement` sees one more replica of the wanted revision, the best node first."""
    spec = task_spec(service.spec)
    demand = Demand("", service.owner, spec, service.spec.constraints, service.revision)
    nodes = rooms(view, now=now, doubtful=doubtful)
    names = {room.node.id: room.node.name for room in nodes}
    wanted = [t for t in view.find(TASKS, "owner", service.owner) if t.wanted is Wanted.RUN]
    return PlacementOut(
        service=service.name,
        project=service.project,
        revision=service.revision,
        waits=waiting_for(view, service) if service.waits else [],
        replicas=[
            ReplicaOut(
                replica=task.slot,
                revision=task.revision,
                state=task.observed.state.name.lower(),
                node=names.get(task.node, task.node) or None,
                reason=task.pending_reason or None,
            )
            for task in sorted(wanted, key=lambda task: (task.slot, task.created_at))
        ],
        nodes=[_shown(verdict) for verdict in verdicts(demand, nodes)],
    )


def _shown(verdict: Verdict) -> VerdictOut:
    cost = verdict.cost
    return VerdictOut(
        node=verdict.room.node.name,
        fits=verdict.refusal is None,
        heard=not verdict.room.is_doubtful,
        reason=verdict.refusal,
        cost=cost.total,
        replicas=cost.replicas,
        spread=cost.spread,
        failures=cost.failures,
        affinity=cost.affinity,
        share=cost.share,
    )
