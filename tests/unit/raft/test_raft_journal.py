"""The journal in every state that a power loss may leave, on a full disk, and with rotten bits."""

import errno
import itertools
import random
from collections.abc import Callable

import pytest

from orca_master.state.log import DamagedLog, LogFailed
from orca_master.state.raft.journal import Journal
from orca_master.state.raft.members import NOBODY
from orca_master.state.solo.segments import NoSpace
from sim.disk import Image, SimDisk
from sim.env import sim_env
from totals import Totals

FOLDER = "/raft"
SEGMENT_BYTES = 300

State = tuple[int, str | None, tuple[tuple[bytes, int, int], ...]]


def opened(disk: SimDisk) -> Journal:
    disk.make_folders(FOLDER)
    journal = Journal(sim_env(1, disk), FOLDER, segment_bytes=SEGMENT_BYTES)
    if journal.holds_records:
        journal.replay()
    else:
        journal.create()
    return journal


def state_of(journal: Journal) -> State:
    return journal.getCurrentTerm(), journal.getVotedForNodeId(), tuple(journal[:])


class Writer:
    """Changes a journal step by step; knows every state that was, and which of them are durable."""

    def __init__(self, disk: SimDisk) -> None:
        self.journal = opened(disk)
        self.states: list[State] = [state_of(self.journal)]
        self.durable = 0

    def do(self, step: Callable[[Journal], None]) -> None:
        step(self.journal)
        self.states.append(state_of(self.journal))

    def save(self) -> None:
        self.journal.write()
        self.journal.sync()
        self.durable = len(self.states) - 1


def steps(chance: random.Random) -> Callable[[Journal], None]:
    """A change as the engine makes them."""

    def add(journal: Journal) -> None:
        index = journal.last_index + 1 if len(journal) else 1
        journal.add(
            b"\x00" + chance.randbytes(chance.randint(0, 59)), index, journal.getCurrentTerm()
        )

    def vote(journal: Journal) -> None:
        journal.setCurrentTerm(journal.getCurrentTerm() + 1, chance.choice((None, "m1", "m22")))

    def cut(journal: Journal) -> None:
        if len(journal) > 1:
            journal.cut_from(chance.randint(journal.first_index + 1, journal.last_index))

    return chance.choice((add, add, add, vote, cut))


PARTS = 2
SHARE = 0.25
"""Of all crash states; the others are those of the log of one master."""


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_power_loss_leaves_a_state_that_was_and_nothing_durable_is_lost_co_24_co_28(
    part: int, crash_states: int, one_seed: int | None, totals: Totals
) -> None:
    states = 0
    for seed in itertools.count(part, PARTS) if one_seed is None else [one_seed]:
        states += check_power_losses(seed)
        if states >= crash_states * SHARE / PARTS:
            break
    totals("files of the Raft log", crash_states=states, violations=0)


def check_power_losses(seed: int) -> int:
    """How many states there were."""
    chance = random.Random(seed)
    disk = SimDisk()
    seen: dict[tuple[tuple[str, bytes], ...], int] = {}
    writer: Writer | None = None

    def note() -> None:
        for image in disk.some_crash_states(60, chance):
            key = tuple(sorted(image.items()))
            seen[key] = max(seen.get(key, 0), writer.durable if writer is not None else 0)

    disk.before_change = note
    writer = Writer(disk)
    for _ in range(25):
        for _ in range(chance.randint(1, 3)):
            writer.do(steps(chance))
        writer.save()
    note()
    assert len(seen) > 200
    assert len(writer.journal._segments.firsts) > 2
    for items, durable in seen.items():
        found = state_of(opened(SimDisk(dict(items))))
        assert found in writer.states[durable:], f"replay it with --seed {seed}"
    return len(seen)


def test_old_files_go_and_what_is_needed_stays_after_every_power_loss() -> None:
    chance = random.Random(6)
    disk = SimDisk()
    writer = Writer(disk)
    for _ in range(60):
        writer.do(lambda j: j.add(b"x" * 30, j.last_index + 1 if len(j) else 1, 1))
        writer.save()
    writer.do(lambda j: j.setCurrentTerm(9, "m3"))
    writer.save()
    images: list[Image] = []
    disk.before_change = lambda: images.extend(disk.some_crash_states(200, chance))
    before = len(writer.journal._segments.firsts)
    writer.journal.drop_files(needless=40)
    disk.before_change()
    assert len(writer.journal._segments.firsts) < before - 3
    for image in images:
        journal = opened(SimDisk(image))
        assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (9, "m3")
        first = journal.first_index
        assert first <= 41
        assert journal.last_index == 60
        journal.begin_after(40, 1, keep=5)
        assert journal.first_index == max(first, 35)


def test_a_full_disk_takes_all_records_or_none_and_goes_on_later() -> None:
    chance = random.Random(7)
    for room in range(0, 160, 7):
        disk = SimDisk()
        writer = Writer(disk)
        writer.do(lambda j: j.add(b"first", 1, 1))
        writer.save()
        saved = state_of(writer.journal)
        mark = writer.journal.mark()
        disk.capacity = sum(map(len, disk.image().values())) + room
        writer.journal.add(b"a" * 80, 2, 1)
        writer.journal.add(b"b" * 80, 3, 1)
        with pytest.raises(NoSpace):
            writer.journal.write()
        writer.journal.take_back(mark)
        for image in disk.some_crash_states(30, chance):
            entries = state_of(opened(SimDisk(image)))[2]
            assert entries[:1] == saved[2]
        disk.capacity = None
        writer.journal.add(b"c" * 80, 2, 1)
        writer.save()
        for image in disk.some_crash_states(30, chance):
            assert state_of(opened(SimDisk(image))) == state_of(writer.journal)


def test_after_a_full_disk_a_new_file_leaves_no_half_record_behind() -> None:
    """What was cut off again must be durable before the next file is begun."""
    disk = SimDisk()
    writer = Writer(disk)
    writer.do(lambda j: j.add(b"first" * 20, 1, 1))
    writer.save()
    mark = writer.journal.mark()
    disk.capacity = sum(map(len, disk.image().values())) + 50
    writer.journal.add(b"a" * 40, 2, 1)
    with pytest.raises(NoSpace):
        writer.journal.write()
    writer.journal.take_back(mark)
    disk.capacity = None
    files = len(writer.journal._segments.firsts)
    writer.journal.add(b"b" * 200, 2, 1)
    writer.journal.write()
    assert len(writer.journal._segments.firsts) == files + 1
    for image in disk.some_crash_states(2000, random.Random(1)):
        assert state_of(opened(SimDisk(image)))[2][0][1] == 1


def test_a_rotten_bit_is_found_or_cuts_the_end_off_but_makes_no_state_that_was_not_co_24() -> None:
    disk = SimDisk()
    chance = random.Random(8)
    writer = Writer(disk)
    for _ in range(14):
        writer.do(steps(chance))
        writer.save()
    image = disk.image()
    refused = 0
    for path, content in image.items():
        for byte, bit in itertools.product(range(len(content)), (0, 5)):
            rotten = SimDisk(image)
            rotten.flip(path, byte=byte, bit=bit)
            try:
                found = state_of(opened(rotten))
            except DamagedLog:
                refused += 1
            else:
                assert found in writer.states
    assert refused > 200


@pytest.mark.parametrize("border", [1 << 31, 1 << 32])
def test_what_crosses_32_bits_is_found_again_co_33(border: int) -> None:
    """Indexes and terms; a file never grows so large: it is followed by another."""
    disk = SimDisk()
    writer = Writer(disk)
    writer.do(lambda j: j.setCurrentTerm(border + 7, "m1"))
    writer.do(lambda j: j.reset(border - 10, border - 1, NOBODY))
    for _ in range(40):
        writer.do(lambda j: j.add(b"x" * 30, j.last_index + 1, border + 7))
        writer.save()
    again = opened(SimDisk(disk.image()))
    assert again.last_index == border + 30
    again.begin_after(border - 10, border - 1, keep=0)
    assert state_of(again) == writer.states[-1]
    again.begin_after(border + 20, border + 7, keep=3)
    assert again.first_index == border + 17


def test_a_failed_sync_is_never_tried_again() -> None:
    disk = SimDisk()
    writer = Writer(disk)
    writer.do(lambda j: j.add(b"x", 1, 1))
    disk.fail_next("sync", OSError(errno.EIO, "rotten"))
    with pytest.raises(LogFailed):
        writer.save()


def test_a_snapshot_point_that_the_log_has_keeps_what_follows_and_another_does_not() -> None:
    def a_log(*, terms: list[int]) -> Journal:
        writer = Writer(SimDisk())
        for index, term in enumerate(terms, 1):
            writer.do(lambda j, i=index, t=term: j.add(b"x", i, t))  # type: ignore[misc]
        return writer.journal

    same = a_log(terms=[1, 1, 2, 2])
    same.begin_after(3, 2, keep=1)
    assert [entry[1:] for entry in same[:]] == [(2, 1), (3, 2), (4, 2)]
    other = a_log(terms=[1, 1, 1, 1])
    other.begin_after(3, 2, keep=1)
    assert [entry[1:] for entry in other[:]] == [(3, 2)]
    shorter = a_log(terms=[1, 1])
    with pytest.raises(DamagedLog, match="ends with entry 2"):
        shorter.begin_after(3, 2, keep=1)
    announced = a_log(terms=[1, 1])
    announced.announce(3, 2)
    announced.begin_after(3, 2, keep=1)
    assert [entry[1:] for entry in announced[:]] == [(3, 2)]
