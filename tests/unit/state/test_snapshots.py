"""Snapshot files: read part by part, and written part by part as they arrive from another master."""

import errno

import pytest

from orca_master.state.log import DamagedLog
from orca_master.state.solo.snapshots import Snapshots
from sim.disk import SimDisk
from sim.env import sim_env

FOLDER = "/data"
PARTS = [b"one", bytes(300_000), b"three"]


def on(disk: SimDisk) -> Snapshots:
    if not disk.exists(FOLDER):
        disk.make_folders(FOLDER)
    return Snapshots(sim_env(1, disk), FOLDER)


def arriving(snapshots: Snapshots, parts: list[bytes], *, piece: int = 100_000):
    receiving = snapshots.receive(index=7, term=3)
    for part in parts:
        pieces = [part[at : at + piece] for at in range(0, len(part), piece)]
        for data in pieces:
            receiving.take(data, ends_part=data is pieces[-1])
    return receiving


async def test_one_that_arrives_in_pieces_is_as_if_it_had_been_written_here():
    disk = SimDisk()
    snapshots = on(disk)
    accepted = await snapshots.accept(arriving(snapshots, PARTS))
    assert [*accepted.parts] == PARTS
    found, damages = on(disk).newest_whole()
    assert found is not None
    assert (found.index, found.term, [*found.parts], damages) == (7, 3, PARTS, [])


async def test_the_parts_can_be_gone_through_again():
    snapshots = on(SimDisk())
    await snapshots.write(index=1, term=1, parts=iter(PARTS))
    found, _ = snapshots.newest_whole()
    assert found is not None
    assert [*found.parts] == [*found.parts] == PARTS


async def test_one_that_has_not_arrived_whole_is_no_snapshot_and_goes_with_the_next_start():
    disk = SimDisk()
    arriving(on(disk), PARTS).close()
    again = on(disk)
    assert again.newest_whole() == (None, [])
    assert disk.list(FOLDER) != []
    again.remove_temporary()
    assert disk.list(FOLDER) == []


async def test_one_that_was_given_up_leaves_nothing():
    disk = SimDisk()
    arriving(on(disk), PARTS).discard()
    assert disk.list(FOLDER) == []


async def test_one_that_another_begins_to_replace_is_written_anew():
    disk = SimDisk()
    snapshots = on(disk)
    arriving(snapshots, [b"other"]).discard()
    assert [*(await snapshots.accept(arriving(snapshots, PARTS))).parts] == PARTS


async def test_a_disk_that_fails_at_the_end_leaves_nothing():
    class Failing(SimDisk):
        def sync(self, file: object) -> None:
            raise OSError(errno.EIO, "no")

    disk = Failing()
    snapshots = on(disk)
    with pytest.raises(OSError, match="no"):
        await snapshots.accept(arriving(snapshots, PARTS))
    assert disk.list(FOLDER) == []
    assert not snapshots.exist


@pytest.mark.parametrize("at", [0, 30, 100, -1, -30])
async def test_parts_that_are_no_longer_what_was_written_are_not_read(at: int):
    disk = SimDisk()
    snapshots = on(disk)
    await snapshots.write(index=1, term=1, parts=iter(PARTS))
    (name,) = disk.list(FOLDER)
    data = bytearray(disk.read(f"{FOLDER}/{name}"))
    data[at] ^= 1
    damaged = SimDisk({f"{FOLDER}/{name}": bytes(data)})
    found, damages = on(damaged).newest_whole()
    assert found is None
    assert "damaged at byte" in str(damages[0])


@pytest.mark.parametrize("size", [10, 40, 1000, -1])
async def test_a_file_that_was_cut_off_or_goes_on_is_damaged(size: int):
    disk = SimDisk()
    snapshots = on(disk)
    await snapshots.write(index=1, term=1, parts=iter(PARTS))
    (name,) = disk.list(FOLDER)
    path = f"{FOLDER}/{name}"
    whole = disk.read(path)
    for data in (whole[:size], whole + b"x"):
        assert on(SimDisk({path: data})).newest_whole()[0] is None


async def test_damage_that_comes_after_the_check_stops_the_reading():
    disk = SimDisk()
    snapshots = on(disk)
    await snapshots.write(index=1, term=1, parts=iter(PARTS))
    found, _ = snapshots.newest_whole()
    assert found is not None
    (name,) = disk.list(FOLDER)
    disk.remove(f"{FOLDER}/{name}")
    disk.open_append(f"{FOLDER}/{name}").write(b"something else")
    with pytest.raises(DamagedLog):
        list(found.parts)
