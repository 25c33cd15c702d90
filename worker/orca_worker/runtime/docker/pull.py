"""Images: is it here, may it be pulled, pull it once however many ask.

A pull has a deadline of its own and its own small bound, so that a slow registry keeps neither the
engine's other callers nor the thread pool busy.
"""

import asyncio
import socket
from functools import partial

import docker
from docker import auth
from docker.errors import APIError
from docker.utils import parse_repository_tag

from orca_proto.worker_pb2 import TaskSpec
from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.docker.errors import NotFound, engine_reason, pull_refusal, registry_of
from orca_worker.runtime.docker.streams import Closable, json_lines, open_stream
from orca_worker.runtime.port import RuntimeRefusal

PULLS_AT_ONCE = 3
# A registry that says nothing for this long has its name looked up, within the seconds after.
SILENT_SECONDS = 5.0
LOOKUP_SECONDS = 4.0


class Images:
    """The images of one engine."""

    def __init__(
        self, engine: Engine, *, pull_seconds: float, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self._engine = engine
        self._silent_seconds = silent_seconds
        self._pull_seconds = pull_seconds
        self._slots = asyncio.Semaphore(PULLS_AT_ONCE)
        self._under_way: dict[str, asyncio.Future[RuntimeRefusal | bool]] = {}

    async def prepare(self, spec: TaskSpec) -> None:
        """Make the image available as the policy says. Raises RuntimeRefusal."""
        image, policy = spec.image, spec.pull_policy or "missing"
        if policy not in ("missing", "always", "never"):
            raise RuntimeRefusal(
                f'pull policy "{policy}" is none of missing, always, never', permanent=True
            )
        if not image:
            raise RuntimeRefusal("a container needs an image", permanent=True)
        if policy != "always" and await self._is_here(image):
            return
        if policy == "never":
            raise RuntimeRefusal(
                f'image {image} is not on this node, and its pull policy "never" forbids to pull it'
            )
        await self._pull_once(image)

    async def _is_here(self, image: str) -> bool:
        try:
            await self._engine.call(lambda client: client.inspect_image(image))  # type: ignore[no-untyped-call]
        except NotFound:
            return False
        return True

    async def _pull_once(self, image: str) -> None:
        """Pull, or wait for the pull that is under way and share how it ends."""
        while (running := self._under_way.get(image)) is not None:
            outcome = await asyncio.shield(running)
            if isinstance(outcome, RuntimeRefusal):
                raise RuntimeRefusal(outcome.reason, permanent=outcome.permanent)
            if outcome:
                return
        shared: asyncio.Future[RuntimeRefusal | bool] = asyncio.get_running_loop().create_future()
        self._under_way[image] = shared
        # What the others learn should this caller be cancelled: nothing, one of them goes on.
        outcome = False
        try:
            refusal = await self._pull(image)
            outcome = refusal or True
        finally:
            del self._under_way[image]
            shared.set_result(outcome)
        if refusal is not None:
            raise refusal

    async def _pull(self, image: str) -> RuntimeRefusal | None:
        pull = _Pull(self._engine, image, self._pull_seconds)
        try:
            async with (
                asyncio.timeout(self._pull_seconds),
                self._slots,
                asyncio.TaskGroup() as group,
            ):
                reading = group.create_task(self._engine.env.threads.run(pull.run))
                naming = group.create_task(self._unknown_name(pull))
                await asyncio.wait({reading, naming}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done() or (refusal := await naming) is None:
                    refusal = await reading
                reading.cancel()
                naming.cancel()
        except TimeoutError:
            return RuntimeRefusal(
                f"image {image} could not be pulled within {self._pull_seconds:g} s"
            )
        finally:
            pull.stream.close()
        return refusal

    async def _unknown_name(self, pull: "_Pull") -> RuntimeRefusal | None:
        """Why waiting for a silent registry is no use: its name does not resolve here either.

        The engine's own look-up may take most of a minute. Only asked of an engine on this machine,
        and not for the default registry, which an engine may be told to reach through a mirror.
        """
        await asyncio.sleep(self._silent_seconds)
        host = registry_of(pull.image)
        if pull.has_answered or host == "docker.io" or not self._engine.url.startswith("unix:"):
            return None
        name = host.rpartition(":")[0] or host
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                await self._engine.env.threads.run(partial(socket.getaddrinfo, name, None))
        except (OSError, TimeoutError) as error:
            why = str(error) or "no name server answered"
            return RuntimeRefusal(f"registry {host} cannot be reached: lookup {name}: {why}")
        return None


class _Pull:
    """One pull, run in a thread; closing `stream` makes the engine stop it."""

    def __init__(self, engine: Engine, image: str, seconds: float) -> None:
        self.image = image
        self.stream = Closable()
        self.has_answered = False
        self._engine = engine
        self._seconds = seconds

    def run(self) -> RuntimeRefusal | None:
        """Pull to the end and say what went wrong."""
        try:
            return self._engine.blocking(self._read)
        except RuntimeRefusal as refusal:
            return refusal
        finally:
            self.stream.release()

    def _read(self, client: docker.APIClient) -> RuntimeRefusal | None:
        repository, tag = parse_repository_tag(self.image)
        registry, _ = auth.resolve_repository_name(repository)
        header = auth.get_config_header(client, registry)
        try:
            response = open_stream(
                client,
                "POST",
                "/images/create",
                params={"fromImage": repository, "tag": tag or "latest"},
                headers={"X-Registry-Auth": header.decode()} if header else None,
                read_seconds=self._seconds,
            )
        except APIError as error:
            return pull_refusal(self.image, engine_reason(error))
        self.has_answered = True
        if not self.stream.hold(response):
            return RuntimeRefusal(f"the pull of image {self.image} was given up")
        for progress in json_lines(response):
            # The status was sent before the work began: a failure is one more line of progress.
            if reason := progress.get("error"):
                return pull_refusal(self.image, str(reason))
        return None
