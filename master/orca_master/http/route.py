"""Routes as data: everything the kit needs to know of an endpoint before it runs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum, StrEnum
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict

from orca_master.errors import Forbidden, OrcaError
from orca_master.http.dialects import Dialect
from orca_master.http.once import OnceKey
from orca_master.http.rates import Rate

B = TypeVar("B")
Q = TypeVar("Q")


class Open(Enum):
    """Instead of a permission: the route says that it needs no token, and why."""

    PUBLIC = "public"
    SIGNED = "signed"
    MASTERS = "masters"
    """Only on the port between masters, which has checked the certificate; `Call.peer` has its id."""


class Served(Enum):
    """Which master answers. Any master may be asked: the others pass a leader's request on to it."""

    LEADER = "leader"
    HERE = "here"
    HERE_OR_LEADER = "stale reads here"
    """`?consistency=stale` is answered from this master's own state, with its age in a header."""


class Caller(Protocol):
    """Whom a request speaks for. The kit does not know how that is found out."""

    @property
    def tenant(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def project(self) -> str: ...
    def may(self, permission: StrEnum) -> bool: ...


class StrictModel(BaseModel):
    """The base of everything that comes in from outside: strict types, unknown fields refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class QueryModel(BaseModel):
    """The base of query parameters: text is converted, unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NoQuery(QueryModel):
    """Takes no query parameters."""


class Raw(msgspec.Struct, frozen=True):
    """A request as it came. `headers`: by lower-case name, every value; `client`: its address."""

    headers: Mapping[str, Sequence[str]]
    body: bytes
    client: str


class Call(msgspec.Struct, Generic[Q, B], frozen=True):
    """What a handler gets. `caller` is None on open routes only."""

    path: Mapping[str, str]
    query: Q
    body: B
    caller: Caller | None
    stale: bool = False
    """The caller takes an older state of this master's (`Store.read`)."""
    once: OnceKey | None = None
    """With an `Idempotency-Key`: what the change is to be done once under (`once.update_once`)."""
    resume_after: str | None = None
    """`Last-Event-ID`: what a reader of a stream saw last, who comes again."""
    peer: str | None = None
    """The id of the master that asks, on the port between masters."""
    raw: Raw | None = None
    """On routes that ask for it: what was signed."""

    @property
    def tenant(self) -> str:
        assert self.caller is not None, "an open route has no tenant"
        return self.caller.tenant

    def scope(self, project: str | None) -> str | None:
        """The project that is asked for; a token of one project asks for that. Raises Forbidden."""
        own = self.caller.project if self.caller is not None else ""
        if own and project not in (None, own):
            raise Forbidden(f"this token is for project {own} only")
        return own or project

    @property
    def actor(self) -> str:
        """Whose name stands in the trail."""
        return self.caller.name if self.caller is not None else "nobody"


class Reply(msgspec.Struct, frozen=True):
    """A value with a status of its own. A handler that returns a bare value answers 200."""

    value: object
    status: int = 200


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, streamed. The first part is awaited before the status is sent."""

    parts: AsyncIterator[bytes]
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """`line` is the method and the path, in the form of `POST /api/v1/services/{name}/scale`."""

    line: str
    permission: StrEnum | Open
    handle: Callable[[Call[Any, Any]], Awaitable[object]]
    summary: str
    _: KW_ONLY
    dialect: Dialect
    body: type[BaseModel] | None = None
    """None: none is read."""
    query: type[BaseModel] = NoQuery
    served: Served = Served.LEADER
    takes_key: bool = False
    """Whether an `Idempotency-Key` makes a retry exact here; elsewhere the header is refused."""
    rate: Rate | None = None
    """The bucket that requests are counted in; None: they are not."""
    is_stream: bool = False
    """It answers `streams.Events`: a token may come in other ways than the header, as browsers need it."""
    takes_raw: bool = False
    """Whether the handler reads the request itself, because it is signed."""
    most_body_bytes: int = 1 << 20
    refusals: tuple[type[OrcaError], ...] = ()
    """Errors besides those of every route of its kind."""
    statuses: tuple[int, ...] = (200,)
    """What a handler answers itself; errors come on top."""
    media_type: str = "application/json"
    answer: type[msgspec.Struct] | None = None
    """What a handler's result is, or an event of its stream; a list of them as a `Page`. None: text."""
    example: Mapping[str, object] | None = None
    """A body that is accepted."""
    tag: str = "api"
    """The slice, by which the reference is ordered."""
    method: str = field(init=False)
    path: str = field(init=False)

    def __post_init__(self) -> None:
        method, path = self.line.split()
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "path", path)
