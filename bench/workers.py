"""500 workers join one master, and come back when it was killed; and with three masters, when the leader was.

    python bench/workers.py [--workers 500] [--masters 1|3]

A real master; the workers are real sessions (certificates, TLS, gRPC, heartbeats) without a runtime, all
in this one process, which shares the machine's processors with the master. Joining: token, key, certificate
request, over HTTP, 32 at a time. Then all connect; then the master is killed with SIGKILL and started again.
The floor of joining is what the keys and signatures alone cost, one after the other in this process.

With three masters the leader is killed and stays away. Its floor is the time that the others take to have
a leader again: until then no worker can be heard. `new connections` counts TLS handshakes of workers.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from table import Gates, machine, milliseconds, print_table, ratio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chaos.masters import MasterProcess
from engine import free_port
from orca.client import Client
from orca.errors import OrcaError
from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_proto.join import JoinToken, parse
from orca_worker.agent import Agent
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import Membership, join
from orca_worker.fencing import Fencing
from orca_worker.grpc_link import GrpcConnector
from orca_worker.guarding import ProcessGuardian
from orca_worker.ports import Link
from orca_worker.prober import NetworkProber
from orca_worker.session import Facts, Session

AT_ONCE = 32
WAIT_SECONDS = 300.0
STEADY_SECONDS = 10.0
MOST_DOWN = 0


async def join_all(api: str, token: JoinToken, folder: Path, count: int) -> list[Membership]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Membership:
        async with turn:
            return await join(api, token, f"worker-{number}", folder / str(number))

    return await asyncio.gather(*(one(number) for number in range(count)))


def bare_join() -> float:
    """Seconds for a key, a request signed with it, and two signatures more: token and authority."""
    started = time.perf_counter()
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request.sign(key, hashes.SHA256())
    for _ in range(2):
        key.sign(b"x" * 300, ec.ECDSA(hashes.SHA256()))
    return time.perf_counter() - started


class Counted(GrpcConnector):
    """`opened`: by all workers together."""

    opened = 0

    def connect(self) -> contextlib.AbstractAsyncContextManager[Link]:
        Counted.opened += 1
        return super().connect()


async def a_worker(membership: Membership, folder: Path, number: int) -> None:
    env = real_env(threads=1)
    cluster, node = membership.cluster_id, membership.node_id
    fencing = Fencing(env, ProcessGuardian(env, str(folder / "fence")))
    agent = Agent(env, {}, NetworkProber(), fencing, cluster=cluster, node=node)
    certificate = NodeCertificate(env, folder, membership)
    connector = Counted(membership.masters, certificate, random=env.random, keep=lambda _: None)
    facts = Facts(f"worker-{number}", "0", "127.0.0.1", "linux", "x", {}, 1 << 30, 1000)
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        group.create_task(Session(env, agent, connector, facts).run())


async def until_ready(client: Client, count: int) -> None:
    """Until every node has a stream to this master."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(OrcaError):
                nodes = (await client.cluster_info())["nodes"]
                if sum(node["connected"] and node["state"] == "ready" for node in nodes) == count:
                    return
            await asyncio.sleep(0.25)


@contextlib.contextmanager
def masters(folder: Path, number: int) -> Iterator[list[MasterProcess]]:
    made = []
    for index in range(1, number + 1):
        ports = [free_port() for _ in range(3)]
        made.append(MasterProcess(folder, f"master-{index}", ports=ports))
    try:
        yield made
    finally:
        for master in made:
            master.kill()


async def leader(client: Client) -> str:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(OrcaError, TypeError):
                return str((await client.cluster_info())["leader"]["name"])
            await asyncio.sleep(0.01)


async def measure_failover(folder: Path, count: int) -> bool:
    with masters(folder, 3) as made:
        first, *others = made
        first.start()
        await first.until_serving()
        async with Client([master.api for master in made], first.token) as client:
            for master in others:
                token = await client.join_token(role="master")
                master.start(join=[first.api], token=token)
                await master.until_serving()
            token = parse(await client.join_token(uses=count))
            members = await join_all(first.api, token, folder / "workers", count)
            started = time.perf_counter()
            work = [
                asyncio.ensure_future(a_worker(member, folder / "workers" / str(n), n))
                for n, member in enumerate(members)
            ]
            await until_ready(client, count)
            connected = time.perf_counter() - started
            await asyncio.sleep(STEADY_SECONDS)  # all know all masters
            opened = Counted.opened

            lost = await leader(client)
            next(master for master in made if master.name == lost).kill()
            started = time.perf_counter()
            while await leader(client) == lost:
                await asyncio.sleep(0.01)
            led = time.perf_counter() - started
            await until_ready(client, count)
            back = time.perf_counter() - started
            opened = Counted.opened - opened
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    said = "".join(master.said for master in made)
    down = sum('"node is down"' in line for line in said.splitlines())
    print_table(
        f"{count} workers, three masters, the leader is killed ({machine()})",
        ["", "took", "of floor"],
        [
            ["connect, all at once", milliseconds(connected), ""],
            ["another master leads", milliseconds(led), "1.00x"],
            ["all workers are back", milliseconds(back), ratio(back, led)],
        ],
    )
    print(f"new connections: {opened}; nodes declared down: {down}")
    gates = Gates()
    gates.at_most("nodes declared down", float(down), float(MOST_DOWN), "")
    return not gates.missed


async def measure(folder: Path, count: int) -> bool:
    floor = sum(bare_join() for _ in range(count))
    ports = [free_port() for _ in range(3)]
    master = MasterProcess(folder, "master-1", ports=ports)
    master.start()
    try:
        await master.until_serving()
        async with Client(master.api, master.token) as client:
            token = parse(await client.join_token(uses=count))
            started = time.perf_counter()
            members = await join_all(master.api, token, folder / "workers", count)
            joined = time.perf_counter() - started

            started = time.perf_counter()
            work = [
                asyncio.ensure_future(a_worker(member, folder / "workers" / str(n), n))
                for n, member in enumerate(members)
            ]
            await until_ready(client, count)
            connected = time.perf_counter() - started

            process = psutil.Process(master.pid)
            before = sum(process.cpu_times()[:2])
            await asyncio.sleep(STEADY_SECONDS)
            share = (sum(process.cpu_times()[:2]) - before) / STEADY_SECONDS
            memory = process.memory_info().rss

            master.kill()
            master.start()
            started = time.perf_counter()
            await master.until_serving()
            serving = time.perf_counter() - started
            await until_ready(client, count)
            back = time.perf_counter() - started
            nodes = (await client.cluster_info())["nodes"]
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    finally:
        master.kill()
    down = sum('"node is down"' in line for line in master.said.splitlines())
    print_table(
        f"{count} workers ({machine()})",
        ["", "took", "each", "of floor"],
        [
            [
                "keys and signatures alone",
                milliseconds(floor),
                milliseconds(floor / count),
                "1.00x",
            ],
            ["join", milliseconds(joined), milliseconds(joined / count), ratio(joined, floor)],
            ["connect, all at once", milliseconds(connected), milliseconds(connected / count), ""],
            ["master killed: serves again", milliseconds(serving), "", ""],
            ["all are back", milliseconds(back), milliseconds(back / count), ""],
        ],
    )
    print(
        f"the master while {count} workers beat: {share:.1%} of a processor,"
        f" {memory / 1e6:.0f} MB; nodes declared down: {down}; known: {len(nodes)}"
    )
    gates = Gates()
    gates.at_most("nodes declared down", float(down), float(MOST_DOWN), "")
    return not gates.missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--masters", type=int, choices=(1, 3), help="One of the two halves only.")
    options = parser.parse_args()
    configure_logs(level="error", as_json=False)
    halves = {1: measure, 3: measure_failover}
    passed = []
    for half in [options.masters] if options.masters else list(halves):
        with tempfile.TemporaryDirectory() as folder:
            passed.append(asyncio.run(halves[half](Path(folder), options.workers)))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
