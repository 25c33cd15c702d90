"""What services depend on: when one may start, what closes a circle, whom a removal would leave alone.

Only starting is ordered. A rollout, or a start of a stopped service, waits until all that it depends on is
there; from then on nothing of a dependency stops or holds up those that need it. Reads rows, writes none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from orca_master.cluster.operations import down_nodes
from orca_master.errors import Conflict, Invalid, Problem
from orca_master.services.model import SERVICES, Condition, Dependency, Service
from orca_master.services.rollouts.model import DEPLOYMENTS, DeploymentState, number_key
from orca_master.state.transaction import View
from orca_master.tasks.model import TASKS, Wanted

Asked = Sequence[tuple[str, str, Sequence[Dependency]]]
"""Of each service of a request: its project, its name, what it depends on."""


def waiting_for(view: View, service: Service) -> list[str]:
    """Why replicas of it do not start yet: a sentence for each dependency that is not there."""
    tenant, project, needs = service.tenant, service.project, service.policy.depends_on
    return lacking(view, tenant, project, needs) if needs else []


def lacking(view: View, tenant: str, project: str, depends_on: Iterable[Dependency]) -> list[str]:
    """As `waiting_for`, of a service that need not be there yet."""
    down = down_nodes(view)
    said = []
    for each in depends_on:
        why = _why_not(view, view.get(SERVICES, tenant, project, each.name), each, down)
        said += [f"waits for {each.name}: {why}"] if why else []
    return said


def _why_not(
    view: View, needed: Service | None, dependency: Dependency, down: Collection[str]
) -> str:
    if needed is None or needed.purge:
        return "there is no such service"
    if needed.stopped:
        return "it is stopped"
    tasks = [
        task
        for task in view.find(TASKS, "owner", needed.owner)
        if task.wanted is Wanted.RUN
        and not task.observed.state.is_over
        and task.node not in down
        and task.slot <= needed.replicas
    ]
    if dependency.condition is Condition.STARTED:
        has_started = any(task.observed.started_at > 0 for task in tasks)
        return "" if has_started else "none of its replicas has started"
    ready = len({task.slot for task in tasks if task.is_ready})
    wanted = max(1, needed.replicas)
    if ready < wanted:
        return f"{ready} of {wanted} replicas ready"
    return f"its rollout to revision {needed.revision} is not over" if _moves(view, needed) else ""


def _moves(view: View, service: Service) -> bool:
    """Whether a rollout of it is on its way. One that is paused, or a canary that stands, is at rest."""
    going = view.get(DEPLOYMENTS, *service.key, number_key(service.deployment))
    if going is None or going.state.is_over or going.state is DeploymentState.PAUSED:
        return service.waits
    return not (going.holding and going.stage_at)


def exists(view: View, tenant: str, project: str, name: str) -> bool:
    row = view.get(SERVICES, tenant, project, name)
    return row is not None and not row.purge


def check(view: View, tenant: str, asked: Asked) -> None:
    """Raises Invalid for names that are nowhere, and for a circle, of this request or with what was deployed
    before."""
    new = {(project, name): needs for project, name, needs in asked}
    if not any(new.values()):
        return
    problems = []
    for number, (project, _, needs) in enumerate(asked):
        for each in needs:
            is_known = (project, each.name) in new or exists(view, tenant, project, each.name)
            if not is_known:
                text = f"there is no service {each.name} in project {project}: deploy it before, or with this"
                problems.append(Problem(f"services.{number}.depends_on.{each.name}", text))
    for project in sorted({project for project, _ in new}):
        circle = _circle(_graph(view, tenant, project, new), {n for p, n in new if p == project})
        if circle:
            number = next(i for i, (p, n, _) in enumerate(asked) if (p, n) == (project, circle[0]))
            text = f"depends on itself: {' → '.join(circle)}"
            problems.append(Problem(f"services.{number}.depends_on", text))
    if problems:
        raise Invalid(problems)


def _graph(
    view: View, tenant: str, project: str, new: Mapping[tuple[str, str], Sequence[Dependency]]
) -> dict[str, list[str]]:
    rows = view.find(SERVICES, "project", f"{tenant}/{project}")
    graph = {row.name: [d.name for d in row.policy.depends_on] for row in rows if not row.purge}
    return graph | {
        name: [d.name for d in needs] for (of, name), needs in new.items() if of == project
    }


def _circle(graph: Mapping[str, Sequence[str]], first: Collection[str]) -> list[str]:
    """A way along dependencies that ends where it begins, at one of `first` if it has one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        way: list[str] = error.args[1][:0:-1]
        start = next((i for i, name in enumerate(way) if name in first), 0)
        return [*way[start:], *way[:start], way[start]]
    return []


def check_removal(view: View, leaving: Sequence[Service]) -> None:
    """Raises Conflict if services that stay depend on one of these."""
    gone = {service.key for service in leaving}
    said = []
    for tenant, project in sorted({key[:2] for key in gone}):
        for row in view.find(SERVICES, "project", f"{tenant}/{project}"):
            if row.key in gone or row.purge:
                continue
            said += [
                f"{row.name} depends on {each.name}"
                for each in row.policy.depends_on
                if (tenant, project, each.name) in gone
            ]
    if said:
        told = ", ".join(said)
        raise Conflict(
            f"{told}: remove what depends on it first, or force it (`--force`, ?force=true)"
        )
