"""The endpoints of the ingress: what is routed where, and what becomes of one request."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from orca_master.errors import Invalid, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.names import Name
from orca_master.http.route import Call, QueryModel, Route
from orca_master.identity.model import Permission
from orca_master.ingress import explain
from orca_master.ingress.answers import ExplainedOut, RoutesOut
from orca_master.state.store import Store


class RoutesQuery(QueryModel):
    project: Annotated[Name | None, Field(description="Only this project's.")] = None


class ExplainQuery(RoutesQuery):
    url: Annotated[
        str,
        Field(
            min_length=8,
            max_length=2000,
            pattern=r"^https?://[!-~]+$",
            description="Such as https://app.example.com/path.",
        ),
    ]


@dataclass(frozen=True, slots=True)
class IngressRoutes:
    store: Store

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="ingress")
        return [
            route(
                "GET /api/v1/routes",
                Permission.SERVICES_READ,
                self.list,
                "What is routed where, and the nodes that serve it",
                query=RoutesQuery,
                answer=RoutesOut,
            ),
            route(
                "GET /api/v1/routes/explain",
                Permission.SERVICES_READ,
                self.explain,
                "What becomes of a request, and why",
                query=ExplainQuery,
                answer=ExplainedOut,
            ),
        ]

    async def list(self, call: Call[RoutesQuery, None]) -> RoutesOut:
        state = await self.store.fresh()
        return explain.routes(state, call.tenant, call.scope(call.query.project))

    async def explain(self, call: Call[ExplainQuery, None]) -> ExplainedOut:
        state, project = await self.store.fresh(), call.scope(call.query.project)
        try:
            return explain.explain(state, call.tenant, project, call.query.url)
        except ValueError as error:
            raise Invalid([Problem("url", str(error))]) from error
