"""The masters' connections over real sockets and real certificates: who gets in, and who does not."""

import asyncio
import contextlib
import pickle
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from orca_common.real import real_env
from orca_master.state.raft import codec
from orca_master.state.raft.codec import Hello, PreVote, TimeoutNow
from orca_master.state.raft.port import Connected, Disconnected, Event, Received
from orca_master.state.raft.transport import TlsNetwork, master_of
from orca_proto.identity import MASTER_NAME, NotABearer
from raft_tls import (
    CLUSTER,
    an_authority,
    client_context,
    master_files,
    server_context,
    worker_files,
)

Events = Callable[[TlsNetwork, int], "asyncio.Future[list[Event]]"]


def a_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Bench:
    """One authority, two masters `m1` and `m2`, of which the second dials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer = an_authority()
        self.addresses = {name: ("127.0.0.1", a_port()) for name in ("m1", "m2")}

    def network(
        self, name: str, *, node: str | None = None, cluster: str = CLUSTER, listens: bool = True
    ) -> TlsNetwork:
        own, authority = master_files(self.signer, name, self.folder)
        network = TlsNetwork(
            real_env(threads=1),
            cluster_id=cluster,
            node=node or name,
            listen=self.addresses[name] if listens else None,
            server_tls=server_context(own, authority),
            client_tls=client_context(own, authority),
            verify=master_of(CLUSTER),
        )
        network.set_peers({n: self.address(n) for n in self.addresses if n != name})
        return network

    def address(self, name: str) -> str:
        host, port = self.addresses[name]
        return f"{host}:{port}"

    async def call(
        self, own: str | None, authority: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As somebody who is not a `TlsNetwork`."""
        return await asyncio.open_connection(
            *self.addresses["m1"], ssl=client_context(own, authority), server_hostname=MASTER_NAME
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@contextlib.asynccontextmanager
async def running(*networks: TlsNetwork) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(network.run()) for network in networks]
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def events(network: TlsNetwork, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            await network.wait(0.1)
            found += network.take()
    return found


async def closed_without_an_answer(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            return await reader.read(1) == b""
    return True


def framed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


async def test_masters_find_each_other_and_messages_arrive_in_order(bench: Bench) -> None:
    one, other = bench.network("m1"), bench.network("m2")
    async with running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        assert await events(other, 1) == [Connected("m1")]
        sent = [PreVote(term, 1, 2, 3) for term in range(2000)]
        for message in sent:
            other.send("m1", message)
        received = await events(one, len(sent))
        assert received == [Received("m2", message) for message in sent]


async def test_what_comes_may_be_seen_to_while_the_wait_goes_on(bench: Bench) -> None:
    one, other = bench.network("m1"), bench.network("m2")
    seen: list[Event] = []
    all_seen = asyncio.Event()

    def act() -> bool:
        seen.extend(one.take())
        if len(seen) == 100:
            all_seen.set()
        return True

    async with running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        assert await events(other, 1) == [Connected("m1")]
        one.on_arrival(act)
        waiting = asyncio.ensure_future(one.wait(300))
        await asyncio.sleep(0)  # it is asleep from here on
        for term in range(100):
            other.send("m1", TimeoutNow(term))
        async with asyncio.timeout(60):
            await all_seen.wait()
        assert seen == [Received("m2", TimeoutNow(term)) for term in range(100)]
        assert not waiting.done()
        one.wake()
        await waiting


async def test_a_wait_ends_when_what_came_needs_the_waiter(bench: Bench) -> None:
    one, other = bench.network("m1"), bench.network("m2")
    asked: list[bool] = []

    def act() -> bool:
        asked.append(True)
        return False

    async with running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        assert await events(other, 1) == [Connected("m1")]
        one.on_arrival(act)
        waiting = asyncio.ensure_future(one.wait(300))
        await asyncio.sleep(0)
        other.send("m1", TimeoutNow(7))
        async with asyncio.timeout(60):
            await waiting
        assert asked
        assert one.take() == [Received("m2", TimeoutNow(7))]


async def test_a_short_wait_after_a_long_one_that_was_cut_short_ends_in_time(bench: Bench) -> None:
    one = bench.network("m1")
    async with asyncio.timeout(60):
        for seconds in (300.0, 0.01, 0.02, 300.0):
            waiting = asyncio.ensure_future(one.wait(seconds))
            await asyncio.sleep(0)
            if seconds > 1:
                one.wake()
            await waiting


async def test_a_master_that_comes_back_is_connected_again(bench: Bench) -> None:
    one = bench.network("m1")
    async with running(one):
        for _ in range(2):
            other = bench.network("m2")
            async with running(other):
                assert await events(one, 1) == [Connected("m2")]
                one.send("m2", TimeoutNow(7))
                assert (await events(other, 2))[1] == Received("m1", TimeoutNow(7))
            assert await events(one, 1) == [Disconnected("m2")]


async def test_without_a_certificate_nobody_gets_in_cl_25(bench: Bench) -> None:
    one = bench.network("m1")
    _, authority = master_files(bench.signer, "x", bench.folder)
    async with running(one):
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            reader, writer = await bench.call(None, authority)
            writer.write(framed(codec.encode_hello(Hello(1, CLUSTER, "m2"))))
            assert await closed_without_an_answer(reader)
            writer.transport.abort()
        assert one.take() == []


async def test_a_worker_does_not_get_in(bench: Bench) -> None:
    one = bench.network("m1")
    files = worker_files(bench.signer, "m2", bench.folder)
    await _is_turned_away(bench, one, files, codec.encode_hello(Hello(1, CLUSTER, "m2")))


async def test_a_master_of_another_cluster_does_not_get_in(bench: Bench) -> None:
    one = bench.network("m1")
    own, _ = master_files(an_authority("c1"), "m2", bench.folder)
    _, authority = master_files(bench.signer, "x", bench.folder)
    async with running(one):
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            reader, writer = await bench.call(own, authority)
            writer.write(framed(codec.encode_hello(Hello(1, CLUSTER, "m2"))))
            assert await closed_without_an_answer(reader)
            writer.transport.abort()
        assert one.take() == []


@pytest.mark.parametrize(
    "hello",
    [
        Hello(1, CLUSTER, "m3"),
        Hello(1, CLUSTER, "m1"),
        Hello(1, "c2", "m2"),
        Hello(2, CLUSTER, "m2"),
    ],
    ids=["another node", "ourselves", "another cluster", "another protocol"],
)
async def test_a_hello_that_does_not_fit_the_certificate_is_turned_away(
    bench: Bench, hello: Hello
) -> None:
    files = master_files(bench.signer, "m2", bench.folder)
    await _is_turned_away(bench, bench.network("m1"), files, codec.encode_hello(hello))


async def test_our_own_certificate_is_turned_away(bench: Bench) -> None:
    files = master_files(bench.signer, "m1", bench.folder)
    hello = codec.encode_hello(Hello(1, CLUSTER, "m1"))
    await _is_turned_away(bench, bench.network("m1"), files, hello)


@pytest.mark.parametrize("knowing", ["m1", "m2"])
async def test_it_is_enough_that_one_of_both_knows_the_other(bench: Bench, knowing: str) -> None:
    """The greater id dials at once, the lesser one after some patience."""
    networks = [bench.network("m1"), bench.network("m2")]
    for network in networks:
        if network.hello.node != knowing:
            network.set_peers({})
    one, other = networks
    async with running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        assert await events(other, 1) == [Connected("m1")]
        one.send("m2", TimeoutNow(7))
        assert await events(other, 1) == [Received("m1", TimeoutNow(7))]


async def test_peers_come_go_and_move_while_it_runs(bench: Bench) -> None:
    one, other = bench.network("m1"), bench.network("m2")
    one.set_peers({})
    other.set_peers({"m1": f"127.0.0.1:{a_port()}"})
    async with running(one, other):
        other.set_peers({"m1": bench.address("m1")})
        assert await events(other, 1) == [Connected("m1")]
        other.set_peers({})
        other.send("m1", TimeoutNow(8))
        assert await events(one, 2) == [Connected("m2"), Received("m2", TimeoutNow(8))]
        one.drop("m2", reason="to see whether it comes again")
        assert await events(other, 1) == [Disconnected("m1")]
        assert not other._dialling
        other.set_peers({"m1": bench.address("m1")})
        assert await events(other, 1) == [Connected("m1")]


async def test_connections_of_both_directions_end_as_one(bench: Bench) -> None:
    """Both have dialled: the one of the greater id stays, at both ends."""
    one, other = bench.network("m1"), bench.network("m2")
    one.set_peers({})
    async with running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        assert await events(other, 1) == [Connected("m1")]
        late = await one._dial("m2", bench.addresses["m2"])
        assert late is not None
        async with asyncio.timeout(60):
            await late.closed.wait()
        other.send("m1", TimeoutNow(9))
        assert await events(one, 1) == [Received("m2", TimeoutNow(9))]
        assert other.take() == []


async def test_a_port_may_belong_to_somebody_else_who_hands_connections_over(bench: Bench) -> None:
    one, other = bench.network("m1", listens=False), bench.network("m2")
    own, authority = master_files(bench.signer, "m1", bench.folder)

    class Owner(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            protocol = one.accept()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

    server = await asyncio.get_running_loop().create_server(
        Owner, *bench.addresses["m1"], ssl=server_context(own, authority)
    )
    async with server, running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        other.send("m1", TimeoutNow(7))
        assert await events(one, 1) == [Received("m2", TimeoutNow(7))]


@pytest.mark.parametrize("address", ["", "host", ":1", "h:0", "h:65536", "h:x", "h:１"])
def test_what_is_no_address_is_refused(bench: Bench, address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        bench.network("m1").set_peers({"m2": address})


class Bomb:
    """Unpickled, it leaves a trace."""

    exploded = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _explode, ()


def _explode() -> None:
    Bomb.exploded = True


@pytest.mark.parametrize(
    "first",
    [
        b"\x80\x04random\xff" * 20,
        pickle.dumps(Bomb()),
        zlib.compress(pickle.dumps(Bomb())),
        b"\xdd\xff\xff\xff\xff" + b"\x00" * 50,  # a list that claims to have 2^32 - 1 items
        codec.encode_message(TimeoutNow(1)),
    ],
    ids=["random", "pickle", "packed pickle", "endless list", "a message without a hello"],
)
async def test_what_is_no_hello_is_not_decoded_any_further_cl_26(
    bench: Bench, first: bytes
) -> None:
    files = master_files(bench.signer, "m2", bench.folder)
    await _is_turned_away(bench, bench.network("m1"), files, first)
    assert not Bomb.exploded


@pytest.mark.parametrize(
    "frame",
    [
        framed(b"\x80\x04random\xff" * 20),
        framed(pickle.dumps(Bomb())),
        framed(zlib.compress(bytes(10 << 20), 9)),
        framed(b"\x98\x01" + b"\xdd\xff\xff\xff\xff" * 6),
        (codec.MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\xff\xff\xff\xff" + bytes(100),
    ],
    ids=["random", "pickle", "would inflate", "endless lists", "too large by one", "4 GiB"],
)
async def test_a_frame_that_is_no_message_closes_the_connection_and_costs_nothing_cl_27(
    bench: Bench, frame: bytes
) -> None:
    one = bench.network("m1")
    own, authority = master_files(bench.signer, "m2", bench.folder)
    async with running(one):
        reader, writer = await bench.call(own, authority)
        writer.write(framed(codec.encode_hello(Hello(1, CLUSTER, "m2"))))
        size = int.from_bytes(await reader.readexactly(4), "big")
        assert codec.decode_hello(await reader.readexactly(size)).node == "m1"
        assert await events(one, 1) == [Connected("m2")]
        tracemalloc.start()
        writer.write(frame)
        assert await events(one, 1) == [Disconnected("m2")]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20
        assert await closed_without_an_answer(reader)
        writer.transport.abort()
    assert not Bomb.exploded


async def _is_turned_away(
    bench: Bench, network: TlsNetwork, files: tuple[str, str], first: bytes
) -> None:
    async with running(network):
        reader, writer = await bench.call(*files)
        writer.write(framed(first))
        assert await closed_without_an_answer(reader)
        writer.transport.abort()
        assert network.take() == []


async def test_connections_that_stand_are_cut_when_their_certificates_are_refused(
    bench: Bench,
) -> None:
    one, other = bench.network("m1"), bench.network("m2")
    refused: set[bytes] = set()
    accepts = one.verify
    shown: list[bytes] = []

    def verify(certificate: bytes) -> str:
        shown.append(certificate)
        if certificate in refused:
            raise NotABearer("of an authority that was replaced")
        return accepts(certificate)

    one.verify = verify
    async with running(one, other):
        assert await events(one, 1) == [Connected("m2")]
        one.verify_again()
        other.send("m1", PreVote(1, 1, 2, 3))
        assert await events(one, 1) == [Received("m2", PreVote(1, 1, 2, 3))], "it is good still"
        refused.update(shown)
        one.verify_again()
        assert await events(one, 1) == [Disconnected("m2")]
        tried = len(shown)
        async with asyncio.timeout(60):
            while len(shown) == tried:  # it comes again with the same one
                await asyncio.sleep(0.01)
        assert one.take() == []
        refused.clear()
        assert await events(one, 1) == [Connected("m2")]
