"""The benches as fixtures."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.benches import Bench, DockerBench, FakeBench, PodmanBench, ProcessBench
from orca_common.env import Env
from orca_common.real import real_env


@pytest.fixture(scope="session")
def env() -> Env:
    return real_env(threads=12)


ENGINES = [pytest.param(name, marks=pytest.mark.engine) for name in ("docker", "podman")]


@pytest.fixture(params=["fake", "process", *ENGINES])
async def bench(request: pytest.FixtureRequest, env: Env, tmp_path: Path) -> AsyncIterator[Bench]:
    """The kind of runtime under test."""
    made: Bench
    match request.param:
        case "fake":
            made = FakeBench(env)
        case "process":
            made = ProcessBench(env, tmp_path / "tasks")
        case "podman":
            url = request.getfixturevalue("podman_url")
            made = PodmanBench(env, url, request.getfixturevalue("podman_image"))
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
