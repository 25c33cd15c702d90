"""The endpoint of the trail."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from orca_master.audit.model import KIND, AuditEvent
from orca_master.errors import Invalid, Problem
from orca_master.http import streams
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, QueryModel, Route, Served
from orca_master.http.streams import Events, Form
from orca_master.identity.model import Permission
from orca_master.ops.answers import AuditEventOut, AuditOut
from orca_master.state.history.event import Event
from orca_master.state.history.keeper import History
from orca_master.state.store import Store

LAST_IN_VERSION = 1 << 62
POSITION = r"^([0-9]{1,18})\.([0-9]{1,9})$"

Resource = Annotated[
    str | None, Field(max_length=300, description="Such as `services/default/web`.")
]


class AuditQuery(QueryModel):
    """`before`: the `next` of the page before."""

    resource: Resource = None
    before: Annotated[
        str | None, Field(pattern=POSITION, description="The `next` of the page before.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class AuditStreamQuery(QueryModel):
    """`after`: the `id` of the last event that was seen; without it, from now on."""

    resource: Resource = None
    after: Annotated[
        str | None, Field(pattern=POSITION, description="The `id` of the last event that was seen.")
    ] = None


@dataclass(frozen=True, slots=True)
class AuditRoutes:
    store: Store
    history: History

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="audit")
        return [
            route(
                "GET /api/v1/audit",
                Permission.AUDIT_READ,
                self.list,
                "Who changed what, newest first",
                answer=AuditOut,
                query=AuditQuery,
                served=Served.HERE_OR_LEADER,
            ),
            route(
                "GET /api/v1/audit/stream",
                Permission.AUDIT_READ,
                self.follow,
                "The same as it happens: WebSocket, server-sent events or lines of JSON",
                answer=AuditEventOut,
                query=AuditStreamQuery,
                served=Served.HERE,
                is_stream=True,
                media_type=Form.NDJSON.value,
            ),
        ]

    async def list(self, call: Call[AuditQuery, None]) -> AuditOut:
        await self.store.read(stale=call.stale)
        query = call.query
        events = await self.history.query(
            kind=KIND,
            subject=query.resource,
            before=_position(query.before, "before"),
            limit=query.limit,
        )
        more = len(events) == query.limit
        return AuditOut(
            events=[_shown(event) for event in events],
            next=f"{events[-1].version}.{events[-1].n}" if more else None,
        )

    async def follow(self, call: Call[AuditStreamQuery, None]) -> Events:
        """From this master's own state: each master streams to those who asked it."""
        after = _position(call.query.after or call.resume_after, "after")
        start = after or (self.store.state.version, LAST_IN_VERSION)
        return Events(self._events(start, call.query.resource))

    async def _events(
        self, position: tuple[int, int], resource: str | None
    ) -> AsyncIterator[streams.Event]:
        while True:
            newest = await self.history.beyond(position[0])
            async for batch in self.history.events(position[0] - 1, newest):
                for event in batch:
                    is_new = (event.version, event.n) > position
                    if is_new and event.kind == KIND and resource in (None, event.subject):
                        yield streams.Event(_shown(event), id=f"{event.version}.{event.n}")
            position = newest, LAST_IN_VERSION


def _position(text: str | None, name: str) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(POSITION, text, re.ASCII)
    if found is None:
        raise Invalid([Problem(f"query.{name}", "must be one that was answered here before")])
    return int(found[1]), int(found[2])


def _shown(event: Event) -> AuditEventOut:
    noted = event.decode(AuditEvent)
    return AuditEventOut(
        id=f"{event.version}.{event.n}",
        at=noted.at,
        actor=noted.actor,
        action=noted.action,
        resource=noted.resource,
        details=noted.details,
    )
