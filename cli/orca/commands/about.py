"""version and completion."""

import subprocess
import sys

import click

from orca import show
from orca.client import OrcaError
from orca.commands.running import with_client
from orca_common.version import orca_version


@click.command()
@click.option("--client", "only_client", is_flag=True, help="Do not ask the cluster.")
def version(only_client: bool) -> None:
    """The versions of this program and of the cluster's masters."""
    click.echo(f"orca {orca_version()}")
    if only_client:
        return
    info = with_client(lambda client: client.cluster_info())
    for master in info["masters"]:
        click.echo(f"{show.clean(master['name'])} {show.clean(master['version'])}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete orca's commands: `eval "$(orca completion bash)"`."""
    command = [sys.executable, "-c", "from orca.main import main; main()"]
    done = subprocess.run(
        command,
        env={"_ORCA_COMPLETE": f"{shell}_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        raise OrcaError(done.stderr.strip() or f"{shell} is not supported here")
    click.echo(done.stdout)
