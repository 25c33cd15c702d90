"""routes: what is routed where, and what becomes of one request."""

from typing import Any

import click

from orca import show
from orca.commands.running import with_client


@click.group(invoke_without_command=True)
@click.option("-p", "--project", help="Only this project's.")
@show.output_option
@click.pass_context
def routes(context: click.Context, project: str | None, output: str) -> None:
    """Which requests reach which service, and the nodes that let them in.

    \b
    orca routes
    orca routes explain https://app.example.com/path
    """
    if context.invoked_subcommand is not None:
        return
    found = with_client(lambda client: client.routes(project=project))
    if show.structured(found, output):
        return
    if not found["routes"]:
        click.echo("no service has a domain yet: give it one, `domain: app.example.com`")
    else:
        show.table(
            ["DOMAIN", "PATH", "SERVICE", "REQUESTS TO"],
            [[r["domain"], r["path"], _service(r), _target(r)] for r in found["routes"]],
        )
    click.echo()
    show.table(
        ["INGRESS", "STATE", "HTTP", "HTTPS", "REASON"],
        [_entrance(node) for node in found["nodes"]],
    )


@routes.command()
@click.argument("url")
@show.output_option
def explain(url: str, output: str) -> None:
    """What becomes of a request for URL: its service, revision and replicas, or why it is refused."""
    found = with_client(lambda client: client.explain_route(url))
    if show.structured(found, output):
        return
    if found["reason"]:
        show.say(f"refused: {found['reason']}", fg="red")
    if found["service"]:
        show.say(
            f"service {found['project']}/{found['service']}, by {found['domain']}{found['path']}"
        )
    if found["rewritten"]:
        show.say(f"it is asked for {found['rewritten']}")
    if found["match"]:
        show.say(f"with {found['match']}: the canary")
    if found["backends"]:
        show.table(
            ["REPLICA", "REVISION", "NODE", "ADDRESS", "SHARE"],
            [
                [b["replica"], b["revision"], b["node"], b["address"], f"{b['percent']:g} %"]
                for b in found["backends"]
            ],
        )
    for entrance in found["entrances"]:
        show.say(f"comes in at {entrance}")


def _service(route: dict[str, Any]) -> str:
    return f"{route['project']}/{route['service']}"


def _target(route: dict[str, Any]) -> str:
    if route["reason"]:
        return str(route["reason"])
    return ", ".join(
        f"revision {s['revision']}: {s['percent']:g} % ({s['replicas']} replicas)"
        for s in route["shares"]
    )


def _entrance(node: dict[str, Any]) -> list[object]:
    address = node["address"]
    http = f"{address}:{node['http_port']}" if node["http_port"] else None
    https = f"{address}:{node['https_port']}" if node["https_port"] else None
    return [node["node"], node["state"], http, https, node["reason"]]
