"""The simulated disk loses what a real one may lose, and nothing else."""

import random

import pytest

from sim.disk import SimDisk


def test_a_power_loss_keeps_what_was_synced_and_any_beginning_of_the_rest():
    disk = SimDisk()
    disk.make_folders("/d")
    file = disk.open_append("/d/x")
    file.write(b"ab")
    file.sync()
    disk.sync_folder("/d")
    file.write(b"cd")
    file.truncate(1)
    disk.rename("/d/x", "/d/y")
    contents = {b"ab", b"abc", b"abcd", b"ab\0\0", b"a"}
    found = [tuple(*image.items()) for image in disk.crash_states()]
    assert set(found) == {(name, raw) for name in ("/d/x", "/d/y") for raw in contents}
    seen = set()
    for seed in range(200):
        copy = SimDisk({"/d/x": b"ab"})
        again = copy.open_append("/d/x")
        again.write(b"cd")
        copy.crash(random.Random(seed))
        seen.add(copy.read("/d/x"))
        with pytest.raises(OSError, match="dead"):
            again.write(b"after the crash")
    assert seen == contents - {b"a"}


def test_a_removed_name_may_come_back_until_its_folder_is_synced():
    disk = SimDisk({"/d/x": b"1"})
    disk.remove("/d/x")
    assert not disk.exists("/d/x")
    assert [*disk.crash_states()] == [{}, {"/d/x": b"1"}]
    disk.sync_folder("/d")
    assert [*disk.crash_states()] == [{}]


def test_a_killed_process_loses_its_locks_and_files_but_no_data():
    disk = SimDisk({"/d/x": b"1"})
    disk.lock("/d/lock")
    file = disk.open_append("/d/x")
    file.write(b"2")
    disk.kill()
    assert disk.read("/d/x") == b"12"
    disk.lock("/d/lock")
    with pytest.raises(OSError, match="dead"):
        file.write(b"3")


def test_a_full_disk_writes_what_fits_and_has_room_again_after_a_removal():
    disk = SimDisk({"/d/old": b"12345"})
    disk.capacity = 8
    file = disk.open_append("/d/x")
    with pytest.raises(OSError, match="No space"):
        file.write(b"abcdef")
    assert disk.read("/d/x") == b"abc"
    disk.remove("/d/old")
    file.write(b"def")
    assert disk.read("/d/x") == b"abcdef"


def test_the_same_seed_loses_the_same():
    def lost(seed: int) -> dict[str, bytes]:
        disk = SimDisk({"/d/x": b"1"})
        file = disk.open_append("/d/x")
        file.write(bytes(range(200)))
        disk.rename("/d/x", "/d/y")
        disk.crash(random.Random(seed))
        return disk.image()

    assert [lost(seed) for seed in range(20)] == [lost(seed) for seed in range(20)]
    assert len({tuple(lost(seed).items()) for seed in range(20)}) > 10
