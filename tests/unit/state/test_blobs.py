"""Blobs: whole or not there, whatever happens in between; collected only when long unreferenced."""

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator, Iterable

import msgspec
import pytest

from orca_common.env import Env
from orca_common.real import real_env
from orca_master.errors import NotFound, StorageFull, TooLarge
from orca_master.state.blobs import Blob, Blobs, path_of, referenced
from orca_master.state.rows import State
from orca_master.state.table import Schema, Table
from orca_master.state.versions import OlderThanCluster
from sim.disk import SimDisk
from sim.env import SimClock, sim_env

FOLDER = "/data/blobs"
BODY = [b"first piece, ", b"second piece"]
SHA256 = hashlib.sha256(b"".join(BODY)).hexdigest()
PATH = path_of(FOLDER, SHA256)


async def pieces(*body: bytes) -> AsyncIterator[bytes]:
    for piece in body:
        yield piece


async def read(blobs: Blobs, sha256: str = SHA256) -> bytes:
    return b"".join([piece async for piece in blobs.get(sha256)])


async def started(disk: SimDisk, sources: Iterable["Source"] = ()) -> Blobs:
    blobs = Blobs(sim_env(1, disk), FOLDER, sources=lambda: list(sources))
    await blobs.start()
    return blobs


class Source:
    name = "other"

    def __init__(self, *body: bytes, fails: Exception | None = None) -> None:
        self._body = body
        self._fails = fails
        self.asked = 0

    async def blob(self, sha256: str) -> AsyncIterator[bytes]:
        self.asked += 1
        for piece in self._body:
            yield piece
        if self._fails is not None:
            raise self._fails


async def test_what_was_put_is_read_under_its_hash():
    disk = SimDisk()
    blobs = await started(disk)
    assert await blobs.put(pieces(*BODY)) == Blob(SHA256, 25)
    assert await blobs.put(pieces(*BODY), expected=SHA256) == Blob(SHA256, 25)
    assert await read(blobs) == b"".join(BODY)
    assert await blobs.has(SHA256)
    assert await blobs.all() == [Blob(SHA256, 25)]
    assert set(disk.image()) == {PATH}


async def test_on_a_real_disk_too(tmp_path):
    blobs = Blobs(real_env(threads=2), str(tmp_path / "blobs"))
    await blobs.start()
    large = [bytes([number]) * 700_000 for number in range(5)]
    blob = await blobs.put(pieces(*large))
    assert await read(blobs, blob.sha256) == b"".join(large)
    assert await blobs.all() == [blob]
    assert await blobs.collect(set(), grace_seconds=0) == [blob.sha256]
    assert await blobs.all() == []


async def test_too_much_or_the_wrong_bytes_leave_nothing():
    disk = SimDisk()
    blobs = await started(disk)
    with pytest.raises(TooLarge):
        await blobs.put(pieces(*BODY), most_bytes=24)
    with pytest.raises(ValueError, match=SHA256):
        await blobs.put(pieces(*BODY), expected="0" * 64)
    with pytest.raises(ConnectionResetError):
        await blobs.put(Source(b"x", fails=ConnectionResetError()).blob(""))
    assert disk.image() == {}


@pytest.mark.parametrize("name", ["", "x" * 64, SHA256.upper(), f"../{SHA256}", SHA256[:-1]])
async def test_a_name_that_is_no_hash_is_refused(name):
    blobs = await started(SimDisk())
    with pytest.raises(ValueError):
        await read(blobs, name)
    with pytest.raises(ValueError):
        await blobs.has(name)


async def test_a_put_that_is_cancelled_leaves_nothing():
    async def endless() -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.Event().wait()

    disk = SimDisk()
    blobs = await started(disk)
    putting = asyncio.ensure_future(blobs.put(endless()))
    while not disk.image():
        await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert disk.image() == {}


@pytest.mark.parametrize("room", [0, 5, 13, 20])
async def test_a_full_disk_leaves_no_half_file(room):
    disk = SimDisk()
    blobs = await started(disk)
    disk.capacity = room
    with pytest.raises(StorageFull, match="nothing was stored"):
        await blobs.put(pieces(*BODY))
    assert disk.image() == {}
    disk.capacity = None
    await blobs.put(pieces(*BODY))
    assert await read(blobs) == b"".join(BODY)


@pytest.mark.parametrize("verb", ["open_append", "write", "sync", "rename"])
async def test_trouble_with_the_disk_leaves_nothing(verb):
    disk = SimDisk()
    blobs = await started(disk)
    disk.fail_next(verb, OSError(errno.EIO, "broken"))
    with pytest.raises(OSError, match="broken"):
        await blobs.put(pieces(*BODY))
    assert disk.image() == {}


async def test_a_power_loss_at_any_step_leaves_the_whole_blob_or_none():
    disk = SimDisk()
    blobs = await started(disk)
    images: list[dict[str, bytes]] = []
    disk.before_change = lambda: images.extend(disk.crash_states())
    await blobs.put(pieces(*BODY))
    disk.before_change = lambda: None
    during = len(images)
    images.extend(disk.crash_states())
    assert during > 20
    for number, image in enumerate(images):
        after = SimDisk(image)
        again = await started(after)
        there = await again.all()
        assert there in ([], [Blob(SHA256, 25)])
        assert set(after.image()) == ({PATH} if there else set()), "half-written files are gone"
        if there:
            assert await read(again) == b"".join(BODY)
        assert there or number < during, "what was acknowledged stays"


async def test_a_damaged_blob_counts_as_missing_and_is_fetched():
    disk = SimDisk()
    liar, broken, honest = Source(b"lie"), Source(fails=OSError("gone")), Source(*BODY)
    blobs = await started(disk, [liar, broken, honest])
    await blobs.put(pieces(*BODY))
    disk.flip(PATH, byte=3, bit=1)
    assert await read(blobs) == b"".join(BODY)
    assert [source.asked for source in (liar, broken, honest)] == [1, 1, 1]
    assert disk.image() == {PATH: b"".join(BODY)}
    assert await read(blobs) == b"".join(BODY)
    assert honest.asked == 1, "it was mended"


async def test_a_blob_that_cannot_be_read_or_is_missing_is_fetched_or_not_found():
    disk = SimDisk()
    sources: list[Source] = []
    blobs = await started(disk, sources)
    with pytest.raises(NotFound):
        await read(blobs)
    await blobs.put(pieces(*BODY))
    disk.flip(PATH, byte=0, bit=0)
    with pytest.raises(NotFound):
        await read(blobs)
    sources.append(Source(*BODY))
    assert await read(blobs) == b"".join(BODY)


class Clockwork:
    """Blobs, and a clock for them that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0
        clock = SimClock()
        clock.monotonic = lambda: self.seconds  # type: ignore[method-assign]
        world = sim_env(1, SimDisk())
        self.blobs = Blobs(Env(clock, world.random, world.disk, world.threads), FOLDER)

    async def collected(self, *names: str, at: float) -> list[str]:
        self.seconds = at
        return await self.blobs.collect(set(names), grace_seconds=60)


async def test_only_what_was_unreferenced_for_the_whole_grace_is_collected():
    clockwork = Clockwork()
    await clockwork.blobs.start()
    other = (await clockwork.blobs.put(pieces(b"other"))).sha256
    await clockwork.blobs.put(pieces(*BODY))
    assert await clockwork.collected(SHA256, at=1000) == [], "found unreferenced for the first time"
    assert await clockwork.collected(SHA256, at=1059) == []
    assert await clockwork.collected(SHA256, other, at=1060) == [], "referenced again"
    assert await clockwork.collected(SHA256, at=1100) == []
    assert await clockwork.collected(SHA256, at=1160) == [other]
    assert [blob.sha256 for blob in await clockwork.blobs.all()] == [SHA256]


@pytest.mark.parametrize("use", ["put", "has", "get"])
async def test_using_a_blob_gives_it_the_grace_again(use):
    clockwork = Clockwork()
    await clockwork.blobs.start()
    await clockwork.blobs.put(pieces(*BODY))
    assert await clockwork.collected(at=0) == []
    if use == "put":
        await clockwork.blobs.put(pieces(*BODY))
    elif use == "has":
        assert await clockwork.blobs.has(SHA256)
    else:
        await read(clockwork.blobs)
    assert await clockwork.collected(at=100) == []
    assert await clockwork.collected(at=160) == [SHA256]


class Artifact(msgspec.Struct, frozen=True):
    id: str
    files: list[str]


ARTIFACTS = Table("artifacts", Artifact, key=lambda a: (a.id,), blobs=lambda a: a.files)
PLAIN = Table("plain", Artifact, key=lambda a: (a.id,))


def test_the_tables_say_what_their_rows_refer_to():
    state = State(Schema(ARTIFACTS, PLAIN))
    for table, row in [
        (ARTIFACTS, Artifact("1", ["a", "b"])),
        (ARTIFACTS, Artifact("2", ["b", "c"])),
        (PLAIN, Artifact("3", ["d"])),
    ]:
        state = state.changed(table.name, table.key(row), table.encode(row))
    assert referenced(state) == {"a", "b", "c"}


def test_an_older_master_does_not_judge_what_newer_rows_refer_to():
    with pytest.raises(OlderThanCluster):
        referenced(State(Schema(ARTIFACTS, version=1, cluster_version=lambda _: 2)))
