"""What every `Disk` does, the real and the simulated one alike."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from orca_common.env import Disk
from orca_common.real import SystemDisk
from sim.disk import SimDisk

pytestmark = pytest.mark.parametrize("make", [SystemDisk, SimDisk])
Make = Callable[[], Disk]


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "a" / "b")


def write(disk: Disk, path: str, data: bytes) -> None:
    file = disk.open_append(path)
    file.write(data)
    file.sync()
    file.close()


def test_a_file_grows_is_cut_and_is_read(make: Make, root: str):
    disk = make()
    disk.make_folders(root)
    disk.make_folders(root)
    write(disk, f"{root}/x", b"hello ")
    write(disk, f"{root}/x", b"world")
    assert disk.read(f"{root}/x") == b"hello world"
    file = disk.open_append(f"{root}/x")
    file.truncate(5)
    file.write(b"!")
    assert disk.read(f"{root}/x") == b"hello!"
    file.truncate(8)
    file.close()
    assert disk.read(f"{root}/x") == b"hello!\0\0"


def test_names_are_listed_in_order_renamed_over_others_and_removed(make: Make, root: str):
    disk = make()
    disk.make_folders(f"{root}/folder")
    for name in ("b", "a", "c"):
        write(disk, f"{root}/{name}", name.encode())
    assert disk.list(root) == ["a", "b", "c", "folder"]
    disk.rename(f"{root}/a", f"{root}/b")
    disk.remove(f"{root}/c")
    disk.sync_folder(root)
    assert disk.list(root) == ["b", "folder"]
    assert disk.read(f"{root}/b") == b"a"
    assert disk.exists(f"{root}/b")
    assert disk.exists(f"{root}/folder")
    assert not disk.exists(f"{root}/a")


def test_a_file_is_renamed_into_another_folder(make: Make, root: str):
    disk = make()
    disk.make_folders(f"{root}/folder")
    write(disk, f"{root}/x", b"x")
    with pytest.raises(FileNotFoundError):
        disk.rename(f"{root}/x", f"{root}/none/x")
    disk.rename(f"{root}/x", f"{root}/folder/y")
    assert disk.list(root) == ["folder"]
    assert disk.read(f"{root}/folder/y") == b"x"


def test_a_file_is_read_in_pieces_also_when_its_name_is_gone(make: Make, root: str):
    disk = make()
    disk.make_folders(root)
    write(disk, f"{root}/x", b"hello world")
    assert disk.size(f"{root}/x") == 11
    file = disk.open_read(f"{root}/x")
    assert file.read(6) == b"hello "
    disk.remove(f"{root}/x")
    assert (file.read(6), file.read(6)) == (b"world", b"")
    file.close()


def test_an_open_file_follows_its_name_and_outlives_it(make: Make, root: str):
    disk = make()
    disk.make_folders(root)
    file = disk.open_append(f"{root}/x")
    disk.rename(f"{root}/x", f"{root}/y")
    file.write(b"1")
    assert disk.read(f"{root}/y") == b"1"
    disk.remove(f"{root}/y")
    file.write(b"2")
    file.sync()
    file.close()
    assert disk.list(root) == []


def test_what_is_not_there_is_said_as_the_system_says_it(make: Make, root: str):
    disk = make()
    disk.make_folders(root)
    for verb in (
        lambda: disk.read(f"{root}/none"),
        lambda: disk.size(f"{root}/none"),
        lambda: disk.open_read(f"{root}/none"),
        lambda: disk.remove(f"{root}/none"),
        lambda: disk.rename(f"{root}/none", f"{root}/x"),
        lambda: disk.open_append(f"{root}/none/x"),
        lambda: disk.list(f"{root}/none"),
        lambda: disk.sync_folder(f"{root}/none"),
    ):
        with pytest.raises(FileNotFoundError):
            verb()


def test_a_closed_file_takes_nothing(make: Make, root: str):
    disk = make()
    disk.make_folders(root)
    file = disk.open_append(f"{root}/x")
    file.close()
    with pytest.raises(OSError) as caught:
        file.write(b"x")
    assert caught.value.errno == errno.EBADF


def test_a_lock_is_exclusive_until_released(make: Make, root: str):
    disk = make()
    disk.make_folders(root)
    release = disk.lock(f"{root}/lock")
    with pytest.raises(BlockingIOError):
        disk.lock(f"{root}/lock")
    assert disk.list(root) == ["lock"]
    release()
    disk.lock(f"{root}/lock")()
