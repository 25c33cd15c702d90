"""What a plain process wrote since when: from sizes that were noted, on real files."""

import os
from pathlib import Path

import pytest

from orca_worker.runtime.process import times
from orca_worker.runtime.process.folder import Tasks
from orca_worker.runtime.process.times import Times


class Written:
    """One task's output, written at made-up times."""

    def __init__(self, folder: Path) -> None:
        (folder / "t1").mkdir()
        self.file = folder / "t1" / "output.log"
        self.notes = folder / "t1" / times.NAME
        self.times = Times(Tasks(str(folder)))

    def write(self, at: float, text: bytes, *, noted: bool = True) -> None:
        with self.file.open("ab") as file:
            file.write(text)
        os.utime(self.file, (at, at))
        if noted:
            self.times.note(["t1", "t2"])

    def since(self, at: float) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.times.first_since("t1", file.fileno(), at))
            return file.read()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_it_begins_at_the_first_size_that_is_not_older(written: Written) -> None:
    for at in (10.0, 20.0, 30.0):
        written.write(at, b"at %d\n" % at)
    assert written.since(5.0) == b"at 10\nat 20\nat 30\n"
    assert written.since(15.0) == b"at 20\nat 30\n"
    assert written.since(20.0) == b"at 20\nat 30\n"
    assert written.since(30.0) == b"at 30\n"
    assert written.since(30.5) == b""


def test_what_nobody_noted_is_told_rather_than_lost(written: Written) -> None:
    written.write(10.0, b"noted\n")
    written.write(20.0, b"not noted\n", noted=False)
    written.write(30.0, b"neither\n", noted=False)
    assert written.since(25.0) == b"not noted\nneither\n"
    os.unlink(written.notes)
    assert written.since(25.0) == b"noted\nnot noted\nneither\n"


def test_it_begins_with_a_whole_line(written: Written) -> None:
    written.write(10.0, b"one\nhalf of ")
    written.write(20.0, b"a line\n")
    assert written.since(15.0) == b"half of a line\n"


def test_a_worker_that_starts_again_goes_on_noting(written: Written, tmp_path: Path) -> None:
    written.write(10.0, b"before\n")
    written.times = Times(Tasks(str(tmp_path)))
    written.write(20.0, b"after\n")
    assert written.since(15.0) == b"after\n"


def test_a_file_that_was_cut_and_notes_that_are_torn_do_no_harm(written: Written) -> None:
    written.write(10.0, b"long " * 100 + b"\n")
    written.file.write_bytes(b"")
    written.write(20.0, b"new\n")
    with written.notes.open("ab") as file:
        file.write(b"torn")
    assert written.since(15.0) in (b"", b"new\n")
    assert written.since(1.0) == b"new\n"


def test_notes_are_bounded_and_lose_only_sharpness(written: Written) -> None:
    count = 40_000
    with written.file.open("ab", buffering=0) as file:
        for at in range(count):
            file.write(b"%06d\n" % at)
            os.utime(written.file, (at, at))
            written.times.note(["t1"])
    assert written.notes.stat().st_size <= times.MOST_BYTES
    for since in (0, 1, 137, 20_000, count - 1):
        first = int(written.since(float(since))[:6])
        assert since - 8 <= first <= since
