"""Webhooks, end to end in one process: a signed push deploys, once, and whatever is wrong is told."""

import gzip
import io
import itertools
import json
from typing import Any

import aiohttp
import pytest

from forges import (
    NOBODY,
    PUSHES,
    SECRET,
    SHA,
    body_of,
    github_push,
    gitlab_push,
    signed,
)
from inprocess import InProcess, eventually
from orca_master.identity.model import Role

IMAGES = {"registry": "app:{tag}"}
GITHUB = "/api/v1/webhooks/github"


async def add(cluster: InProcess, **given: Any) -> dict[str, Any]:
    body = {"repo": "shop/web", "service_name": "web", "image": "app:{short_sha}", "secret": SECRET}
    answer = await cluster.call("POST", "/api/v1/webhooks", body | given)
    assert answer.status == 201, answer.json
    return answer.json


async def deliver(
    cluster: InProcess, path: str, payload: Any, headers: dict[str, str] | None = None
) -> Any:
    body = payload if isinstance(payload, bytes) else body_of(payload)
    forge = path.split("/")[4]
    given = signed(forge, body, at=cluster.core.env.now()) if headers is None else headers
    data = io.BytesIO(body) if len(body) > 1 << 20 else body
    return await cluster.call("POST", path, token=None, data=data, headers=given)


async def ended(cluster: InProcess, hook: str, delivery: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def is_over() -> bool:
        nonlocal found
        answer = await cluster.call("GET", f"/api/v1/webhooks/{hook}/deliveries")
        found = next(d for d in answer.json["deliveries"] if d["delivery"] == delivery)
        return found["state"] not in ("queued", "deploying")

    async with cluster.waiting():
        while not await is_over():
            pass
    return found


@pytest.mark.parametrize("forge", PUSHES)
async def test_a_signed_push_of_every_forge_deploys(cluster: InProcess, forge: str) -> None:
    await cluster.deploy({"name": "web"})
    image = IMAGES.get(forge, "app:{short_sha}")
    hook = await add(cluster, forge=forge, image=image, tag="*" if forge == "registry" else "")
    for path in (f"/api/v1/webhooks/{forge}", hook["url"]):
        answer = await deliver(cluster, path, PUSHES[forge])
        assert answer.status in (200, 202), answer.json
    assert answer.json["ok"] == "duplicate: it came before"
    (told,) = answer.json["deliveries"]
    done = await ended(cluster, hook["id"], told["delivery"])
    assert (done["state"], done["revision"]) == ("deployed", 2)
    shown = await cluster.status("web")
    assert shown["image"] == ("app:main" if forge == "registry" else f"app:{SHA[:7]}")
    revisions = await cluster.call("GET", "/api/v1/services/web/revisions")
    newest = revisions.json["revisions"][0]
    assert newest["by"] == f"webhook {hook['id']}"
    if forge == "github":
        assert newest["message"].startswith(f"{SHA[:7]} Faster start by Ada (https://github")


async def test_a_secret_is_shown_once_and_kept_encrypted(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    made = await add(cluster, secret=None)
    assert made["secret"].startswith("whsec_")
    listed = await cluster.call("GET", "/api/v1/webhooks")
    (hook,) = listed.json["webhooks"]
    assert (hook["repo"], hook["service_name"], hook["branch"]) == ("shop/web", "web", "main")
    assert (hook["has_secret"], "secret" in hook) == (True, False)
    state = cluster.core.store.state
    rows = b"".join(raw for _, _, raw in state.raw_rows())
    assert made["secret"].encode() not in rows


async def test_wh_16_without_a_right_signature_nothing_can_be_learned(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    hook = await add(cluster)
    body = body_of(github_push())
    wrong = signed("github", body, at=0.0, secret="another-secret-of-16")
    told = set()
    for path in (GITHUB, hook["url"], f"{GITHUB}/0123456789abcdef", "/api/v1/webhooks/gitea"):
        answer = await deliver(cluster, path, body, wrong)
        told.add((answer.status, answer.json["error"], answer.json["code"]))
    assert told == {(401, "the signature is missing or wrong", "UNAUTHENTICATED")}
    trail = await cluster.call("GET", "/api/v1/audit?resource=webhooks/github")
    assert trail.json["events"][0]["action"] == "webhook.rejected"


async def test_wh_41_an_address_that_is_often_wrong_waits_and_others_do_not_notice(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "web"})
    await add(cluster)
    async with cluster.waiting():
        while True:  # a minute may end meanwhile, and the count with it
            answer = await deliver(cluster, GITHUB, b"{}", {"X-Hub-Signature-256": "sha256=0"})
            if answer.status != 401:
                break
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1
    body = body_of(github_push())
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with (
        aiohttp.ClientSession(cluster.api, connector=elsewhere) as another,
        another.post(GITHUB, data=body, headers=signed("github", body, at=0.0)) as pushed,
    ):
        assert pushed.status == 202
    trail = await cluster.call("GET", "/api/v1/audit?resource=webhooks/github&limit=1000")
    rejected = [e for e in trail.json["events"] if e["action"] == "webhook.rejected"]
    assert 60 <= len(rejected) <= 120


@pytest.mark.parametrize("forge", PUSHES)
async def test_wh_02_wh_03_what_is_not_signed_by_us_is_not_kept(
    cluster: InProcess, forge: str
) -> None:
    await cluster.deploy({"name": "web"})
    hook = await add(cluster, forge=forge, image=IMAGES.get(forge, "app:{short_sha}"), tag="*")
    body, now = body_of(PUSHES[forge]), cluster.core.env.now()
    wrong = signed(forge, body, at=now, secret="another-secret-of-16")
    late = signed(forge, body, at=now - 3600) if forge == "generic" else wrong
    bare = {"Content-Type": "application/json"}
    for path in (f"/api/v1/webhooks/{forge}", hook["url"]):
        for headers in (wrong, late, bare):
            answer = await deliver(cluster, path, body, headers)
            assert (answer.status, answer.json["code"]) == (401, "UNAUTHENTICATED")
    listed = await cluster.call("GET", f"/api/v1/webhooks/{hook['id']}/deliveries")
    assert listed.json["deliveries"] == []
    trail = await cluster.call("GET", f"/api/v1/audit?resource=webhooks/{forge}")
    assert [event["action"] for event in trail.json["events"]] == ["webhook.rejected"] * 6
    assert SECRET not in trail.text
    assert (await cluster.status("web"))["revision"] == 1


@pytest.mark.parametrize(
    ("payload", "status", "ok"),
    [
        (github_push(ref="refs/heads/other"), 200, "ignored: branch other is not main"),
        (github_push(after=NOBODY), 200, "ignored: main was deleted"),
        (github_push(message="x [skip deploy]"), 200, "ignored: the commit says [skip deploy]"),
        (
            github_push(repository={"full_name": "shop/other"}),
            200,
            "ignored: no webhook of this secret is for that repository",
        ),
    ],
    ids=["wh-24-branch", "wh-27-deletion", "skip", "repository"],
)
async def test_what_a_hook_does_not_ask_for_is_told_and_not_deployed(
    cluster: InProcess, payload: Any, status: int, ok: str
) -> None:
    await cluster.deploy({"name": "web"})
    await add(cluster)
    answer = await deliver(cluster, GITHUB, payload)
    assert (answer.status, answer.json["ok"]) == (status, ok)
    assert (await cluster.status("web"))["revision"] == 1


async def test_wh_28_pings_and_other_events(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await add(cluster)
    body = body_of({"zen": "Keep it simple"})
    headers = signed("github", body, at=0.0)
    ping = await deliver(cluster, GITHUB, body, headers | {"X-GitHub-Event": "ping"})
    assert (ping.status, ping.json["ok"]) == (200, "pong")
    other = await deliver(cluster, GITHUB, body, headers | {"X-GitHub-Event": "star"})
    assert (other.status, other.json["ok"]) == (
        202,
        "ignored: nothing is done for the event 'star'",
    )


async def test_wh_14_wh_29_and_bodies_that_are_none(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await add(cluster)
    zipped = signed("github", b"{}", at=0.0) | {"Content-Encoding": "gzip"}
    assert (await deliver(cluster, GITHUB, gzip.compress(b"{}"), zipped)).status == 415
    assert (await deliver(cluster, GITHUB, b"not json")).status == 400
    assert (await deliver(cluster, GITHUB, b" " * ((25 << 20) + 1))).status == 413
    big = github_push(padding="x" * (2 << 20))
    assert (await deliver(cluster, GITHUB, big)).status == 202


async def test_wh_18_two_secrets_are_taken_while_one_is_rotated_out(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    hook = await add(cluster)
    path = f"/api/v1/webhooks/{hook['id']}/rotate"
    new = (await cluster.call("POST", path, {"overlap": 3600})).json["secret"]
    body = body_of({"zen": ""})
    for secret, _overlap, status in ((SECRET, 0, 200), (new, 0, 200)):
        headers = signed("github", body, at=0.0, secret=secret) | {"X-GitHub-Event": "ping"}
        assert (await deliver(cluster, GITHUB, body, headers)).status == status
    await cluster.call("POST", path, {"overlap": 0})
    headers = signed("github", body, at=0.0, secret=new) | {"X-GitHub-Event": "ping"}
    assert (await deliver(cluster, GITHUB, body, headers)).status == 401


async def test_wh_20_the_same_push_deploys_once_whatever_its_headers_say(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "web"})
    await add(cluster)
    body = body_of(github_push())
    headers = signed("github", body, at=0.0)
    first = await deliver(cluster, GITHUB, body, headers)
    again = await deliver(cluster, GITHUB, body, headers | {"X-GitHub-Delivery": "another"})
    assert (first.status, again.status) == (202, 200)
    assert first.json["deliveries"][0]["delivery"] == again.json["deliveries"][0]["delivery"]


async def test_ten_pushes_in_a_row_deploy_the_first_and_the_last(cluster: InProcess) -> None:
    """The first one's rollout takes as long as the others need to come."""
    await cluster.deploy({"name": "web"})
    await cluster.deploy({"name": "web", "deploy": {"min_healthy_time": "1h"}})
    hook = await add(cluster)
    shas = [f"{number:040x}" for number in range(1, 12)]
    for before, after in itertools.pairwise(shas):
        answer = await deliver(cluster, GITHUB, github_push(before=before, after=after))
        assert answer.status == 202
        await cluster.until("web", image=f"app:{shas[1][:7]}")
    await cluster.deploy({"name": "web", "image": f"app:{shas[1][:7]}"})
    last = await ended(cluster, hook["id"], 10)
    assert last["state"] == "deployed"
    listed = await cluster.call("GET", f"/api/v1/webhooks/{hook['id']}/deliveries")
    states = [d["state"] for d in listed.json["deliveries"]]
    assert states == ["deployed", *["superseded"] * 8, "deployed"]
    assert (await cluster.status("web"))["image"] == f"app:{shas[-1][:7]}"
    late = await deliver(cluster, GITHUB, github_push(before="0" * 39 + "f", after=shas[3]))
    assert late.json["ok"].startswith("superseded: a newer push")


async def test_a_push_that_fails_is_told_on_the_delivery(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    hook = await add(cluster, image="broken:1")
    answer = await deliver(cluster, GITHUB, github_push())
    done = await ended(cluster, hook["id"], answer.json["deliveries"][0]["delivery"])
    assert done["state"] == "failed"
    assert "broken:1 not found" in done["reason"]
    cluster.worker.machine.registry.clear()
    path = f"/api/v1/webhooks/{hook['id']}/redeliver"
    again = await cluster.call("POST", path, {"delivery": done["delivery"]})
    assert (again.status, again.json["again_of"]) == (202, done["delivery"])
    assert (await ended(cluster, hook["id"], again.json["delivery"]))["state"] == "deployed"


async def test_a_hook_acts_with_its_owners_rights_as_they_are_now(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    token = await cluster.add_token(Role.DEPLOYER)
    body = {"repo": "shop/web", "service_name": "web", "image": "app:2", "secret": SECRET}
    made = await cluster.call("POST", "/api/v1/webhooks", body, token=token)
    assert (made.status, made.json["owner"]) == (201, "deployer")
    tried = await cluster.call("POST", f"/api/v1/webhooks/{made.json['id']}/test")
    assert (tried.status, tried.json["ok"]) == (200, "a push would deploy app:2")
    await cluster.call("DELETE", "/api/v1/tokens/deployer")
    answer = await deliver(cluster, GITHUB, github_push())
    done = await ended(cluster, made.json["id"], answer.json["deliveries"][0]["delivery"])
    assert done["state"] == "failed"
    assert "was revoked" in done["reason"]


async def test_a_stopped_service_is_not_started_by_a_push(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    hook = await add(cluster)
    await cluster.call("DELETE", "/api/v1/services/web")
    answer = await deliver(cluster, GITHUB, github_push())
    done = await ended(cluster, hook["id"], answer.json["deliveries"][0]["delivery"])
    assert (done["state"], done["reason"]) == ("failed", "service web is stopped; start it")


async def test_wh_17_mistakes_are_named_and_unknown_services_refused(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    given = {"repo": "shop/web", "service_name": "web"}
    for wrong, field in (
        ({"secret": "short"}, "secret"),
        ({"secret": ""}, "secret"),
        ({"image": "a:{who}"}, "image"),
        ({"forge": "sourceforge"}, "forge"),
    ):
        answer = await cluster.call("POST", "/api/v1/webhooks", given | wrong)
        assert answer.status == 400
        assert answer.json["problems"][0]["field"] == field
    unknown = await cluster.call("POST", "/api/v1/webhooks", given | {"service_name": "nobody"})
    assert unknown.status == 404


async def test_hooks_are_removed_by_id_or_by_service(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    first, _ = await add(cluster), await add(cluster, branch="next")
    removed = await cluster.call("DELETE", f"/api/v1/webhooks/{first['id']}")
    assert removed.json == {"status": "removed", "count": 1}
    removed = await cluster.call("DELETE", "/api/v1/webhooks/web")
    assert removed.json == {"status": "removed", "count": 1}
    assert (await cluster.call("DELETE", "/api/v1/webhooks/web")).status == 404
    answer = await deliver(cluster, GITHUB, github_push())
    assert answer.status == 401


async def test_wh_34_a_token_in_the_query_is_not_looked_at(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await add(cluster, forge="gitlab")
    body = json.dumps(gitlab_push()).encode()
    path = f"/api/v1/webhooks/gitlab?X-Gitlab-Token={SECRET}"
    answer = await deliver(cluster, path, body, {"Content-Type": "application/json"})
    assert answer.status in (400, 401)
    await eventually(lambda: True)
