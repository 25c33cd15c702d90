"""Bytes that are no messages, over real TLS: their stream ends, and nobody else's."""

import asyncio
import dataclasses
import random
from pathlib import Path

import grpc

from gateways import a_gateway, greet, pair
from orca_common.real import real_env
from orca_proto import worker_pb2 as pb
from orca_proto.identity import MASTER_NAME
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import Membership
from orca_worker.grpc_link import GrpcConnector
from raft_tls import an_authority, worker_files

STREAMS = 60
METHOD = "/orca.worker.v1.Workers/Session"


async def rubbish(channel: grpc.aio.Channel, chance: random.Random, *, introduced: bool) -> None:
    call = channel.stream_stream(METHOD)()
    try:
        async with asyncio.timeout(60):
            if introduced:
                hello = pb.FromWorker(hello=pb.Hello(protocol=1, name="w2"))
                await call.write(hello.SerializeToString())
                await call.read()
            for _ in range(3):
                await call.write(b"\x0a\xff" + chance.randbytes(chance.randrange(200)))
            while await call.read() is not grpc.aio.EOF:
                pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # it was ended
    finally:
        call.cancel()


async def test_what_is_no_message_ends_its_own_stream_only_cl_21(tmp_path: Path) -> None:
    signer = dataclasses.replace(an_authority(), leaf_seconds=3600.0)
    certificate, key = pair(Path(worker_files(signer, "w1", tmp_path)[0]))
    member = Membership("w1", "c1", [], signer.pem, certificate, key)
    held = NodeCertificate(real_env(threads=1), tmp_path, member)
    other, other_key = pair(Path(worker_files(signer, "w2", tmp_path)[0]))
    credentials = grpc.ssl_channel_credentials(signer.pem, other_key, other)
    options = [("grpc.ssl_target_name_override", MASTER_NAME)]
    chance = random.Random(21)
    async with a_gateway(signer, tmp_path) as (address, echo):
        async with GrpcConnector(
            [address], held, random=real_env(threads=1).random, keep=print
        ).connect() as link:
            assert await greet(link) == "welcome"
            async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
                for number in range(STREAMS):
                    await rubbish(channel, chance, introduced=number % 2 == 0)
            await link.send(pb.FromWorker(report=pb.Report()))
            received = await link.receive()
            assert received is not None
            assert received.masters.addresses == ["echo"]
        assert echo.streams == STREAMS + 1
