"""What the tests under real faults need of a machine: a compiler, and for some of them root."""

import os
import shutil
from pathlib import Path

import pytest

from chaos.shim import compile_shim

ONLY_LONG = ("test_boot.py", "test_fenced.py")
"""Groups of `make chaos` that have no short form."""
NETWORK_TOOLS = ("ip", "iptables", "nsenter", "tc", "mount")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_left_out = collection_path.name in ONLY_LONG and not config.getoption("--long")
    return True if is_left_out else None


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = compile_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        _leave_out("no C compiler (cc) is installed")
    assert library is not None
    return library


@pytest.fixture(scope="session")
def network_namespaces() -> None:
    """Leaves the test out where this user cannot make them."""
    missing = [tool for tool in NETWORK_TOOLS if shutil.which(tool) is None]
    if missing:
        _leave_out(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        _leave_out("network namespaces need root")


def _leave_out(why: str) -> None:
    """At a desk; in CI nothing is."""
    assert not os.environ.get("CI"), why
    pytest.skip(why)
