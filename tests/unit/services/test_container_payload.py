"""What a container may be given: what is read, and what is refused wherever it would run."""

import json
from typing import Any
from unittest.mock import Mock

import pydantic
import pytest

from orca_master.app.parts import Parts
from orca_master.http.meters import HttpMeters
from orca_master.services.payload import ServiceIn
from orca_master.tasks.model import Container, Device, Mount, Volume


def parse(**fields: Any) -> ServiceIn:
    return ServiceIn.model_validate_json(json.dumps({"name": "a", "image": "x"} | fields))


def refusal(**fields: Any) -> str:
    with pytest.raises(pydantic.ValidationError) as refused:
        parse(**fields)
    return str(refused.value)


def test_every_field_reaches_the_spec() -> None:
    spec = parse(
        entrypoint=["/init", "-v"],
        devices=[{"path": "/dev/snd", "permissions": "r"}],
        mounts=[{"source": "/srv/www", "target": "/www", "read_only": True}],
        volumes=[{"name": "data", "target": "/data"}],
        aliases=["db"],
        security="restricted",
        user="1000",
        stop_signal="SIGINT",
        log={"max_size": "2Mi", "max_files": 5},
        pull_policy="if-not-present",
    ).spec()
    assert spec.container == Container(
        entrypoint=("/init", "-v"),
        devices=(Device("/dev/snd", "r"),),
        mounts=(Mount("/srv/www", "/www", True),),
        volumes=(Volume("data", "/data"),),
        aliases=("db",),
        security="restricted",
    )
    assert (spec.stop_signal, spec.log_bytes, spec.log_files) == ("SIGINT", 2 << 20, 5)
    assert spec.pull_policy == "if-not-present"


def test_nothing_given_is_nothing_kept() -> None:
    spec = parse().spec()
    assert spec.container == Container()
    assert (spec.pull_policy, spec.stop_signal, spec.log_bytes) == ("auto", "", 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"privileged": True},
        {"network_mode": "host"},
        {"pid": "host"},
        {"ipc": "host"},
        {"uts": "host"},
        {"userns_mode": "host"},
        {"cgroupns": "host"},
        {"pid": "container:0123456789ab"},
        {"network_mode": "container:0123456789ab"},
        {"security_opt": ["seccomp=unconfined"]},
        {"sysctls": {"kernel.core_pattern": "|/x"}},
        {"ulimits": {"nofile": 1 << 30}},
        {"oom_score_adj": -1000},
        {"shm_size": "1Ti"},
        {"runtime": "other"},
        {"cgroup_parent": "/"},
        {"labels": {"orca.task": "other"}},
        {"extra_hosts": ["x:169.254.169.254"]},
        {"dns": ["169.254.169.254"]},
        {"mounts": [{"source": "/srv/a", "target": "/a", "propagation": "rshared"}]},
        {"volumes": [{"name": "a", "target": "/a", "driver_opts": {"o": "bind", "device": "/"}}]},
        {"volumes": [{"name": "a", "target": "/a", "project": "other"}]},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_what_would_open_the_machine_is_no_field_ce_01_ce_04_ce_05_ce_08_ce_09_ce_12_ce_13_ce_15_ce_16(
    fields: dict[str, Any],
) -> None:
    assert "Extra inputs are not permitted" in refusal(**fields)


@pytest.mark.parametrize(
    "source",
    ["/", "/etc", "/etc/shadow", "/proc", "/proc/1", "/sys", "/var/run/docker.sock", "/run", "/var",
     "/var/lib", "/var/lib/orca", "/var/lib/orca/worker/identity", "/root/.ssh", "/var/lib/docker"],
)  # fmt: skip
def test_the_machines_own_paths_are_refused_ce_06(source: str) -> None:
    words = refusal(mounts=[{"source": source, "target": "/x"}])
    assert "mounts.0.source" in words


@pytest.mark.parametrize(
    "source", ["srv", "", "/srv/../etc", "/srv//a", "/srv/.", "/srv/", "//srv", "/srv:/etc", "/s\0"]
)
def test_paths_that_would_have_to_be_resolved_are_refused_ce_07(source: str) -> None:
    refusal(mounts=[{"source": source, "target": "/x"}])
    refusal(mounts=[{"source": "/srv/x", "target": source}])


@pytest.mark.parametrize("name", ["../x", "a/b", "other_a_data_1", "A", "", "-a"])
def test_a_volume_is_named_by_its_own_name_only_ce_10(name: str) -> None:
    assert "volumes.0.name" in refusal(volumes=[{"name": name, "target": "/data"}])


def test_all_that_does_not_fit_together_comes_at_once() -> None:
    words = refusal(
        health="/",
        security="restricted",
        user="00:5",
        mounts=[{"source": "/srv/a", "target": "/a"}],
        volumes=[{"name": "v", "target": "/a"}, {"name": "v", "target": "/b"}],
        devices=[{"path": "/dev/snd"}, {"path": "/dev/snd"}],
    )
    for part in (
        "health and host_port need a port",
        "/a is a target twice",
        "volume v is given twice",
        "device /dev/snd is given twice",
        "restricted and user root exclude each other",
    ):
        assert part in words


def test_a_plain_process_has_no_container() -> None:
    words = refusal(image=None, command=["x"], aliases=["b"], entrypoint=["y"])
    assert "entrypoint, aliases need an image: only containers have that" in words


@pytest.mark.parametrize(
    "fields",
    [{"stop_signal": "SIGSTOP"}, {"stop_signal": "9"}, {"security": "none"}, {"pull_policy": "x"},
     {"log": {"max_size": "1Ki"}}, {"log": {"max_files": 0}}, {"aliases": ["a b"]},
     {"devices": [{"path": "/etc/passwd"}]}, {"devices": [{"path": "/dev/x", "permissions": "x"}]}],
)  # fmt: skip
def test_what_is_no_value_is_refused(fields: dict[str, Any]) -> None:
    assert next(iter(fields)) in refusal(**fields)


def test_there_is_no_way_to_run_something_in_a_container_ce_26() -> None:
    paths = [route.path for route in Parts.routes(Mock(meters=HttpMeters()))]
    assert paths
    assert [path for path in paths if "exec" in path or "attach" in path] == []
