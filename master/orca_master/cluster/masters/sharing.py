"""What masters give each other besides the log: events of the history, blobs, marks of the state.

On the port between masters only. Events travel as msgpack lists, each with its length (4 bytes, big
endian) before it; a blob as its bytes.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec
from pydantic import Field

from orca_master.cluster.model import MASTERS
from orca_master.errors import NotReady
from orca_master.http.dialects import CLUSTER
from orca_master.http.forward import Forwarder
from orca_master.http.route import Call, NoQuery, Open, QueryModel, Route, Served, Text
from orca_master.state.blobs import Blobs, BlobSource
from orca_master.state.history.event import Event
from orca_master.state.history.keeper import History, HistorySource
from orca_master.state.marks import Marks
from orca_master.state.store import Store

LENGTH_BYTES = 4
MAX_BATCH_BYTES = 64 << 20
BYTES = "application/octet-stream"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Event])


class EventsQuery(QueryModel):
    after: Annotated[int, Field(ge=0)]
    up_to: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class SharingRoutes:
    store: Store
    history: History
    blobs: Blobs

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, served=Served.HERE)
        return [
            route(
                "GET /internal/v1/history",
                Open.MASTERS,
                self.events,
                "Events of the history, in order",
                query=EventsQuery,
            ),
            route("GET /internal/v1/blobs/{sha256}", Open.MASTERS, self.blob, "A blob"),
            route("GET /internal/v1/marks", Open.MASTERS, self.marks, "Digests of the state"),
        ]

    async def events(self, call: Call[EventsQuery, None]) -> object:
        return Text(self._framed(call.query.after, call.query.up_to), BYTES)

    async def _framed(self, after: int, up_to: int) -> AsyncIterator[bytes]:
        async for batch in self.history.events(after, up_to):
            raw = _encoder.encode(batch)
            yield len(raw).to_bytes(LENGTH_BYTES, "big") + raw

    async def blob(self, call: Call[NoQuery, None]) -> object:
        return Text(self.blobs.own(call.path["sha256"]), BYTES)

    async def marks(self, call: Call[NoQuery, None]) -> object:
        marks = {str(version): digest.hex() for version, digest in self.store.marks.items()}
        return {"marks": marks}


class Others:
    """The other masters as sources, as the state knows them at the time."""

    def __init__(self, store: Callable[[], Store], forwarder: Forwarder, me: str) -> None:
        self._store = store
        self._forwarder = forwarder
        self._me = me

    def addresses(self) -> dict[str, str]:
        """By name, of the port between masters."""
        rows = self._store().state.scan(MASTERS)
        return {row.name: row.peers for row in rows if row.id != self._me and row.peers}

    def history(self) -> Sequence[HistorySource]:
        return [_Other(name, at, self._forwarder) for name, at in self.addresses().items()]

    def blobs(self) -> Sequence[BlobSource]:
        return [_Other(name, at, self._forwarder) for name, at in self.addresses().items()]

    async def marks(self, name: str) -> Marks:
        """Of this master. Raises NotReady, NotLeader, ValueError."""
        address = self.addresses()[name]
        status, raw = await self._forwarder.ask(address, "GET", "/internal/v1/marks")
        if status != 200:
            raise NotReady(f"{name} answered {status}")
        answer = msgspec.json.decode(raw, type=dict[str, dict[int, str]])
        return {version: bytes.fromhex(digest) for version, digest in answer["marks"].items()}


@dataclass(frozen=True, slots=True)
class _Other:
    name: str
    address: str
    forwarder: Forwarder

    async def events(self, after: int, up_to: int) -> AsyncIterator[Sequence[Event]]:
        path = f"/internal/v1/history?after={after}&up_to={up_to}"
        buffer = bytearray()
        async for chunk in self.forwarder.stream(self.address, path):
            buffer += chunk
            while (frame := _take_frame(buffer)) is not None:
                try:
                    yield _decoder.decode(frame)
                except msgspec.MsgspecError as error:
                    raise OSError(f"{self.name} sent what are no events: {error}") from error

    async def blob(self, sha256: str) -> AsyncIterator[bytes]:
        async for chunk in self.forwarder.stream(self.address, f"/internal/v1/blobs/{sha256}"):
            yield chunk


def _take_frame(buffer: bytearray) -> bytes | None:
    if len(buffer) < LENGTH_BYTES:
        return None
    size = int.from_bytes(buffer[:LENGTH_BYTES], "big")
    if size > MAX_BATCH_BYTES:
        raise OSError(f"a batch of {size} bytes; at most {MAX_BATCH_BYTES} are taken")
    end = LENGTH_BYTES + size
    if len(buffer) < end:
        return None
    frame = bytes(buffer[LENGTH_BYTES:end])
    del buffer[:end]
    return frame
