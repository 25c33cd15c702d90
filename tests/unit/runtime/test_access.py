"""Which paths and devices of a node a container may have."""

import os
from pathlib import Path

import pytest

from orca_proto.worker_pb2 import Device, Mount, TaskSpec
from orca_worker.runtime.docker.access import Access
from orca_worker.runtime.port import RuntimeRefusal


def mounting(*sources: Path | str) -> TaskSpec:
    return TaskSpec(mounts=[Mount(source=str(s), target=f"/{n}") for n, s in enumerate(sources)])


def refusal(access: Access, spec: TaskSpec) -> str:
    with pytest.raises(RuntimeRefusal) as refused:
        access.sources(spec)
    assert refused.value.permanent
    return refused.value.reason


def test_only_what_is_named_and_below_is_given(tmp_path: Path) -> None:
    allowed = tmp_path / "a"
    (allowed / "b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    access = Access([str(allowed)])
    assert access.sources(mounting(allowed, allowed / "b")) == [str(allowed), f"{allowed}/b"]
    words = refusal(access, mounting(tmp_path / "ab"))
    assert "is not allowed on this node: name it in allowed_host_paths" in words
    assert "is not allowed" in refusal(Access(), mounting(allowed))
    assert "make it first" in refusal(access, mounting(allowed / "none"))


def test_a_link_is_what_it_leads_to_ce_07(tmp_path: Path) -> None:
    allowed = tmp_path / "a"
    allowed.mkdir()
    (allowed / "out").symlink_to("/etc")
    (allowed / "in").symlink_to(allowed)
    access = Access([str(allowed)])
    assert "(which is /etc) is not allowed" in refusal(access, mounting(allowed / "out"))
    assert access.sources(mounting(allowed / "in")) == [str(allowed)]
    climbing = f"{allowed}/../../../../../../etc"
    assert "(which is /etc) is not allowed" in refusal(access, mounting(climbing))


@pytest.mark.parametrize("source", ["/", "/proc/1", "/sys", "/var/run/docker.sock"])
def test_some_paths_are_given_to_nobody_ce_06(source: str) -> None:
    assert "is never given to a container" in refusal(Access(["/"]), mounting(source))


def test_the_workers_own_folder_is_given_to_nobody_ce_06(tmp_path: Path) -> None:
    keys = tmp_path / "worker" / "identity"
    keys.mkdir(parents=True)
    access = Access([str(tmp_path)], data_dir=str(tmp_path / "worker"))
    assert "never given" in refusal(access, mounting(keys))
    assert "never given" in refusal(access, mounting(tmp_path))


def test_all_that_is_not_allowed_is_named_at_once(tmp_path: Path) -> None:
    spec = mounting("/srv", tmp_path)
    spec.devices.append(Device(path="/dev/null"))
    spec.devices.append(Device(path="/dev/none-such"))
    words = refusal(Access(devices=["/dev/none-such"]), spec)
    for part in ("/srv", str(tmp_path), "/dev/null is not allowed", "no device /dev/none-such"):
        assert part in words
    assert os.path.exists("/dev/null")
    assert Access(devices=["/dev/null"]).sources(TaskSpec(devices=[Device(path="/dev/null")])) == []
