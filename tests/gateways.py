"""A gateway for workers over real TLS, with a dispatcher that only repeats."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from inprocess import free_port
from orca_common.real import real_env
from orca_master.cluster import pki
from orca_master.errors import Forbidden
from orca_master.tasks.gateway import WorkerGateway
from orca_proto import worker_pb2 as pb
from raft_tls import master_files


def pair(path: Path) -> tuple[bytes, bytes]:
    both = path.read_bytes()
    at = both.index(b"-----BEGIN PRIVATE KEY")
    return both[:at], both[at:]


class MasterCertificate:
    """What the gateway shows."""

    def __init__(self, signer: pki.Signer, folder: Path) -> None:
        self._pair = pair(Path(master_files(signer, "m1", folder)[0]))
        self._signer = signer

    def certificate_and_key(self) -> tuple[bytes, bytes]:
        return self._pair

    def authority(self) -> bytes:
        return self._signer.pem


class TrustsOne:
    """The authority is never replaced."""

    def __init__(self, signer: pki.Signer) -> None:
        self._signer = signer

    def recognized(self) -> bytes:
        return self._signer.pem

    def check(self, pem: bytes) -> str:
        return self._signer.fingerprint.hex()

    def is_trusted(self, authority: str) -> bool:
        return authority == self._signer.fingerprint.hex()

    async def keep_telling(self, node_id: str, send) -> None:
        pass

    async def until_dropped(self, authority: str) -> None:
        await asyncio.Event().wait()

    async def heard(self, node_id: str, said: pb.Trusted) -> None:
        raise AssertionError("nobody was told anything")


class Echo:
    """Welcomes a worker and repeats every report as a list of masters."""

    def __init__(self) -> None:
        self.streams = self.open = self.most_open = 0
        self.leads = True
        self.through: list[str | None] = []

    async def serve(self, node_id: str, link, *, through: str | None = None) -> bool:
        self.through.append(through)
        self.streams += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._repeat(node_id, link)
        finally:
            self.open -= 1
        return False

    async def _repeat(self, node_id: str, link) -> None:
        await link.receive()
        await link.send(pb.FromMaster(welcome=pb.Welcome(cluster=node_id)))
        while (message := await link.receive()) is not None:
            assert message.WhichOneof("body") == "report", "renewals are not the session's business"
            await link.send(pb.FromMaster(masters=pb.Masters(addresses=["echo"])))


@asynccontextmanager
async def a_gateway(
    signer: pki.Signer, folder: Path, *, removed: bool = False, masters: tuple[str, ...] = ()
) -> AsyncIterator[tuple[str, Echo]]:
    def certified(node_id: str, request: bytes) -> bytes:
        if removed:
            raise Forbidden("this node was removed from the cluster")
        return pki.issue_worker(real_env(threads=1), signer, pki.read_request(request), node_id)

    echo, address = Echo(), f"127.0.0.1:{free_port()}"
    gateway = WorkerGateway(
        echo,  # type: ignore[arg-type]
        echo,
        cluster_id="c1",
        is_master=masters.__contains__,
        certified=certified,
        trust=TrustsOne(signer),
    )
    await gateway.start(address, MasterCertificate(signer, folder))
    try:
        yield address, echo
    finally:
        await gateway.close()


async def greet(link) -> str:
    await link.send(pb.FromWorker(hello=pb.Hello(protocol=1, name="w1")))
    return str((await link.receive()).WhichOneof("body"))
