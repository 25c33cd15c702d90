"""The key-encryption key is replaced on a master alone; several are in the integration tests."""

import asyncio
import base64
import shutil
from pathlib import Path
from typing import Any

from forges import PUSHES, SECRET, body_of, signed
from inprocess import InProcess, in_process
from orca_common.real import real_env
from orca_master.cluster import pki
from orca_master.cluster.model import AUTHORITY, CLUSTER
from orca_master.cluster.wrapping import operations
from orca_master.identity.model import DEFAULT_TENANT, Role
from orca_master.identity.registries.accounts import Accounts
from orca_master.identity.registries.model import LOGINS
from orca_master.identity.secrets.operations import current_of
from orca_master.identity.secrets.vault import Vault
from orca_master.identity.wrapping.keyring import Keyring, WrappingKey
from orca_master.identity.wrapping.model import the_wrapping

KEY = "/api/v1/cluster/wrapping-key"
LOGINS_KEPT = 60
"""More than are wrapped anew at once."""


async def fill(cluster: InProcess) -> None:
    """Something of all that is wrapped."""
    for number in range(3):
        body = {"value": f"value {number}"}
        assert (await cluster.call("PUT", f"/api/v1/secrets/K{number}", body)).status == 200
    for number in range(LOGINS_KEPT):
        account = {"username": "me", "password": f"password {number}", "check": False}
        answer = await cluster.call("PUT", f"/api/v1/registries/r{number}.example", account)
        assert answer.status == 200, answer.json
    await cluster.deploy({"name": "web", "replicas": 0})
    hook = {
        "forge": "github",
        "repo": "shop/web",
        "service_name": "web",
        "image": "app:{short_sha}",
    }
    hook["secret"] = SECRET
    answer = await cluster.call("POST", "/api/v1/webhooks", hook)
    assert answer.status == 201, answer.json


def opened(cluster: InProcess, folder: Path) -> None:
    """Everything opens with what is in `kek` alone."""
    env, state = real_env(threads=1), cluster.core.store.state
    keyring = Keyring(env, [(folder / "kek").read_bytes()])
    for number in range(3):
        row = current_of(state, DEFAULT_TENANT, "", f"K{number}")
        assert row is not None
        assert Vault(env, keyring).open(state, row) == f"value {number}".encode()
    found = {Accounts(keyring).open(login).password for login in state.scan(LOGINS)}
    assert found == {f"password {number}" for number in range(LOGINS_KEPT)}
    (named,), authority = list(state.scan(CLUSTER)), state.get(AUTHORITY, "ca")
    assert authority is not None
    pki.open_authority(authority, named.id, keyring)


async def push(cluster: InProcess) -> int:
    body = body_of(PUSHES["github"])
    headers = signed("github", body, at=cluster.core.env.now())
    path = "/api/v1/webhooks/github"
    return (await cluster.call("POST", path, token=None, data=body, headers=headers)).status


async def until_done(cluster: InProcess) -> dict[str, Any]:
    async with cluster.waiting():
        while True:
            found: dict[str, Any] = (await cluster.call("GET", KEY)).json
            if found["step"] == "done" and not found["missing"]:
                return found
            await asyncio.sleep(0.02)


async def test_all_is_wrapped_anew_and_the_old_key_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "master"
    async with in_process(folder) as cluster:
        await fill(cluster)
        old = (folder / "kek").read_bytes()
        shown = (await cluster.call("GET", KEY)).json
        assert (shown["current"], shown["step"], shown["since"]) == (
            WrappingKey(old).id,
            "done",
            None,
        )
        assert await push(cluster) == 202
        begun = await cluster.call("POST", f"{KEY}/rotate")
        assert (begun.status, begun.json["step"]) == (202, "handing")
        again = await cluster.call("POST", f"{KEY}/rotate")
        assert (again.status, "replaced already" in again.json["error"]) == (409, True)
        done = await until_done(cluster)
        new = (folder / "kek").read_bytes()
        assert done["current"] == WrappingKey(new).id != WrappingKey(old).id
        assert not (folder / "kek.next").exists()
        opened(cluster, folder)
        assert await push(cluster) in (200, 202)
        trail = (
            await cluster.call("GET", "/api/v1/audit", params={"resource": "wrapping-key"})
        ).json
        said = [event["action"] for event in trail["events"]]
        assert said == [f"wrapping-key.{verb}" for verb in ("rotated", "wrap", "rotate")]
        assert (await cluster.call("POST", "/api/v1/cluster/authority/rotate")).status == 202
        assert (await cluster.call("POST", f"{KEY}/rotate")).status == 202
        await until_done(cluster)
        opened(cluster, folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    for key in (old, new):
        shown_as = (key, base64.b64encode(key), key.hex().encode())
        assert [f for f in files if any(each in f.read_bytes() for each in shown_as)] == []
    async with in_process(folder) as cluster:
        opened(cluster, folder)


async def test_wherever_it_stops_it_goes_on_and_everything_opens(tmp_path: Path) -> None:
    """Its process ends after the first commit of the change, after the second, …"""
    first = tmp_path / "first"
    async with in_process(first, with_node=False) as cluster:
        await fill(cluster)
    was_cut = 0
    for commits in range(1, 40):
        folder = tmp_path / str(commits)
        shutil.copytree(first, folder)
        async with in_process(folder, with_node=False) as cluster:
            with cluster.core.store.feed() as feed:
                assert (await cluster.call("POST", f"{KEY}/rotate")).status == 202
                async with cluster.waiting():
                    for _ in range(commits):
                        await feed.next()
            row = the_wrapping(cluster.core.store.state)
            is_done = row is not None and row.step == "done"
        async with in_process(folder, with_node=False) as cluster:
            await until_done(cluster)
            opened(cluster, folder)
            assert (folder / "kek").read_bytes() != (first / "kek").read_bytes()
        if is_done:
            break
        was_cut += 1
    assert was_cut >= 5


async def test_who_may_replace_it_and_a_key_from_outside_is_left_alone(tmp_path: Path) -> None:
    async with in_process(tmp_path / "master", with_node=False) as cluster:
        token = await cluster.add_token(Role.DEPLOYER)
        assert (await cluster.call("POST", f"{KEY}/rotate", token=token)).status == 403
        assert (await cluster.call("GET", KEY, token=token)).status == 200
        cluster.core.keyring.is_given = True
        refused = await cluster.call("POST", f"{KEY}/rotate")
        assert refused.status == 409
        assert "copy that file to `kek` in its data folder" in refused.json["error"]
        assert the_wrapping(cluster.core.store.state) is None


async def test_a_change_that_meets_a_key_from_outside_is_given_up_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    """The master that leads by then, or another one, has its key from elsewhere."""
    folder = tmp_path / "master"
    async with in_process(folder, with_node=False) as cluster:
        await fill(cluster)
        keyring, store = cluster.core.keyring, cluster.core.store
        old = keyring.current(store.state).id
        keyring.is_given = True
        await store.update(lambda tx: operations.begin(tx, old, actor="admin", now=1.0))
        done = await until_done(cluster)
        assert done["current"] == old
        assert "master-1 has its key from `kek_file`" in done["given_up"]
        opened(cluster, folder)
        keyring.is_given = False
        again = await cluster.call("POST", f"{KEY}/rotate")
        assert (again.status, again.json["given_up"]) == (202, None)
        assert (await until_done(cluster))["current"] != old
        opened(cluster, folder)
