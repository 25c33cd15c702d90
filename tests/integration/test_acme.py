"""Certificates by ACME, from Debian's Pebble, which asks the ingress of a real node for the proof."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

import pebble
from integration.conftest import RealCluster, running
from orca.client import Client
from traffic import a_server, fetch

HOST = "app.example.com"
NAME = "acme-app-example-com"


@dataclass
class Place:
    cluster: RealCluster
    client: Client
    authority: pebble.Pebble

    @property
    def port(self) -> int:
        return self.cluster.ingress_port

    async def shown(self, host: str = HOST) -> x509.Certificate | None:
        """What is shown for the host by HTTPS."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.port + 1, ssl=context, server_hostname=host
            )
        except OSError:
            return None
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(found)

    async def until_shown(self, *, other_than: x509.Certificate | None = None) -> x509.Certificate:
        await self.until(lambda: self._shows_other(other_than))
        found = await self.shown()
        assert found is not None
        return found

    async def _shows_other(self, than: x509.Certificate | None) -> bool:
        found = await self.shown()
        return found is not None and found != than

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(90):
                while not await condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            told = await self.client.certificates()
            raise AssertionError(f"{told}\n{self.authority.log}") from None

    async def row(self) -> dict[str, Any]:
        (found,) = (await self.client.certificates())["certificates"]
        return dict(found)

    async def has_failed(self) -> bool:
        return (await self.row())["reason"] is not None


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    if missing := pebble.what_is_missing():
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    async with (
        running(tmp_path / "one", "process", workers=1) as cluster,
        pebble.Pebble(tmp_path / "pebble", cluster.ingress_port) as authority,
        cluster.client() as client,
    ):
        await client.deploy([a_server("web", 1, domain=HOST, env={"VERSION": "1"})])
        yield Place(cluster, client, authority)


async def begin(place: Place) -> None:
    await place.client.set_acme(
        agree=True,
        email="me@example.com",
        directory=place.authority.directory,
        ca=place.authority.ca,
    )


async def test_a_certificate_is_ordered_shown_renewed_and_kept_when_that_fails(
    place: Place,
) -> None:
    await begin(place)
    first = await place.until_shown()
    assert first.issuer.rfc4514_string() == await place.authority.issuer()
    assert (await fetch(place.port, HOST))[0] == 308
    row = await place.row()
    assert (row["name"], row["source"], row["hosts"]) == (NAME, "acme", [HOST])
    left = row["not_after"] - row["renews_at"]
    assert 0.29 < left / (row["not_after"] - row["not_before"]) < 0.34
    assert (await place.client.acme())["account"].startswith(place.authority.directory[:-4])

    await place.client.renew_certificate(NAME)
    second = await place.until_shown(other_than=first)
    assert (await place.client.certificates())["without"] == []

    await place.authority.stop()
    await place.client.renew_certificate(NAME)
    await place.until(place.has_failed)
    assert "Connection refused" in (await place.row())["reason"]
    assert await place.shown() == second

    # It has forgotten the account, and has another authority within.
    await place.authority.start(validity_seconds=20)
    await place.client.renew_certificate(NAME)
    third = await place.until_shown(other_than=second)
    assert third.issuer.rfc4514_string() == await place.authority.issuer()
    fourth = await place.until_shown(other_than=third)  # by itself: a third of its life was left
    assert fourth.not_valid_before_utc > third.not_valid_before_utc
    await place.client.remove_acme()


async def test_another_leader_begins_an_order_anew(place: Place) -> None:
    """kill -9 while the authority looks for the proof: nodes answer it still, and the order comes through."""
    place.authority.names.hold()
    await begin(place)
    async with asyncio.timeout(60):
        await place.authority.names.asked.wait()
    (without,) = (await place.client.certificates())["without"]
    assert (without["domain"], without["tries_at"]) == (HOST, None)
    assert without["reason"] == "it is being ordered"
    await place.cluster.kill("master-1")
    place.authority.names.release()
    await place.cluster.up()
    found = await place.until_shown()
    assert found.issuer.rfc4514_string() == await place.authority.issuer()
    assert (await place.client.certificates())["without"] == []
