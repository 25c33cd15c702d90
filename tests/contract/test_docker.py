"""What only an engine can do: images, registries, isolation, and being lost."""

import asyncio
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

import engine
from contract.benches import DockerBench
from contract.doors import in_between
from contract.waiting import exited, launch, listens, output, until
from orca_common.env import Env
from orca_proto.worker_pb2 import Resources, TaskSpec
from orca_worker.main import engine_is_back
from orca_worker.runtime.docker.engine import CALLS_AT_ONCE, Engine
from orca_worker.runtime.docker.pull import Images, PullLimits
from orca_worker.runtime.docker.runtime import DockerRuntime, probe
from orca_worker.runtime.port import Phase, RuntimeAway, RuntimeRefusal

pytestmark = pytest.mark.engine


@pytest.fixture
def remote_image(engine_url: str, engine_image: str, registry: engine.Registry) -> Iterator[str]:
    """An image that is in the registry and not on this node."""
    client = engine.connect(engine_url)
    name = f"{registry.address}/app:v1"
    engine.push_image(client, engine_image, name)
    yield name
    engine.clean(client, "orca.task=none", images=(name,))
    client.close()


async def test_a_missing_image_is_pulled_once_for_all_who_ask(
    containers: DockerBench, remote_image: str
) -> None:
    runtime = containers.runtime()
    spec = TaskSpec(image=remote_image, command=["sleep", "600"])
    with pytest.raises(RuntimeRefusal, match='not on this node, and its pull policy "never"'):
        await runtime.prepare(TaskSpec(image=remote_image, pull_policy="never"))
    task = containers.task()
    with pytest.raises(RuntimeRefusal, match=r"image .*app:v1 not found"):
        await runtime.create(task, spec, containers.labels(task))
    await asyncio.gather(*(runtime.prepare(spec) for _ in range(5)))
    await runtime.prepare(TaskSpec(image=remote_image, pull_policy="never"))
    await runtime.prepare(TaskSpec(image=remote_image, pull_policy="always"))
    await runtime.create(task, spec, containers.labels(task))
    assert (await runtime.start(task.id)).phase is Phase.RUNNING
    await runtime.remove(task.id)


async def test_an_image_that_is_here_needs_no_registry(containers: DockerBench) -> None:
    runtime = containers.runtime()
    client = engine.connect(containers.url)
    # Nothing listens on port 1: any attempt to ask the registry fails.
    client.tag(containers.image, "127.0.0.1:1/app", "here")
    await runtime.prepare(TaskSpec(image="127.0.0.1:1/app:here"))
    with pytest.raises(RuntimeRefusal, match=r"registry 127.0.0.1:1 cannot be reached: .*refused"):
        await runtime.prepare(TaskSpec(image="127.0.0.1:1/app:here", pull_policy="always"))
    client.remove_image("127.0.0.1:1/app:here")
    client.close()


async def test_a_missing_tag_is_told_in_words(
    containers: DockerBench, registry: engine.Registry
) -> None:
    image = f"{registry.address}/app:nope"
    results = await asyncio.gather(
        *(containers.runtime().prepare(TaskSpec(image=image)) for _ in range(2)),
        return_exceptions=True,
    )
    reasons = {result.reason for result in results if isinstance(result, RuntimeRefusal)}
    assert reasons == {f"image {image} not found: manifest unknown"}


async def test_a_registry_without_a_name_is_told_in_words(containers: DockerBench) -> None:
    with pytest.raises(RuntimeRefusal) as refused:
        await containers.runtime().prepare(TaskSpec(image="no-such-host.invalid/app:1"))
    assert refused.value.reason.startswith("registry no-such-host.invalid cannot be reached: ")
    assert "no such host" in refused.value.reason


async def test_a_malformed_image_is_refused_for_good(containers: DockerBench) -> None:
    for image in ("", "UPPER/case", "app:not a tag"):
        with pytest.raises(RuntimeRefusal) as refused:
            await containers.runtime().prepare(TaskSpec(image=image))
        assert refused.value.permanent, refused.value.reason


async def test_a_silent_pull_of_an_unknown_name_is_given_up(
    env: Env, engine_url: str, tmp_path: Path
) -> None:
    async with in_between(engine_url, tmp_path / "s", swallow=b"/images/create") as url:
        door = Engine(env, url)
        images = Images(door, limits=PullLimits(seconds=20, silent_seconds=0.1))
        with pytest.raises(RuntimeRefusal, match=r"registry no-such-host\.invalid cannot be reach"):
            await images.prepare(TaskSpec(image="no-such-host.invalid/app:1"))
        door.close()


async def test_a_pull_has_a_deadline(env: Env, engine_url: str) -> None:
    connections = []

    def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pulls = PullLimits(seconds=0.5)
    runtime = DockerRuntime(env, cluster="c", node="n", url=engine_url, pulls=pulls)
    with pytest.raises(RuntimeRefusal, match=r"within 0\.5 s"):
        await runtime.prepare(TaskSpec(image=f"127.0.0.1:{port}/app:1"))
    server.close()
    for writer in connections:
        writer.close()
        await writer.wait_closed()
    await runtime.close()


async def test_a_cancelled_pull_leaves_the_others_pulling(
    containers: DockerBench, remote_image: str
) -> None:
    runtime = containers.runtime()
    spec = TaskSpec(image=remote_image, pull_policy="always")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(runtime.prepare(spec))
        await asyncio.sleep(0)
        second = group.create_task(runtime.prepare(spec))
        await asyncio.sleep(0)
        first.cancel()
    assert first.cancelled()
    assert second.exception() is None


async def test_a_container_is_fenced_in(containers: DockerBench) -> None:
    runtime = containers.runtime()
    fields: dict[str, Any] = {"user": "nobody", "workdir": "/tmp", "port": 8080}
    task = await launch(containers, runtime, ["sleep", "600"], **fields)
    client = engine.connect(containers.url)
    found = await runtime.inspect(task.id)
    assert found is not None
    answer = client.inspect_container(found.id)
    client.close()
    host = answer["HostConfig"]
    assert answer["Name"] == f"/orca-web-1-{task.id[:8]}"
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["CapDrop"] == ["ALL"]
    assert not {"CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_ADMIN"} & set(host["CapAdd"])
    assert host["PidsLimit"] == 4096
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10240k"}
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["Init"] is True
    assert (answer["Config"]["User"], answer["Config"]["WorkingDir"]) == ("nobody", "/tmp")
    assert answer["Config"]["Labels"] == containers.labels(task)
    assert answer["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"


async def test_a_page_is_served_through_the_published_port(
    containers: DockerBench, env: Env
) -> None:
    runtime = containers.runtime()
    task = await launch(containers, runtime, [], port=9000)
    found = await runtime.inspect(task.id)
    assert found is not None

    def page() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{found.host_port}/", timeout=2) as answer:
            return bytes(answer.read())

    async def served() -> bytes:
        try:
            return await env.threads.run(page)
        except OSError:
            return b""

    assert await listens(found.host_port)
    assert await until(served) == engine.PAGE


async def test_a_name_that_someone_else_has_is_avoided(containers: DockerBench) -> None:
    runtime = containers.runtime()
    one, other = containers.task(), containers.task()
    other.id = one.id[:8] + "ffffffff"
    for task in (one, other):
        await runtime.create(task, containers.spec(["sleep", "600"]), containers.labels(task))
    again = containers.runtime()
    found = await again.create(other, containers.spec(["sleep", "600"]), containers.labels(other))
    assert found.task == other.id
    assert {container.task for container in await again.list()} == {one.id, other.id}


async def test_both_streams_are_read_in_order(containers: DockerBench) -> None:
    runtime = containers.runtime()
    script = "for n in 1 2 3; do echo out $n; sleep 0.05; echo err $n >&2; sleep 0.05; done"
    task = await launch(containers, runtime, ["sh", "-c", script])
    await exited(runtime, task.id)
    expected = b"".join(b"out %d\nerr %d\n" % (n, n) for n in (1, 2, 3))
    assert await output(runtime, task.id) == expected
    assert await output(runtime, task.id, tail=2) == b"out 3\nerr 3\n"


async def test_a_long_output_may_be_left_in_the_middle(containers: DockerBench) -> None:
    runtime = containers.runtime()
    task = await launch(containers, runtime, ["seq", "1", "100000"])
    await exited(runtime, task.id)
    logs = runtime.logs(task.id, tail=90000)
    first = await anext(logs)
    assert first.startswith(b"10001\n")
    assert first.endswith(b"\n")
    await logs.aclose()  # type: ignore[attr-defined]
    whole = await output(runtime, task.id, tail=100000)
    assert whole == b"".join(b"%d\n" % n for n in range(1, 100001))


async def test_too_much_memory_is_told_apart_from_a_kill(containers: DockerBench) -> None:
    runtime = containers.runtime()
    limits = Resources(memory_bytes=16 << 20)
    eat = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]

    async def told() -> bool:
        task = await launch(containers, runtime, eat, limits=limits)
        found = await exited(runtime, task.id)
        assert found.exit_code == 137
        return found.oom_killed

    # The engine itself misses about one in eight; the kernel's own log is asked then, where it may be.
    await until(told)
    task = await launch(containers, runtime, ["sleep", "600"], limits=limits)
    found = await runtime.inspect(task.id)
    assert found is not None
    client = engine.connect(containers.url)
    client.kill(found.id)
    client.close()
    found = await exited(runtime, task.id)
    assert (found.exit_code, found.oom_killed) == (137, False)


async def test_a_lost_engine_ends_the_watch_and_every_verb_in_words(
    env: Env, engine_url: str, tmp_path: Path
) -> None:
    async with in_between(engine_url, tmp_path / "s") as url:
        runtime = DockerRuntime(env, cluster="c", node="n", url=url)
        assert await runtime.list() == []
        watching = runtime.watch()
        ended = await watching.__aenter__()
    (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(RuntimeRefusal, match="engine"):
        async with asyncio.timeout(60):
            await anext(ended)
    await watching.__aexit__(None, None, None)
    with pytest.raises(RuntimeRefusal, match="cannot be reached"):
        await runtime.list()
    with pytest.raises(RuntimeRefusal, match="cannot be reached"):
        async with runtime.watch():
            pytest.fail("there is nothing to watch")
    await runtime.close()
    assert await probe(env, url) is None
    version = await probe(env, engine_url)
    assert version is not None
    assert version[0].isdigit()


async def test_watching_leaves_no_thread_behind(env: Env, containers: DockerBench) -> None:
    runtime = containers.runtime()
    for _ in range(20):  # more than the pool has threads: a kept one would block the next
        async with asyncio.timeout(60), runtime.watch():
            pass
    before = threading.active_count()
    async with runtime.watch():
        pass
    assert threading.active_count() <= before


async def test_an_engine_that_was_away_is_found_with_all_that_runs_ce_28(
    containers: DockerBench, env: Env, tmp_path: Path
) -> None:
    async with in_between(containers.url, tmp_path / "s") as url:
        runtime = DockerRuntime(env, cluster=containers.cluster, node="n1", url=url)
        task = await launch(containers, runtime, containers.exits(9, after=3))
    (tmp_path / "s").unlink(missing_ok=True)
    for verb in (runtime.inspect(task.id), runtime.list(), runtime.start(task.id)):
        with pytest.raises(RuntimeAway, match="cannot be reached"):
            await verb
    waiting = asyncio.create_task(engine_is_back(env, url))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    async with in_between(containers.url, tmp_path / "s") as url:
        async with asyncio.timeout(60):
            await waiting
        assert [found.task for found in await runtime.list()] == [task.id]
        assert (await exited(runtime, task.id)).exit_code == 9
        await runtime.close()


async def test_eight_calls_at_once_and_no_more(
    containers: DockerBench, env: Env, tmp_path: Path
) -> None:
    async with in_between(containers.url, tmp_path / "s") as url:
        link = Engine(env, url)
        now = most = 0

        def work(client: docker.APIClient) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            client.ping()
            time.sleep(0.05)
            with lock:
                now -= 1

        lock = threading.Lock()
        await asyncio.gather(*(link.call(work) for _ in range(40)))
        assert most == CALLS_AT_ONCE == 8
        link.close()
