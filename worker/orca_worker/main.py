"""`orca-worker`: one worker as a process. Wires the agent to engines and to the masters."""

import asyncio
import os
import platform
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from orca_common.config import load
from orca_common.credentials import JOIN_TOKEN, credential
from orca_common.daemon import (
    FAILED_EXIT,
    REMOVED_EXIT,
    USAGE_EXIT,
    Hangup,
    causes,
    leave,
    settle_memory,
    until_signalled,
)
from orca_common.env import Env
from orca_common.logs import configure_logs, get_logger, set_level
from orca_common.notify import notify, show_life
from orca_common.real import real_env
from orca_common.version import orca_version
from orca_proto.join import NotAToken, parse
from orca_worker.agent import Agent
from orca_worker.certificate import NodeCertificate
from orca_worker.clearing import NotCleared, clear_all
from orca_worker.config import WorkerConfig
from orca_worker.enrol import CannotJoin, Membership, join, keep_masters, saved
from orca_worker.fencing import Fencing
from orca_worker.grpc_link import GrpcConnector
from orca_worker.guarding import ProcessGuardian
from orca_worker.kept import KeptOutputs
from orca_worker.ports import Removed
from orca_worker.prober import NetworkProber
from orca_worker.proxy.listeners import Settings as Serving
from orca_worker.proxy.proxy import Proxy
from orca_worker.runtime.docker.access import Access
from orca_worker.runtime.docker.cleaning import DiskLimits
from orca_worker.runtime.docker.credentials import Credentials
from orca_worker.runtime.docker.pull import PullLimits
from orca_worker.runtime.docker.runtime import DockerRuntime, probe
from orca_worker.runtime.port import Runtime
from orca_worker.runtime.process.runtime import ProcessRuntime
from orca_worker.runtime.secret_files import in_memory
from orca_worker.session import Facts, Session
from orca_worker.specs import Specs

DEFAULT_SOCKET = "/var/run/docker.sock"
THREADS = 24
# A file that is there once a container engine was found on this node.
ENGINE_MARK = "engine"
ENGINE_WAIT_SECONDS = 2.0
FENCE = "fence"
KEPT = "outputs"
INGRESS = "ingress"
LEAST_FREE_BYTES = 64 << 20
SPECS = "specs"

log = get_logger("worker")


class NoRuntime(Exception):
    """The runtime that was asked for is not here."""


_KNOWN = (CannotJoin, NoRuntime, NotAToken, NotCleared, Removed)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file.")
@click.option("--name", help="This node's name (its host name).")
@click.option("--data-dir", help="Where the node's certificate and processes are kept.")
@click.option("--master", "masters", multiple=True, help="A master's API address; may be repeated.")
@click.option("--join", "join_token", help="A join token, at the first start.")
@click.option("--join-file", "join_token_file", help="A file that holds the join token.")
@click.option(
    "--runtime", type=click.Choice(["auto", "docker", "process"]), help="What runs tasks."
)
@click.option("--docker-url", help="The engine's address.")
@click.option("--ingress-http-port", type=int, help="Where requests for services come in (80).")
@click.option("--ingress-https-port", type=int, help="The same with TLS (443).")
@click.option("--address", help="Where other machines reach what runs here.")
@click.option(
    "--clear", is_flag=True, help="Stop and remove all that runs on this node, then exit."
)
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-text", default=None, help="How log lines are written.")
@click.version_option(orca_version(), prog_name="orca-worker")
def main(config: Path | None, masters: tuple[str, ...], clear: bool, **flags: Any) -> None:
    """An Orca worker: runs what the masters want on this machine."""
    default = Path("/etc/orca/worker.toml")
    file = config or (default if default.exists() else None)
    flags["masters"] = list(masters) or None
    read = partial(
        load, WorkerConfig, file=file, environ=os.environ, prefix="ORCA_WORKER_", flags=flags
    )
    try:
        settings = read()
        configure_logs(level=settings.log_level, as_json=settings.log_json)
    except ValueError as error:
        sys.exit(leave(str(error), USAGE_EXIT))
    hangup = Hangup()
    hangup.on("log_level", lambda: set_level(read().log_level))
    try:
        data_dir = os.path.abspath(settings.data_dir)
        settings = replace(settings, data_dir=data_dir)
        work = clear_node(settings) if clear else serve(settings)
        asyncio.run(until_signalled(work, hangup=hangup))
    except BaseException as error:
        leaves = causes(error)
        if leaves and all(isinstance(each, _KNOWN) for each in leaves):
            removed = any(isinstance(each, Removed) for each in leaves)
            said = "; ".join(str(each) for each in leaves)
            sys.exit(leave(said, REMOVED_EXIT if removed else FAILED_EXIT))
        raise


async def serve(settings: WorkerConfig) -> None:
    """Run until cancelled; what runs on the node goes on running. Raises CannotJoin, NoRuntime, and
    Removed once nothing runs there any more."""
    env = real_env(threads=THREADS)
    folder = Path(settings.data_dir)
    release = _lock(env, folder)
    membership = await _membership(env, settings, folder / "identity")
    if settings.runtime == "auto" and env.disk.exists(str(folder / ENGINE_MARK)):
        await engine_is_back(env, _engine_url(settings))
    runtimes = await _runtimes(env, settings, membership, folder)
    if "docker" in runtimes:
        (folder / ENGINE_MARK).touch()
    prober = NetworkProber()
    certificate = NodeCertificate(env, folder / "identity", membership)
    guardian = ProcessGuardian(env, str(folder / FENCE))
    cluster, node = membership.cluster_id, membership.node_id
    kept = KeptOutputs(env, str(folder / KEPT))
    fencing = Fencing(env, guardian)
    specs = Specs(env, str(folder / SPECS))
    agent = Agent(
        env, runtimes, prober, fencing, cluster=cluster, node=node, kept=kept, specs=specs
    )
    connector = GrpcConnector(
        membership.masters,
        certificate,
        random=env.random,
        keep=lambda masters: keep_masters(folder / "identity", masters),
    )
    proxy = _proxy(env, settings, membership, folder)
    devices = _access(settings).offered
    facts = _facts(env, settings)
    session = Session(
        env,
        agent,
        connector,
        facts,
        devices,
        ingress=proxy,
        is_disk_full=partial(is_disk_full, str(folder)),
    )
    log.info("started", node=membership.node_id, runtimes=list(runtimes))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            group.create_task(session.run())
            group.create_task(proxy.run())
            group.create_task(certificate.stay(connector))
            group.create_task(show_life(lambda: 0.0))
            # Ready without a master, too: what runs here needs its worker also while none is up.
            notify("READY=1", "STATUS=looking for a master")
            await session.connected.wait()
            settle_memory()
            notify("STATUS=connected")
    except* Removed:
        log.warning("this node was removed from the cluster: what runs here is stopped")
        await proxy.clear()
        await clear_all(env, runtimes.values())
        guardian.clear()
        raise
    finally:
        notify("STOPPING=1")
        for runtime in runtimes.values():
            await runtime.close()
        release()
        log.info("stopped")


async def clear_node(settings: WorkerConfig) -> None:
    """Stop and remove everything that runs on this node. Raises CannotJoin, NoRuntime, NotCleared."""
    env = real_env(threads=THREADS)
    folder = Path(settings.data_dir)
    release = _lock(env, folder)
    membership = saved(folder / "identity")
    if membership is None:
        raise CannotJoin(f"{folder} belongs to no node: nothing to clear")
    try:
        await _proxy(env, settings, membership, folder).clear()
        runtimes = await _runtimes(env, settings, membership, folder)
        await clear_all(env, runtimes.values())
        ProcessGuardian(env, str(folder / FENCE)).clear()
        for runtime in runtimes.values():
            await runtime.close()
    finally:
        release()


def _lock(env: Env, folder: Path) -> Callable[[], None]:
    env.disk.make_folders(str(folder))
    try:
        return env.disk.lock(str(folder / "lock"))
    except BlockingIOError as error:
        raise CannotJoin(f"another worker is running on {folder}") from error


async def _membership(env: Env, settings: WorkerConfig, folder: Path) -> Membership:
    """As it joined before, or joins now; again, as the same node, when its certificate has expired, or
    the token names an authority of which it has none."""
    membership = saved(folder)
    if membership is None:
        return await _join(settings, folder)
    certificate = NodeCertificate(env, folder, membership)
    expired = certificate.expired()
    if not _gives_token(settings):
        return membership
    if expired:
        log.warning("joining again", reason=expired)
        return await _join(settings, folder)
    try:
        is_of_another = not certificate.knows(parse(_token_text(settings)))
    except (CannotJoin, NotAToken):
        return membership
    if not is_of_another:
        return membership
    log.warning("joining again", reason="the token is of another authority than the certificate")
    try:
        return await _join(settings, folder)
    except CannotJoin as error:  # of a token that is old: it may stand in the settings for ever
        log.warning("going on as the node that joined before", reason=str(error))
        return membership


async def _join(settings: WorkerConfig, folder: Path) -> Membership:
    token = parse(_token_text(settings))
    problems = []
    for api in settings.masters:
        try:
            return await join(api, token, settings.name, folder)
        except CannotJoin as error:
            problems.append(str(error))
    raise CannotJoin("; ".join(problems))


def _gives_token(settings: WorkerConfig) -> bool:
    return bool(settings.join_token or settings.join_token_file or credential(JOIN_TOKEN))


def _token_text(settings: WorkerConfig) -> str:
    text, file = settings.join_token, settings.join_token_file or credential(JOIN_TOKEN)
    if not text and file:
        try:
            text = Path(file).read_text()
        except OSError as error:
            raise CannotJoin(f"the join token cannot be read: {error}") from error
    if not text:
        raise CannotJoin("this node has not joined a cluster: give --join, from `orca nodes token`")
    return text


async def _runtimes(
    env: Env, settings: WorkerConfig, membership: Membership, folder: Path
) -> dict[str, Runtime]:
    """By name, strongest first."""
    found: dict[str, Runtime] = {}
    cluster, node = membership.cluster_id, membership.node_id
    if settings.runtime in ("auto", "docker"):
        url = _engine_url(settings)
        version = await probe(env, url)
        if version is not None:
            log.info("container engine found", url=url, version=version)
            found["docker"] = _containers(env, settings, membership, url)
        elif settings.runtime == "docker":
            raise NoRuntime(
                f"no container engine answers at {url}: start it, or use --runtime auto"
            )
        else:
            log.info("no container engine; plain processes only", url=url)
    if settings.runtime in ("auto", "process"):
        tasks = str(folder / "tasks")
        found["process"] = ProcessRuntime(env, folder=tasks, cluster=cluster, node=node)
    return found


def _proxy(env: Env, settings: WorkerConfig, membership: Membership, folder: Path) -> Proxy:
    serving = Serving(
        address=settings.ingress_address,
        http_port=settings.ingress_http_port,
        https_port=settings.ingress_https_port,
        behind_proxy=settings.ingress_behind_proxy,
        proxy_protocol=settings.ingress_proxy_protocol,
        access_log=settings.ingress_access_log,
    )
    memory = in_memory(membership.cluster_id, membership.node_id, INGRESS)
    wanted = serving if settings.ingress else None
    return Proxy(env, folder / INGRESS, Path(memory), wanted, membership.node_id)


def _engine_url(settings: WorkerConfig) -> str:
    return settings.docker_url or os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"


async def engine_is_back(env: Env, url: str) -> None:
    """Wait for the engine of a node that had one: what runs there is not to be forgotten."""
    said = False
    while await probe(env, url) is None:
        if not said:
            log.warning(
                "waiting for the container engine; start it, or say runtime = process", url=url
            )
            notify("READY=1", f"STATUS=waiting for the container engine at {url}")
            said = True
        await asyncio.sleep(ENGINE_WAIT_SECONDS)


def _containers(
    env: Env, settings: WorkerConfig, membership: Membership, url: str
) -> DockerRuntime:
    return DockerRuntime(
        env,
        cluster=membership.cluster_id,
        node=membership.node_id,
        url=url,
        pulls=PullLimits(
            seconds=settings.pull_seconds,
            quiet_seconds=settings.pull_quiet_seconds,
            most_bytes=settings.pull_most_bytes,
        ),
        credentials=Credentials(settings.registries, settings.registry_config),
        access=_access(settings),
        disk=DiskLimits(settings.disk_high_percent / 100, settings.disk_low_percent / 100),
        record=os.path.join(settings.data_dir, "images.json"),
        node_address=_own_address(settings.address),
    )


def is_disk_full(folder: str) -> bool:
    """Whether so little is left that nothing new should begin."""
    disk = os.statvfs(folder)
    least = min(LEAST_FREE_BYTES, disk.f_blocks * disk.f_frsize // 10)
    return disk.f_bavail * disk.f_frsize < least


def _own_address(address: str) -> str:
    """Where ports are opened that other nodes reach at this address: there, if the machine has it itself."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return "0.0.0.0"
        return str(probe.getsockname()[0])


def _access(settings: WorkerConfig) -> Access:
    return Access(settings.allowed_host_paths, settings.allowed_devices, data_dir=settings.data_dir)


def _facts(env: Env, settings: WorkerConfig) -> Facts:
    return Facts(
        name=settings.name,
        version=orca_version(),
        address=settings.address,
        os=platform.system().lower(),
        architecture=platform.machine(),
        labels=settings.labels,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpu_millis=(os.cpu_count() or 1) * 1000,
        instance=env.new_id(),
    )
