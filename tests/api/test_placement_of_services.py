"""`GET /services/{name}/placement`: why replicas are where they are."""

from inprocess import InProcess


async def test_each_node_is_explained_for_one_more_replica(cluster: InProcess) -> None:
    await cluster.deploy(
        {"name": "web", "replicas": 2, "placement": {"rules": ["zone not exists"]}}
    )
    answer = await cluster.call("GET", "/api/v1/services/web/placement")
    assert answer.status == 200
    assert [(r["replica"], r["node"], r["reason"]) for r in answer.json["replicas"]] == [
        (1, cluster.worker.name, None),
        (2, cluster.worker.name, None),
    ]
    (node,) = answer.json["nodes"]
    assert (node["node"], node["fits"], node["reason"]) == (cluster.worker.name, True, None)
    assert (node["cost"], node["replicas"], node["failures"]) == (2, 2, 0)


async def test_a_replica_that_fits_nowhere_and_a_service_that_is_none(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "placement": {"rules": ["zone exists"]}}, wait="false")
    rule = "breaks the rule `zone exists`"
    async with cluster.waiting():
        while True:
            answer = await cluster.call("GET", "/api/v1/services/web/placement")
            if [r["reason"] for r in answer.json["replicas"]] == [f"no node fits (1 node: {rule})"]:
                break
    assert [(n["fits"], n["reason"]) for n in answer.json["nodes"]] == [(False, rule)]
    missing = await cluster.call("GET", "/api/v1/services/nope/placement")
    assert missing.status == 404


async def test_a_node_that_is_not_heard_of_just_now_is_shown_as_such(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await cluster.worker.kill()
    async with cluster.waiting():
        while True:
            (node,) = (await cluster.call("GET", "/api/v1/services/web/placement")).json["nodes"]
            if not node["heard"]:
                break


async def test_what_failed_on_a_node_speaks_against_it(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "command": ["exit", "3", "0.1"]})
    async with cluster.waiting():
        while True:
            answer = await cluster.call("GET", "/api/v1/services/web/placement")
            if answer.json["nodes"][0]["failures"]:
                break
    assert answer.json["nodes"][0]["cost"] >= 1
