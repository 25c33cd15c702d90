"""Who gets a service's requests now: its ready replicas, each with its weight. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orca_master.services.model import SERVICES, Service
from orca_master.services.rollouts.operations import open_deployment
from orca_master.services.routing.sharing import canary_revision, takes_requests, weights
from orca_master.state.table import View
from orca_master.tasks.model import TASKS, Task


@dataclass(frozen=True, slots=True)
class Shares:
    """`tasks`: those that get requests, in order of their ids; `weights`: of a replica, by revision;
    `testers`: the replicas for requests that the canary's `match` means."""

    tasks: Sequence[Task]
    weights: Mapping[int, int]
    testers: Sequence[Task]

    @property
    def percents(self) -> dict[int, float]:
        """Of the requests, by revision."""
        of_revision = Counter[int]()
        for task in self.tasks:
            of_revision[task.revision] += self.weights[task.revision]
        total = of_revision.total()
        return {number: 100 * part / total for number, part in sorted(of_revision.items())}


def routed(view: View) -> list[Service]:
    """Every service with a domain, in order of its name."""
    found = [s for s in view.find(SERVICES, "routed", "yes") if not s.purge]
    return sorted(found, key=lambda service: service.key)


def shares(view: View, service: Service, down: Collection[str]) -> Shares:
    """`down`: ids of nodes that are so."""
    going, rollout = open_deployment(view, service), service.policy.rollout
    able = [task for task in view.find(TASKS, "owner", service.owner) if takes_requests(task, down)]
    able.sort(key=lambda task: task.id)
    found = weights(able, service.revision, going, rollout)
    canary = canary_revision(going) if rollout.canary.match is not None else 0
    return Shares(
        tasks=[task for task in able if task.revision in found],
        weights=found,
        testers=[task for task in able if canary and task.revision == canary],
    )
