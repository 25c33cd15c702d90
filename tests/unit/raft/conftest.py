"""Makes `sim` (the simulated world in tests/sim) importable for the tests of the Raft log."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Thousands of starts would say thousands of lines; `capture_logs` works all the same."""
    with structlog.testing.capture_logs():
        yield
