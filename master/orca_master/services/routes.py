"""The endpoints of services (API document 002)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.cluster.model import NODES
from orca_master.cluster.presence import Presence
from orca_master.errors import NotFound, NotReady
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.once import update_once
from orca_master.http.route import Call, Reply, Route, Served, Text
from orca_master.identity.model import Permission
from orca_master.services import logs, operations, payload
from orca_master.services.answers import DeployOut, PlacementOut, ScaleOut, StatusOut, StoppedOut
from orca_master.services.explain import explained
from orca_master.services.meters import DeployMeters
from orca_master.services.model import SERVICES, Service
from orca_master.services.outcome import outcome, progress
from orca_master.services.status import Statuses
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_master.tasks.dispatcher import Dispatcher
from orca_master.tasks.model import TASKS

T = TypeVar("T")

DEPLOY = {
    "services": [
        {
            "name": "web",
            "image": "nginx:1.27",
            "replicas": 2,
            "port": 80,
            "health": "/",
            "env": {"MODE": "production"},
            "resources": {"memory": "128Mi", "cpu": 0.25},
        }
    ]
}

SETTLE_SECONDS = 0.5
"""How long a replica without a health check must run before a deploy calls it running."""

IN_PROGRESS = "still in progress"


@dataclass(frozen=True, slots=True)
class ServiceRoutes:
    env: Env
    store: Store
    dispatcher: Dispatcher
    presence: Presence
    statuses: Statuses = field(default_factory=Statuses)
    meters: DeployMeters = field(default_factory=DeployMeters)

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
        """Answers when each outcome is known: 200 all, 206 some, 500 none; 202 with wait=false."""
        ready: list[payload.ServiceIn] = []
        errors: list[str] = []
        for item in call.body.services:
            call.scope(item.project)
            lacking = [f"{item.name}: secret {key} does not exist" for key in item.secrets()]
            errors += lacking
            if not lacking:
                ready.append(item)
        accepted = await self._accept(call, ready, errors)
        if not call.query.wait:
            names = [service.name for service in accepted]
            self.meters.count(accepted=len(names), failed=len(errors))
            return Reply(DeployOut([], errors, names), 202)
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(self._outcome(service, call.query.timeout))
                for service in accepted
            ]
        deployed = []
        for service, wait in zip(accepted, waits, strict=True):
            error = wait.result()
            if error:
                errors.append(f"{service.name}: {error}")
            else:
                deployed.append(service.name)
        still = sum(IN_PROGRESS in error for error in errors)
        self.meters.count(running=len(deployed), open=still, failed=len(errors) - still)
        status = 200 if not errors else 206 if deployed else 500
        return Reply(DeployOut(deployed, errors), status)

    async def _accept(
        self,
        call: Call[payload.DeployQuery, payload.DeployIn],
        items: list[payload.ServiceIn],
        errors: list[str],
    ) -> list[Service]:
        """The services as this deploy left them, also when its key says that it was done before."""

        def accept(tx: Transaction) -> list[tuple[str, str, int]]:
            now = self.env.now()
            done = [
                operations.deploy(
                    tx,
                    tenant=call.tenant,
                    project=item.project,
                    name=item.name,
                    spec=item.spec(),
                    replicas=item.replicas,
                    now=now,
                    policy=item.policy(),
                )
                for item in items
            ]
            for each in done:
                if each.changed:
                    self._note(tx, call, "deploy", each.service, revision=each.service.revision)
            return [
                (each.service.project, each.service.name, each.service.revision) for each in done
            ]

        done = await self._once(call, accept)
        accepted = []
        for project, name, revision in done:
            service = self.store.state.get(SERVICES, call.tenant, project, name)
            if service is None:
                errors.append(f"{name}: it was removed since")
            else:
                accepted.append(replace(service, revision=revision))
        return accepted

    async def _outcome(self, service: Service, timeout: float) -> str:
        """Empty when it runs; else why not."""
        try:
            async with asyncio.timeout(timeout):
                return await self._settled(service)
        except TimeoutError:
            so_far = progress(self.store.state, service)
            return f"{IN_PROGRESS} after {timeout:g} s ({so_far}); the work goes on"

    async def _settled(self, service: Service) -> str:
        """Without a health check a replica runs once it has not ended for a moment: a program that
        fails at once is no success. What ran already when the deploy came has nothing to prove."""
        steady: frozenset[str] | None = None
        until: float | None = None
        is_first = True
        with self.store.follow(SERVICES, TASKS) as follower:
            while True:
                left = None if until is None else max(0.0, until - self.env.monotonic())
                await follower.next(left)
                found = outcome(self.store.state, service)
                if found is not None and (found.error or is_first or service.spec.health):
                    return found.error
                is_first = False
                if found is None:
                    steady = until = None
                elif found.ready != steady:
                    steady, until = found.ready, self.env.monotonic() + SETTLE_SECONDS
                elif until is not None and self.env.monotonic() >= until:
                    return ""

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
            self._note(tx, call, "scale", service, replicas=service.replicas)
            return {"service": service.name, "replicas": service.replicas}

        return ScaleOut(**await self._once(call, scale))

    async def stop(self, call: Call[payload.StopQuery, None]) -> Ok:
        def stop(tx: Transaction) -> str:
            found = operations.resolve(
                tx, call.tenant, call.path["name"], call.scope(call.query.project)
            )
            return self._stop_each(tx, call, [found])[0]

        return Ok(f"stop {await self._once(call, stop)}")

    async def stop_project(self, call: Call[payload.PurgeQuery, None]) -> StoppedOut:
        project = call.path["name"]
        call.scope(project)

        def stop(tx: Transaction) -> list[str]:
            found = tx.find(SERVICES, "project", f"{call.tenant}/{project}")
            if not found:
                raise NotFound("project", project)
            return self._stop_each(tx, call, found)

        stopped = await self._once(call, stop)
        return StoppedOut(f"stopped project {project}", stopped)

    async def stop_all(self, call: Call[payload.PurgeQuery, None]) -> StoppedOut:
        def stop(tx: Transaction) -> list[str]:
            own = call.scope(None)
            found = tx.find(SERVICES, "tenant", call.tenant)
            found = [service for service in found if own in (None, service.project)]
            return self._stop_each(tx, call, found)

        return StoppedOut("stop all", await self._once(call, stop))

    async def _once(self, call: Call[Any, Any], fn: Callable[[Transaction], T]) -> T:
        if call.once is None:
            return await self.store.update(fn)
        return await update_once(self.store, call.once, fn, now=self.env.now())

    def _stop_each(self, tx: Transaction, call: Call[Any, None], found: list[Service]) -> list[str]:
        for service in found:
            operations.stop(tx, service, purge=call.query.purge, now=self.env.now())
            self._note(tx, call, "stop", service, purge=call.query.purge)
        return [service.name for service in found]

    def _note(
        self, tx: Transaction, call: Call[Any, Any], verb: str, service: Service, **details: object
    ) -> None:
        resource = f"services/{service.project}/{service.name}"
        action, now = f"service.{verb}", self.env.now()
        trail(tx, actor=call.actor, action=action, resource=resource, now=now, **details)

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
        )
        tasks = logs.choose(state, service, asked)
        if query.follow:
            following = logs.Following(self.env, self.store, self.dispatcher, service, asked)
            return Text(following.parts())
        if not tasks:
            raise NotReady(f"service {service.name} has no replica with output")
        return Text(logs.replay(self.dispatcher, service, tasks, asked))
