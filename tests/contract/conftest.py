"""The benches as fixtures; a missing engine skips, in CI it fails."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import engine
from contract.benches import Bench, DockerBench, FakeBench, ProcessBench
from orca_common.env import Env
from orca_common.real import real_env


@pytest.fixture(scope="session")
def engine_url() -> str:
    url = engine.find_engine()
    if url is None:
        assert not os.environ.get("CI"), "no container engine answers"
        pytest.skip("no container engine answers")
    return url


@pytest.fixture(scope="session")
def engine_image(engine_url: str) -> Iterator[str]:
    client = engine.connect(engine_url)
    image = engine.build_image(client, engine.image_name())
    yield image
    engine.clean(client, "orca.task=none", images=(image,))
    client.close()


@pytest.fixture(scope="session")
def registry(engine_url: str) -> Iterator[engine.Registry]:
    if not engine.Registry.is_installed():
        assert not os.environ.get("CI"), "no registry program is installed"
        pytest.skip("no registry program is installed")
    with engine.Registry() as running:
        yield running


@pytest.fixture(scope="session")
def env() -> Env:
    return real_env(threads=12)


@pytest.fixture(params=["fake", "process", pytest.param("docker", marks=pytest.mark.engine)])
async def bench(request: pytest.FixtureRequest, env: Env, tmp_path: Path) -> AsyncIterator[Bench]:
    """The kind of runtime under test."""
    made: Bench
    match request.param:
        case "fake":
            made = FakeBench(env)
        case "process":
            made = ProcessBench(env, tmp_path / "tasks")
        case _:
            url = request.getfixturevalue("engine_url")
            made = DockerBench(env, url, request.getfixturevalue("engine_image"))
    yield made
    await made.clean()


@pytest.fixture
async def processes(env: Env, tmp_path: Path) -> AsyncIterator[ProcessBench]:
    """Plain processes only."""
    made = ProcessBench(env, tmp_path / "tasks")
    yield made
    await made.clean()


@pytest.fixture
async def containers(env: Env, engine_url: str, engine_image: str) -> AsyncIterator[DockerBench]:
    """The container engine only."""
    made = DockerBench(env, engine_url, engine_image)
    yield made
    await made.clean()
