"""The worker's end of the stream: connect, say hello, obey lists, send reports; again and again."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto import worker_pb2 as pb
from orca_worker.agent import Agent
from orca_worker.output import Output
from orca_worker.ports import Connector, Ingress, Link, Refused, Removed
from orca_worker.runtime.port import RuntimeRefusal

PROTOCOL = 1
FIRST_RETRY_SECONDS = 0.2
MOST_RETRY_BEATS = 1.0
"""Two rounds over all masters fit into the time after which a node is down."""
REFUSED_RETRY_SECONDS = 5.0
LASTED_SECONDS = 5.0
"""After a stream that lasted so long the next one is tried at once."""
FIRST_BEAT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 5.0
WELCOME_TIMEOUT_SECONDS = 15.0
"""A master that is dead is noticed before; one that is busy has hundreds to welcome."""
LOG_READERS = 64
REPEAT_SECONDS = 30.0

log = get_logger("session")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the node says of itself. `instance`: made anew at each start of the worker."""

    name: str
    version: str
    address: str
    os: str
    architecture: str
    labels: dict[str, str]
    memory_bytes: int
    cpu_millis: int
    instance: str = ""


class Session:
    """Keeps the agent connected to a master. Runs until cancelled, or until the node is removed."""

    def __init__(
        self,
        env: Env,
        agent: Agent,
        connector: Connector,
        facts: Facts,
        devices: Callable[[], Sequence[str] | None] = lambda: None,
        ingress: Ingress | None = None,
        is_disk_full: Callable[[], bool] = lambda: False,
    ) -> None:
        """`devices`: those that containers may be given now; None: not known. It may block."""
        self._env = env
        self._agent = agent
        self._connector = connector
        self._facts = facts
        self._ingress = ingress
        self._is_disk_full = is_disk_full
        self._disk_full = False
        self._devices = devices
        self._beat_seconds = FIRST_BEAT_SECONDS
        self._used = pb.Resources()
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Raises Removed."""
        wait = FIRST_RETRY_SECONDS
        tries = 0
        while True:
            started, refused_seconds = self._env.monotonic(), 0.0
            try:
                async with self._connector.connect() as link:
                    while await self._talk(link):
                        log.info("another master leads; this worker introduces itself again")
                log.info("connection to the master ended")
            except Refused as refused:
                log.error("the master refuses this worker", reason=str(refused))
                refused_seconds = REFUSED_RETRY_SECONDS
            except (OSError, TimeoutError, RuntimeRefusal) as error:
                log.warning("not connected", reason=str(error) or type(error).__name__)
            finally:
                self.connected.clear()
            if self._env.monotonic() - started > LASTED_SECONDS:
                wait, tries = FIRST_RETRY_SECONDS, 0
            masters = self._connector.master_count
            pause = refused_seconds or wait / masters
            await asyncio.sleep(pause * self._env.random.uniform(0.5, 1.5))
            tries += 1
            if tries % masters == 0:
                wait = min(MOST_RETRY_BEATS * self._beat_seconds, wait * 2)

    async def _talk(self, link: Link) -> bool:
        """Under one leader; whether there is to be another one on the same stream."""
        self._agent.specs.begin_stream()
        hello = await self._hello()
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await link.send(pb.FromWorker(hello=hello))
        async with asyncio.timeout(WELCOME_TIMEOUT_SECONDS):
            first = await link.receive()
        if first is not None and first.WhichOneof("body") == "removed":
            raise Removed(first.removed.reason)
        if first is not None and first.WhichOneof("body") == "again":
            return True
        if first is None or first.WhichOneof("body") != "welcome":
            raise ConnectionError("the master closed the stream before welcoming this worker")
        log.info("connected", cluster=first.welcome.cluster)
        self._beat_seconds = first.welcome.heartbeat_seconds
        self._agent.taken(0)
        acknowledges = first.welcome.acknowledges
        self.connected.set()
        asked_again = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat(link))
                group.create_task(self._measure())
                group.create_task(self._report(link, acknowledges=acknowledges))
                group.create_task(self._fetch(link))
                if not acknowledges:
                    group.create_task(self._repeat())
                if self._ingress is not None:
                    self._ingress.forget_session()
                    group.create_task(self._tell_of(self._ingress, link))
                await self._receive(link, group)
                raise _Ended
        except* (_Ended, OSError, Refused) as errors:  # one clause: of two, both would be cancelled
            go_on_unless_cancelled()
            for error in errors.exceptions:
                if not isinstance(error, _Ended):
                    raise error from None
            asked_again = any(isinstance(error, _AskedAgain) for error in errors.exceptions)
        return asked_again

    async def _hello(self) -> pb.Hello:
        facts = self._facts
        devices = await self._env.threads.run(self._devices)
        return pb.Hello(
            protocol=PROTOCOL,
            name=facts.name,
            version=facts.version,
            address=facts.address,
            os=facts.os,
            architecture=facts.architecture,
            instance=facts.instance,
            can_repeat=True,
            fetches_specs=True,
            tells_devices=devices is not None,
            devices=devices,
            labels=facts.labels,
            runtimes=self._agent.runtime_names,
            capacity=pb.Resources(memory_bytes=facts.memory_bytes, cpu_millis=facts.cpu_millis),
            tasks=await self._agent.inventory(),
        )

    async def _receive(self, link: Link, group: asyncio.TaskGroup) -> None:
        readers: dict[str, _Reader] = {}
        while (message := await link.receive()) is not None:
            match message.WhichOneof("body"):
                case "welcome":
                    self._beat_seconds = message.welcome.heartbeat_seconds
                case "again":
                    raise _AskedAgain
                case "assignments":
                    await self._agent.apply(message.assignments)
                case "specs":
                    self._agent.take_specs(message.specs)
                case "report_taken":
                    self._agent.taken(message.report_taken.number)
                case "lease_extended":
                    extended = message.lease_extended
                    await self._agent.fencing.extend(extended.sent_at, extended.seconds)
                case "ingress" if self._ingress is not None:
                    self._ingress.apply(message.ingress)
                case "masters":
                    self._connector.know(list(message.masters.addresses))
                case "log_request":
                    readers = {id: one for id, one in readers.items() if not one.task.done()}
                    request = message.log_request
                    if len(readers) >= LOG_READERS:
                        await link.send(_too_many(request.request))
                    else:
                        readers[request.request] = self._start_reader(link, request, group)
                case "log_cancel":
                    cancelled = readers.pop(message.log_cancel.request, None)
                    if cancelled is not None:
                        cancelled.task.cancel()
                case "log_more":
                    reader = readers.get(message.log_more.request)
                    if reader is not None:
                        reader.output.more(message.log_more.bytes)
                case _:
                    log.warning("the master sent an unknown message")

    def _start_reader(
        self, link: Link, request: pb.LogRequest, group: asyncio.TaskGroup
    ) -> "_Reader":
        output = Output(self._env, request, link.send)
        chunks = self._agent.logs(
            request.task, tail=request.tail, since=request.since, follow=request.follow
        )
        return _Reader(output, group.create_task(output.run(chunks)))

    async def _beat(self, link: Link) -> None:
        fencing = self._agent.fencing
        while True:
            beat = pb.Heartbeat(
                used=self._used, sent_at=fencing.asks_at(), disk_full=self._disk_full
            )
            await link.send(pb.FromWorker(heartbeat=beat))
            await fencing.is_wanted_within(self._beat_seconds)

    async def _measure(self) -> None:
        """Beside the beats: an engine that is slow, or gone, makes no node that is."""
        while True:
            try:
                self._used = await self._agent.used()
            except RuntimeRefusal as refusal:
                log.warning("what the tasks use is not known", reason=refusal.reason)
            self._disk_full = await self._env.threads.run(self._is_disk_full)
            await asyncio.sleep(self._beat_seconds)

    async def _repeat(self) -> None:
        """For a master that does not say what it has taken."""
        while True:
            await asyncio.sleep(REPEAT_SECONDS * self._env.random.uniform(0.8, 1.2))
            self._agent.repeat_all()

    async def _tell_of(self, ingress: Ingress, link: Link) -> None:
        while True:
            status = await ingress.changes()
            await link.send(pb.FromWorker(ingress_status=status))

    async def _report(self, link: Link, *, acknowledges: bool) -> None:
        """What is not acknowledged when the stream ends is said again in the next Hello, as all else is."""
        for number in count(1):
            statuses = await self._agent.changes()
            self._agent.said(number, statuses)
            await link.send(pb.FromWorker(report=pb.Report(tasks=statuses, number=number)))
            if not acknowledges:
                self._agent.taken(number)

    async def _fetch(self, link: Link) -> None:
        while True:
            hashes = await self._agent.specs.to_ask()
            await link.send(pb.FromWorker(specs_request=pb.SpecsRequest(hashes=hashes)))


@dataclass(frozen=True, slots=True)
class _Reader:
    output: Output
    task: asyncio.Task[None]


def _too_many(request: str) -> pb.FromWorker:
    error = f"{LOG_READERS} readers of output are connected to this node already"
    return pb.FromWorker(log_chunk=pb.LogChunk(request=request, done=True, error=error))


class _Ended(Exception):
    """The stream is over; ends its task group."""


class _AskedAgain(_Ended):
    """It is not, but the talk with this leader."""
