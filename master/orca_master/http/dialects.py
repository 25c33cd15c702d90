"""Dialects: how a family of routes spells success and errors. The five API documents need four
(API documents 000 and 001 share one, 003, 002, 004); the cluster's (002) is here first."""

from typing import Protocol

from orca_master.errors import Invalid, OrcaError


class Dialect(Protocol):
    """One object per family; chosen per route, and by path prefix where no route matches."""

    name: str

    def success(self, value: object) -> object:
        """The JSON value to send for a handler's result."""
        ...

    def error(self, error: OrcaError, *, request_id: str) -> object:
        """The JSON value to send for an error."""
        ...


class ClusterDialect:
    """API document 002: bare JSON; errors are `{"error": "sentence"}`, plus what helps a program."""

    name = "cluster"

    def success(self, value: object) -> object:
        return value

    def error(self, error: OrcaError, *, request_id: str) -> object:
        body: dict[str, object] = {
            "error": error.message,
            "code": error.code,
            "request_id": request_id,
        }
        if isinstance(error, Invalid):
            body["problems"] = [{"field": p.field, "message": p.message} for p in error.problems]
        return body


CLUSTER = ClusterDialect()


def for_path(path: str) -> Dialect:
    """The dialect of a path that no route matches."""
    return CLUSTER
