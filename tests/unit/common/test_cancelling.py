"""Whoever is asked to end ends, also if something fails in that moment."""

import asyncio

import pytest

from orca_common.cancelling import go_on_unless_cancelled


class Failed(Exception):
    pass


async def fails_while_it_is_cancelled(*, checks: bool) -> str:
    async def fail(at_once: asyncio.Event) -> None:
        await at_once.wait()
        raise Failed

    at_once = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(at_once))
            await asyncio.sleep(0)
            me = asyncio.current_task()
            assert me is not None
            at_once.set()
            asyncio.get_running_loop().call_soon(me.cancel)
            await asyncio.sleep(10)
    except* Failed:
        if checks:
            go_on_unless_cancelled()
    return "went on"


async def test_a_failure_does_not_hide_a_cancellation() -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(fails_while_it_is_cancelled(checks=True))


async def test_a_failure_alone_goes_on() -> None:
    async def fail() -> None:
        raise Failed

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            raise Failed
    except* Failed:
        go_on_unless_cancelled()
