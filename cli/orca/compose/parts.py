"""Parts of a compose service as parts of ours: ports, volumes, health, rollout, secrets. Pure.

Each takes what stands in the file and a `Notes`, tells there what it cannot carry, and returns our fields.
Raises ValueError for what compose itself would refuse.
"""

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any

from orca.compose import units

PROTECTED = (
    "/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys",
    "/var/run", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/orca",
)  # fmt: skip
KERNELS = ("/dev", "/proc", "/sys")
DEADLINE_SECONDS = 300.0
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}", re.ASCII)
_FILE = re.compile(r"/run/secrets(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){1,8}", re.ASCII)
_RULE = re.compile(r"\s*([\w.-]+)\s*(==|!=)\s*(\S+)\s*", re.ASCII)


@dataclass
class Notes:
    """What is not carried, a sentence each, with its path."""

    path: str
    said: list[str] = field(default_factory=list)

    def add(self, where: str, sentence: str) -> None:
        self.said.append(f"{self.path}.{where}: {sentence}")


def plain_name(text: str) -> str:
    """As services, projects and volumes are called here: a DNS label."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:63].strip("-")


def ports(given: Any, exposed: Any, notes: Notes) -> dict[str, Any]:
    """The first TCP port is the service's."""
    found: dict[str, Any] = {}
    for index, each in enumerate(units.sequence(given)):
        where = f"ports.{index}"
        one = _long_port(each) if isinstance(each, dict) else _short_port(str(each))
        target, published, address, protocol = one
        if protocol != "tcp":
            notes.add(where, f"only TCP ports are carried, not {protocol}")
        elif "-" in target or "-" in published:
            notes.add(where, "a range of ports is not carried: a service has one")
        elif found:
            notes.add(where, f"a service has one port, and {found['port']} came first")
        else:
            found["port"] = units.number(target)
            if published:
                found["host_port"] = units.number(published)
            if address:
                notes.add(where, f"host_port is open on every address, not on {address} alone")
    if not found and exposed:
        first = str(units.sequence(exposed)[0]).partition("/")[0]
        found["port"] = units.number(first)
    return found


def _short_port(text: str) -> tuple[str, str, str, str]:
    rest, _, protocol = text.partition("/")
    address, published = "", ""
    before, _, target = rest.rpartition(":")
    if before:
        address, _, published = before.rpartition(":")
    return target, published, address, protocol or "tcp"


def _long_port(given: dict[str, Any]) -> tuple[str, str, str, str]:
    texts = [str(given.get(key, "")) for key in ("target", "published", "host_ip")]
    return texts[0], texts[1], texts[2], str(given.get("protocol", "tcp"))


def volumes(given: Any, folder: str, notes: Notes) -> dict[str, Any]:
    """`folder`: where paths that begin with a dot start."""
    named: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for index, each in enumerate(units.sequence(given)):
        where = f"volumes.{index}"
        kind, source, target, read_only = _volume(each)
        target = posixpath.normpath(target) if target else ""
        if not target.startswith("/") or target.startswith("//") or within(target, KERNELS):
            notes.add(where, f"{target or 'nothing'} is no place in a container")
        elif kind not in ("volume", "bind"):
            notes.add(where, f"a volume of type {kind} is not carried")
        elif not source:
            notes.add(where, "an anonymous volume is not carried: give it a name")
        elif kind == "volume":
            named.append(_mounted({"name": plain_name(source)}, target, read_only))
        else:
            path = posixpath.normpath(posixpath.join(folder, source))
            if source.startswith("~") or path == "/" or within(path, PROTECTED):
                notes.add(where, f"{source} is never given to a container")
            else:
                mounts.append(_mounted({"source": path}, target, read_only))
                notes.add(where, f"{path} must be on each node, and allowed by its worker")
    found = {"volumes": named, "mounts": mounts}
    return {key: value for key, value in found.items() if value}


def _volume(each: Any) -> tuple[str, str, str, bool]:
    if isinstance(each, dict):
        source, target = str(each.get("source", "")), str(each.get("target", ""))
        kind = str(each.get("type", "volume"))
        return kind, source, target, units.truth(each.get("read_only"))
    parts = str(each).split(":")
    if len(parts) == 1:
        return "volume", "", parts[0], False
    is_path = parts[0].startswith(("/", ".", "~"))
    options = parts[2].split(",") if len(parts) > 2 else []
    return "bind" if is_path else "volume", parts[0], parts[1], "ro" in options


def _mounted(what: dict[str, Any], target: str, read_only: bool) -> dict[str, Any]:
    return what | {"target": target} | ({"read_only": True} if read_only else {})


def within(path: str, folders: tuple[str, ...]) -> bool:
    """Whether it is one of these, or in one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def health(given: Any, notes: Notes) -> dict[str, Any]:
    """A healthcheck says when a container is healthy and never ends it: that is `readiness`."""
    if not isinstance(given, dict) or units.truth(given.get("disable")):
        return {}
    test = given.get("test")
    if test is None:
        notes.add("healthcheck", "the image's own test is not known here: write it out")
        return {}
    words = ["CMD-SHELL", test] if isinstance(test, str) else units.words(test)
    if words[:1] == ["NONE"]:
        return {}
    if words[:1] not in (["CMD"], ["CMD-SHELL"]) or len(words) < 2:
        raise ValueError("healthcheck.test must begin with CMD, CMD-SHELL or NONE")
    command = words[1:] if words[0] == "CMD" else ["/bin/sh", "-c", words[1]]
    interval = units.seconds(given.get("interval", "30s"))
    timeout = units.seconds(given.get("timeout", "30s"))
    retries = units.number(given.get("retries", 3))
    start = units.seconds(given.get("start_period", "0s"))
    if timeout > 60:
        notes.add("healthcheck.timeout", f"is 60 s at most, not {timeout:g} s")
    probe = {
        "command": command,
        "interval_seconds": min(3600.0, max(0.1, interval)),
        "timeout_seconds": min(60.0, max(0.1, timeout)),
        "failure_threshold": max(1, min(1000, retries)),
    }
    needed = start + retries * interval
    deploy = {"deploy": {"healthy_deadline": needed}} if needed > DEADLINE_SECONDS else {}
    return {"readiness": probe} | deploy


def rollout(given: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """`deploy.update_config`"""
    found: dict[str, Any] = {}
    for key, value in given.items():
        match key:
            case "parallelism":
                found["max_parallel"] = units.number(value) or "100%"
            case "order":
                found["order"] = str(value)
            case "monitor":
                found["min_healthy_time"] = units.seconds(value)
            case "failure_action":
                words = {"pause": "pause", "continue": "continue", "rollback": "revert"}
                found["on_failure"] = words.get(str(value), "pause")
            case _:
                notes.add(f"deploy.update_config.{key}", "has no counterpart")
    return found


def placement(given: dict[str, Any], notes: Notes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for index, each in enumerate(units.sequence(given.get("constraints"))):
        where, match = f"deploy.placement.constraints.{index}", _RULE.fullmatch(str(each))
        if match is None:
            notes.add(where, f"{str(each)[:60]!r} is not understood")
        elif match[1].startswith("node.labels."):
            operator = "=" if match[2] == "==" else "!="
            rule = f"{match[1].removeprefix('node.labels.')} {operator} {match[3]}"
            found.setdefault("rules", []).append(rule)
        elif match[1] == "node.hostname" and match[2] == "==":
            found["node"] = match[3]
        else:
            notes.add(where, f"{match[1]} has no counterpart: use labels of nodes")
    for index, each in enumerate(units.sequence(given.get("preferences"))):
        spread = str(each.get("spread", "")) if isinstance(each, dict) else ""
        if spread.startswith("node.labels.") and "spread" not in found:
            found["spread"] = spread.removeprefix("node.labels.")
        else:
            notes.add(f"deploy.placement.preferences.{index}", "has no counterpart")
    if most := given.get("max_replicas_per_node"):
        if units.number(most) == 1:
            found["distinct_hosts"] = True
        else:
            notes.add("deploy.placement.max_replicas_per_node", "only 1 is carried")
    return {"placement": found} if found else {}


def secrets(given: Any, notes: Notes) -> list[dict[str, Any]]:
    """Files under /run/secrets; the values are set apart from the service."""
    found: list[dict[str, Any]] = []
    for index, each in enumerate(units.sequence(given)):
        long = each if isinstance(each, dict) else {"source": str(each)}
        key, where = str(long.get("source", "")), f"secrets.{index}"
        target = posixpath.join("/run/secrets", str(long.get("target") or key))
        if not _SECRET.fullmatch(key) or not _FILE.fullmatch(target):
            notes.add(where, f"{key or 'nothing'} at {target} is not carried: a secret's key is of"
                      " A-Z, a-z, 0-9, _ and -, its file below /run/secrets")  # fmt: skip
            continue
        mode = str(long.get("mode", "")).removeprefix("0o")
        one = {"path": target, "secret": key}
        if re.fullmatch(r"0?[0-7]{3}", mode):
            one["mode"] = mode.rjust(4, "0")
        found.append(one)
        notes.add(where, f"set its value: orca secrets set {key}")
    return found


def depends_on(given: Any, names: dict[str, str], notes: Notes) -> dict[str, Any]:
    """`names`: what each service that is written is called here."""
    found: dict[str, Any] = {}
    for name, how in units.mapping(given).items():
        long = how if isinstance(how, dict) else {"condition": "service_started"}
        condition = str(long.get("condition", "service_started"))
        if name not in names:
            notes.add(f"depends_on.{name}", "is left out: that service is not written")
        elif condition not in ("service_started", "service_healthy"):
            notes.add(f"depends_on.{name}", f"{condition} is not carried: nothing waits for an end")
        else:
            found[names[name]] = {"condition": condition.removeprefix("service_")}
    return {"depends_on": found} if found else {}
