"""One service is deployed through every door at once."""

import asyncio
from typing import Any

from api.test_webhooks import GITHUB, add, deliver, ended
from forges import github_push
from inprocess import InProcess

COUNT = 3


async def test_pushes_deploys_and_canaries_at_once_are_one_after_the_other_co_37(
    cluster: InProcess,
) -> None:
    """Each that was accepted is a revision of its own, and the last one is what is wanted."""
    await cluster.deploy({"name": "web", "replicas": 2})
    hook = await add(cluster)
    shas = [f"{number:040x}" for number in range(1, COUNT + 2)]

    async def by_request(image: str, **more: Any) -> tuple[str, Any]:
        body = {"name": "web", "replicas": 2, "image": image} | more
        return image, await cluster.deploy(body, wait="false")

    async def pushed(number: int) -> Any:
        body = github_push(before=shas[number], after=shas[number + 1])
        return await deliver(cluster, GITHUB, body)

    canary = {"deploy": {"strategy": "canary", "canary_weight": 50}}
    asked = [by_request(f"api:{n}") for n in range(COUNT)]
    asked += [by_request(f"canary:{n}", **canary) for n in range(COUNT)]
    answers, pushes = await asyncio.gather(
        asyncio.gather(*asked), asyncio.gather(*map(pushed, range(COUNT)))
    )
    for push in pushes:
        assert push.status == 202
        for each in push.json["deliveries"]:
            await ended(cluster, hook["id"], each["delivery"])

    found = (await cluster.call("GET", "/api/v1/services/web/revisions")).json["revisions"]
    numbers = [each["revision"] for each in found]
    assert numbers == list(range(len(found), 0, -1)), "none is given twice, none is left out"
    images = {each["revision"]: each["spec"]["image"] for each in found}
    for image, answer in answers:
        assert answer.status == 202
        (outcome,) = answer.json["outcomes"]
        assert images[outcome["revision"]] == image
    deployed = [image for image in images.values() if image.startswith("app:") and image != "app:1"]
    assert deployed, "pushes had their turn"
    assert len(set(images.values())) == len(images)
    shown = await cluster.status("web")
    assert shown["revision"] == numbers[0]
    assert shown["image"] == images[numbers[0]]
