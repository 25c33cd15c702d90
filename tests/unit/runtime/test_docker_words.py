"""What the engine says, in our words and types; pure tables."""

from typing import Any

import pytest

from orca_proto.worker_pb2 import Device, Mount, Resources, Task, TaskSpec, Volume
from orca_worker.runtime.docker import spec as docker_spec
from orca_worker.runtime.docker.errors import pull_refusal, registry_of
from orca_worker.runtime.docker.policy import Pull, pull_of
from orca_worker.runtime.port import Phase, RuntimeRefusal

TASK = Task(id="0123456789abcdef", project="p", service="web", slot=2)


def made(
    spec: TaskSpec, *, labels: dict[str, str] | None = None, init: bool = False
) -> dict[str, Any]:
    """The engine's create body."""
    return docker_spec.create_config(
        TASK,
        spec,
        labels or {},
        sources=[mount.source for mount in spec.mounts],
        network="orca-p",
        init=init,
        node_address="10.0.0.7",
    )


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("nginx", "docker.io"),
        ("team/app:1", "docker.io"),
        ("localhost/app", "localhost"),
        ("127.0.0.1:5999/app:nope", "127.0.0.1:5999"),
        ("ghcr.io/team/app@sha256:abc", "ghcr.io"),
    ],
)
def test_an_image_names_its_registry(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("engine_says", "we_say"),
    [
        (
            "manifest for r.io/a:1 not found: manifest unknown: manifest unknown",
            "image r.io/a:1 not found: manifest unknown",
        ),
        (
            'Get "https://r.io/v2/": dial tcp: lookup r.io on 10.0.0.1:53: no such host',
            "registry r.io cannot be reached: dial tcp: lookup r.io on 10.0.0.1:53: no such host",
        ),
        (
            'Get "https://r.io/v2/": net/http: request canceled (Client.Timeout exceeded)',
            "registry r.io cannot be reached: net/http: request canceled (Client.Timeout exceeded)",
        ),
        (
            "pull access denied for r.io/a, repository does not exist or may require login",
            "registry r.io refuses access to image r.io/a:1: pull access denied for r.io/a, "
            "repository does not exist or may require login "
            "(asked as me: mend it)",
        ),
        ("no space left on device", "image r.io/a:1 cannot be pulled: no space left on device"),
    ],
)
def test_a_failed_pull_is_told_in_words(engine_says: str, we_say: str) -> None:
    assert pull_refusal("r.io/a:1", engine_says, "asked as me: mend it").reason == we_say


def test_limits_and_ports_reach_the_engine_in_its_units() -> None:
    spec = TaskSpec(
        image="app",
        limits=Resources(memory_bytes=1 << 20, cpu_millis=250),
        port=8080,
        host_port=80,
        env={"A": "1"},
    )
    config = made(spec, labels={"k": "v"})
    host = config["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (1 << 20, 1 << 20, 250_000_000)
    assert host["PortBindings"] == {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}]}
    assert sorted(config["Env"]) == ["A=1", "PORT=8080"]
    assert config["Labels"] == {"k": "v"}
    assert "Init" not in host
    assert "Cmd" not in config


def test_no_limit_and_no_port_are_not_mentioned() -> None:
    config = made(TaskSpec(image="app"), init=True)
    assert not {"Memory", "NanoCpus", "PortBindings"} & config["HostConfig"].keys()
    assert config["HostConfig"]["Init"] is True
    assert config["Env"] == []


def test_a_port_of_the_users_own_choice_is_kept() -> None:
    spec = TaskSpec(image="app", port=8080, env={"PORT": "9"})
    config = made(spec)
    assert config["Env"] == ["PORT=9"]


def test_a_name_is_for_people_and_valid() -> None:
    task = Task(id="0123456789abcdef", service="my/web", slot=2)
    short, full = docker_spec.container_names(task)
    assert short == "orca-my-web-2-01234567"
    assert full == "orca-my-web-2-0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
        ("1970-01-01T01:00:01+01:00", 1.0),
    ],
)
def test_times_are_unix_seconds(text: str, seconds: float) -> None:
    assert docker_spec.unix_time(text) == seconds


def answer(**state: Any) -> dict[str, Any]:
    labels = {"orca.task": "t", "maintainer": "somebody"}
    return {"Id": "abc", "State": state, "Config": {"Labels": labels}, "NetworkSettings": {}}


def test_a_container_that_could_not_start_is_still_only_created() -> None:
    found = docker_spec.from_inspect(answer(Status="created", ExitCode=128))
    assert (found.phase, found.exit_code, found.labels) == (
        Phase.CREATED,
        0,
        {"orca.task": "t"},
    )


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("created", Phase.CREATED),
        ("running", Phase.RUNNING),
        ("paused", Phase.RUNNING),
        ("exited", Phase.EXITED),
        ("dead", Phase.EXITED),
        ("removing", Phase.EXITED),
    ],
)
def test_every_word_of_the_engine_is_a_phase(word: str, phase: Phase) -> None:
    assert docker_spec.phase_of(word) is phase


def test_what_is_said_of_the_container_reaches_the_engine() -> None:
    spec = TaskSpec(
        image="app",
        entrypoint=["/init"],
        stop_signal="SIGINT",
        devices=[Device(path="/dev/null", permissions="r")],
        mounts=[Mount(source="/srv/a", target="/a", read_only=True)],
        volumes=[Volume(name="data", target="/data")],
        aliases=["db"],
        log_bytes=2 << 20,
        log_files=5,
    )
    labels = {"orca.cluster": "c", "orca.project": "p", "orca.service": "web", "orca.task": "t"}
    config = made(spec, labels=labels)
    host = config["HostConfig"]
    assert (config["Entrypoint"], config["StopSignal"]) == (["/init"], "SIGINT")
    assert host["LogConfig"]["Config"] == {"max-size": "2048k", "max-file": "5"}
    assert host["Devices"] == [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/null", "CgroupPermissions": "r"}
    ]
    bind, volume = host["Mounts"]
    assert (bind["Source"], bind["Target"], bind["ReadOnly"]) == ("/srv/a", "/a", True)
    assert bind["BindOptions"] == {"Propagation": "rprivate"}
    assert volume["Source"].endswith("_p_web_data_2")
    assert volume["VolumeOptions"]["Labels"].keys() == {
        "orca.cluster",
        "orca.project",
        "orca.service",
    }
    endpoints = config["NetworkingConfig"]["EndpointsConfig"]
    assert endpoints == {"orca-p": {"Aliases": ["db", "web"]}}


def test_a_restricted_container_has_nothing_to_gain() -> None:
    config = made(TaskSpec(image="app", security="restricted"))
    host = config["HostConfig"]
    assert config["User"] == "65534:65534"
    assert (host["CapDrop"], "CapAdd" in host) == (["ALL"], False)
    assert (host["ReadonlyRootfs"], sorted(host["Tmpfs"])) == (True, ["/run", "/tmp"])
    own = TaskSpec(
        image="app",
        security="restricted",
        user="1000",
        volumes=[Volume(name="scratch", target="/tmp")],
    )
    assert made(own)["User"] == "1000"
    assert "/tmp" not in made(own)["HostConfig"]["Tmpfs"]


def test_a_volume_is_its_slots_whatever_runs_there() -> None:
    labels = {"orca.cluster": "c"}
    again = Task(id="another", project="p", service="web", slot=2, revision=9)
    name = docker_spec.volume_name(TASK, "data", labels)
    assert name == docker_spec.volume_name(again, "data", labels)
    others = [
        docker_spec.volume_name(TASK, "data", {"orca.cluster": "d"}),
        docker_spec.volume_name(Task(project="q", service="web", slot=2), "data", labels),
        docker_spec.volume_name(Task(project="p", service="web", slot=1), "data", labels),
        docker_spec.volume_name(TASK, "other", labels),
    ]
    assert len({name, *others}) == 5


@pytest.mark.parametrize(
    ("image", "policy", "pull"),
    [
        ("app", "auto", Pull.FRESH),
        ("r.io:5000/app", "auto", Pull.FRESH),
        ("app:latest", "auto", Pull.FRESH),
        ("app:1", "auto", Pull.IF_NOT_PRESENT),
        ("app:1", "always", Pull.ALWAYS),
        ("app", "if-not-present", Pull.IF_NOT_PRESENT),
        ("app", "missing", Pull.IF_NOT_PRESENT),
        ("app", "", Pull.IF_NOT_PRESENT),
        ("app", "never", Pull.NEVER),
        ("app@sha256:" + "0" * 64, "always", Pull.IF_NOT_PRESENT),
        ("app@sha256:" + "0" * 64, "auto", Pull.IF_NOT_PRESENT),
        ("app:1@sha256:" + "0" * 64, "always", Pull.IF_NOT_PRESENT),
    ],
)
def test_a_policy_means_what_it_says(image: str, policy: str, pull: Pull) -> None:
    assert pull_of(image, policy) is pull


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(RuntimeRefusal, match="none of auto, if-not-present, always, never"):
        pull_of("app", "sometimes")
