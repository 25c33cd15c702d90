"""Secrets through the API: set, used, rolled out, taken back, removed, sealed anew; and never told."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inprocess import Answer, InProcess, eventually
from orca_master.identity.model import Role
from orca_master.identity.secrets import operations
from orca_master.identity.secrets.model import DATA_KEYS, SECRET_VERSIONS, SECRETS
from orca_master.services import strategy
from orca_master.state.transaction import Transaction

PATH = "/api/v1/secrets"
PLANTED = "planted-5f1e77c0"
USES = {"name": "web", "env": {"PASSWORD": "is ${secrets.KEY}!", "PLAIN": "$${secrets.KEY}"}}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "SETTLE_SECONDS", 0.05)


async def put(cluster: InProcess, key: str, value: str, **fields: Any) -> Answer:
    return await cluster.call("PUT", f"{PATH}/{key}", {"value": value} | fields)


def given(cluster: InProcess) -> list[dict[str, str]]:
    """The variables with secrets of all that exists on the node."""
    return [dict(thing.spec.secret_env) for thing in cluster.worker.machine.things.values()]


async def until_given(cluster: InProcess, value: str) -> None:
    wanted = [{"PASSWORD": f"is {value}!"}]
    await eventually(lambda: given(cluster) == wanted)


async def test_a_value_reaches_the_task_and_nothing_else_is_expanded(cluster: InProcess) -> None:
    assert (await put(cluster, "KEY", "${secrets.OTHER}")).status == 200
    assert (await cluster.deploy(USES)).status == 200
    (thing,) = cluster.worker.machine.things.values()
    assert dict(thing.spec.secret_env) == {"PASSWORD": "is ${secrets.OTHER}!"}
    assert dict(thing.spec.env) == {"PLAIN": "${secrets.KEY}"}


async def test_files_hold_a_secret_or_a_text_with_secrets(cluster: InProcess) -> None:
    await put(cluster, "KEY", "AP8A", encoding="base64")
    await put(cluster, "TEXT", "hello")
    files = [
        {"path": "/run/secrets/a/raw", "secret": "KEY", "mode": "0400"},
        {"path": "/run/secrets/ini", "content": "x = ${secrets.TEXT}\n"},
    ]
    assert (await cluster.deploy({"name": "web", "files": files})).status == 200
    (thing,) = cluster.worker.machine.things.values()
    assert [(f.path, f.content, f.mode) for f in thing.spec.secret_files] == [
        ("a/raw", b"\0\xff\0", 0o400),
        ("ini", b"x = hello\n", 0o444),
    ]
    in_env = await cluster.deploy({"name": "env", "env": {"A": "${secrets.KEY}"}})
    assert in_env.json["errors"] == ["env: secret KEY is no text: give it in files, not in env"]
    refused = await put(cluster, "TEXT", "AP8A", encoding="base64", project=None)
    assert refused.status == 200  # only files have it
    await put(cluster, "TEXT", "text again")
    await cluster.deploy({"name": "env", "env": {"A": "${secrets.TEXT}"}})
    refused = await put(cluster, "TEXT", "AP8A", encoding="base64")
    assert refused.status == 409
    assert "in the env of env" in refused.json["error"]


async def test_a_change_rolls_its_users_and_a_rollback_brings_the_old_value_back(
    cluster: InProcess,
) -> None:
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES, {"name": "other"})
    done = (await put(cluster, "KEY", "two")).json
    assert done | {"rolling": done["rolling"]} == {
        "key": "KEY", "project": None, "version": 2, "changed": True,
        "rolling": ["web"], "outdated": [],
    }  # fmt: skip
    await until_given_once(cluster, "two")
    await cluster.until("web", revision=2, status="running")
    revisions = (await cluster.call("GET", "/api/v1/services/web/revisions")).json["revisions"]
    told = [(r["revision"], r["message"], r["secrets"]) for r in revisions]
    assert told == [(2, "secret KEY changed", {"KEY": 2}), (1, "", {"KEY": 1})]
    assert (await cluster.status("other"))["revision"] == 1
    await until_settled(cluster)
    assert (await cluster.call("POST", "/api/v1/services/web/rollback")).status == 200
    await until_given_once(cluster, "one")
    usage = (await cluster.call("GET", f"{PATH}/usage")).json["secrets"]
    assert [(u["version"], [s["wanted"] for s in u["users"]]) for u in usage] == [(2, [1])]


async def until_given_once(cluster: InProcess, value: str) -> None:
    """The one replica that is left of the service has it."""
    await eventually(lambda: [g for g in given(cluster) if g] == [{"PASSWORD": f"is {value}!"}])


async def until_settled(cluster: InProcess) -> None:
    async with cluster.waiting():
        while True:
            answer = await cluster.call("GET", "/api/v1/services/web/deployments")
            if answer.json["deployments"][0]["state"] == "succeeded":
                return
            await asyncio.sleep(0.02)


async def test_no_roll_says_who_has_the_old_one_and_the_next_deploy_brings_it(
    cluster: InProcess,
) -> None:
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES)
    done = (await put(cluster, "KEY", "two", roll=False)).json
    assert (done["rolling"], done["outdated"]) == ([], ["web"])
    again = (await put(cluster, "KEY", "two", roll=False)).json
    assert (again["version"], again["changed"], again["outdated"]) == (2, False, ["web"])
    assert (await cluster.status("web"))["revision"] == 1
    await until_given(cluster, "one")
    assert (await cluster.deploy(USES)).status == 200
    assert (await cluster.status("web"))["revision"] == 2
    await until_given(cluster, "two")
    assert (await cluster.deploy(USES)).status == 200
    assert (await cluster.status("web"))["revision"] == 2


async def test_the_same_value_again_rolls_who_was_left_behind(cluster: InProcess) -> None:
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES)
    await put(cluster, "KEY", "two", roll=False)
    assert (await put(cluster, "KEY", "two")).json["rolling"] == ["web"]
    await until_given(cluster, "two")


async def test_who_uses_several_that_were_set_is_rolled_out_once(cluster: InProcess) -> None:
    """As `orca secrets import` sets them: all of them first."""
    for key in "AB":
        await put(cluster, key, "one")
    await cluster.deploy({"name": "web", "env": {"X": "${secrets.A}${secrets.B}"}})
    for roll in (False, True):
        for key in "AB":
            await put(cluster, key, "two", roll=roll)
    await eventually(lambda: given(cluster) == [{"X": "twotwo"}])
    assert (await cluster.status("web"))["revision"] == 2


async def test_a_projects_own_secret_takes_the_place_of_the_clusters(cluster: InProcess) -> None:
    await put(cluster, "KEY", "all")
    await cluster.deploy(USES | {"project": "shop"})
    done = (await put(cluster, "KEY", "own", project="shop")).json
    assert done["rolling"] == ["shop/web"]
    await until_given(cluster, "own")
    assert (await put(cluster, "KEY", "all two")).json["rolling"] == []
    listed = (await cluster.call("GET", f"{PATH}?project=shop")).json["secrets"]
    assert [(s["project"], s["version"]) for s in listed] == [(None, 2), ("shop", 1)]
    listed = (await cluster.call("GET", f"{PATH}?project=other")).json["secrets"]
    assert [s["project"] for s in listed] == [None]


async def test_one_in_use_is_removed_only_with_force_and_then_it_is_told(
    cluster: InProcess,
) -> None:
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES)
    refused = await cluster.call("DELETE", f"{PATH}/KEY")
    assert refused.status == 409
    assert "secret KEY is used by web" in refused.json["error"]
    removed = await cluster.call("DELETE", f"{PATH}/KEY?force=true")
    assert removed.json == {"ok": "removed secret KEY", "users": ["web"]}
    assert list(cluster.core.store.state.scan(SECRET_VERSIONS)) == []
    await cluster.worker.kill()
    cluster.worker.start()
    await cluster.until("web", status="running")  # what runs goes on, also under a new worker
    (task,) = cluster.worker.machine.things
    cluster.worker.runtime.crash(task, 3)
    why = "version 1 of secret KEY was removed: set it again with `orca secrets set KEY`"
    await until_told(cluster, why)
    assert (await put(cluster, "KEY", "two")).json["version"] == 2
    await until_given(cluster, "two")
    await until_settled(cluster)
    back = await cluster.call("POST", "/api/v1/services/web/rollback?revision=1")
    assert back.status == 409
    assert "version 1 of secret KEY" in back.json["error"]
    assert (await cluster.call("DELETE", f"{PATH}/NONE")).status == 404


async def test_a_removed_secret_leaves_nothing_once_nobody_names_it(cluster: InProcess) -> None:
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES)
    await cluster.call("DELETE", f"{PATH}/KEY?force=true")
    await cluster.call("DELETE", "/api/v1/services/web?purge=true")
    await eventually(lambda: cluster.worker.machine.things == {})
    await put(cluster, "LATER", "x")
    await eventually(lambda: [s.key for s in cluster.core.store.state.scan(SECRETS)] == ["LATER"])


async def test_all_is_sealed_anew_under_load_and_the_old_key_is_forgotten(
    cluster: InProcess,
) -> None:
    for number in range(150):
        await put(cluster, f"K{number}", "x" * 4000)
    await put(cluster, "KEY", "zero")
    await cluster.deploy(USES)
    before = {row.key: row.ciphertext for row in cluster.core.store.state.scan(SECRET_VERSIONS)}
    answer = await cluster.call("POST", f"{PATH}/rotate-key")
    assert (answer.status, answer.json["number"]) == (202, 2)
    for number in range(10):
        assert (await put(cluster, "KEY", f"value {number}")).status == 200
    await eventually(lambda: [k.number for k in cluster.core.store.state.scan(DATA_KEYS)] == [2])
    rows = list(cluster.core.store.state.scan(SECRET_VERSIONS))
    assert {row.data_key for row in rows} == {2}
    assert not {row.ciphertext for row in rows} & set(before.values())
    shown = (await cluster.call("GET", PATH)).json["data_key"]
    assert (shown["number"], shown["left"]) == (2, 0)
    await eventually(lambda: {"PASSWORD": "is value 9!"} in given(cluster))


async def test_who_may(cluster: InProcess) -> None:
    await put(cluster, "KEY", "x")
    viewer, deployer = [await cluster.add_token(role) for role in (Role.VIEWER, Role.DEPLOYER)]
    assert (await cluster.call("GET", PATH, token=viewer)).status == 403
    assert (await cluster.call("GET", PATH, token=deployer)).status == 200
    body = {"value": "y"}
    assert (await cluster.call("PUT", f"{PATH}/A", body, token=deployer)).status == 403
    made = {"name": "of-shop", "role": "admin", "project": "shop"}
    shop = (await cluster.call("POST", "/api/v1/tokens", made)).json["token"]
    own = await cluster.call("PUT", f"{PATH}/KEY", body, token=shop)
    assert (own.status, own.json["project"]) == (200, "shop")
    other = body | {"project": "other"}
    assert (await cluster.call("PUT", f"{PATH}/KEY", other, token=shop)).status == 403
    assert (await cluster.call("POST", f"{PATH}/rotate-key", token=shop)).status == 403
    assert (await cluster.call("DELETE", f"{PATH}/KEY", token=shop)).status == 200
    assert (await cluster.call("DELETE", f"{PATH}/KEY", token=shop)).status == 404
    shown = (await cluster.call("GET", PATH, token=shop)).json["secrets"]
    assert [(s["project"], s["key"]) for s in shown] == [(None, "KEY")]


HOSTILE: list[tuple[str, Any, int]] = [
    ("KEY", {"value": "x" * (64 * 1024 + 1)}, 413),
    ("KEY", {"value": "é" * (32 * 1024 + 1)}, 413),
    ("KEY", {"value": ""}, 400),
    ("KEY", {"value": None}, 400),
    ("KEY", {"value": 5}, 400),
    ("KEY", {"value": [PLANTED]}, 400),
    ("KEY", {"value": PLANTED, "encoding": "base64"}, 400),
    ("KEY", {"value": PLANTED, "encoding": "rot13"}, 400),
    ("KEY", {"value": PLANTED, "project": "../x"}, 400),
    ("KEY", {"value": PLANTED, "more": PLANTED}, 400),
    ("KEY", {"key": PLANTED}, 400),
    ("1KEY", {"value": PLANTED}, 400),
    ("K.EY", {"value": PLANTED}, 400),
    ("A%2FB", {"value": PLANTED}, 400),
    ("%E2%80%AE", {"value": PLANTED}, 400),
    ("K" * 129, {"value": PLANTED}, 400),
]


@pytest.mark.parametrize(("key", "body", "status"), HOSTILE)
async def test_what_is_no_secret_is_refused_and_not_repeated(
    cluster: InProcess, key: str, body: Any, status: int
) -> None:
    answer = await cluster.call("PUT", f"{PATH}/{key}", body)
    assert answer.status == status, answer.text
    assert PLANTED not in answer.text
    assert len(answer.text) < 2000
    assert list(cluster.core.store.state.scan(SECRETS)) == []


async def test_a_broken_body_is_not_repeated(cluster: InProcess) -> None:
    headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"}
    raw = f'{{"value": "{PLANTED}", "value": "{PLANTED}"}}'.encode()
    for body in (raw, raw[:-5], b"\xff" + raw):
        async with cluster.client.put(f"{PATH}/KEY", data=body, headers=headers) as response:
            assert response.status == 400
            assert PLANTED not in await response.text()


async def test_a_key_that_would_keep_a_hash_of_the_value_is_refused(cluster: InProcess) -> None:
    answer = await cluster.call(
        "PUT", f"{PATH}/KEY", {"value": PLANTED}, headers={"Idempotency-Key": "k"}
    )
    assert answer.status == 400


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"command": ["sh", "-c", "${secrets.KEY}"]}, "secret KEY is in a command"),
        ({"entrypoint": ["${secrets.KEY}"]}, "secret KEY is in a command"),
        ({"env": {"A": "${secrets.${secrets.KEY}}"}}, "cannot come from another secret"),
        ({"env": {"A": "${secrets.other.KEY}"}}, "another project"),
        ({"files": [{"path": "/etc/passwd", "secret": "KEY"}]}, "below /run/secrets"),
        ({"files": [{"path": "/run/secrets/../x", "secret": "KEY"}]}, "below /run/secrets"),
        ({"files": [{"path": "/run/secrets/.x", "secret": "KEY"}]}, "below /run/secrets"),
        ({"files": [{"path": "/run/secrets/a"}]}, "either secret or content"),
        ({"files": [{"path": "/run/secrets/a", "secret": "KEY", "mode": "0666"}]}, "anybody write"),
        ({"files": [{"path": f"/run/secrets/{p}", "secret": "KEY"} for p in "aa"]}, "twice"),
        (
            {"files": [{"path": f"/run/secrets/{p}", "secret": "KEY"} for p in ("a", "a/b")]},
            "a file and a folder",
        ),
        (
            {
                "files": [{"path": "/run/secrets/a", "secret": "KEY"}],
                "volumes": [{"name": "v", "target": "/run/secrets"}],
            },
            "choose another target",
        ),
    ],
)
async def test_services_that_cannot_be_say_why(
    cluster: InProcess, fields: dict[str, Any], why: str
) -> None:
    await put(cluster, "KEY", "x")
    answer = await cluster.deploy({"name": "web"} | fields)
    assert answer.status == 400
    assert why in answer.json["error"]


async def test_expansion_has_bounds_also_when_a_value_grows(cluster: InProcess) -> None:
    await put(cluster, "KEY", "x")
    many = {"name": "web", "env": {"A": "${secrets.KEY}" * 1000}}
    assert (await cluster.deploy(many)).status == 200
    await put(cluster, "KEY", "x" * 60_000)
    await until_told(cluster, "larger than 256 KiB")
    refused = await cluster.deploy(many | {"name": "other"})
    assert "larger than 256 KiB" in refused.json["errors"][0]
    refused = await cluster.deploy(many | {"env": {"A": "${secrets.KEY}" * 1001}})
    assert "more than 1000 times" in refused.json["error"]


async def until_told(cluster: InProcess, why: str) -> None:
    """The service's status says this of a replica."""
    async with cluster.waiting():
        while why not in str(await cluster.status("web")):
            await asyncio.sleep(0.02)


async def test_a_stopped_service_gets_the_new_value_when_it_is_started(cluster: InProcess) -> None:
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES)
    await cluster.call("POST", "/api/v1/services/web/stop")
    await eventually(lambda: cluster.worker.machine.things == {})
    assert (await put(cluster, "KEY", "two")).json["rolling"] == ["web"]
    await cluster.until("web", revision=2)
    await cluster.call("POST", "/api/v1/services/web/start")
    await until_given(cluster, "two")


async def test_with_ten_thousand_secrets_all_goes_on_and_one_more_is_refused(
    cluster: InProcess,
) -> None:
    """What looks at all of them is not done inside of a transaction, which may take 20 ms."""
    vault, store = cluster.core.vault, cluster.core.store
    await put(cluster, "KEY", "one")
    await cluster.deploy(USES)

    def fill(tx: Transaction, first: int) -> None:
        for number in range(first, first + 45):
            operations.set_secret(
                tx,
                vault,
                tenant="default",
                project="",
                key=f"K{number}",
                value=b"x" * 40,
                used=(),
                roll=False,
                by="me",
                now=0.0,
            )

    fills = [store.update(partial(fill, first=first)) for first in range(0, 9990, 45)]
    await asyncio.gather(*fills)
    for number in range(9990, 9999):
        assert (await put(cluster, f"K{number}", "x")).status == 200
    refused = await put(cluster, "ONE_MORE", "x")
    assert refused.status == 409
    assert (await put(cluster, "KEY", "two")).json["rolling"] == ["web"]
    await until_given_once(cluster, "two")
    assert (await cluster.call("POST", f"{PATH}/rotate-key")).status == 202
    await eventually(lambda: [k.number for k in store.state.scan(DATA_KEYS)] == [2])
    assert len((await cluster.call("GET", PATH)).json["secrets"]) == operations.MOST_SECRETS
    assert (await cluster.call("DELETE", f"{PATH}/K5")).status == 200
    assert (await put(cluster, "ONE_MORE", "x")).status == 200


async def test_a_planted_value_is_nowhere_but_in_its_task(
    cluster: InProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every GET of the API, the trail, our logs, and every file of the master: EV-20, AZ-23."""
    caplog.set_level("DEBUG")
    await put(cluster, "KEY", PLANTED)
    await put(cluster, "KEY", PLANTED + "-two", project="default")
    files = [{"path": "/run/secrets/a", "content": "x ${secrets.KEY}"}]
    await cluster.deploy(USES | {"files": files}, {"name": "innocent"})
    await put(cluster, "KEY", PLANTED + "-three", project="default")
    await until_given_once(cluster, PLANTED + "-three")
    await cluster.call("POST", f"{PATH}/rotate-key")
    await eventually(lambda: cluster.core.store.state.count(DATA_KEYS) == 1)
    texts = []
    for route in cluster.routes:
        if route.method == "GET" and not route.is_stream and "logs" not in route.path:
            path = route.path.replace("{name}", "web")
            texts.append((await cluster.call("GET", path)).text)
    assert len([text for text in texts if "KEY" in text]) >= 4
    trail = json.loads(next(text for text in texts if '"secret.set"' in text))
    assert "secrets/default/KEY" in json.dumps(trail)
    texts += [record.getMessage() + str(record.__dict__) for record in caplog.records]
    assert [text for text in texts if PLANTED in text] == []
    written = [path for path in (tmp_path / "master").rglob("*") if path.is_file()]
    assert any(path.name == "history.db" for path in written)
    assert [path for path in written if PLANTED.encode() in path.read_bytes()] == []
    state = cluster.core.store.state
    assert [key for _, key, raw in state.raw_rows() if PLANTED.encode() in raw] == []
    (other,) = [t for t in cluster.worker.machine.things.values() if t.task.service == "innocent"]
    assert PLANTED not in str(other.spec)
