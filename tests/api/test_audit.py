"""The trail: every change with who made it, in the same commit."""

from pathlib import Path
from typing import Any

from inprocess import InProcess, in_process


async def events(cluster: InProcess, **params: str) -> list[dict[str, Any]]:
    answer = await cluster.call("GET", "/api/v1/audit", params=params)
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = answer.json["events"]
    return found


async def test_changes_are_noted_newest_first_with_who_made_them(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "project": "shop"})
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 3})
    await cluster.call("DELETE", "/api/v1/services/web")
    found = await events(cluster)
    assert [(e["actor"], e["action"], e["resource"]) for e in found] == [
        ("admin", "service.stop", "services/shop/web"),
        ("admin", "service.scale", "services/shop/web"),
        ("admin", "service.deploy", "services/shop/web"),
    ]
    assert found[1]["details"] == {"replicas": "3"}


async def test_what_was_refused_or_changed_nothing_is_not_noted(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await cluster.deploy({"name": "web"})
    await cluster.call("POST", "/api/v1/services/nope/scale", {"replicas": 3})
    assert [e["action"] for e in await events(cluster)] == ["service.deploy"]


async def test_pages_follow_each_other_without_a_gap(cluster: InProcess) -> None:
    for number in range(7):
        await cluster.deploy({"name": f"s{number}"}, wait="false")
    seen: list[str] = []
    before: dict[str, str] = {}
    while True:
        answer = await cluster.call("GET", "/api/v1/audit", params={"limit": "3"} | before)
        seen += [event["resource"] for event in answer.json["events"]]
        if answer.json["next"] is None:
            break
        before = {"before": answer.json["next"]}
    assert seen == [f"services/default/s{number}" for number in reversed(range(7))]


async def test_one_resource_can_be_asked_for(cluster: InProcess) -> None:
    await cluster.deploy({"name": "a"}, {"name": "b"})
    assert [e["resource"] for e in await events(cluster, resource="services/default/b")] == [
        "services/default/b"
    ]


async def test_a_restart_keeps_the_trail(tmp_path: Path) -> None:
    async with in_process(tmp_path / "m", with_node=False) as first:
        await first.deploy({"name": "web"}, wait="false")
    async with in_process(tmp_path / "m", with_node=False) as second:
        assert [e["action"] for e in await events(second)] == ["service.deploy"]


async def test_a_place_that_is_none_is_refused(cluster: InProcess) -> None:
    answer = await cluster.call("GET", "/api/v1/audit", params={"before": "x"})
    assert answer.status == 400
