"""Who gets in, and how errors look."""

import asyncio
import errno
import io
import re
from pathlib import Path

import pytest

from inprocess import InProcess, eventually, in_process
from orca_master.identity.model import Role
from orca_master.services.model import SERVICES, Service, ServiceSpec
from orca_master.state.log import LogFailed
from orca_master.state.transaction import Transaction
from sim.disk import SimDisk

PUBLIC = ["/api/v1/health", "/metrics", "/api/v1/cluster/ca"]
READS = ["/api/v1/status", "/api/v1/cluster/info"]
WRITES = [
    ("POST", "/api/v1/deploy", {"services": [{"name": "a", "image": "app:1"}]}),
    ("POST", "/api/v1/services/a/scale", {"replicas": 1}),
    ("DELETE", "/api/v1/services/a", None),
    ("POST", "/api/v1/stop", None),
]


@pytest.mark.parametrize("path", PUBLIC)
async def test_open_routes_need_no_token(cluster: InProcess, path: str) -> None:
    assert (await cluster.call("GET", path, token=None)).status == 200


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("token", [None, "wrong", "orca_" + "0" * 64])
async def test_everything_else_needs_one(cluster: InProcess, path: str, token: str | None) -> None:
    answer = await cluster.call("GET", path, token=token)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert set(answer.json) == {"error", "code", "request_id"}


async def test_a_viewer_reads_and_does_nothing_else(cluster: InProcess) -> None:
    viewer = await cluster.add_token(Role.VIEWER)
    for path in READS:
        assert (await cluster.call("GET", path, token=viewer)).status == 200
    for method, path, body in WRITES:
        answer = await cluster.call(method, path, body, token=viewer)
        assert answer.status == 403, path
        assert "lacks the permission" in answer.json["error"]


async def test_a_deployer_deploys_but_adds_no_nodes(cluster: InProcess) -> None:
    deployer = await cluster.add_token(Role.DEPLOYER)
    for method, path, body in WRITES:
        assert (await cluster.call(method, path, body, token=deployer)).status == 200, path
    answer = await cluster.call("POST", "/api/v1/cluster/join-tokens", {}, token=deployer)
    assert answer.status == 403


async def test_unknown_paths_and_methods_are_json_too(cluster: InProcess) -> None:
    answer = await cluster.call("GET", "/api/v1/status/nope")
    assert (answer.status, answer.json["error"]) == (404, "path not found: /api/v1/status/nope")
    answer = await cluster.call("PUT", "/api/v1/deploy")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_a_path_that_is_none_answers_in_the_form_of_its_family(cluster: InProcess) -> None:
    text = "path not found: "
    control = (await cluster.call("GET", "/api/v1/nope")).json
    assert control["success"] is False
    assert control["error"] == {"code": "RES_NOT_FOUND", "message": f"{text}/api/v1/nope"}
    assert control["meta"]["timestamp"].endswith("Z")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    dag = await cluster.call("GET", "/api/v1/orchestrator/nope", headers=headers)
    message = f"{text}/api/v1/orchestrator/nope"
    error = {"code": "NOT_FOUND", "message": message, "trace_id": trace}
    assert dag.json == {"error": error}
    ops = await cluster.call("GET", "/tasks/nope")
    assert ops.json == {"success": False, "error": f"{text}/tasks/nope"}
    assert {dag.status, ops.status} == {404}


async def test_malformed_json_is_a_400(cluster: InProcess) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await cluster.call("POST", "/api/v1/deploy", data=b"{", headers=headers)
    assert answer.status == 400
    assert "line 1 column 2" in answer.json["error"]


async def test_a_body_that_is_too_large_is_a_413(cluster: InProcess) -> None:
    answer = await cluster.call("POST", "/api/v1/deploy", data=io.BytesIO(b" " * (2 << 20)))
    assert answer.status == 413
    assert "at most" in answer.json["error"]


async def test_unknown_query_parameters_are_refused(cluster: InProcess) -> None:
    answer = await cluster.call("GET", "/api/v1/status?projct=a")
    assert answer.status == 400
    assert answer.json["problems"] == [{"field": "query.projct", "message": "is not known here"}]


async def test_every_answer_carries_a_request_id(cluster: InProcess) -> None:
    answer = await cluster.call("GET", "/api/v1/status/nope")
    assert answer.headers["X-Request-Id"] == answer.json["request_id"]


async def test_cluster_info_has_the_documented_fields(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    info = (await cluster.call("GET", "/api/v1/cluster/info")).json
    assert info["cluster_name"] == "test"
    assert info["node_count"] == 1
    assert info["leader"] == {"name": "master-1", "api": cluster.api}
    assert [master["name"] for master in info["masters"]] == ["master-1"]
    (node,) = info["nodes"]
    assert (node["name"], node["state"], node["runtimes"]) == ("node-1", "ready", ["docker"])
    assert node["capacity"] == {"memory_bytes": 8 << 30, "cpu": 8.0}


async def test_health_names_what_is_wrong(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    assert (await cluster.call("GET", "/api/v1/health")).json == {"status": "ok"}
    await cluster.worker.kill()
    await cluster.until(
        "web", running_replicas=0, reason="replica 1: no node fits (1 node: is down)"
    )
    health = (await cluster.call("GET", "/api/v1/health")).json
    assert health == {"status": "degraded", "reasons": ["node node-1 is down"]}


async def test_metrics_have_the_three_documented_names(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    text = (await cluster.call("GET", "/metrics", token=None)).text
    assert "orca_services_total 1.0" in text
    assert 'orca_instances_total{project="default",service="web",status="running"} 2.0' in text
    assert 'orca_nodes_total{state="ready"} 1.0' in text


async def test_deploys_are_counted_by_outcome(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    await cluster.deploy({"name": "a"}, {"name": "b"}, wait="false")
    await cluster.deploy({"name": "c", "env": {"A": "${secrets.NONE}"}})
    told = (await cluster.call("GET", "/metrics", token=None)).text
    found = dict(re.findall(r'orca_deploys_total\{outcome="(\w+)"\} ([\d.]+)', told))
    assert found == {"running": "1.0", "failed": "1.0", "open": "0.0", "accepted": "2.0"}


async def test_requests_are_counted_by_route_and_not_by_path(cluster: InProcess) -> None:
    for number in range(20):
        await cluster.call("GET", f"/api/v1/services/s{number}/logs")
        await cluster.call("GET", f"/nowhere/{number}")
    lines = (await cluster.call("GET", "/metrics", token=None)).text.splitlines()
    counts = [line for line in lines if line.startswith("orca_http_requests_total")]
    logs = 'method="GET",route="/api/v1/services/{name}/logs",status="4xx"} 20.0'
    assert any(line.endswith(logs) for line in counts)
    assert any('route="unmatched",status="4xx"} 20.0' in line for line in counts)
    assert len(counts) < 10
    assert any(line.startswith("orca_raft_term ") for line in lines)


async def test_a_full_disk_is_a_507_reads_go_on_and_writes_resume_by_themselves(
    tmp_path: Path,
) -> None:
    disk = SimDisk()
    async with in_process(tmp_path / "m", disk=disk) as cluster:
        await cluster.deploy({"name": "before"})
        disk.capacity = sum(map(len, disk.image().values()))
        answer = await cluster.deploy({"name": "web"}, wait="false")
        assert (answer.status, answer.json["code"]) == (507, "STORAGE_FULL")
        assert (await cluster.status("before"))["status"] == "running"
        disk.capacity = None
        assert (await cluster.deploy({"name": "web"})).json["deployed"] == ["web"]


async def test_a_service_that_cannot_be_reconciled_is_put_aside_and_shown(
    cluster: InProcess,
) -> None:
    """A row that breaks the rules' code stops its own service only."""
    await cluster.deploy({"name": "good"})
    broken = Service("default", "default", "broken", ServiceSpec(image="app:1"), 1, 1, 0.0, 0.0)
    raw = SERVICES.encode(broken).replace(b"\xa8replicas\x01", b"\xa8replicas\xa1x")
    key = ("default", "default", "broken")

    def plant(tx: Transaction) -> None:
        tx.state = tx.state.changed(SERVICES.name, key, raw)
        tx.changes[SERVICES.name, key] = raw

    await cluster.core.store.update(plant)
    async with asyncio.timeout(60):
        while (await cluster.call("GET", "/api/v1/health")).json["status"] == "ok":
            await asyncio.sleep(0.02)
    reasons = (await cluster.call("GET", "/api/v1/health")).json["reasons"]
    aside = "service service:default/default/broken is put aside after"
    assert any(reason.startswith(aside) for reason in reasons), reasons
    node = f"/api/v1/cluster/nodes/{cluster.worker.name}"
    for verb in ("drain", "undrain"):  # then every service is looked at
        assert (await cluster.call("POST", f"{node}/{verb}")).status == 200
    await cluster.call("POST", "/api/v1/services/good/scale?project=default", {"replicas": 2})
    await eventually(lambda: len(cluster.worker.machine.things) == 2)


async def test_a_master_whose_disk_fails_does_not_know_the_outcome_co_26(tmp_path: Path) -> None:
    """Nobody may take it for a refusal; the master itself ends."""

    async def until_it_ends() -> None:
        disk = SimDisk()
        async with in_process(tmp_path, with_node=False, disk=disk) as cluster:
            disk.fail_next("sync", OSError(errno.EIO, "rotten"))
            service = {"name": "a", "image": "app:1", "replicas": 0}
            answer = await cluster.call("POST", "/api/v1/deploy", {"services": [service]})
            assert (answer.status, answer.json["code"]) == (504, "OUTCOME_UNKNOWN")
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as ended:
        await until_it_ends()
    assert ended.value.split(LogFailed)[1] is None
