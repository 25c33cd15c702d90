"""What daemons take that have nothing to do: memory, and processor time over ten idle seconds.

Orca's master and worker with five running containers, beside Swarm's manager (which lives inside
dockerd) with five services of one replica each. Both on the same private engine, one after the
other. Swarm's own share is what dockerd and containerd take in Swarm mode minus what the same
daemons took just before with the same five containers and without Swarm; both are printed.

RSS counts every page that is mapped, shared ones too; PSS divides what is shared (in a cluster on
one machine that flatters each daemon a little). Both come from the kernel's smaps_rollup.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
from lab import (
    IMAGE,
    PORT,
    PrivateEngine,
    clean_up_on_signals,
    orca_cluster,
    private_engine,
    swarm,
)
from table import machine, megabytes, print_table, verdict

from orca import local

SERVICES = 5
MASTER_BYTES = 130e6
WORKER_BYTES = 75e6
MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu` is the share of one processor."""

    rss: float
    pss: float
    cpu: float

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.rss + other.rss, self.pss + other.pss, self.cpu + other.cpu)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.rss - other.rss, self.pss - other.pss, self.cpu - other.cpu)


async def idle_usage(processes: Sequence[psutil.Process], seconds: float) -> list[Usage]:
    """Of each process: processor time over these seconds, memory at their end."""
    before = [_cpu_seconds(process) for process in processes]
    started = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    usages = []
    for process, cpu_before in zip(processes, before, strict=True):
        memory = _memory(process.pid)
        cpu = (_cpu_seconds(process) - cpu_before) / took
        usages.append(Usage(memory["Rss"], memory["Pss"], cpu))
    return usages


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


async def of_orca(engine: PrivateEngine, options: SimpleNamespace) -> dict[str, Usage]:
    """The daemons' and, with the same containers and nothing else, the engine's."""
    async with orca_cluster(engine) as (client, cluster):
        services = [
            {
                "name": f"web-{number}",
                "image": IMAGE,
                "port": PORT,
                "resources": {"memory": str(MEMORY_BYTES)},
            }
            for number in range(SERVICES)
        ]
        answer = await client.deploy(services)
        if answer["errors"]:
            raise RuntimeError(answer["errors"])
        await asyncio.sleep(options.settle)
        daemons = [_daemon(cluster, "master"), _daemon(cluster, "worker"), *engine.daemons()]
        master, worker, *engine_parts = await idle_usage(daemons, options.seconds)
        plain = sum(engine_parts, Usage(0, 0, 0))
    return {"orca master": master, "orca worker": worker, "engine under orca": plain}


def _daemon(cluster: local.Cluster, role: str) -> psutil.Process:
    return psutil.Process(next(p.pid for p in cluster.processes if p.role == role))


async def of_plain_engine(engine: PrivateEngine, options: SimpleNamespace) -> Usage:
    """The engine with five containers and nobody who asks it anything."""
    client = engine.client
    host = client.create_host_config(
        port_bindings={PORT: ("127.0.0.1", None)}, mem_limit=MEMORY_BYTES, init=True
    )
    for _ in range(SERVICES):
        made = client.create_container(IMAGE, ports=[PORT], host_config=host)
        client.start(made["Id"])
    await asyncio.sleep(options.settle)
    usage = sum(await idle_usage(engine.daemons(), options.seconds), Usage(0, 0, 0))
    engine.remove_containers()
    return usage


async def of_swarm(engine: PrivateEngine, options: SimpleNamespace) -> Usage:
    with swarm(engine) as manager:
        for number in range(SERVICES):
            service = manager.create(f"web-{number}", 1, memory_bytes=MEMORY_BYTES)
            manager.until_running(service, 1)
        await asyncio.sleep(options.settle)
        return sum(await idle_usage(engine.daemons(), options.seconds), Usage(0, 0, 0))


async def main(options: SimpleNamespace) -> None:
    with private_engine() as engine:
        usages = await of_orca(engine, options)
        usages["engine alone"] = await of_plain_engine(engine, options)
        usages["engine in swarm mode"] = await of_swarm(engine, options)
    usages["swarm's share"] = usages["engine in swarm mode"] - usages["engine alone"]
    targets = {"orca master": MASTER_BYTES, "orca worker": WORKER_BYTES}
    rows = [
        [
            name,
            megabytes(usage.rss),
            megabytes(usage.pss),
            f"{usage.cpu * 100:.1f} %",
            f"{megabytes(targets[name])}: {verdict(usage.rss <= targets[name])}"
            if name in targets
            else "",
        ]
        for name, usage in usages.items()
    ]
    title = f"idle with {SERVICES} containers, {options.seconds:g} s, {machine()}"
    print_table(title, ["daemon", "RSS", "PSS", "of a processor", "RSS target"], rows)


def parse() -> SimpleNamespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 idle seconds instead of 10")
    options = parser.parse_args(namespace=SimpleNamespace())
    options.seconds, options.settle = (3.0, 1.0) if options.quick else (10.0, 3.0)
    return options


if __name__ == "__main__":
    clean_up_on_signals()
    asyncio.run(main(parse()))
