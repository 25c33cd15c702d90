"""`orca-master`: one master as a process. Wires the core to disk, HTTP and gRPC."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from orca_common.config import BadConfig, load
from orca_common.daemon import (
    FAILED_EXIT,
    USAGE_EXIT,
    causes,
    leave,
    settle_memory,
    until_signalled,
)
from orca_common.logs import configure_logs, get_logger
from orca_common.notify import notify
from orca_common.real import real_env
from orca_common.version import orca_version
from orca_master.app.config import MasterConfig
from orca_master.app.core import MasterCore
from orca_master.app.folder import BadFolder, Folder, advertised, open_folder
from orca_master.cluster import pki
from orca_master.cluster.model import AUTHORITY, Authority
from orca_master.cluster.routes import ClusterRoutes, Me
from orca_master.http.server import HttpServer
from orca_master.identity.model import Role
from orca_master.identity.operations import authenticate, create_token
from orca_master.ops.health import OpsRoutes
from orca_master.services.routes import ServiceRoutes
from orca_master.state.log import DamagedLog, FolderInUse, LogFailed
from orca_master.state.solo.log import SoloLog
from orca_master.state.transaction import Transaction
from orca_master.tasks.gateway import WorkerGateway

log = get_logger("master")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file.")
@click.option("--name", help="This master's name.")
@click.option("--cluster-name", help="The cluster's name, at its first start.")
@click.option("--data-dir", help="Where state is kept.")
@click.option("--bind", help="The address to listen on.")
@click.option("--advertise", help="The host under which others reach this master.")
@click.option("--api-port", type=int, help="HTTP API (6880).")
@click.option("--grpc-port", type=int, help="Workers' port (6881).")
@click.option("--node-down-after-seconds", type=float, help="Silence that means a node is down.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-text", default=None, help="How log lines are written.")
@click.version_option(orca_version(), prog_name="orca-master")
def main(config: Path | None, **flags: Any) -> None:
    """An Orca master: keeps the cluster's state and tells workers what to run."""
    default = Path("/etc/orca/master.toml")
    file = config or (default if default.exists() else None)
    try:
        settings = load(
            MasterConfig, file=file, environ=os.environ, prefix="ORCA_MASTER_", flags=flags
        )
    except BadConfig as error:
        sys.exit(leave(str(error), USAGE_EXIT))
    configure_logs(level=settings.log_level, as_json=settings.log_json)
    try:
        asyncio.run(until_signalled(serve(settings)))
    except BaseException as error:
        _leave_on_known(error)
        raise


def _leave_on_known(error: BaseException) -> None:
    """Exit with one sentence where the error is one that the operator can mend."""
    known = (BadFolder, DamagedLog, FolderInUse, LogFailed, OSError, pki.WrongKey)
    leaves = causes(error)
    if leaves and all(isinstance(each, known) for each in leaves):
        sys.exit(leave("; ".join(str(each) for each in leaves), FAILED_EXIT))


async def serve(settings: MasterConfig) -> None:
    """Run until cancelled. Raises BadFolder, DamagedLog, FolderInUse, OSError."""
    env = real_env()
    folder = open_folder(env, Path(settings.data_dir))
    backing = SoloLog(env, folder.log, cluster_id=folder.cluster_id, member_name=settings.name)
    core = MasterCore(
        env,
        backing,
        heartbeat_seconds=settings.heartbeat_seconds,
        node_down_after_seconds=settings.node_down_after_seconds,
    )
    await core.store.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(core.run())
            await _open_doors(core, settings, folder)
    finally:
        notify("STOPPING=1")
        await core.store.close()
        log.info("stopped")


async def _open_doors(core: MasterCore, settings: MasterConfig, folder: Folder) -> None:
    """Found what is not there yet, listen, and stay until cancelled."""
    await core.found(cluster_id=folder.cluster_id, cluster_name=settings.cluster_name)
    signer = await open_authority(core, folder)
    http = http_server(core, settings, signer)
    gateway = WorkerGateway(core.dispatcher, cluster_id=folder.cluster_id)
    certificate, key = pki.issue_master(core.env, signer, settings.name)
    try:
        await gateway.start(
            f"{settings.bind}:{settings.grpc_port}",
            ca=signer.pem,
            certificate=certificate,
            key=key,
        )
        await http.start(settings.bind, settings.api_port)
        settle_memory()
        log.info("ready", api_port=settings.api_port, cluster=folder.cluster_id)
        notify("READY=1", f"STATUS=leads cluster {settings.cluster_name}")
        await asyncio.Event().wait()
    finally:
        await http.close()
        await gateway.close()


def http_server(core: MasterCore, settings: MasterConfig, signer: pki.Signer) -> HttpServer:
    """All routes of this master, behind its tokens."""
    host = advertised(settings.bind, settings.advertise)
    me = Me(
        name=settings.name,
        api=f"http://{host}:{settings.api_port}",
        workers=f"{host}:{settings.grpc_port}",
        version=orca_version(),
    )
    routes = [
        *OpsRoutes(core.store, me.version, core.put_aside).table(),
        *ServiceRoutes(core.env, core.store, core.dispatcher).table(),
        *ClusterRoutes(core.env, core.store, core.presence, signer, me).table(),
    ]
    return HttpServer(
        core.env, routes, lambda authorization: authenticate(core.store.state, authorization)
    )


async def open_authority(core: MasterCore, folder: Folder) -> pki.Signer:
    """The authority and the first admin token, made at the first start. Raises WrongKey."""
    made: Authority | None = None
    if core.store.state.get(AUTHORITY, "ca") is None:
        made = pki.create_authority(core.env, folder.cluster_id, folder.kek)

    def bootstrap(tx: Transaction) -> Authority:
        create_token(
            tx,
            id=core.env.new_id(),
            name="admin",
            role=Role.ADMIN,
            secret=folder.admin_token,
            now=core.env.now(),
        )
        authority = tx.get(AUTHORITY, "ca") or made
        assert authority is not None
        tx.put(AUTHORITY, authority)
        return authority

    authority = await core.store.update(bootstrap)
    return pki.open_authority(authority, folder.cluster_id, folder.kek)
