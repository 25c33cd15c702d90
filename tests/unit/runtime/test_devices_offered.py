"""Which devices a worker tells of: those that are there, and that its configuration allows."""

from pathlib import Path

from orca_worker.runtime.docker import access
from orca_worker.runtime.docker.access import Access


def test_devices_are_told_by_every_name_and_only_what_is_allowed_and_there(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "link").symlink_to("/dev/null")
    (folder / "other").symlink_to("/dev/zero")
    (folder / "file").touch()
    assert Access().offered() == []
    offered = Access(devices=["/dev/null", "/dev/not-there", str(folder)]).offered()
    assert offered is not None
    assert {"/dev/null", str(folder), str(folder / "link")} <= set(offered)
    assert not {"/dev/zero", "/dev/not-there", str(folder / "other")} & set(offered)
    assert str(folder / "file") not in offered


def test_a_folder_of_devices_is_told_with_what_is_in_it() -> None:
    offered = Access(devices=["/dev"]).offered()
    assert offered is not None
    assert {"/dev", "/dev/null", "/dev/zero"} <= set(offered)


def test_what_is_no_folder_of_devices_is_not_told(tmp_path: Path) -> None:
    for number in range(access.MOST_OFFERED + 1):
        (tmp_path / str(number)).mkdir()
    assert Access(devices=[str(tmp_path)]).offered() is None
