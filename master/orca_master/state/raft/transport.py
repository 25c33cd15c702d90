"""The masters' network over TCP: `Network` with one mutually authenticated connection per pair.

The master with the greater id dials; if it does not, because it has not heard of the other one yet,
that one dials after a while, and its connection gives way to one the right way round. Both ends
present certificates (TLS 1.3, contexts given from outside); then each says in a hello which protocol,
cluster and node it is, and the node must be the one that its certificate names. Any master of this
cluster is let in: who has been away may know neither the leader nor that it was removed itself.
Nothing of a message is decoded before that. Frames are a length (u32, big-endian, capped before
anything is kept for it) and so many bytes; nothing is ever inflated; an empty frame only shows life.
Whatever is wrong closes the connection, and the dialler tries again.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_master.state.raft import codec
from orca_master.state.raft.codec import MAX_FRAME_BYTES, PROTOCOL_VERSION, Hello, Message
from orca_master.state.raft.members import parse_address
from orca_master.state.raft.port import Connected, Disconnected, Event, Received
from orca_proto.identity import MASTER_NAME, NodeRole, NotABearer, bearer_of_client

MAX_HELLO_BYTES = 1024
MAX_OUTBOX_BYTES = 64 << 20
"""More than that unsent, and the peer does not read: the connection is closed."""
MAX_STRANGERS = 32
"""Accepted connections that have not said who they are."""
HELLO_SECONDS = 5.0
ALIVE_SECONDS = 1.0
SILENCE_SECONDS = 4.0
DIAL_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 1.0
"""How long the master with the lesser id waits to be dialled."""
LONGEST_PAUSE_SECONDS = 2.0
LENGTH_BYTES = 4

Address = tuple[str, int]
Verify = Callable[[bytes], str]
"""From a peer's certificate (DER, its chain verified already) to the node id; raises NotABearer."""

log = get_logger("state.raft")


def master_of(cluster_id: str) -> Verify:
    """Accepts the certificates of this cluster's masters."""

    def verify(certificate: bytes) -> str:
        bearer = bearer_of_client(ssl.DER_cert_to_PEM_cert(certificate).encode())
        if bearer.cluster != cluster_id or bearer.role is not NodeRole.MASTER:
            raise NotABearer(f"{bearer.uri} is no master of cluster {cluster_id}")
        return bearer.id

    return verify


class TlsNetwork:
    """`Network`. With `listen` None somebody else owns the port and asks `accept` for protocols."""

    def __init__(
        self,
        env: Env,
        *,
        cluster_id: str,
        node: str,
        listen: Address | None,
        server_tls: ssl.SSLContext,
        client_tls: ssl.SSLContext,
        verify: Verify,
    ) -> None:
        self._env = env
        self.hello = Hello(PROTOCOL_VERSION, cluster_id, node)
        self._listen = listen
        self._peers: dict[str, str] = {}
        self._group: asyncio.TaskGroup | None = None
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._server_tls = server_tls
        self._client_tls = client_tls
        self.verify = verify
        self._connections: dict[str, _Connection] = {}
        self.strangers: set[_Connection] = set()
        self._events: list[Event] = []
        self._act: Callable[[], bool] = lambda: False
        self._is_awake = False
        self._sleeper: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

    async def run(self) -> None:
        """See `Network.run`. Raises OSError if the address cannot be listened on."""
        server = None
        if self._listen is not None:
            server = await asyncio.get_running_loop().create_server(
                self.accept,
                *self._listen,
                ssl=self._server_tls,
                ssl_handshake_timeout=HELLO_SECONDS,
            )
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self.set_peers(self._peers)
                group.create_task(self._show_life(), name="raft keep alive")
        finally:
            self._group = None
            self._dialling.clear()
            if server is not None:
                server.close()
            self._abort_all()

    def accept(self) -> asyncio.Protocol:
        """For one incoming TLS connection, whose certificate was asked for; give it the transport."""
        return _Connection(self, None)

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """See `Network.set_peers`. Raises ValueError if an address is no "host:port"."""
        addresses = {peer: parse_address(address) for peer, address in peers.items()}
        for peer, task in list(self._dialling.items()):
            if peers.get(peer) != self._peers.get(peer):
                task.cancel()
                del self._dialling[peer]
        self._peers = dict(peers)
        if self._group is None:
            return
        for peer in sorted(addresses):
            if peer not in self._dialling and peer != self.hello.node:
                self._dialling[peer] = self._group.create_task(
                    self._keep_dialling(peer, addresses[peer]),
                    name=f"raft dial {peer}",
                )

    async def wait(self, seconds: float) -> None:
        if seconds > 0 and not self._is_awake:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            self._set_alarm(loop, loop.time() + seconds)
            try:
                await self._sleeper
            finally:
                self._sleeper = None
        else:
            await asyncio.sleep(0)  # the others' turn, however busy this master is
        self._is_awake = False

    def wake(self) -> None:
        self._is_awake = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def on_arrival(self, act: Callable[[], bool]) -> None:
        self._act = act

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """An alarm that rings too early is set again then: cheaper than a new one for each wait."""
        self._alarm_at = at
        if self._alarm is not None:
            if self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        if self._sleeper is None:
            return
        if loop.time() < self._alarm_at:
            self._set_alarm(loop, self._alarm_at)
        else:
            self.wake()

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def send(self, peer: str, message: Message) -> None:
        connection = self._connections.get(peer)
        if connection is not None:
            connection.send(codec.encode_message(message))

    def verify_again(self) -> None:
        """Close what stands with certificates that are refused by now; it is made anew with others."""
        for connection in [*self._connections.values(), *self.strangers]:
            connection.verify_again()

    def drop(self, peer: str, *, reason: str) -> None:
        connection = self._connections.get(peer)
        if connection is not None:
            connection.refuse(reason)

    async def close(self) -> None:
        self._abort_all()

    # For the connections.

    def opened(self, connection: "_Connection", peer: str) -> bool:
        """It is known who is at the other end. False: there is a better connection already.

        One that the greater id dialled replaces any other, which is dead or the wrong way round.
        """
        older = self._connections.get(peer)
        if older is not None:
            if not connection.is_dialled_by_greater:
                return False
            self._put(Disconnected(peer))
            older.abort()
        self._connections[peer] = connection
        self._put(Connected(peer))
        return True

    def received(self, peer: str, message: Message) -> None:
        """To be followed by `arrived` when the connection has no more."""
        self._events.append(Received(peer, message))

    def arrived(self) -> None:
        is_asleep = self._sleeper is not None and not self._sleeper.done()
        if self._events and not (is_asleep and self._act()):
            self.wake()

    def lost(self, connection: "_Connection", peer: str) -> None:
        if self._connections.get(peer) is connection:
            del self._connections[peer]
            self._put(Disconnected(peer))

    def seconds(self) -> float:
        return self._env.monotonic()

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self.wake()

    def _abort_all(self) -> None:
        for connection in [*self._connections.values(), *self.strangers]:
            connection.abort()

    async def _keep_dialling(self, peer: str, address: Address) -> None:
        patience = PATIENCE_SECONDS if self.hello.node < peer else 0.0
        pause = FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(patience)
            present = self._connections.get(peer)
            connection = present or await self._dial(peer, address)
            if connection is not None:
                await connection.closed.wait()
                if connection.peer is not None:
                    pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause * self._env.random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _dial(self, peer: str, address: Address) -> "_Connection | None":
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self, peer),
                    *address,
                    ssl=self._client_tls,
                    server_hostname=MASTER_NAME,
                )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            log.debug("a master cannot be reached", peer=peer, reason=str(error))
            return None
        return connection

    async def _show_life(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            for connection in list(self._connections.values()):
                if self.seconds() - connection.heard_at > SILENCE_SECONDS:
                    connection.refuse(f"nothing came for {SILENCE_SECONDS} s")
                else:
                    connection.send(b"")


class _Connection(asyncio.Protocol):
    """One end. `dialled`: whom we called; None if somebody called us."""

    def __init__(self, network: TlsNetwork, dialled: str | None) -> None:
        self._network = network
        self._dialled = dialled
        self._buffer = bytearray()
        self._certified = ""
        self._transport: asyncio.Transport
        self.peer: str | None = None
        self.heard_at = network.seconds()
        self.closed = asyncio.Event()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._network.strangers.add(self)
        self._deadline = asyncio.get_running_loop().call_later(
            HELLO_SECONDS, self.refuse, f"no hello within {HELLO_SECONDS} s"
        )
        if len(self._network.strangers) > MAX_STRANGERS:
            self.refuse("too many connections at once that have not said who they are")
            return
        try:
            self._certified = self._network.verify(self._certificate())
        except NotABearer as error:
            self.refuse(str(error))
            return
        if self._certified == self._network.hello.node:
            self.refuse("it has this master's own certificate")
        elif self._dialled is not None and self._certified != self._dialled:
            self.refuse(f"{self._certified} answers at the address of {self._dialled}")
        elif self._dialled is not None:
            self.send(codec.encode_hello(self._network.hello))

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._network.seconds()
        self._buffer += data
        offset = 0
        while not self._transport.is_closing() and len(self._buffer) - offset >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[offset : offset + LENGTH_BYTES], "big")
            limit = MAX_HELLO_BYTES if self.peer is None else MAX_FRAME_BYTES
            if size > limit:
                self.refuse(f"a frame of {size} bytes; at most {limit} are taken")
                return
            start = offset + LENGTH_BYTES
            if len(self._buffer) < start + size:
                break
            offset = start + size
            if size:
                self._take(bytes(self._buffer[start:offset]))
        del self._buffer[:offset]
        self._network.arrived()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._network.strangers.discard(self)
        if self.peer is not None:
            self._network.lost(self, self.peer)
        self.closed.set()

    # For the network.

    @property
    def is_dialled_by_greater(self) -> bool:
        """Whether the end that dialled has the greater id of both."""
        return (self._certified < self._network.hello.node) == (self._dialled is not None)

    def send(self, frame: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
        if self._transport.get_write_buffer_size() > MAX_OUTBOX_BYTES:
            self.refuse("it does not read what it is sent")

    def refuse(self, reason: str) -> None:
        log.warning(
            "a connection between masters was closed",
            peer=self.peer or self._certified or self._dialled,
            address=self._transport.get_extra_info("peername"),
            reason=reason,
        )
        self.abort()

    def verify_again(self) -> None:
        try:
            self._network.verify(self._certificate())
        except NotABearer as error:
            self.refuse(str(error))

    def abort(self) -> None:
        self._transport.abort()

    # Frames.

    def _certificate(self) -> bytes:
        tls = self._transport.get_extra_info("ssl_object")
        certificate: bytes | None = tls.getpeercert(binary_form=True)
        if certificate is None:
            raise NotABearer("no certificate was presented")
        return certificate

    def _take(self, frame: bytes) -> None:
        try:
            if self.peer is None:
                self._greet(codec.decode_hello(frame))
            else:
                self._network.received(self.peer, codec.decode_message(frame))
        except ValueError as error:
            self.refuse(str(error))

    def _greet(self, theirs: Hello) -> None:
        ours = self._network.hello
        if theirs.version != ours.version:
            raise ValueError(f"protocol {theirs.version} is spoken there, {ours.version} here")
        if theirs.cluster != ours.cluster:
            raise ValueError(f"it belongs to cluster {theirs.cluster}, not to {ours.cluster}")
        if theirs.node != self._certified:
            raise ValueError(f"it says it is {theirs.node}; its certificate says {self._certified}")
        self._deadline.cancel()
        self._network.strangers.discard(self)
        if not self._network.opened(self, theirs.node):
            self.abort()
            return
        self.peer = theirs.node
        if self._dialled is None:
            self.send(codec.encode_hello(ours))
