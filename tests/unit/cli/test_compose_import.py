"""What `orca import compose` makes of compose files, and what it says of the rest."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from orca.compose.convert import escaped
from orca.compose.interpolation import BadVariable, env_file, substituted
from orca.compose.units import memory, seconds
from orca.main import cli
from orca.manifests import read_services

VARIABLES = {"SET": "value", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$SET ${SET}", "value value"),
        ("$$SET $${SET}", "$SET ${SET}"),
        ("${EMPTY:-a}${EMPTY-b}${GONE-c}", "ac"),
        ("${SET:-a}${SET:+b}${EMPTY:+c}${EMPTY+d}", "valuebd"),
        ("${GONE:-${SET}/${OTHER:-x}}", "value/x"),
        ("${SET:?must}", "value"),
        ("[$GONE]", "[]"),
    ],
)
def test_variables_are_taken_as_compose_takes_them(text: str, expected: str) -> None:
    assert substituted(text, VARIABLES, lambda name: None) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${EMPTY:?give it}", "EMPTY has to be set: give it"),
        ("${GONE?}", "GONE has to be set"),
        ("${SET", "not closed"),
        ("100$ off", "write \\$\\$ for a dollar"),
        ("${secrets.KEY}", "write \\$\\$ for a dollar"),
        ("${A:-" * 60 + "}" * 60, "too deeply"),
    ],
)
def test_what_is_no_variable_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadVariable, match=why):
        substituted(text, VARIABLES, lambda name: None)


def test_env_files_have_quotes_comments_and_variables() -> None:
    text = "# top\nA=1\nexport B=\"two $A\"\nC='$A' # c\nD=d # comment\nE=\nSET\nGONE\n"
    found = env_file(text, VARIABLES, lambda name: None)
    assert found == {"A": "1", "B": "two 1", "C": "$A", "D": "d", "E": "", "SET": "value"}


def test_units() -> None:
    assert [seconds(each) for each in ("1m30s", "500ms", "10", 5, "1h")] == [90, 0.5, 10, 5, 3600]
    assert [memory(each) for each in ("512m", "1gb", "1.5G", 8 << 20)] == [
        "512Mi", "1024Mi", "1536Mi", "8Mi"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no duration"):
        seconds("soon")
    with pytest.raises(ValueError, match="less than 6 MiB"):
        memory("1k")


def test_a_literal_reference_to_a_secret_stays_literal() -> None:
    assert escaped("${secrets.A} $${secrets.B} ${x} $") == "$${secrets.A} $$$${secrets.B} ${x} $"


def run(folder: Path, text: str, *options: str, **environment: str) -> Result:
    path = folder / "compose.yaml"
    path.write_text(text)
    return CliRunner(env=environment).invoke(cli, ["import", "compose", str(path), *options])


def imported(folder: Path, service: str, *options: str) -> tuple[dict[str, Any], str]:
    """The one service of a file, and what is said of it."""
    done = run(folder, "services:\n  web:\n    image: app:1\n" + service, *options)
    assert done.exit_code == 0, done.output
    (found,) = yaml.safe_load(done.stdout)["services"]
    return found, done.stderr


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ("command: echo 'a b'", "command", ["echo", "a b"]),
        ("entrypoint: [/run.sh, 1]", "entrypoint", ["/run.sh", "1"]),
        ("environment: {B: true, C: no, D: 010}", "env", {"B": "true", "C": "no", "D": "010"}),
        ("environment: [A=1, B=x=y]", "env", {"A": "1", "B": "x=y"}),
        ("ports: [22:23]", "port", 23),
        ("ports: [22:23]", "host_port", 22),
        ("ports: ['[::1]:8080:80']", "host_port", 8080),
        ("ports: [{target: 80, published: '8080'}]", "host_port", 8080),
        ("expose: [9000/tcp]", "port", 9000),
        ("volumes: [my_data:/d:ro]", "volumes", [{"name": "my-data", "target": "/d", "read_only": True}]),
        ("healthcheck: {test: [NONE]}", "readiness", None),
        ("deploy: {replicas: '3'}", "replicas", 3),
        ("scale: 2", "replicas", 2),
        ("mem_limit: 64m", "resources", {"memory": "64Mi"}),
        ("stop_grace_period: 1m", "stop_grace_seconds", 60.0),
        ("stop_signal: INT", "stop_signal", "SIGINT"),
        ("networks: {default: {aliases: [api]}}", "aliases", ["api"]),
        ("logging: {options: {max-size: 10m, max-file: '3'}}", "log", {"max_size": "10Mi", "max_files": 3}),
        ("secrets: [db]", "files", [{"path": "/run/secrets/db", "secret": "db"}]),
        (
            "deploy: {placement: {constraints: [node.labels.disk == ssd, node.hostname==n1]}}",
            "placement",
            {"rules": ["disk = ssd"], "node": "n1"},
        ),
        (
            "deploy: {update_config: {parallelism: 0, order: stop-first, failure_action: rollback}}",
            "deploy",
            {"max_parallel": "100%", "order": "stop-first", "on_failure": "revert"},
        ),
    ],
)  # fmt: skip
def test_each_field_becomes_its_counterpart(
    tmp_path: Path, given: str, field: str, expected: object
) -> None:
    assert imported(tmp_path, f"    {given}\n")[0].get(field) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("labels: {a: b}", "services.web.labels: labels of containers"),
        ("ports: ['80:80', '443:443']", "services.web.ports.1: a service has one port"),
        ("ports: ['53:53/udp']", "services.web.ports.0: only TCP"),
        ("volumes: ['/var/run/docker.sock:/s']", "services.web.volumes.0: /var/run/docker.sock is never"),
        ("volumes: [/data]", "services.web.volumes.0: an anonymous"),
        ("build: .", "services.web.build: is not carried"),
        ("extends: {service: x}", "services.web.extends: write it out"),
        ("depends_on: [gone]", "services.web.depends_on.gone: is left out"),
        ("restart: no", "services.web.restart: no is not carried"),
        ("privileged: true", "services.web.privileged: containers are never"),
        ("environment: {A: $$X, B: $GONE}", "variable GONE is not set, and empty"),
        ("secrets: [db]", "orca secrets set db"),
    ],
)  # fmt: skip
def test_what_is_not_carried_is_told_with_its_path(tmp_path: Path, given: str, said: str) -> None:
    assert said in imported(tmp_path, f"    {given}\n")[1]


def test_an_extension_is_passed_over_and_anchors_are_written_out(tmp_path: Path) -> None:
    text = (
        "x-all: &all {LOG: info}\nservices:\n  a: {image: i, environment: *all, x-mine: 1}\n"
        "  b: {image: i, environment: {<<: *all, B: 2}}\n"
    )
    done = run(tmp_path, text, "-o", str(tmp_path / "out"))
    assert (done.exit_code, done.stderr) == (0, "")
    read = [read_services(str(tmp_path / "out" / f"{name}.yaml"))[0] for name in "ab"]
    assert [each["env"] for each in read] == [{"LOG": "info"}, {"LOG": "info", "B": "2"}]


def test_profiles_are_chosen_and_images_given(tmp_path: Path) -> None:
    text = "services: {a: {build: .}, b: {image: i, profiles: [debug]}}"
    done = run(tmp_path, text)
    assert done.exit_code == 1
    assert "services.a: has no image: say --image a=IMAGE" in done.stderr
    assert "services.b.profiles: is left out; --profile debug takes it" in done.stderr
    done = run(tmp_path, text, "--image", "a=r/a:1", "--profile", "debug", "-p", "shop")
    assert done.exit_code == 0
    found = yaml.safe_load(done.stdout)["services"]
    assert [(each["name"], each["image"]) for each in found] == [("a", "r/a:1"), ("b", "i")]
    assert {each["project"] for each in found} == {"shop"}


def test_env_files_are_read_beside_the_file_and_the_environment_goes_first(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TAG=from-file\nMODE=file\n")
    (tmp_path / "web.env").write_text("A=1\nB=$TAG\n")
    text = (
        "services:\n  web:\n    image: app:${TAG}\n    env_file: web.env\n"
        "    environment: {A: 2, M: $MODE}\n"
    )
    done = run(tmp_path, text, MODE="environment")
    (found,) = yaml.safe_load(done.stdout)["services"]
    assert found["image"] == "app:from-file"
    assert found["env"] == {"A": "2", "B": "from-file", "M": "environment"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: b", "services: {}", "services: {web: 1}", "{", "services: {web: {image: '${X'}}",
     "services: {web: {image: a, deploy: 3}}", "services: {web: {image: a, depends_on: 5}}",
     "services: {web: {image: a, networks: 5}}", "services: {web: {image: a, ports: [x]}}",
     "services: {web: {image: a, logging: x}}", "services: {web: {image: a, healthcheck: {test: 5}}}",
     "services: {web: {image: a, deploy: {resources: 5}}}"],
)  # fmt: skip
def test_what_is_no_compose_file_is_refused_without_a_traceback(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text)
    assert done.exit_code in (1, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
