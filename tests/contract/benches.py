"""One bench per kind of runtime: the same programs, said in each kind's own commands."""

import uuid
from pathlib import Path
from typing import Any

import pytest

import engine
from fake_runtime import FakeRuntime, Machine
from orca_common.env import Env
from orca_proto.worker_pb2 import Task, TaskSpec
from orca_worker.runtime.docker.runtime import DockerRuntime
from orca_worker.runtime.port import Container, Runtime
from orca_worker.runtime.process.runtime import ProcessRuntime

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.2; done"


class Bench:
    """Makes runtimes of one kind that share one engine or folder, and remembers them."""

    kind = ""
    image = ""
    # What a kind declares of itself, beside what holds for all.
    has_init = False
    keeps_open_lines = True
    soon_seconds = 0.5

    def __init__(self, env: Env) -> None:
        self.env = env
        self.cluster = f"contract-{uuid.uuid4().hex[:8]}"
        self.made: list[Runtime] = []

    def runtime(self, node: str = "n1", cluster: str = "") -> Runtime:
        """Another runtime object: another node, or the same node after its worker restarted."""
        made = self._make(node, cluster or self.cluster)
        self.made.append(made)
        return made

    def _make(self, node: str, cluster: str) -> Runtime:
        raise NotImplementedError

    def spec(self, command: list[str], **fields: Any) -> TaskSpec:
        return TaskSpec(runtime=self.kind, image=self.image, command=command, **fields)

    async def limits(self, container: Container) -> tuple[int, int]:
        """What holds in fact: bytes of memory and thousandths of a processor."""
        raise NotImplementedError

    def forever(self) -> list[str]:
        return ["sleep", "600"]

    def exits(self, code: int, after: float = 0.0) -> list[str]:
        return ["sh", "-c", f"sleep {after}; exit {code}"]

    def last_line(self, text: str) -> str:
        """The last line as a program may leave it: open, if the kind keeps that."""
        return text if self.keeps_open_lines else text + "\n"

    def comparable(self, output: bytes) -> bytes:
        """Much output at once, as far as the kind keeps it: here as it was written."""
        return output.removesuffix(b"\n")

    def prints(self, text: str) -> list[str]:
        return ["printf", "%s", text]

    def tells(self, *lines: str, between: float = 0.0) -> list[str]:
        """Each line so many seconds after the one before, then sleep."""
        said = "; ".join(f"sleep {between}; echo {line}" for line in lines)
        return ["sh", "-c", f"{said}; sleep 600"]

    def prints_env(self) -> list[str]:
        return ["env"]

    def ignores_term(self) -> list[str]:
        return ["sh", "-c", STUBBORN]

    def unknown(self) -> list[str]:
        return ["no-such-command", "--now"]

    def task(self, slot: int = 1) -> Task:
        return Task(id=uuid.uuid4().hex[:16], project="p", service="web", revision=3, slot=slot)

    def labels(self, task: Task, node: str = "n1", cluster: str = "") -> dict[str, str]:
        return {
            "orca.cluster": cluster or self.cluster,
            "orca.node": node,
            "orca.project": task.project,
            "orca.service": task.service,
            "orca.revision": str(task.revision),
            "orca.task": task.id,
        }

    async def clean(self) -> None:
        for runtime in self.made:
            for container in await runtime.list():
                await runtime.remove(container.task)
            await runtime.close()


class FakeBench(Bench):
    kind = "fake"

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.machine = Machine()

    def _make(self, node: str, cluster: str) -> Runtime:
        return FakeRuntime(self.env, cluster=cluster, node=node, name="fake", machine=self.machine)

    async def limits(self, container: Container) -> tuple[int, int]:
        spec = self.machine.things[container.task].spec
        return spec.limits.memory_bytes, spec.limits.cpu_millis

    def exits(self, code: int, after: float = 0.0) -> list[str]:
        return ["exit", str(code), str(after)]

    def prints(self, text: str) -> list[str]:
        return ["print", text]

    def tells(self, *lines: str, between: float = 0.0) -> list[str]:
        return ["tell", str(between), *lines]

    def ignores_term(self) -> list[str]:
        return ["ignore-term"]


class ProcessBench(Bench):
    kind = "process"

    def __init__(self, env: Env, folder: Path) -> None:
        super().__init__(env)
        self.folder = folder

    def _make(self, node: str, cluster: str) -> Runtime:
        return ProcessRuntime(self.env, folder=str(self.folder), cluster=cluster, node=node)

    async def limits(self, container: Container) -> tuple[int, int]:
        runtime = ProcessRuntime(self.env, folder=str(self.folder), cluster="x", node="x")
        if not runtime.limits_enforced:
            pytest.skip("control groups are not writable here")
        memory, quota = 0, 0
        for name in ("memory.limit_in_bytes", "memory.max"):
            memory += _group_file(container.task, name)
        for name in ("cpu.cfs_quota_us", "cpu.max"):
            quota += _group_file(container.task, name)
        return memory, quota // 100


class DockerBench(Bench):
    kind = "docker"
    has_init = True

    def __init__(self, env: Env, url: str, image: str) -> None:
        super().__init__(env)
        self.url = url
        self.image = image

    def _make(self, node: str, cluster: str) -> Runtime:
        return DockerRuntime(self.env, cluster=cluster, node=node, url=self.url)

    async def clean(self) -> None:
        clusters = {runtime.cluster for runtime in self.made if isinstance(runtime, DockerRuntime)}
        await super().clean()
        client = engine.connect(self.url)
        for cluster in clusters:
            engine.clean(client, f"orca.cluster={cluster}")
        client.close()

    async def limits(self, container: Container) -> tuple[int, int]:
        client = engine.connect(self.url)
        host = client.inspect_container(container.id)["HostConfig"]
        client.close()
        assert host["MemorySwap"] == host["Memory"]
        return host["Memory"], host["NanoCpus"] // 1_000_000


class PodmanBench(DockerBench):
    """The same API, spoken by something else: its log driver ends every line, also in the middle where
    it read the output in two pieces, and what it starts is the first process itself, to which a signal
    without a handler is nothing."""

    has_init = False
    keeps_open_lines = False
    soon_seconds = 8.0

    def comparable(self, output: bytes) -> bytes:
        return output.replace(b"\n", b"")

    def forever(self) -> list[str]:
        return ["sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.1; done"]


def _group_file(task_id: str, name: str) -> int:
    found = list(Path("/sys/fs/cgroup").glob(f"**/orca/{task_id}/{name}"))
    return int(found[0].read_text().split()[0]) if found else 0
