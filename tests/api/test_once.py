"""`Idempotency-Key`: asking again is exact. FAULTS CO-12 is here."""

import asyncio
from pathlib import Path

from inprocess import InProcess, in_process
from orca_master.control.sweeping import Sweeper
from orca_master.http import once
from orca_master.http.once import DONE, KEPT_SECONDS

DEPLOY = {"services": [{"name": "web", "image": "app:1", "replicas": 2}]}


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def test_a_change_under_a_key_is_made_once_and_answers_the_same(cluster: InProcess) -> None:
    first = await cluster.call("POST", "/api/v1/deploy", DEPLOY, headers=keyed("k1"))
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 5})
    again = await cluster.call("POST", "/api/v1/deploy", DEPLOY, headers=keyed("k1"))
    assert (first.status, first.json["deployed"], first.json["errors"]) == (200, ["web"], [])
    assert (again.status, again.json) == (first.status, first.json)
    shown = await cluster.status("web")
    assert shown["replicas"] == 5, "the second request of the key has not set it back to 2"


async def test_the_same_key_with_another_body_is_a_422_co_12(cluster: InProcess) -> None:
    scale = "/api/v1/services/web/scale"
    await cluster.deploy({"name": "web"})
    assert (await cluster.call("POST", scale, {"replicas": 3}, headers=keyed("k"))).status == 200
    other = await cluster.call("POST", scale, {"replicas": 4}, headers=keyed("k"))
    assert (other.status, other.json["code"]) == (422, "KEY_REUSED")
    assert "another request" in other.json["error"]
    assert (await cluster.status("web"))["replicas"] == 3


async def test_what_was_refused_is_not_kept_and_may_be_asked_again(cluster: InProcess) -> None:
    scale = "/api/v1/services/web/scale"
    early = await cluster.call("POST", scale, {"replicas": 3}, headers=keyed("k"))
    assert early.status == 404
    await cluster.deploy({"name": "web"})
    late = await cluster.call("POST", scale, {"replicas": 3}, headers=keyed("k"))
    assert (late.status, late.json) == (200, {"service": "web", "replicas": 3})


async def test_many_at_once_under_one_key_are_one_change(cluster: InProcess) -> None:
    before = cluster.core.store.state.version
    answers = await asyncio.gather(
        *(
            cluster.call(
                "POST",
                "/api/v1/deploy",
                DEPLOY,
                headers=keyed("k"),
                params={"wait": "false"},
            )
            for _ in range(20)
        )
    )
    assert {answer.status for answer in answers} == {202}
    assert all(answer.json == answers[0].json for answer in answers)
    assert cluster.core.store.state.count(DONE) == 1
    assert cluster.core.store.state.version > before


async def test_a_key_outlives_a_restart(tmp_path: Path) -> None:
    async with in_process(tmp_path / "m", with_node=False) as first:
        done = await first.call(
            "POST", "/api/v1/deploy", DEPLOY, headers=keyed("k"), params={"wait": "false"}
        )
        await first.call("POST", "/api/v1/services/web/scale", {"replicas": 0})
    async with in_process(tmp_path / "m", with_node=False) as second:
        again = await second.call(
            "POST", "/api/v1/deploy", DEPLOY, headers=keyed("k"), params={"wait": "false"}
        )
        assert again.json == done.json
        assert (await second.status("web"))["replicas"] == 0


async def test_a_key_that_is_no_key_and_one_where_none_is_kept_are_refused(
    cluster: InProcess,
) -> None:
    long = await cluster.call("POST", "/api/v1/stop", headers=keyed("k" * 256))
    assert (long.status, long.json["problems"][0]["field"]) == (400, "Idempotency-Key")
    token = await cluster.call("POST", "/api/v1/cluster/join-tokens", {}, headers=keyed("k"))
    assert token.status == 400
    assert "keeps no result" in token.json["error"]


async def test_old_keys_are_forgotten(cluster: InProcess) -> None:
    core = cluster.core
    await cluster.call("POST", "/api/v1/stop", headers=keyed("old"))
    (kept,) = core.store.state.scan(DONE)
    old = type(kept)(
        kept.tenant, kept.key, kept.fingerprint, kept.result, at=kept.at - KEPT_SECONDS
    )
    await core.store.update(lambda tx: tx.put(DONE, old))
    await cluster.call("POST", "/api/v1/stop", headers=keyed("new"))
    await Sweeper(core.env, core.store, once.old, once.forget).sweep()
    assert [done.key for done in core.store.state.scan(DONE)] == ["new"]
