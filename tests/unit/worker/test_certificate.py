"""A worker renews its certificate over its stream, and says what to do about one that has expired."""

import asyncio
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateways import a_gateway, greet, pair
from orca_common.env import Clock, Env
from orca_common.real import real_env
from orca_master.cluster import pki
from orca_proto import worker_pb2 as pb
from orca_proto.identity import bearer_of_client
from orca_proto.join import JoinToken
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import keep_certificate, saved
from orca_worker.grpc_link import GrpcConnector
from orca_worker.ports import Refused
from raft_tls import an_authority, worker_files


def held_by(signer: pki.Signer, node: str, folder: Path, env: Env | None = None) -> NodeCertificate:
    """As after joining: `folder` is the worker's own."""
    folder.mkdir(exist_ok=True)
    certificate, key = pair(Path(worker_files(signer, node, folder)[0]))
    keep_certificate(folder, certificate, key, signer.pem)
    (folder / "node.json").write_text(f'{{"node_id": "{node}", "cluster_id": "c1", "masters": []}}')
    member = saved(folder)
    assert member is not None
    return NodeCertificate(env or real_env(threads=1), folder, member)


def serial(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


@dataclass
class Ahead:
    """The real clock, so many seconds ahead."""

    real: Clock
    seconds: float = 0.0

    def now(self) -> float:
        return self.real.now() + self.seconds

    def monotonic(self) -> float:
        return self.real.monotonic()

    def thread_time(self) -> float:
        return self.real.thread_time()


async def renewed(held: NodeCertificate, connector: GrpcConnector, link) -> None:
    """Once; the stream goes on meanwhile, and after."""
    before = serial(held.certificate)
    staying = asyncio.ensure_future(held.stay(connector))
    async with asyncio.timeout(60):
        while serial(held.certificate) == before:
            await repeated(link)
    staying.cancel()
    await repeated(link)


async def repeated(link) -> None:
    await link.send(pb.FromWorker(report=pb.Report()))
    assert (await link.receive()).masters.addresses == ["echo"]


async def test_a_certificate_is_renewed_over_a_stream_that_goes_on_cl_14(tmp_path: Path) -> None:
    signer = dataclasses.replace(an_authority(), leaf_seconds=3600.0)
    env = real_env(threads=1)
    clock = Ahead(env.clock)
    held = held_by(signer, "w1", tmp_path / "w1", dataclasses.replace(env, clock=clock))
    joined = held.key
    async with a_gateway(signer, tmp_path) as (address, echo):
        connector = GrpcConnector([address], held, random=real_env(threads=1).random, keep=print)
        async with connector.connect() as link:
            assert await greet(link) == "welcome"
            clock.seconds = 2500.0
            await renewed(held, connector, link)
            await renewed(held, connector, link)  # as its clock is still so far ahead
            assert echo.streams == 1
        async with connector.connect() as link:
            assert await greet(link) == "welcome", "what was renewed is shown next"
    member = saved(tmp_path / "w1")
    assert member is not None
    assert (member.certificate, member.key) == (held.certificate, held.key)
    assert held.key != joined, "each certificate has a key of its own"
    assert bearer_of_client(held.certificate).id == "w1"
    key = load_pem_private_key(held.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == x509.load_pem_x509_certificate(held.certificate).public_key()


async def test_a_certificate_is_not_renewed_before_two_thirds_of_its_life_cl_14(
    tmp_path: Path,
) -> None:
    signer = dataclasses.replace(an_authority(), leaf_seconds=3600.0)
    env = real_env(threads=1)
    clock = Ahead(env.clock, 2000.0)
    held = held_by(signer, "w1", tmp_path / "w1", dataclasses.replace(env, clock=clock))
    answering = Answering(held.certificate, signer.pem)
    staying = asyncio.ensure_future(held.stay(answering))
    await asyncio.sleep(0.1)
    assert not answering.asked.is_set()
    staying.cancel()


async def test_an_expired_certificate_is_refused_with_what_to_do_cl_14(tmp_path: Path) -> None:
    signer = an_authority()
    held = held_by(dataclasses.replace(signer, leaf_seconds=1.0), "w1", tmp_path / "w1")
    async with asyncio.timeout(60):
        while held.expired() is None:
            await asyncio.sleep(0.1)
    async with a_gateway(signer, tmp_path) as (address, echo):
        async with GrpcConnector(
            [address], held, random=real_env(threads=1).random, keep=print
        ).connect() as link:
            with pytest.raises(Refused, match=r"has expired .* `orca nodes token`.*--join"):
                await greet(link)
        assert echo.streams == 0


async def test_a_removed_node_gets_no_new_certificate_cl_14(tmp_path: Path) -> None:
    signer = an_authority()
    held = held_by(signer, "w1", tmp_path / "w1")
    async with a_gateway(signer, tmp_path, removed=True) as (address, _):
        connector = GrpcConnector([address], held, random=real_env(threads=1).random, keep=print)
        with pytest.raises(ConnectionError, match="not connected"):
            await connector.certified(b"too early")
        async with connector.connect() as link:
            assert await greet(link) == "welcome"
            asking = asyncio.ensure_future(connector.certified(b"not looked at"))
            reading = asyncio.ensure_future(link.receive())
            with pytest.raises(Refused, match="was removed from the cluster"):
                await asking
            reading.cancel()


class Answering:
    """A master that answers with this certificate and these authorities, whatever it is asked."""

    def __init__(self, certificate: bytes, authorities: bytes) -> None:
        self._answer = certificate, authorities
        self.asked = asyncio.Event()

    async def certified(self, request: bytes) -> tuple[bytes, bytes]:
        self.asked.set()
        return self._answer


@pytest.mark.parametrize("given", ["rubbish", "another key", "another node"])
async def test_what_is_not_the_nodes_certificate_is_not_kept(given: str, tmp_path: Path) -> None:
    signer = an_authority()
    held = held_by(dataclasses.replace(signer, leaf_seconds=0.5), "w1", tmp_path / "w1")
    before = (tmp_path / "w1" / "node.pem").read_bytes()
    other = held_by(signer, "w2" if given == "another node" else "w1", tmp_path / "other")
    answering = Answering(b"" if given == "rubbish" else other.certificate, signer.pem)
    staying = asyncio.ensure_future(held.stay(answering))
    async with asyncio.timeout(60):
        await answering.asked.wait()
        answering.asked.clear()
        await answering.asked.wait()  # it is asked for again, so the first answer was not taken
    staying.cancel()
    assert (tmp_path / "w1" / "node.pem").read_bytes() == before


async def test_a_certificate_of_another_authority_is_not_taken(tmp_path: Path) -> None:
    signer, foreign = an_authority(), an_authority()
    held = held_by(dataclasses.replace(signer, leaf_seconds=0.5), "w1", tmp_path / "w1")
    asked = asyncio.Event()

    class Lying:
        async def certified(self, request: bytes) -> tuple[bytes, bytes]:
            asked.set()
            wanted = pki.read_request(request)
            return pki.issue_worker(real_env(threads=1), foreign, wanted, "w1"), signer.pem

    before = held.certificate
    staying = asyncio.ensure_future(held.stay(Lying()))
    async with asyncio.timeout(60):
        await asked.wait()
        asked.clear()
        await asked.wait()
    staying.cancel()
    assert held.certificate == before


class Certifying:
    """A master whose authority is this one; `told` is what the worker says that it has."""

    def __init__(self, signer: pki.Signer, authorities: bytes) -> None:
        self._signer = signer
        self._authorities = authorities
        self.told: asyncio.Queue[pb.Trusted] = asyncio.Queue()

    async def certified(self, request: bytes) -> tuple[bytes, bytes]:
        wanted = pki.read_request(request)
        env = real_env(threads=1)
        return pki.issue_worker(env, self._signer, wanted, "w1"), self._authorities

    async def tell(self, trusted: pb.Trusted) -> None:
        self.told.put_nowait(trusted)


async def test_a_node_trusts_both_and_takes_a_certificate_of_the_one_that_signs_cl_15(
    tmp_path: Path,
) -> None:
    old, new = an_authority(), an_authority()
    first, second = old.fingerprint.hex(), new.fingerprint.hex()
    held = held_by(old, "w1", tmp_path / "w1")
    master = Certifying(new, new.pem + old.pem)
    staying = asyncio.ensure_future(held.stay(master))
    said = held.trust(pb.Trust(authorities=old.pem + new.pem, signs=first))
    assert (set(said.authorities), said.shows) == ({first, second}, first)
    assert (tmp_path / "w1" / "ca.pem").read_bytes() == old.pem + new.pem, "it is kept"
    said = held.trust(pb.Trust(authorities=new.pem + old.pem, signs=second, within_seconds=0.5))
    assert said.shows == first
    async with asyncio.timeout(60):
        assert (await master.told.get()).shows == second
    staying.cancel()
    said = held.trust(pb.Trust(authorities=new.pem, signs=second))
    assert (list(said.authorities), said.shows) == ([second], second)
    member = saved(tmp_path / "w1")
    assert member is not None
    assert (member.ca, member.certificate) == (new.pem, held.certificate)


def test_a_node_joins_again_for_a_token_of_an_authority_of_which_it_has_no_certificate_cl_15(
    tmp_path: Path,
) -> None:
    old, new = an_authority(), an_authority()
    held = held_by(old, "w1", tmp_path / "w1")
    assert held.knows(JoinToken(old.fingerprint, bytes(32)))
    assert not held.knows(JoinToken(new.fingerprint, bytes(32)))
    held.trust(pb.Trust(authorities=old.pem + new.pem, signs=new.fingerprint.hex()))
    assert not held.knows(JoinToken(new.fingerprint, bytes(32))), "it only trusts that one"


@pytest.mark.parametrize("told", [b"", b"rubbish"])
def test_what_is_no_authority_is_not_kept_cl_15(told: bytes, tmp_path: Path) -> None:
    signer = an_authority()
    held = held_by(signer, "w1", tmp_path / "w1")
    with pytest.raises(ValueError):
        held.trust(pb.Trust(authorities=told, signs="f" * 64))
    assert (tmp_path / "w1" / "ca.pem").read_bytes() == signer.pem
