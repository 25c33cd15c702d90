"""Where a master lives and what it says of itself: its folder, found or joined, and its row."""

from pathlib import Path

from orca_common.credentials import JOIN_TOKEN, credential
from orca_common.env import Env
from orca_common.version import orca_version
from orca_master.app import joining
from orca_master.app.config import MasterConfig
from orca_master.app.folder import (
    Folder,
    advertised,
    found_folder,
    given_key,
    is_new,
    open_folder,
)
from orca_master.app.schema import SCHEMA
from orca_master.cluster.model import Master
from orca_proto.join import parse


async def at_home(env: Env, settings: MasterConfig) -> Folder:
    """The data folder: as it is, of a new cluster, or filled by joining one.

    Raises BadFolder, CannotJoin, NotAToken, OSError.
    """
    path = Path(settings.data_dir)
    kek = given_key(settings.kek_file)
    if not settings.join:
        return found_folder(env, path, kek)
    if is_new(path):
        token = parse(_token(settings))
        peers = _peers(settings)
        await joining.enrol(settings.join, token, name=settings.name, peers=peers, folder=path)
    if kek is None and not (path / "kek").exists():
        await joining.fetch_key(path)
    return open_folder(path, kek)


def myself(settings: MasterConfig, folder: Folder) -> Master:
    """This master's row, as its settings say."""
    host = advertised(settings.bind, settings.advertise)
    return Master(
        id=folder.master_id,
        name=settings.name,
        joined_at=0.0,
        peers=_peers(settings),
        api=f"{'https' if settings.api_certificate else 'http'}://{host}:{settings.api_port}",
        workers=f"{host}:{settings.grpc_port}",
        version=orca_version(),
        schema=SCHEMA.version,
    )


def _peers(settings: MasterConfig) -> str:
    return f"{advertised(settings.bind, settings.advertise)}:{settings.peer_port}"


def _token(settings: MasterConfig) -> str:
    text, file = settings.join_token, settings.join_token_file or credential(JOIN_TOKEN)
    if not text and file:
        try:
            text = Path(file).read_text()
        except OSError as error:
            raise joining.CannotJoin(f"the join token cannot be read: {error}") from error
    if not text:
        raise joining.CannotJoin("joining takes a token: give --token, from `orca masters token`")
    return text
