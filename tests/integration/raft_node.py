"""One master as a process of its own: the real log and store, TLS and disk. Started by the tests.

    python raft_node.py '<json configuration>'

With `found` in the configuration it founds the cluster unless its folder is there; else it joins, and
knows `peers`. It answers lines on a local port: `add <token>` writes a row, `all` reads every row
(linearizable), `who` names the leader that it knows; `learner <id> <address>`, `promote <id>` and
`remove <id>` change the members, `members` lists them. An answer is one line: `ok ...`, or `no`
(nothing was changed) or `unknown`. Removed, it says why and ends with status 3.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.errors import Conflict, NotLeader, OrcaError, StorageFull
from orca_master.state.raft import RaftLog, Removed, found
from orca_master.state.raft.members import parse_address
from orca_master.state.raft.transport import TlsNetwork, master_of
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table
from raft_tls import client_context, server_context


class Token(msgspec.Struct, frozen=True):
    token: str


TOKENS = Table("tokens", Token, key=lambda row: (row.token,))


async def answer(store: Store, log: RaftLog, line: str) -> str:
    verb, _, rest = line.strip().partition(" ")
    try:
        if verb == "add":
            await store.update(lambda tx: tx.put(TOKENS, Token(rest)))
            return "ok"
        if verb == "all":
            return "ok " + " ".join(row.token for row in (await store.fresh()).scan(TOKENS))
        if verb == "members":
            return "ok " + " ".join(f"{m.id}:{m.is_voter:d}" for m in log.members)
        if verb in ("learner", "promote", "remove"):
            change = {"learner": log.add_learner, "promote": log.promote, "remove": log.remove}
            await change[verb](*rest.split())  # type: ignore[operator]
            return "ok"
        leadership = store.leadership
        return f"ok {leadership.leader} {leadership.is_leader}"
    except (NotLeader, StorageFull, Conflict):
        return "no"
    except OrcaError:
        return "unknown"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


async def main(configuration: dict[str, Any]) -> None:
    configure_logs(level="error", as_json=False)
    env = real_env()
    name, cluster = configuration["name"], configuration["cluster"]
    peers: dict[str, str] = dict(configuration["peers"])
    network = TlsNetwork(
        env,
        cluster_id=cluster,
        node=name,
        listen=parse_address(configuration["address"]),
        server_tls=server_context(*configuration["tls"]),
        client_tls=client_context(*configuration["tls"]),
        verify=master_of(cluster),
    )
    if configuration["found"] and not Path(configuration["folder"]).exists():
        await found(
            env,
            configuration["folder"],
            cluster_id=cluster,
            node=name,
            address=configuration["address"],
        )
    log = RaftLog(
        env,
        configuration["folder"],
        cluster_id=cluster,
        node=name,
        network=network,
        first_peers=peers,
        segment_bytes=256 << 10,
        snapshot_every_entries=1000,
        kept_entries=200,
    )
    store = Store(env, log, Schema(TOKENS))
    await store.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # of a caller whose writer has stopped
            while line := await reader.readline():
                writer.write((await answer(store, log, line.decode()) + "\n").encode())
        writer.close()

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(store.run())
        await asyncio.start_server(serve, "127.0.0.1", configuration["port"])
        await stopping.wait()
        await store.close()
        work.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(json.loads(sys.argv[1])))
    except* Removed as ends:
        print(next(_leaves(ends)), flush=True)
        sys.exit(3)
