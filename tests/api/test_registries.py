"""Accounts at registries through the API: checked, kept sealed, sent where they are needed, never told."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from api.test_hostile_workers import Line, a_line, a_node
from inprocess import Answer, InProcess, eventually
from orca_master.errors import NotReady
from orca_master.identity.model import Role
from orca_master.identity.registries.model import LOGINS
from orca_master.tasks.model import TASKS
from orca_proto import worker_pb2 as pb

PATH = "/api/v1/registries"
USER, PASSWORD = "puller", "planted-0c9a77e1"
DIGEST = "sha256:" + "d" * 64
RIGHT = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class FakeRegistry:
    """One image. `challenge`: what it says to those it does not know; `asked`: each path with its
    `Authorization`."""

    def __init__(self) -> None:
        self.challenge = 'Basic realm="here"'
        self.realm = ""
        self.token_status = 200
        self.token_body: Any = {"token": "a-token"}
        self.status = 0  # not 0: all it says
        self.asked: list[tuple[str, str]] = []
        self.scopes: list[str] = []

    async def api(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        self.asked.append((request.path, given))
        if self.status:
            raise web.HTTPFound("/elsewhere") if self.status == 302 else web.HTTPServiceUnavailable
        let_in = given == (RIGHT if self.challenge.startswith("Basic") else "Bearer a-token")
        if self.challenge and not let_in:
            body = {"errors": [{"code": "UNAUTHORIZED", "message": "who\x1b[31m are you?"}]}
            headers = {"WWW-Authenticate": self.challenge.format(realm=self.realm)}
            return web.json_response(body, status=401, headers=headers)
        return web.Response(headers={"Docker-Content-Digest": DIGEST})

    async def token(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        self.asked.append((request.path, given))
        self.scopes += request.query.getall("scope", [])
        assert request.query["service"] == "s"
        if given != RIGHT:
            return web.json_response({"details": "no such user"}, status=401)
        return web.json_response(self.token_body, status=self.token_status)


BEARER = 'Bearer realm="{realm}",service="s"'


@pytest.fixture
async def registry() -> AsyncIterator[tuple[str, FakeRegistry]]:
    made, app = FakeRegistry(), web.Application()
    app.router.add_get("/token", made.token)
    app.router.add_route("*", "/v2/{tail:.*}", made.api)
    async with TestServer(app) as server:
        made.realm = str(server.make_url("/token?kept=1"))
        yield f"127.0.0.1:{server.port}", made


async def put(cluster: InProcess, host: str, password: str = PASSWORD, **more: Any) -> Answer:
    body = {"username": USER, "password": password} | more
    return await cluster.call("PUT", f"{PATH}/{host}", body)


async def test_an_account_is_set_listed_and_forgotten(cluster: InProcess) -> None:
    made = await put(cluster, "Registry.Example:5000", check=False, project="shop")
    assert made.json == {
        "host": "registry.example:5000", "project": "shop", "username": USER, "changed": True,
        "checked": False, "reason": "not asked",
    }  # fmt: skip
    again = await put(cluster, "registry.example:5000", check=False, project="shop")
    assert not again.json["changed"]
    other = await put(cluster, "registry.example:5000", "new", check=False, project="shop")
    assert other.json["changed"]
    assert (await put(cluster, "index.docker.io", check=False)).json["host"] == "docker.io"
    found = (await cluster.call("GET", PATH)).json["registries"]
    assert [(r["project"], r["host"], r["username"], r["by"]) for r in found] == [
        (None, "docker.io", USER, "admin"),
        ("shop", "registry.example:5000", USER, "admin"),
    ]
    of_web = (await cluster.call("GET", f"{PATH}?project=web")).json["registries"]
    assert [r["host"] for r in of_web] == ["docker.io"]
    gone = f"{PATH}/registry.example:5000"
    assert (await cluster.call("DELETE", gone)).status == 404
    removed = await cluster.call("DELETE", f"{gone}?project=shop")
    assert "of project shop at registry registry.example:5000" in removed.json["ok"]
    assert (await cluster.call("DELETE", f"{gone}?project=shop")).status == 404


async def test_a_password_is_in_no_answer_row_or_trail(cluster: InProcess) -> None:
    told = [
        await put(cluster, "r.example", check=False),
        await put(cluster, "127.0.0.1:9"),
        await put(cluster, "r.example", project="UPPER"),
        await put(cluster, "https://r.example"),
        await cluster.call("GET", PATH),
        await cluster.call("GET", "/api/v1/audit"),
        await cluster.call("DELETE", f"{PATH}/r.example"),
        await cluster.call("GET", "/api/v1/audit"),
    ]
    assert [each.status for each in told] == [200, 200, 400, 404, 200, 200, 200, 200]
    assert PASSWORD not in "".join(each.text for each in told)
    kept = b"".join(raw for _, _, raw in cluster.core.store.state.raw_rows())
    assert PASSWORD.encode() not in kept
    events = told[-1].json["events"]
    named = [(event["action"], event["resource"]) for event in events if event["action"][0] == "r"]
    assert named == [
        ("registry.remove", "registries/-/r.example"),
        ("registry.set", "registries/-/127.0.0.1:9"),
        ("registry.set", "registries/-/r.example"),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""), ("username", "a:b"), ("username", "a\nb"), ("username", "x" * 257),
        ("username", None), ("password", ""), ("password", "x" * (16 << 10 | 1)), ("password", "a\0b"),
        ("password", None), ("project", "Not A Name"), ("check", "yes"), ("unknown", 1),
    ],
)  # fmt: skip
async def test_what_is_no_account_is_refused_by_its_field(
    cluster: InProcess, field: str, value: Any
) -> None:
    answer = await put(cluster, "r.example", **{"check": False, field: value})
    assert answer.status == 400
    assert [problem["field"] for problem in answer.json["problems"]] == [field]
    assert not list(cluster.core.store.state.scan(LOGINS))


async def test_a_key_for_retries_is_not_taken_because_a_hash_would_be_kept(
    cluster: InProcess,
) -> None:
    body = {"username": USER, "password": PASSWORD, "check": False}
    headers = {"Idempotency-Key": "k1"}
    answer = await cluster.call("PUT", f"{PATH}/r.example", body, headers=headers)
    assert answer.status == 400


async def test_who_may(cluster: InProcess) -> None:
    await put(cluster, "r.example", check=False)
    await put(cluster, "r.example", check=False, project="shop")
    for role, reads in ((Role.VIEWER, 403), (Role.DEPLOYER, 200)):
        token = await cluster.add_token(role)
        assert (await cluster.call("GET", PATH, token=token)).status == reads
        body = {"username": USER, "password": PASSWORD, "check": False}
        refused = await cluster.call("PUT", f"{PATH}/r.example", body, token=token)
        assert refused.status == 403
        assert (await cluster.call("DELETE", f"{PATH}/r.example", token=token)).status == 403
    own = {"name": "ci", "role": "admin", "project": "shop"}
    token = (await cluster.call("POST", "/api/v1/tokens", own)).json["token"]
    body = {"username": "ci", "password": PASSWORD, "check": False}
    made = await cluster.call("PUT", f"{PATH}/r.example", body, token=token)
    assert (made.status, made.json["project"]) == (200, "shop")
    body["project"] = "other"
    assert (await cluster.call("PUT", f"{PATH}/r.example", body, token=token)).status == 403
    listed = await cluster.call("GET", PATH, token=token)
    assert [r["project"] for r in listed.json["registries"]] == [None, "shop"]
    removed = await cluster.call("DELETE", f"{PATH}/r.example", token=token)
    assert removed.status == 200
    left = (await cluster.call("GET", PATH)).json["registries"]
    assert [(r["project"], r["username"]) for r in left] == [(None, USER)]


@pytest.mark.parametrize("challenge", ['Basic realm="here"', BEARER])
async def test_what_the_registry_does_not_let_in_is_not_kept(
    cluster: InProcess, registry: tuple[str, FakeRegistry], challenge: str
) -> None:
    host, fake = registry
    fake.challenge = challenge
    wrong = await put(cluster, host, "wrong")
    assert wrong.status == 400
    (problem,) = wrong.json["problems"]
    said = "no such user" if challenge is BEARER else "who[31m are you?"
    assert problem["field"] == "password"
    assert problem["message"] == f"registry {host} does not let {USER} in with this: {said}"
    assert (await cluster.call("GET", PATH)).json["registries"] == []
    kept = await put(cluster, host, "wrong", check=False)
    assert (kept.status, kept.json["checked"]) == (200, False)
    right = await put(cluster, host)
    assert (right.json["checked"], right.json["reason"]) == (True, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"challenge": ""}, "lets everybody in"),
        ({"status": 503}, "answered 503"),
        ({"status": 302}, "answered 302"),
        ({"challenge": BEARER, "token_status": 500}, "its token server answered 500"),
        ({"challenge": BEARER, "token_body": {}}, "gave no token"),
        ({"challenge": BEARER, "token_body": {"token": 7}}, "gave no token"),
        ({"challenge": BEARER, "token_body": [1]}, "gave no token"),
        ({"challenge": BEARER, "token_body": {"token": "a\r\nX: y"}}, "does not answer as it should"),
        ({"challenge": BEARER, "realm": "http://192.0.2.1/t"}, "is not asked without TLS"),
        ({"challenge": BEARER, "realm": "http://localhost:80@192.0.2.1/"}, "is not asked without TLS"),
        ({"challenge": BEARER, "realm": "file:///etc/passwd"}, "is not asked without TLS"),
        ({"challenge": BEARER, "realm": "https://["}, "does not answer as it should"),
    ],
)  # fmt: skip
async def test_what_cannot_be_checked_is_kept_and_told(
    cluster: InProcess, registry: tuple[str, FakeRegistry], change: dict[str, Any], reason: str
) -> None:
    host, fake = registry
    for name, value in change.items():
        setattr(fake, name, value)
    answer = await put(cluster, host)
    assert (answer.status, answer.json["checked"]) == (200, False)
    assert reason in answer.json["reason"]
    assert PASSWORD not in answer.text
    assert (await cluster.call("GET", PATH)).json["registries"][0]["username"] == USER


async def test_a_registry_that_is_not_there_is_told(cluster: InProcess) -> None:
    answer = await put(cluster, "127.0.0.1:9")
    assert (answer.status, answer.json["checked"]) == (200, False)
    assert "does not answer" in answer.json["reason"]


@pytest.mark.parametrize("challenge", ['Basic realm="here"', BEARER, 'Digest x="y", ' + BEARER])
async def test_digests_are_looked_up_with_the_projects_account(
    cluster: InProcess, registry: tuple[str, FakeRegistry], challenge: str
) -> None:
    host, fake = registry
    fake.challenge = challenge
    image = f"{host}/shop/web:main"

    async def digest(project: str) -> str:
        return await cluster.core.digests.digest_of(image, tenant="default", project=project)

    with pytest.raises(NotReady) as refused:
        await digest("shop")
    assert "refuses access" in refused.value.message
    assert f"asked without an account: `orca registry login {host} --project shop`" in str(
        refused.value
    )
    await put(cluster, host)
    assert await digest("shop") == DIGEST
    if "Bearer" in challenge:
        assert fake.scopes[-1] == "repository:shop/web:pull"
    await put(cluster, host, "wrong", check=False, project="shop")
    assert await digest("other") == DIGEST
    with pytest.raises(NotReady) as refused:
        await digest("shop")
    assert f"(asked as {USER}: `orca registry login {host} --project shop`)" in str(refused.value)
    await cluster.call("DELETE", f"{PATH}/{host}?project=shop")
    assert await digest("shop") == DIGEST


async def test_a_webhook_without_an_image_asks_with_the_account(
    cluster: InProcess, registry: tuple[str, FakeRegistry]
) -> None:
    host, _ = registry
    image = f"{host}/shop/web:main"
    await cluster.deploy({"name": "web", "image": image})
    hook = {"repo": "shop/web", "service_name": "web"}
    made = (await cluster.call("POST", "/api/v1/webhooks", hook)).json
    refused = await cluster.call("POST", f"/api/v1/webhooks/{made['id']}/test")
    assert (refused.status, "asked without an account" in refused.json["error"]) == (503, True)
    await put(cluster, host, project="default")
    tried = await cluster.call("POST", f"/api/v1/webhooks/{made['id']}/test")
    assert (tried.status, tried.json["image"]) == (200, DIGEST)


def prepared(cluster: InProcess) -> list[tuple[str, str, str]]:
    """(image, user, password) of each pull, in the order of pulls."""
    return [
        (image, account.username, account.password) if account else (image, "", "")
        for image, account in cluster.worker.machine.accounts
    ]


async def test_an_account_goes_with_the_list_to_who_pulls_and_a_new_one_from_the_next_pull(
    cluster: InProcess,
) -> None:
    await put(cluster, "r.example", "clusters", check=False)
    await put(cluster, "r.example", "shops", check=False, project="shop")
    await put(cluster, "other.example", "unused", check=False)
    await cluster.deploy(
        {"name": "web", "image": "r.example/a:1"},
        {"name": "web", "image": "r.example/b:1", "project": "shop"},
        {"name": "plain", "image": "elsewhere.example/c:1"},
    )
    assert sorted(prepared(cluster)) == [
        ("elsewhere.example/c:1", "", ""),
        ("r.example/a:1", USER, "clusters"),
        ("r.example/b:1", USER, "shops"),
    ]
    cluster.worker.machine.accounts.clear()
    await put(cluster, "r.example", "newer", check=False, project="shop")
    path = "/api/v1/services/web/restart?project=shop"
    assert (await cluster.call("POST", path)).status == 200
    await eventually(lambda: prepared(cluster) == [("r.example/b:1", USER, "newer")])
    cluster.worker.machine.accounts.clear()
    await cluster.call("DELETE", f"{PATH}/r.example?project=shop")
    await cluster.deploy({"name": "new", "image": "r.example/b:1", "project": "shop"})
    assert prepared(cluster) == [("r.example/b:1", USER, "clusters")]


@asynccontextmanager
async def beating(*lines: Line) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            for line in lines:
                line.say(heartbeat=pb.Heartbeat())
            await asyncio.sleep(0.2)

    going_on = asyncio.create_task(beat())
    try:
        yield
    finally:
        going_on.cancel()


async def test_a_node_is_sent_what_its_own_tasks_need_and_at_once_what_changes(
    cluster: InProcess,
) -> None:
    await put(cluster, "r.example", "one", check=False, project="shop")
    await put(cluster, "r.example", "not for this node", check=False, project="other")
    await cluster.deploy({"name": "web", "image": "r.example/b:1", "project": "shop"})
    await a_node(cluster, "bystander")
    (task,) = cluster.core.store.state.scan(TASKS)
    running = pb.TaskStatus(id=task.id, state=pb.TASK_STATE_RUNNING, healthy=True)
    node = cluster.worker.id
    await cluster.worker.kill()
    async with (
        a_line(cluster, node, tasks=[running]) as (line, _),
        a_line(cluster, "bystander") as (other, _),
        beating(line, other),
    ):

        async def sent(password: str) -> pb.Assignments:
            """The first list from now on with this password."""
            while True:
                found = (await line.hear("assignments")).assignments
                assert [a.password for a in found.accounts if a.project != "shop"] == []
                if [a.password for a in found.accounts] == [password]:
                    return found

        before = await sent("one")
        await put(cluster, "r.example", "two", check=False, project="shop")
        after = await sent("two")
        assert [task.id for task in after.tasks] == [task.id for task in before.tasks]
        assert dict(after.specs) == {}
        assert not (await other.hear("assignments")).assignments.accounts
        await cluster.call("DELETE", f"{PATH}/r.example?project=shop")
        assert not (await line.hear("assignments")).assignments.accounts


async def test_an_account_that_no_key_opens_stops_pulls_and_says_why(cluster: InProcess) -> None:
    await put(cluster, "r.example", check=False)
    (login,) = cluster.core.store.state.scan(LOGINS)
    broken = replace(login, project="shop")
    await cluster.core.store.update(lambda tx: tx.put(LOGINS, broken))
    await cluster.deploy({"name": "web", "image": "r.example/a:1", "project": "shop"})
    ((_, account),) = cluster.worker.machine.accounts
    assert account is not None
    assert (account.password, "set it again with" in account.lacks) == ("", True)
