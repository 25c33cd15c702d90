"""The cluster's authority is replaced while everything runs: masters, workers, streams, deploys."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509

from chaos.workers import WorkerProcess
from gateways import greet
from integration.conftest import RealCluster, running
from orca.client import Client
from orca.errors import OrcaError, Refused
from orca_common.real import real_env
from orca_master.http.forward import ALPN
from orca_proto.identity import MASTER_NAME
from orca_proto.join import parse
from orca_proto.trust import fingerprint, fingerprints, issuer
from orca_worker import ports
from orca_worker.agent import Agent
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import Membership, join, saved
from orca_worker.fencing import Fencing
from orca_worker.grpc_link import GrpcConnector
from orca_worker.guarding import ProcessGuardian
from orca_worker.prober import NetworkProber
from orca_worker.session import Facts, Session

COMMAND = ["sleep", "7654393"]
BARE_WORKERS = 18
SECONDS = 120.0
ESTABLISHED = "01"


def replicas() -> set[int]:
    found = psutil.process_iter(["cmdline"])
    return {process.pid for process in found if process.info["cmdline"] == COMMAND}


def connections(cluster: RealCluster) -> set[tuple[str, str]]:
    """That stand, on the masters' ports for each other and for workers; as both their addresses."""
    masters = [p for name, p in cluster.processes.items() if name.startswith("master")]
    listening = [str(address) for master in masters for address in (master.raft, master.grpc)]
    ports = {int(address.rpartition(":")[2]) for address in listening}
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return {
        (local, remote)
        for _, local, remote, state, *_ in lines
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) in ports
    }


def issued_by(own: Path, authorities: Path) -> tuple[str | None, tuple[str, ...]]:
    """Fingerprints: of the authority that has issued this certificate, and of all that are trusted."""
    trusted = authorities.read_bytes()
    found = issuer(
        x509.load_pem_x509_certificate(own.read_bytes()), x509.load_pem_x509_certificates(trusted)
    )
    return None if found is None else fingerprint(found), fingerprints(trusted)


class BareWorkers:
    """Workers with real certificates and streams that run nothing, in this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = AsyncExitStack()

    async def start(self, api: str, token: str, count: int) -> None:
        group = await self._stack.enter_async_context(_cancelled_at_the_end())
        for number in range(count):
            folder = self._folder / f"bare-{number}"
            member = await join(api, parse(token), f"bare-{number}", folder)
            env = real_env(threads=1)
            certificate = NodeCertificate(env, folder, member)
            connector = GrpcConnector(
                member.masters, certificate, random=env.random, keep=lambda _: None
            )
            agent = _agent(member, folder)
            facts = Facts(folder.name, "0", "127.0.0.1", "linux", "x", {}, 1 << 30, 1000)
            group.create_task(agent.run())
            group.create_task(Session(env, agent, connector, facts).run())
            group.create_task(certificate.stay(connector))

    async def stop(self) -> None:
        await self._stack.aclose()

    def certificates(self) -> list[tuple[str | None, tuple[str, ...]]]:
        folders = sorted(self._folder.glob("bare-*"))
        return [issued_by(folder / "node.pem", folder / "ca.pem") for folder in folders]


@asynccontextmanager
async def _cancelled_at_the_end() -> AsyncIterator[asyncio.TaskGroup]:
    class _End(Exception):
        pass

    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            yield group
            raise _End


def _agent(member: Membership, folder: Path) -> Agent:
    env = real_env(threads=1)
    fencing = Fencing(env, ProcessGuardian(env, str(folder / "fence")))
    return Agent(env, {}, NetworkProber(), fencing, cluster=member.cluster_id, node=member.node_id)


class Load:
    """Deploys, one after the other; `refused` are those that failed."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster
        self.done = 0
        self.refused: list[str] = []

    async def run(self) -> None:
        async with self._cluster.client() as client:
            while True:
                await self._once(client)
                await asyncio.sleep(0.05)

    async def _once(self, client: Client) -> None:
        command = ["true", str(self.done)]
        service = {"name": "load", "command": command, "replicas": 0}
        try:
            await client.deploy([service], wait=False)
            await client.status()
            self.done += 1
        except OrcaError as error:
            self.refused.append(str(error))


async def rotation_until(client: Client, is_so: Any) -> dict[str, Any]:
    """The state of the authority, once it is so. A leader that is lost meanwhile is waited for."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                with suppress(OrcaError):
                    found = await client.authority()
                    if is_so(found):
                        return found
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"it stays so: {found}") from None


def missing(found: dict[str, Any]) -> list[str]:
    return [each["name"] for each in found["rotation"]["missing"]]


async def until_ready(client: Client, count: int) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            nodes = (await client.cluster_info())["nodes"]
            if sum(node["connected"] for node in nodes) == count:
                return
            await asyncio.sleep(0.1)


async def test_the_authority_is_replaced_under_load_and_the_old_one_is_refused_cl_15(
    tmp_path: Path,
) -> None:
    """With twenty workers and one that is away; the leader is killed in the middle."""
    bare = BareWorkers(tmp_path)
    async with running(tmp_path / "orca", "process", 2, masters=3) as cluster:
        away = WorkerProcess(tmp_path, "away", "--runtime", "process")
        try:
            await _rotate_under_load(cluster, bare, away)
        finally:
            away.kill()
            away.clear()
            await bare.stop()


async def _rotate_under_load(cluster: RealCluster, bare: BareWorkers, away: WorkerProcess) -> None:
    async with cluster.client() as client:
        away.start(cluster.apis, token=await client.join_token())
        await until_ready(client, 3)
        await client.drain("away")
        away.kill()
        await bare.start(cluster.api, await client.join_token(uses=BARE_WORKERS), BARE_WORKERS)
        await until_ready(client, 2 + BARE_WORKERS)
        web = {"name": "web", "command": COMMAND, "replicas": 4}
        assert (await client.deploy([web]))["errors"] == []
        before, load = replicas(), Load(cluster)
        assert len(before) == 4
        kept = _copy_of_old(cluster)
        first = connections(cluster)
        assert len(first) >= 3 + 2 + BARE_WORKERS, "between masters, and of workers"
        old = (await client.authority())["fingerprint"]
        early = await client.join_token()
        working = asyncio.ensure_future(load.run())
        try:
            begun = await client.rotate_authority()
            assert begun["fingerprint"] == old, "the old one signs until everybody trusts both"
            found = await rotation_until(client, lambda found: missing(found) == ["away"])
            assert found["rotation"]["step"] == "trusting"
            with pytest.raises(Refused, match=r"step 1 of 2 \(trusting\) waits for away") as again:
                await client.rotate_authority()
            assert again.value.status == 409
            assert load.refused == []
            await _kill_the_leader(cluster, load)
            assert first & connections(cluster), (
                "those that lasted until now began with the old one"
            )
            new = await _force_to_the_end(client)
            async with asyncio.timeout(SECONDS):
                while first & connections(cluster):
                    await asyncio.sleep(0.1)
            await until_ready(client, 2 + BARE_WORKERS)
            assert new != old
            assert load.refused == []
            done = load.done
            async with asyncio.timeout(SECONDS):
                while load.done < done + 3:
                    await asyncio.sleep(0.05)
        finally:
            working.cancel()
        assert replicas() == before, "nothing that runs was touched"
        assert set(bare.certificates()) == {(new, (new,))}
        await _the_old_one_is_refused(cluster, away, kept, early)


def _copy_of_old(cluster: RealCluster) -> Path:
    kept = cluster.folder / "kept"
    kept.mkdir()
    shutil.copytree(cluster.folder / "worker-1" / "identity", kept / "identity")
    shutil.copytree(cluster.folder / "master-2" / "tls", kept / "tls")
    return kept


async def _kill_the_leader(cluster: RealCluster, load: Load) -> None:
    """In the middle of it; what was asked meanwhile may have been refused, nothing later is."""
    leader = await cluster.leader()
    await cluster.kill(leader)
    assert await cluster.leader() != leader
    await cluster.up()
    load.refused.clear()


async def _force_to_the_end(client: Client) -> str:
    """Returns the fingerprint of the new authority."""
    found = await rotation_until(
        client, lambda found: missing(found) == ["away"] and not found["rotation"]["forced"]
    )
    new = found["rotation"]["new"]
    await client.rotate_authority(force=True)
    found = await rotation_until(client, lambda found: found["rotation"] is None)
    assert (found["fingerprint"], found["left_behind"]) == (new, ["away"])
    return str(new)


async def _the_old_one_is_refused(
    cluster: RealCluster, away: WorkerProcess, kept: Path, early: str
) -> None:
    for name in ("master-1", "master-2", "master-3"):
        tls = cluster.folder / name / "tls"
        shown, trusted = issued_by(tls / "master.pem", tls / "ca.pem")
        assert (shown,) == trusted
    now = cluster.folder / "worker-1" / "identity"
    await _is_told_what_to_do(kept / "identity", now / "ca.pem")
    await _is_no_master(cluster, kept / "tls" / "master.pem", now / "ca.pem")
    with pytest.raises(Exception, match="its CA was replaced since"):
        await join(cluster.api, parse(early), "late", kept / "late")
    away.start(cluster.apis)
    async with asyncio.timeout(SECONDS):
        while "does not trust: if the cluster's authority was replaced" not in away.said:
            await asyncio.sleep(0.1)
    away.kill()
    async with cluster.client() as client:
        nodes = {node["name"]: node["id"] for node in (await client.cluster_info())["nodes"]}
        away.start(cluster.apis, token=await client.join_token())
        await until_ready(client, 3 + BARE_WORKERS)
        after = {node["name"]: node["id"] for node in (await client.cluster_info())["nodes"]}
        assert after == nodes, "it is the node that it was"


async def _is_told_what_to_do(identity: Path, authorities: Path) -> None:
    """A worker that trusts the new authority and shows a certificate of the old one."""
    shutil.copy(authorities, identity / "ca.pem")
    member = saved(identity)
    assert member is not None
    env = real_env(threads=1)
    held = NodeCertificate(env, identity, member)
    connector = GrpcConnector(member.masters[:1], held, random=env.random, keep=print)
    async with connector.connect() as link:
        with pytest.raises(ports.Refused, match=r"was replaced .*`orca nodes token`.*--join"):
            await greet(link)


async def _is_no_master(cluster: RealCluster, own: Path, authorities: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_cert_chain(own)
    tls.load_verify_locations(authorities)
    tls.set_alpn_protocols([ALPN])
    host, port = str(cluster.processes["master-1"].raft).split(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=tls, server_hostname=MASTER_NAME
    )
    try:
        with suppress(OSError):
            writer.write(b"GET /internal/v1/keys HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(SECONDS):
                assert await reader.read() == b""
    finally:
        writer.transport.abort()
