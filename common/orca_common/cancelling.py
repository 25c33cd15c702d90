"""A cancellation that must not be lost."""

import asyncio


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
