"""Images: is it here, may it be pulled, pull it once however many ask.

A pull has deadlines of its own and its own small bound, so that a slow registry keeps neither the
engine's other callers nor the thread pool busy.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import docker
from docker.errors import APIError
from docker.utils import parse_repository_tag

from orca_common.logs import get_logger
from orca_proto.worker_pb2 import RegistryAccount, TaskSpec
from orca_worker.runtime.docker.credentials import Credentials, Who
from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.docker.errors import NotFound, engine_reason, pull_refusal, registry_of
from orca_worker.runtime.docker.names import known_digest
from orca_worker.runtime.docker.policy import Pull, pull_of
from orca_worker.runtime.docker.streams import Closable, json_lines, open_stream
from orca_worker.runtime.port import RuntimeRefusal

PULLS_AT_ONCE = 3
IMAGES_REMEMBERED = 1000
LOOKUP_SECONDS = 4.0
# For how long a registry that did not answer is not asked for a newer image.
DOWN_SECONDS = 60.0

_Asking = tuple[str, bytes]
"""An image, and who asks for it."""

log = get_logger("images")


@dataclass(frozen=True, slots=True)
class PullLimits:
    """`quiet_seconds`: without any progress. `answer_seconds`: that a registry has to say whether
    there is a newer image than the one that is here. `silent_seconds`: after which the name of one
    that said nothing is looked up. `most_bytes`: as the registry announces them, packed."""

    seconds: float = 1800.0
    quiet_seconds: float = 90.0
    answer_seconds: float = 5.0
    silent_seconds: float = 5.0
    most_bytes: int = 20 << 30


class Images:
    """The images of one engine."""

    def __init__(
        self, engine: Engine, *, limits: PullLimits, credentials: Credentials | None = None
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._credentials = credentials or Credentials()
        self._slots = asyncio.Semaphore(PULLS_AT_ONCE)
        self._under_way: dict[_Asking, asyncio.Future[RuntimeRefusal | bool]] = {}
        self._down_until: dict[str, float] = {}
        self._digests: OrderedDict[str, list[str]] = OrderedDict()  # by the engine's id

    async def prepare(self, spec: TaskSpec, account: RegistryAccount | None = None) -> bool:
        """Make the image available as the policy says; whether it was pulled for that.

        `account`: who asks; None: whoever the node's own configuration says.

        Raises RuntimeRefusal.
        """
        image = spec.image
        if not image:
            raise RuntimeRefusal("a container needs an image", permanent=True)
        pull = pull_of(image, spec.pull_policy)
        is_here = pull is not Pull.ALWAYS and await self.id_of(image) is not None
        if is_here and pull is not Pull.FRESH:
            return False
        if pull is Pull.NEVER:
            raise RuntimeRefusal(
                f'image {image} is not on this node, and its pull policy "never" forbids to pull it'
            )
        if is_here:
            return await self._refresh(image, account)
        await self._pull_once(image, account, self._limits.quiet_seconds)
        return True

    async def id_of(self, image: str) -> str | None:
        """The engine's id of an image that is here, else None. Raises RuntimeRefusal."""
        try:
            answer: dict[str, Any] = await self._engine.call(
                lambda client: client.inspect_image(image)  # type: ignore[no-untyped-call]
            )
        except NotFound:
            return None
        image_id = str(answer["Id"])
        self._digests[image_id] = answer.get("RepoDigests") or []
        self._digests.move_to_end(image_id)
        if len(self._digests) > IMAGES_REMEMBERED:
            self._digests.popitem(last=False)
        return image_id

    async def digest_of(self, image_id: str, image: str) -> str:
        """Under which the registry of `image` has the image with this id; empty: it came from none.

        Raises RuntimeRefusal.
        """
        if image_id not in self._digests:
            await self.id_of(image_id)
        return known_digest(self._digests.get(image_id, ()), image)

    async def _refresh(self, image: str, account: RegistryAccount | None) -> bool:
        """The newer image if the registry has one; whatever goes wrong, the one here will do."""
        registry, now = registry_of(image), self._engine.env.monotonic()
        if self._down_until.get(registry, now) > now:
            return False
        try:
            await self._pull_once(image, account, self._limits.answer_seconds)
        except RuntimeRefusal as refusal:
            self._down_until[registry] = self._engine.env.monotonic() + DOWN_SECONDS
            log.warning("no newer image; taking the one here", image=image, reason=refusal.reason)
            return False
        return True

    async def _pull_once(
        self, image: str, account: RegistryAccount | None, answer_seconds: float
    ) -> None:
        """Pull, or wait for the same account's pull that is under way and share how it ends."""
        asking = image, account.SerializeToString(deterministic=True) if account else b""
        while (running := self._under_way.get(asking)) is not None:
            outcome = await asyncio.shield(running)
            if isinstance(outcome, RuntimeRefusal):
                raise RuntimeRefusal(outcome.reason, permanent=outcome.permanent)
            if outcome:
                return
        shared: asyncio.Future[RuntimeRefusal | bool] = asyncio.get_running_loop().create_future()
        self._under_way[asking] = shared
        # What the others learn should this caller be cancelled: nothing, one of them goes on.
        outcome = False
        try:
            refusal = await self._pull(image, account, answer_seconds)
            outcome = refusal or True
        finally:
            del self._under_way[asking]
            shared.set_result(outcome)
        if refusal is not None:
            raise refusal

    async def _pull(
        self, image: str, account: RegistryAccount | None, answer_seconds: float
    ) -> RuntimeRefusal | None:
        who = partial(self._credentials.who, registry_of(image), account)
        pull = _Pull(self._engine, image, self._limits, who)
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds), self._slots, asyncio.TaskGroup() as group:
                reading = group.create_task(self._engine.env.threads.run(pull.run))
                naming = group.create_task(self._unknown_name(pull))
                watching = group.create_task(self._stalled(pull, answer_seconds))
                waiting: set[asyncio.Task[RuntimeRefusal | None]] = {reading, naming, watching}
                refusal = None
                while not reading.done() and refusal is None:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    refusal = next((r for task in done if (r := task.result())), None)
                for task in waiting:
                    task.cancel()
        except TimeoutError:
            return RuntimeRefusal(f"image {image} could not be pulled within {seconds:g} s")
        finally:
            pull.stream.close()
        return refusal

    async def _stalled(self, pull: "_Pull", answer_seconds: float) -> RuntimeRefusal:
        """Returns once nothing has moved for too long; the first answer has a limit of its own."""
        seen, pause = -1, answer_seconds
        while seen != pull.moves:
            seen = pull.moves
            await asyncio.sleep(pause)
            pause = self._limits.quiet_seconds if pull.moves else pause
        said = "stands still" if seen else "says nothing"
        return RuntimeRefusal(
            f"image {pull.image} made no progress for {pause:g} s: "
            f"registry {registry_of(pull.image)} {said}"
        )

    async def _unknown_name(self, pull: "_Pull") -> RuntimeRefusal | None:
        """Why waiting for a silent registry is no use: its name does not resolve here either.

        The engine's own look-up may take most of a minute. Only asked of an engine on this machine,
        and not for the default registry, which an engine may be told to reach through a mirror.
        """
        await asyncio.sleep(self._limits.silent_seconds)
        host = registry_of(pull.image)
        if pull.has_answered or host == "docker.io" or not self._engine.is_local:
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
    """One pull, run in a thread; closing `stream` makes the engine stop it.

    `moves` counts what it has told that was news.
    """

    def __init__(
        self, engine: Engine, image: str, limits: PullLimits, who: Callable[[], Who]
    ) -> None:
        self.image = image
        self.stream = Closable()
        self.has_answered = False
        self.moves = 0
        self._engine = engine
        self._limits = limits
        self._who = who
        self._told: dict[str, object] = {}
        self._sizes: dict[str, int] = {}

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
        who = self._who()
        limits = self._limits
        try:
            response = open_stream(
                client,
                "POST",
                "/images/create",
                params={"fromImage": repository, "tag": tag or "latest"},
                headers={"X-Registry-Auth": who.header} if who.header else None,
                # Whoever waits has given up before.
                read_seconds=min(limits.seconds, 2 * limits.quiet_seconds),
            )
        except APIError as error:
            return pull_refusal(self.image, engine_reason(error), who.mend)
        self.has_answered = True
        if not self.stream.hold(response):
            return RuntimeRefusal(f"the pull of image {self.image} was given up")
        for progress in json_lines(response):
            # The status was sent before the work began: a failure is one more line of progress.
            if reason := progress.get("error"):
                return pull_refusal(self.image, str(reason), who.mend)
            if (size := self._take(progress)) > limits.most_bytes:
                return RuntimeRefusal(
                    f"image {self.image} has {size} bytes or more, and this node takes "
                    f"{limits.most_bytes} (pull_most_bytes of its worker's configuration)",
                    permanent=True,
                )
        return None

    def _take(self, progress: dict[str, Any]) -> int:
        """Note what moved; the size of all layers as far as it is announced."""
        layer = str(progress.get("id", ""))
        detail = progress.get("progressDetail") or {}
        told = (progress.get("status"), detail.get("current"), progress.get("stream"))
        if self._told.get(layer) != told:
            self._told[layer] = told
            self.moves += 1
        if progress.get("status") == "Downloading":
            self._sizes[layer] = int(detail.get("total") or detail.get("current") or 0)
        return sum(self._sizes.values())
