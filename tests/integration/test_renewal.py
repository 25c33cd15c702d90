"""Certificates that last less than a minute: masters and workers renew them, and what runs goes on."""

import asyncio
import datetime
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from cryptography import x509

from integration.conftest import PATIENT_SECONDS, RealCluster
from integration.test_three_masters import until_all_agree

COMMAND = ["sleep", "7654391"]
SHORT_DAYS = 0.0006
"""52 s: what stands still for fifteen is not locked out."""
RENEWALS = 2
OF_WORKER = "worker-1/identity/node.pem"


@asynccontextmanager
async def short_lived(folder: Path, *, masters: int) -> AsyncIterator[RealCluster]:
    config = folder.parent / "master.toml"
    config.write_text(f"certificate_days = {SHORT_DAYS}\n")
    cluster = RealCluster(folder, "process", 1, masters, PATIENT_SECONDS)
    cluster.flags = ["--config", str(config)]
    try:
        await cluster.up()
        yield cluster
    finally:
        await cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


def serials(cluster: RealCluster) -> dict[str, int]:
    files = {f"master-{n}": f"master-{n}/tls/master.pem" for n in range(1, cluster.masters + 1)}
    files["worker-1"] = OF_WORKER
    return {
        name: x509.load_pem_x509_certificate((cluster.folder / file).read_bytes()).serial_number
        for name, file in files.items()
    }


def is_old(cluster: RealCluster) -> bool:
    """Whether the worker's certificate leaves it little time to find another master."""
    own = x509.load_pem_x509_certificate((cluster.folder / OF_WORKER).read_bytes())
    left = own.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left.total_seconds() < SHORT_DAYS * 86400 * 0.6


def replicas() -> set[int]:
    found = psutil.process_iter(["cmdline"])
    return {process.pid for process in found if process.info["cmdline"] == COMMAND}


async def test_all_certificates_are_renewed_and_nothing_stops_cl_14(tmp_path: Path) -> None:
    async with short_lived(tmp_path / "orca", masters=3) as cluster:
        async with cluster.client() as client:
            service = {"name": "web", "command": COMMAND, "replicas": 2}
            assert (await client.deploy([service]))["errors"] == []
        before = replicas()
        assert len(before) == 2
        seen = {name: {number} for name, number in serials(cluster).items()}
        async with asyncio.timeout(300):
            while any(len(numbers) <= RENEWALS for numbers in seen.values()) or is_old(cluster):
                await asyncio.sleep(0.2)
                for name, number in serials(cluster).items():
                    seen[name].add(number)
                assert replicas() == before
        leader = await cluster.leader()
        await cluster.kill(leader)
        assert await cluster.leader() != leader
        await cluster.up()
        await until_all_agree(cluster)
        await cluster.until("web", status="running", running_replicas=2)
        assert replicas() == before
