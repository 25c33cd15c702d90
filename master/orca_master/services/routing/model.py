"""How requests from outside reach a service. A change of it restarts nothing. Pure data."""

import msgspec

LEAVING_SECONDS = 2.0
"""Between the leaving of a replica that has a domain, and its stop signal, unless said otherwise."""


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """A header of a request, or a cookie; without `value` any."""

    name: str
    value: str = ""
    cookie: bool = False


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of the requests of one route; zero: none. `idle_seconds`: so long nothing may move, either way;
    `timeout_seconds`: until the answer is whole; `requests_per_second`: of one client's address, on each
    node, with so many more at once as `burst`."""

    idle_seconds: float = 60.0
    timeout_seconds: float = 0.0
    most_body_bytes: int = 0
    requests_per_second: int = 0
    burst: int = 0


class Routing(msgspec.Struct, frozen=True, omit_defaults=True):
    """`domains`: lower case, `*.example.com` for all below that. `paths`: prefixes of whole segments, `/`
    for all; with `strip` the service is asked for what comes after. `http2`: what it speaks. `sticky`: who
    shows the same header or cookie gets the same replica. `redirect`: to HTTPS, where there is a
    certificate."""

    domains: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("/",)
    strip: bool = False
    http2: bool = False
    sticky: Match | None = None
    limits: Limits = Limits()
    security_headers: bool = True
    hsts: bool = False
    redirect: bool = True
