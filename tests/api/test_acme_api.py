"""The order of certificates over the API: the setting, what is refused, and what is told of failures."""

import http.server
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from certificates import a_certificate
from inprocess import InProcess, eventually, free_port, in_process
from orca_master.identity.model import Role
from orca_master.ingress.certificates.model import ACME, ORDERS

HOST = "app.example.com"
WEB = {"name": "web", "port": 80, "domain": HOST}
ACME_PATH = "/api/v1/acme"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(tmp_path / "master") as found:
        yield found


def on(port: int, **more: Any) -> dict[str, Any]:
    return {"agree": True, "directory": f"https://localhost:{port}/dir", **more}


async def without(cluster: InProcess) -> dict[str, Any]:
    (found,) = (await cluster.call("GET", "/api/v1/certificates")).json["without"]
    return dict(found)


async def test_it_is_set_shown_and_taken_away_and_its_key_is_shown_nowhere(
    cluster: InProcess,
) -> None:
    assert (await cluster.call("GET", ACME_PATH)).json["is_on"] is False
    body = on(free_port(), email="me@example.com")
    answer = await cluster.call("PUT", ACME_PATH, body)
    assert (answer.status, answer.json["changed"]) == (200, True)
    assert (await cluster.call("PUT", ACME_PATH, body)).json["changed"] is False
    shown = await cluster.call("GET", ACME_PATH)
    assert (shown.json["email"], shown.json["account"]) == ("me@example.com", None)
    row = cluster.core.store.state.get(ACME, "default")
    assert row is not None
    assert b"PRIVATE" not in row.sealed_key
    assert cluster.core.certificate_keys.open_account(row).startswith(b"-----BEGIN PRIVATE KEY")
    assert "PRIVATE" not in shown.text + answer.text
    assert (await cluster.call("DELETE", ACME_PATH)).status == 200
    assert (await cluster.call("GET", ACME_PATH)).json["is_on"] is False
    audit = await cluster.call("GET", "/api/v1/audit?resource=acme")
    assert sorted(each["action"] for each in audit.json["events"]) == ["acme.remove", "acme.set"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "agree"),
        ({"agree": False}, "agree"),
        ({"agree": True, "directory": "http://ca/dir"}, "directory"),
        ({"agree": True, "directory": "https://ca/dir", "staging": True}, "staging"),
        ({"agree": True, "ca": "nothing"}, "ca: holds no certificates in PEM"),
        ({"agree": True, "email": "nobody"}, "email"),
    ],
)
async def test_what_is_wrong_is_said(cluster: InProcess, body: dict[str, Any], said: str) -> None:
    refused = await cluster.call("PUT", ACME_PATH, body)
    assert (refused.status, said in refused.text) == (400, True), refused.text


async def test_lets_encrypt_is_the_default_and_has_one_for_tests(cluster: InProcess) -> None:
    for staging, host in ((False, "acme-v02.api"), (True, "acme-staging-v02.api")):
        answer = await cluster.call("PUT", ACME_PATH, {"agree": True, "staging": staging})
        directory = answer.json["acme"]["directory"]
        assert directory == f"https://{host}.letsencrypt.org/directory"


async def test_a_directory_that_is_down_is_told_and_tried_again_later(cluster: InProcess) -> None:
    await cluster.deploy(WEB, WEB | {"name": "all", "domain": "*.example.org"})
    assert (await cluster.call("PUT", ACME_PATH, on(free_port()))).status == 200
    await eventually(lambda: any(r.failures for r in cluster.core.store.state.scan(ORDERS)))
    found = (await cluster.call("GET", "/api/v1/certificates")).json["without"]
    wildcard, mine = sorted(found, key=lambda each: str(each["domain"]))
    assert wildcard["tries_at"] is None
    assert "single names only" in wildcard["reason"]
    assert "cannot be asked" in mine["reason"]
    assert "refused" in mine["reason"]
    (row,) = cluster.core.store.state.scan(ORDERS)
    assert mine["tries_at"] == row.tries_at
    asked = await cluster.call("POST", "/api/v1/certificates/acme-app-example-com/renew")
    assert asked.json["domains"] == [HOST]
    await eventually(lambda: any(r.failures == 2 for r in cluster.core.store.state.scan(ORDERS)))
    refused = await cluster.call("POST", "/api/v1/certificates/nope/renew")
    assert refused.status == 404


async def test_a_given_one_is_not_ordered_and_nothing_is_while_it_is_off(
    cluster: InProcess,
) -> None:
    await cluster.deploy(WEB)
    chain, key = a_certificate(HOST)
    body = {"certificate": chain.decode(), "key": key.decode()}
    await cluster.call("PUT", "/api/v1/certificates/shop", body)
    refused = await cluster.call("POST", "/api/v1/certificates/shop/renew")
    assert (refused.status, "was given" in refused.text) == (409, True)
    refused = await cluster.call("POST", "/api/v1/certificates/acme-app-example-com/renew")
    assert (refused.status, "orca certs acme on" in refused.text) == (409, True)
    await cluster.call("PUT", ACME_PATH, on(free_port()))
    assert (await cluster.call("GET", "/api/v1/certificates")).json["without"] == []
    assert list(cluster.core.store.state.scan(ORDERS)) == []


async def test_who_may_only_look_changes_nothing(cluster: InProcess) -> None:
    viewer = await cluster.add_token(Role.VIEWER)
    assert (await cluster.call("GET", ACME_PATH, token=viewer)).status == 200
    assert (await cluster.call("DELETE", ACME_PATH, token=viewer)).status == 403


class Limits(http.server.BaseHTTPRequestHandler):
    """An authority that has had enough."""

    wait: ClassVar[str] = "7200"

    def do_GET(self) -> None:
        problem = {
            "type": "urn:ietf:params:acme:error:rateLimited",
            "detail": "too many\u202e certificates",
        }
        body = json.dumps(problem).encode()
        self.send_response(429)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Retry-After", self.wait)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def limiting(folder: Path) -> Iterator[tuple[int, str]]:
    """Its port, and its certificate."""
    chain, key = a_certificate("localhost")
    (folder / "pem").write_bytes(chain + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    with http.server.ThreadingHTTPServer(("localhost", 0), Limits) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, chain.decode()
        finally:
            server.shutdown()
            thread.join()


async def test_what_the_authority_asks_for_is_waited_and_its_problem_is_kept(
    cluster: InProcess, tmp_path: Path
) -> None:
    await cluster.deploy(WEB)
    with limiting(tmp_path) as (port, ca):
        before = cluster.core.env.now()
        assert (await cluster.call("PUT", ACME_PATH, on(port, ca=ca))).status == 200
        await eventually(lambda: any(r.failures for r in cluster.core.store.state.scan(ORDERS)))
        found = await without(cluster)
    assert found["reason"] == "rateLimited: too many certificates"
    assert found["tries_at"] - before >= 7200
