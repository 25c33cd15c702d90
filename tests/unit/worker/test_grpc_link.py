"""The worker's end of the stream: to whom it talks, and to whom it does not."""

from pathlib import Path

import grpc
import pytest

from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import Membership
from orca_worker.grpc_link import GrpcConnector
from raft_tls import an_authority, master_files, worker_files


class Impostor(rpc.WorkersServicer):
    def __init__(self) -> None:
        self.heard = 0

    async def Session(self, request_iterator, context):
        async for _ in request_iterator:
            self.heard += 1
            yield pb.FromMaster()


def pem_of(own: str) -> tuple[bytes, bytes]:
    """(certificate, key)."""
    both = Path(own).read_bytes()
    at = both.index(b"-----BEGIN PRIVATE KEY")
    return both[:at], both[at:]


@pytest.mark.parametrize("shown", ["worker", "master of another cluster", "master"])
async def test_a_worker_talks_to_masters_of_its_cluster_only_cl_24(
    shown: str, tmp_path: Path
) -> None:
    authority, foreign = an_authority(), an_authority()
    files = {
        "worker": lambda: worker_files(authority, "w2", tmp_path),
        "master of another cluster": lambda: master_files(foreign, "m1", tmp_path),
        "master": lambda: master_files(authority, "m1", tmp_path),
    }
    certificate, key = pem_of(files[shown]()[0])
    server, impostor = grpc.aio.server(), Impostor()
    rpc.add_WorkersServicer_to_server(impostor, server)
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    own, own_key = pem_of(worker_files(authority, "w1", tmp_path)[0])
    member = Membership("w1", "c1", [], authority.pem, own, own_key)
    held = NodeCertificate(real_env(threads=1), tmp_path, member)
    connector = GrpcConnector(
        [f"127.0.0.1:{port}"], held, random=real_env(threads=1).random, keep=print
    )
    try:
        async with connector.connect() as link:
            hello = pb.FromWorker(hello=pb.Hello(protocol=1, name="w1"))
            if shown == "master":
                await link.send(hello)
                assert await link.receive() is not None
            else:
                with pytest.raises(ConnectionError):
                    await link.send(hello)
    finally:
        await server.stop(None)
    assert impostor.heard == (shown == "master")
