"""What is routed, by whom it is served, and with which certificates: over the API."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from certificates import a_certificate
from inprocess import InProcess, eventually, in_process, second_node
from orca_master.identity.model import Role
from orca_master.ingress.certificates.model import CERTIFICATES
from orca_master.ingress.model import SERVINGS
from orca_proto import worker_pb2 as pb

WEB = {"name": "web", "port": 80, "domain": "app.example.com"}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(tmp_path / "master") as found:
        yield found


class Recorder:
    """Instead of Envoy: keeps what a worker's ingress is told, and says that it serves."""

    def __init__(self) -> None:
        self.told: list[pb.Ingress] = []
        self.status = pb.IngressStatus(state=pb.INGRESS_STATE_SERVING, http_port=80, https_port=443)
        self._news = asyncio.Event()

    def apply(self, message: pb.Ingress) -> None:
        self.told.append(message)

    async def changes(self) -> pb.IngressStatus:
        await self._news.wait()
        self._news.clear()
        return self.status

    def forget_session(self) -> None:
        self._news.set()

    def say(self, status: pb.IngressStatus) -> None:
        self.status = status
        self._news.set()

    def pools(self) -> dict[str, list[int]]:
        """Ports by pool, after all that was told."""
        found: dict[str, list[int]] = {}
        for message in self.told:
            if message.complete:
                found.clear()
            found |= {pool.name: [b.port for b in pool.backends] for pool in message.pools}
            for name in message.gone_pools:
                found.pop(name, None)
        return found


@pytest.fixture
async def ingress(cluster: InProcess) -> Recorder:
    recorder = Recorder()
    await cluster.worker.kill()
    cluster.worker.ingress = recorder
    cluster.worker.start()
    await eventually(lambda: bool(recorder.told))
    return recorder


async def put(cluster: InProcess, name: str, *domains: str, **more: Any) -> Any:
    chain, key = a_certificate(*domains)
    body = {"certificate": chain.decode(), "key": key.decode()} | more
    return await cluster.call("PUT", f"/api/v1/certificates/{name}", body)


async def test_a_node_is_told_of_services_replicas_and_what_goes(
    cluster: InProcess, ingress: Recorder
) -> None:
    first = ingress.told[0]
    assert (first.complete, first.serves, list(first.sites)) == (True, True, [])
    assert (await cluster.deploy(WEB, {"name": "hidden"})).status == 200
    await eventually(lambda: bool(ingress.pools().get("default/default/web")))
    (site,) = [site for message in ingress.told for site in message.sites]
    assert (site.host, site.routes[0].pool) == ("app.example.com", "default/default/web")
    assert not any(message.complete for message in ingress.told[1:])
    await cluster.call("POST", "/api/v1/services/web/stop")
    await eventually(lambda: ingress.pools() == {"default/default/web": []})
    await cluster.call("DELETE", "/api/v1/services/web?purge=true")
    await eventually(lambda: ingress.pools() == {})
    assert [h for message in ingress.told for h in message.gone_sites] == ["app.example.com"]


async def test_what_is_routed_and_who_serves_it(cluster: InProcess, ingress: Recorder) -> None:
    await eventually(lambda: cluster.core.store.state.count(SERVINGS) == 1)
    await cluster.deploy(WEB)
    (route,) = (await cluster.call("GET", "/api/v1/routes")).json["routes"]
    assert route == {
        "domain": "app.example.com", "path": "/", "project": "default", "service": "web",
        "shares": [{"revision": 1, "percent": 100.0, "replicas": 1}], "reason": None,
    }  # fmt: skip
    ingress.say(pb.IngressStatus(state=pb.INGRESS_STATE_FAILED, reason="port 80\nis taken"))
    async with cluster.waiting():
        while (node := (await _nodes(cluster))[0])["state"] != "failed":
            await asyncio.sleep(0.02)
    assert node["reason"] == "port 80is taken"
    path = "/api/v1/routes/explain?url=http://app.example.com/x"
    told = (await cluster.call("GET", path)).json
    assert told["reason"] == "no node serves requests: see `orca routes`"
    assert (await cluster.call("GET", "/api/v1/routes/explain?url=nonsense")).status == 400
    assert (await cluster.call("GET", "/api/v1/routes/explain")).status == 400


async def _nodes(cluster: InProcess) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = (await cluster.call("GET", "/api/v1/routes")).json["nodes"]
    return nodes


async def test_a_domain_that_is_taken_is_refused_and_nothing_is_lost(cluster: InProcess) -> None:
    await cluster.deploy(WEB)
    other = WEB | {"name": "other"}
    refused = await cluster.deploy(other)
    assert refused.status == 500
    said = "other: app.example.com/ belongs to service web already: give other routes"
    assert refused.json["errors"] == [said]
    refused = await cluster.deploy(other | {"project": "blog"})
    assert "belongs to project default" in refused.json["errors"][0]
    assert (await cluster.deploy(other | {"routes": ["/api"]})).status == 200
    both = [WEB | {"routes": ["/api"]}, other | {"routes": ["/*"]}]
    assert (await cluster.deploy(*both)).status == 200  # they change places in one request


async def test_a_change_of_routes_restarts_nothing(cluster: InProcess) -> None:
    await cluster.deploy(WEB)
    before = (await cluster.status("web"))["tasks"][0]["id"]
    changed = {"domain": "new.example.com", "routes": ["/x"], "ingress": {"hsts": True}}
    planned = await cluster.deploy(WEB | changed, plan="true")
    assert planned.json["plan"][0]["action"] == "in place"
    assert (await cluster.deploy(WEB | changed)).status == 200
    after = await cluster.status("web")
    assert (after["domains"], after["revision"]) == (["new.example.com"], 1)
    assert after["tasks"][0]["id"] == before


async def test_a_certificate_reaches_the_nodes_with_its_key_and_nobody_else(
    cluster: InProcess, ingress: Recorder
) -> None:
    await cluster.deploy(WEB)
    without = (await cluster.call("GET", "/api/v1/certificates")).json
    (without,) = without["without"]
    assert (without["domain"], without["tries_at"]) == ("app.example.com", None)
    assert "`orca certs set`" in without["reason"]
    answer = await put(cluster, "shop", "app.example.com")
    assert (answer.status, answer.json["changed"]) == (200, True)
    assert answer.json["certificate"]["hosts"] == ["app.example.com"]
    await eventually(lambda: any(message.certificates for message in ingress.told))
    (sent,) = [each for message in ingress.told for each in message.certificates]
    assert list(sent.hosts) == ["app.example.com"]
    assert sent.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    listed = await cluster.call("GET", "/api/v1/certificates")
    assert "PRIVATE" not in listed.text
    assert listed.json["without"] == []
    (row,) = cluster.core.store.state.scan(CERTIFICATES)
    assert b"PRIVATE" not in row.sealed_key
    audit = await cluster.call("GET", "/api/v1/audit?resource=certificates/shop")
    assert [each["action"] for each in audit.json["events"]] == ["certificate.set"]
    assert (await cluster.call("DELETE", "/api/v1/certificates/shop")).status == 200
    await eventually(lambda: any(m.gone_certificates for m in ingress.told))
    assert (await cluster.call("DELETE", "/api/v1/certificates/shop")).status == 404


async def test_the_same_certificate_again_changes_nothing(cluster: InProcess) -> None:
    chain, key = a_certificate("a.example.com")
    body = {"certificate": chain.decode(), "key": key.decode()}
    path = "/api/v1/certificates/a"
    assert (await cluster.call("PUT", path, body)).json["changed"] is True
    assert (await cluster.call("PUT", path, body)).json["changed"] is False
    assert (await put(cluster, "a", "a.example.com")).json["changed"] is True


async def test_bad_certificates_are_refused_and_the_key_is_not_repeated(
    cluster: InProcess,
) -> None:
    chain, key = a_certificate("a.example.com")
    _, other = a_certificate("a.example.com")
    body = {"certificate": chain.decode(), "key": other.decode()}
    refused = await cluster.call("PUT", "/api/v1/certificates/a", body)
    assert refused.status == 400
    assert "does not belong to the first certificate" in refused.text
    assert "PRIVATE" not in refused.text
    refused = await cluster.call("PUT", "/api/v1/certificates/A_b", body | {"key": key.decode()})
    assert refused.status == 400
    assert list(cluster.core.store.state.scan(CERTIFICATES)) == []


async def test_who_may_only_look_sets_none(cluster: InProcess) -> None:
    viewer = await cluster.add_token(Role.VIEWER)
    assert (await cluster.call("GET", "/api/v1/routes", token=viewer)).status == 200
    refused = await cluster.call("DELETE", "/api/v1/certificates/a", token=viewer)
    assert refused.status == 403


async def test_a_node_that_is_not_to_serve_gets_no_keys(
    cluster: InProcess, ingress: Recorder
) -> None:
    await cluster.deploy(WEB)
    other = await second_node(cluster)
    try:
        path = f"/api/v1/cluster/nodes/{other.id}/labels"
        await cluster.call("PUT", path, {"labels": {"ingress": "true"}})
        await eventually(lambda: not ingress.told[-1].serves)
        assert ingress.pools() == {}
        before = len(ingress.told)
        await put(cluster, "shop", "app.example.com")
        await cluster.call("PUT", path, {"labels": {"ingress": None}})
        await eventually(lambda: ingress.told[-1].serves)
        assert [len(message.certificates) for message in ingress.told[before:]] == [1]
    finally:
        await other.kill()
