"""A whole real master, killed at its calls that change files below its data folder.

From the first start on an empty folder through a few deploys. Without `--long` a sample of the
calls, with it each of them. Replay one: `--seed <call>`.
"""

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.masters import MasterProcess
from chaos.shim import Shim
from integration.conftest import free_ports
from orca.client import Client
from orca.errors import OrcaError
from totals import Totals

DEPLOYS = 8
SAMPLE = 12
PARTS = 2


@pytest.fixture
def master(shim_library: Path, tmp_path: Path) -> Iterator[tuple[MasterProcess, Shim]]:
    shim = Shim(shim_library, tmp_path / "control", tmp_path / "master-1")
    first = free_ports(3)
    running = MasterProcess(
        tmp_path,
        "master-1",
        ports=(first, first + 1, first + 2),
        environment=shim.environment,
    )
    yield running, shim
    running.kill()


def a_deploy(number: int) -> list[dict[str, Any]]:
    return [{"name": "one", "command": ["true", str(number)], "replicas": 0}]


async def life(master: MasterProcess, deploys: int) -> int:
    """Start it and deploy until it dies or has done so many; how many it has acknowledged."""
    master.start()
    done = 0
    with contextlib.suppress(OrcaError, AssertionError, TimeoutError, FileNotFoundError):
        await master.until_serving()
        async with Client(master.api, master.token) as client:
            for number in range(1, deploys + 1):
                await client.deploy(a_deploy(number), wait=False)
                done = number
    return done


async def found(master: MasterProcess) -> int:
    """Start it again; the number that is deployed, or 0."""
    master.start()
    await master.until_serving()
    async with Client(master.api, master.token) as client:
        services = await client.status()
        await client.deploy(a_deploy(99), wait=False)
        assert (await client.status())[0]["command"] == ["true", "99"]
    if not services:
        return 0
    return int(services[0]["command"][1])


def chosen(calls: int, part: int, one: int | None, is_long: bool) -> list[int]:
    if one is not None:
        return [one] if one % PARTS == part else []
    every = range(1, calls + 1)
    some = every if is_long else random.Random(calls).sample(every, SAMPLE)
    return [call for call in some if call % PARTS == part]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_master_killed_at_any_call_starts_again_with_all_it_acknowledged_co_25(
    master: tuple[MasterProcess, Shim],
    part: int,
    one_seed: int | None,
    is_long: bool,
    totals: Totals,
) -> None:
    process, shim = master
    assert await life(process, DEPLOYS) == DEPLOYS, process.said
    process.kill()
    calls = shim.get("calls")
    kills = 0
    for call in chosen(calls, part, one_seed, is_long):
        shutil.rmtree(process.data)
        shim.clear()
        shim.set("is_torn", call // PARTS % 2)
        shim.set("kill_at", call)
        acknowledged = await life(process, DEPLOYS)
        kills += not process.is_alive
        process.kill()
        shim.clear()
        left = await found(process)
        assert left in (acknowledged, acknowledged + 1), f"killed at call {call} of {calls}"
        process.kill()
    totals("masters killed at a system call", kills=kills, lost=0)
