"""Who belongs to the log: configurations, the rules by which one follows another, and their history.

A configuration is an entry of the log and names everybody (Ongaro's thesis, chapter 4: changes of one
server at a time). It is in force from the moment it is appended; if its entry is cut off, the former
one is in force again. Pure: when a change may be appended is decided in `protocol`.
"""

from functools import cached_property
from typing import Annotated, Literal

import msgspec

from orca_master.errors import Conflict
from orca_master.state.raft.codec import MEMBERSHIP, Name

MAX_MEMBERS = 31
MAX_FORMER = 256
"""How many removed ids are remembered; the oldest are forgotten."""
MAX_CONFIGURATION_BYTES = 1 << 18

Address = Annotated[str, msgspec.Meta(min_length=3, max_length=300)]


class Removed(Exception):
    """This master is no member any more, and knows it. Stop the process; its folder is of no use."""


class _Packed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Closed: what another version adds is refused, not guessed."""


class Member(_Packed, frozen=True):
    """`address`: "host:port" of its Raft port. A learner (no voter) is given the log, and that is all."""

    id: Name
    address: Address
    is_voter: bool


class Former(_Packed, frozen=True):
    """An id that may not come back: a master is known by it to have kept its promises."""

    id: Name
    removed_by: Name


def parse_address(address: str) -> tuple[str, int]:
    """From "host:port" ("[::1]:6882" for IPv6). Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{address!r} is no address of the form host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Configuration(_Packed, frozen=True, dict=True):
    """Raises ValueError if an id is there twice or an address is none."""

    format: Literal[1] = 1
    members: Annotated[tuple[Member, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()
    former: Annotated[tuple[Former, ...], msgspec.Meta(max_length=MAX_FORMER)] = ()

    def __post_init__(self) -> None:
        if len(self.ids) < len(self.members):
            raise ValueError("a member is there twice")
        for member in self.members:
            parse_address(member.address)

    @cached_property
    def ids(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members)

    @cached_property
    def voters(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members if member.is_voter)

    def removed_by(self, node: str) -> str | None:
        """Who removed this one; None if it was not removed."""
        return next((f.removed_by for f in self.former if f.id == node), None)

    def addresses_beside(self, node: str) -> dict[str, str]:
        return {m.id: m.address for m in self.members if m.id != node}


NOBODY = Configuration()
"""What a master knows that has heard of nobody yet."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    return _encoder.encode(configuration)


def decode_configuration(raw: bytes) -> Configuration:
    """Raises ValueError on what is no configuration of this version."""
    try:
        if len(raw) > MAX_CONFIGURATION_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"no list of members that this version knows: {error}") from error


def command_of(configuration: Configuration) -> bytes:
    """The log entry that brings it. Raises Conflict if it is too large."""
    raw = encode_configuration(configuration)
    if len(configuration.members) > MAX_MEMBERS or len(raw) > MAX_CONFIGURATION_BYTES:
        raise Conflict(f"there are {MAX_MEMBERS} members at most: remove one first")
    return bytes((MEMBERSHIP,)) + raw


def configuration_in(command: bytes) -> Configuration | None:
    """What this entry brings, None if it is of another kind. Raises ValueError."""
    return decode_configuration(command[1:]) if command[0] == MEMBERSHIP else None


# Changes: one member each, so that a majority before and one after always share a member.


def with_learner(before: Configuration, node: str, address: str) -> Configuration:
    """Raises Conflict, as the other changes do."""
    if node in before.ids:
        raise Conflict(f"{node} is a member already")
    if before.removed_by(node) is not None:
        raise Conflict(
            f"{node} was removed and cannot come back: give the master a new id and an empty folder"
        )
    return _with(before, (*before.members, Member(node, address, is_voter=False)))


def with_voter(before: Configuration, node: str) -> Configuration:
    learner = _find(before, node)
    if learner.is_voter:
        raise Conflict(f"{node} is a voter already")
    return _with(before, _replaced(before, Member(node, learner.address, is_voter=True)))


def with_address(before: Configuration, node: str, address: str) -> Configuration:
    member = _find(before, node)
    if member.address == address:
        raise Conflict(f"{node} has the address {address} already")
    return _with(before, _replaced(before, Member(node, address, member.is_voter)))


def without(before: Configuration, node: str, *, by: str) -> Configuration:
    _find(before, node)
    if before.voters == {node}:
        raise Conflict(f"{node} is the last voter: add another one and promote it first")
    left = tuple(member for member in before.members if member.id != node)
    former = (*before.former, Former(node, by))[-MAX_FORMER:]
    return Configuration(members=left, former=former)


def _find(configuration: Configuration, node: str) -> Member:
    for member in configuration.members:
        if member.id == node:
            return member
    raise Conflict(f"{node} is no member; members are {', '.join(sorted(configuration.ids))}")


def _with(before: Configuration, members: tuple[Member, ...]) -> Configuration:
    try:
        after = Configuration(members=members, former=before.former)
        decode_configuration(encode_configuration(after))  # what no reader takes is not written
    except ValueError as error:
        raise Conflict(str(error)) from error
    return after


def _replaced(before: Configuration, new: Member) -> tuple[Member, ...]:
    return tuple(new if member.id == new.id else member for member in before.members)


class History:
    """The configurations in one log, each by the index of the entry that brought it."""

    def __init__(self) -> None:
        self._places: list[tuple[int, Configuration]] = [(0, NOBODY)]

    @property
    def in_force(self) -> Configuration:
        return self._places[-1][1]

    @property
    def index(self) -> int:
        """Of the entry that brought what is in force, or of a snapshot behind that entry."""
        return self._places[-1][0]

    @property
    def before(self) -> Configuration:
        """The one before the one in force, as far as it is known."""
        return self._places[-2][1] if len(self._places) > 1 else NOBODY

    def at(self, index: int) -> Configuration:
        """The one that was in force after this entry, which no snapshot has swallowed."""
        return next((c for place, c in reversed(self._places) if place <= index), NOBODY)

    def count_after(self, index: int) -> int:
        return sum(place > index for place, _ in self._places)

    def add(self, index: int, configuration: Configuration) -> None:
        self._places.append((index, configuration))

    def cut_from(self, index: int) -> None:
        """This entry and all later ones are gone from the log."""
        while len(self._places) > 1 and self._places[-1][0] >= index:
            self._places.pop()

    def begin_at(self, index: int, configuration: Configuration) -> None:
        """A snapshot of this entry says so; what came after it stays."""
        later = [place for place in self._places if place[0] > index]
        self._places = [(index, configuration), *later]

    def forget_before(self, index: int) -> None:
        """Only what is in force at this entry, or comes after it, will be asked for."""
        while len(self._places) > 1 and self._places[1][0] <= index:
            del self._places[0]
