"""Damage on the disk: an incomplete end is cut, everything else refuses to start and says where."""

import re

import pytest
from crash_check import flips
from recorder import FOLDER, Recorder, a_log, numbered, recovered, running
from structlog.testing import capture_logs

from orca_master.state.log import DamagedLog
from orca_master.state.solo import records
from sim.disk import Image, SimDisk
from sim.env import sim_env

OPTIONS = {"segment_bytes": 200, "snapshot_every_entries": 10_000}


async def an_image(entries: list[bytes], **options: int) -> Image:
    disk = SimDisk()
    async with running(a_log(sim_env(1, disk), **OPTIONS | options), Recorder()) as log:
        for entry in entries:
            await log.propose(entry)
    return disk.image()


def files(image: Image, suffix: str) -> list[str]:
    return sorted(path for path in image if path.endswith(suffix))


async def start_on(image: Image, **options: int) -> list[bytes]:
    return await recovered(sim_env(2, SimDisk(image)), **OPTIONS | options)


async def refused(image: Image, **options: int) -> str:
    with pytest.raises(DamagedLog) as caught:
        await start_on(image, **options)
    return str(caught.value)


async def test_a_torn_tail_is_cut_and_nothing_acknowledged_is_lost_co_24():
    entries = numbered(10)
    image = await an_image(entries)
    last = files(image, ".log")[-1]
    whole = len(image[last])
    record = records.RECORD_BYTES + len(entries[0])
    for cut in range(whole - record, whole):
        disk = SimDisk(image)
        disk.put(last, image[last][:cut])
        with capture_logs() as said:
            assert await recovered(sim_env(2, disk), **OPTIONS) == entries[:-1]
        assert bool(said) == (cut > whole - record)
        if said:
            assert said[0]["file"] == last
            assert said[0]["offset"] == whole - record
        async with running(a_log(sim_env(3, disk), **OPTIONS), Recorder()) as log:
            await log.propose(b"goes on")
        assert await recovered(sim_env(4, disk), **OPTIONS) == [*entries[:-1], b"goes on"]


async def test_every_flipped_bit_before_the_last_record_refuses_with_file_and_offset_co_24():
    entries = numbered(15, size=4)
    image = await an_image(entries)
    paths = files(image, ".log")
    assert len(paths) >= 2
    assert len(image[paths[-1]]) > 130, "the last file has a middle too"
    seen = 0
    for path in paths:
        end = len(image[path])
        if path == paths[-1]:
            end -= records.RECORD_BYTES + len(entries[0])
        for byte, bit in flips(end):
            disk = SimDisk(image)
            disk.flip(path, byte=byte, bit=bit)
            with pytest.raises(DamagedLog) as caught:
                await recovered(sim_env(2, disk), **OPTIONS)
            offset = re.search(r"damaged at byte (\d+)", str(caught.value))
            assert path in str(caught.value)
            assert offset is not None
            assert int(offset[1]) <= byte
            seen += 1
    assert seen > 3000


async def test_a_refused_start_changes_nothing_on_the_disk():
    image = await an_image(numbered(12))
    disk = SimDisk(image)
    disk.flip(files(image, ".log")[0], byte=60, bit=0)
    before = disk.image()
    with pytest.raises(DamagedLog, match="restore it from a backup"):
        await recovered(sim_env(2, disk), **OPTIONS)
    assert disk.image() == before


async def test_a_missing_file_anywhere_refuses():
    image = await an_image(numbered(30))
    paths = files(image, ".log")
    assert len(paths) >= 4
    for path in paths[:-1]:
        missing = {name: raw for name, raw in image.items() if name != path}
        assert "missing" in await refused(missing)


async def test_files_in_the_wrong_order_refuse():
    image = await an_image(numbered(30))
    first, second = files(image, ".log")[:2]
    swapped = image | {first: image[second], second: image[first]}
    assert "it was written as the file of entry" in await refused(swapped)


async def test_a_whole_record_in_the_wrong_place_refuses():
    image = await an_image([])
    (path,) = files(image, ".log")
    header = records.decode_header(records.LOG_MAGIC, image[path])
    assert header is not None
    for index, term, what in ((4, 1, "entry 4 follows entry 1"), (2, 0, "terms go backwards")):
        record = records.encode_record(header.seed, index=index, term=term, payload=b"x")
        assert what in await refused(image | {path: image[path] + record})


async def test_a_folder_whose_log_is_gone_refuses_rather_than_begin_with_nothing():
    image = await an_image(numbered(3))
    only_identity = {path: raw for path, raw in image.items() if not path.endswith(".log")}
    assert "missing" in await refused(only_identity)


async def test_a_folder_whose_identity_is_gone_or_garbled_refuses():
    image = await an_image(numbered(3))
    identity = f"{FOLDER}/identity"
    assert "identity file is gone" in await refused(
        {path: raw for path, raw in image.items() if path != identity}
    )
    assert "identity is damaged" in await refused(image | {identity: b"{]"})


async def test_every_flipped_bit_of_the_newest_snapshot_falls_back_to_the_older_one():
    entries = numbered(20, size=4)
    options = {"snapshot_every_entries": 8}
    image = await an_image(entries, **options)
    older, newest = files(image, ".snapshot")
    for byte, bit in flips(len(image[newest])):
        disk = SimDisk(image)
        disk.flip(newest, byte=byte, bit=bit)
        with capture_logs() as said:
            assert await recovered(sim_env(2, disk), **OPTIONS | options) == entries
        assert any("a snapshot is damaged" in line["event"] for line in said)
        assert files(disk.image(), ".snapshot") == [older]
        assert newest + ".damaged" in disk.image()


async def test_whatever_the_sizes_the_log_reaches_back_to_the_older_snapshot():
    entries = numbered(40, size=4)
    for every in range(3, 12):
        for segment_bytes in range(60, 200, 14):
            options = {"snapshot_every_entries": every, "segment_bytes": segment_bytes}
            image = await an_image(entries, **options)
            newest = files(image, ".snapshot")[-1]
            assert await start_on(image | {newest: image[newest][:-1]}, **options) == entries


async def test_the_only_snapshot_damaged_falls_back_to_the_whole_log():
    entries = numbered(12)
    options = {"snapshot_every_entries": 10}
    image = await an_image(entries, **options)
    (only,) = files(image, ".snapshot")
    assert await start_on(image | {only: image[only][:-1]}, **options) == entries


async def test_both_snapshots_damaged_refuse_because_the_log_no_longer_covers_the_gap():
    options = {"snapshot_every_entries": 8}
    image = await an_image(numbered(40), **options)
    harmed = {path: image[path][:-1] for path in files(image, ".snapshot")}
    assert "No older snapshot" in await refused(image | harmed, **options)


async def test_a_snapshot_cut_at_any_byte_is_never_taken_for_a_whole_one():
    entries = numbered(20, size=4)
    options = {"snapshot_every_entries": 8}
    image = await an_image(entries, **options)
    newest = files(image, ".snapshot")[-1]
    for cut in range(len(image[newest])):
        assert await start_on(image | {newest: image[newest][:cut]}, **options) == entries


async def test_a_log_that_ends_before_its_snapshot_refuses():
    options = {"snapshot_every_entries": 8, "segment_bytes": 10_000}
    image = await an_image(numbered(8), **options)
    (path,) = files(image, ".log")
    header = image[path][: records.HEADER_BYTES]
    assert "a snapshot holds" in await refused(image | {path: header}, **options)


async def test_a_snapshot_that_the_machine_cannot_read_refuses_and_names_the_likely_cause():
    class Older(Recorder):
        def restoring(self):
            raise ValueError("format 2")

    options = {"snapshot_every_entries": 8}
    image = await an_image(numbered(20), **options)
    with pytest.raises(DamagedLog, match=r"format 2.*newer version"):
        await a_log(sim_env(1, SimDisk(image)), **options).start(Older())


async def test_a_payload_that_imitates_a_record_does_not_turn_a_torn_tail_into_damage():
    disk = SimDisk()
    seedless = records.encode_record(0, index=9, term=1, payload=b"forged")
    async with running(a_log(sim_env(1, disk)), Recorder()) as log:
        await log.propose(b"first")
        await log.propose(b"x" * 20 + seedless + b"y" * 20)
    (path,) = files(disk.image(), ".log")
    disk.put(path, disk.image()[path][:-5])
    assert await recovered(sim_env(2, disk)) == [b"first"]
