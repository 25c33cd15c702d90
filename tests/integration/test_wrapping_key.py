"""The key-encryption key is replaced in real clusters: masters are killed, are away, join, go back."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import RealCluster
from integration.test_secrets_nowhere import SERVICE, orca, until_said
from orca import local
from orca.client import Client
from orca.errors import OrcaError
from orca_master.identity.wrapping.keyring import WrappingKey

SECONDS = 120.0
LOGINS = 200
"""So many that it takes some transactions to wrap them anew."""
AFTER_SECONDS = (0.0, 0.02, 0.1)
"""When the leader is killed, after the change has been accepted: before, while, or after it is done."""


async def fill(client: Client) -> None:
    for number in range(LOGINS):
        await client.registry_login(f"r{number}.example", "me", f"password {number}", check=False)
    await client.set_secret("PASSWORD", "one")
    assert (await client.deploy([SERVICE]))["deployed"] == ["says"]
    await until_said(client, "one")


def keys(cluster: RealCluster, *masters: str) -> set[str]:
    """Ids of what these masters have on their disks."""
    files = [file for name in masters for file in (cluster.folder / name).glob("kek*")]
    return {WrappingKey(file.read_bytes()).id for file in files}


async def until_replaced(client: Client, old: str) -> str:
    """By another key than `old`, and no master lacks it. Returns its id."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                with contextlib.suppress(OrcaError):
                    found = await client.wrapping_key()
                    is_other = found["current"] != old
                    if is_other and found["step"] == "done" and not found["missing"]:
                        return str(found["current"])
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it stays so: {found}") from None


async def says_next(client: Client, value: str) -> None:
    """Whoever leads opens the secrets' data key for it, and wraps nothing with an old one."""
    await client.set_secret("PASSWORD", value)
    await until_said(client, value)


MASTERS = ("master-1", "master-2", "master-3")


async def test_masters_are_killed_are_away_and_join_while_the_key_is_replaced(
    three_masters: RealCluster, tmp_path: Path
) -> None:
    cluster = three_masters
    async with cluster.client() as client:
        await fill(client)
        (current,) = keys(cluster, *MASTERS)
        for number, seconds in enumerate(AFTER_SECONDS):
            leader = await cluster.leader()
            assert (await client.rotate_wrapping_key())["step"] == "handing"
            await asyncio.sleep(seconds)
            await cluster.kill(leader)
            await cluster.up()
            current = await until_replaced(client, current)
            assert keys(cluster, *MASTERS) == {current}
            await says_next(client, f"killed {number}")
        await _one_is_away_for_two_changes(cluster, client, current)
        await _one_joins_meanwhile(cluster, client)
    for name in MASTERS:
        kept = cluster.folder / name / "kek"
        assert kept.stat().st_mode & 0o777 == 0o600
        raw = kept.read_bytes()
        files = [file for file in cluster.folder.rglob("*") if file.is_file()]
        assert [f for f in files if raw in f.read_bytes() and f.name != "kek"] == []


async def _one_is_away_for_two_changes(cluster: RealCluster, client: Client, old: str) -> None:
    """It starts with a key that opens nothing any more, and can lead after."""
    leader = await cluster.leader()
    away = next(name for name in MASTERS if name != leader)
    others = [name for name in MASTERS if name != away]
    await cluster.kill(away)
    current = old
    for _ in range(2):
        done = await asyncio.to_thread(
            orca, cluster, "secrets", "rotate-key", "--wrapping", "--wait"
        )
        assert f"master {away}: is not connected; it gets the key when it is back" in done.stdout
        assert keys(cluster, *others) != {current}
        (current,) = keys(cluster, *others)
    assert keys(cluster, away) == {old}
    await cluster.up()
    assert await until_replaced(client, old) == current
    assert keys(cluster, *MASTERS) == {current}
    await client.transfer(away)
    await says_next(client, "the one that was away leads")


async def _one_joins_meanwhile(cluster: RealCluster, client: Client) -> None:
    """It is given the key that wraps at the time, and gets the other one when it is a member."""
    (old,) = keys(cluster, *MASTERS)
    cluster.masters = 4
    await client.rotate_wrapping_key()
    await cluster.up()
    current = await until_replaced(client, old)
    assert keys(cluster, *MASTERS, "master-4") == {current}
    await client.transfer("master-4")
    await says_next(client, "the one that joined leads")


def put_back(source: Path, target: Path) -> None:
    """The state of a copy, without the key."""
    for name in ("log", "raft", "history.db"):
        found = target / name
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
        kept = source / name
        if kept.is_dir():
            shutil.copytree(kept, found)
        elif kept.exists():
            shutil.copy(kept, found)


async def test_a_copy_from_before_needs_the_key_from_before_and_says_so(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    cluster, folder, kept = process_cluster, process_cluster.folder / "master-1", tmp_path / "kept"
    async with cluster.client() as client:
        await fill(client)
    await cluster.down()
    shutil.copytree(folder, kept)
    await cluster.up()
    said = await asyncio.to_thread(orca, cluster, "secrets", "rotate-key", "--wrapping", "--wait")
    new = WrappingKey((folder / "kek").read_bytes()).id
    assert said.stdout.startswith(f"key {new} wraps, since ")
    status = await asyncio.to_thread(
        orca, cluster, "secrets", "rotate-key", "--wrapping", "--status", "-o", "json"
    )
    assert json.loads(status.stdout)["current"] == new
    async with cluster.client() as client:
        await says_next(client, "two")
    await cluster.down()
    put_back(kept, folder)
    with pytest.raises(local.CannotStart):
        await cluster.up()
    told = (cluster.folder / "master-1.log").read_text()
    assert f"the key-encryption key ({new}) does not fit this cluster's state" in told
    assert "put back the file `kek` that belongs to this data folder, or to the backup" in told
    shutil.copy(kept / "kek", folder / "kek")
    await cluster.up()
    async with cluster.client() as client:
        await says_next(client, "three")
