"""The client without asyncio, against a real cluster; and the examples of its page."""

import asyncio
import inspect
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import orca
from integration.conftest import RealCluster
from orca import CannotReach, Client, NotAllowed, Refused, SyncClient

PAGE = Path(__file__).parents[2] / "docs/client.md"
TALK = {"name": "talk", "command": ["sh", "-c", "echo one; echo two; exec sleep 1000"]}


def use(cluster: RealCluster) -> None:
    """From first to last, on whatever thread this is."""
    with SyncClient(cluster.apis, cluster.token) as client:
        assert client.health()["status"] == "ok"
        answer = client.deploy([TALK])
        assert (answer["deployed"], answer["errors"]) == (["talk"], [])
        assert [service["name"] for service in client.status()] == ["talk"]
        followed = client.logs("talk", follow=True, tail=2)
        read = b""
        while read.count(b"\n") < 2:
            read += next(followed)
        assert read == b"one\ntwo\n"
        followed.close()  # type: ignore[attr-defined]
        assert b"".join(client.logs("talk", tail=1)) == b"two\n"
        with pytest.raises(Refused, match="service not found: nope"):
            client.scale("nope", 1)
        client.stop("talk", purge=True)
    with SyncClient(cluster.apis, "wrong") as client, pytest.raises(NotAllowed):
        client.status()
    with SyncClient("http://127.0.0.1:9") as client, pytest.raises(CannotReach):
        client.health()


async def test_it_works_inside_and_outside_of_a_running_loop(process_cluster: RealCluster) -> None:
    use(process_cluster)
    await asyncio.get_running_loop().run_in_executor(None, use, process_cluster)
    assert [t.name for t in threading.enumerate() if t.name == "orca client"] == []


async def test_a_program_that_stops_reading_leaves_no_reader(process_cluster: RealCluster) -> None:
    with SyncClient(process_cluster.apis, process_cluster.token) as client:
        client.deploy([TALK])
        for chunk in client.logs("talk", follow=True):
            assert chunk
            break


def methods(of: type) -> set[str]:
    return {name for name in vars(of) if not name.startswith("_")}


def test_it_has_every_method_of_the_asynchronous_one() -> None:
    assert methods(SyncClient) - methods(Client) == {"wait", "iterate"}
    assert methods(Client) - methods(SyncClient) == set()
    assert all(inspect.getdoc(vars(SyncClient)[name]) is not None for name in ("deploy", "logs"))


def test_without_a_context_it_says_how_to() -> None:
    with pytest.raises(RuntimeError, match="with SyncClient"):
        SyncClient("http://127.0.0.1:9").health()


async def test_the_examples_of_the_page_run(
    process_cluster: RealCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ORCA_API", process_cluster.api)
    monkeypatch.setenv("ORCA_TOKEN", process_cluster.token)
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        names: dict[str, Any] = {"__name__": "example"}
        await asyncio.get_running_loop().run_in_executor(None, exec, example, names)
        assert "ticker: running, 1 of 1" in capsys.readouterr().out


def test_what_the_package_exports_is_there() -> None:
    assert all(getattr(orca, name).__name__ == name for name in orca.__all__)
    with pytest.raises(AttributeError, match="nope"):
        orca.nope  # noqa: B018
