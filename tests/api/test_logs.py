"""Output that is read and followed, over the real server and the worker's real session."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from inprocess import InProcess, eventually
from orca_master.control.sweeping import Sweeper
from orca_master.state.transaction import Transaction
from orca_master.tasks import gone as gone_tasks
from orca_master.tasks.gone import GONE_TASKS, of_owner
from orca_master.tasks.model import Task
from orca_worker.kept import KeptOutputs
from orca_worker.output import HELD_BYTES

LOGS = "/api/v1/services/web/logs"
OWNER = "service:default/default/web"


class Follower:
    """A client that follows; `until` reads on until it has read this."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self.read = b""

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(60):
            while text not in self.read:
                piece = await self._content.readany()
                assert piece, f"ended, after {self.read!r}"
                self.read += piece
        return self.read

    async def rest(self) -> bytes:
        async with asyncio.timeout(60):
            self.read += await self._content.read()
        return self.read


@asynccontextmanager
async def follows(cluster: InProcess, **params: str) -> AsyncIterator[Follower]:
    headers = {"Authorization": f"Bearer {cluster.token}"}
    query = {"follow": "true"} | params
    async with cluster.client.get(LOGS, headers=headers, params=query) as response:
        assert response.status == 200, await response.text()
        yield Follower(response.content)


def tasks(cluster: InProcess) -> list[str]:
    return list(cluster.worker.machine.things)


async def test_who_follows_gets_what_is_written_later(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    cluster.worker.runtime.write(task, b"one\ntwo\nthree\n")
    async with follows(cluster, tail="2") as follower:
        assert await follower.until(b"three") == b"two\nthree\n"
        cluster.worker.runtime.write(task, b"four\n")
        assert await follower.until(b"four") == b"two\nthree\nfour\n"
    await cluster.call("DELETE", "/api/v1/services/web?purge=true")


async def test_a_service_that_is_removed_lets_its_followers_go(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    async with follows(cluster) as follower:
        await cluster.call("DELETE", "/api/v1/services/web?purge=true")
        assert await follower.rest() == b"... service web was removed\n"
    await eventually(lambda: cluster.worker.runtime.following == 0)


async def test_a_silent_follower_that_went_away_is_found_out_by_its_beat(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "web", "replicas": 3})
    async with follows(cluster, beat="0.1") as follower:
        await follower.until(b"\0\0")
        assert cluster.worker.runtime.following == 3
    await eventually(lambda: cluster.worker.runtime.following == 0)


async def test_a_follower_without_a_beat_is_found_out_by_the_next_line(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    async with follows(cluster):
        await eventually(lambda: cluster.worker.runtime.following == 1)

    def is_over() -> bool:
        cluster.worker.runtime.write(task, b"line\n")
        return cluster.worker.runtime.following == 0

    await eventually(is_over)


async def test_replicas_that_come_later_are_followed_too(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (first,) = tasks(cluster)
    async with follows(cluster) as follower:
        cluster.worker.runtime.write(first, b"alone\n")
        await follower.until(b"alone\n")
        await cluster.call("POST", "/api/v1/services/web/scale", {"replicas": 2})
        await cluster.until("web", running_replicas=2)
        (second,) = set(tasks(cluster)) - {first}
        cluster.worker.runtime.write(second, b"hello\nyou\n")
        await follower.until(b"web/2 | hello\nweb/2 | you\n")
        cluster.worker.runtime.write(first, b"and me\n")
        assert (await follower.until(b"web/1 | and me\n")).startswith(b"alone\n")


async def test_a_replica_is_followed_across_its_restart(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (first,) = tasks(cluster)
    async with follows(cluster, replica="1") as follower:
        cluster.worker.runtime.write(first, b"first life\n")
        await follower.until(b"first life\n")
        cluster.worker.runtime.crash(first, 3)
        await eventually(lambda: bool(set(tasks(cluster)) - {first}))
        (second,) = set(tasks(cluster)) - {first}
        cluster.worker.runtime.write(second, b"second life\n")
        assert await follower.until(b"second life\n") == b"first life\nsecond life\n"


async def test_one_task_is_followed_to_its_end(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    async with follows(cluster, replica=task) as follower:
        cluster.worker.runtime.write(task, b"last words")
        await follower.until(b"last words")
        cluster.worker.runtime.crash(task, 1)
        assert await follower.rest() == b"last words\n... task %s is gone\n" % task.encode()


async def test_one_replica_is_read_by_its_number_or_its_task(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web", "replicas": 2})
    shown = {t["replica"]: t["id"] for t in (await cluster.status("web"))["tasks"]}
    for number, task in shown.items():
        cluster.worker.runtime.write(task, b"I am %d\n" % number)
    for asked in ("2", shown[2]):
        answer = await cluster.call("GET", LOGS, params={"replica": asked})
        assert answer.text == "I am 2\n"
    answer = await cluster.call("GET", LOGS, params={"replica": "7"})
    assert (answer.status, answer.json["error"]) == (404, "replica of web not found: 7")


@pytest.mark.parametrize("bad", ["0", "x", "-1", "123456", "ABCDEF0123456789"])
async def test_what_names_no_replica_is_refused(cluster: InProcess, bad: str) -> None:
    answer = await cluster.call("GET", LOGS, params={"replica": bad})
    assert answer.status == 400
    assert answer.json["problems"][0]["field"] == "query.replica"


async def test_since_takes_a_duration_or_a_time(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    cluster.worker.runtime.write(task, b"line\n")

    async def read(since: str) -> str:
        return (await cluster.call("GET", LOGS, params={"since": since})).text

    assert await read("1970-01-01T00:00:00Z") == "line\n"
    assert await read("2999-01-01T00:00:00+02:00") == ""
    assert await read("30000d") == "line\n"


@pytest.mark.parametrize("bad", ["", "10", "m", "-1m", "10y", "yesterday", "2026-01-01", "1e9s"])
async def test_what_is_no_time_is_refused_with_an_example(cluster: InProcess, bad: str) -> None:
    answer = await cluster.call("GET", LOGS, params={"since": bad})
    assert answer.status == 400
    assert "must be a duration such as 10m or a time such as" in answer.json["error"]


async def test_a_worker_that_comes_back_is_followed_again(cluster: InProcess) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    async with follows(cluster) as follower:
        cluster.worker.runtime.write(task, b"before\n")
        await follower.until(b"before\n")
        await cluster.worker.kill()
        await follower.until(b"... replica 1: the worker's connection was lost; trying again")
        cluster.worker.start()
        await cluster.until("web", status="running")
        cluster.worker.runtime.write(task, b"after\n")
        assert (await follower.until(b"after\n")).count(b"connection was lost") == 1


async def test_a_node_that_is_not_connected_is_named_and_the_others_are_read(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "web"})
    await cluster.worker.kill()
    await eventually(lambda: not cluster.core.dispatcher.is_connected(cluster.worker.id))
    answer = await cluster.call("GET", LOGS)
    assert answer.status == 503
    assert answer.json["error"] == f"node {cluster.worker.name} is not connected"


async def test_a_reader_who_stands_still_is_told_how_many_lines_he_missed(
    cluster: InProcess,
) -> None:
    """Written are 40 MB while he reads nothing: much more than sockets and windows hold."""
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    block = b"".join(b"%07d %s\n" % (n, b"x" * 91) for n in range(1000))
    async with follows(cluster) as follower:
        await eventually(lambda: cluster.worker.runtime.following == 1)
        for _ in range(400):
            cluster.worker.runtime.write(task, block)
        await eventually(lambda: cluster.worker.runtime.taken == 400)  # kept or left out
        await follower.until(b"too slow\n")
        cluster.worker.runtime.write(task, b"the end\n")
        read = await follower.until(b"the end\n")
    notes = re.findall(rb"^\.\.\. (\d+) lines were left out: the reader was too slow$", read, re.M)
    lines = [line for line in read.splitlines() if not line.startswith(b"...")]
    assert notes
    assert sum(map(int, notes)) + len(lines) == 400_001
    assert set(map(len, lines)) == {7, 99}
    assert HELD_BYTES < 40_000_000 / 100


async def test_a_reader_of_what_is_there_gets_all_of_it_however_slow_he_is(
    cluster: InProcess,
) -> None:
    await cluster.deploy({"name": "web"})
    (task,) = tasks(cluster)
    cluster.worker.runtime.write(task, b"x" * 99 + b"\n")
    for _ in range(200):
        cluster.worker.runtime.write(task, (b"x" * 99 + b"\n") * 500)
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with cluster.client.get(f"{LOGS}?tail=100000", headers=headers) as response:
        await asyncio.sleep(3)
        async with asyncio.timeout(60):
            assert len(await response.content.read()) == 100_000 * 100


@pytest.fixture
async def keeping(cluster: InProcess, tmp_path: Path) -> InProcess:
    """With a worker that keeps the output of tasks that are gone."""
    await cluster.worker.kill()
    cluster.worker.kept = KeptOutputs(cluster.core.env, str(tmp_path / "outputs"))
    cluster.worker.start()
    await eventually(lambda: cluster.core.dispatcher.is_connected(cluster.worker.id))
    return cluster


async def gone(cluster: InProcess, count: int) -> list[Task]:
    """The last tasks of web that are gone, the oldest first, once there are so many."""
    await eventually(lambda: cluster.core.store.state.count(GONE_TASKS) == count)
    return sorted(of_owner(cluster.core.store.state, OWNER), key=lambda task: task.created_at)


async def test_what_is_gone_is_read_with_how_it_ended(keeping: InProcess) -> None:
    cluster = keeping
    await cluster.deploy({"name": "web", "command": ["first"]})
    (first,) = tasks(cluster)
    cluster.worker.runtime.write(first, b"one\ntwo\n")
    answer = await cluster.call("GET", LOGS, params={"previous": "true"})
    assert answer.status == 404
    assert "output of replicas that are gone" in answer.json["error"]
    await cluster.deploy({"name": "web", "command": ["second"]})
    await gone(cluster, 1)
    (second,) = tasks(cluster)
    cluster.worker.runtime.write(second, b"three\n")
    cluster.worker.runtime.crash(second, 3)
    await gone(cluster, 2)
    answer = await cluster.call("GET", LOGS, params={"previous": "true", "tail": "1"})
    lines = answer.text.splitlines()
    assert re.fullmatch(
        rf"... replica 1, task {first}: revision 1, started .*Z; was stopped", lines[0]
    )
    assert lines[1] == "two"
    assert re.fullmatch(rf"... replica 1, task {second}: .*; exited with code 3", lines[2])
    assert lines[3:] == ["three"]
    for params in ({"replica": first}, {"previous": "true", "replica": first}):
        assert "one\ntwo\n" in (await cluster.call("GET", LOGS, params=params)).text
    assert (await cluster.call("GET", LOGS, params={"replica": "0" * 16})).status == 404


async def test_the_last_three_of_a_replica_are_known_for_a_day(keeping: InProcess) -> None:
    cluster, ids = keeping, [""]
    for number in range(6):
        await cluster.deploy({"name": "web", "command": [f"{number}"]})
        while len(tasks(cluster)) != 1 or tasks(cluster)[0] == ids[-1]:
            await asyncio.sleep(0.01)
        ids += tasks(cluster)
        cluster.worker.runtime.write(ids[-1], b"%d\n" % number)
    store = cluster.core.store
    await eventually(lambda: {t.id for t in of_owner(store.state, OWNER)} == set(ids[-4:-1]))
    answer = await cluster.call("GET", LOGS, params={"previous": "true"})
    assert re.findall(r"^\d$", answer.text, re.M) == ["2", "3", "4"]
    sweeper = Sweeper(cluster.core.env, cluster.core.store, gone_tasks.old, gone_tasks.forget)
    await sweeper.sweep()
    assert cluster.core.store.state.count(GONE_TASKS) == 3
    await cluster.core.store.tend(_a_day_older)
    await sweeper.sweep()
    assert cluster.core.store.state.count(GONE_TASKS) == 0


def _a_day_older(tx: Transaction) -> None:
    for each in tx.scan(GONE_TASKS):
        tx.put(GONE_TASKS, replace(each, at=each.at - 25 * 3600))


@pytest.mark.parametrize("params", [{"follow": "true"}, {"since": "10m"}])
async def test_what_is_gone_is_not_followed(cluster: InProcess, params: dict[str, str]) -> None:
    answer = await cluster.call("GET", LOGS, params={"previous": "true"} | params)
    assert answer.status == 400
    assert "`previous` goes with `tail` only" in answer.json["error"]
