"""The node's ingress: takes the tables that the master sends, and has Envoy serve them.

Envoy is started when there is first something to serve, goes on when the worker ends, and is started again at
once when it dies. Its files are replaced in such an order that no request is sent to what is not there yet: a
new pool before the routes to it, a pool that is gone after them.
"""

import asyncio
import ipaddress
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from orca_common.env import Env
from orca_common.logs import get_logger
from orca_proto import worker_pb2 as pb
from orca_worker.proxy.bootstrap import bootstrap
from orca_worker.proxy.envoy import Files, Tables, clusters_file, compile_files
from orca_worker.proxy.listeners import ACCESS_LOG, TABLES, Settings, routes_file
from orca_worker.proxy.process import CannotServe, Envoy

RETRY_SECONDS = 5.0
APPLIED_SECONDS = 5.0
POLL_SECONDS = 0.003
MOST_LOG_BYTES = 50 << 20
TEND_SECONDS = 10.0
RESOLVE_SECONDS = 30.0

log = get_logger("ingress")


class Proxy:
    """Keep `run` running; it ends only by cancellation. `settings` None: this node serves nothing."""

    def __init__(
        self, env: Env, folder: Path, memory: Path, settings: Settings | None, node: str
    ) -> None:
        """`memory`: a folder for private keys, which is on no disk."""
        self._env = env
        self._folder = folder
        self._memory = memory
        self._settings = settings
        self._node = node
        self._envoy = Envoy(env, folder)
        self._sites: dict[str, pb.Site] = {}
        self._pools: dict[str, pb.Pool] = {}
        self._certificates: dict[str, pb.Certificate] = {}
        self._serves = False
        self._known = False
        self._version = 0
        self._seen = (0, 0, 0)
        self._written: dict[str, bytes] = {}
        self._served: dict[str, pb.Pool] = {}
        self._secured = False
        self._changed = asyncio.Event()
        self._status = pb.IngressStatus()
        self._told = asyncio.Event()
        self._resolved: dict[str, tuple[str, float]] = {}

    def apply(self, message: pb.Ingress) -> None:
        """Take what a master sends. What is older than what was seen is refused."""
        revision = message.revision
        stamp = (revision.epoch, revision.term, revision.version)
        if stamp < self._seen:
            log.warning("an older table refused", seen=self._seen, got=stamp)
            return
        self._seen, self._version = stamp, revision.version
        if message.complete:
            self._sites, self._pools, self._certificates = {}, {}, {}
        self._serves, self._known = message.serves, True
        for host in message.gone_sites:
            self._sites.pop(host, None)
        for name in message.gone_pools:
            self._pools.pop(name, None)
        self._sites |= {site.host: site for site in message.sites}
        self._pools |= {pool.name: pool for pool in message.pools}
        for name in message.gone_certificates:
            self._certificates.pop(name, None)
        self._certificates |= {each.name: each for each in message.certificates}
        self._changed.set()

    async def changes(self) -> pb.IngressStatus:
        """Wait until there is something new to tell."""
        await self._told.wait()
        self._told.clear()
        return self._status

    def forget_session(self) -> None:
        """Another master is to hear it all."""
        if self._status.state:
            self._told.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve())
            group.create_task(self._rotate())

    async def _serve(self) -> None:
        while True:
            try:
                await self._until_changed_or_ended()
                if self._known:
                    await self._reconcile()
            except CannotServe as error:
                self._tell(pb.INGRESS_STATE_FAILED, str(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()
            except OSError as error:
                self._tell(pb.INGRESS_STATE_FAILED, f"the ingress failed: {error}")
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    async def _until_changed_or_ended(self) -> None:
        """Envoy that dies is as a change: it is looked at again."""
        async with asyncio.TaskGroup() as group:
            changed = group.create_task(self._until_changed())
            ended = group.create_task(self._until_ended())
            await asyncio.wait({changed, ended}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            ended.cancel()

    async def _until_changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _until_ended(self) -> None:
        if not self._envoy.runs:
            await asyncio.Event().wait()
        await self._envoy.ended()
        log.warning("the ingress has ended; it is started again")

    async def _reconcile(self) -> None:
        version, folder = self._version, str(self._folder)
        start = bootstrap(self._node, folder)
        runs = self._envoy.runs or await self._env.threads.run(partial(self._envoy.find, start))
        if not self._serves or not self._sites:
            await self._envoy.stop()
            self._tell(pb.INGRESS_STATE_IDLE, "", version)
            return
        if self._settings is None:
            await self._envoy.stop()
            raise CannotServe("the ingress is switched off in this worker's settings")
        pools = {name: await self._resolve_pool(pool) for name, pool in self._pools.items()}
        tables = Tables(self._sites, pools, self._certificates)
        files = compile_files(tables, self._settings, folder, str(self._memory))
        for path in (self._folder, self._memory):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if runs:
            await self._update(files, pools)
        else:
            await self._start(files, start)
        self._served, self._secured = pools, bool(self._certificates)
        self._tell(pb.INGRESS_STATE_SERVING, "", version)

    async def _start(self, files: Files, start: bytes) -> None:
        assert self._settings is not None
        check_port(self._settings.address, self._settings.http_port)
        if self._certificates:
            check_port(self._settings.address, self._settings.https_port)
        self._written.clear()
        await self._write(files.secrets, self._memory)
        for part in (files.endpoints, files.clusters, files.routes, files.listeners):
            await self._write(part)
        await self._remove_others(files)
        await self._envoy.start(start, concurrency=os.cpu_count() or 1)

    async def _update(self, files: Files, pools: Mapping[str, pb.Pool]) -> None:
        if not self._written:
            await self._env.threads.run(self._read_written)
        await self._write(files.secrets, self._memory)
        await self._write(files.endpoints)
        both = {**self._served, **pools}
        await self._write_applied(clusters_file(both, str(self._folder)), "cluster_manager.cds")
        for table in TABLES:
            one = {routes_file(table): files.routes[routes_file(table)]}
            await self._write_applied(one, f"http.{table}.rds.{table}")
        await self._write_applied(files.clusters, "cluster_manager.cds")
        if self._certificates and not self._secured and self._settings is not None:
            check_port(self._settings.address, self._settings.https_port)
        await self._write(files.listeners)
        await self._remove_others(files)

    def _gains(self, files: Mapping[str, bytes]) -> bool:
        return any(self._written.get(name) != content for name, content in files.items())

    async def _write_applied(self, files: Mapping[str, bytes], kind: str) -> None:
        """Until Envoy says that it has taken it. Raises CannotServe when it refuses."""
        if not self._gains(files):
            return
        before = await self._counts(kind)
        await self._write(files)
        if before == (0, 0):
            return  # nobody reads it yet
        try:
            async with asyncio.timeout(APPLIED_SECONDS):
                refused = await self._until_taken(kind, before)
        except TimeoutError:
            self._written |= dict.fromkeys(files, b"")  # to be written again, not taken for done
            raise CannotServe("Envoy does not take its new configuration") from None
        if refused:
            self._written |= dict.fromkeys(files, b"")
            raise CannotServe("Envoy refuses its new configuration; see envoy.log on the node")

    async def _until_taken(self, kind: str, before: tuple[int, int]) -> bool:
        """Whether it was refused."""
        while True:
            after = await self._counts(kind)
            if after != before:
                return after[1] > before[1]
            await asyncio.sleep(POLL_SECONDS)

    async def _counts(self, kind: str) -> tuple[int, int]:
        found = await self._envoy.stats(f"^{kind}.update_")
        return found.get(f"{kind}.update_success", 0), found.get(f"{kind}.update_rejected", 0)

    async def _write(self, files: Mapping[str, bytes], folder: Path | None = None) -> None:
        new = {n: content for n, content in files.items() if self._written.get(n) != content}
        if new:
            await self._env.threads.run(partial(_replace, folder or self._folder, new))
            self._written |= new

    def _read_written(self) -> None:
        for folder in (self._folder, self._memory):
            for path in folder.glob("*.json"):
                self._written[path.name] = path.read_bytes()

    async def _remove_others(self, files: Files) -> None:
        for folder, kind, kept in (
            (self._folder, "endpoints-", files.endpoints),
            (self._memory, "secret-", files.secrets),
        ):
            for name in {n for n in self._written if n.startswith(kind)} - kept.keys():
                with suppress(FileNotFoundError):
                    (folder / name).unlink()
                del self._written[name]

    async def _resolve_pool(self, pool: pb.Pool) -> pb.Pool:
        """With addresses as numbers; a backend whose name means nothing is left out."""
        if all(_is_number(each.address) for each in pool.backends):
            return pool
        found = pb.Pool()
        found.CopyFrom(pool)
        del found.backends[:]
        for each in pool.backends:
            if address := await self._resolve(each.address):
                found.backends.add().CopyFrom(each)
                found.backends[-1].address = address
        return found

    async def _resolve(self, name: str) -> str:
        if not name or _is_number(name):
            return name
        address, until = self._resolved.get(name, ("", 0.0))
        if self._env.monotonic() < until:
            return address
        try:
            async with asyncio.timeout(2.0):
                answers = await asyncio.get_running_loop().getaddrinfo(
                    name, None, type=socket.SOCK_STREAM
                )
            address = str(answers[0][4][0])
        except (OSError, TimeoutError) as error:
            log.warning("a node's address means nothing here", address=name, reason=str(error))
        self._resolved[name] = address, self._env.monotonic() + RESOLVE_SECONDS
        return address

    def _tell(self, state: pb.IngressState.ValueType, reason: str, version: int = 0) -> None:
        settings = self._settings or Settings(http_port=0, https_port=0)
        status = pb.IngressStatus(
            state=state,
            reason=reason,
            http_port=settings.http_port,
            https_port=settings.https_port,
            version=version,
        )
        if reason and reason != self._status.reason:
            log.error("no ingress", reason=reason)
        if status != self._status:
            self._status = status
            self._told.set()

    async def _rotate(self) -> None:
        """The access log, when it is large: one older one is kept."""
        path = self._folder / ACCESS_LOG
        while True:
            await asyncio.sleep(TEND_SECONDS)
            with suppress(OSError):
                if path.stat().st_size > MOST_LOG_BYTES:
                    path.rename(f"{path}.1")
                    await self._envoy.ask("/reopen_logs", method="POST")

    async def clear(self) -> None:
        """End what an earlier worker left, too."""
        await self._env.threads.run(partial(self._envoy.find, b""))
        await self._envoy.stop()
        await self._env.threads.run(partial(shutil.rmtree, self._memory, ignore_errors=True))


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Each whole or not at all; nobody else may read it."""
    for name, content in files.items():
        draft = folder / f"{name}.draft"
        fd = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        draft.rename(folder / name)


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def check_port(address: str, port: int) -> None:
    """Raises CannotServe when this node cannot listen there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise CannotServe(
                f"port {port} of {address} cannot be opened ({error.strerror}):"
                " give other ports with ingress_http_port and ingress_https_port"
            ) from error
