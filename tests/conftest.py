"""Options that all tests share."""

import pytest

from orca_common.logs import configure_logs

SEEDS = 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="replay this one seed of the simulations")
    parser.addoption("--seeds", type=int, default=SEEDS, help="how many seeds to simulate")
    parser.addoption("--first-seed", type=int, default=1, help="the first of them")


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> list[int]:
    one = request.config.getoption("--seed")
    if one is not None:
        return [one]
    first = request.config.getoption("--first-seed")
    return list(range(first, first + request.config.getoption("--seeds")))


@pytest.fixture(autouse=True, scope="session")
def _quiet_logs() -> None:
    """Daemons in the same process say only what is wrong; pytest shows it when a test fails."""
    configure_logs(level="error", as_json=False)
