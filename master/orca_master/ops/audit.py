"""The endpoint of the trail."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from orca_master.audit.model import KIND, AuditEvent
from orca_master.errors import Invalid, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, QueryModel, Route, Served
from orca_master.identity.model import Permission
from orca_master.state.history.event import Event
from orca_master.state.history.keeper import History
from orca_master.state.store import Store


class AuditQuery(QueryModel):
    """`before`: the `next` of the page before."""

    resource: Annotated[str | None, Field(max_length=300)] = None
    before: Annotated[str | None, Field(pattern=r"^[0-9]{1,18}\.[0-9]{1,9}$")] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


@dataclass(frozen=True, slots=True)
class AuditRoutes:
    store: Store
    history: History

    def table(self) -> list[Route]:
        route = partial(Route.of, dialect=CLUSTER)
        return [
            route(
                "GET /api/v1/audit",
                Permission.AUDIT_READ,
                self.list,
                "Who changed what, newest first",
                query=AuditQuery,
                served=Served.HERE_OR_LEADER,
            ),
        ]

    async def list(self, call: Call[AuditQuery, None]) -> object:
        await self.store.read(stale=call.stale)
        query = call.query
        events = await self.history.query(
            kind=KIND, subject=query.resource, before=_position(query.before), limit=query.limit
        )
        more = len(events) == query.limit
        return {
            "events": [_shown(event) for event in events],
            "next": f"{events[-1].version}.{events[-1].n}" if more else None,
        }


def _position(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    version, n = map(int, text.split("."))
    if version >= 1 << 62:
        raise Invalid([Problem("query.before", "must be the `next` of the page before")])
    return version, n


def _shown(event: Event) -> dict[str, object]:
    noted = event.decode(AuditEvent)
    return {
        "id": f"{event.version}.{event.n}",
        "at": noted.at,
        "actor": noted.actor,
        "action": noted.action,
        "resource": noted.resource,
        "details": noted.details,
    }
