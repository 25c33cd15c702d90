"""Room on the engine's disk: what is removed, and what never is."""

import io
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

import engine
from contract.benches import DockerBench
from orca_common.env import Env
from orca_worker.runtime.docker.cleaning import Cleaning, DiskLimits
from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.docker.runtime import DockerRuntime

pytestmark = pytest.mark.engine


@pytest.fixture
def client(engine_url: str) -> Iterator[docker.APIClient]:
    made = engine.connect(engine_url)
    yield made
    made.close()


def an_image(client: docker.APIClient, name: str) -> str:
    """An image of its own content; its id."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(uuid.uuid4().hex))
    client.import_image_from_data(
        data.getvalue(), repository=f"orca-test/{name}", tag=engine.RUN, changes=['CMD ["x"]']
    )
    found: str = client.inspect_image(f"orca-test/{name}:{engine.RUN}")["Id"]
    return found


async def test_the_longest_unused_go_first_and_what_is_needed_stays(
    containers: DockerBench, client: docker.APIClient, env: Env, tmp_path: Path
) -> None:
    names = ("old", "used", "wanted", "newer", "newest", "built")
    ids = {name: an_image(client, name) for name in names}
    has = client.create_container(
        ids["used"], ["x"], labels={"orca.cluster": containers.cluster, "orca.node": "other"}
    )
    shares = [0.9]

    def share(_: str) -> float:
        gone = sum(not client.images(f"orca-test/{name}") for name in ("old", "newer"))
        return shares[0] - 0.1 * gone

    link = Engine(env, containers.url)
    record = str(tmp_path / "images.json")
    cleaning = Cleaning(link, limits=DiskLimits(), record=record, share=share)
    try:
        for name in names[:-1]:
            await cleaning.note(ids[name], pulled=True)
        await cleaning.note(ids["built"], pulled=False)
        wanted = [f"orca-test/wanted:{engine.RUN}", "orca-test/none:1"]
        shares[0] = 0.8
        assert (await cleaning.sweep(wanted)).images == 0
        shares[0] = 0.9
        again = Cleaning(link, limits=DiskLimits(), record=record, share=share)
        swept = await again.sweep(wanted)
        assert swept.images == 2
        left = {name for name in names if client.images(f"orca-test/{name}")}
        assert left == {"used", "wanted", "newest", "built"}
        assert (await again.sweep(wanted)).images == 0
    finally:
        client.remove_container(has["Id"], force=True)
        for name in names:
            engine.clean(client, "orca.task=none", images=(f"orca-test/{name}:{engine.RUN}",))
        link.close()


async def test_networks_that_nothing_has_are_removed_and_no_others(
    containers: DockerBench, client: docker.APIClient
) -> None:
    runtime = containers.runtime()
    assert isinstance(runtime, DockerRuntime)
    foreign = client.create_network(f"orca-test-{engine.RUN}", labels={"orca.cluster": "other"})
    try:
        task = containers.task()
        spec = containers.spec(["sleep", "600"])
        await runtime.create(task, spec, containers.labels(task))
        label = f"orca.cluster={containers.cluster}"
        await runtime.sweep(())
        assert len(client.networks(filters={"label": label})) == 1
        await runtime.remove(task.id)
        await runtime.sweep(())
        assert client.networks(filters={"label": label}) == []
        assert client.networks(ids=[foreign["Id"]])
        await runtime.create(task, spec, containers.labels(task))
        await runtime.start(task.id)
    finally:
        client.remove_network(foreign["Id"])
