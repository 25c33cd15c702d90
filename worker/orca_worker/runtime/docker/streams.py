"""The engine's long answers: the event stream, a pull's progress, a container's output.

Each is read in a thread and can be closed from the loop at any moment: closing shuts the socket
down, which is the only thing that wakes a blocked reader.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import requests
from docker.errors import create_api_error_from_http_exception

from orca_worker.runtime.docker.engine import CALL_SECONDS, Engine
from orca_worker.runtime.port import RuntimeRefusal

_FRAME_HEADER = struct.Struct(">BxxxI")


class Closable:
    """A streaming answer that may be closed from another thread, before or while it is read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def hold(self, response: requests.Response) -> bool:
        """Take the answer over; False: closed meanwhile, and so is the answer."""
        with self._lock:
            self._response = response
            if self._closed:
                response.close()
            return not self._closed

    def close(self) -> None:
        """Wake the reader, whose own `release` lets go of the socket."""
        with self._lock:
            self._closed = True
            if self._response is not None:
                _shut_down(self._response)

    def release(self) -> None:
        """Called by the reader when it is done."""
        with self._lock:
            response, self._response = self._response, None
            if response is not None:
                response.close()


def _shut_down(response: requests.Response) -> None:
    """End a read from outside; neither requests nor urllib3 has a way to."""
    reader = getattr(getattr(response.raw, "_fp", None), "fp", None)
    sock = getattr(getattr(reader, "raw", None), "_sock", None)
    if isinstance(sock, socket.socket):
        with contextlib.suppress(OSError):  # the other side was faster
            sock.shutdown(socket.SHUT_RDWR)


def open_stream(
    client: docker.APIClient,
    method: str,
    path: str,
    *,
    params: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    read_seconds: float | None = None,
) -> requests.Response:
    """Send a request whose answer is read bit by bit. Raises APIError like the client's own."""
    response = client.request(
        method,
        f"{client.base_url}/v{client.api_version}{path}",
        params={key: value for key, value in params.items() if value is not None},
        headers=dict(headers or {}),
        stream=True,
        timeout=(CALL_SECONDS, read_seconds),
    )
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        with response:
            raise create_api_error_from_http_exception(error) from error
    return response


def json_lines(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a streaming answer, as they come."""
    for line in response.iter_lines(chunk_size=None):
        if line.strip():
            yield json.loads(line)


def frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The payloads of the engine's multiplexed output, both streams in their order."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        yield from take_frames(buffer)


def take_frames(buffer: bytearray) -> Iterator[bytes]:
    """Take the payloads of all frames that are whole out of the buffer."""
    while len(buffer) >= _FRAME_HEADER.size:
        _, size = _FRAME_HEADER.unpack_from(buffer)
        end = _FRAME_HEADER.size + size
        if len(buffer) < end:
            return
        payload = bytes(buffer[_FRAME_HEADER.size : end])
        del buffer[:end]
        yield payload


class EndedFeed:
    """The task ids in the engine's `die` events, moved from a reading thread to the loop.

    The queue is bounded. When it is full the feed is given up as lost: the caller then lists, which
    tells it more than the events it did not read.
    """

    def __init__(self, engine: Engine, labels: list[str], *, size: int = 1024) -> None:
        self._engine = engine
        self._labels = set(labels)
        self._filters = json.dumps(
            {"type": ["container"], "event": ["die", "died"], "label": labels}
        )
        self._queue: asyncio.Queue[str | RuntimeRefusal] = asyncio.Queue(size)
        self._stream = Closable()
        self._loop = asyncio.get_running_loop()
        self._lost: RuntimeRefusal | None = None
        self.opened = asyncio.Event()

    async def read(self) -> None:
        """Read until closed or lost. Never raises: what happened comes out of `__anext__`."""
        await self._engine.env.threads.run(self._read_blocking)
        self.opened.set()

    def close(self) -> None:
        """Make `read` end now."""
        self._stream.close()

    def __aiter__(self) -> "EndedFeed":
        return self

    async def __anext__(self) -> str:
        if self._lost is not None and self._queue.empty():
            raise self._lost
        item = await self._queue.get()
        if isinstance(item, RuntimeRefusal):
            raise item
        return item

    def check(self) -> None:
        """Raise if the stream could not even be opened."""
        if self._lost is not None:
            raise self._lost

    def _read_blocking(self) -> None:
        try:
            self._engine.blocking(self._follow)
            self._on_loop(RuntimeRefusal("the container engine ended its event stream"))
        except RuntimeRefusal as refusal:
            self._on_loop(refusal)
        finally:
            self._stream.release()

    def _follow(self, client: docker.APIClient) -> None:
        # The engine subscribes just after it has sent the headers; asking for the last seconds too
        # closes that gap. Old events do no harm: an id means "look".
        since = int(self._engine.env.now()) - 2
        response = open_stream(
            client, "GET", "/events", params={"filters": self._filters, "since": since}
        )
        if not self._stream.hold(response):
            return
        self._loop.call_soon_threadsafe(self.opened.set)
        for event in json_lines(response):
            attributes = event.get("Actor", {}).get("Attributes", {})
            said = {f"{key}={value}" for key, value in attributes.items()}
            if (task := attributes.get("orca.task")) and self._labels <= said:
                self._on_loop(task)

    def _on_loop(self, item: str | RuntimeRefusal) -> None:
        if not self._stream.closed:
            self._loop.call_soon_threadsafe(self._deliver, item)

    def _deliver(self, item: str | RuntimeRefusal) -> None:
        if isinstance(item, RuntimeRefusal):
            self._lost = self._lost or item
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self._lost = RuntimeRefusal("more tasks ended than were looked at")
