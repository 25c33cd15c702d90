"""Requests made from the OpenAPI document, right and wrong ones, against a live master with a worker.

No answer may have a status, a media type, a header or a form that the document does not tell of its
route, and none may be a fault of the server's. Every run sends the same requests.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from inprocess import InProcess
from orca_master.services import strategy
from orca_master.sources.webhooks.model import Forge

Operation = APIOperation[Any, Any, Any, Any]

SECONDS = 60.0
"""A guard against hanging, for one request."""
DEPLOY_SECONDS = 2.0
"""Given to a deploy; with the fake engine it takes a moment."""
REQUESTS_EACH = 15
OFTEN = settings(
    max_examples=REQUESTS_EACH,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
MOST_REPLICAS = 3
NAME = "known"
HOST = "127.0.0.1:9"
"""A registry that nobody is."""
NEVER_DONE = {
    "POST /api/v1/cluster/enroll": "a join token has to sign it",
    "POST /api/v1/cluster/masters/enroll": "a join token has to sign it",
    "POST /api/v1/cluster/masters/transfer": "there is one master",
    "DELETE /api/v1/cluster/masters/{name}": "the last master cannot be removed",
    "DELETE /api/v1/cluster/nodes/{id}": "a service runs there",
    **{
        f"POST /api/v1/webhooks/{forge}{one}": "a secret has to sign it"
        for forge in Forge
        for one in ("", "/{id}")
    },
    "POST /api/v1/webhooks": "its service is made up",
    **{
        f"{line.replace('WEBHOOK', '/api/v1/webhooks/{id}')}": "there is no webhook"
        for line in (
            "DELETE WEBHOOK",
            "POST WEBHOOK/test",
            "POST WEBHOOK/rotate",
            "GET WEBHOOK/deliveries",
            "POST WEBHOOK/redeliver",
        )
    },
    "PUT /api/v1/certificates/{name}": "no certificate is made up that belongs to its key",
    "DELETE /api/v1/certificates/{name}": "there is no certificate",
    "POST /api/v1/certificates/{name}/renew": "there is no certificate",
    "POST /api/v1/services/{name}/promote": "the service has no canary",
    "POST /api/v1/services/{name}/pause": "it has no rollout",
    "POST /api/v1/services/{name}/resume": "it has no rollout",
    "POST /api/v1/services/{name}/rollback": "it has no revision to go back to",
}
"""What right requests, too, are refused here."""
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = ("/api/v1/audit/stream", "/api/v1/events")
"""Never end for who may read them: `test_streams` and `test_events` do."""


@dataclass(frozen=True)
class Asker:
    """Sends requests of one kind. `counts`: by operation and status."""

    api: str
    mode: GenerationMode
    token: str | None
    node: str
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def ask_all(self) -> list[str]:
        """Every operation; what was wrong."""
        schema = schemathesis.openapi.from_url(f"{self.api}/api/v1/openapi.json")
        wrong = []
        with requests.Session() as session:
            if self.token is not None:
                session.headers["Authorization"] = f"Bearer {self.token}"
            for found in schema.get_all_operations():
                operation = found.ok()
                if operation.path in ENDLESS and self.token is not None:
                    continue
                try:
                    if self.token is not None:
                        self._make(session)
                    self._ask(operation, session)
                except Exception as error:
                    wrong.append(f"{operation.label}: {error!r}")
        return wrong

    def _make(self, session: requests.Session) -> None:
        """A service, a project and a token, all of one name, unless they are there, and room for them."""
        undrain = f"{self.api}/api/v1/cluster/nodes/{self.node}/undrain"
        assert session.post(undrain).status_code == 200
        service = {"name": NAME, "project": NAME, "image": "app:1"}
        made = session.post(f"{self.api}/api/v1/deploy", json={"services": [service]})
        assert made.status_code == 200, made.text
        token = {"name": NAME, "role": "viewer"}
        assert session.post(f"{self.api}/api/v1/tokens", json=token).status_code in (201, 409)
        secret = session.put(f"{self.api}/api/v1/secrets/{NAME}", json={"value": "x"})
        assert secret.status_code == 200, secret.text
        login = {"username": "x", "password": "x", "check": False}
        registry = session.put(f"{self.api}/api/v1/registries/{HOST}", json=login)
        assert registry.status_code == 200, registry.text

    def _ask(self, operation: Operation, session: requests.Session) -> None:
        is_open = operation.definition.raw["security"] == []

        def send(case: Case, is_known: bool) -> None:
            keep_small(case)
            if is_known and self.mode is GenerationMode.POSITIVE and case.path_parameters:
                known = {"name": NAME, "id": self.node, "key": NAME, "host": HOST}
                case.path_parameters |= {part: known[part] for part in case.path_parameters}
                if isinstance(case.query, dict):
                    case.query.pop("project", None)  # another one is not its own
            answer = case.call(session=session, timeout=SECONDS)
            self.counts[operation.label, answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code >= 500:
                assert answer.json().get("code") != "INTERNAL", answer.json()
            if self.token is None and not is_open:
                assert answer.status_code >= 400
                assert self.mode is GenerationMode.NEGATIVE or answer.status_code == 401

        test = given(
            case=operation.as_strategy(generation_mode=self.mode), is_known=strategies.booleans()
        )(send)
        try:
            OFTEN(test)()
        except Unsatisfiable:
            assert self.mode is GenerationMode.NEGATIVE, "only of wrong requests may there be none"


def keep_small(case: Case) -> None:
    """Ten thousand replicas would prove nothing more; nobody waits for outcomes or follows logs."""
    if isinstance(case.query, dict):
        if case.query.get("follow") in (True, "true"):
            case.query["follow"] = False
        if case.method == "DELETE" and "/cluster/nodes/" in case.path:
            case.query.pop("force", None)  # the only node is needed
        if case.path == "/api/v1/deploy" and "timeout" in case.query:
            case.query["timeout"] = min_of(case.query["timeout"], DEPLOY_SECONDS)
    if case.path == "/api/v1/deploy" and isinstance(case.query, dict):
        case.query.setdefault("timeout", DEPLOY_SECONDS)
    bodies = [case.body]
    if isinstance(case.body, dict) and isinstance(case.body.get("services"), list):
        bodies += case.body["services"]
    for body in bodies:
        if isinstance(body, dict) and "replicas" in body:
            body["replicas"] = min_of(body["replicas"], MOST_REPLICAS)


def min_of(value: Any, most: float) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(value, most) if is_number else value


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("who", ["admin", "nobody"])
async def test_no_answer_differs_from_the_document(
    cluster: InProcess, mode: GenerationMode, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "SETTLE_SECONDS", 0.05)
    token = cluster.token if who == "admin" else None
    asker = Asker(cluster.api, mode, token, cluster.worker.name)
    assert await asyncio.to_thread(asker.ask_all) == []
    assert asker.counts.total() >= 100
    if who == "admin" and mode is GenerationMode.POSITIVE:
        asked = {label for label, _ in asker.counts}
        done = {label for label, status in asker.counts if status < 300}
        assert asked - done == NEVER_DONE.keys()
