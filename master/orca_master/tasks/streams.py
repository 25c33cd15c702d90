"""The workers' streams of one master, whoever leads.

The leader serves its workers itself; another master passes a worker's messages on to the leader, unchanged,
and what the leader says back. It answers nothing by itself: not a beat, not a certificate. When leadership
moves the streams stay: each worker is asked for Hello again (`Again`), and with that the new leader begins.
See docs/adr/0018-streams-through-any-master.md.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Protocol

from orca_common.cancelling import until_one_ends
from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.errors import Forbidden, NotLeader, RateLimited, Trouble
from orca_master.state.log import Leadership
from orca_master.state.store import Store
from orca_master.tasks.dispatcher import Dispatcher, Link
from orca_proto import worker_pb2 as pb

LEADERLESS_SECONDS = 5.0
"""A master that finds no leader for so long may be the one that is cut off: its workers look elsewhere."""
STREAMS_OF_NODE = 16
"""More than a worker leaves behind, half open, on a line that breaks every second."""
HELLO_SECONDS = 10.0
SPREAD_SECONDS = 0.004
"""For each of its streams a master takes so long to have all say Hello again, and no longer than that."""
MOST_SPREAD_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
MOST_PAUSE_SECONDS = 1.0
LASTED_SECONDS = 5.0
NO_LEADER = "this master finds no leader"

log = get_logger("streams")


class Onward(Protocol):
    """A worker's stream at the leader, as its worker would have it.

    `receive` returns None when the leader has closed it for good, and raises Forbidden when it refuses the
    worker. Both raise ConnectionError when it has ended otherwise.
    """

    async def send(self, message: pb.FromWorker) -> None: ...
    async def receive(self) -> pb.FromMaster | None: ...


class Relays(Protocol):
    def open(self, leader: str, node_id: str) -> AbstractAsyncContextManager[Onward]:
        """A stream of this node to this master, once that takes it as the leader. Raises ConnectionError."""
        ...


class Streams:
    """`opened` counts streams, `repeated` the Hellos that were asked for again; both only grow."""

    def __init__(self, env: Env, store: Store, dispatcher: Dispatcher, relays: Relays) -> None:
        self._env = env
        self._store = store
        self._dispatcher = dispatcher
        self._relays = relays
        self._open: Counter[str] = Counter()
        self.opened = 0
        self.repeated = 0

    @property
    def count(self) -> int:
        """Of the streams that are open."""
        return self._open.total()

    async def serve(self, node_id: str, link: Link) -> None:
        """Serve a worker's stream to its end, under whichever leader.

        Raises Forbidden when the node may not connect, RateLimited when it has too many streams, NotLeader
        when no leader is found.
        """
        with self._counted(node_id):
            worker, patience = _Worker(link), _Patience(self._env)
            await worker.hello()
            while True:
                try:
                    await self._serve(node_id, worker, patience)
                except (ConnectionError, Trouble) as error:
                    log.debug("a stream waits for a leader", id=node_id, reason=str(error))
                if worker.is_done:
                    return
                await patience.rest()

    @contextmanager
    def _counted(self, node_id: str) -> Iterator[None]:
        if self._open[node_id] >= STREAMS_OF_NODE:
            raise RateLimited(f"this node has {STREAMS_OF_NODE} streams open already", headers={})
        self.opened += 1
        self._open[node_id] += 1
        try:
            yield
        finally:
            self._open[node_id] -= 1
            if not self._open[node_id]:
                del self._open[node_id]

    async def _serve(self, node_id: str, worker: "_Worker", patience: "_Patience") -> None:
        """Until the leader is another one, or it is over. Raises Forbidden, Trouble, ConnectionError."""
        seen = await self._led(patience)
        if worker.owes_hello:
            spread = min(MOST_SPREAD_SECONDS, self.count * SPREAD_SECONDS)
            await asyncio.sleep(self._env.random.uniform(0.0, spread))
        if seen.is_leader:
            patience.taken()
            await self._greet(worker)
            worker.is_over = not await self._dispatcher.serve(node_id, worker)
            return
        leader = seen.leader
        assert leader is not None
        await until_one_ends(
            lambda: self._relay(leader, node_id, worker, patience),
            lambda: self._led_by_another(seen),
        )

    async def _relay(
        self, leader: str, node_id: str, worker: "_Worker", patience: "_Patience"
    ) -> None:
        async with self._relays.open(leader, node_id) as onward:
            patience.taken()
            await self._greet(worker)
            await until_one_ends(
                lambda: _pass_down(onward, worker), lambda: _pass_up(worker, onward)
            )

    async def _greet(self, worker: "_Worker") -> None:
        if worker.owes_hello:
            self.repeated += 1
            await worker.ask_again()

    async def _led(self, patience: "_Patience") -> Leadership:
        """Somebody leads. Raises NotLeader when there was nobody for too long."""
        try:
            async with asyncio.timeout(patience.seconds_left()):
                seen = self._store.leadership
                while not seen.is_leader and seen.leader is None:
                    seen = await self._store.leadership_change(seen)
                return seen
        except TimeoutError as error:
            raise NotLeader(NO_LEADER) from error

    async def _led_by_another(self, since: Leadership) -> None:
        """Who is not heard of for a while may lead still."""
        seen = self._store.leadership
        while not seen.is_leader and seen.leader in (None, since.leader):
            seen = await self._store.leadership_change(seen)


async def _pass_up(worker: "_Worker", onward: Onward) -> None:
    while (message := await worker.receive()) is not None:
        await onward.send(message)


async def _pass_down(onward: Onward, worker: "_Worker") -> None:
    while (message := await onward.receive()) is not None:
        await worker.send(message)
    worker.is_over = True


class _Worker:
    """A worker's stream, served by one leader after the other: each begins with Hello.

    `is_over`: a leader has closed it for good. `owes_hello`: the one it said was used up.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._hello: pb.FromWorker | None = None
        self._can_repeat = False
        self._is_gone = False
        self.is_over = False
        self.owes_hello = True

    @property
    def is_done(self) -> bool:
        return self._is_gone or self.is_over or (self.owes_hello and not self._can_repeat)

    async def hello(self) -> None:
        """Wait for the first one. What comes instead is for the leader to refuse. Raises Forbidden."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await self.receive()
        except TimeoutError as error:
            raise Forbidden("the worker said nothing") from error
        if first is None:
            raise Forbidden("a worker's first message must be Hello")
        self._take(first)

    async def ask_again(self) -> None:
        """What it says before it has read that is void. Raises ConnectionError."""
        await self.send(pb.FromMaster(again=pb.Again()))
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                while (message := await self.receive()) is not None:
                    if message.WhichOneof("body") == "hello":
                        self._take(message)
                        return
        except TimeoutError:
            self._is_gone = True
        raise ConnectionError("the worker is gone")

    async def send(self, message: pb.FromMaster) -> None:
        try:
            await self._link.send(message)
        except ConnectionError:
            self._is_gone = True
            raise

    async def receive(self) -> pb.FromWorker | None:
        if self._hello is not None:
            hello, self._hello, self.owes_hello = self._hello, None, True
            return hello
        message = await self._link.receive()
        if message is None:
            self._is_gone = True
        return message

    def _take(self, hello: pb.FromWorker) -> None:
        self._hello, self.owes_hello = hello, False
        self._can_repeat = hello.hello.can_repeat


class _Patience:
    """How long a stream goes on without a leader, and how soon the next one is tried."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._pause = 0.0
        self._is_taken = False
        self._taken_at = self._lost_at = env.monotonic()

    def taken(self) -> None:
        """A leader has the stream."""
        self._is_taken, self._taken_at = True, self._env.monotonic()

    def seconds_left(self) -> float:
        return max(0.0, self._lost_at + LEADERLESS_SECONDS - self._env.monotonic())

    async def rest(self) -> None:
        """Between two leaders, or two tries of one. Raises NotLeader when it has lasted too long."""
        now = self._env.monotonic()
        if self._is_taken:
            self._is_taken, self._lost_at = False, now
            if now - self._taken_at > LASTED_SECONDS:
                self._pause = 0.0
        if now - self._lost_at >= LEADERLESS_SECONDS:
            raise NotLeader(NO_LEADER)
        await asyncio.sleep(self._pause * self._env.random.uniform(0.5, 1.5))
        self._pause = min(MOST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, self._pause * 2))
