"""Three real masters under one real fault after the other, with clients that write and read meanwhile.

What was acknowledged is neither lost nor doubled, every register is linearizable, no term has two
leaders, and in the end all masters hold the same. Replay the faults of a run: `--seed 17`.
"""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from chaos import faults
from chaos.registers import Violation
from chaos.world import a_world, loaded
from totals import Totals

SEEDS = (1, 2)
FAULTS, MANY_FAULTS = 15, 160


def a_choice(chance: random.Random, count: int) -> list[faults.Fault]:
    """All kinds in turn, in another order each time."""
    chosen: list[faults.Fault] = []
    while len(chosen) < count:
        chosen += chance.sample(faults.ALL, len(faults.ALL))
    return chosen[:count]


@pytest.mark.timeout(3600)
@pytest.mark.root
@pytest.mark.usefixtures("network_namespaces")
@pytest.mark.parametrize("number", range(len(SEEDS)))
async def test_under_real_faults_nothing_is_lost_doubled_or_read_in_the_wrong_order(
    number: int,
    shim_library: Path,
    tmp_path: Path,
    one_seed: int | None,
    is_long: bool,
    totals: Totals,
) -> None:
    seed = SEEDS[number] if one_seed is None else one_seed
    told: list[str] = []
    kinds: Counter[str] = Counter()
    async with a_world(tmp_path, shim_library, seed) as world:
        try:
            async with loaded(world, seed) as load:
                for fault in a_choice(world.chance, MANY_FAULTS if is_long else FAULTS):
                    told.append(f"{time.monotonic():.2f} {fault.__name__}")
                    kinds[fault.__name__] += 1
                    await fault(world)
                    await world.heal()
                    await load.progress()
        except* Violation as violations:
            story = "\n".join(told)
            raise Violation(f"--seed {seed}: {violations.exceptions[0]}\n{story}") from violations
        terms = world.check_leaders()
    totals(
        "three masters in network namespaces",
        real_faults=kinds.total(),
        acknowledged_writes=load.registers.acknowledged,
        reads=sum(map(len, load.registers.operations.values())) - load.registers.acknowledged,
        registers_linearizable=len(load.registers.operations),
        terms=terms,
        lost=0,
        doubled=0,
    )
