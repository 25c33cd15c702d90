"""What happens, as it is told: live, from where a reader was, and to whom."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forges import body_of, github_push, signed
from inprocess import InProcess, eventually, in_process
from orca_master.http import streams
from orca_master.identity.model import Role
from orca_master.ops.events import recent

PATH = "/api/v1/events"
SECONDS = 60.0
WEB = {"name": "web", "image": "app:1"}
CANARY = {"strategy": "canary", "canary_weight": 5}

Event = dict[str, Any]


@asynccontextmanager
async def stream(
    cluster: InProcess, query: str = "", token: str = "", **headers: str
) -> AsyncIterator[aiohttp.StreamReader]:
    told = {"Authorization": f"Bearer {token or cluster.token}"} | headers
    path = f"{PATH}?{query}"
    async with asyncio.timeout(SECONDS), cluster.client.get(path, headers=told) as response:
        assert response.status == 200, await response.text()
        yield response.content


async def kept(cluster: InProcess, query: str = "", token: str = "") -> list[Event]:
    """All that is there, and then the end."""
    async with stream(cluster, f"follow=false&{query}", token) as found:
        return [json.loads(line) async for line in found]


async def until(
    cluster: InProcess, seen: Callable[[list[Event]], bool], query: str = ""
) -> list[Event]:
    async with asyncio.timeout(SECONDS):
        while not seen(found := await kept(cluster, query)):
            await asyncio.sleep(0.02)
    return found


def kinds(events: list[Event]) -> list[str]:
    return [event["kind"] for event in events]


async def test_a_deploy_is_told_from_its_beginning_to_its_end(cluster: InProcess) -> None:
    async with stream(cluster) as live:
        await cluster.deploy(WEB | {"project": "shop", "port": 80})
        found: list[Event] = []
        while "deployment.ended" not in kinds(found):
            found.append(json.loads(await live.readline()))
    order = [
        "service.deploy",
        "deployment.begun",
        "replica.placed",
        "replica.started",
        "replica.ready",
        "deployment.ended",
    ]
    assert [kind for kind in kinds(found) if kind in order] == order
    by_kind = {event["kind"]: event for event in found}
    assert all((event["project"], event["service"]) == ("shop", "web") for event in found)
    assert by_kind["service.deploy"]["actor"] == "admin"
    begun, ready = by_kind["deployment.begun"], by_kind["replica.ready"]
    assert begun["details"]["revision"] == 1
    assert begun["text"] == "deploy to revision 1, rolling"
    assert (ready["replica"], ready["node"]) == (1, cluster.worker.name)
    assert ready["details"]["host_port"] > 0
    assert by_kind["deployment.ended"]["details"]["state"] == "succeeded"
    said = [event["text"] for event in found if event["kind"] == "deployment.step"]
    shown = (await cluster.call("GET", "/api/v1/services/web/deployments")).json["deployments"]
    assert said == [sentence["text"] for sentence in shown[0]["said"]]


async def test_how_a_replica_ended_is_told_with_its_code_and_signal(cluster: InProcess) -> None:
    await cluster.deploy(WEB)
    cluster.worker.runtime.crash(next(iter(cluster.worker.machine.things)), 137)
    found = await until(
        cluster, lambda all: "replica.exited" in kinds(all), "kind=replica.exited,replica.unready"
    )
    assert kinds(found) == ["replica.unready", "replica.exited"]
    ended = found[1]
    assert ended["text"] == "replica 1 ended: was killed by SIGKILL (exit code 137)"
    assert ended["details"]["exit_code"] == 137
    assert (ended["details"]["signal"], ended["details"]["oom_killed"]) == ("SIGKILL", False)


async def test_scale_promote_and_rollback_are_told_with_who_did_it(cluster: InProcess) -> None:
    await cluster.deploy(WEB)
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 2})
    await cluster.deploy(WEB | {"image": "app:2", "replicas": 2, "deploy": CANARY})
    await cluster.call("POST", "/api/v1/services/web/promote")
    await cluster.until("web", status="running", revision=2)
    await cluster.call("POST", "/api/v1/services/web/rollback")
    done = [(e["kind"], e["actor"]) for e in await kept(cluster, "kind=service")]
    verbs = ("deploy", "scale", "deploy", "promote", "rollback")
    assert done == [(f"service.{verb}", "admin") for verb in verbs]
    begun = [e["text"] for e in await kept(cluster, "kind=deployment.begun")]
    assert begun[1] == "deploy to revision 2 from 1, canary"
    assert begun[2].startswith("rollback to revision 1 from 2, ")


async def test_a_secret_is_told_of_and_its_value_is_not(cluster: InProcess) -> None:
    await cluster.deploy(WEB | {"env": {"P": "${secrets.PASS}"}}, wait="false")
    for value in ("hidden-one", "hidden-two"):
        await cluster.call("PUT", "/api/v1/secrets/PASS", {"value": value})
    await cluster.deploy(WEB | {"env": {"P": "${secrets.PASS}"}})
    await cluster.call("DELETE", "/api/v1/secrets/PASS?force=true")
    found = await kept(cluster)
    told = [event for event in found if event["kind"].startswith("secret.")]
    assert kinds(told) == ["secret.set", "secret.set", "secret.remove"]
    assert {event["details"]["key"] for event in told} == {"PASS"}
    assert "hidden" not in json.dumps(found)


async def test_what_becomes_of_a_push_is_told(cluster: InProcess) -> None:
    await cluster.deploy(WEB)
    hook = {
        "repo": "shop/web",
        "service_name": "web",
        "image": "app:{short_sha}",
        "secret": "s" * 32,
    }
    added = await cluster.call("POST", "/api/v1/webhooks", hook | {"forge": "github"})
    assert added.status == 201, added.text
    body = body_of(github_push())
    headers = signed("github", body, at=cluster.core.env.now(), secret="s" * 32)
    await cluster.call("POST", "/api/v1/webhooks/github", token=None, data=body, headers=headers)
    found = await until(
        cluster, lambda all: "delivery.deployed" in kinds(all), "kind=delivery&service=web"
    )
    assert kinds(found) == ["delivery.queued", "delivery.deploying", "delivery.deployed"]
    assert found[2]["details"]["repo"] == "shop/web"
    assert found[2]["details"]["revision"] == 2


async def test_a_node_that_is_lost_and_comes_back_is_told(cluster: InProcess) -> None:
    name = cluster.worker.name
    await cluster.call("POST", f"/api/v1/cluster/nodes/{name}/drain")
    await cluster.call("POST", f"/api/v1/cluster/nodes/{name}/undrain")
    await cluster.worker.kill()
    await until(cluster, lambda all: kinds(all)[-1] == "node.down", f"node={name}&kind=node")
    cluster.worker.start()
    found = await until(
        cluster, lambda all: kinds(all)[-1] == "node.ready", f"node={cluster.worker.id}&kind=node"
    )
    verbs = ("joined", "ready", "drained", "undrained", "down", "ready")
    assert kinds(found) == [f"node.{verb}" for verb in verbs]
    assert found[4]["details"]["reason"] in found[4]["text"]
    assert found[4]["details"]["reason"]


async def test_filters_take_several_names(cluster: InProcess) -> None:
    for name in ("a", "b", "c"):
        await cluster.deploy(WEB | {"name": name, "project": f"p{name}"})
    found = await kept(cluster, "service=a,c&kind=service,replica.ready")
    assert [(e["service"], e["kind"].partition(".")[0]) for e in found] == [
        ("a", "service"),
        ("a", "replica"),
        ("c", "service"),
        ("c", "replica"),
    ]
    assert {e["project"] for e in await kept(cluster, "project=pa,pb")} == {"pa", "pb"}
    assert await kept(cluster, "service=nobody") == []


async def test_who_comes_again_misses_nothing_and_gets_nothing_twice(cluster: InProcess) -> None:
    await cluster.deploy(WEB | {"replicas": 3})
    await cluster.call("DELETE", "/api/v1/services/web?purge=true")
    await until(cluster, lambda all: kinds(all).count("replica.gone") == 3)
    found = await kept(cluster)
    for index in range(len(found) - 1):
        assert await kept(cluster, f"since={found[index]['id']}") == found[index + 1 :]
    version = found[3]["version"]
    later = [event for event in found if event["version"] > version]
    assert await kept(cluster, f"since={version}") == later
    told = {"Last-Event-ID": found[3]["id"], "Accept": "text/event-stream"}
    async with stream(cluster, **told) as live:
        event = (await live.readuntil(b"\n\n")).decode().splitlines()
    assert json.loads(event[0].removeprefix("data: ")) == found[4]
    assert event[1] == f"id: {found[4]['id']}"
    assert await kept(cluster, "tail=4") == found[-4:]
    assert await kept(cluster, "tail=0") == []


async def test_after_a_restart_there_is_a_gap_and_what_people_did(tmp_path: Path) -> None:
    async with in_process(tmp_path / "m") as first:
        await first.deploy(WEB)
        seen = (await kept(first, "kind=service"))[0]
        await first.call("POST", "/api/v1/services/web/scale", {"replicas": 2})
        scaled = (await kept(first, "kind=service"))[1]
    async with in_process(tmp_path / "m", with_node=False) as second:
        await second.call("POST", "/api/v1/services/web/scale", {"replicas": 3})
        found = await kept(second, f"since={seen['id']}&service=web")
        gap, *others = [event for event in found if not event["kind"].startswith("replica")]
        assert (gap["kind"], gap["id"]) == ("gap", seen["id"])
        assert gap["details"]["after"] == seen["version"] < gap["details"]["up_to"]
        assert others[0] == scaled, "in its place, as it was told before"
        assert (others[1]["kind"], others[1]["details"]["replicas"]) == ("service.scale", "3")
        assert kinds(await kept(second, f"since={seen['id']}&service=other")) == ["gap"]


async def test_a_reader_that_is_too_slow_is_told_of_the_gap(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "KEPT", 5)
    first = (await kept(cluster))[0]
    for number in range(8):
        await cluster.deploy(WEB | {"name": f"s{number}", "replicas": 0})
    assert 5 <= len(cluster.core.recent.last()) <= 10
    since = await kept(cluster, f"since={first['id']}&kind=service")
    assert since[0]["kind"] == "gap"
    told = [event["service"] for event in since if event["kind"] != "gap"]
    assert told == [f"s{number}" for number in range(8)], "the trail has all"


async def test_a_project_token_is_told_of_its_project_only(cluster: InProcess) -> None:
    made = await cluster.call(
        "POST", "/api/v1/tokens", {"name": "t", "role": "viewer", "project": "mine"}
    )
    token = made.json["token"]
    await cluster.deploy(WEB | {"project": "mine"}, WEB | {"project": "theirs", "name": "other"})
    await cluster.call("PUT", "/api/v1/secrets/KEY", {"value": "x", "project": "mine"})
    assert {event.get("project") for event in await kept(cluster)} == {"mine", "theirs", None}
    found = await kept(cluster, "", token)
    assert {event["project"] for event in found} == {"mine"}
    assert "deployment.ended" in kinds(found)
    assert not [kind for kind in kinds(found) if kind.startswith(("secret", "node"))]
    answer = await cluster.call("GET", f"{PATH}?project=mine,theirs", token=token)
    assert answer.status == 403


async def test_a_viewer_is_not_told_of_secrets(cluster: InProcess) -> None:
    await cluster.call("PUT", "/api/v1/secrets/KEY", {"value": "x"})
    viewer = await cluster.add_token(Role.VIEWER)
    assert kinds(await kept(cluster, "", viewer)) == ["node.joined", "node.ready"]
    assert kinds(await kept(cluster, "kind=secret")) == ["secret.set"]


async def test_the_stream_of_a_revoked_token_ends(cluster: InProcess) -> None:
    made = await cluster.call("POST", "/api/v1/tokens", {"name": "t", "role": "viewer"})
    async with stream(cluster, "tail=1", made.json["token"]) as live:
        assert await live.readline()
        assert (await cluster.call("DELETE", "/api/v1/tokens/t")).status == 200
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await live.read()


async def test_the_format_can_be_chosen_and_lives(
    cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "COMMENT_SECONDS", 0.05)
    async with stream(cluster, "format=sse&kind=service") as live:
        assert await live.readuntil(b"\n\n") == b":\n\n"
    monkeypatch.undo()
    async with stream(cluster, "format=sse&tail=1") as live:
        assert (await live.readline()).startswith(b"data: {")
    async with stream(cluster, "format=ndjson&tail=1", Accept="text/event-stream") as live:
        assert json.loads(await live.readline())["kind"] == "node.ready"
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with (
        asyncio.timeout(SECONDS),
        cluster.client.ws_connect(f"{PATH}?tail=1", headers=headers) as socket,
    ):
        assert (await socket.receive_json())["kind"] == "node.ready"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("since=x", "query.since"),
        ("since=1.x", "query.since"),
        ("since=999999999", "query.since: is of the future: the newest version is "),
        ("since=1&tail=2", "query.tail: and since say both where to begin: give one"),
        ("kind=replicas", "query.kind: 'replicas' is none: give deployment, replica, "),
        ("service=", "query.service"),
        ("format=xml", "query.format"),
        ("nope=1", "query.nope"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_what_can(
    cluster: InProcess, query: str, said: str
) -> None:
    answer = await cluster.call("GET", f"{PATH}?{query}")
    assert answer.status == 400
    assert said in answer.json["error"]
    if query == "since=x":
        answer = await cluster.call("GET", PATH, headers={"Last-Event-ID": "x"})
        assert answer.status == 400


async def test_two_masters_would_tell_the_same_of_one_commit(cluster: InProcess) -> None:
    """Places come from the commits alone: who derives them again gets the same ones."""
    second = recent.Recent(cluster.core.env, cluster.core.store)
    running = asyncio.create_task(second.run())
    await asyncio.sleep(0)
    await cluster.deploy(WEB | {"replicas": 5})
    version = cluster.core.store.state.version
    await eventually(lambda: min(second.version, cluster.core.recent.version) >= version)
    running.cancel()
    begun = second.last()[0].position
    first = [each for each in cluster.core.recent.last() if each.position >= begun]
    assert len(first) > 10
    assert [(e.position, e.kind, e.text) for e in first] == [
        (e.position, e.kind, e.text) for e in second.last()
    ]


async def test_a_master_that_was_given_a_snapshot_tells_of_the_gap(cluster: InProcess) -> None:
    await cluster.deploy(WEB)
    seen = (await kept(cluster))[0]
    async with stream(cluster, f"since={seen['id']}") as live:
        assert json.loads(await live.readline())["version"] >= seen["version"]
        store = cluster.core.store
        restoring = store.restoring()
        for part in await asyncio.to_thread(list, store.capture()):
            restoring.take(part)
        restoring.replace()
        await eventually(lambda: cluster.core.recent.last() == [])
        await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 2})
        found: list[Event] = []
        while "replica.placed" not in kinds(found) or found[-1].get("replica") != 2:
            found.append(json.loads(await live.readline()))
    after = (await kept(cluster, f"since={seen['id']}"))[0]
    assert (after["kind"], after["id"]) == ("gap", seen["id"])
    assert "service.scale" in kinds(found)
