"""One compose file's services as services of ours, and what could not be carried. Pure."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orca.compose import parts, units
from orca.compose.parts import Notes, plain_name

_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)
_REFERENCE = re.compile(r"\$+(?=\{secrets\.)")
_SIGNALS = ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "WINCH")
_LOG_SIZE = re.compile(r"([1-9][0-9]{0,3})([mg])b?", re.ASCII | re.IGNORECASE)

_SILENT = {
    "image", "command", "entrypoint", "environment", "env_file", "ports", "expose", "volumes",
    "depends_on", "healthcheck", "deploy", "secrets", "user", "working_dir", "stop_signal",
    "stop_grace_period", "pull_policy", "restart", "networks", "scale", "cpus", "mem_limit",
    "mem_reservation", "profiles", "logging", "init", "build", "devices",
}  # fmt: skip
_TOP = {"services", "name", "version", "volumes", "networks", "secrets"}
_WHY = {
    "labels": "labels of containers are not carried",
    "extends": "write it out first: docker compose config",
    "container_name": "replicas are named by Orca",
    "network_mode": "all services of a project share one network",
    "links": "services find each other by name",
    "privileged": "containers are never privileged",
    "read_only": "`security: restricted` is the counterpart, and does more",
    "configs": "put it into the image, or into a secret",
}


@dataclass(frozen=True, slots=True)
class Source:
    """`folder`: where relative paths begin; `env_files`: reads one by its path, raises ValueError."""

    folder: str
    variables: Mapping[str, str]
    env_files: Callable[[str], dict[str, str]]


@dataclass
class Imported:
    """`failed`: services that could not be written, with why."""

    services: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def converted(
    tree: Any,
    source: Source,
    *,
    project: str | None,
    profiles: Collection[str],
    images: Mapping[str, str],
) -> Imported:
    """Raises ValueError for a file that is no compose file."""
    found = Imported()
    services = tree.get("services") if isinstance(tree, dict) else None
    if not isinstance(services, dict) or not services:
        raise ValueError("has no services: is it a compose file?")
    project = project or plain_name(str(tree.get("name") or "")) or None
    _top_level(tree, found)
    chosen = {}
    for name, given in services.items():
        if not isinstance(given, dict):
            raise ValueError(f"services.{name} must be an object")
        of = [str(each) for each in units.sequence(given.get("profiles"))]
        if of and "*" not in profiles and not set(of) & set(profiles):
            found.notes.append(f"services.{name}.profiles: is left out; --profile {of[0]} takes it")
        else:
            chosen[name] = given
    names = _names(chosen, found)
    for name, given in chosen.items():
        notes = Notes(f"services.{name}")
        try:
            one = _service(name, given, source, names, images, notes)
        except ValueError as error:
            found.failed.append(f"services.{name}: {error}")
        except (AttributeError, TypeError):  # a text where an object belongs, say
            found.failed.append(f"services.{name}: has not the form of the Compose specification")
        else:
            found.services.append(one | ({"project": project} if project else {}))
        found.notes += notes.said
    _shared_volumes(found)
    return found


def _top_level(tree: dict[str, Any], found: Imported) -> None:
    for key in tree:
        if key == "include":
            found.notes.append("include: is not followed: docker compose config writes one file")
        elif key == "configs":
            found.notes.append(
                "configs: are not carried: put them into the image, or into a secret"
            )
        elif key not in _TOP and not key.startswith("x-"):
            found.notes.append(f"{key}: has no counterpart")
    for kind in ("volumes", "networks"):
        for name, given in (tree.get(kind) or {}).items():
            if given:
                found.notes.append(f"{kind}.{name}: its options are not carried")


def _names(chosen: dict[str, Any], found: Imported) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in chosen:
        plain = plain_name(name)
        if not plain or plain.isdigit() or plain in names.values():
            found.failed.append(f"services.{name}: {plain!r} is no free name for it here")
            continue
        names[name] = plain
        if plain != name:
            found.notes.append(f"services.{name}: is called {plain}; others reach it by that name")
    return names


def _service(
    name: str,
    given: dict[str, Any],
    source: Source,
    names: dict[str, str],
    images: Mapping[str, str],
    notes: Notes,
) -> dict[str, Any]:
    if name not in names:
        raise ValueError("is not written")
    image = images.get(name) or given.get("image")
    if given.get("build") is not None and name not in images:
        notes.add("build", "is not carried: build the image, push it, and say --image or `image`")
    if not image:
        raise ValueError(f"has no image: say --image {name}=IMAGE")
    made: dict[str, Any] = {"name": names[name], "image": str(image)}
    made |= _program(given, notes)
    if env := _environment(given, source, notes):
        made["env"] = env
    made |= parts.ports(given.get("ports"), given.get("expose"), notes)
    made |= parts.volumes(given.get("volumes"), source.folder, notes)
    made |= parts.health(given.get("healthcheck"), notes)
    made |= parts.depends_on(given.get("depends_on"), names, notes)
    if files := parts.secrets(given.get("secrets"), notes):
        made["files"] = files
    _deploy(given, made, notes)
    _stopping(given, made, notes)
    _surroundings(given, made, notes)
    for key in given:
        if key not in _SILENT and not key.startswith("x-"):
            notes.add(key, _WHY.get(key, "has no counterpart"))
    return made


def _program(given: dict[str, Any], notes: Notes) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key in ("command", "entrypoint"):
        if given.get(key) is None:
            continue
        if words := units.words(given[key]):
            made[key] = words
        else:
            notes.add(key, "an empty one does not take the image's own away")
    if user := given.get("user"):
        made["user"] = str(user)
    if folder := given.get("working_dir"):
        made["workdir"] = str(folder)
    return made


def _environment(given: dict[str, Any], source: Source, notes: Notes) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in units.sequence(given.get("env_file")):
        long = each if isinstance(each, dict) else {"path": each}
        path, needed = long.get("path"), long.get("required", True)
        try:
            found |= source.env_files(str(path))
        except ValueError as error:
            if units.truth(needed):
                raise ValueError(f"env_file {path}: {error}") from None
            notes.add("env_file", f"{path}: {error}")
    for key, value in units.mapping(given.get("environment")).items():
        if value is not None:
            found[key] = units.text(value)
        elif key in source.variables:
            found[key] = source.variables[key]
        else:
            notes.add(f"environment.{key}", "has no value here, and is left out")
    for key in [key for key in found if key.startswith("ORCA_") or not _ENV_KEY.fullmatch(key)]:
        notes.add(f"environment.{key}", "is left out: names are of A-Z, a-z, 0-9, _, not ORCA_…")
        del found[key]
    return {key: escaped(value) for key, value in found.items()}


def escaped(text: str) -> str:
    """A text that says `${secrets.` for itself: of the dollars before, each pair stands for one."""
    return _REFERENCE.sub(lambda match: match[0] * 2, text)


def _deploy(given: dict[str, Any], made: dict[str, Any], notes: Notes) -> None:
    deploy = given.get("deploy") or {}
    if not isinstance(deploy, dict):
        raise ValueError("deploy must be an object")
    replicas = deploy.get("replicas", given.get("scale"))
    if replicas is not None:
        made["replicas"] = units.number(replicas)
    if str(deploy.get("mode", "replicated")) != "replicated":
        notes.add("deploy.mode", f"{deploy['mode']} is not carried: give a number of replicas")
    if resources := _resources(given, deploy.get("resources") or {}, notes):
        made["resources"] = resources
    if update := parts.rollout(deploy.get("update_config") or {}, notes):
        made["deploy"] = made.get("deploy", {}) | update
    made |= parts.placement(deploy.get("placement") or {}, notes)
    for key in deploy:
        if key not in (
            "replicas",
            "mode",
            "resources",
            "update_config",
            "placement",
            "restart_policy",
        ):
            notes.add(f"deploy.{key}", "has no counterpart")
    policy = deploy.get("restart_policy") or {}
    restart = str(policy.get("condition", given.get("restart", "always")))
    if restart.partition(":")[0] in ("no", "none", "False", "false", "on-failure"):
        notes.add("restart", f"{restart} is not carried: a replica that ends is always replaced")


def _resources(given: dict[str, Any], stated: dict[str, Any], notes: Notes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    limits = {"memory": given.get("mem_limit"), "cpus": given.get("cpus")} | (
        stated.get("limits") or {}
    )
    kept = {"memory": given.get("mem_reservation")} | (stated.get("reservations") or {})
    for where, what, target in (("limits", limits, found), ("reservations", kept, {})):
        for key, value in what.items():
            if value in (None, 0, "0"):
                continue
            if key == "memory":
                target["memory"] = units.memory(value)
            elif key == "cpus":
                target["cpu"] = units.processors(value)
            else:
                notes.add(f"deploy.resources.{where}.{key}", "has no counterpart")
        if target is not found and target:
            found["reserve"] = target
    return found


def _stopping(given: dict[str, Any], made: dict[str, Any], notes: Notes) -> None:
    if (grace := given.get("stop_grace_period")) is not None:
        made["stop_grace_seconds"] = min(3600.0, units.seconds(grace))
    if signal := given.get("stop_signal"):
        name = str(signal).upper().removeprefix("SIG")
        if name in _SIGNALS:
            made["stop_signal"] = f"SIG{name}"
        else:
            notes.add("stop_signal", f"{signal} is not carried: one of {', '.join(_SIGNALS)}")
    if policy := given.get("pull_policy"):
        word = str(policy).replace("_", "-")
        if word in ("always", "never", "missing", "if-not-present"):
            made["pull_policy"] = word
        else:
            notes.add("pull_policy", f"{policy} is not carried")


def _surroundings(given: dict[str, Any], made: dict[str, Any], notes: Notes) -> None:
    networks = given.get("networks") or {}
    aliases: list[str] = []
    for name, how in networks.items() if isinstance(networks, dict) else ():
        for key, value in (how or {}).items():
            if key == "aliases":
                aliases += [plain_name(str(alias)) for alias in units.sequence(value)]
            else:
                notes.add(f"networks.{name}.{key}", "has no counterpart")
    if aliases := [each for each in dict.fromkeys(aliases) if each and each != made["name"]][:16]:
        made["aliases"] = aliases
    if [name for name in networks if name != "default"]:
        notes.add("networks", "all services of a project share one network")
    options = (given.get("logging") or {}).get("options") or {}
    log: dict[str, Any] = {}
    if match := _LOG_SIZE.fullmatch(str(options.get("max-size", ""))):
        log["max_size"] = f"{match[1]}{match[2].upper()}i"
    if (files := options.get("max-file")) is not None:
        log["max_files"] = max(1, min(100, units.number(files)))
    if log:
        made["log"] = log
    elif given.get("logging"):
        notes.add("logging", "only max-size and max-file are carried")
    devices = []
    for index, each in enumerate(units.sequence(given.get("devices"))):
        here, there, mode = (*str(each).split(":"), "", "")[:3]
        if here.startswith("/dev/") and there in ("", here) and mode in ("", "r", "w", "rw", "rwm"):
            devices.append({"path": here} | ({"permissions": mode} if mode else {}))
        else:
            notes.add(f"devices.{index}", "only /dev/X under its own name is carried")
    if devices:
        made["devices"] = devices


def _shared_volumes(found: Imported) -> None:
    users: dict[str, list[str]] = {}
    for service in found.services:
        for volume in service.get("volumes", ()):
            users.setdefault(volume["name"], []).append(service["name"])
    for name, of in users.items():
        if len(set(of)) > 1:
            found.notes.append(
                f"volumes.{name}: {', '.join(of)} each get a volume of their own, nothing is shared"
            )
