"""A child process for `test_history_crash`: one master that records events until it is killed.

usage: history_node.py FOLDER LAST, where LAST is the last number that was acknowledged before. Says
`start N` (N events are in the history, all of them verified), then every number as it is durable.
"""

import asyncio
import sys

import msgspec

from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_master.state.history.event import BEGINNING, verified
from orca_master.state.history.keeper import History
from orca_master.state.solo import SoloLog
from orca_master.state.store import Store
from orca_master.state.table import Schema, Table


class Counter(msgspec.Struct, frozen=True):
    value: int


COUNTER = Table("counter", Counter, key=lambda _: ("counter",))


async def numbers_in(store: Store, history: History) -> list[int]:
    """Every number in the history, oldest first, after its chain is found to be the log's."""
    events = []
    if store.state.history != BEGINNING:
        async for batch in history.events(0, store.state.history.version):
            events += batch
    assert [event.chain for event in verified(BEGINNING.chain, events)][-1:] == (
        [store.state.history.chain] if events else []
    )
    return [event.decode(Counter).value for event in events]


async def main(folder: str, last: int) -> None:
    configure_logs(level="error", as_json=False)
    env = real_env(threads=2)
    log = SoloLog(env, f"{folder}/log", cluster_id="c", member_name="m", snapshot_every_entries=25)
    history = History(env, f"{folder}/history.db")
    store = Store(env, log, Schema(COUNTER), history)
    await store.start()
    row = store.state.get(COUNTER, "counter")
    value = row.value if row else 0
    assert value >= last, f"{last} was acknowledged, the state has {value}"
    assert await numbers_in(store, history) == list(range(1, value + 1))
    print("start", value, flush=True)

    def count(tx) -> int:
        before = tx.get(COUNTER, "counter")
        after = Counter(before.value + 1 if before else 1)
        tx.put(COUNTER, after)
        tx.record("counted", f"by {after.value % 3}", after)
        return after.value

    async with asyncio.TaskGroup() as group:
        group.create_task(store.run())
        while True:
            values = await asyncio.gather(*(store.update(count) for _ in range(3)))
            print(*values, sep="\n", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
