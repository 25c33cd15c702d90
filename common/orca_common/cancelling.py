"""A cancellation that must not be lost, and one that is meant."""

import asyncio
from collections.abc import Callable, Coroutine


def go_on_unless_cancelled() -> None:
    """To be called where the failures of a task group were caught whose body ends by raising, too.

    Before Python 3.13 a group that fails in the very moment in which it is cancelled raises its
    failures only, and whoever catches them goes on as if nobody had asked him to end. (A group that
    is left normally and fails then leaves a mark on Python 3.11 that looks the same.) Raises
    CancelledError.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Ended(Exception):
    """One of the works has."""


Work = Callable[[], Coroutine[object, object, object]]


async def until_one_ends(first: Work, *others: Work) -> None:
    """Run these side by side; when one ends the others are cancelled. Raises what that one raised."""
    failures: list[Exception] = []

    async def run(work: Work) -> None:
        try:
            await work()
        except Exception as error:
            failures.append(error)
        raise _Ended

    try:
        async with asyncio.TaskGroup() as group:
            for work in others:
                group.create_task(run(work))
            await run(first)
    except* _Ended:
        go_on_unless_cancelled()
    if failures:
        raise failures[0]
