"""Three real masters: who may die, what is never lost, and how they join and leave."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from integration.conftest import RealCluster, running
from orca.client import Client
from orca.errors import CannotReach, OrcaError, Refused

SLEEPS = {"name": "sleeps", "command": ["sleep", "7654321"], "replicas": 2}
COUNTED = SLEEPS | {"command": ["sleep", "7654322"]}
"""Of one test only: its processes are counted on the whole machine."""


def a_deploy(number: int, of: int = 7) -> dict[str, Any]:
    name = f"svc-{number % of}"
    return {"name": name, "command": ["true", str(number)], "replicas": 0}


def number_in(service: dict[str, Any]) -> int:
    return int(service["command"][1])


class Deploys:
    """A stream of deploys, and what was acknowledged."""

    def __init__(self, cluster: RealCluster, *apis: str) -> None:
        self._cluster = cluster
        self._apis = apis
        self.acknowledged: dict[str, int] = {}
        self.count = 0
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        number = 0
        async with self._cluster.client(*self._apis) as client:
            while not self._stop.is_set():
                number += 1
                service = a_deploy(number)
                try:
                    await client.deploy([service], wait=False)
                except OrcaError:
                    await asyncio.sleep(0.01)
                    continue
                self.acknowledged[service["name"]] = number
                self.count += 1

    async def check(self) -> None:
        async with self._cluster.client() as client:
            known = {service["name"]: service for service in await client.status()}
        for name, number in self.acknowledged.items():
            assert number_in(known[name]) >= number, "what was acknowledged is there, or newer"


async def until_all_agree(cluster: RealCluster, seconds: float = 60.0) -> None:
    """Every master's own state is the same and as new as the leader's."""
    async with asyncio.timeout(seconds):
        while True:
            async with cluster.client() as client:
                found = await client.masters()
            if all(m["connected"] and m["behind"] == 0 for m in found["masters"]):
                states = [(await stale(cluster, api))[1] for api in cluster.apis]
                if all(state == states[0] for state in states):
                    return
            await asyncio.sleep(0.05)


async def stale(cluster: RealCluster, api: str) -> tuple[float, Any]:
    """(age, services) of this very master."""
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{api}/api/v1/status?consistency=stale") as response,
    ):
        assert response.status == 200, await response.text()
        return float(response.headers["X-Orca-Age-Seconds"]), (await response.json())["services"]


async def test_any_master_takes_any_request_and_streams(three_masters: RealCluster) -> None:
    cluster = three_masters
    for number, api in enumerate(cluster.apis):
        name = f"web-{number}"
        talk = {"name": name, "command": ["sh", "-c", "echo from $0; sleep 100", name]}
        async with cluster.client(api) as client:
            assert (await client.deploy([talk]))["deployed"] == [name]
            async with asyncio.timeout(60):
                while b"from" not in b"".join([part async for part in client.logs(name)]):
                    await asyncio.sleep(0.05)
    for api in cluster.apis:
        async with cluster.client(api) as client:
            assert len(await client.status()) == 3
            with pytest.raises(Refused, match="not found"):
                await client.scale("nope", 1)


async def test_the_leader_is_killed_in_a_stream_of_deploys_and_nothing_is_lost_co_01(
    three_masters: RealCluster,
) -> None:
    """Ten kills of random masters, the leader more often than not."""
    cluster, chance = three_masters, random.Random(3)
    deploys = Deploys(cluster)
    async with asyncio.TaskGroup() as group:
        group.create_task(deploys.run())
        for _ in range(10):
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            leader = await cluster.leader()
            names = [name for name in cluster.processes if name.startswith("master-")]
            victim = leader if chance.random() < 0.7 else chance.choice(names)
            await cluster.kill(victim)
            await cluster.up()
        deploys.stop()
    assert len(deploys.acknowledged) == 7
    await deploys.check()
    await until_all_agree(cluster)


async def test_all_masters_are_killed_at_once_and_nothing_is_lost_co_02(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    deploys = Deploys(cluster)
    async with asyncio.TaskGroup() as group:
        group.create_task(deploys.run())
        await asyncio.sleep(1.0)
        await cluster.kill("master-1", "master-2", "master-3")
        deploys.stop()
    await cluster.up()
    assert deploys.count > 10
    await deploys.check()


async def test_a_stopped_leader_answers_no_read_and_the_others_go_on_co_06(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    leader = await cluster.leader()
    paused = cluster.api_of(leader)
    others = [api for api in cluster.apis if api != paused]
    async with cluster.client(*others) as client:
        await client.deploy([a_deploy(1)], wait=False)
        cluster.signal(leader, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                await client.deploy([a_deploy(8)], wait=False)
        finally:
            cluster.signal(leader, signal.SIGCONT)
        async with cluster.client(paused) as woken:
            (service,) = await woken.status()
        assert number_in(service) == 8, "woken, it must not answer from what it knew before"


async def test_without_a_majority_nothing_is_acknowledged_and_stale_reads_go_on(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    async with cluster.client() as client:
        await client.deploy([a_deploy(1)], wait=False)
    await until_all_agree(cluster)
    await cluster.kill("master-2", "master-3")
    api = cluster.api_of("master-1")
    async with asyncio.timeout(60):
        while await health(api) != {"status": "degraded", "reasons": ["no master leads"]}:
            await asyncio.sleep(0.1)
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with aiohttp.ClientSession(api, headers=headers) as http:
        async with http.get("/api/v1/status") as read:
            assert (read.status, read.headers["Retry-After"]) == (503, "1")
            assert "no master leads" in (await read.json())["error"]
        async with http.post("/api/v1/services/svc-1/scale", json={"replicas": 1}) as write:
            assert write.status == 503
    age, services = await stale(cluster, api)
    assert [number_in(service) for service in services] == [1]
    assert age > 1.0
    await cluster.up()
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):  # it may not serve yet
                if (await stale(cluster, cluster.api_of("master-2")))[0] <= 1.0:
                    break
            await asyncio.sleep(0.1)


async def health(api: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{api}/api/v1/health") as response:
        return await response.json()


async def test_an_orderly_stop_of_the_leader_is_hardly_noticed(three_masters: RealCluster) -> None:
    cluster = three_masters
    leader = await cluster.leader()
    others = [api for api in cluster.apis if api != cluster.api_of(leader)]
    deploys = Deploys(cluster, *others)
    async with asyncio.TaskGroup() as group:
        group.create_task(deploys.run())
        await asyncio.sleep(0.5)
        cluster.signal(leader, signal.SIGTERM)
        while cluster.processes[leader].is_alive():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        deploys.stop()
    await deploys.check()
    assert await cluster.leader() != leader
    said = Path(cluster.processes[leader].log).read_text()
    asked = ("leadership was handed over", "nobody took leadership over")  # a stalled machine
    assert any(line in said for line in asked), "it ended without handing over"


async def test_one_master_grows_to_three_and_what_runs_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path / "orca", "process", 1) as cluster:
        async with cluster.client() as client:
            await client.deploy([COUNTED])
        before = own_children("sleep")
        cluster.masters = 3
        deploys = Deploys(cluster)
        async with asyncio.TaskGroup() as group:
            group.create_task(deploys.run())
            await cluster.up()
            deploys.stop()
        await deploys.check()
        assert not (cluster.folder / "master-1" / "log" / "identity").exists()
        await until_all_agree(cluster)
        await cluster.until("sleeps", status="running", running_replicas=2)
        assert own_children("sleep") == before
        trails = [await trail(cluster, api) for api in cluster.apis]
        assert trails[0] == trails[1] == trails[2], "what joined later has fetched what was before"
        assert "service.deploy services/default/sleeps" in trails[2]
        await cluster.kill("master-1")
        await cluster.until("sleeps", status="running", running_replicas=2)
        assert own_children("sleep") == before


async def test_the_trail_and_events_are_followed_across_the_loss_of_a_master(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    followers = [
        await following(cluster, "audit"),
        await following(cluster, "events", "--kind", "service", "--tail", "0"),
    ]
    seen: list[list[str]] = [[], []]
    try:
        async with asyncio.timeout(120), cluster.client() as client:
            number = 0
            while min(map(len, seen)) < 3:  # it takes a moment to begin
                number += 1
                await client.deploy([a_deploy(number)], wait=False)
                for follower, ids in zip(followers, seen, strict=True):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.3):
                            ids.append(await next_id(follower))
            await cluster.kill("master-1")
            for _ in range(5):
                number += 1
                await client.deploy([a_deploy(number)], wait=False)
            page = await client.audit(limit=1000)
            whole = [event["id"] for event in page["events"]][::-1]
            for follower, ids in zip(followers, seen, strict=True):
                while ids[-1] != whole[-1]:
                    ids.append(await next_id(follower))
    finally:
        for follower in followers:
            follower.kill()
            await follower.wait()
    for ids in seen:
        assert ids == whole[whole.index(ids[0]) :], "nothing is missed, and nothing comes twice"


async def following(cluster: RealCluster, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("orca"), *words, "-f", "-o", "json"),
        env={**os.environ, "ORCA_API": ",".join(cluster.apis), "ORCA_TOKEN": cluster.token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def next_id(follower: asyncio.subprocess.Process) -> str:
    assert follower.stdout is not None
    return str(json.loads(await follower.stdout.readline())["id"])


async def trail(cluster: RealCluster, api: str) -> list[str]:
    """All that this very master's history says, page by page."""
    headers = {"Authorization": f"Bearer {cluster.token}"}
    path = "/api/v1/audit?consistency=stale&limit=1000"
    found: list[str] = []
    before = ""
    async with aiohttp.ClientSession(api, headers=headers) as http, asyncio.timeout(60):
        while True:
            async with http.get(path + before) as response:
                page = await response.json()
                if response.status == 200:
                    found += [f"{e['action']} {e['resource']}" for e in page["events"]]
                    if page["next"] is None:
                        return found
                    before = f"&before={page['next']}"
                    continue
            await asyncio.sleep(0.05)


def own_children(word: str) -> set[int]:
    found = psutil.process_iter(["name", "cmdline"])
    return {
        p.pid for p in found if p.info["name"] == word and "7654322" in (p.info["cmdline"] or [])
    }


async def test_the_first_master_is_lost_for_good_and_nothing_else_is(
    three_masters: RealCluster,
) -> None:
    """Its disk too: the CA's key and the tokens are on the others, and a new one takes its place."""
    cluster = three_masters
    async with cluster.client() as client:
        await client.deploy([SLEEPS])
        await cluster.kill("master-1")
        shutil.rmtree(cluster.folder / "master-1")
        await cluster.leader()
        await client.remove_master("master-1")
        await cluster.up()
        assert {m["name"] for m in (await client.masters())["masters"]} == {
            "master-1",
            "master-2",
            "master-3",
        }
    await until_all_agree(cluster)
    await cluster.until("sleeps", status="running", running_replicas=2)
    cluster.workers = 2
    await cluster.up()
    async with cluster.client() as client:
        assert (await client.cluster_info())["node_count"] == 2, "the CA signs as before"


async def test_a_wiped_log_refuses_to_start_under_its_old_id_cl_31(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    await cluster.kill("master-3")
    shutil.rmtree(cluster.folder / "master-3" / "raft")
    said = await start_by_hand(cluster, "master-3")
    assert "the log in" in said
    assert "orca masters remove" in said


async def test_a_removed_master_says_so_and_ends(three_masters: RealCluster) -> None:
    cluster = three_masters
    process = cluster.processes["master-2"]
    async with cluster.client() as client:
        with pytest.raises(Refused, match="--force"):
            await client.remove_master("master-2")
        await client.remove_master("master-2", force=True)
        async with asyncio.timeout(60):
            while process.is_alive():
                await asyncio.sleep(0.05)
        _, status = os.waitpid(process.pid, 0)  # noqa: ASYNC222 - it has ended
        assert os.waitstatus_to_exitcode(status) == 3, "the service manager need not try again"
        assert "was removed from the cluster" in Path(process.log).read_text()
        found = await client.masters()
        assert (found["voters"], found["tolerates"]) == (2, 0)


async def test_a_token_joins_one_master_once_and_only_to_its_own_cluster(
    three_masters: RealCluster, tmp_path: Path
) -> None:
    cluster = three_masters
    async with cluster.client() as client:
        worker = await client.join_token()
        master = await client.join_token(role="master")
    assert "lets a worker join" in await join_by_hand(cluster, tmp_path / "a", token=worker)
    broken = master[:-4] + ("AAAA" if master[-4:] != "AAAA" else "BBBB")
    assert "error:" in await join_by_hand(cluster, tmp_path / "b", token=broken)
    async with running(tmp_path / "other", "process", 0) as other, other.client() as client:
        foreign = await client.join_token(role="master")
    said = await join_by_hand(cluster, tmp_path / "c", token=foreign)
    assert "not the cluster that the token was made for" in said
    taken = await join_by_hand(cluster, tmp_path / "d", token=master, name="master-1")
    assert "a master named master-1 exists already" in taken
    async with cluster.client() as client:
        assert (await client.masters())["voters"] == 3


async def join_by_hand(
    cluster: RealCluster, folder: Path, *, token: str, name: str = "extra"
) -> str:
    return await start_by_hand(
        cluster,
        name,
        "--join",
        cluster.api,
        "--data-dir",
        str(folder),
        ORCA_MASTER_JOIN_TOKEN=token,
    )


async def start_by_hand(cluster: RealCluster, name: str, *flags: str, **environment: str) -> str:
    """What a master says that does not start."""
    ports = [str(cluster.port + 3 * cluster.masters + number) for number in range(3)]
    command = [
        *(sys.executable, "-m", "orca_master", "--name", name, "--bind", "127.0.0.1"),
        *("--data-dir", str(cluster.folder / name)),
        *("--api-port", ports[0], "--grpc-port", ports[1], "--peer-port", ports[2]),
        *flags,
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(os.environ) | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 1, said
    return said.decode()


async def test_a_client_that_knows_all_masters_needs_no_luck(three_masters: RealCluster) -> None:
    cluster = three_masters
    await cluster.kill("master-2")
    async with cluster.client(cluster.apis[1], cluster.apis[2], cluster.apis[0]) as client:
        assert (await client.deploy([a_deploy(1)], wait=False))["accepted"] == ["svc-1"]
    async with Client(cluster.apis[1], cluster.token) as alone:
        with pytest.raises(CannotReach, match="no master answers"):
            await alone.status()


async def test_without_a_majority_the_command_line_says_what_is_wrong(
    three_masters: RealCluster,
) -> None:
    cluster = three_masters
    await until_all_agree(cluster)
    await cluster.kill("master-1", "master-3")

    async def orca(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from orca.main import main; main()"),
            *("--api", ",".join(cluster.apis), *words),
            env=dict(os.environ) | {"ORCA_TOKEN": cluster.token},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    code, said = await orca("masters", "status")
    assert code == 0, said
    assert "nobody leads: of the 3 masters that vote at least 2 must reach each other" in said
    code, said = await orca("stop", "nothing")
    assert (code, "nothing was changed" in said) == (1, True)
    code, said = await orca("status", "--stale")
    assert (code, "no services yet" in said) == (0, True)
