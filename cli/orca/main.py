"""`orca`: the command line. Commands are loaded when they are asked for, so that help is quick."""

from importlib import import_module
from keyword import iskeyword

import click

COMMANDS = {
    "up": ("orca.commands.local", "Start a real cluster on this machine."),
    "down": ("orca.commands.local", "Stop the local cluster and what it runs."),
    "deploy": ("orca.commands.services", "Deploy services from files."),
    "plan": ("orca.commands.rollouts", "What a deploy would do, without doing it."),
    "status": ("orca.commands.services", "What runs, and why not."),
    "scale": ("orca.commands.services", "Change a service's number of replicas."),
    "promote": ("orca.commands.rollouts", "Give a canary's revision to all replicas."),
    "rollback": ("orca.commands.rollouts", "Go back to what ran well before."),
    "pause": ("orca.commands.rollouts", "Hold a rollout where it is."),
    "resume": ("orca.commands.rollouts", "Let a paused rollout go on."),
    "restart": ("orca.commands.rollouts", "Replace all replicas of a service, as a rollout."),
    "history": ("orca.commands.rollouts", "Every revision of a service."),
    "diff": ("orca.commands.rollouts", "What is different between two revisions."),
    "deployments": ("orca.commands.rollouts", "How changes of a service went, and why."),
    "import": ("orca.commands.importing", "Service files from Docker Compose files."),
    "webhooks": ("orca.commands.webhooks", "Pushes to a repository that deploy a service."),
    "logs": ("orca.commands.logs", "Output of a service's replicas, now and from now on."),
    "start": ("orca.commands.rollouts", "Run stopped services again."),
    "stop": ("orca.commands.services", "Stop services; they can be started again."),
    "rm": ("orca.commands.services", "Stop services and forget them."),
    "routes": ("orca.commands.routes", "Which requests reach which service."),
    "certs": ("orca.commands.certs", "Certificates of domains, for HTTPS."),
    "masters": ("orca.commands.masters", "The masters: who leads, and how to add one."),
    "secrets": ("orca.commands.secrets", "Passwords and keys of services."),
    "registry": ("orca.commands.registry", "Accounts at private registries."),
    "tokens": ("orca.commands.tokens", "Who may reach the API."),
    "events": ("orca.commands.events", "What happens to services, replicas and nodes."),
    "audit": ("orca.commands.audit", "Who changed what."),
    "nodes": ("orca.commands.nodes", "The cluster's machines, and how to add one."),
    "context": ("orca.commands.contexts", "Several clusters, each with a name."),
    "version": ("orca.commands.about", "Versions of this program and of the masters."),
    "completion": ("orca.commands.about", "Make a shell complete orca's commands."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        attribute = f"{name}_" if iskeyword(name) else name
        command: click.Command = getattr(import_module(COMMANDS[name][0]), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from orca_common.version import orca_version  # reads the installation: slow

        click.echo(f"orca, version {orca_version()}")
        ctx.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--api", metavar="URL", help="Masters' addresses, with commas (ORCA_API).")
@click.option("--context", metavar="NAME", help="A cluster of `orca context` (ORCA_CONTEXT).")
@click.option("--token", metavar="TOKEN", help="A bearer token (better: ORCA_TOKEN).")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, api: str | None, context: str | None, token: str | None) -> None:
    """Orca runs your services on your servers.

    Without --api, ORCA_API and a context it talks to the local cluster that `orca up` started.

    \b
    orca up --sample                         start a cluster here
    orca deploy examples/two-services.json   run what the file describes
    orca status                              see what runs, and why not
    orca logs ticker -f                      see what it writes

    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 cannot reach a master, 4 not allowed.
    """
    ctx.obj = {"api": api, "context": context, "token": token}


def main() -> None:
    cli(prog_name="orca")
