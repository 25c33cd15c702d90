"""`domain`, `routes` and `ingress` in the payload of a service: how requests from outside reach it."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from orca_master.http.route import StrictModel
from orca_master.services.rollouts.payload import Duration, seconds
from orca_master.services.routing.matching import Header, MatchIn
from orca_master.services.routing.model import Limits, Match, Routing
from orca_master.services.where import size_bytes

MOST_DOMAINS = 50
MOST_PATHS = 50
DOMAIN_PATTERN = r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{1,63}$"
PATH_PATTERN = r"^/([A-Za-z0-9._~!$&'()*+,;=:@-]+/?)*\*?$"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+", re.ASCII)


def check_domain(value: str) -> str:
    labels = value.split(".")
    if labels[0] == "*":
        labels = labels[1:]
    fits = len(value) <= 253 and len(labels) >= 2 and all(_LABEL.fullmatch(x) for x in labels)
    if not fits or labels[-1].isdigit():
        raise ValueError("must be a lower-case domain name such as app.example.com")
    return value


def path_of(value: str) -> str:
    """The prefix without a trailing `*` or `/`; `/` for all. Raises ValueError."""
    prefix = value[:-1] if value.endswith("/*") else value
    segments = prefix.strip("/").split("/")
    is_path = prefix.startswith("/") and len(prefix) <= 1024
    if prefix == "/":
        return "/"
    if not is_path or not all(_SEGMENT.fullmatch(x) and x not in (".", "..") for x in segments):
        raise ValueError("must be a path such as /api or /api/*: no query, no empty segment")
    return "/" + "/".join(segments)


def _check_path(value: str) -> str:
    path_of(value)
    return value


def _check_body(value: str) -> str:
    if not 0 < size_bytes(value) < 1 << 32:
        raise ValueError("must be at least a byte, and below 4Gi")
    return value


Domain = Annotated[
    str,
    AfterValidator(check_domain),
    WithJsonSchema({"type": "string", "maxLength": 253, "pattern": DOMAIN_PATTERN}),
]
Path = Annotated[
    str,
    AfterValidator(_check_path),
    WithJsonSchema({"type": "string", "pattern": r"^/([a-z]{1,20}(/[a-z]{1,20}){0,3}(/\*)?)?$"}),
]
Size = Annotated[
    str,
    AfterValidator(_check_body),
    WithJsonSchema(
        {"type": "string", "pattern": "^[1-9][0-9]{0,5}(|Ki|Mi)$", "examples": ["10Mi"]}
    ),
]


class StickyIn(StrictModel):
    """Who shows the same gets the same replica. A cookie is set by the ingress."""

    header: Header | None = None
    cookie: Header | None = None

    @model_validator(mode="after")
    def _check(self) -> "StickyIn":
        if (self.header is None) == (self.cookie is None):
            raise ValueError("give header or cookie")
        return self

    def row(self) -> Match:
        return MatchIn(header=self.header, cookie=self.cookie).row()


class RateIn(StrictModel):
    """Of one client's address, on each node. More is answered with 429."""

    requests_per_second: Annotated[int, Field(ge=1, le=100_000)]
    burst: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="At once; else as many as in a second.")
    ] = None


class IngressIn(StrictModel):
    """How the ingress treats the service's requests."""

    strip_prefix: Annotated[
        bool, Field(description="The service is asked for what comes after the path of the route.")
    ] = False
    protocol: Annotated[
        str,
        Field(
            pattern="^(http|http2)$",
            description="What the service speaks: `http` is HTTP/1.1, `http2` HTTP/2 without TLS, as gRPC.",
        ),
    ] = "http"
    idle_timeout: Annotated[
        Duration, Field(description="So long nothing may move, either way; 0: for ever.")
    ] = 60.0
    timeout: Annotated[
        Duration, Field(description="Until the answer must be whole; 0: as long as it moves.")
    ] = 0.0
    max_body: Annotated[
        Size | None,
        Field(
            description="Of a request; more is answered with 413. The body is held until it is whole."
        ),
    ] = None
    rate_limit: RateIn | None = None
    sticky: StickyIn | None = None
    security_headers: Annotated[
        bool, Field(description="Add those that the service does not set itself.")
    ] = True
    hsts: Annotated[
        bool, Field(description="Tell browsers to come by HTTPS only from now on (a year).")
    ] = False
    https_redirect: Annotated[
        bool, Field(description="From HTTP to HTTPS, where the domain has a certificate.")
    ] = True

    def limits(self) -> Limits:
        rate = self.rate_limit
        return Limits(
            idle_seconds=seconds(self.idle_timeout),
            timeout_seconds=seconds(self.timeout),
            most_body_bytes=size_bytes(self.max_body) if self.max_body else 0,
            requests_per_second=rate.requests_per_second if rate else 0,
            burst=(rate.burst or rate.requests_per_second) if rate else 0,
        )


class RoutedIn(StrictModel):
    """What a service says of the way to it."""

    domain: Annotated[
        Domain | None,
        Field(description="Requests for this name reach the service, through any node's ingress."),
    ] = None
    domains: Annotated[
        list[Domain],
        Field(
            max_length=MOST_DOMAINS, description="Or several; `*.example.com` is all below that."
        ),
    ] = Field(default_factory=list)
    routes: Annotated[
        list[Path],
        Field(
            min_length=1,
            max_length=MOST_PATHS,
            description="Only these paths and what is below them. Of several services under a domain the"
            " one with the longest gets the request.",
        ),
    ] = Field(default_factory=lambda: ["/*"])
    ingress: IngressIn = IngressIn()

    @property
    def is_routed(self) -> bool:
        return bool(self.domain or self.domains)

    def mistakes_of_routing(self, port: int | None) -> list[str]:
        mistakes = []
        if self.domain is not None and self.domains:
            mistakes.append("give domain or domains, not both")
        if len(set(self.domains)) < len(self.domains):
            mistakes.append("a domain is given twice")
        if len(set(map(path_of, self.routes))) < len(self.routes):
            mistakes.append("a route is given twice")
        if self.is_routed and port is None:
            mistakes.append("a domain needs a port: what the program listens on")
        if not self.is_routed and (self.routes != ["/*"] or self.ingress != IngressIn()):
            mistakes.append("routes and ingress need a domain")
        return mistakes

    def routing(self) -> Routing:
        given = self.ingress
        return Routing(
            domains=tuple(self.domains) or ((self.domain,) if self.domain else ()),
            paths=tuple(map(path_of, self.routes)),
            strip=given.strip_prefix,
            http2=given.protocol == "http2",
            sticky=given.sticky.row() if given.sticky else None,
            limits=given.limits(),
            security_headers=given.security_headers,
            hsts=given.hsts,
            redirect=given.https_redirect,
        )
