"""What the replicas of a service have written, and go on writing, as one text.

With several replicas each line begins with `service/replica | `. Lines that begin with `... ` are
Orca's own: what is missing, and why. A follower sees replicas that come later, too; he is let go
when the service is removed, or the one task that he asked for is gone.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orca_common.env import Env
from orca_master.errors import Conflict, NotFound, NotReady
from orca_master.services.model import SERVICES, Service
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.tasks import gone
from orca_master.tasks.endings import why
from orca_master.tasks.model import TASKS, Task
from orca_master.tasks.output import Opener, Outputs, Piece

ANSWER_SECONDS = 30.0
"""How long a worker may say nothing of output that is there."""
LOOK_SECONDS = 0.25
"""How soon a follower hears of new replicas, at the latest."""
AGAIN_SECONDS = 1.0
"""Between two tries to read from a node that is not connected."""
MOST_FOLLOWED = 500
MOST_LINES = 100_000
BEAT = b"\0"


@dataclass(frozen=True, slots=True)
class Asked:
    """`replica`: a slot's number or a task's id; empty: all. `beat`: after so many silent seconds a
    follower gets a NUL byte, so that both sides hear of a lost connection; 0: never."""

    tail: int
    since: float = 0.0
    replica: str = ""
    beat: float = 0.0
    previous: bool = False

    def wants(self, task: Task) -> bool:
        return self.replica in ("", str(task.slot), task.id)


class Page:
    """Pieces of several tasks as lines of one text."""

    def __init__(self, service: str, *, several: bool) -> None:
        self._service = service
        self._several = several
        self._cut: str | None = None

    def is_of_several(self) -> None:
        """From now on lines are marked with their replica."""
        self._several = True

    def lines(self, piece: Piece) -> bytes:
        """The piece, after what says that lines before it are missing."""
        said = b""
        if piece.left_out:
            lines = "line was" if piece.left_out == 1 else "lines were"
            text = f"{piece.left_out} {lines} left out: the reader was too slow"
            said = self.note(self._of(piece.task, text))
        if not piece.data:
            return said
        goes_on = self._cut == piece.task.id and not said
        said += b"" if goes_on else self._line_end()
        self._cut = None if piece.data.endswith(b"\n") else piece.task.id
        if not self._several:
            return said + piece.data
        mark = f"{self._service}/{piece.task.slot} | ".encode()
        lines_ = piece.data.split(b"\n")
        ending = lines_.pop()
        marked = [mark + line + b"\n" for line in lines_] + ([mark + ending] if ending else [])
        whole = b"".join(marked)
        return said + (whole[len(mark) :] if goes_on else whole)

    def note(self, text: str) -> bytes:
        """A line of Orca's own."""
        return self._line_end() + f"... {text}\n".encode()

    def trouble(self, task: Task, error: str) -> bytes:
        return self.note(f"replica {task.slot}: {error}")

    def _of(self, task: Task, text: str) -> str:
        return f"replica {task.slot}: {text}" if self._several else text

    def _line_end(self) -> bytes:
        cut, self._cut = self._cut, None
        return b"\n" if cut else b""


async def replay(
    opener: Opener, service: Service, tasks: list[Task], asked: Asked
) -> AsyncIterator[bytes]:
    """The last lines that are there, one replica after the other. Raises NotReady if none can be had
    from any of them."""
    page = Page(service.name, several=len({task.slot for task in tasks}) > 1)
    errors: list[str] = []
    held = b""  # until it is known that this is not all
    for task in sorted(tasks, key=lambda task: (task.slot, task.created_at)):
        if asked.previous:
            held += page.note(f"replica {task.slot}, task {task.id}: {_how_it_ended(task)}")
        try:
            async with aclosing(_read(opener, task, asked)) as pieces:
                async for piece in pieces:
                    yield held + page.lines(piece)
                    held = b""
        except NotReady as error:
            errors.append(error.message)
            held += page.trouble(task, error.message)
    if len(errors) == len(tasks):
        raise NotReady("; ".join(dict.fromkeys(errors)))
    if held:
        yield held


def _how_it_ended(task: Task) -> str:
    seen = task.observed
    since = datetime.fromtimestamp(seen.started_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    ending = why(task) if seen.state.is_over else "was stopped"
    return f"revision {task.revision}, started {since}; {ending}"


async def _read(opener: Opener, task: Task, asked: Asked) -> AsyncGenerator[Piece, None]:
    outputs = Outputs(opener)
    try:
        await outputs.open(task, tail=asked.tail, since=asked.since)
        while True:
            piece = await outputs.next(ANSWER_SECONDS)
            if piece is None:
                raise NotReady("the worker does not answer")
            if piece.error:
                raise NotReady(piece.error)
            yield piece
            await outputs.taken(piece)
            if piece.done:
                return
    finally:
        outputs.close()


@dataclass(slots=True)
class _Place:
    """How far a task was read when its worker was lost."""

    since: float
    was_read: bool = False
    not_before: float = 0.0
    told: str = ""


class Following:
    """One follower of one service."""

    def __init__(
        self, env: Env, store: Store, opener: Opener, service: Service, asked: Asked
    ) -> None:
        self._env = env
        self._store = store
        self._service = service
        self._asked = asked
        self._opener = opener
        self._page = Page(service.name, several=False)
        self._slots: set[int] = set()
        self._read: set[str] = set()
        self._lost: dict[str, _Place] = {}

    async def parts(self) -> AsyncIterator[bytes]:
        """Begins with an empty part, so that the status is sent at once."""
        yield b""
        self._outputs = Outputs(self._opener)  # here, in the task that serves the request
        spoke = self._env.monotonic()
        try:
            is_first = True
            while True:
                if notes := await self._look(is_first=is_first):
                    yield notes
                is_first = False
                piece = await self._outputs.next(LOOK_SECONDS)
                if piece is not None:
                    yield self._page.lines(piece) + self._after(piece)
                    await self._outputs.taken(piece)
                    spoke = self._env.monotonic()
                elif (end := self._end()) is not None:
                    yield end
                    return
                elif self._asked.beat and self._env.monotonic() - spoke >= self._asked.beat:
                    yield BEAT
                    spoke = self._env.monotonic()
        finally:
            self._outputs.close()

    async def _look(self, *, is_first: bool) -> bytes:
        """Read what is there to be read and is not read yet; what there is to say of it."""
        tasks = _with_output(self._store.state, self._service, self._asked)
        self._slots.update(task.slot for task in tasks)
        if len(self._slots) > 1:
            self._page.is_of_several()
        notes = b""
        for task in tasks:
            if task.id not in self._read:
                # Of what began since, all is wanted.
                asked = self._asked if is_first else Asked(MOST_LINES)
                place = self._lost.get(task.id, _Place(asked.since))
                if self._env.monotonic() >= place.not_before:
                    tail = MOST_LINES if place.was_read else asked.tail
                    notes += await self._open(task, place, tail=tail, readers=len(tasks))
        return notes

    async def _open(self, task: Task, place: _Place, *, tail: int, readers: int) -> bytes:
        self._read.add(task.id)
        try:
            await self._outputs.open(
                task, tail=tail, since=place.since, follow=True, readers=readers
            )
        except NotReady as error:
            return self._lose(task, place, error.message)
        return b""

    def _after(self, piece: Piece) -> bytes:
        """What there is to say of a piece that was the last of its task."""
        if piece.data or not piece.done:
            self._lost[piece.task.id] = _Place(piece.at, was_read=True)
        if not piece.done or not piece.error:
            return b""
        place = self._lost.get(piece.task.id) or _Place(self._asked.since)
        return self._lose(piece.task, place, piece.error)

    def _lose(self, task: Task, place: _Place, error: str) -> bytes:
        """It is tried again, as long as the task is there; the reason is told once."""
        self._read.discard(task.id)
        again = self._env.monotonic() + AGAIN_SECONDS
        self._lost[task.id] = replace(place, not_before=again, told=error)
        if place.told == error or not self._is_wanted(task):
            return b""
        return self._page.trouble(task, f"{error}; trying again, some lines may come twice")

    def _is_wanted(self, task: Task) -> bool:
        now = self._store.state.get(TASKS, task.owner, task.id)
        return now is not None and not now.observed.state.is_over

    def _end(self) -> bytes | None:
        """Nothing comes just now; what to say if nothing will, else None."""
        if not self._store.leadership.is_leader:
            return self._page.note("another master leads now: follow again")
        if self._outputs.reading:
            return None
        service, state = self._service, self._store.state
        if state.get(SERVICES, service.tenant, service.project, service.name) is None:
            return self._page.note(f"service {service.name} was removed")
        if len(self._asked.replica) > 5 and not _tasks(state, service, self._asked):
            return self._page.note(f"task {self._asked.replica} is gone")
        return None


def choose(state: State, service: Service, asked: Asked) -> list[Task]:
    """The tasks that have output: now, or with `previous` those that are gone. One that is named by
    its id may be either. Raises NotFound: there is no such replica."""
    if asked.previous or not _is_known(state, service, asked):
        found = [task for task in gone.of_owner(state, service.owner) if asked.wants(task)]
        if not found and asked.replica:
            raise NotFound(f"replica of {service.name}", asked.replica)
    else:
        found = _with_output(state, service, asked)
    if len(found) > MOST_FOLLOWED:
        raise Conflict(f"{len(found)} replicas are too many at once: ask for one with ?replica=")
    return found


def _is_known(state: State, service: Service, asked: Asked) -> bool:
    """Whether it is among those that are wanted, or that run still."""
    is_number = len(asked.replica) <= 5 and asked.replica.isdigit()
    is_wanted = is_number and int(asked.replica) <= service.replicas
    return not asked.replica or is_wanted or bool(_tasks(state, service, asked))


def _with_output(state: State, service: Service, asked: Asked) -> list[Task]:
    return [task for task in _tasks(state, service, asked) if task.observed.container]


def _tasks(state: State, service: Service, asked: Asked) -> list[Task]:
    return [task for task in state.find(TASKS, "owner", service.owner) if asked.wants(task)]
