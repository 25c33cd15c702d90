"""Pulls: policies, accounts, and registries that are down, silent, or give too much."""

import asyncio
import io
import os
import tarfile
import uuid
from collections.abc import Iterator

import pytest

import engine
from contract.benches import DockerBench
from contract.registries import PASSWORD, USER, door
from orca_common.env import Env
from orca_proto.worker_pb2 import RegistryAccount, TaskSpec
from orca_worker.runtime.docker.credentials import Credentials, Login
from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.docker.pull import Images, PullLimits
from orca_worker.runtime.port import RuntimeRefusal

pytestmark = pytest.mark.engine
LAYER_BYTES = 8 << 20


@pytest.fixture
def pushed(engine_url: str, registry: engine.Registry) -> Iterator[str]:
    """Path and tag of an image in the registry, of whose layers none is on this node."""
    client = engine.connect(engine_url)
    name = f"pulling-{uuid.uuid4().hex[:8]}:v1"
    local = engine.image_name("layer")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        layer = tarfile.TarInfo("data")
        layer.size = LAYER_BYTES
        tar.addfile(layer, io.BytesIO(os.urandom(LAYER_BYTES)))
    repository, _, tag = local.rpartition(":")
    client.import_image_from_data(data.getvalue(), repository=repository, tag=tag)
    engine.push_image(client, local, f"{registry.address}/{name}")
    engine.clean(client, "orca.task=none", images=(local,))
    yield name
    client.close()


def forget(url: str, *images: str) -> None:
    client = engine.connect(url)
    engine.clean(client, "orca.task=none", images=images)
    client.close()


async def test_who_has_an_account_is_let_in_and_who_has_none_is_told_how_ce_27(
    env: Env, engine_url: str, registry: engine.Registry, pushed: str
) -> None:
    link = Engine(env, engine_url)
    async with door(registry.address, needs_account=True) as guarded:
        image = f"{guarded.address}/{pushed}"
        with pytest.raises(RuntimeRefusal) as refused:
            await Images(link, limits=PullLimits()).prepare(TaskSpec(image=image))
        assert f"registry {guarded.address} refuses access" in refused.value.reason
        assert "asked without an account" in refused.value.reason
        assert f'registries."{guarded.address}"' in refused.value.reason
        wrong = Credentials({guarded.address: Login(username=USER, password="wrong-" + PASSWORD)})
        with pytest.raises(RuntimeRefusal, match="refuses access") as refused:
            await Images(link, limits=PullLimits(), credentials=wrong).prepare(
                TaskSpec(image=image)
            )
        assert f"asked as {USER}, the node's own account" in refused.value.reason
        assert PASSWORD not in refused.value.reason
        given = RegistryAccount(host=guarded.address, username="me", password="no", scope="shop")
        own = Images(link, limits=PullLimits(), credentials=wrong)
        with pytest.raises(RuntimeRefusal, match="asked as me: `orca registry login") as refused:
            await own.prepare(TaskSpec(image=image), given)
        assert refused.value.reason.endswith("--project shop`)")
        given.lacks = "no key opens it"
        with pytest.raises(RuntimeRefusal, match="no key opens it"):
            await own.prepare(TaskSpec(image=image), given)
        right = Credentials({guarded.address: Login(username=USER, password=PASSWORD)})
        images = Images(link, limits=PullLimits(), credentials=right)
        assert await images.prepare(TaskSpec(image=image))
        assert await images.id_of(image)
        assert guarded.refused >= 2
        forget(engine_url, image)
    link.close()


async def test_what_one_account_is_refused_is_not_refused_another_that_asks_at_the_same_time(
    env: Env, engine_url: str, registry: engine.Registry, pushed: str
) -> None:
    link = Engine(env, engine_url)
    async with door(registry.address, needs_account=True) as guarded:
        image, host = f"{guarded.address}/{pushed}", guarded.address
        images = Images(link, limits=PullLimits())
        wrong = RegistryAccount(host=host, username=USER, password="wrong")
        right = RegistryAccount(host=host, username=USER, password=PASSWORD)
        found = await asyncio.gather(
            images.prepare(TaskSpec(image=image), wrong),
            images.prepare(TaskSpec(image=image), right),
            images.prepare(TaskSpec(image=image)),
            return_exceptions=True,
        )
        assert isinstance(found[0], RuntimeRefusal)
        assert found[1] is True
        assert isinstance(found[2], RuntimeRefusal)
        forget(engine_url, image)
    link.close()


async def test_a_pull_that_stands_still_is_given_up_ce_27(
    env: Env, engine_url: str, registry: engine.Registry, pushed: str
) -> None:
    link = Engine(env, engine_url)
    async with door(registry.address, layer_bytes=4096) as stalling:
        images = Images(link, limits=PullLimits(quiet_seconds=1.0))
        with pytest.raises(RuntimeRefusal) as refused:
            await images.prepare(TaskSpec(image=f"{stalling.address}/{pushed}"))
    assert "made no progress for 1 s: registry" in refused.value.reason
    link.close()


async def test_an_image_that_is_too_large_is_given_up_ce_27(
    env: Env, engine_url: str, registry: engine.Registry, pushed: str
) -> None:
    link = Engine(env, engine_url)
    images = Images(link, limits=PullLimits(most_bytes=1000))
    image = f"{registry.address}/{pushed}"
    with pytest.raises(RuntimeRefusal, match="pull_most_bytes") as refused:
        await images.prepare(TaskSpec(image=image))
    assert refused.value.permanent
    assert await images.id_of(image) is None
    link.close()


async def test_a_digest_that_is_none_is_refused_ce_27(
    containers: DockerBench, registry: engine.Registry, pushed: str
) -> None:
    image = f"{registry.address}/{pushed.partition(':')[0]}@sha256:{'0' * 64}"
    with pytest.raises(RuntimeRefusal, match="not found"):
        await containers.runtime().prepare(TaskSpec(image=image))


async def test_a_digest_is_pulled_once(
    env: Env, engine_url: str, registry: engine.Registry, pushed: str
) -> None:
    link = Engine(env, engine_url)
    async with door(registry.address) as counted:
        images = Images(link, limits=PullLimits())
        tagged = f"{counted.address}/{pushed}"
        await images.prepare(TaskSpec(image=tagged))
        client = engine.connect(engine_url)
        digests = client.inspect_image(tagged)["RepoDigests"]
        client.close()
        named = next(name for name in digests if name.startswith(counted.address))
        asked = counted.asked
        for policy in ("always", "auto", "if-not-present", "never"):
            assert not await images.prepare(TaskSpec(image=named, pull_policy=policy))
        assert counted.asked == asked
        assert await images.prepare(TaskSpec(image=tagged, pull_policy="always"))
        assert counted.asked > asked
        forget(engine_url, tagged, named)
    link.close()


async def test_latest_is_asked_for_and_a_registry_that_is_down_costs_nothing_but_once(
    env: Env, engine_url: str, engine_image: str
) -> None:
    link = Engine(env, engine_url)
    asked: list[asyncio.StreamWriter] = []

    def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = engine.connect(engine_url)
    client.tag(engine_image, f"{host}/app", "latest")
    client.tag(engine_image, f"{host}/app", "v1")
    client.close()
    images = Images(link, limits=PullLimits(answer_seconds=0.5))
    for policy in ("auto", "if-not-present", "never"):
        await images.prepare(TaskSpec(image=f"{host}/app:v1", pull_policy=policy))
    assert asked == []
    await images.prepare(TaskSpec(image=f"{host}/app", pull_policy="auto"))
    assert asked
    count = len(asked)
    for _ in range(3):
        await images.prepare(TaskSpec(image=f"{host}/app", pull_policy="auto"))
    assert len(asked) == count
    server.close()
    for writer in asked:
        writer.close()
    forget(engine_url, f"{host}/app:latest", f"{host}/app:v1")
    link.close()
