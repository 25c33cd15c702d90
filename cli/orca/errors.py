"""What can go wrong for who uses the client; apart from it, for it takes long to load."""

from collections.abc import Mapping, Sequence


class OrcaError(Exception):
    """The text is for people. `status` is the HTTP status, 0 when there was none."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CannotReach(OrcaError):
    """No master answered."""


class NotAllowed(OrcaError):
    """The token is missing, wrong (401), or lacks a permission (403)."""


class Refused(OrcaError):
    """The cluster refused or failed; `problems` lists each mistake of an invalid request."""

    def __init__(
        self, message: str, *, status: int, problems: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(message, status=status)
        self.problems = list(problems)
