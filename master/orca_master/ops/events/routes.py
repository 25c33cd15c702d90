"""The endpoint of events: live, and from where a reader was."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from msgspec import UNSET
from pydantic import Field

from orca_common.env import Env
from orca_master.errors import Invalid, NotReady, Problem
from orca_master.http import streams
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, QueryModel, Route, Served
from orca_master.http.streams import Events, Form
from orca_master.identity.model import Permission
from orca_master.ops.events.answers import EventOut
from orca_master.ops.events.model import GAP, LAST_IN_VERSION, NOUNS, Happening, Position
from orca_master.ops.events.recent import KEPT, Recent
from orca_master.ops.events.telling import recorded
from orca_master.state.history.keeper import History
from orca_master.state.store import Store

SINCE = r"^([0-9]{1,18})(?:\.([0-9]{1,19}))?$"
MOST_CHARACTERS = 200
"""Of one filter: all of them have to fit into a request's first line, however they are written."""

Filter = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$",
        max_length=MOST_CHARACTERS,
        description="With commas.",
    ),
]


class EventsQuery(QueryModel):
    """Filters are names with commas between them; `kind` takes nouns, too. Without `since` and `tail` from
    now on, or with `follow=false` all that is kept."""

    service: Filter = None
    project: Filter = None
    node: Filter = None
    kind: Filter = None
    since: Annotated[
        str | None,
        Field(pattern=SINCE, description="A version, or the `id` of the last event that was seen."),
    ] = None
    tail: Annotated[int | None, Field(ge=0, le=KEPT)] = None
    follow: bool = True
    format: Literal["ndjson", "sse"] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one reader wants and may see. None: all."""

    tenant: str
    nouns: frozenset[str]
    services: frozenset[str] | None
    projects: frozenset[str] | None
    nodes: frozenset[str] | None
    kinds: frozenset[str] | None

    def takes(self, each: Happening) -> bool:
        return (
            each.noun in self.nouns
            and each.tenant in ("", self.tenant)
            and (self.services is None or each.service in self.services)
            and (self.projects is None or each.project in self.projects)
            and (self.nodes is None or not self.nodes.isdisjoint((each.node, each.node_id)))
            and (self.kinds is None or not self.kinds.isdisjoint((each.kind, each.noun)))
        )


@dataclass(frozen=True, slots=True)
class EventRoutes:
    env: Env
    store: Store
    history: History
    recent: Recent

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="events")
        return [
            route(
                "GET /api/v1/events",
                Permission.SERVICES_READ,
                self.events,
                "What happens: WebSocket, server-sent events or lines of JSON",
                answer=EventOut,
                query=EventsQuery,
                served=Served.HERE,
                is_stream=True,
                media_type=Form.NDJSON.value,
            )
        ]

    async def events(self, call: Call[EventsQuery, None]) -> Events:
        """From this master's own state: each master streams to those who asked it."""
        query, wanted = call.query, _wanted(call)
        if query.since is not None and query.tail is not None:
            raise Invalid([Problem("query.tail", "and since say both where to begin: give one")])
        since = _position(query.since or call.resume_after)
        if since is not None and since[0] > self.store.state.version:
            newest = (await self.store.fresh()).version  # another master may know more
            if since[0] > newest:
                text = f"is of the future: the newest version is {newest}"
                raise Invalid([Problem("query.since", text)])
        until = None if query.follow else self.store.state.version
        while until is not None and self.recent.version < until:
            await self.recent.news()
        start = self._start(query, wanted) if since is None else since
        forms = {"sse": Form.SSE, "ndjson": Form.NDJSON}
        asked = streams.ALL if query.format is None else {Form.WEBSOCKET, forms[query.format]}
        return Events(self._events(wanted, start, until), frozenset(asked))

    def _start(self, query: EventsQuery, wanted: Wanted) -> Position:
        if query.tail:
            found = [each.position for each in self.recent.last() if wanted.takes(each)]
            before = found[-query.tail :]
            if len(before) == query.tail:
                return before[0][0], before[0][1] - 1
            return self.recent.begin
        if query.follow or query.tail == 0:
            return self.store.state.version, LAST_IN_VERSION
        return self.recent.begin

    async def _events(
        self, wanted: Wanted, position: Position, until: int | None
    ) -> AsyncIterator[streams.Event]:
        while True:
            begin = self.recent.begin
            if position < begin:
                yield self._gap(position, begin)
                async for each in self._from_history(position, begin):
                    if wanted.takes(each):
                        yield streams.Event(_shown(each), id=_id(each.position))
                position = begin
                continue
            batch = self.recent.after(position)
            for each in batch:
                if until is not None and each.version > until:
                    return
                position = each.position
                if wanted.takes(each):
                    yield streams.Event(_shown(each), id=_id(position))
            if batch:
                continue
            if until is not None:
                return
            await self.recent.news()

    def _gap(self, position: Position, begin: Position) -> streams.Event:
        """In the place that its reader came with: who comes again with it is told again."""
        text = (
            f"what happened after version {position[0]} and up to {begin[0]} is not kept here any"
            " more: only what people changed follows; look at the status"
        )
        told = EventOut(
            id=_id(position),
            version=position[0],
            at=self.env.now(),
            kind=GAP,
            text=text,
            details={"after": position[0], "up_to": begin[0]},
        )
        return streams.Event(told, id=_id(position))

    async def _from_history(self, after: Position, up_to: Position) -> AsyncIterator[Happening]:
        """What people changed between the two; nothing while this master fetches its history."""
        newest = min(up_to[0], self.store.state.history.version)
        if newest < after[0]:
            return
        try:
            async for batch in self.history.events(max(0, after[0] - 1), newest):
                for each in recorded(batch):
                    if after < each.position <= up_to:
                        yield each
        except NotReady:
            return


def _wanted(call: Call[EventsQuery, None]) -> Wanted:
    query, caller = call.query, call.caller
    assert caller is not None, "the route has a permission"
    projects = _names(query.project)
    for project in sorted(projects or ()):
        call.scope(project)
    own = call.scope(None)
    kinds = _names(query.kind)
    wrong = sorted(kind for kind in kinds or () if kind.partition(".")[0] not in NOUNS)
    if wrong:
        nouns = ", ".join(NOUNS)
        text = f"{wrong[0]!a} is none: give {nouns}, or one kind such as replica.ready"
        raise Invalid([Problem("query.kind", text)])
    return Wanted(
        tenant=call.tenant,
        nouns=frozenset(noun for noun, needed in NOUNS.items() if caller.may(needed)),
        services=_names(query.service),
        projects=frozenset({own}) if own else projects,
        nodes=_names(query.node),
        kinds=kinds,
    )


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(text.split(","))


def _position(text: str | None) -> Position | None:
    """A version alone stands for all of it. Raises Invalid."""
    if text is None:
        return None
    found = re.fullmatch(SINCE, text, re.ASCII)
    if found is None:
        text = "must be a version, or an id that was told here before"
        raise Invalid([Problem("query.since", text)])
    return int(found[1]), int(found[2]) if found[2] else LAST_IN_VERSION


def _id(position: Position) -> str:
    version, n = position
    return f"{version}" if n == LAST_IN_VERSION else f"{version}.{n}"


def _shown(each: Happening) -> EventOut:
    return EventOut(
        id=_id(each.position),
        version=each.version,
        at=each.at,
        kind=each.kind,
        text=each.text,
        project=each.project or UNSET,
        service=each.service or UNSET,
        replica=each.replica or UNSET,
        node=each.node or UNSET,
        actor=each.actor or UNSET,
        details=each.details or UNSET,
    )
