"""Power loss at every moment: what was acknowledged stays, and planted faults are found."""

import errno
import itertools
import random
from collections.abc import Callable

import pytest
from crash_check import Trace, Violation, check, check_seed, trace
from recorder import Recorder, a_log, numbered, recovered

from orca_master.state.log import LogFailed
from orca_master.state.solo import SoloLog, records, snapshots
from orca_master.state.solo.segments import Entry
from sim.disk import Image, SimDisk
from sim.env import sim_env
from totals import Totals

PARTS = 6
"""Tests that run at once; each takes the seeds of its own remainder."""
SHARE = 0.75
"""Of all crash states; the others are the Raft log's (`tests/unit/raft`)."""


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("part", range(PARTS))
async def test_in_every_crash_state_all_acknowledged_is_there_and_nothing_half_co_03_co_28(
    part: int, crash_states: int, one_seed: int | None, totals: Totals
):
    states = 0
    for seed in itertools.count(part, PARTS) if one_seed is None else [one_seed]:
        states += await check_seed(seed)
        if states >= crash_states * SHARE / PARTS:
            break
    totals("log of one master", crash_states=states, violations=0)


async def test_in_a_long_log_everything_acknowledged_is_there_in_every_crash_state():
    found = await trace(numbered(150, size=22), restart_after=73, full_after=101)
    assert await check(found, every=20) >= 10_000


async def test_after_every_crash_state_the_log_goes_on_through_a_second_life():
    found = await trace(numbered(20, size=12), restart_after=9, full_after=13)
    assert await check(found) > 1_000


async def test_a_power_loss_while_the_folder_is_created_leaves_a_folder_that_starts():
    found = await trace([])
    assert await check(found) > 100


async def test_large_entries_that_span_sectors_survive_in_every_state():
    found = await trace(numbered(3, size=1200), restart_after=2)
    assert await check(found, every=50) > 1_200


async def test_proposals_written_as_one_group_survive_as_a_beginning_of_the_group():
    """Several records in one write: a torn group leaves the first ones, in order."""
    disk = SimDisk()
    log = a_log(sim_env(1, disk))
    await log.start(Recorder())
    entries = numbered(5, size=10)
    found = Trace(entries)
    found.watch(disk)
    log._append([Entry(2 + n, 1, entry) for n, entry in enumerate(entries)])
    found.acknowledged = 5
    disk.before_change()
    assert await check(found) > 150


async def test_what_a_start_has_shown_stays_although_the_killed_process_never_synced_it():
    disk = SimDisk()
    log = a_log(sim_env(1, disk))
    await log.start(Recorder())
    disk.fail_next("sync", OSError(errno.EIO, "killed here"))
    with pytest.raises(LogFailed):
        log._append([Entry(2, 1, b"written, not synced")])
    disk.kill()
    assert await recovered(sim_env(2, disk)) == [b"written, not synced"]
    for seed in range(20):
        disk.crash(random.Random(seed))
        assert await recovered(sim_env(seed, disk)) == [b"written, not synced"]


# Planted faults. Each must be found, or the tests above prove nothing.


class NoFileSync(SimDisk):
    def sync(self, file):  # it says done, and does nothing
        self._enter("sync")


class NoFolderSync(SimDisk):
    def sync_folder(self, path):
        self._enter("sync_folder")


class NoTruncate(SimDisk):
    def truncate(self, file, size):
        self._enter("truncate")


class CompactsFirst(SoloLog):
    async def _take_snapshot(self):
        self._segments.drop_up_to(self._index)
        await super()._take_snapshot()


class AcknowledgesEarly(SoloLog):
    """Writes two entries at a time and answers for the first before it is written."""

    _kept: tuple[Entry, ...] = ()

    def _append(self, entries):
        self._kept += tuple(entries)
        if len(self._kept) > 1 or not entries[0].payload:
            super()._append(list(self._kept))
            self._kept = ()


class KeepsTheTerm(SoloLog):
    """Begins no new term: the first record of a start says the old one."""

    def _create(self):
        super()._create()
        self._term = 1

    def _open(self):
        super()._open()
        self._term -= 1

    def _append(self, entries):
        super()._append(
            [Entry(e.index, max(1, e.term - (not e.payload)), e.payload) for e in entries]
        )


def _of(kind: type[SoloLog]) -> Callable[..., SoloLog]:
    def make(env, folder="/data/log", **options):
        return kind(env, folder, cluster_id="c1", member_name="m1", **options)

    return make


async def search(*, disks: Callable[[Image | None], SimDisk] = SimDisk, logs=a_log) -> None:
    for restart in (None, 17):
        found = await trace(
            numbered(30, size=12),
            disks=disks,
            logs=logs,
            restart_after=restart,
            full_after=11,
            states_per_point=60,
        )
        await check(found, disks=disks, logs=logs, every=5)


async def violated(**planted) -> None:
    with pytest.raises(Violation):
        await search(**planted)


async def test_the_search_finds_nothing_where_nothing_is_planted():
    await search()
    await search(logs=_of(SoloLog))


@pytest.mark.parametrize("disks", [NoFileSync, NoFolderSync, NoTruncate])
async def test_a_disk_verb_that_is_skipped_is_found(disks):
    await violated(disks=disks)


@pytest.mark.parametrize("kind", [CompactsFirst, AcknowledgesEarly, KeepsTheTerm])
async def test_a_log_that_does_things_in_the_wrong_order_is_found(kind):
    await violated(logs=_of(kind))


async def test_a_checksum_that_is_not_checked_is_found(monkeypatch):
    monkeypatch.setattr(records, "_crc", lambda *_: 0)
    await violated()


async def test_a_snapshot_renamed_before_it_is_synced_is_found(monkeypatch):
    monkeypatch.setattr(snapshots._Writing, "sync", lambda _: None)
    await violated()
