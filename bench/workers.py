"""500 workers join one master, and come back when it was killed.

    python bench/workers.py [--workers 500]

A real master; the workers are real sessions (certificates, TLS, gRPC, heartbeats) without a runtime, all
in this one process, which shares the machine's processors with the master. Joining: token, key, certificate
request, over HTTP, 32 at a time. Then all connect; then the master is killed with SIGKILL and started again.
The floor of joining is what the keys and signatures alone cost, one after the other in this process.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from table import Gates, machine, milliseconds, print_table, ratio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chaos.masters import MasterProcess
from engine import free_port
from orca.client import Client, OrcaError
from orca_common.logs import configure_logs
from orca_common.real import real_env
from orca_proto.join import JoinToken, parse
from orca_worker.agent import Agent
from orca_worker.certificate import NodeCertificate
from orca_worker.enrol import Membership, join
from orca_worker.fencing import Fencing
from orca_worker.grpc_link import GrpcConnector
from orca_worker.guarding import ProcessGuardian
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


def a_session(membership: Membership, folder: Path, number: int) -> Session:
    env = real_env(threads=1)
    cluster, node = membership.cluster_id, membership.node_id
    fencing = Fencing(env, ProcessGuardian(env, str(folder / "fence")))
    agent = Agent(env, {}, NetworkProber(), fencing, cluster=cluster, node=node)
    certificate = NodeCertificate(env, folder, membership)
    connector = GrpcConnector(membership.masters, certificate, keep=lambda _: None)
    facts = Facts(f"worker-{number}", "0", "127.0.0.1", "linux", "x", {}, 1 << 30, 1000)
    return Session(env, agent, connector, facts)


async def until_ready(client: Client, count: int) -> None:
    """Until every node has a stream to this master."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(OrcaError):
                nodes = (await client.cluster_info())["nodes"]
                if sum(node["connected"] and node["state"] == "ready" for node in nodes) == count:
                    return
            await asyncio.sleep(0.25)


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

            sessions = [
                a_session(member, folder / "workers" / str(number), number)
                for number, member in enumerate(members)
            ]
            started = time.perf_counter()
            work = [asyncio.ensure_future(session.run()) for session in sessions]
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
    options = parser.parse_args()
    configure_logs(level="error", as_json=False)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if asyncio.run(measure(Path(folder), options.workers)) else 1)


if __name__ == "__main__":
    main()
