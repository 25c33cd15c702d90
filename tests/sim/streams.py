"""Streams of the simulation: two pipes, and each end as the product sees it."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from orca_master.app.core import MasterCore
from orca_master.errors import Forbidden
from orca_proto import worker_pb2 as pb
from orca_worker.ports import Refused

KEEPALIVE_SECONDS = 3.5
CUT_LOOK_SECONDS = 0.05

M = TypeVar("M", bound=Message)
Sent = Callable[[MasterCore, pb.FromMaster], None]


class _Pipe(Generic[M]):
    """One direction: in order, each message after a delay, nothing after the close.

    While `is_cut` says so nothing arrives, and when that lasts it is closed.
    """

    def __init__(
        self,
        chance: random.Random,
        parse: Callable[[bytes], M],
        is_cut: Callable[[], bool] = lambda: False,
    ) -> None:
        self._chance = chance
        self._is_cut = is_cut
        self.steady_since = asyncio.get_running_loop().time()
        self._parse = parse
        self._messages: deque[tuple[float, bytes]] = deque()
        self._wake = asyncio.Event()
        self._last = 0.0
        self.closed = False
        self.held = False

    def put(self, message: M) -> None:
        if self.closed:
            raise ConnectionError("the stream is closed")
        at = asyncio.get_running_loop().time() + self._chance.uniform(0.0002, 0.02)
        self._last = max(self._last, at)
        self._messages.append((self._last, message.SerializeToString()))
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    def hold(self, held: bool) -> None:
        """A cut line: what is under way arrives when it is whole again."""
        self.held = held
        self._wake.set()

    async def get(self) -> M | None:
        while True:
            self._wake.clear()
            if self._is_cut():
                await self._sit_out()
            if self.closed:
                return None
            if self._messages and not self.held:
                at, raw = self._messages[0]
                wait = at - asyncio.get_running_loop().time()
                if wait > 0:
                    await asyncio.sleep(wait)
                    continue
                if self._is_cut():
                    continue
                self._messages.popleft()
                return self._parse(raw)
            await self._wake.wait()

    async def _sit_out(self) -> None:
        loop = asyncio.get_running_loop()
        noticed = loop.time()
        while self._is_cut() and not self.closed:
            if loop.time() - noticed > KEEPALIVE_SECONDS:
                self.close()
            await asyncio.sleep(CUT_LOOK_SECONDS)
            self.steady_since = loop.time()


@dataclass(eq=False)
class Stream:
    """Both directions of one worker's connection, and each end as the product sees it."""

    up: _Pipe[pb.FromWorker]
    down: _Pipe[pb.FromMaster]
    core: MasterCore | None = None
    """Whose stream it is at the other end."""
    onward: "Stream | None" = None
    """From there to the leader, if that is another one."""

    def close(self) -> None:
        self.up.close()
        self.down.close()


def a_stream(chance: random.Random, is_cut: Callable[[], bool] = lambda: False) -> Stream:
    return Stream(
        _Pipe(chance, pb.FromWorker.FromString, is_cut),
        _Pipe(chance, pb.FromMaster.FromString, is_cut),
    )


class WorkerEnd:
    def __init__(self, stream: Stream, refusal: list[str]) -> None:
        self._stream = stream
        self._refusal = refusal

    async def send(self, message: pb.FromWorker) -> None:
        self._stream.up.put(message)

    async def receive(self) -> pb.FromMaster | None:
        message = await self._stream.down.get()
        if message is None and self._refusal:
            raise Refused(self._refusal[0])
        return message


class MasterEnd:
    """`sends` are told what this master sends, before it does; not what it only passes on."""

    def __init__(self, stream: Stream, sends: Sequence[Sent] = ()) -> None:
        self._stream = stream
        self._sends = sends

    async def send(self, message: pb.FromMaster) -> None:
        onward = self._stream.onward
        is_passed_on = onward is not None and not onward.up.closed
        for told in () if is_passed_on else self._sends:
            assert self._stream.core is not None
            told(self._stream.core, message)
        self._stream.down.put(message)

    async def receive(self) -> pb.FromWorker | None:
        return await self._stream.up.get()


class RelayedEnd:
    """A relayed stream, as the master has it that holds the worker's."""

    def __init__(self, stream: Stream, refusal: list[str], ended: list[bool]) -> None:
        self._end = WorkerEnd(stream, refusal)
        self._ended = ended

    async def send(self, message: pb.FromWorker) -> None:
        await self._end.send(message)

    async def receive(self) -> pb.FromMaster | None:
        try:
            message = await self._end.receive()
        except Refused as error:
            raise Forbidden(str(error)) from error
        if message is None and not self._ended:
            raise ConnectionError("the leader is gone")
        return message
