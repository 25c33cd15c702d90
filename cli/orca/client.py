"""An asynchronous client of the HTTP API. Methods return the API's JSON; errors are exceptions."""

import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from orca.transport import Transport, error_of

DEPLOY_MARGIN_SECONDS = 30.0
BEAT = b"\0"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 35.0
"""Of a stream with beats: then its master is lost."""


class Client(Transport):
    """Use as an asynchronous context. `api`: one or several masters' addresses, `http://host:6880`.

    Any master will do; one that cannot be reached is passed over. Changes carry an
    `Idempotency-Key`, so one that was asked for again, because a master was lost, is done once.
    """

    async def health(self) -> dict[str, Any]:
        return await self._json("GET", "/api/v1/health")

    async def deploy(
        self,
        services: Sequence[Mapping[str, Any]],
        *,
        wait: bool = True,
        timeout: float = 120.0,
        message: str = "",
    ) -> dict[str, Any]:
        """`{deployed: [names], errors: ["name: reason"], outcomes}`; some or all may have failed, been
        reverted, or be paused. `message` is kept with the revisions."""
        return await self._json(
            "POST",
            "/api/v1/deploy",
            params={"wait": str(wait).lower(), "timeout": str(timeout)},
            body={"services": list(services)} | ({"message": message} if message else {}),
            answers_with_errors=True,
            seconds=timeout + DEPLOY_MARGIN_SECONDS,
        )

    async def plan(self, services: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a deploy would do, without doing it: `{plan: [...], errors: [...]}`."""
        return await self._json(
            "POST",
            "/api/v1/deploy",
            params={"plan": "true"},
            body={"services": list(services)},
            once=False,
        )

    async def status(
        self, *, project: str | None = None, stale: bool = False
    ) -> list[dict[str, Any]]:
        """`stale`: what one master knows, also while none leads."""
        params = _given(project=project, consistency="stale" if stale else None)
        answer = await self._json("GET", "/api/v1/status", params=params)
        services: list[dict[str, Any]] = answer["services"]
        return services

    async def placement(self, name: str, *, project: str | None = None) -> dict[str, Any]:
        """Why replicas are where they are: `{service, replicas, nodes}`, the best node first."""
        path = f"/api/v1/services/{_part(name)}/placement"
        return await self._json("GET", path, params=_given(project=project))

    async def scale(
        self, name: str, replicas: int, *, project: str | None = None
    ) -> dict[str, Any]:
        return await self._json(
            "POST",
            f"/api/v1/services/{_part(name)}/scale",
            params=_given(project=project),
            body={"replicas": replicas},
        )

    async def promote(
        self, name: str, *, step: bool = False, project: str | None = None
    ) -> dict[str, Any]:
        """Give a canary's revision to all replicas; with `step` take it to its next step."""
        return await self._verb(name, "promote", project=project, step="true" if step else None)

    async def rollback(
        self, name: str, *, revision: int | None = None, project: str | None = None
    ) -> dict[str, Any]:
        """Take an open rollout back; else go to the last stable revision before, or to `revision`."""
        to = None if revision is None else str(revision)
        return await self._verb(name, "rollback", project=project, revision=to)

    async def pause(self, name: str, *, project: str | None = None) -> dict[str, Any]:
        """Hold a rollout where it is."""
        return await self._verb(name, "pause", project=project)

    async def resume(self, name: str, *, project: str | None = None) -> dict[str, Any]:
        return await self._verb(name, "resume", project=project)

    async def restart(self, name: str, *, project: str | None = None) -> dict[str, Any]:
        """Replace all replicas, as a rollout."""
        return await self._verb(name, "restart", project=project)

    async def start(self, name: str, *, project: str | None = None) -> dict[str, Any]:
        """Run a stopped service again."""
        return await self._verb(name, "start", project=project)

    async def _verb(self, name: str, verb: str, **params: str | None) -> dict[str, Any]:
        path = f"/api/v1/services/{_part(name)}/{verb}"
        return await self._json("POST", path, params=_given(**params))

    async def revisions(self, name: str, *, project: str | None = None) -> list[dict[str, Any]]:
        """What was ever accepted of it, the newest first."""
        path = f"/api/v1/services/{_part(name)}/revisions"
        answer = await self._json("GET", path, params=_given(project=project))
        found: list[dict[str, Any]] = answer["revisions"]
        return found

    async def deployments(self, name: str, *, project: str | None = None) -> list[dict[str, Any]]:
        """How each of its changes went, the newest first, with the sentences of every decision."""
        path = f"/api/v1/services/{_part(name)}/deployments"
        answer = await self._json("GET", path, params=_given(project=project))
        found: list[dict[str, Any]] = answer["deployments"]
        return found

    async def stop(
        self, name: str, *, project: str | None = None, purge: bool = False, force: bool = False
    ) -> dict[str, Any]:
        told = "true" if force else None
        params = _given(project=project, purge="true" if purge else None, force=told)
        return await self._json("DELETE", f"/api/v1/services/{_part(name)}", params=params)

    async def stop_project(self, project: str, *, purge: bool = False) -> dict[str, Any]:
        params = _given(purge="true" if purge else None)
        return await self._json("DELETE", f"/api/v1/projects/{_part(project)}", params=params)

    async def stop_all(self, *, purge: bool = False) -> dict[str, Any]:
        params = _given(purge="true" if purge else None)
        return await self._json("POST", "/api/v1/stop", params=params)

    async def logs(
        self,
        name: str,
        *,
        tail: int | None = None,
        follow: bool = False,
        since: str | None = None,
        replica: str | None = None,
        previous: bool = False,
        project: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The last `tail` lines (100; with `since` all), and with `follow` what is written later.

        `since` is a duration (`10m`) or a time (RFC 3339), `replica` a replica's number or a task's
        id, `previous` asks for those that are gone. A follower that hears nothing of his master for a
        while raises CannotReach.
        """
        params = _given(
            tail=None if tail is None else str(tail),
            follow="true" if follow else None,
            beat=f"{BEAT_SECONDS:g}" if follow else None,
            since=since,
            replica=replica,
            previous="true" if previous else None,
            project=project,
        )
        path = f"/api/v1/services/{_part(name)}/logs"
        async with self._answered(
            "GET", path, params=params, seconds=None, silent_seconds=SILENT_SECONDS
        ) as response:
            if response.status >= 400:
                raise await error_of(response)
            async for chunk in response.content.iter_any():
                if lines := chunk.replace(BEAT, b"") if follow else chunk:
                    yield lines

    async def cluster_info(self) -> dict[str, Any]:
        return await self._json("GET", "/api/v1/cluster/info")

    async def drain(
        self, node: str, *, deadline: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Give the node (its name or id) no work any more, and bring away what runs there.

        Returns at once with `{status, node}`; `cluster_info` tells how much is left. What is left
        `deadline` seconds later is stopped; with `force` everything is, at once.
        """
        path = f"/api/v1/cluster/nodes/{_part(node)}/drain"
        params = _given(
            deadline=None if deadline is None else str(deadline), force="true" if force else None
        )
        return await self._json("POST", path, params=params, once=False)

    async def undrain(self, node: str) -> dict[str, Any]:
        """Let the node take work again; what has left does not come back by itself."""
        path = f"/api/v1/cluster/nodes/{_part(node)}/undrain"
        return await self._json("POST", path, once=False)

    async def label_node(self, node: str, labels: Mapping[str, str | None]) -> dict[str, Any]:
        """Set labels of a node, or take them away (None). Returns the node."""
        path = f"/api/v1/cluster/nodes/{_part(node)}/labels"
        return await self._json("PUT", path, body={"labels": dict(labels)}, once=False)

    async def remove_node(self, node: str, *, force: bool = False) -> dict[str, Any]:
        """Forget a node; its worker stops what it runs. Refused while something runs there, unless
        with `force`."""
        path = f"/api/v1/cluster/nodes/{_part(node)}"
        params = _given(force="true" if force else None)
        return await self._json("DELETE", path, params=params, once=False)

    async def evict(self) -> list[str]:
        """Give up the nodes that were lost at once and are held; returns their names."""
        path = "/api/v1/cluster/evictions/resume"
        evicted: list[str] = (await self._json("POST", path, once=False))["evicted"]
        return evicted

    async def join_token(
        self,
        *,
        ttl: float = 3600.0,
        uses: int = 1,
        role: str = "worker",
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """A token with which a worker, or a master, can join; a worker's node gets these labels."""
        body = {"role": role, "ttl": float(ttl), "uses": uses, "labels": dict(labels or {})}
        answer = await self._json("POST", "/api/v1/cluster/join-tokens", body=body, once=False)
        return str(answer["token"])

    async def tokens(self) -> list[dict[str, Any]]:
        answer = await self._json("GET", "/api/v1/tokens")
        found: list[dict[str, Any]] = answer["tokens"]
        return found

    async def create_token(
        self, name: str, role: str, *, project: str | None = None, ttl: float | None = None
    ) -> dict[str, Any]:
        """What was made, and `token`: its secret, shown this once. `ttl` in seconds."""
        body = {"name": name, "role": role, "project": project, "ttl": ttl}
        return await self._json("POST", "/api/v1/tokens", body=body, once=False)

    async def revoke_token(self, name: str) -> dict[str, Any]:
        return await self._json("DELETE", f"/api/v1/tokens/{_part(name)}", once=False)

    async def routes(self, *, project: str | None = None) -> dict[str, Any]:
        """`{routes, nodes}`: each domain and path with the service that gets its requests, and the nodes that
        serve them."""
        return await self._json("GET", "/api/v1/routes", params=_given(project=project))

    async def explain_route(self, url: str) -> dict[str, Any]:
        """What becomes of a request for this URL: service, revisions, replicas, or why it is refused."""
        return await self._json("GET", "/api/v1/routes/explain", params={"url": url})

    async def certificates(self, *, project: str | None = None) -> dict[str, Any]:
        """`{certificates, without}`: without keys; `without`: routed domains that have none, and why."""
        return await self._json("GET", "/api/v1/certificates", params=_given(project=project))

    async def set_certificate(
        self, name: str, certificate: str, key: str, *, project: str | None = None
    ) -> dict[str, Any]:
        """Both in PEM, the host's own certificate first."""
        body = {"certificate": certificate, "key": key} | _given(project=project)
        path = f"/api/v1/certificates/{_part(name)}"
        return await self._json("PUT", path, body=body, once=False)

    async def remove_certificate(self, name: str) -> dict[str, Any]:
        return await self._json("DELETE", f"/api/v1/certificates/{_part(name)}", once=False)

    async def renew_certificate(self, name: str) -> dict[str, Any]:
        """Order this one anew now; `{ok, domains}`, at once."""
        return await self._json("POST", f"/api/v1/certificates/{_part(name)}/renew", once=False)

    async def acme(self) -> dict[str, Any]:
        """From whom certificates are ordered: `{is_on, directory, email, account, …}`."""
        return await self._json("GET", "/api/v1/acme")

    async def set_acme(
        self,
        *,
        agree: bool,
        email: str | None = None,
        directory: str | None = None,
        staging: bool = False,
        ca: str | None = None,
    ) -> dict[str, Any]:
        """Order certificates for all routed domains; `agree`: to the terms of service; `ca`: PEM."""
        given = _given(email=email, directory=directory, ca=ca)
        body = {"agree": agree, "staging": staging} | given
        return await self._json("PUT", "/api/v1/acme", body=body, once=False)

    async def remove_acme(self) -> dict[str, Any]:
        """Order none any more; those that there are stay."""
        return await self._json("DELETE", "/api/v1/acme", once=False)

    async def secrets(self, *, project: str | None = None) -> dict[str, Any]:
        """`{secrets, data_key}`, without values; with a project its own and the cluster's."""
        return await self._json("GET", "/api/v1/secrets", params=_given(project=project))

    async def secret_usage(self, *, project: str | None = None) -> list[dict[str, Any]]:
        """Each secret with the services that use it, and which version these have."""
        answer = await self._json("GET", "/api/v1/secrets/usage", params=_given(project=project))
        found: list[dict[str, Any]] = answer["secrets"]
        return found

    async def set_secret(
        self, key: str, value: str | bytes, *, project: str | None = None, roll: bool = True
    ) -> dict[str, Any]:
        """Bytes need not be text. Unless `roll` is False, the services that use it are rolled out. The same
        value again changes nothing, so this may be asked for again."""
        body: dict[str, Any] = {"value": value, "roll": roll}
        if isinstance(value, bytes):
            body |= {"value": b64encode(value).decode(), "encoding": "base64"}
        if project is not None:
            body["project"] = project
        return await self._json("PUT", _secret(key), body=body, once=False)

    async def remove_secret(
        self, key: str, *, project: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """All of its versions; with `force` also while services use it."""
        params = _given(project=project, force="true" if force else None)
        return await self._json("DELETE", _secret(key), params=params, once=False)

    async def rotate_secrets_key(self) -> dict[str, Any]:
        """Seal all secrets anew: `{number, made_at, left}`; `secrets` says how many are left."""
        return await self._json("POST", "/api/v1/secrets/rotate-key", once=False)

    async def wrapping_key(self) -> dict[str, Any]:
        """The key-encryption key: `{current, since, step, actor, begun_at, given_up, missing}`."""
        return await self._json("GET", "/api/v1/cluster/wrapping-key")

    async def rotate_wrapping_key(self) -> dict[str, Any]:
        """Begin to replace the key-encryption key; returns at once, with what `wrapping_key` returns."""
        return await self._json("POST", "/api/v1/cluster/wrapping-key/rotate", once=False)

    async def registries(self, *, project: str | None = None) -> list[dict[str, Any]]:
        """Accounts at registries, without passwords; with a project its own and the cluster's."""
        answer = await self._json("GET", "/api/v1/registries", params=_given(project=project))
        found: list[dict[str, Any]] = answer["registries"]
        return found

    async def registry_login(
        self,
        host: str,
        username: str,
        password: str,
        *,
        project: str | None = None,
        check: bool = True,
    ) -> dict[str, Any]:
        """The account that pulls and look-ups of images use there. Unless `check` is False the registry is
        asked first; `checked` and `reason` say what is known. The same again changes nothing."""
        body: dict[str, Any] = {"username": username, "password": password, "check": check}
        if project is not None:
            body["project"] = project
        return await self._json("PUT", _registry(host), body=body, once=False)

    async def registry_logout(self, host: str, *, project: str | None = None) -> dict[str, Any]:
        return await self._json(
            "DELETE", _registry(host), params=_given(project=project), once=False
        )

    async def audit(self, *, resource: str | None = None, limit: int = 100) -> dict[str, Any]:
        """`{events: [...], next}`, newest first."""
        params = _given(resource=resource, limit=str(limit))
        return await self._json("GET", "/api/v1/audit", params=params)

    def follow_audit(
        self, *, resource: str | None = None, after: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events of the trail as they happen, from one master; `after`: the `id` of the last one that
        was seen, else from now on. Raises CannotReach when that master is lost, or silent."""
        params = _given(resource=resource, after=after)
        return self._events("/api/v1/audit/stream", params)

    def events(
        self,
        *,
        follow: bool = True,
        service: str | None = None,
        project: str | None = None,
        node: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        tail: int | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What happens, from one master: from now on, after the version or event `since`, or with the
        last `tail` ones; without `follow` what has happened so far. Filters are names with commas. One of
        the kind `gap` says that some were not kept. Raises CannotReach when that master is lost, or silent:
        go on with the `id` of the last one."""
        params = _given(
            follow=None if follow else "false",
            service=service,
            project=project,
            node=node,
            kind=kind,
            since=since,
            tail=None if tail is None else str(tail),
        )
        return self._events("/api/v1/events", params)

    async def _events(
        self, path: str, params: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with self._answered(
            "GET",
            path,
            params=params,
            headers={"Accept": "text/event-stream"},
            seconds=None,
            silent_seconds=SILENT_SECONDS,
        ) as response:
            if response.status >= 400:
                raise await error_of(response)
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    async def webhooks(self) -> list[dict[str, Any]]:
        answer = await self._json("GET", "/api/v1/webhooks")
        found: list[dict[str, Any]] = answer["webhooks"]
        return found

    async def add_webhook(self, webhook: Mapping[str, Any]) -> dict[str, Any]:
        """`repo`, `service_name` and what else docs/webhooks.md lists; the answer has `secret`, once."""
        return await self._json("POST", "/api/v1/webhooks", body=dict(webhook), once=False)

    async def remove_webhook(self, webhook: str) -> dict[str, Any]:
        """By its id, or all of the service with this name."""
        return await self._json("DELETE", f"/api/v1/webhooks/{_part(webhook)}", once=False)

    async def test_webhook(self, webhook: str) -> dict[str, Any]:
        """What a push would do now. Changes nothing."""
        return await self._json("POST", f"/api/v1/webhooks/{_part(webhook)}/test", once=False)

    async def rotate_webhook(
        self, webhook: str, *, overlap: float = 86400.0, secret: str | None = None
    ) -> dict[str, Any]:
        """A new secret; the old one is taken for `overlap` seconds more."""
        body = {"overlap": overlap} | ({"secret": secret} if secret else {})
        path = f"/api/v1/webhooks/{_part(webhook)}/rotate"
        return await self._json("POST", path, body=body, once=False)

    async def webhook_deliveries(self, webhook: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """What was pushed, the newest first, and what became of it."""
        path = f"/api/v1/webhooks/{_part(webhook)}/deliveries"
        answer = await self._json("GET", path, params=_given(limit=str(limit)))
        found: list[dict[str, Any]] = answer["deliveries"]
        return found

    async def redeliver(self, webhook: str, delivery: int) -> dict[str, Any]:
        """Deploy what was delivered once more."""
        path = f"/api/v1/webhooks/{_part(webhook)}/redeliver"
        return await self._json("POST", path, body={"delivery": delivery}, once=False)

    async def masters(self, *, stale: bool = False) -> dict[str, Any]:
        """`{masters: [...], term, voters, tolerates}`; `stale`: as one master knows it."""
        params = _given(consistency="stale" if stale else None)
        return await self._json("GET", "/api/v1/cluster/masters", params=params)

    async def remove_master(self, name: str, *, force: bool = False) -> dict[str, Any]:
        params = _given(force="true" if force else None)
        path = f"/api/v1/cluster/masters/{_part(name)}"
        return await self._json("DELETE", path, params=params, once=False)

    async def authority(self) -> dict[str, Any]:
        """The certificate authority: `{fingerprint, since, until, replaced, left_behind, rotation}`."""
        return await self._json("GET", "/api/v1/cluster/authority")

    async def rotate_authority(self, *, force: bool = False) -> dict[str, Any]:
        """Begin to replace the certificate authority; returns at once, with what `authority` returns.

        With `force`, also while one is being replaced, who is not connected is not waited for.
        """
        params = _given(force="true" if force else None)
        path = "/api/v1/cluster/authority/rotate"
        return await self._json("POST", path, params=params, once=False)

    async def transfer(self, to: str | None = None) -> dict[str, Any]:
        """Let this master lead, or the one that is furthest; `{leader: name}`."""
        path = "/api/v1/cluster/masters/transfer"
        return await self._json("POST", path, params=_given(to=to), once=False)


def _part(name: str) -> str:
    """A name as a part of a path, whatever is in it."""
    return quote(name, safe="")


def _secret(key: str) -> str:
    return f"/api/v1/secrets/{_part(key)}"


def _registry(host: str) -> str:
    return f"/api/v1/registries/{_part(host)}"


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
