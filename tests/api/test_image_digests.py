"""A tag means for a revision ever after what it meant when the revision first ran."""

from typing import Any

import pytest

from inprocess import InProcess, eventually

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
TAG = "shop/web:main"


def a_web(**fields: Any) -> dict[str, Any]:
    return {"name": "web", "image": TAG} | fields


def images(cluster: InProcess) -> set[str]:
    """What containers were made from, and what is really in them."""
    things = cluster.worker.machine.things.values()
    return {thing.container.image for thing in things}


async def revisions(cluster: InProcess) -> dict[int, str | None]:
    answer = await cluster.call("GET", "/api/v1/services/web/revisions")
    return {r["revision"]: r["image_digest"] for r in answer.json["revisions"]}


async def test_the_tag_moves_and_replicas_of_a_revision_stay_the_same(cluster: InProcess) -> None:
    tags = cluster.worker.machine.digests
    tags[TAG] = OLD
    await cluster.deploy(a_web())
    assert await revisions(cluster) == {1: OLD}
    (task,) = (await cluster.status("web"))["tasks"]
    assert (task["image_digest"], task["image_id"]) == (OLD, OLD)
    tags[TAG] = NEW

    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 3})
    await cluster.until("web", running_replicas=3)
    assert images(cluster) == {OLD}
    cluster.worker.runtime.crash(next(iter(cluster.worker.machine.things)), 1)
    await cluster.until("web", running_replicas=2)
    await cluster.until("web", running_replicas=3)
    await eventually(lambda: len(images(cluster)) == 1)
    assert images(cluster) == {OLD}

    unchanged = await cluster.deploy(a_web(replicas=3))
    assert unchanged.json["outcomes"][0]["revision"] == 1
    await cluster.call("POST", "/api/v1/services/web/restart")
    await cluster.until("web", status="running", stable_revision=2)
    assert await revisions(cluster) == {1: OLD, 2: OLD}
    await eventually(lambda: images(cluster) == {OLD})


async def test_a_new_revision_takes_what_the_tag_means_now_and_a_rollback_what_it_meant(
    cluster: InProcess,
) -> None:
    tags = cluster.worker.machine.digests
    tags[TAG] = OLD
    await cluster.deploy(a_web(replicas=2))
    tags[TAG] = NEW
    await cluster.deploy(a_web(replicas=2, env={"MODE": "new"}))
    assert await revisions(cluster) == {1: OLD, 2: NEW}
    await eventually(lambda: images(cluster) == {NEW})
    tags[TAG] = f"sha256:{'c' * 64}"
    await cluster.call("POST", "/api/v1/services/web/rollback")
    await cluster.until("web", status="running", revision=1, rollout=None)
    await eventually(lambda: images(cluster) == {OLD})


class Moving(dict[str, str]):
    """A tag that moves between two replicas of one rollout."""

    def __init__(self) -> None:
        self.left = [OLD, NEW]

    def get(self, key: str, default: Any = None) -> Any:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


async def test_a_replica_that_found_another_image_in_the_race_is_told_and_replaced(
    cluster: InProcess,
) -> None:
    cluster.worker.machine.digests = Moving()
    answer = await cluster.deploy(a_web(replicas=3))
    assert answer.json["outcomes"][0]["state"] == "running"
    await cluster.until("web", status="running", running_replicas=3)
    digest = (await revisions(cluster))[1]
    await eventually(lambda: images(cluster) == {digest})
    found = await cluster.call("GET", "/api/v1/services/web/deployments")
    said = [sentence["text"] for sentence in found.json["deployments"][0]["said"]]
    moved = [text for text in said if f"under {TAG}, and revision 1 is {digest[:19]}…" in text]
    assert moved
    assert moved[0].endswith("the tag has moved; it is replaced")


@pytest.mark.parametrize(
    ("service", "digest"),
    [
        (a_web(image="built:here"), None),
        (a_web(image=TAG, pull_policy="never"), None),
        (a_web(image=f"{TAG}@{NEW}"), NEW),
    ],
)
async def test_what_has_no_registry_or_names_its_digest_is_left_as_it_is(
    cluster: InProcess, service: dict[str, Any], digest: str | None
) -> None:
    machine = cluster.worker.machine
    machine.digests[TAG] = OLD
    if machine.images is not None:
        machine.images.add(TAG)
    await cluster.deploy(service)
    await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 2})
    await cluster.until("web", running_replicas=2)
    assert await revisions(cluster) == {1: digest}
    named = {thing.spec.image for thing in machine.things.values()}
    assert named == {service["image"]}
