"""Relays at the leader, over real TLS: who may open one, and how they end."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from gateways import MasterCertificate, a_gateway, pair
from orca_master.tasks.relays import GrpcRelays
from orca_proto import worker_pb2 as pb
from raft_tls import an_authority, worker_files


class WorkerCertificate(MasterCertificate):
    """Shown as if it were a master's."""

    def __init__(self, signer, folder: Path) -> None:
        super().__init__(signer, folder)
        self._pair = pair(Path(worker_files(signer, "w1", folder)[0]))


@pytest.fixture
def signer():
    return dataclasses.replace(an_authority(), leaf_seconds=3600.0)


async def test_a_master_brings_the_streams_of_its_workers(signer, tmp_path: Path) -> None:
    async with a_gateway(signer, tmp_path, masters=("m1",)) as (address, echo):
        relays = GrpcRelays(lambda _: address, MasterCertificate(signer, tmp_path))
        async with (
            relays.open("m9", "one") as one,
            relays.open("m9", "two") as two,
            asyncio.timeout(60),
        ):
            for onward, node in ((one, "one"), (two, "two")):
                await onward.send(pb.FromWorker(hello=pb.Hello(protocol=1)))
                welcome = await onward.receive()
                assert welcome is not None
                assert welcome.welcome.cluster == node
        assert echo.through == ["m1", "m1"]


async def test_only_a_master_that_has_not_left_may_open_one(signer, tmp_path: Path) -> None:
    async with a_gateway(signer, tmp_path, masters=("m2",)) as (address, echo):
        for shown in (WorkerCertificate(signer, tmp_path), MasterCertificate(signer, tmp_path)):
            relays = GrpcRelays(lambda _: address, shown)
            with pytest.raises(ConnectionError, match="which is no master"):
                async with relays.open("m9", "one"):
                    raise AssertionError("it was opened")
        assert echo.streams == 0


async def test_who_does_not_lead_takes_none(signer, tmp_path: Path) -> None:
    async with a_gateway(signer, tmp_path, masters=("m1",)) as (address, echo):
        echo.leads = False
        relays = GrpcRelays(lambda _: address, MasterCertificate(signer, tmp_path))
        with pytest.raises(ConnectionError, match="does not lead"):
            async with relays.open("m9", "one"):
                raise AssertionError("it was opened")


async def test_where_nobody_listens_is_a_connection_error(signer, tmp_path: Path) -> None:
    for address in (None, "127.0.0.1:1"):
        relays = GrpcRelays(lambda _, at=address: at, MasterCertificate(signer, tmp_path))
        with pytest.raises(ConnectionError):
            async with relays.open("m9", "one"):
                raise AssertionError("it was opened")
