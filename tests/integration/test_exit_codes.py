"""Each class of commands leaves with each code that it can: 0, 1, 2, 3 and 4."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from inprocess import free_port
from integration.conftest import RealCluster, running
from orca.main import COMMANDS, cli

ORCA = str(Path(sys.executable).parent / "orca")

DONE = [
    ["plan", "GOOD"], ["deploy", "GOOD"], ["status"],
    ["status", "web", "-o", "yaml"], ["status", "web", "--explain"],
    ["scale", "web", "1"],
    ["logs", "web"], ["nodes"], ["nodes", "token", "--ttl", "10m"], ["masters"], ["masters", "list"],
    ["masters", "status"], ["masters", "token"], ["tokens"], ["tokens", "list"],
    ["tokens", "create", "viewer", "--role", "viewer"], ["audit"], ["events"], ["context"],
    ["context", "add", "here", "--api", "API"], ["context", "use", "-"], ["context", "rm", "here"],
    ["version"], ["completion", "zsh"], ["history", "web"], ["diff", "web", "1", "1"],
    ["deployments", "web"], ["restart", "web"], ["rollback", "web", "--to", "1"],
    ["import", "compose", "COMPOSE"],
    ["deploy", "CANARY", "--no-wait"], ["pause", "web"], ["resume", "web", "--no-wait"],
    ["promote", "web"],
    ["certs"], ["certs", "acme"],
    ["certs", "acme", "on", "--agree", "--email", "me@example.com", "--directory", "https://localhost:1/"],
    ["certs", "acme", "off"], ["routes"],
    ["secrets", "list"], ["secrets", "usage"], ["registry", "list"], ["webhooks", "list"],
    ["routes"], ["routes", "explain", "http://app.example.com/"], ["certs"],
    ["webhooks", "add", "--repo", "a/b", "--service", "web", "--image", "a:1"],
    ["webhooks", "test", "web"], ["webhooks", "deliveries", "web"], ["webhooks", "rotate", "web"],
    ["webhooks", "remove", "web"], ["stop", "web"], ["start", "web"], ["stop", "web"],
    ["rm", "web"],
    ["tokens", "revoke", "viewer"],
    ["nodes", "drain", "worker-1"], ["nodes", "undrain", "worker-1"],
    ["nodes", "label", "worker-1", "disk=ssd"],
]  # fmt: skip
REFUSED = [
    ["deploy", "BAD"], ["deploy", "INVALID"], ["status", "nope"], ["status", "nope", "--explain"],
    ["scale", "nope", "1"], ["promote", "nope"], ["rollback", "nope"], ["pause", "nope"],
    ["resume", "nope"], ["restart", "nope"], ["start", "nope"], ["history", "nope"],
    ["diff", "nope", "1", "2"], ["deployments", "nope"], ["webhooks", "remove", "nope"],
    ["webhooks", "test", "nope"], ["webhooks", "rotate", "nope"], ["webhooks", "deliveries", "nope"],
    ["webhooks", "redeliver", "nope", "1"], ["webhooks", "add", "--repo", "a/b", "--service", "nope"],
    ["nodes", "drain", "nope"], ["nodes", "rm", "nope"], ["nodes", "label", "nope", "a=b"],
    ["logs", "nope"], ["logs", "nope", "-f"], ["events", "--kind", "nope"], ["stop", "nope"], ["rm", "nope"],
    ["masters", "remove", "nope"], ["masters", "transfer"], ["tokens", "revoke", "nope"],
    ["context", "use", "nope"], ["context", "rm", "nope"], ["scale", "../../tokens", "1"],
    ["certs", "renew", "nope"], ["certs", "rm", "nope"], ["routes", "explain", "nonsense"],
    ["certs", "acme", "on", "--agree", "--directory", "nonsense"],
    ["registry", "logout", "nope.example"], ["registry", "logout", "https://nope.example/"],
    ["certs", "rm", "nope"], ["certs", "set", "a", "--cert", "GOOD", "--key", "GOOD"],
    ["up", "--port", "TAKEN", "--data-dir", "ELSEWHERE"], ["import", "compose", "BUILT"],
]  # fmt: skip
USAGE = [
    ["nope"], ["plan"], ["deploy"], ["deploy", "/no/such/file"], ["deploy", "GOOD", "--timeout", "0"],
    ["status", "-o", "xml"], ["status", "--explain"], ["scale", "web", "-1"], ["logs"],
    ["logs", "web", "--since", "soon"],
    ["logs", "web", "--replica", "first"], ["logs", "web", "--tail", "-1"], ["stop"],
    ["stop", "web", "--all"], ["rm"], ["nodes", "token", "--ttl", "soon"],
    ["nodes", "drain"], ["nodes", "rm"], ["diff", "web"], ["rollback", "web", "--to", "0"],
    ["certs", "acme", "on"], ["certs", "set", "x"], ["certs", "renew"], ["routes", "explain"],
    ["secrets", "rm"], ["registry", "login"], ["registry", "logout"],
    ["routes", "explain"], ["certs", "rm"], ["certs", "set", "a"],
    ["certs", "set", "a", "--cert", "-", "--key", "-"],
    ["import", "compose"], ["import", "compose", "BAD"],
    ["promote"], ["start"], ["pause"], ["resume"], ["restart"], ["history"], ["deployments"],
    ["webhooks", "add", "--repo", "a/b"], ["webhooks", "redeliver", "x", "y"],
    ["nodes", "label", "worker-1", "disk"], ["nodes", "drain", "x", "--force", "--deadline", "1h"],
    ["nodes", "undrain", "--nope"], ["audit", "-f", "--limit", "-1"],
    ["events", "--since", "yesterday"], ["events", "--since", "1", "--tail", "1"],
    ["masters", "remove"], ["tokens", "create", "x"], ["audit", "--limit", "0"],
    ["context", "add", "x", "--api", "no address"], ["--api", "host:6880", "status"],
    ["--context", "nope", "status"], ["completion", "sh"], ["up", "--masters", "0"],
    ["version", "--nope"], ["down", "--nope"],
]  # fmt: skip
ASKS = [
    ["deploy", "GOOD"], ["status"], ["scale", "web", "1"], ["logs", "web"], ["logs", "web", "-f"],
    ["stop", "web"], ["rm", "web"], ["nodes"], ["nodes", "token"], ["masters"],
    ["nodes", "drain", "worker-1"], ["audit", "-f"], ["events"], ["events", "-f"],
    ["promote", "web"], ["rollback", "web"],
    ["pause", "web"], ["resume", "web"], ["restart", "web"], ["start", "web"], ["history", "web"],
    ["diff", "web", "1", "2"], ["deployments", "web"], ["webhooks", "list"], ["webhooks", "test", "x"],
    ["masters", "status"], ["masters", "transfer"], ["tokens"], ["tokens", "revoke", "x"],
    ["audit"], ["version"], ["registry", "list"], ["registry", "logout", "r.example"],
    ["routes"], ["certs", "rm", "a"],
]  # fmt: skip


class Commands:
    """Runs `orca` against one cluster; words in capitals stand for files and addresses."""

    def __init__(self, cluster: RealCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        (folder / "good.yaml").write_text("name: web\ncommand: [sleep, '1000']\n")
        (folder / "bad.json").write_text('{"name": "bad", "command": ["no-such-program"]}')
        (folder / "invalid.toml").write_text('[[service]]\nname = "UPPER"\n')
        steps = "[{weight: 10, pause: true}, {weight: 50, pause: true}]"
        canary = (
            "name: web\ncommand: [sleep, '1001']\n"
            f"deploy: {{strategy: canary, canary: {{steps: {steps}}}}}\n"
        )
        (folder / "canary.yaml").write_text(canary)
        (folder / "ends.yaml").write_text("name: web\ncommand: [sh, -c, exit 3]\n")
        slow = "name: web\ncommand: [sleep, '1002']\nport: 8080\nhealth: /never\n"
        (folder / "slow.yaml").write_text(slow)
        (folder / "compose.yaml").write_text("services: {web: {image: nginx}}")
        (folder / "built.yaml").write_text("services: {web: {build: .}}")
        self._words = {
            "COMPOSE": str(folder / "compose.yaml"),
            "BUILT": str(folder / "built.yaml"),
            "CANARY": str(folder / "canary.yaml"),
            "ENDS": str(folder / "ends.yaml"),
            "GOOD": str(folder / "good.yaml"),
            "SLOW": str(folder / "slow.yaml"),
            "BAD": str(folder / "bad.json"),
            "INVALID": str(folder / "invalid.toml"),
            "API": cluster.api,
            "TAKEN": str(cluster.port),
            "ELSEWHERE": str(folder / "elsewhere"),
        }

    async def code(self, words: list[str], **environment: str) -> tuple[int | None, str]:
        """(exit code, what standard error says)"""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORCA_", "XDG_"))}
        kept |= {"HOME": str(self._folder), "ORCA_DATA_DIR": str(self._cluster.folder)}
        process = await asyncio.create_subprocess_exec(
            ORCA,
            *(self._words.get(word, word) for word in words),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=kept | environment,
        )
        async with asyncio.timeout(90):
            _, err = await process.communicate()
        return process.returncode, err.decode()

    async def code_here(self, words: list[str], **environment: str) -> tuple[int | None, str]:
        """The same without a process of its own, which takes half a second: for all but the first."""
        variables: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("ORCA_", "XDG_"))
        }
        variables |= {"HOME": str(self._folder), "ORCA_DATA_DIR": str(self._cluster.folder)}
        runner = CliRunner(env=variables | environment)
        given = [self._words.get(word, word) for word in words]
        done = await asyncio.to_thread(runner.invoke, cli, given, prog_name="orca")
        return done.exit_code, done.stderr


async def test_every_class_of_commands_leaves_with_the_right_code(tmp_path: Path) -> None:
    async with running(tmp_path / "orca", "process", 1) as cluster:
        commands = Commands(cluster, tmp_path)

        async def check(
            cases: list[list[str]], code: int, said: str, *before: str, **environment: str
        ) -> None:
            for number, words in enumerate(cases):
                run = commands.code if number == 0 else commands.code_here
                found, err = await run([*before, *words], **environment)
                assert (words, found) == (words, code), err
                assert said in err, words
                assert "Traceback" not in err, words

        await check([["deploy", "GOOD"]], 0, "")
        await check([["deploy", "ENDS"]], 10, "error: web: replica 1: exited with code 3 (try 3")
        await check([["deploy", "SLOW", "--timeout", "0.1"]], 12, "error: web: still in progress")
        await check([["rollback", "web"]], 0, "")
        await check([["deploy", "CANARY"]], 11, "")
        await check([["rollback", "web"]], 0, "")
        await check(DONE, 0, "")  # one after the other: each needs what those before it made
        await check(REFUSED, 1, "error: ")
        await check(USAGE, 2, "Error: ")
        nobody = f"http://127.0.0.1:{free_port()}"
        await check(ASKS, 3, f"error: no master answers at {nobody} (", "--api", nobody)
        await check(ASKS, 4, "error: invalid token", ORCA_TOKEN="orca_wrong")
        async with cluster.client() as client:
            viewer = (await client.create_token("eyes", "viewer", project="shop"))["token"]
        reads = ("status", "logs", "history", "diff", "deployments", "webhooks", "events", "routes")
        forbidden = [words for words in ASKS if words[0] not in reads]
        await check(forbidden, 4, "error: this token ", ORCA_TOKEN=viewer)
        assert (await commands.code(["down"]))[0] == 0


@pytest.mark.parametrize("cases", [DONE, USAGE], ids=["done", "usage"])
def test_every_command_is_among_the_cases(cases: list[list[str]]) -> None:
    named = {word for words in cases for word in words}
    local = {"up", "down"}  # their 0 is what every other test begins and ends with
    without_usage = set() if cases is DONE else {"nodes", "tokens"}
    assert COMMANDS.keys() - named - local - without_usage == set()
