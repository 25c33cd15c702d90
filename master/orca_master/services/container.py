"""The part of the payload that only a container engine can do, and what of it is refused anywhere.

What a node's own configuration allows besides (paths, devices) is known to its worker alone.
"""

import posixpath
import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from orca_master.http.names import Name
from orca_master.http.route import StrictModel
from orca_master.tasks.model import Container, Device, Mount, Volume

MOST_MOUNTS = 64
ABSOLUTE_PATTERN = r"^/[^\x00-\x1f:]{1,1023}$"
SIGNALS = ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "WINCH")

# With them a container would have the machine, its engine, or this cluster's keys.
_PROTECTED = (
    "/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys",
    "/var/run", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/orca",
)  # fmt: skip
_KERNELS = ("/dev", "/proc", "/sys")
_ABSOLUTE = re.compile(ABSOLUTE_PATTERN)


def check_absolute(value: str) -> str:
    """Nothing in it may have to be resolved: what was checked is what is meant."""
    if not _ABSOLUTE.match(value) or posixpath.normpath(value) != value or value[:2] == "//":
        raise ValueError("must be an absolute path without .., // or a / at its end")
    return value


def check_source(value: str) -> str:
    check_absolute(value)
    for path in _PROTECTED:
        if is_within(value, path) or is_within(path, value):
            raise ValueError(f"{value} is never given to a container: it is, or holds, {path}")
    return value


def check_target(value: str) -> str:
    check_absolute(value)
    if any(is_within(value, path) for path in _KERNELS):
        raise ValueError(f"{value} belongs to the kernel: nothing can be put there")
    return value


def check_device(value: str) -> str:
    check_absolute(value)
    if not value.startswith("/dev/"):
        raise ValueError("must be a path below /dev, such as /dev/snd")
    return value


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


_TEXT = WithJsonSchema({"type": "string", "pattern": ABSOLUTE_PATTERN})
Source = Annotated[str, AfterValidator(check_source), _TEXT]
Target = Annotated[str, AfterValidator(check_target), _TEXT]
DevicePath = Annotated[str, AfterValidator(check_device), _TEXT]


class HostMountIn(StrictModel):
    source: Annotated[Source, Field(description="Of the node; its worker must allow it.")]
    target: Annotated[Target, Field(description="In the container.")]
    read_only: bool = False


class VolumeIn(StrictModel):
    name: Name
    target: Annotated[Target, Field(description="In the container.")]
    read_only: bool = False


class DeviceIn(StrictModel):
    path: Annotated[DevicePath, Field(description="Of the node; its worker must allow it.")]
    permissions: Annotated[
        str, Field(pattern="^(r|w|rw|rm|wm|rwm)$", description="Of `r`, `w`, `m`.")
    ] = "rw"


class LogIn(StrictModel):
    """Output is kept in at most `max_files` files of `max_size`."""

    max_size: Annotated[str | None, Field(pattern="^[1-9][0-9]{0,3}(Mi|Gi)$")] = None
    max_files: Annotated[int | None, Field(ge=1, le=100)] = None

    @property
    def size_bytes(self) -> int:
        """0: the node's default."""
        size = self.max_size or "0Mi"
        return int(size[:-2]) << (30 if size.endswith("Gi") else 20)


class ContainerIn(StrictModel):
    """The fields of a service that need an image."""

    entrypoint: Annotated[
        list[Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]] | None,
        Field(min_length=1, max_length=256, description="Instead of the image's own."),
    ] = None
    devices: Annotated[list[DeviceIn], Field(max_length=MOST_MOUNTS)] = Field(default_factory=list)
    mounts: Annotated[list[HostMountIn], Field(max_length=MOST_MOUNTS)] = Field(
        default_factory=list
    )
    volumes: Annotated[
        list[VolumeIn],
        Field(max_length=MOST_MOUNTS, description="Each replica has its own, on its node."),
    ] = Field(default_factory=list)
    aliases: Annotated[
        list[Name],
        Field(max_length=16, description="More names in the project's network."),
    ] = Field(default_factory=list)
    security: Annotated[
        str,
        Field(
            pattern="^(default|restricted)$",
            description="`restricted`: read-only, no capability, not root.",
        ),
    ] = "default"
    user: Annotated[
        str,
        Field(max_length=64, pattern=r"^[A-Za-z0-9_.:-]*$", description="In the container."),
    ] = ""

    def container(self) -> Container:
        return Container(
            entrypoint=tuple(self.entrypoint or ()),
            devices=tuple(Device(d.path, d.permissions) for d in self.devices),
            mounts=tuple(Mount(m.source, m.target, m.read_only) for m in self.mounts),
            volumes=tuple(Volume(v.name, v.target, v.read_only) for v in self.volumes),
            aliases=tuple(self.aliases),
            security=self.security,
        )

    def needing_an_image(self) -> list[str]:
        """The fields that were given."""
        fields = ("entrypoint", "devices", "mounts", "volumes", "aliases")
        return [f for f in fields if getattr(self, f)] + ["security"] * (self.security != "default")

    def mistakes(self) -> list[str]:
        """What does not fit together."""
        targets = [m.target for m in self.mounts] + [v.target for v in self.volumes]
        mistakes = [f"{target} is a target twice" for target in _twice(targets)]
        mistakes += [f"volume {n} is given twice" for n in _twice([v.name for v in self.volumes])]
        mistakes += [f"device {p} is given twice" for p in _twice([d.path for d in self.devices])]
        user = self.user.partition(":")[0]
        if self.security == "restricted" and (user == "root" or (user and not user.strip("0"))):
            mistakes.append("security restricted and user root exclude each other")
        return mistakes


def _twice(values: list[str]) -> list[str]:
    return sorted({value for value in values if values.count(value) > 1})
