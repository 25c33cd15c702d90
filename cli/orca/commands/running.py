"""What every command needs: a client for the chosen cluster, and errors as exit codes."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from orca import show
from orca.context import Target, find_target
from orca.errors import CannotReach, NotAllowed, OrcaError, Refused

if TYPE_CHECKING:
    from orca.client import Client  # slow to load

T = TypeVar("T")

REFUSED_EXIT = 1
UNREACHED_EXIT = 3
NOT_ALLOWED_EXIT = 4


def with_client(work: "Callable[[Client], Awaitable[T]]") -> T:
    """Run the work with a client; on an error say what to do next and leave with its exit code."""
    options = click.get_current_context().find_root().obj
    target = find_target(options["api"], options["token"], context=options["context"])

    from orca.client import Client

    async def run() -> T:
        async with Client(target.api, target.token) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except OrcaError as error:
        sys.exit(_explain(error, target))
    except KeyboardInterrupt:
        sys.exit(130)


def _explain(error: OrcaError, target: Target) -> int:
    if isinstance(error, CannotReach):
        show.error(str(error))
        if target.way_on:
            show.say(target.way_on, err=True)
        return UNREACHED_EXIT
    if isinstance(error, NotAllowed):
        show.error(str(error))
        if error.status == 401:
            click.echo("set ORCA_TOKEN; the first one is in the master's admin.token", err=True)
        return NOT_ALLOWED_EXIT
    if isinstance(error, Refused) and error.problems:
        for problem in error.problems:
            field = problem.get("field") or "request"
            show.error(f"{field}: {problem.get('message')}")
    else:
        show.error(re.sub(r"\?(project|replica)=", r"--\1", str(error)))
    return REFUSED_EXIT
