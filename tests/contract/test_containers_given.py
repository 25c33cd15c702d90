"""What a service may say of its container, and what the container then is: from inside and outside."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import engine
from contract.benches import DockerBench
from contract.waiting import exited, launch, output, until
from orca_common.env import Env
from orca_proto.worker_pb2 import Device, Mount, Task, TaskSpec, Volume
from orca_worker.runtime.docker.access import Access
from orca_worker.runtime.docker.runtime import DockerRuntime
from orca_worker.runtime.port import RuntimeRefusal

pytestmark = pytest.mark.engine


async def said(containers: DockerBench, runtime: Any, script: str, **fields: Any) -> str:
    """What a script prints until it ends by itself."""
    task = await launch(containers, runtime, ["sh", "-c", script], **fields)
    await exited(runtime, task.id)
    return (await output(runtime, task.id)).decode()


def facts(status: str) -> dict[str, str]:
    """Of /proc/self/status."""
    return {key: value.strip() for key, _, value in (x.partition(":") for x in status.splitlines())}


async def test_a_container_has_no_more_than_its_profile_gives_ce_17(
    containers: DockerBench,
) -> None:
    runtime = containers.runtime()
    look = "cat /proc/self/status; touch /here && echo WRITTEN:yes; touch /tmp/x && echo TMP:yes"
    default = facts(await said(containers, runtime, look))
    assert (default["NoNewPrivs"], default["Seccomp"]) == ("1", "2")
    kept = int(default["CapEff"], 16)
    # Neither raw sockets (13), module loading (16), ptrace (19), administration (21) nor mknod (27).
    assert not kept & (1 << 13 | 1 << 16 | 1 << 19 | 1 << 21 | 1 << 27)
    assert default["WRITTEN"] == "yes"
    restricted = facts(await said(containers, runtime, look, security="restricted"))
    assert (restricted["NoNewPrivs"], restricted["Seccomp"]) == ("1", "2")
    assert (int(restricted["CapEff"], 16), int(restricted["CapBnd"], 16)) == (0, 0)
    assert restricted["Uid"].split()[0] == "65534"
    assert ("WRITTEN" in restricted, restricted["TMP"]) == (False, "yes")


async def test_a_setuid_program_gains_nothing_ce_23(containers: DockerBench) -> None:
    runtime = containers.runtime()
    script = "cp /bin/busybox /data/busybox; chmod 4755 /data/busybox; ls -l /data/busybox"
    volume = [Volume(name="d", target="/data")]
    task = containers.task()
    task.service = "setuid"

    async def run(command: str, user: str) -> str:
        task.id = containers.task().id
        spec = containers.spec(["sh", "-c", command], volumes=volume, user=user)
        await runtime.create(task, spec, containers.labels(task))
        await runtime.start(task.id)
        await exited(runtime, task.id)
        return (await output(runtime, task.id)).decode()

    assert "-rws" in await run(script, "0")
    assert "uid=65534" in (
        found := await run("/data/busybox id; /data/busybox cat /proc/self/status", "nobody")
    )
    assert "euid=0" not in found
    assert facts(found)["Uid"].split() == ["65534"] * 4


async def test_an_entrypoint_and_a_stop_signal_are_the_services(containers: DockerBench) -> None:
    runtime = containers.runtime()
    script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done"
    fields: dict[str, Any] = {"entrypoint": ["sh", "-c"], "stop_signal": "SIGINT"}
    task = await launch(containers, runtime, [script], **fields)

    async def is_ready() -> bool:
        return b"ready" in await output(runtime, task.id)

    await until(is_ready)
    await runtime.stop(task.id, grace_seconds=30)
    found = await runtime.inspect(task.id)
    assert found is not None
    assert found.exit_code == 3
    assert b"interrupted" in await output(runtime, task.id)


async def test_a_volume_outlives_its_tasks_and_belongs_to_one_replica_ce_10(
    containers: DockerBench,
) -> None:
    runtime = containers.runtime()

    async def told(script: str, **fields: Any) -> str:
        task = Task(id=containers.task().id, project="p", service="web", slot=1)
        for name, value in fields.items():
            setattr(task, name, value)
        volumes = [Volume(name="data", target="/data")]
        spec = containers.spec(["sh", "-c", script], volumes=volumes)
        await runtime.create(task, spec, containers.labels(task))
        await runtime.start(task.id)
        await exited(runtime, task.id)
        text = (await output(runtime, task.id)).decode()
        await runtime.remove(task.id)
        return text

    await told("echo kept > /data/x")
    assert await told("cat /data/x", revision=7) == "kept\n"
    for other in ({"slot": 2}, {"project": "q"}, {"service": "other"}):
        assert "kept" not in await told("cat /data/x", **other)


async def test_paths_and_devices_need_the_nodes_leave_ce_06_ce_07(
    containers: DockerBench, env: Env, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "x").write_text("from the node\n")
    (given / "out").symlink_to("/etc")
    mounts = [Mount(source=str(given), target="/given", read_only=True)]
    spec = containers.spec(
        ["sh", "-c", "cat /given/x; echo no > /given/x || echo refused; ls -l /dev/kmsg"],
        mounts=mounts,
        devices=[Device(path="/dev/kmsg", permissions="r")],
    )
    strict = containers.runtime()
    task = containers.task()
    with pytest.raises(RuntimeRefusal) as refused:
        await strict.create(task, spec, containers.labels(task))
    assert "allowed_host_paths" in refused.value.reason
    assert "allowed_devices" in refused.value.reason
    assert await strict.list() == []
    lenient = DockerRuntime(
        env,
        cluster=containers.cluster,
        node="n1",
        url=containers.url,
        access=Access([str(given)], ["/dev/kmsg"]),
    )
    containers.made.append(lenient)
    await lenient.create(task, spec, containers.labels(task))
    await lenient.start(task.id)
    await exited(lenient, task.id)
    text = (await output(lenient, task.id)).decode()
    assert "from the node" in text
    assert "refused" in text
    assert any(line.startswith("c") and "/dev/kmsg" in line for line in text.splitlines())
    assert (given / "x").read_text() == "from the node\n"
    linked = containers.spec(["true"], mounts=[Mount(source=str(given / "out"), target="/o")])
    other = containers.task()
    with pytest.raises(RuntimeRefusal, match=r"which is /etc\) is not allowed"):
        await lenient.create(other, linked, containers.labels(other))


async def test_services_of_one_project_find_each_other_by_name_and_others_do_not(
    containers: DockerBench,
) -> None:
    runtime = containers.runtime()
    server = await launch(containers, runtime, [], port=8080, aliases=["pages"])
    for name in (server.service, "pages"):
        fetch = f"busybox wget -q -O - http://{name}:8080/"
        again = f"for n in 0 1 2 3 4 5 6 7 8 9; do {fetch} && exit; sleep 0.3; done"
        caller = Task(id=containers.task().id, project="p", service="caller", slot=1)
        spec = containers.spec(["sh", "-c", again])
        await runtime.create(caller, spec, containers.labels(caller))
        await runtime.start(caller.id)
        await exited(runtime, caller.id)
        assert (await output(runtime, caller.id)).endswith(engine.PAGE)
    stranger = Task(id=containers.task().id, project="q", service="web", slot=1)
    spec = containers.spec(
        ["sh", "-c", "busybox nslookup pages; busybox wget -T 2 -O - pages:8080"]
    )
    await runtime.create(stranger, spec, containers.labels(stranger))
    await runtime.start(stranger.id)
    assert (await exited(runtime, stranger.id)).exit_code != 0
    assert engine.PAGE not in await output(runtime, stranger.id)


async def test_neither_engine_nor_keys_are_in_reach_ce_24(containers: DockerBench) -> None:
    text = await said(
        containers,
        containers.runtime(),
        "ls /var/run/docker.sock /run/docker.sock /var/lib/orca; "
        "busybox wget -T 2 -q -O - http://169.254.169.254/ && echo METADATA; true",
    )
    assert "METADATA" not in text
    assert text.count("No such file") == 3


async def test_output_is_kept_in_as_many_files_as_was_said_ce_21(containers: DockerBench) -> None:
    runtime = containers.runtime()
    fields = {"log_bytes": 1 << 20, "log_files": 2}
    task = await launch(containers, runtime, ["seq", "1", "1000000"], **fields)
    await exited(runtime, task.id)
    text = await output(runtime, task.id, tail=100_000)
    assert text.endswith(b"999999\n1000000\n")
    client = engine.connect(containers.url)
    found = await runtime.inspect(task.id)
    assert found is not None
    path = Path(client.inspect_container(found.id)["LogPath"])
    client.close()
    files = list(path.parent.glob(path.name + "*"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 3 << 20


async def test_a_network_that_somebody_removed_is_made_again(containers: DockerBench) -> None:
    runtime = containers.runtime()
    tasks = [containers.task() for _ in range(2)]
    for task in tasks:
        spec = containers.spec(["sleep", "600"])
        await runtime.create(task, spec, containers.labels(task))
    client = engine.connect(containers.url)
    label = f"orca.cluster={containers.cluster}"
    for network in client.networks(filters={"label": label}):
        client.remove_network(network["Id"])
    client.close()
    await asyncio.gather(*(runtime.start(task.id) for task in tasks))
    assert len(await runtime.list()) == 2


async def test_no_half_of_a_container_is_left_when_its_image_is_missing_ce_27(
    containers: DockerBench,
) -> None:
    runtime = containers.runtime()
    task = containers.task()
    with pytest.raises(RuntimeRefusal, match="not found"):
        await runtime.create(task, TaskSpec(image="orca-test/none:1"), containers.labels(task))
    assert await runtime.list() == []
