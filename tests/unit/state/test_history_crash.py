"""A master that is killed at any point has every acknowledged event afterwards, and each once."""

import random
import subprocess
import sys
from pathlib import Path

KILLS = 20
NODE = Path(__file__).with_name("history_node.py")


def test_a_master_killed_again_and_again_neither_loses_nor_doubles_an_event(tmp_path: Path) -> None:
    chance = random.Random(5)
    last = 0
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, str(NODE), str(tmp_path), str(last)],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            said = child.stdout.readline()
            assert said.startswith("start"), "the child has said why"
            for _ in range(chance.randrange(1, 400)):
                last = int(child.stdout.readline())
            child.kill()
            # It may have said more before it died.
            last = max([last, *map(int, child.stdout.read().split()[:-1])])
    assert last > KILLS * 25, "there were snapshots in between"
