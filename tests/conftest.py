"""Options and means that all tests share; a missing engine skips, in CI it fails."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import structlog

import engine
from podman import Podman
from totals import TOTAL, Totals, summary

SEEDS = 100
CRASH_STATES = 20_000
LONG_SECONDS = 1800.0
"""Who gives a test so much time means it for all of them."""

# In CI the same examples every time; at a desk new ones. A busy machine is no failure.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="replay this one seed of the simulations")
    parser.addoption("--seeds", type=int, default=SEEDS, help="how many seeds to simulate")
    parser.addoption("--first-seed", type=int, default=1, help="the first of them")
    parser.addoption(
        "--crash-states", type=int, default=CRASH_STATES, help="how many crash states to start on"
    )
    parser.addoption(
        "--long", action="store_true", help="real faults and kills in the numbers of make chaos"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Simulations keep the processor busy, tests of real processes mostly wait: side by side they take
    less time than one after the other. A long search has its own time: that of single tests is for the usual
    numbers."""
    if float(config.getini("timeout")) >= LONG_SECONDS:
        for item in items:
            item.own_markers = [mark for mark in item.own_markers if mark.name != "timeout"]
    busy = [item for item in items if "/tests/sim/" in str(item.path)]
    others = [item for item in items if "/tests/sim/" not in str(item.path)]
    if busy and others:
        step = len(others) / len(busy)
        place = {item: n * step for n, item in enumerate(busy)} | {
            o: n for n, o in enumerate(others)
        }
        items.sort(key=lambda item: place[item])


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> list[int]:
    one = request.config.getoption("--seed")
    if one is not None:
        return [one]
    first = request.config.getoption("--first-seed")
    return list(range(first, first + request.config.getoption("--seeds")))


@pytest.fixture
def one_seed(request: pytest.FixtureRequest) -> int | None:
    """The seed to replay, if only one is wanted."""
    seed: int | None = request.config.getoption("--seed")
    return seed


@pytest.fixture
def crash_states(request: pytest.FixtureRequest) -> int:
    """How many crash states all tests together start on."""
    return int(request.config.getoption("--crash-states"))


@pytest.fixture
def totals(record_property: Any) -> Totals:
    def tell(what: str, **counts: int) -> None:
        record_property(TOTAL, (what, counts))

    return tell


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in summary(terminalreporter.stats):
        terminalreporter.write_line(line)


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True, scope="session")
def _only_errors_are_said() -> None:
    """Daemons in the same process say only what is wrong; pytest shows it when a test fails.

    Nothing is cached and no level is filtered before the processors, so that `capture_logs` hears
    everything, in whatever order the tests run.
    """
    processors = [_drop_what_is_no_error, structlog.dev.ConsoleRenderer(colors=False)]
    structlog.configure(processors=processors, cache_logger_on_first_use=False)


def _drop_what_is_no_error(_: Any, level: str, event: Any) -> Any:
    if level not in ("error", "critical", "exception"):
        raise structlog.DropEvent
    return event


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
def podman_url() -> Iterator[str]:
    if missing := Podman.what_is_missing():
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    with Podman() as running:
        yield running.url


@pytest.fixture(scope="session")
def podman_image(podman_url: str) -> Iterator[str]:
    client = engine.connect(podman_url)
    yield engine.build_image(client, engine.image_name())
    client.close()


@pytest.fixture(scope="session")
def registry(engine_url: str) -> Iterator[engine.Registry]:
    if not engine.Registry.is_installed():
        assert not os.environ.get("CI"), "no registry program is installed"
        pytest.skip("no registry program is installed")
    with engine.Registry() as running:
        yield running
