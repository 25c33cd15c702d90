"""One cluster a test: real HTTP and log, a fake engine behind a real agent."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inprocess import InProcess, in_process


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(tmp_path / "master") as running:
        yield running
