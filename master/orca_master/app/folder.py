"""The master's data folder: who it belongs to, the key-encryption key, the first admin token."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from orca_common.env import Env
from orca_master.identity.operations import new_secret

KEK_BYTES = 32


class BadFolder(Exception):
    """The data folder cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Folder:
    """`<data_dir>/`: `identity.json`, `kek` (0600), `admin.token` (0600), `log/`."""

    path: Path
    cluster_id: str
    kek: bytes
    admin_token: str

    @property
    def log(self) -> str:
        return str(self.path / "log")


def open_folder(env: Env, path: Path) -> Folder:
    """Open the folder, making at the first start what is not there. Raises BadFolder."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (path / "identity.json").exists() and (path / "log").exists():
            raise BadFolder(f"{path}/identity.json is missing: put it back, or use another folder")
        token = _keep(path / "admin.token", new_secret(env.random.token_bytes(32)).encode() + b"\n")
        kek = _keep(path / "kek", env.random.token_bytes(KEK_BYTES))
        identity = json.loads(
            _keep(path / "identity.json", json.dumps({"cluster_id": env.new_id()}).encode())
        )
        cluster_id = str(identity["cluster_id"])
    except (OSError, ValueError, KeyError) as error:
        raise BadFolder(f"the data folder {path} cannot be used: {error}") from error
    if len(kek) != KEK_BYTES:
        raise BadFolder(f"{path}/kek must be {KEK_BYTES} bytes: put back the file that was here")
    return Folder(path.absolute(), cluster_id, kek, token.decode().strip())


def _keep(path: Path, new: bytes) -> bytes:
    """What the file holds; if it does not exist it is made, durably, with this content."""
    if path.exists():
        mode = path.stat().st_mode & 0o077
        if mode:
            raise BadFolder(f"{path} can be read by others: chmod 600 {path}")
        return path.read_bytes()
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        os.write(fd, new)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return new


def advertised(bind: str, advertise: str) -> str:
    """The host under which others reach this master."""
    if advertise:
        return advertise
    return socket.getfqdn() if bind in ("", "0.0.0.0", "::") else bind
