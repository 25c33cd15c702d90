"""What the tests of the state share."""

from collections.abc import Iterator

import pytest
import structlog.testing


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Thousands of starts would say thousands of lines; `capture_logs` works all the same."""
    with structlog.testing.capture_logs():
        yield
