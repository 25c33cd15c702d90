"""What the worker's logic needs of the outside besides runtimes: a way to a master, and probes."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from orca_proto import worker_pb2 as pb


class Link(Protocol):
    """An open stream to a master. `receive` returns None when the stream has ended."""

    async def send(self, message: pb.FromWorker) -> None: ...
    async def receive(self) -> pb.FromMaster | None: ...


class Refused(Exception):
    """A master does not want this worker; the text is its reason."""


class Removed(Exception):
    """The node was removed from the cluster, for good; the text says what to do."""


class Connector(Protocol):
    def connect(self) -> AbstractAsyncContextManager[Link]:
        """Open a stream to one of the masters, another one each time. Raises Refused, OSError."""
        ...

    def know(self, masters: list[str]) -> None:
        """These are all masters from now on (`host:port`)."""
        ...

    @property
    def master_count(self) -> int: ...


class Ingress(Protocol):
    """Serves the requests from outside that come to this node."""

    def apply(self, message: pb.Ingress) -> None:
        """Serve this from now on, or as soon as may be."""
        ...

    async def changes(self) -> pb.IngressStatus:
        """Wait until there is something to tell; the same is not told twice."""
        ...

    def forget_session(self) -> None:
        """Tell it all again: a new stream has begun."""
        ...


class Prober(Protocol):
    async def check(self, probe: pb.Probe, host: str, port: int) -> str | None:
        """Ask once, over the network, what listens there: None, or what is wrong with it."""
        ...


class Guardian(Protocol):
    """Ends fenced tasks when the node's lease ends, whatever has become of the worker. All verbs but
    `is_condemned` raise OSError; all may be repeated."""

    async def add(self, task_id: str, grip: Mapping[str, Any]) -> None:
        """Watch over this task from now on; `grip` (`Runtime.grip`) says how it is ended."""
        ...

    async def remove(self, task_id: str) -> None:
        """Nothing of the task is left."""
        ...

    async def extend(self, until: float) -> None:
        """The lease lasts until then, in seconds of the clock that runs in suspend."""
        ...

    async def is_condemned(self, task_id: str) -> bool:
        """Whether the lease has ended while it watched over the task: that may never run again."""
        ...

    async def tend(self) -> None:
        """See to it that it runs as long as there are tasks."""
        ...
