"""The endpoints of services (API document 002)."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from orca_common.env import Env
from orca_master.cluster.model import NODES
from orca_master.cluster.presence import Presence
from orca_master.errors import NotFound, NotReady
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, Reply, Route, Served, Text
from orca_master.identity.model import Permission
from orca_master.services import dependencies, logs, operations, payload
from orca_master.services.answers import (
    DeployOut,
    OutcomeOut,
    PlacementOut,
    ScaleOut,
    StatusOut,
    StoppedOut,
)
from orca_master.services.changes import Changes
from orca_master.services.explain import explained
from orca_master.services.meters import DeployMeters
from orca_master.services.model import SERVICES, Service, ServiceSpec
from orca_master.services.outcome import Ending, Outcome, outcome, progress
from orca_master.services.planning import planned
from orca_master.services.rollouts.model import DEPLOYMENTS
from orca_master.services.routing.claims import claims
from orca_master.services.status import Statuses
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction, View
from orca_master.tasks.dispatcher import Dispatcher
from orca_master.tasks.model import TASKS

DEPLOY = {
    "services": [
        {
            "name": "web",
            "image": "nginx:1.27",
            "replicas": 2,
            "port": 80,
            "health": "/",
            "startup": {"tcp": True},
            "env": {"MODE": "production"},
            "resources": {"memory": "128Mi", "cpu": 0.25},
        }
    ]
}

OPEN = "open"

_Asked = tuple[payload.ServiceIn, ServiceSpec]


@dataclass(frozen=True, slots=True)
class ServiceRoutes:
    env: Env
    store: Store
    dispatcher: Dispatcher
    presence: Presence
    statuses: Statuses = field(default_factory=Statuses)
    meters: DeployMeters = field(default_factory=DeployMeters)
    changes: Changes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", Changes(self.env, self.store))

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="services")
        of_many = partial(route, takes_key=True, query=payload.PurgeQuery, answer=StoppedOut)
        service = "/api/v1/services/{name}"
        return [
            route(
                "POST /api/v1/deploy",
                Permission.SERVICES_DEPLOY,
                self.deploy,
                "Deploy services",
                takes_key=True,
                statuses=(200, 202, 206, 500),
                body=payload.DeployIn,
                answer=DeployOut,
                example=DEPLOY,
                query=payload.DeployQuery,
            ),
            route(
                f"POST {service}/scale",
                Permission.SERVICES_SCALE,
                self.scale,
                "Scale a service",
                takes_key=True,
                body=payload.ScaleIn,
                answer=ScaleOut,
                example={"replicas": 3},
                query=payload.ProjectQuery,
            ),
            route(
                f"DELETE {service}",
                Permission.SERVICES_STOP,
                self.stop,
                "Stop a service",
                answer=Ok,
                takes_key=True,
                query=payload.StopQuery,
            ),
            of_many(
                "DELETE /api/v1/projects/{name}",
                Permission.SERVICES_STOP,
                self.stop_project,
                "Stop all services of a project",
            ),
            of_many(
                "POST /api/v1/stop",
                Permission.SERVICES_STOP,
                self.stop_all,
                "Stop all services",
            ),
            *self._reads(route),
        ]

    def _reads(self, route: Callable[..., Route]) -> list[Route]:
        service = "/api/v1/services/{name}"
        return [
            route(
                "GET /api/v1/status",
                Permission.SERVICES_READ,
                self.status,
                "Status of services",
                answer=StatusOut,
                query=payload.ProjectQuery,
                served=Served.HERE_OR_LEADER,
            ),
            route(
                f"GET {service}/placement",
                Permission.SERVICES_READ,
                self.placement,
                "Why replicas are where they are",
                answer=PlacementOut,
                query=payload.ProjectQuery,
            ),
            route(
                f"GET {service}/logs",
                Permission.LOGS_READ,
                self.logs,
                "Output of a service's replicas",
                media_type="text/plain",
                query=payload.LogsQuery,
            ),
        ]

    async def deploy(self, call: Call[payload.DeployQuery, payload.DeployIn]) -> Reply:
        """Answers when each outcome is known: 200 all run, 206 some, 500 none; 202 with wait=false, and
        when some rollouts are paused and none has failed."""
        errors: list[str] = []
        for item in call.body.services:
            call.scope(item.project)
        if call.query.plan:
            return await self._planned(call)
        accepted = await self._accept(call, errors)
        if not call.query.wait:
            names = [service.name for service in accepted]
            self.meters.count(accepted=len(names), failed=len(errors))
            outcomes = [_outcome_out(service, "accepted", "") for service in accepted]
            return Reply(DeployOut([], errors, names, outcomes), 202)
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(self._outcome(service, call.query.timeout))
                for service in accepted
            ]
        outcomes = [wait.result() for wait in waits]
        return self._answer(outcomes, errors)

    async def _planned(self, call: Call[payload.DeployQuery, payload.DeployIn]) -> Reply:
        state, now = await self.store.fresh(), self.env.now()
        doubtful = self.presence.doubtful(nodes=state.count(NODES))
        asked = [(item, item.spec()) for item in call.body.services]
        dependencies.check(state, call.tenant, _needs(asked))
        items, errors = _divided(state, call.tenant, asked)
        plan = [
            planned(
                state,
                call.tenant,
                item.project,
                item.name,
                spec,
                item.replicas,
                item.policy(),
                now=now,
                doubtful=doubtful,
                beside=[other.name for other, _ in items if other.project == item.project],
            )
            for item, spec in items
        ]
        return Reply(DeployOut([], errors, plan=plan))

    def _answer(self, outcomes: list[OutcomeOut], errors: list[str]) -> Reply:
        deployed = [each.service for each in outcomes if each.state == Ending.RUNNING]
        paused = [each.service for each in outcomes if each.state == Ending.PAUSED]
        bad = [each for each in outcomes if each.state not in (Ending.RUNNING, Ending.PAUSED)]
        errors = errors + [f"{each.service}: {each.reason}" for each in bad]
        still = sum(each.state == OPEN for each in bad)
        self.meters.count(
            running=len(deployed), open=still + len(paused), failed=len(errors) - still
        )
        answer = DeployOut(deployed, errors, paused or UNSET, outcomes)
        if errors:
            return Reply(answer, 206 if deployed or paused else 500)
        return Reply(answer, 202 if paused else 200)

    async def _accept(
        self,
        call: Call[payload.DeployQuery, payload.DeployIn],
        errors: list[str],
    ) -> list[Service]:
        """The services as this deploy left them, also when its key says that it was done before."""
        asked = [(item, item.spec()) for item in call.body.services]

        def accept(tx: Transaction) -> list[Any]:
            now = self.env.now()
            dependencies.check(tx, call.tenant, _needs(asked))
            items, why_not = _divided(tx, call.tenant, asked)
            done = [
                operations.deploy(
                    tx,
                    tenant=call.tenant,
                    project=item.project,
                    name=item.name,
                    spec=spec,
                    replicas=item.replicas,
                    now=now,
                    policy=item.policy(),
                    by=call.actor,
                    message=call.body.message,
                )
                for item, spec in items
            ]
            for each in done:
                if each.changed:
                    revision = each.service.revision
                    self.changes.note(tx, call, "deploy", each.service, revision=revision)
            left = [each.service for each in done]
            return [why_not, [[s.project, s.name, s.revision, s.deployment] for s in left]]

        lacking, done = await self.changes.once(call, accept)
        errors += lacking
        accepted = []
        for project, name, revision, deployment in done:
            service = self.store.state.get(SERVICES, call.tenant, project, name)
            if service is None:
                errors.append(f"{name}: it was removed since")
            else:
                accepted.append(replace(service, revision=revision, deployment=deployment))
        return accepted

    async def _outcome(self, service: Service, timeout: float) -> OutcomeOut:
        try:
            async with asyncio.timeout(timeout):
                found = await self._settled(service)
                return _outcome_out(service, found.ending or OPEN, found.reason)
        except TimeoutError:
            so_far = progress(self.store.state, service)
            why = f"still in progress after {timeout:g} s ({so_far}); the work goes on"
            return _outcome_out(service, OPEN, why)

    async def _settled(self, service: Service) -> Outcome:
        with self.store.follow(SERVICES, DEPLOYMENTS, TASKS) as follower:
            wait: float | None = None
            while True:
                await follower.next(wait)
                now = self.env.now()
                found = outcome(self.store.state, service, now)
                if found.ending is not None:
                    return found
                wait = None if math.isinf(found.look_at) else max(0.001, found.look_at - now)

    async def status(self, call: Call[payload.ProjectQuery, None]) -> object:
        state = await self.store.read(stale=call.stale)
        project = call.scope(call.query.project)
        return {"services": self.statuses.at(state, call.tenant, project)}

    async def placement(self, call: Call[payload.ProjectQuery, None]) -> PlacementOut:
        state = await self.store.fresh()
        project = call.scope(call.query.project)
        found = operations.resolve(state, call.tenant, call.path["name"], project)
        doubtful = self.presence.doubtful(nodes=state.count(NODES))
        return explained(state, found, now=self.env.now(), doubtful=doubtful)

    async def scale(self, call: Call[payload.ProjectQuery, payload.ScaleIn]) -> ScaleOut:
        def scale(tx: Transaction) -> dict[str, Any]:
            service = operations.scale(
                tx,
                tenant=call.tenant,
                name=call.path["name"],
                project=call.scope(call.query.project),
                replicas=call.body.replicas,
                now=self.env.now(),
            )
            self.changes.note(tx, call, "scale", service, replicas=service.replicas)
            return {"service": service.name, "replicas": service.replicas}

        return ScaleOut(**await self.changes.once(call, scale))

    async def stop(self, call: Call[payload.StopQuery, None]) -> Ok:
        def stop(tx: Transaction) -> str:
            found = operations.resolve(
                tx, call.tenant, call.path["name"], call.scope(call.query.project)
            )
            if call.query.purge and not call.query.force:
                dependencies.check_removal(tx, [found])
            return self._stop_each(tx, call, [found])[0]

        return Ok(f"stop {await self.changes.once(call, stop)}")

    async def stop_project(self, call: Call[payload.PurgeQuery, None]) -> StoppedOut:
        project = call.path["name"]
        call.scope(project)

        def stop(tx: Transaction) -> list[str]:
            found = tx.find(SERVICES, "project", f"{call.tenant}/{project}")
            if not found:
                raise NotFound("project", project)
            return self._stop_each(tx, call, found)

        stopped = await self.changes.once(call, stop)
        return StoppedOut(f"stopped project {project}", stopped)

    async def stop_all(self, call: Call[payload.PurgeQuery, None]) -> StoppedOut:
        def stop(tx: Transaction) -> list[str]:
            own = call.scope(None)
            found = tx.find(SERVICES, "tenant", call.tenant)
            found = [service for service in found if own in (None, service.project)]
            return self._stop_each(tx, call, found)

        return StoppedOut("stop all", await self.changes.once(call, stop))

    def _stop_each(self, tx: Transaction, call: Call[Any, None], found: list[Service]) -> list[str]:
        for service in found:
            operations.stop(tx, service, purge=call.query.purge, now=self.env.now())
            self.changes.note(tx, call, "stop", service, purge=call.query.purge)
        return [service.name for service in found]

    async def logs(self, call: Call[payload.LogsQuery, None]) -> object:
        """Plain text; see `services.logs`."""
        state, query = await self.store.fresh(), call.query
        project = call.scope(query.project)
        service = operations.resolve(state, call.tenant, call.path["name"], project)
        asked = logs.Asked(
            tail=query.lines,
            since=payload.since_seconds(query.since, self.env.now()) if query.since else 0.0,
            replica=query.replica or "",
            beat=query.beat or 0.0,
            previous=query.previous,
        )
        tasks = logs.choose(state, service, asked)
        if query.follow:
            following = logs.Following(self.env, self.store, self.dispatcher, service, asked)
            return Text(following.parts())
        if not tasks and query.previous:
            raise NotFound("output of replicas that are gone, of service", service.name)
        if not tasks:
            raise NotReady(f"service {service.name} has no replica with output")
        return Text(logs.replay(self.dispatcher, service, tasks, asked))


def _divided(view: View, tenant: str, asked: Sequence[_Asked]) -> tuple[list[_Asked], list[str]]:
    """Those that can be deployed, and why the others cannot."""
    ready: list[_Asked] = []
    why_not: list[str] = []
    for item, spec in asked:
        said = operations.lacking(view, tenant=tenant, project=item.project, spec=spec)
        why_not += [f"{item.name}: {each}" for each in said]
        if not said:
            ready.append((item, spec))
    ready, said = _with_own_domains(view, tenant, ready)
    why_not += said
    while alone := _without_what_they_need(view, tenant, ready):
        why_not += [
            f"{item.name}: {needed}, which it depends on, is not deployed" for item, needed in alone
        ]
        ready = [each for each in ready if all(each[0] is not item for item, _ in alone)]
    return ready, why_not


def _with_own_domains(
    view: View, tenant: str, asked: Sequence[_Asked]
) -> tuple[list[_Asked], list[str]]:
    """Those whose domains and routes are no others', and why the others' are."""
    ready: list[_Asked] = []
    why_not: list[str] = []
    taken = claims(view, tenant, but=[(item.project, item.name) for item, _ in asked])
    for item, spec in asked:
        routing = item.routing()
        said = taken.against(item.project, item.name, routing)
        why_not += [f"{item.name}: {each}" for each in said]
        if not said:
            taken.take(item.project, item.name, routing)
            ready.append((item, spec))
    return ready, why_not


def _without_what_they_need(
    view: View, tenant: str, ready: Sequence[_Asked]
) -> list[tuple[payload.ServiceIn, str]]:
    """Those that depend on what neither is there nor is deployed now, with its name."""
    names = {(item.project, item.name) for item, _ in ready}
    return [
        (item, missing[0])
        for item, _ in ready
        if (
            missing := [
                name
                for name in item.depends_on
                if (item.project, name) not in names
                and not dependencies.exists(view, tenant, item.project, name)
            ]
        )
    ]


def _needs(asked: Sequence[_Asked]) -> dependencies.Asked:
    return [(item.project, item.name, item.policy().depends_on) for item, _ in asked]


def _outcome_out(service: Service, state: str, reason: str) -> OutcomeOut:
    return OutcomeOut(
        service=service.name,
        project=service.project,
        revision=service.revision,
        deployment=service.deployment,
        state=state,
        reason=reason or None,
    )
