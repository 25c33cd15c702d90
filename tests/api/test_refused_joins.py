"""Who is not let in is told why, and stands in the trail; guessing does not fill it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inprocess import InProcess
from orca_common.real import real_env
from orca_master.cluster.model import NODES
from orca_master.cluster.refusals import NOTED_PER_MINUTE, Refusals
from orca_master.errors import Forbidden
from orca_proto.identity import NodeRole
from orca_proto.join import JoinToken, NotAToken, parse
from orca_worker.enrol import CannotJoin, join

GRANT = "/api/v1/cluster/join-tokens"


async def token_text(cluster: InProcess, **options: Any) -> str:
    answer = await cluster.call("POST", GRANT, options)
    assert answer.status == 201, answer.text
    return str(answer.json["token"])


async def refusals(cluster: InProcess) -> list[dict[str, Any]]:
    events = (await cluster.call("GET", "/api/v1/audit?limit=1000")).json["events"]
    return [event for event in events if event["action"].endswith("join-refused")]


async def test_every_token_that_is_not_good_is_refused_with_its_reason_cl_01(
    cluster: InProcess, tmp_path: Path
) -> None:
    text = await token_text(cluster)
    good = parse(text)
    short = await token_text(cluster, ttl=1.0)
    master = await token_text(cluster, role="master")
    once = await token_text(cluster)
    await join(cluster.api, parse(once), "first", tmp_path / "first")
    await asyncio.sleep(1.1)
    cases = [
        (JoinToken(good.ca_fingerprint, bytes(32)).text(), "not known here"),
        (JoinToken(bytes(32), good.seed).text(), "not the cluster"),
        (short, "has expired"),
        (master, "lets a master join, not a worker"),
        (once, "used up"),
    ]
    for number, (bad, reason) in enumerate(cases):
        with pytest.raises(CannotJoin, match=reason):
            await join(cluster.api, parse(bad), f"bad-{number}", tmp_path / str(number))
    noted = {event["resource"]: event["details"]["reason"] for event in await refusals(cluster)}
    assert noted.keys() == {"nodes/bad-0", "nodes/bad-2", "nodes/bad-3", "nodes/bad-4"}
    assert "make a new one" in noted["nodes/bad-2"]
    names = {node.name for node in cluster.core.store.state.scan(NODES)}
    assert not names & {f"bad-{number}" for number in range(len(cases))}


def with_another(text: str, at: int) -> str:
    """Another character at this place."""
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


async def test_a_token_with_one_character_changed_or_cut_lets_nobody_in_cl_01(
    cluster: InProcess, tmp_path: Path
) -> None:
    text = await token_text(cluster)

    async def try_it(changed: str) -> None:
        await join(cluster.api, parse(changed), "typo", tmp_path / "typo")

    last = text[:-1] + chr(ord(text[-1]) ^ 1)
    for changed in (last, *(with_another(text, at) for at in range(0, len(text), 9))):
        with pytest.raises((NotAToken, CannotJoin)):
            await try_it(changed)
    for length in (0, 10, len(text) // 2, len(text) - 2):
        with pytest.raises(NotAToken, match="make one with"):
            parse(text[:length])
    await join(cluster.api, parse(text), "typo", tmp_path / "good")


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def thread_time(self) -> float:
        return 0.0


async def test_guessing_does_not_fill_the_trail_cl_01(cluster: InProcess) -> None:
    hand = Hand()
    counted = Refusals(replace(real_env(threads=1), clock=hand), cluster.core.store)

    async def refuse(times: int, raised: Callable[[], Exception]) -> None:
        for _ in range(times):
            with pytest.raises(Forbidden, match="no token"):
                async with counted.noted(NodeRole.WORKER, "guess", "ab" * 32):
                    raise raised()

    await refuse(NOTED_PER_MINUTE + 25, lambda: Forbidden("no token"))
    assert len(await refusals(cluster)) == NOTED_PER_MINUTE
    hand.at += 60.0
    await refuse(1, lambda: Forbidden("no token"))
    newest, *others = await refusals(cluster)
    assert newest["details"]["left_out"] == "25"
    assert len(others) == NOTED_PER_MINUTE
    assert newest["actor"] == "token abababab"


async def test_who_asks_to_join_too_often_is_held_back_cl_04(cluster: InProcess) -> None:
    body = {"name": "x", "token": "00" * 32, "request": "AAAA", "signature": "AAAA"}
    statuses = set()
    async with cluster.waiting():
        while 429 not in statuses:
            async with cluster.client.post("/api/v1/cluster/enroll", json=body) as answer:
                statuses.add(answer.status)
                await answer.read()
    assert int(answer.headers["Retry-After"]) > 0
    assert (await cluster.call("GET", "/api/v1/cluster/info")).status == 200


async def test_a_token_gives_its_labels_to_the_node_that_joins(
    cluster: InProcess, tmp_path: Path
) -> None:
    token = parse(await token_text(cluster, labels={"disk": "ssd", "zone": "a"}))
    member = await join(cluster.api, token, "labelled", tmp_path / "a")
    node = cluster.core.store.state.get(NODES, member.node_id)
    assert node is not None
    assert node.labels == {"disk": "ssd", "zone": "a"}
    info = (await cluster.call("GET", "/api/v1/cluster/info")).json
    shown = next(node for node in info["nodes"] if node["name"] == "labelled")
    assert shown["labels"] == {"disk": "ssd", "zone": "a"}
    refused = await cluster.call("POST", GRANT, {"role": "master", "labels": {"a": "b"}})
    assert refused.status == 400
    assert "a master runs no tasks" in refused.text
    assert (await cluster.call("POST", GRANT, {"labels": {"no good": "x"}})).status == 400
