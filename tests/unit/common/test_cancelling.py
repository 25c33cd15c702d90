"""Whoever is asked to end ends, also if something fails in that moment."""

import asyncio

import pytest

from orca_common.cancelling import go_on_unless_cancelled, until_one_ends


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


async def nothing() -> None:
    pass


async def waits() -> None:
    await asyncio.sleep(60)


async def test_the_first_that_ends_ends_the_others() -> None:
    ended: list[str] = []

    async def sleeps() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    await until_one_ends(nothing, sleeps)
    await until_one_ends(sleeps, nothing)
    assert ended == ["cancelled"], "the other was not even begun"
    await asyncio.sleep(0)  # no cancellation is left over


async def test_what_the_first_raises_is_raised_bare() -> None:
    async def fails() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await until_one_ends(waits, fails)
    with pytest.raises(ValueError, match="its own"):
        await until_one_ends(fails, waits)


async def test_a_cancellation_of_them_all_is_not_lost() -> None:
    async def both() -> None:
        await until_one_ends(waits, waits)

    task = asyncio.ensure_future(both())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
