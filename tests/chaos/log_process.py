"""Lives of a log in processes of their own: a store on a real disk, ended wherever the test wants.

    python log_process.py <certificate> <authority>

Each line of standard input is one life, JSON: `folder`, `kind` (solo; raft; growing: the solo log
becomes a Raft log half-way; wrong: a planted fault) and `count`. A child is forked for it; it prints
`found` with the numbers that a start finds, adds the next `count` numbers, prints `kept <number>` for
each that was acknowledged, and `whole` when it ends by itself. Then comes `ended` with its status, -9
if it was killed. Small files and frequent snapshots: all that a log does happens within a few dozen
entries.
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.errors import NotLeader, OrcaError
from orca_master.state.growing import GrowingLog
from orca_master.state.log import Log, LogFailed, Machine
from orca_master.state.raft.convert import retire
from orca_master.state.raft.founding import found
from orca_master.state.raft.log import RaftLog
from orca_master.state.raft.transport import TlsNetwork, master_of
from orca_master.state.rows import State
from orca_master.state.solo.log import SoloLog
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from raft_tls import CLUSTER, client_context, server_context

NODE, ADDRESS = "m1", "127.0.0.1:1"
FILED_ENTRIES, SEGMENT_BYTES = 7, 600


class Token(msgspec.Struct, frozen=True):
    number: int


TOKENS = Table("tokens", Token, key=lambda row: (f"{row.number:06d}",))


class CompactsFirst(SoloLog):
    """Planted: the entries go before the snapshot that stands for them is there."""

    async def _take_snapshot(self) -> None:
        self._segments.drop_up_to(self._index)
        await super()._take_snapshot()


class Life:
    """`tls`: the files of a master's certificate and of the authority."""

    def __init__(self, folder: str, kind: str, tls: tuple[str, str]) -> None:
        self._env = real_env(threads=2)
        self._solo_folder, self._raft_folder = f"{folder}/log", f"{folder}/raft"
        self._tls = tls
        self._kind = kind
        self._growing: GrowingLog | None = None

    async def run(self, count: int) -> None:
        store = Store(self._env, await self._log(), Schema(TOKENS))
        await store.start()
        async with asyncio.TaskGroup() as group:
            work = group.create_task(store.run())
            state = await self._led(store)
            found = [row.number for row in state.scan(TOKENS)]
            say("found " + " ".join(map(str, found)))
            first = max(found, default=0) + 1
            for number in range(first, first + count):
                if self._growing is not None and number == first + count // 2:
                    await self._growing.grown()
                await self._keep(store, Token(number))
            await store.close()
            work.cancel()
        say("whole")

    async def _led(self, store: Store) -> State:
        """What is confirmed, once this master leads."""
        while True:
            with contextlib.suppress(NotLeader):
                return await store.fresh()
            await asyncio.sleep(0)

    async def _keep(self, store: Store, token: Token) -> None:
        while True:
            with contextlib.suppress(NotLeader):
                await store.update(lambda tx: tx.put(TOKENS, token))
                say(f"kept {token.number}")
                return
            await asyncio.sleep(0)

    async def _log(self) -> Log:
        Path(self._solo_folder).parent.mkdir(exist_ok=True)
        if self._kind == "raft" and not Path(self._raft_folder).exists():
            await self._found((), 0)
        if self._kind == "raft":
            return self._raft()
        if Path(self._raft_folder).exists():
            self._retire()
            return GrowingLog(self._env, raft=self._raft())
        if self._kind != "growing":
            return self._solo()
        self._growing = GrowingLog(self._env, solo=self._solo, convert=self._convert)
        return self._growing

    def _solo(self) -> SoloLog:
        return (CompactsFirst if self._kind == "wrong" else SoloLog)(
            self._env,
            self._solo_folder,
            cluster_id=CLUSTER,
            member_name=NODE,
            segment_bytes=SEGMENT_BYTES,
            snapshot_every_entries=FILED_ENTRIES,
        )

    async def _convert(self, machine: Machine, *, term: int) -> RaftLog:
        await self._found(machine.capture(), term)
        self._retire()
        return self._raft()

    async def _found(self, capture: Any, term: int) -> None:
        await found(
            self._env,
            self._raft_folder,
            cluster_id=CLUSTER,
            node=NODE,
            address=ADDRESS,
            capture=capture,
            first_term=term,
        )

    def _retire(self) -> None:
        retire(self._env, self._solo_folder, cluster_id=CLUSTER, node=NODE)

    def _raft(self) -> RaftLog:
        network = TlsNetwork(
            self._env,
            cluster_id=CLUSTER,
            node=NODE,
            listen=None,
            server_tls=server_context(*self._tls),
            client_tls=client_context(*self._tls),
            verify=master_of(CLUSTER),
        )
        return RaftLog(
            self._env,
            self._raft_folder,
            cluster_id=CLUSTER,
            node=NODE,
            network=network,
            segment_bytes=SEGMENT_BYTES,
            snapshot_every_entries=FILED_ENTRIES,
            kept_entries=3,
        )


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def live(life: dict[str, Any], tls: tuple[str, str]) -> None:
    """In the child. It never returns."""
    try:
        asyncio.run(Life(life["folder"], life["kind"], tls).run(life["count"]))
    except* (LogFailed, OrcaError) as failures:
        say(f"failed {[str(error) for error in failures.exceptions]}")
        os._exit(1)
    os._exit(0)


def main(tls: tuple[str, str]) -> None:
    configure_logs(level="critical", as_json=False)
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            live(json.loads(line), tls)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main((sys.argv[1], sys.argv[2]))
