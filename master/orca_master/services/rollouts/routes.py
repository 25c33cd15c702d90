"""The endpoints of revisions, deployments and canaries (API document 002, and what belongs to it)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, Route
from orca_master.identity.model import Permission
from orca_master.services import operations as services
from orca_master.services.changes import Changes
from orca_master.services.model import Service
from orca_master.services.payload import ProjectQuery
from orca_master.services.rollouts import operations
from orca_master.services.rollouts.advance import weight
from orca_master.services.rollouts.answers import (
    DeploymentOut,
    DeploymentsOut,
    RevisionsOut,
    RolloutDone,
    deployment_out,
    revision_out,
)
from orca_master.services.rollouts.model import Deployment
from orca_master.services.rollouts.payload import PromoteQuery, RollbackQuery
from orca_master.services.strategy import Strategy
from orca_master.state.transaction import Transaction, View


@dataclass(frozen=True, slots=True)
class RolloutRoutes:
    changes: Changes

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="rollouts", query=ProjectQuery)
        change = partial(route, takes_key=True, answer=RolloutDone)
        service = "/api/v1/services/{name}"
        deploys, stops = Permission.SERVICES_DEPLOY, Permission.SERVICES_STOP
        return [
            change(
                f"POST {service}/promote",
                deploys,
                self.promote,
                "Give a canary's revision to all replicas",
                query=PromoteQuery,
            ),
            change(
                f"POST {service}/rollback",
                deploys,
                self.rollback,
                "Go back: take a canary away, or to the last stable revision",
                query=RollbackQuery,
            ),
            change(f"POST {service}/pause", deploys, self.pause, "Hold a rollout where it is"),
            change(f"POST {service}/resume", deploys, self.resume, "Let a paused rollout go on"),
            change(
                f"POST {service}/restart",
                deploys,
                self.restart,
                "Replace all replicas, as a rollout",
            ),
            route(
                f"POST {service}/start",
                deploys,
                self.start,
                "Start a stopped service",
                takes_key=True,
                answer=Ok,
            ),
            route(
                f"POST {service}/stop",
                stops,
                self.stop,
                "Stop a service and keep it",
                takes_key=True,
                answer=Ok,
            ),
            route(
                f"GET {service}/revisions",
                Permission.SERVICES_READ,
                self.revisions,
                "What was ever accepted of a service",
                answer=RevisionsOut,
            ),
            route(
                f"GET {service}/deployments",
                Permission.SERVICES_READ,
                self.deployments,
                "How each change of a service went",
                answer=DeploymentsOut,
            ),
        ]

    async def promote(self, call: Call[PromoteQuery, None]) -> RolloutDone:
        def promote(tx: Transaction, service: Service, now: float) -> Deployment:
            step = call.query.step
            return operations.promote_canary(tx, service, by=call.actor, one_step=step, now=now)

        return await self._change(call, "promote", promote)

    async def rollback(self, call: Call[RollbackQuery, None]) -> RolloutDone:
        def rollback(tx: Transaction, service: Service, now: float) -> Deployment:
            to = call.query.revision
            return operations.roll_back(tx, service, to=to, by=call.actor, now=now)

        return await self._change(call, "rollback", rollback)

    async def pause(self, call: Call[ProjectQuery, None]) -> RolloutDone:
        def pause(tx: Transaction, service: Service, now: float) -> Deployment:
            return operations.pause(tx, service, by=call.actor, now=now)

        return await self._change(call, "pause", pause)

    async def resume(self, call: Call[ProjectQuery, None]) -> RolloutDone:
        def resume(tx: Transaction, service: Service, now: float) -> Deployment:
            return operations.resume(tx, service, by=call.actor, now=now)

        return await self._change(call, "resume", resume)

    async def restart(self, call: Call[ProjectQuery, None]) -> RolloutDone:
        def restart(tx: Transaction, service: Service, now: float) -> Deployment:
            return operations.restart(tx, service, by=call.actor, now=now)

        return await self._change(call, "restart", restart)

    async def start(self, call: Call[ProjectQuery, None]) -> Ok:
        def start(tx: Transaction) -> str:
            service = services.start(tx, self._find(tx, call), now=self.changes.env.now())
            self.changes.note(tx, call, "start", service)
            return service.name

        return Ok(f"start {await self.changes.once(call, start)}")

    async def stop(self, call: Call[ProjectQuery, None]) -> Ok:
        def stop(tx: Transaction) -> str:
            service = self._find(tx, call)
            services.stop(tx, service, purge=False, now=self.changes.env.now())
            self.changes.note(tx, call, "stop", service, purge=False)
            return service.name

        return Ok(f"stop {await self.changes.once(call, stop)}")

    async def _change(
        self,
        call: Call[Any, None],
        verb: str,
        fn: Callable[[Transaction, Service, float], Deployment],
    ) -> RolloutDone:
        def change(tx: Transaction) -> list[Any]:
            service = self._find(tx, call)
            done = fn(tx, service, self.changes.env.now())
            self.changes.note(tx, call, verb, service, deployment=done.number, revision=done.goal)
            return [service.name, done.number, done.goal]

        name, number, revision = await self.changes.once(call, change)
        return RolloutDone(f"{verb} {name}", number, revision)

    def _find(self, view: View, call: Call[Any, None]) -> Service:
        project = call.scope(call.query.project)
        return services.resolve(view, call.tenant, call.path["name"], project)

    async def revisions(self, call: Call[ProjectQuery, None]) -> RevisionsOut:
        state = await self.changes.store.fresh()
        service = self._find(state, call)
        found = reversed(operations.revisions_of(state, service))
        shown = [revision_out(revision, service.revision) for revision in found]
        return RevisionsOut(service.name, service.project, shown)

    async def deployments(self, call: Call[ProjectQuery, None]) -> DeploymentsOut:
        state = await self.changes.store.fresh()
        service = self._find(state, call)
        found = reversed(operations.deployments_of(state, service))
        shown = [_shown(service, deployment) for deployment in found]
        return DeploymentsOut(service.name, service.project, shown)


def _shown(service: Service, deployment: Deployment) -> DeploymentOut:
    is_held = deployment.holding and not deployment.state.is_over
    is_canary = is_held and deployment.strategy is Strategy.CANARY
    now = weight(deployment, service.policy.rollout) if is_canary else None
    return deployment_out(deployment, now)
