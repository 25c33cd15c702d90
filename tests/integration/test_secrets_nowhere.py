"""Secrets in real clusters: who has them, who has not, and what a lost leader changes of that."""

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from integration.conftest import RealCluster
from orca import local
from orca.client import Client
from orca.errors import OrcaError

ORCA = Path(sys.executable).parent / "orca"
PLANTED = "planted-93bd15e2"
SAYS = 'printf "%s" "$PASSWORD" | sha256sum; sha256sum <$ORCA_SECRETS/password; sleep 86400'
SERVICE = {
    "name": "says",
    "command": ["sh", "-c", SAYS],
    "env": {"PASSWORD": "${secrets.PASSWORD}"},
    "files": [{"path": "/run/secrets/password", "secret": "PASSWORD"}],
}


def orca(
    cluster: RealCluster, *words: str, stdin: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCA_")}
    kept |= {"ORCA_DATA_DIR": str(cluster.folder), "HOME": str(cluster.folder.parent)}
    done = subprocess.run(
        [str(ORCA), *words], input=stdin, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done
    return done


async def until_said(client: Client, value: str) -> None:
    """The one replica of the service has the value, in its environment and in its file."""
    wanted = [hashlib.sha256(value.encode()).hexdigest() + "  -"] * 2
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OrcaError):
                text = b"".join([chunk async for chunk in client.logs("says")]).decode()
                if text.splitlines() == wanted:
                    return
            await asyncio.sleep(0.05)


def holding(folder: Path) -> tuple[int, list[Path]]:
    """How many files there are below the folder, and those that hold what was planted."""
    seen, found = 0, []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it goes while we look
            if path.is_file():
                seen += 1
                found += [path] if PLANTED.encode() in path.read_bytes() else []
    return seen, found


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


async def test_the_command_line_sets_secrets_and_they_are_in_no_file_and_no_process_list_ev_20(
    process_cluster: RealCluster, tmp_path: Path
) -> None:
    cluster = process_cluster
    services = tmp_path / "services.json"
    services.write_text(json.dumps({"services": [SERVICE]}))
    refused = orca(cluster, "deploy", str(services), code=1)
    assert "orca secrets set PASSWORD" in refused.stdout + refused.stderr
    assert orca(cluster, "secrets", "set", "PASSWORD", stdin="", code=2).stdout == ""
    done = orca(cluster, "secrets", "set", "PASSWORD", stdin=f"{PLANTED}-one\n")
    assert done.stdout == "PASSWORD: version 1\n"
    orca(cluster, "deploy", str(services))
    async with cluster.client() as client:
        await until_said(client, f"{PLANTED}-one")
        kept = orca(cluster, "secrets", "set", "PASSWORD", "--no-roll", stdin=f"{PLANTED}-two")
        assert "still with an older version: says" in kept.stdout
        assert orca(cluster, "secrets", "usage").stdout.splitlines()[1].split() == [
            "PASSWORD", "-", "2", "default/says", "1",
        ]  # fmt: skip
        orca(cluster, "restart", "says")
        await until_said(client, f"{PLANTED}-two")
        dotenv = tmp_path / "shop.env"
        dotenv.write_text(f'# ours\nexport A="{PLANTED}\\nx"\nPASSWORD={PLANTED}-three # new\n')
        imported = orca(cluster, "secrets", "import", str(dotenv), "-p", "default")
        assert "rolled out: says" in imported.stdout
        await until_said(client, f"{PLANTED}-three")
        dotenv.unlink()
    refused = orca(cluster, "secrets", "rm", "PASSWORD", "-p", "default", code=1)
    assert "is used by says" in refused.stderr
    orca(cluster, "secrets", "rm", "A", "-p", "default")
    listed = json.loads(orca(cluster, "secrets", "list", "-o", "json").stdout)
    assert [(s["project"], s["version"]) for s in listed["secrets"]] == [(None, 2), ("default", 1)]
    orca(cluster, "secrets", "rotate-key", "--wait")
    for words in (
        ["history", "says", "-o", "json"],
        ["audit"],
        ["events", "-o", "json"],
        ["status", "says", "-o", "json"],
    ):
        assert PLANTED not in orca(cluster, *words).stdout
    seen, found = holding(cluster.folder)
    assert seen > 10
    assert found == []
    lines = command_lines()
    assert any(b"orca-worker" in line or b"orca_worker" in line for line in lines)
    assert [line for line in lines if PLANTED.encode() in line] == []


async def test_a_leader_lost_while_all_is_sealed_anew_is_not_missed_and_a_wrong_kek_is_told_ev_24(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    async with cluster.client() as client:
        for number in range(100):
            await client.set_secret(f"K{number}", f"{PLANTED} {number} " + "x" * 8000)
        await client.set_secret("PASSWORD", PLANTED)
        assert (await client.deploy([SERVICE]))["deployed"] == ["says"]
        await until_said(client, PLANTED)
        (before,) = (await cluster.service("says"))["tasks"]
        assert (await client.rotate_secrets_key())["number"] == 2
        leader = await cluster.leader()
        await cluster.kill(leader)
        async with asyncio.timeout(60):
            while (await _data_key(client)) != (2, 0):
                await asyncio.sleep(0.05)
        (after,) = (await cluster.service("says"))["tasks"]
        assert (after["id"], after["started_at"]) == (before["id"], before["started_at"])
        kek = cluster.folder / leader / "kek"
        right = kek.read_bytes()
        kek.write_bytes(bytes(32))
        with contextlib.suppress(local.CannotStart):
            await cluster.up()
        log = cluster.folder / f"{leader}.log"
        async with asyncio.timeout(60):
            while "put back the file `kek`" not in log.read_text():
                await asyncio.sleep(0.05)
            while cluster.processes[leader].is_alive():
                await asyncio.sleep(0.05)
        kek.write_bytes(right)
        await cluster.up()
        await client.set_secret("PASSWORD", f"{PLANTED}-two")
        await until_said(client, f"{PLANTED}-two")
    assert holding(cluster.folder)[1] == []


async def _data_key(client: Client) -> tuple[int, int] | None:
    try:
        found: dict[str, Any] = (await client.secrets())["data_key"]
    except OrcaError:
        return None
    return found["number"], found["left"]
