"""The one tree of errors that a caller of Orca can see, named after what went wrong for him.

    OrcaError
    ├── Refusal            the caller asked for something that cannot be done as asked
    │   ├── Invalid            400  the request itself is wrong; carries every problem found
    │   │   └── Malformed      400  its body cannot be read at all
    │   ├── Unauthenticated    401
    │   ├── Forbidden          403
    │   ├── NotFound           404
    │   ├── MethodNotAllowed   405
    │   ├── Conflict           409  not in the present state of things
    │   │   ├── Ambiguous      409  a bare name fits in several projects
    │   │   └── NeedsNewerMasters  409  not before every master is upgraded
    │   ├── NotAcceptable      406
    │   ├── TooSlow            408  the request did not come in time
    │   ├── TooLarge           413
    │   ├── UnsupportedMediaType  415
    │   ├── ExpectationFailed  417
    │   ├── KeyReused          422  an Idempotency-Key that was used for another request
    │   ├── UpgradeRequired    426  only a WebSocket is spoken here
    │   └── RateLimited        429  too many requests in this minute
    └── Trouble            Orca cannot do it now; asking again later may help
        ├── NotLeader          503  nothing was changed
        ├── NotReady           503  nothing was changed
        ├── OutcomeUnknown     504  it may or may not have been done
        └── StorageFull        507  nothing was changed

Raise where it is known, translate at the border (`http`), nowhere in between. Messages say how to
succeed. The status is the HTTP status in every dialect unless the dialect's document says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class OrcaError(Exception):
    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def headers(self) -> Mapping[str, str]:
        """What HTTP says of it besides the body."""
        return {}


class Refusal(OrcaError):
    status = 400
    code = "REFUSED"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a request: where (a dotted path such as `services.0.port`) and a sentence."""

    field: str
    message: str
    code: str = "INVALID"


class Invalid(Refusal):
    status = 400
    code = "INVALID"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems)
        )


class Malformed(Invalid):
    code = "MALFORMED"


class Unauthenticated(Refusal):
    status = 401
    code = "UNAUTHENTICATED"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(Refusal):
    status = 403
    code = "FORBIDDEN"


class NotFound(Refusal):
    status = 404
    code = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} not found: {name}")
        self.kind = kind
        self.name = name


class MethodNotAllowed(Refusal):
    status = 405
    code = "METHOD_NOT_ALLOWED"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"{method} is not possible here; possible: {self.allowed}")

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Allow": self.allowed}


class Conflict(Refusal):
    status = 409
    code = "CONFLICT"


class Ambiguous(Conflict):
    code = "AMBIGUOUS"

    def __init__(self, kind: str, name: str, projects: Sequence[str]) -> None:
        listed = ", ".join(projects)
        super().__init__(
            f"{kind} {name} exists in several projects ({listed}): say which with ?project="
        )
        self.projects = tuple(projects)


class NeedsNewerMasters(Conflict):
    code = "NEEDS_NEWER_MASTERS"

    def __init__(self, what: str, needed: int, current: int) -> None:
        super().__init__(
            f"{what} needs all masters on version {needed}, and the oldest is on version {current}:"
            " upgrade every master, then ask again"
        )


class NotAcceptable(Refusal):
    status = 406
    code = "NOT_ACCEPTABLE"


class TooLarge(Refusal):
    status = 413
    code = "TOO_LARGE"


class TooSlow(Refusal):
    status = 408
    code = "TOO_SLOW"


class UnsupportedMediaType(Refusal):
    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class ExpectationFailed(Refusal):
    status = 417
    code = "EXPECTATION_FAILED"


class KeyReused(Refusal):
    status = 422
    code = "KEY_REUSED"


class UpgradeRequired(Refusal):
    status = 426
    code = "UPGRADE_REQUIRED"


class RateLimited(Refusal):
    """`headers` say how much of which limit is left, and when to ask again."""

    status = 429
    code = "RATE_LIMITED"

    def __init__(self, message: str, *, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self._headers = headers

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers


class Trouble(OrcaError):
    status = 503
    code = "UNAVAILABLE"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": "1"} if self.status == 503 else {}


class NotLeader(Trouble):
    code = "NOT_LEADER"


class NotReady(Trouble):
    code = "NOT_READY"


class OutcomeUnknown(Trouble):
    status = 504
    code = "OUTCOME_UNKNOWN"


class StorageFull(Trouble):
    status = 507
    code = "STORAGE_FULL"
