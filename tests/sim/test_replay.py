"""The log of a whole history, applied again elsewhere: the same state, to the bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from orca_master.app.core import MasterCore
from sim.cluster import CLUSTER
from sim.history import History
from sim.virtual_time import run_virtual

REPLAY = """
import asyncio, json, sys
from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.app.schema import SCHEMA
from orca_master.state.solo import SoloLog
from orca_master.state.store import Store

async def replay(folder, cluster, member):
    log = SoloLog(real_env(threads=1), folder, cluster_id=cluster, member_name=member)
    store = Store(real_env(threads=1), log, SCHEMA)
    await store.start()
    print(json.dumps([store.state.version, store.state.digest.hex()]))
    await store.close()

configure_logs(level="critical", as_json=False)
asyncio.run(replay(*sys.argv[1:]))
"""
ELSEWHERE = (
    {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "77", "TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8"},
    {"PYTHONHASHSEED": "random", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8"},
)


def replayed(folder: Path, copy: Path, member: str, environment: dict[str, str]) -> Any:
    """[version, digest]. On a copy: a start writes its new term."""
    shutil.copytree(folder, copy)
    command = [sys.executable, "-c", REPLAY, str(copy), CLUSTER, member]
    done = subprocess.run(
        command, env=dict(os.environ) | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_whole_log_makes_the_same_state_under_another_hash_zone_and_locale_co_36(
    tmp_path: Path,
) -> None:
    history, lives = History(5), []
    (master,) = history.cluster.masters.all

    async def note(core: MasterCore) -> None:
        lives.append(core)

    master.watchers.append(note)
    run_virtual(history.run())
    folder = tmp_path / "log"
    folder.mkdir(mode=0o700)
    for path, content in master.disk.image().items():
        if path.startswith("/log/") and "snapshot" not in path:
            (folder / Path(path).name).write_bytes(content)
    state = lives[-1].store.state
    assert state.version > 100
    for number, environment in enumerate(ELSEWHERE):
        found = replayed(folder, tmp_path / str(number), master.name, environment)
        assert found == [state.version, state.digest.hex()], environment
