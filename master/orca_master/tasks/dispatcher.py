"""The master's end of the workers' streams: lists of tasks down, reports up, output and specs on request.

A session lives as long as its stream. It keeps no truth: each wake-up computes the node's whole
list from the state and sends it if it differs from what was sent last.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.cluster.leases import Leases
from orca_master.cluster.model import MASTERS, NODES, NodeFacts, NodeState
from orca_master.cluster.operations import (
    is_removed,
    mark_disk,
    masters_for_workers,
    node_connected,
    the_cluster,
)
from orca_master.cluster.presence import Presence
from orca_master.errors import Forbidden, NotReady, Trouble
from orca_master.identity.registries.accounts import Accounts
from orca_master.identity.registries.model import LOGINS
from orca_master.identity.secrets.vault import Vault
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_master.tasks import specs, wire
from orca_master.tasks.model import TASKS, Task, Wanted
from orca_master.tasks.operations import observe, observe_all, spec_of
from orca_master.tasks.registries import add_accounts
from orca_master.tasks.secrets import fill_in
from orca_master.tasks.suspicion import Suspicion
from orca_proto import worker_pb2 as pb

PROTOCOL = 1
HELLO_TIMEOUT_SECONDS = 10.0
STATUSES_PER_TRANSACTION = 200
LOST = "the worker's connection was lost"
REMOVED = "this node was removed from the cluster: join again with a new token, in a new folder"

log = get_logger("dispatcher")


class Link(Protocol):
    """One worker's stream, authenticated. `receive` returns None when it has ended, `send` raises
    ConnectionError."""

    async def send(self, message: pb.FromMaster) -> None: ...
    async def receive(self) -> pb.FromWorker | None: ...


class Beside(Protocol):
    """Something else that a worker's stream carries, besides tasks and their output."""

    async def run(self, node_id: str, send: Callable[[pb.FromMaster], Awaitable[None]]) -> None:
        """Send what is to be sent, until cancelled. Raises ConnectionError, Trouble."""
        ...

    async def take(self, node_id: str, message: pb.FromWorker) -> None:
        """Raises Trouble."""
        ...


class _Session:
    def __init__(self, node_id: str, link: Link, *, fetches_specs: bool) -> None:
        self.node_id = node_id
        self.link = link
        self.fetches_specs = fetches_specs
        self.outputs: dict[str, Callable[[pb.LogChunk], None]] = {}
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()  # no more than there were outputs
        self.superseded = asyncio.Event()
        self.beat_seconds = 0.0
        self.asked = asyncio.Event()
        self.asked_at = 0.0  # of the last beat that asks for the lease, the node's time
        self.specs_asked: asyncio.Queue[list[str]] = asyncio.Queue(maxsize=1)
        self.reports_taken = 0  # the number of the last report that is committed
        self.has_taken = asyncio.Event()


class OutputSource:
    """A task's output that was asked for, see `output.Source`."""

    def __init__(self, session: _Session, request: str) -> None:
        self._session = session
        self._request = request

    async def more(self, count: int) -> None:
        if self._request in self._session.outputs:
            more = pb.LogMore(request=self._request, bytes=count)
            await self._session.link.send(pb.FromMaster(log_more=more))

    def cancel(self) -> None:
        if self._session.outputs.pop(self._request, None) is not None:
            self._session.cancelled.put_nowait(self._request)


class Dispatcher:
    def __init__(
        self,
        env: Env,
        store: Store,
        presence: Presence,
        leases: Leases,
        vault: Vault,
        accounts: Accounts,
        besides: Mapping[str, Beside] | None = None,
    ) -> None:
        """`besides`: by the name of the message with which a worker speaks of it."""
        self._env = env
        self._store = store
        self._presence = presence
        self._leases = leases
        self._vault = vault
        self._accounts = accounts
        self._besides = dict(besides or {})
        self._sessions: dict[str, _Session] = {}
        self._suspicion = Suspicion(env, store)

    async def serve(self, node_id: str, link: Link, *, through: str | None = None) -> bool:
        """Serve one stream, while this master leads; whether the worker may say Hello on it again.

        A newer stream of the same node ends the older one for good. `through`: the id of the master that
        holds the stream, if that is another one. Raises Forbidden when the node may not connect, Trouble when
        this master cannot serve it.
        """
        hello = await self._hello(link)
        if is_removed(self._store.state, node_id):
            log.info("a removed worker is told so", node=hello.name, id=node_id)
            await link.send(pb.FromMaster(removed=pb.Removed(reason=REMOVED)))
            return False
        facts = wire.facts(hello)
        await self._suspicion.check_instance(node_id, hello.instance)
        previous = self._sessions.get(node_id)
        if previous is not None:
            previous.superseded.set()
        session = _Session(node_id, link, fetches_specs=hello.fetches_specs)
        self._sessions[node_id] = session
        self._presence.comes_through(node_id, through)
        try:
            with self._presence.attending(node_id):
                await self._connect(node_id, hello, facts)
            log.info("worker connected", node=hello.name, id=node_id, tasks=len(hello.tasks))
            await self._talk(session)
            return not session.superseded.is_set()
        finally:
            if self._sessions.get(node_id) is session:
                del self._sessions[node_id]
                self._presence.connected(node_id, False)
            for sink in session.outputs.values():
                sink(pb.LogChunk(done=True, error=LOST))
            session.outputs.clear()
            log.info("worker disconnected", node=hello.name, id=node_id)

    @property
    def leads(self) -> bool:
        return self._store.leadership.is_leader

    def is_connected(self, node_id: str) -> bool:
        """Whether this master serves the node's stream, whoever holds it."""
        return node_id in self._sessions

    async def open_output(
        self, task: Task, request: pb.LogRequest, sink: Callable[[pb.LogChunk], None]
    ) -> "OutputSource":
        """Have the task's node send its output to `sink`, which must not raise. Raises NotReady."""
        session = self._sessions.get(task.node)
        if session is None:
            node = self._store.state.get(NODES, task.node)
            raise NotReady(f"node {node.name if node else task.node} is not connected")
        request.request = self._env.new_id()
        session.outputs[request.request] = sink
        try:
            await session.link.send(pb.FromMaster(log_request=request))
        except ConnectionError as error:
            session.outputs.pop(request.request, None)
            raise NotReady(LOST) from error
        return OutputSource(session, request.request)

    async def _hello(self, link: Link) -> pb.Hello:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_SECONDS):
                first = await link.receive()
        except TimeoutError as error:
            raise Forbidden("the worker said nothing") from error
        if first is None or first.WhichOneof("body") != "hello":
            raise Forbidden("a worker's first message must be Hello")
        if first.hello.protocol != PROTOCOL:
            raise Forbidden(
                f"the worker speaks protocol {first.hello.protocol}, this master {PROTOCOL}:"
                " upgrade the older of the two"
            )
        return first.hello

    async def _connect(self, node_id: str, hello: pb.Hello, facts: NodeFacts) -> None:
        present = {status.id for status in hello.tasks}

        def connect(tx: Transaction) -> None:
            now = self._env.now()
            node_connected(tx, node_id, facts=facts, now=now)
            observe_all(tx, node_id, present, now)

        await self._observe(node_id, hello.tasks)
        await self._store.update(connect)
        self._presence.connected(node_id, True)

    async def _talk(self, session: _Session) -> None:
        await self._tell_pace(session)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_assignments(session))
                group.create_task(self._send_specs(session))
                group.create_task(self._acknowledge(session))
                group.create_task(self._send_masters(session))
                group.create_task(self._send_cancels(session))
                group.create_task(self._extend_leases(session))
                group.create_task(self._end_when_superseded(session))
                group.create_task(self._end_when_deposed())
                group.create_task(self._end_when_removed(session))
                for beside in self._besides.values():
                    group.create_task(beside.run(session.node_id, session.link.send))
                await self._receive(session)
                raise _Ended
        except* (_Ended, ConnectionError, Trouble) as errors:  # one clause: of two, both raise
            go_on_unless_cancelled()
            for error in errors.exceptions:
                if isinstance(error, Trouble):
                    raise error from None

    async def _tell_pace(self, session: _Session) -> None:
        """Welcome the worker; again when the number of nodes has changed how often it is to beat."""
        state = self._store.state
        seconds = self._presence.pace(state.count(NODES)).beat
        if seconds != session.beat_seconds:
            cluster = the_cluster(state).id
            welcome = pb.Welcome(cluster=cluster, heartbeat_seconds=seconds, acknowledges=True)
            await session.link.send(pb.FromMaster(welcome=welcome))
            session.beat_seconds = seconds

    async def _end_when_superseded(self, session: _Session) -> None:
        await session.superseded.wait()
        raise _Ended

    async def _end_when_deposed(self) -> None:
        """Only a leader can take reports; the stream then goes to the new one."""
        seen = self._store.leadership
        while seen.is_leader:
            seen = await self._store.leadership_change(seen)
        raise _Ended

    async def _end_when_removed(self, session: _Session) -> None:
        """Also of a worker that is silent; when it comes again it is told so."""
        with self._store.follow(NODES) as follower:
            while self._store.state.get(NODES, session.node_id) is not None:
                await follower.next()
        raise _Ended

    async def _receive(self, session: _Session) -> None:
        while (message := await session.link.receive()) is not None:
            if not self._is_ready(session.node_id):
                log.warning("stream ended: the node must introduce itself", id=session.node_id)
                return
            self._presence.heard(session.node_id)
            match message.WhichOneof("body"):
                case "heartbeat":
                    used = wire.used_of(message.heartbeat.used)
                    self._presence.heard(session.node_id, used)
                    if message.heartbeat.sent_at:
                        self._leases.asked(session.node_id)
                        session.asked_at = message.heartbeat.sent_at
                        session.asked.set()
                    await self._note_disk(session.node_id, full=message.heartbeat.disk_full)
                    await self._tell_pace(session)
                case "report":
                    with self._presence.attending(session.node_id):
                        await self._take_report(session, message.report)
                case "specs_request":
                    self._take_request(session, message.specs_request)
                case "log_chunk":
                    self._take_output(session, message.log_chunk)
                case str() as kind if kind in self._besides:
                    await self._besides[kind].take(session.node_id, message)
                case _:
                    log.warning("worker sent an unknown message", id=session.node_id)

    async def _note_disk(self, node_id: str, *, full: bool) -> None:
        node = self._store.state.get(NODES, node_id)
        if node is not None and node.disk_full != full:
            await self._store.update(partial(mark_disk, node_id=node_id, full=full))

    def _take_output(self, session: _Session, chunk: pb.LogChunk) -> None:
        sink = session.outputs.get(chunk.request)
        if sink is not None:
            if chunk.done:
                del session.outputs[chunk.request]
            sink(chunk)

    def _is_ready(self, node_id: str) -> bool:
        """A node that was declared down, or removed, while its line was cut has to say Hello again:
        only then is everything that it runs known."""
        node = self._store.state.get(NODES, node_id)
        return node is not None and node.state is NodeState.READY

    async def _take_report(self, session: _Session, report: pb.Report) -> None:
        await self._observe(session.node_id, report.tasks)
        if report.number:
            session.reports_taken = report.number
            session.has_taken.set()

    def _take_request(self, session: _Session, request: pb.SpecsRequest) -> None:
        """A worker asks again when it has been answered, and for so many at once: others are not."""
        if len(request.hashes) > specs.MOST_AT_ONCE or session.specs_asked.full():
            log.warning("a worker asks for too many specs at once", id=session.node_id)
            return
        session.specs_asked.put_nowait(list(request.hashes))

    async def _observe(self, node_id: str, statuses: Sequence[pb.TaskStatus]) -> None:
        own = await self._suspicion.own(node_id, statuses)
        for first in range(0, len(own), STATUSES_PER_TRANSACTION):
            some = own[first : first + STATUSES_PER_TRANSACTION]
            reports = [wire.observed(status) for status in some]
            await self._store.update(
                partial(observe, node_id=node_id, reports=reports, now=self._env.now())
            )

    async def _send_masters(self, session: _Session) -> None:
        """So that the worker finds a leader when this one is gone, whoever it joined with."""
        sent: list[str] = []
        with self._store.follow(MASTERS) as follower:
            while True:
                await follower.next()
                known = masters_for_workers(self._store.state)
                if known and known != sent:
                    masters = pb.Masters(addresses=known)
                    await session.link.send(pb.FromMaster(masters=masters))
                    sent = known

    async def _extend_leases(self, session: _Session) -> None:
        """Acknowledge beats once the log has confirmed that this master led after they had come.

        Beats that come meanwhile, of this node and of others, share the next confirmation.
        """
        while True:
            await session.asked.wait()
            session.asked.clear()
            sent_at = session.asked_at
            await self._store.fresh()
            extended = pb.LeaseExtended(sent_at=sent_at, seconds=self._leases.seconds)
            await session.link.send(pb.FromMaster(lease_extended=extended))

    async def _send_cancels(self, session: _Session) -> None:
        while True:
            cancel = pb.LogCancel(request=await session.cancelled.get())
            await session.link.send(pb.FromMaster(log_cancel=cancel))

    async def _acknowledge(self, session: _Session) -> None:
        """Reports that come while one answer is sent share the next."""
        while True:
            await session.has_taken.wait()
            session.has_taken.clear()
            taken = pb.ReportTaken(number=session.reports_taken)
            await session.link.send(pb.FromMaster(report_taken=taken))

    async def _send_specs(self, session: _Session) -> None:
        while True:
            asked = await session.specs_asked.get()
            found = specs.answer(self._store.state, self._vault, session.node_id, asked)
            await session.link.send(pb.FromMaster(specs=found))

    async def _send_assignments(self, session: _Session) -> None:
        sent: list[tuple[str, Wanted]] | None = None
        sent_specs: set[str] = set()
        with self._store.follow(TASKS, LOGINS) as follower:
            while True:
                changed = await follower.next()
                state = self._store.state
                tasks = state.find(TASKS, "node", session.node_id)
                if not tasks and sent != []:  # only who certainly leads may have all of it stopped
                    state = await self._store.fresh()
                    tasks = state.find(TASKS, "node", session.node_id)
                wanted = [(task.id, task.wanted) for task in tasks]
                other_accounts = changed.everything or bool(changed.of(LOGINS.name))
                if wanted == sent and not (wanted and other_accounts):
                    continue
                known = {task.spec: spec_of(state, task) for task in tasks}
                revision = pb.Revision(
                    epoch=the_cluster(state).epoch,
                    term=self._store.leadership.term,
                    version=state.version,
                )
                unsent = {h: s for h, s in known.items() if h not in sent_specs}
                message = wire.assignments(revision, tasks, {} if session.fetches_specs else unsent)
                for hash, spec in message.assignments.specs.items():
                    fill_in(state, self._vault, known[hash], spec)
                add_accounts(state, self._accounts, tasks, known, message.assignments)
                await session.link.send(message)
                sent, sent_specs = wanted, set(known)


class _Ended(Exception):
    """The session is over; ends its task group."""
