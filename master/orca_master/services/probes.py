"""The part of the payload that says how a replica is asked whether it is well."""

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, Field, WithJsonSchema

from orca_master.http.route import StrictModel
from orca_master.tasks.model import Probe

_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,2047}|/", re.ASCII)
PATH_PATTERN = r"^/([A-Za-z0-9._~!$&'()*+,;=:@%?-][A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,2046})?$"
HEADER_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"
VALUE_PATTERN = r"^[\x20-\x7e]{0,1000}$"
STARTUP_FAILURES = 30
"""Of a startup check: with the interval, so long a start may take (300 s)."""


def check_path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError("must be a path such as /healthz")
    return value


Path = Annotated[
    str, AfterValidator(check_path), WithJsonSchema({"type": "string", "pattern": PATH_PATTERN})
]
Header = Annotated[str, Field(pattern=HEADER_PATTERN)]
Value = Annotated[str, Field(pattern=VALUE_PATTERN)]
Argument = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]


def _seconds(name: str, was: str) -> AliasChoices:
    """Under our name, and under the one that manifests had before."""
    return AliasChoices(name, was)


class ProbeIn(StrictModel):
    """One of `path`, `tcp`, `command` and `grpc`."""

    path: Annotated[Path | None, Field(description="HTTP: well if it answers 200 to 399.")] = None
    tcp: Annotated[bool, Field(description="Well if its port takes a connection.")] = False
    command: Annotated[
        list[Argument] | None,
        Field(min_length=1, max_length=64, description="Runs inside; well if it exits with 0."),
    ] = None
    grpc: Annotated[bool, Field(description="Well if grpc.health.v1.Health says SERVING.")] = False
    service: Annotated[
        str, Field(max_length=200, description="With `grpc`: which; else the server as a whole.")
    ] = ""
    headers: Annotated[
        dict[Header, Value], Field(max_length=20, description="Sent with `path`.")
    ] = Field(default_factory=dict)
    port: Annotated[
        int | None, Field(ge=1, le=65535, description="That it listens on; else the service's.")
    ] = None
    interval_seconds: Annotated[
        float,
        Field(ge=0.1, le=3600, validation_alias=_seconds("interval_seconds", "interval_secs")),
    ] = 10.0
    timeout_seconds: Annotated[
        float,
        Field(ge=0.1, le=60, validation_alias=_seconds("timeout_seconds", "timeout_secs")),
    ] = 3.0
    initial_delay_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            validation_alias=_seconds("initial_delay_seconds", "initial_delay_secs"),
            description="Before the first one. Seldom needed: failures of a start do no harm.",
        ),
    ] = 0.0
    success_threshold: Annotated[
        int, Field(ge=1, le=100, description="So many in a row: ready.")
    ] = 1
    failure_threshold: Annotated[
        int | None,
        Field(ge=1, le=1000, description="So many in a row: not well. Else 3; 30 of `startup`."),
    ] = None

    def mistakes(self, kind: str, *, service_port: int | None) -> Iterator[str]:
        """What does not fit together, each as a sentence."""
        ways = [bool(self.path), self.tcp, bool(self.command), self.grpc]
        if sum(ways) != 1:
            yield f"{kind} needs one of path, tcp, command and grpc"
        if not self.command and not (self.port or service_port):
            yield f"{kind} needs a port, its own or the service's"
        if self.command and self.port:
            yield f"{kind}: port has no meaning with command"
        if self.service and not self.grpc:
            yield f"{kind}: service needs grpc"
        if self.headers and not self.path:
            yield f"{kind}: headers need path"
        if kind != "readiness" and self.success_threshold != 1:
            yield f"{kind}: success_threshold is for readiness"

    def probe(self, failures: int = 3) -> Probe:
        """`failures`: the threshold where none is given."""
        return Probe(
            path=self.path or "",
            interval_seconds=self.interval_seconds,
            timeout_seconds=self.timeout_seconds,
            failure_threshold=self.failure_threshold or failures,
            success_threshold=self.success_threshold,
            delay_seconds=self.initial_delay_seconds,
            port=self.port or 0,
            tcp=self.tcp,
            grpc=self.grpc,
            service=self.service,
            command=tuple(self.command or ()),
            headers=self.headers,
        )


class ProbesIn(StrictModel):
    """The fields of a service that say when it is well."""

    health: Annotated[
        Path | None,
        Field(
            description="Over HTTP: `readiness` and `liveness` in one, for whichever is not given."
        ),
    ] = None
    startup: Annotated[
        ProbeIn | None,
        Field(description="The others begin once it has passed; a replica that fails it ends."),
    ] = None
    readiness: Annotated[
        ProbeIn | None, Field(description="A replica is ready, and in service, while it passes.")
    ] = None
    liveness: Annotated[
        ProbeIn | None,
        Field(description="A replica that was ready and fails it is ended and replaced."),
    ] = None

    def mistakes_of_probes(self, port: int | None) -> list[str]:
        given = {"startup": self.startup, "readiness": self.readiness, "liveness": self.liveness}
        return [
            mistake
            for kind, probe in given.items()
            if probe is not None
            for mistake in probe.mistakes(kind, service_port=port)
        ]
