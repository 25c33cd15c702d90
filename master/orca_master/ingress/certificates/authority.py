"""Who signs certificates, as the controller sees it; what it says when it does not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Refused(Exception):
    """`kind`: of its problem document (RFC 8555, 6.7), or empty; `wait_seconds`: what it asks for."""

    def __init__(self, reason: str, *, kind: str = "", wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True)
class Account:
    """`key`: PEM; `url`: empty before it is registered; `ca`: PEM, who is trusted to be the directory."""

    directory: str
    key: bytes
    url: str
    ca: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """What is to be answered at `/.well-known/acme-challenge/` + token."""

    token: str
    answer: str


class Session(Protocol):
    """One order, step by step. Every verb blocks for one or few requests; each raises Refused."""

    def register(self, email: str) -> str:
        """Have the account, with this address (empty: none). Its URL."""
        ...

    def begin(self, domain: str, key: bytes) -> Challenge | None:
        """`key`: of the certificate, PEM. None: the domain has been proved already."""
        ...

    def answer(self) -> None:
        """The challenge can be looked at now."""
        ...

    def is_proved(self) -> bool: ...

    def finalize(self) -> None: ...

    def chain(self) -> str | None:
        """PEM, the domain's own first. None: not yet."""
        ...

    def close(self) -> None: ...


Open = Callable[[Account], Session]
