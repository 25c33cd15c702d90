"""The client for programs without asyncio: each method waits for its answer.

A thread of its own runs the asynchronous client, so this works inside of a running event loop, too
(which it then holds up). Made of `Client`'s own methods, so the two cannot differ.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from orca.client import Client

P = ParamSpec("P")
T = TypeVar("T")


class _Waits(Generic[P, T]):
    """A method of `Client` that waits; with its parameters and its result, for type checkers too."""

    def __init__(self, method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, client: "SyncClient", owner: type["SyncClient"]) -> Callable[P, T]:
        def wait(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.wait(self._method(client.asynchronous, *args, **kwargs))

        return wait


class _Iterates(Generic[P, T]):
    """The same for a method that gives one thing after the other."""

    def __init__(self, method: Callable[Concatenate[Client, P], AsyncIterator[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, client: "SyncClient", owner: type["SyncClient"]) -> Callable[P, Iterator[T]]:
        def iterate(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return client.iterate(self._method(client.asynchronous, *args, **kwargs))

        return iterate


class SyncClient:
    """`Client` without `await`: use it as a context. One thread at a time.

    Methods, parameters, results and exceptions are those of `Client`.
    """

    health = _Waits(Client.health)
    deploy = _Waits(Client.deploy)
    plan = _Waits(Client.plan)
    status = _Waits(Client.status)
    placement = _Waits(Client.placement)
    scale = _Waits(Client.scale)
    promote = _Waits(Client.promote)
    rollback = _Waits(Client.rollback)
    pause = _Waits(Client.pause)
    resume = _Waits(Client.resume)
    restart = _Waits(Client.restart)
    start = _Waits(Client.start)
    revisions = _Waits(Client.revisions)
    deployments = _Waits(Client.deployments)
    stop = _Waits(Client.stop)
    stop_project = _Waits(Client.stop_project)
    stop_all = _Waits(Client.stop_all)
    logs = _Iterates(Client.logs)
    cluster_info = _Waits(Client.cluster_info)
    drain = _Waits(Client.drain)
    undrain = _Waits(Client.undrain)
    evict = _Waits(Client.evict)
    label_node = _Waits(Client.label_node)
    remove_node = _Waits(Client.remove_node)
    join_token = _Waits(Client.join_token)
    tokens = _Waits(Client.tokens)
    create_token = _Waits(Client.create_token)
    revoke_token = _Waits(Client.revoke_token)
    secrets = _Waits(Client.secrets)
    secret_usage = _Waits(Client.secret_usage)
    set_secret = _Waits(Client.set_secret)
    remove_secret = _Waits(Client.remove_secret)
    rotate_secrets_key = _Waits(Client.rotate_secrets_key)
    wrapping_key = _Waits(Client.wrapping_key)
    rotate_wrapping_key = _Waits(Client.rotate_wrapping_key)
    registries = _Waits(Client.registries)
    registry_login = _Waits(Client.registry_login)
    registry_logout = _Waits(Client.registry_logout)
    audit = _Waits(Client.audit)
    follow_audit = _Iterates(Client.follow_audit)
    events = _Iterates(Client.events)
    webhooks = _Waits(Client.webhooks)
    add_webhook = _Waits(Client.add_webhook)
    remove_webhook = _Waits(Client.remove_webhook)
    test_webhook = _Waits(Client.test_webhook)
    rotate_webhook = _Waits(Client.rotate_webhook)
    webhook_deliveries = _Waits(Client.webhook_deliveries)
    redeliver = _Waits(Client.redeliver)
    masters = _Waits(Client.masters)
    remove_master = _Waits(Client.remove_master)
    transfer = _Waits(Client.transfer)
    authority = _Waits(Client.authority)
    rotate_authority = _Waits(Client.rotate_authority)
    routes = _Waits(Client.routes)
    explain_route = _Waits(Client.explain_route)
    certificates = _Waits(Client.certificates)
    set_certificate = _Waits(Client.set_certificate)
    remove_certificate = _Waits(Client.remove_certificate)
    renew_certificate = _Waits(Client.renew_certificate)
    acme = _Waits(Client.acme)
    set_acme = _Waits(Client.set_acme)
    remove_acme = _Waits(Client.remove_acme)

    def __init__(self, api: str | Sequence[str], token: str | None = None) -> None:
        self.asynchronous = Client(api, token)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        assert self._loop is None, "the client is in use already"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="orca client", daemon=True
        )
        self._thread.start()
        self.wait(self.asynchronous.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self.wait(self.asynchronous.__aexit__(kind, error, traceback))
        self.wait(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result. Whoever interrupts the wait cancels the work."""
        if self._loop is None:
            work.close()
            raise RuntimeError("use the client as a context: with SyncClient(...) as client")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, parts: AsyncIterator[T]) -> Iterator[T]:
        """The parts as they come; who stops early closes the stream by closing the iterator."""
        try:
            while True:
                try:
                    part = self.wait(_next(parts))
                except StopAsyncIteration:
                    return
                yield part
        finally:
            if self._loop is not None:
                self.wait(_close(parts))


async def _next(parts: AsyncIterator[T]) -> T:
    return await anext(parts)


async def _close(parts: AsyncIterator[Any]) -> None:
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()
