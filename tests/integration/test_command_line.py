"""The command line as people use it: what it prints and the codes it leaves with."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.conftest import RealCluster

ORCA = Path(sys.executable).parent / "orca"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(process_cluster: RealCluster, tmp_path: Path) -> Run:
    def orca(*words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ORCA_")}
        kept |= {"ORCA_DATA_DIR": str(process_cluster.folder), "HOME": str(tmp_path)} | environment
        return subprocess.run(
            [str(ORCA), *words], input=stdin, env=kept, capture_output=True, text=True, check=False
        )

    return orca


def a_file(folder: Path, *services: dict[str, object]) -> str:
    file = folder / "services.json"
    file.write_text(json.dumps({"services": services}))
    return str(file)


SLEEPER = {"name": "sleeper", "command": ["sleep", "1000"]}


async def test_a_service_from_first_to_last(run: Run, tmp_path: Path) -> None:
    assert "no services yet" in run("status").stdout
    done = run("deploy", a_file(tmp_path, SLEEPER))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sleeper: running")
    listed = run("status").stdout.splitlines()
    assert listed[0].split() == [
        "PROJECT",
        "SERVICE",
        "STATUS",
        "READY",
        "RUNS",
        "ADDRESSES",
        "REASON",
    ]
    assert listed[1].split()[:5] == ["default", "sleeper", "running", "1/1", "sleep"]
    assert "1 of 1 replicas ready" in run("status", "sleeper").stdout
    assert run("scale", "sleeper", "2").stdout == "sleeper: 2 replicas wanted\n"
    shown = json.loads(run("status", "-o", "json").stdout)
    assert shown["services"][0]["desired_replicas"] == 2
    assert run("stop", "sleeper").stdout == "sleeper: stopped\n"
    assert run("stop", "--all", "--purge").returncode == 0


async def test_services_come_from_toml_and_from_standard_input(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[[service]]\nname = "one"\ncommand = ["sleep", "1000"]\n')
    assert run("deploy", str(file)).returncode == 0
    done = run("deploy", "-", stdin=json.dumps(SLEEPER | {"name": "two"}))
    assert done.stdout.startswith("two: running")


async def test_what_fails_is_said_and_the_code_is_1(run: Run, tmp_path: Path) -> None:
    done = run("deploy", a_file(tmp_path, SLEEPER, {"name": "bad", "command": ["no-such"]}))
    assert done.returncode == 1
    assert done.stdout.startswith("sleeper: running")
    assert done.stderr == "error: bad: command not found: no-such\n"


async def test_every_mistake_of_a_file_is_listed(run: Run, tmp_path: Path) -> None:
    done = run("deploy", a_file(tmp_path, {"name": "B", "replicas": -1}))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "services.0.name: must be 1 to 63 characters" in done.stderr


async def test_unknown_services_are_a_1_with_a_way_on(run: Run) -> None:
    done = run("status", "nope")
    assert (done.returncode, done.stderr) == (
        1,
        "error: service not found: nope; `orca status` lists all\n",
    )
    assert run("scale", "nope", "1").stderr == "error: service not found: nope\n"


@pytest.mark.parametrize(
    "words",
    [
        ("scale", "a", "-1"),
        ("deploy",),
        ("deploy", "/no/such/file.json"),
        ("stop",),
        ("stop", "a", "--all"),
        ("bogus",),
    ],
)
async def test_wrong_usage_is_a_2(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).returncode == 2


async def test_no_master_is_a_3_with_a_way_on(run: Run, tmp_path: Path) -> None:
    done = run("status", ORCA_DATA_DIR=str(tmp_path / "none"))
    assert done.returncode == 3 or "default" in done.stdout
    done = run("--api", "http://127.0.0.1:9", "status")
    assert done.returncode == 3
    assert done.stderr.startswith("error: no master answers at http://127.0.0.1:9")


async def test_a_wrong_token_is_a_4_with_a_way_on(run: Run) -> None:
    done = run("--token", "wrong", "status")
    assert done.returncode == 4
    assert done.stderr == (
        "error: invalid token\nset ORCA_TOKEN; the first one is in the master's admin.token\n"
    )


async def test_nodes_and_a_token_to_join(run: Run) -> None:
    said = run("nodes").stdout.splitlines()
    assert said[0] == "cluster local, led by master-1"
    assert said[2].split()[:3] == ["worker-1", "ready", "process"]
    assert run("nodes", "token").stdout.startswith("orca-join-")


async def test_logs_are_printed(run: Run, tmp_path: Path) -> None:
    service = {"name": "talk", "command": ["sh", "-c", "echo one; echo two; sleep 1000"]}
    run("deploy", a_file(tmp_path, service))
    until = time.monotonic() + 10
    while (said := run("logs", "talk", "--tail", "1").stdout) != "two\n":
        assert time.monotonic() < until, said
        await asyncio.sleep(0.05)


async def test_up_again_says_so_and_down_without_a_cluster_too(run: Run, tmp_path: Path) -> None:
    assert "cluster is ready" in run("up").stdout
    assert "nothing was running" in run("down", "--data-dir", str(tmp_path / "none")).stdout


async def test_a_port_that_is_taken_is_named(
    run: Run, process_cluster: RealCluster, tmp_path: Path
) -> None:
    port = str(process_cluster.port)
    done = run("up", "--data-dir", str(tmp_path / "second"), "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} is in use: choose another with --port\n"


async def test_a_slow_deploy_tells_its_progress_and_rm_forgets(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(
        "name: slow\nport: 8000\nhealth: /\ncommand:\n"
        f"  - sh\n  - -c\n  - sleep 3; exec {sys.executable} -m http.server $PORT --bind 127.0.0.1\n"
    )
    done = run("deploy", str(file))
    assert done.returncode == 0, done.stderr
    assert "slow: pending, 0/1: replica 1: readiness check http /" in done.stderr
    assert run("rm", "slow").stdout == "slow: removed\n"
    assert "no services yet" in run("status").stdout


async def test_tokens_and_contexts(run: Run, process_cluster: RealCluster, tmp_path: Path) -> None:
    made = run("tokens", "create", "ci", "--role", "viewer", "--ttl", "1d")
    (tmp_path / "ci.token").write_text(made.stdout)
    assert "viewer" in run("tokens").stdout
    added = run(
        "context",
        "add",
        "there",
        "--api",
        process_cluster.api,
        "--token-file",
        str(tmp_path / "ci.token"),
    )
    assert added.stdout == "there is used from now on\n"
    assert run("status").returncode == 0
    assert run("stop", "--all").returncode == 4, "it is spoken to with the viewer's token"
    assert run("context", "use", "-").returncode == 0
    assert run("tokens", "revoke", "ci").stdout == "revoked token ci\n"
    assert run("context", "use", "there").returncode == 0
    assert run("status").returncode == 4
    assert run("context", "rm", "nowhere").returncode == 1
    assert run("tokens", "create", "x", "--role", "viewer", "--ttl", "soon").returncode == 2


async def test_versions_and_completion(run: Run) -> None:
    assert run("version").stdout.splitlines() == ["orca 0.1.0", "master-1 0.1.0"]
    for shell in ("zsh", "fish"):
        assert "_ORCA_COMPLETE" in run("completion", shell).stdout
