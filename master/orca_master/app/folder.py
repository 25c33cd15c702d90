"""The master's data folder: who it is and of which cluster, the keys, the first admin token."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_common.credentials import KEY_ENCRYPTION_KEY, credential
from orca_common.env import Env
from orca_master.identity.operations import new_secret
from orca_master.identity.wrapping.keyring import KEK_BYTES

NEXT_KEK = "kek.next"
"""Beside `kek`, while the one is replaced by the other."""


class BadFolder(Exception):
    """The data folder cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Folder:
    """`<data_dir>/`: `identity.json`, `kek`, `tls/`, `admin.token` (on the first master), and the log:
    `log/` of one master alone, or `raft/`, which counts as soon as it is there. `keks`: one key-encryption
    key, or two while it is replaced; `has_given_kek`: it comes from elsewhere."""

    path: Path
    cluster_id: str
    master_id: str
    keks: tuple[bytes, ...]
    admin_token: str | None
    """None on a master that joined."""
    has_given_kek: bool = False
    first_peers: dict[str, str] = field(default_factory=dict)
    """Until a master that joins has started once: where the others are, by id."""

    @property
    def solo_log(self) -> str:
        return str(self.path / "log")

    @property
    def raft_log(self) -> str:
        return str(self.path / "raft")

    @property
    def is_raft(self) -> bool:
        return bool(self.first_peers) or (self.path / "raft").exists()

    @property
    def own_certificate(self) -> Path:
        """Certificate and key, PEM."""
        return self.path / "tls" / "master.pem"

    @property
    def authority(self) -> Path:
        return self.path / "tls" / "ca.pem"


def is_new(path: Path) -> bool:
    """Whether no master has been at home here."""
    return not (path / "identity.json").exists()


def given_key(path: str) -> bytes | None:
    """The key-encryption key from a file beside the folder: this one, or else the service manager's
    credential `orca.kek` (LoadCredential). None: there is neither, and it is the folder's own.

    Raises BadFolder.
    """
    file = Path(path) if path else credential(KEY_ENCRYPTION_KEY)
    if file is None:
        return None
    try:
        key = _private(file)
    except OSError as error:
        raise BadFolder(f"the key-encryption key cannot be read: {error}") from error
    if len(key) != KEK_BYTES:
        raise BadFolder(
            f"{file} must be {KEK_BYTES} bytes: make one with `head -c {KEK_BYTES} /dev/urandom`"
        )
    return key


def found_folder(env: Env, path: Path, kek: bytes | None = None) -> Folder:
    """The folder of a new cluster's first master, made as far as it is not there. Raises BadFolder."""
    if is_new(path):
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if (path / "log").exists() or (path / "raft").exists():
                raise BadFolder(
                    f"{path}/identity.json is missing: put it back, or use another folder"
                )
            secret = new_secret(env.random.token_bytes(32))
            _write_if_missing(path / "admin.token", secret.encode() + b"\n")
            if kek is None:
                _write_if_missing(path / "kek", env.random.token_bytes(KEK_BYTES))
            identity = {"cluster_id": env.new_id(), "master_id": env.new_id()}
            write_private(path / "identity.json", json.dumps(identity).encode())
        except OSError as error:
            raise BadFolder(f"the data folder {path} cannot be used: {error}") from error
    return open_folder(path, kek)


def joined_folder(
    path: Path,
    *,
    cluster_id: str,
    master_id: str,
    authority: bytes,
    certificate_and_key: bytes,
    first_peers: dict[str, str],
) -> None:
    """Keep what joining has given, `identity.json` last. The key-encryption key comes after. OSError."""
    (path / "tls").mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path / "tls" / "ca.pem", authority)
    write_private(path / "tls" / "master.pem", certificate_and_key)
    identity = {"cluster_id": cluster_id, "master_id": master_id, "first_peers": first_peers}
    write_private(path / "identity.json", json.dumps(identity).encode())


def first_peers(path: Path) -> list[str]:
    """Where the masters are that this one was told of when it joined. OSError, ValueError."""
    identity = json.loads((path / "identity.json").read_text())
    return sorted(identity.get("first_peers", {}).values())


def open_folder(path: Path, kek: bytes | None = None) -> Folder:
    """`kek`: the key that was given instead of the folder's own. Raises BadFolder."""
    try:
        _check_owner(path)
        identity: dict[str, Any] = json.loads(_private(path / "identity.json"))
        token = path / "admin.token"
        folder = Folder(
            path.absolute(),
            str(identity["cluster_id"]),
            str(identity["master_id"]),
            _own_keks(path) if kek is None else (kek,),
            _private(token).decode().strip() if token.exists() else None,
            kek is not None,
            dict(identity.get("first_peers", {})),
        )
    except KeyError as error:
        raise BadFolder(
            f"{path}/identity.json lacks {error}: it was made by an older version; use another folder"
        ) from error
    except (OSError, ValueError) as error:
        raise BadFolder(f"the data folder {path} cannot be used: {error}") from error
    if kek is not None and (path / "kek").exists() and _private(path / "kek") != kek:
        raise BadFolder(f"{path}/kek is another key than the one that was given: move one away")
    if any(len(each) != KEK_BYTES for each in folder.keks):
        raise BadFolder(f"{path}/kek must be {KEK_BYTES} bytes: put back the file that was here")
    if identity.get("started") and not ((path / "log").exists() or (path / "raft").exists()):
        raise BadFolder(
            f"the log in {path} is gone: put back the folder `raft` or `log` that was here; or, if"
            " other masters live, remove this one there with `orca masters remove` and let it join"
            " again in a new folder"
        )
    return folder


def _own_keks(path: Path) -> tuple[bytes, ...]:
    coming = path / NEXT_KEK
    return _private(path / "kek"), *([_private(coming)] if coming.exists() else [])


def keep_keks(path: Path, keys: Sequence[bytes]) -> None:
    """One key-encryption key, or two, and no other: durably, and whenever this process ends, each of them
    that was here is still here. Raises OSError."""
    own, coming = path / "kek", path / NEXT_KEK
    first, *others = keys
    present = _own_keks(path)
    if present[0] != first:
        if present[1:] == (first,) and not others:
            coming.rename(own)
        else:
            write_private(own, first)
    if others and present[1:] != tuple(others):
        write_private(coming, others[0])
    if not others:
        coming.unlink(missing_ok=True)
    for file in (own, coming):
        file.with_name(file.name + ".tmp").unlink(missing_ok=True)
    _sync(path)


def mark_started(folder: Folder, *, keep_first_peers: bool) -> None:
    """From now on a missing log is a loss, not a beginning. Raises OSError."""
    identity: dict[str, Any] = {
        "cluster_id": folder.cluster_id,
        "master_id": folder.master_id,
        "started": True,
    }
    if keep_first_peers and folder.first_peers:
        identity["first_peers"] = folder.first_peers
    raw = json.dumps(identity).encode()
    if (folder.path / "identity.json").read_bytes() != raw:
        write_private(folder.path / "identity.json", raw)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file, durably; only its owner may read it. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_if_missing(path: Path, content: bytes) -> None:
    if not path.exists():
        write_private(path, content)


def _check_owner(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise BadFolder(
            f"{path} belongs to user {found.st_uid}, and this process is user {os.geteuid()}:"
            f" run it as that user, or chown -R {os.geteuid()} {path}"
        )
    if found.st_mode & 0o077:
        raise BadFolder(f"{path} can be read by others: chmod 700 {path}")


def _private(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise BadFolder(f"{path} can be read by others: chmod 600 {path}")
    return path.read_bytes()


def advertised(bind: str, advertise: str) -> str:
    """The host under which others reach this master, as it stands in a URL."""
    host = advertise or (_own_address() if bind in ("", "0.0.0.0", "::") else bind)
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _own_address() -> str:
    """The address that this machine has towards the rest of the world. No packet is sent.

    Not its name: few names are known on all machines of a cluster without somebody's doing.
    """
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as towards:
                towards.connect((elsewhere, 9))
                return str(towards.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"
