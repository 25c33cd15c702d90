"""`orca-master`: the command line of one master."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from orca_common.config import load
from orca_common.daemon import (
    FAILED_EXIT,
    REMOVED_EXIT,
    USAGE_EXIT,
    Hangup,
    causes,
    leave,
    until_signalled,
)
from orca_common.logs import configure_logs, set_level
from orca_common.version import orca_version
from orca_master.app.config import MasterConfig
from orca_master.app.daemon import serve
from orca_master.app.folder import BadFolder
from orca_master.app.joining import CannotJoin
from orca_master.cluster.masters.agreement import Diverged
from orca_master.cluster.pki import WrongKey
from orca_master.errors import StorageFull
from orca_master.http.tls import BadCertificate
from orca_master.state.history.file import DamagedHistory
from orca_master.state.log import DamagedLog, FolderInUse, LogFailed
from orca_master.state.raft.members import Removed
from orca_master.state.versions import OlderThanCluster
from orca_proto.join import NotAToken

"""Starting again is of no use: see RestartPreventExitStatus in systemd/orca-master.service."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file.")
@click.option("--name", help="This master's name.")
@click.option("--cluster-name", help="The cluster's name, at its first start.")
@click.option("--data-dir", help="Where state is kept.")
@click.option("--bind", help="The address to listen on.")
@click.option("--advertise", help="The host under which others reach this master.")
@click.option("--api-port", type=int, help="HTTP API (6880).")
@click.option("--grpc-port", type=int, help="Workers' port (6881).")
@click.option("--peer-port", type=int, help="Port between masters (6882).")
@click.option("--join", multiple=True, help="A master of the cluster to join; may be repeated.")
@click.option("--token", "join_token", help="A join token, from `orca masters token`.")
@click.option("--token-file", "join_token_file", help="A file that holds the join token.")
@click.option("--api-certificate", help="A PEM file: the API speaks TLS.")
@click.option("--api-key", help="Its key, PEM.")
@click.option("--node-down-after-seconds", type=float, help="Silence that means a node is down.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-json/--log-text", default=None, help="How log lines are written.")
@click.version_option(orca_version(), prog_name="orca-master")
def main(config: Path | None, join: tuple[str, ...], **flags: Any) -> None:
    """An Orca master: keeps the cluster's state and tells workers what to run."""
    default = Path("/etc/orca/master.toml")
    file = config or (default if default.exists() else None)
    flags["join"] = list(join) or None
    read = partial(
        load, MasterConfig, file=file, environ=os.environ, prefix="ORCA_MASTER_", flags=flags
    )
    try:
        settings = read()
        configure_logs(level=settings.log_level, as_json=settings.log_json)
    except ValueError as error:
        sys.exit(leave(str(error), USAGE_EXIT))
    os.umask(0o077)
    hangup = Hangup()
    hangup.on("log_level", lambda: set_level(read().log_level))
    try:
        asyncio.run(until_signalled(serve(settings, hangup), hangup=hangup))
    except BaseException as error:
        _leave_on_known(error)
        raise


_KNOWN = (
    BadCertificate,
    BadFolder,
    CannotJoin,
    DamagedHistory,
    DamagedLog,
    Diverged,
    FolderInUse,
    LogFailed,
    NotAToken,
    OlderThanCluster,
    OSError,
    Removed,
    StorageFull,
    WrongKey,
)


def _leave_on_known(error: BaseException) -> None:
    """Exit with one sentence where the error is one that the operator can mend."""
    leaves = causes(error)
    if leaves and all(isinstance(each, _KNOWN) for each in leaves):
        removed = any(isinstance(each, Removed) for each in leaves)
        said = "; ".join(str(each) for each in leaves)
        sys.exit(leave(said, REMOVED_EXIT if removed else FAILED_EXIT))
