"""version and completion."""

import subprocess
import sys
from typing import Any

import click

from orca import show
from orca.commands.running import REFUSED_EXIT, with_client
from orca_common.version import orca_version


@click.command()
@click.option("--client", "only_client", is_flag=True, help="Do not ask the cluster.")
@show.output_option
def version(only_client: bool, output: str) -> None:
    """The versions of this program and of the cluster's masters."""
    versions: dict[str, Any] = {"orca": orca_version()}
    if output == "table":
        click.echo(f"orca {orca_version()}")  # whatever comes of the question
    if not only_client:
        info = with_client(lambda client: client.cluster_info())
        versions["masters"] = {master["name"]: master["version"] for master in info["masters"]}
    if not show.structured(versions, output):
        for name, its_version in versions.get("masters", {}).items():
            show.say(f"{name} {its_version}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete orca's commands.

    \b
    eval "$(orca completion bash)"          in ~/.bashrc
    eval "$(orca completion zsh)"           in ~/.zshrc
    orca completion fish | source           in ~/.config/fish/config.fish
    """
    command = [sys.executable, "-c", "from orca.main import main; main()"]
    done = subprocess.run(
        command,
        env={"_ORCA_COMPLETE": f"{shell}_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        show.error(done.stderr.strip() or f"{shell} is not supported here")
        sys.exit(REFUSED_EXIT)
    click.echo(done.stdout)
