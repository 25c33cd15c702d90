"""What of the machine a container may be given: only what this node's configuration names.

A path is resolved here, link by link, before it is compared, and the engine is given the resolved one.
Who may write to a folder above a mounted path can still swap it between this and the start: allow paths
whose parents only root writes.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from orca_proto.worker_pb2 import TaskSpec
from orca_worker.runtime.port import RuntimeRefusal

# Never, whatever the configuration says: the kernel, the engine's door and this node's keys.
_NEVER = ("/proc", "/sys", "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd")


_DEVICES = "/dev"
MOST_OFFERED = 1000
MOST_LOOKED_AT = 20_000


@dataclass(frozen=True, slots=True)
class Access:
    """`paths` and `devices` are absolute; what is below them is allowed too."""

    paths: Sequence[str] = ()
    devices: Sequence[str] = ()
    data_dir: str = ""

    def sources(self, spec: TaskSpec) -> list[str]:
        """The resolved sources of the spec's mounts, in their order. Blocks.

        Raises RuntimeRefusal naming all that is not allowed.
        """
        mistakes, resolved = [], []
        for mount in spec.mounts:
            source = os.path.realpath(mount.source)
            resolved.append(source)
            if reason := self._refused(mount.source, source):
                mistakes.append(reason)
        allowed = [os.path.realpath(path) for path in self.devices]
        for device in spec.devices:
            path = os.path.realpath(device.path)
            if not _within_one(path, allowed):
                mistakes.append(
                    f"device {device.path} is not allowed on this node: name it in allowed_devices "
                    "of its worker's configuration"
                )
            elif not os.path.exists(path):
                mistakes.append(f"there is no device {device.path} on this node")
        if mistakes:
            raise RuntimeRefusal("; ".join(mistakes), permanent=True)
        return resolved

    def offered(self) -> list[str] | None:
        """Every name of a device, or of a folder of them, that a container may have now. Blocks.

        None: there are too many to tell.
        """
        if not self.devices:
            return []
        allowed = [os.path.realpath(path) for path in self.devices]
        found = set(self.devices)
        for root in {_DEVICES, *self.devices, *allowed}:
            for folder, folders, files in os.walk(root):
                found.update(os.path.join(folder, name) for name in (*folders, *files))
                if len(found) > MOST_LOOKED_AT:  # no folder of devices
                    return None
        offered = [path for path in found if _is_given(path, allowed)]
        return sorted(offered) if len(offered) <= MOST_OFFERED else None

    def _refused(self, given: str, source: str) -> str:
        meant = given if given == source else f"{given} (which is {source})"
        never = [*_NEVER, *([os.path.realpath(self.data_dir)] if self.data_dir else [])]
        if source == "/" or any(_within(source, p) or _within(p, source) for p in never):
            return f"path {meant} is never given to a container"
        if not _within_one(source, [os.path.realpath(path) for path in self.paths]):
            return (
                f"path {meant} is not allowed on this node: name it in allowed_host_paths of its "
                "worker's configuration"
            )
        if not os.path.exists(source):
            return f"there is no {meant} on this node: make it first"
        return ""


def _is_given(path: str, allowed: Sequence[str]) -> bool:
    if not _within_one(os.path.realpath(path), allowed):
        return False
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)


def _within_one(path: str, folders: Sequence[str]) -> bool:
    return any(_within(path, folder) for folder in folders)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
