"""The deploy payload of API document 002, parsed strictly: what people write, in their words."""

import re
from datetime import datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from orca_master.http.names import Name
from orca_master.http.route import QueryModel, StrictModel
from orca_master.identity.secrets import templates
from orca_master.services.container import SIGNALS, ContainerIn, LogIn
from orca_master.services.model import Policy, Reconnect, ServiceSpec
from orca_master.services.probes import STARTUP_FAILURES, ProbesIn
from orca_master.services.rollouts.payload import RolloutIn
from orca_master.services.routing.model import LEAVING_SECONDS
from orca_master.services.routing.payload import RoutedIn
from orca_master.services.secrets.payload import (
    MOST_FILES,
    MOST_REFERENCES,
    SecretFileIn,
    file_mistakes,
)
from orca_master.services.starting import DependsOn, dependencies
from orca_master.services.where import LeavingIn, PlacementIn, ResourcesIn, memory_bytes

MAX_SERVICES = 500
MAX_REPLICAS = 10_000
MAX_LINES = 100_000
DEFAULT_LINES = 100

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)


def check_no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def since_seconds(value: str, now: float) -> float:
    """Unix seconds. Raises ValueError. `10m` is ten minutes before `now`."""
    if match := _DURATION.fullmatch(value):
        return now - float(match[1]) * _SECONDS[match[2]]
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or "T" not in value:
        raise ValueError("must be a duration such as 10m or a time such as 2026-01-31T12:00:00Z")
    return at.timestamp()


def check_since(value: str) -> str:
    since_seconds(value, 0.0)
    return value


Text = Annotated[str, Field(max_length=4096), AfterValidator(check_no_nul)]
Since = Annotated[str, AfterValidator(check_since)]
Port = Annotated[int, Field(ge=1, le=65535)]


_ANYWHERE = PlacementIn()


class ServiceIn(ContainerIn, ProbesIn, RoutedIn):
    """A service. It needs an image, or a command to run as a plain process."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["image"], "properties": {"image": {"type": "string"}}},
                {"required": ["command"], "properties": {"command": {"type": "array"}}},
            ]
        }
    )

    name: Name
    project: Name = "default"
    image: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=512,
            pattern=r"^[^\s\x00-\x1f]+$",
            description="An image: the service runs in containers.",
        ),
    ] = None
    command: Annotated[
        list[Text] | None,
        Field(
            min_length=1,
            max_length=256,
            description="The program and its arguments; without an image, a plain process.",
        ),
    ] = None
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    port: Annotated[
        Port | None,
        Field(description="What the program listens on; a plain process is told it in `$PORT`."),
    ] = None
    host_port: Annotated[
        Port | None, Field(description="A fixed port on the node; else any free one, on 127.0.0.1.")
    ] = None
    env: dict[str, str] = Field(
        default_factory=dict,
        max_length=1000,
        description="Names that begin with `ORCA_` are reserved. `${secrets.KEY}` stands for a secret.",
        json_schema_extra={"propertyNames": {"pattern": f"^(?!ORCA_){_ENV_KEY.pattern}$"}},
    )
    files: Annotated[
        list[SecretFileIn],
        Field(max_length=MOST_FILES, description="Files in memory that hold secrets."),
    ] = Field(default_factory=list)
    resources: ResourcesIn = ResourcesIn()
    internal: Annotated[
        bool, Field(description="Kept and shown; a domain is routed nevertheless.")
    ] = False
    # From a factory: a default that holds a dict is copied deeply for every service.
    placement: PlacementIn = Field(default_factory=lambda: _ANYWHERE)
    drain: LeavingIn = LeavingIn()
    deploy: RolloutIn = RolloutIn()
    depends_on: Annotated[
        DependsOn,
        Field(
            description="Services of the project that must be there before this one starts: names, or"
            " `{name: {condition}}`, `healthy` (all replicas ready) or `started` (one runs)."
        ),
    ] = Field(default_factory=dict)
    pull_policy: Annotated[
        str,
        Field(
            pattern="^(auto|if-not-present|always|never|missing)$",
            description="`auto`: `always` for the tag latest, else `if-not-present`; or `never`.",
        ),
    ] = "auto"
    stop_grace_seconds: Annotated[
        float, Field(ge=0, le=3600, description="Between the stop signal and SIGKILL.")
    ] = 10.0
    stop_delay_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=3600,
            description="Of a replica that is ready: between its leaving, which is shown at once, and the"
            f" stop signal. Unless said, {LEAVING_SECONDS:g} with a domain, else 0.",
        ),
    ] = None
    reconnect: Annotated[
        str,
        Field(
            pattern="^(keep_original|keep_replacement|best)$",
            description="Which goes on when a node returns whose replica was replaced:"
            " `keep_original`, `keep_replacement`, or `best`, the one that is ready (of two, the"
            " replacement).",
        ),
    ] = "best"
    fence: Annotated[
        bool | None,
        Field(
            description="Never run a replica twice at once, also when its node is lost: it ends when its"
            " node is without a master for the length of the lease, and only then is it replaced. Unless"
            " said, so it is where there are `volumes`."
        ),
    ] = None
    stop_signal: Annotated[
        str,
        Field(
            pattern=f"^(SIG({'|'.join(SIGNALS)}))?$",
            description="Such as SIGINT; else the image's own, else SIGTERM.",
        ),
    ] = ""
    log: Annotated[LogIn, Field(description="How much output is kept.")] = LogIn()
    workdir: Annotated[
        str, Field(max_length=1024, pattern=r"^(/[^\x00]*)?$", description="In the container.")
    ] = ""

    @field_validator("env")
    @classmethod
    def _check_env(cls, env: dict[str, str]) -> dict[str, str]:
        for key, value in env.items():
            if not _ENV_KEY.fullmatch(key):
                raise ValueError(f"{key[:80]!r} is no name of an environment variable")
            if key.startswith("ORCA_"):
                raise ValueError(f"{key[:80]}: names that begin with ORCA_ are reserved")
            check_no_nul(value)
            templates.keys([value])
        return env

    @model_validator(mode="after")
    def _check_whole(self) -> "ServiceIn":
        mistakes = self.mistakes() + self.mistakes_of_probes(self.port)
        mistakes += self.mistakes_of_routing(self.port)
        told = [*(self.command or ()), *(self.entrypoint or ())]
        taken = [m.target for m in self.mounts] + [v.target for v in self.volumes]
        mistakes += file_mistakes(self.files, told, taken)
        texts = [*self.env.values(), *(file.content or "" for file in self.files)]
        if sum(map(templates.references, texts)) > MOST_REFERENCES:
            mistakes.append(f"env and files name secrets more than {MOST_REFERENCES} times")
        if self.image is None and self.command is None:
            mistakes.append("needs an image, or a command to run as a plain process")
        if self.port is None and (self.health or self.host_port):
            mistakes.append("health and host_port need a port")
        if self.image is None and self.user:
            mistakes.append("user needs an image: a plain process runs as the worker's user")
        if self.host_port is not None and self.image is None and self.host_port != self.port:
            mistakes.append("a plain process listens on host_port itself: give the same port")
        if self.image is None and (fields := self.needing_an_image()):
            needs = "needs" if len(fields) == 1 else "need"
            mistakes.append(f"{', '.join(fields)} {needs} an image: only containers have that")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def spec(self) -> ServiceSpec:
        memory = self.resources.memory
        return ServiceSpec(
            image=self.image or "",
            command=tuple(self.command or ()),
            env=self.env,
            port=self.port or 0,
            host_port=self.host_port or 0,
            published=self.is_routed,
            health=self.health or "",
            memory_bytes=memory_bytes(memory) if memory else 0,
            cpu_millis=round((self.resources.cpu or 0) * 1000),
            internal=self.internal,
            constraints=self.placement.constraints(self.resources.reserve),
            pull_policy=self.pull_policy,
            stop_grace_seconds=self.stop_grace_seconds,
            stop_delay_seconds=self._stop_delay(),
            user=self.user,
            workdir=self.workdir,
            stop_signal=self.stop_signal,
            log_bytes=self.log.size_bytes,
            log_files=self.log.max_files or 0,
            container=self.container(),
            fence=bool(self.volumes) if self.fence is None else self.fence,
            startup=self.startup.probe(STARTUP_FAILURES) if self.startup else None,
            readiness=self.readiness.probe() if self.readiness else None,
            liveness=self.liveness.probe() if self.liveness else None,
            files=tuple(file.row() for file in self.files),
        )

    def policy(self) -> Policy:
        rollout = self.deploy.rollout()
        needs = dependencies(self.depends_on)
        reconnect = Reconnect(self.reconnect)
        return Policy(self.drain.max_parallel, reconnect, rollout, needs, self.routing())

    def _stop_delay(self) -> float:
        if self.stop_delay_seconds is not None:
            return self.stop_delay_seconds
        return LEAVING_SECONDS if self.is_routed else 0.0

    def secrets(self) -> list[str]:
        """The keys of all secrets that it needs, sorted."""
        return sorted(self.spec().secret_keys)


class DeployIn(StrictModel):
    services: Annotated[list[ServiceIn], Field(min_length=1, max_length=MAX_SERVICES)]
    message: Annotated[
        str,
        Field(
            max_length=500,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="Kept with the revisions that this makes.",
        ),
    ] = ""

    @model_validator(mode="after")
    def _check_duplicates(self) -> "DeployIn":
        seen: set[tuple[str, str]] = set()
        for item in self.services:
            if (item.project, item.name) in seen:
                raise ValueError(f"service {item.name} of project {item.project} is given twice")
            seen.add((item.project, item.name))
        return self


class DeployQuery(QueryModel):
    """`timeout` in seconds."""

    wait: Annotated[bool, Field(description="Answer when each outcome is known; else 202.")] = True
    timeout: Annotated[float, Field(gt=0, le=3600, description="Seconds.")] = 120.0
    plan: Annotated[bool, Field(description="Do nothing, and say what would be done.")] = False


class ScaleIn(StrictModel):
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)]


class ProjectQuery(QueryModel):
    project: Annotated[
        str | None, Field(description="Needed where several projects have the name.")
    ] = None


class StopQuery(ProjectQuery):
    purge: Annotated[bool, Field(description="Forget it, instead of keeping it stopped.")] = False
    force: Annotated[bool, Field(description="Forget it although others depend on it.")] = False


class PurgeQuery(QueryModel):
    purge: Annotated[bool, Field(description="Forget it, instead of keeping it stopped.")] = False


class LogsQuery(ProjectQuery):
    """`tail` None: 100 lines, or all since `since`. `beat` in seconds; see `logs.Asked`."""

    tail: Annotated[
        int | None, Field(ge=0, le=MAX_LINES, description="So many last lines of each replica.")
    ] = None
    follow: Annotated[bool, Field(description="Go on with what is written later.")] = False
    since: Annotated[
        Since | None,
        Field(description="`10m` (s, m, h, d), or a time such as 2026-01-31T12:00:00Z."),
    ] = None
    replica: Annotated[
        str | None,
        Field(
            pattern=r"^([1-9][0-9]{0,4}|[0-9a-f]{16})$",
            description="A replica's number, or the id of a task.",
        ),
    ] = None
    previous: Annotated[
        bool,
        Field(
            description="Of the last replicas that are gone; goes with neither follow nor since."
        ),
    ] = False
    beat: Annotated[
        float | None,
        Field(ge=0.1, le=60, description="A NUL byte comes after so many silent seconds."),
    ] = None

    @model_validator(mode="after")
    def _has_ended(self) -> "LogsQuery":
        if self.previous and (self.follow or self.since is not None):
            raise ValueError(
                "what is gone prints nothing any more: `previous` goes with `tail` only"
            )
        return self

    @property
    def lines(self) -> int:
        if self.tail is not None:
            return self.tail
        return DEFAULT_LINES if self.since is None else MAX_LINES
