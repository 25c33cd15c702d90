"""webhooks: add, list, remove, test, rotate, deliveries, redeliver."""

import sys
from datetime import UTC, datetime
from typing import Any

import click

from orca import show
from orca.commands.running import with_client

SHORT = 7


@click.group()
def webhooks() -> None:
    """Pushes to a repository that deploy a service."""


@webhooks.command()
@click.option("--repo", required=True, help="As the forge names it: owner/name.")
@click.option("--service", required=True, help="What a push deploys.")
@click.option("-p", "--project", default="default", show_default=True)
@click.option(
    "--forge",
    type=click.Choice(["github", "gitea", "gitlab", "bitbucket", "registry", "generic"]),
    default="github",
    show_default=True,
)
@click.option("--branch", default="main", show_default=True, help="A branch, or a glob.")
@click.option("--tag", default="", help="A tag, or a glob such as 'v*'.")
@click.option("--path", multiple=True, help="Only when a changed file fits, such as 'api/**'.")
@click.option("--not-path", multiple=True, help="Changes of these files alone do nothing.")
@click.option("--image", default="", help="What is deployed, such as shop/web:{sha}.")
@click.option("--signing", is_flag=True, help="GitLab signs instead of sending its secret.")
@click.option("--secret-stdin", is_flag=True, help="Read the secret from standard input.")
@show.output_option
def add(
    repo: str,
    service: str,
    project: str,
    forge: str,
    branch: str,
    tag: str,
    path: tuple[str, ...],
    not_path: tuple[str, ...],
    image: str,
    signing: bool,
    secret_stdin: bool,
    output: str,
) -> None:
    """Register a webhook; its secret is made, and shown once.

    \b
    orca webhooks add --repo shop/web --service web --image 'registry.example/shop/web:{sha}'
    """
    given: dict[str, Any] = {
        "repo": repo, "service_name": service, "project": project, "forge": forge,
        "branch": branch, "tag": tag, "path": list(path), "not_path": list(not_path),
        "image": image, "signing": signing,
    }  # fmt: skip
    if secret_stdin:
        given["secret"] = sys.stdin.readline().strip()
    made = with_client(lambda client: client.add_webhook(given))
    if show.structured(made, output):
        return
    show.say(f"webhook {made['id']}: pushes to {made['repo']} deploy {made['service_name']}")
    _show_secret(made)


def _show_secret(made: dict[str, Any]) -> None:
    show.say(f"  URL     http://<a master>:6880{made['url']}")
    show.say(f"  secret  {made['secret']}")
    click.echo("the secret is not shown again; give both to the forge, content type JSON")


@webhooks.command("list")
@show.output_option
def list_(output: str) -> None:
    """Every webhook, and its newest delivery."""
    found = with_client(lambda client: client.webhooks())
    if show.structured({"webhooks": found}, output):
        return
    if not found:
        click.echo("no webhooks yet: `orca webhooks add --repo OWNER/NAME --service NAME`")
        return
    show.table(
        ["WEBHOOK", "FORGE", "REPO", "BRANCH", "TAG", "SERVICE", "LAST", "REASON"],
        [
            [
                hook["id"], hook["forge"], hook["repo"], hook["branch"], hook["tag"],
                f"{hook['project']}/{hook['service_name']}", _last(hook, "state"),
                _last(hook, "reason"),
            ]
            for hook in found
        ],
    )  # fmt: skip


def _last(hook: dict[str, Any], what: str) -> str | None:
    last = hook["last_invocation"]
    return last[what] if last else None


@webhooks.command()
@click.argument("webhook")
@show.output_option
def remove(webhook: str, output: str) -> None:
    """Remove the webhook with this id, or all of the service with this name."""
    answer = with_client(lambda client: client.remove_webhook(webhook))
    if not show.structured(answer, output):
        show.say(f"{webhook}: {answer['status']} ({answer['count']})")


@webhooks.command()
@click.argument("webhook")
@show.output_option
def test(webhook: str, output: str) -> None:
    """What would a push do now? Changes nothing."""
    answer = with_client(lambda client: client.test_webhook(webhook))
    if not show.structured(answer, output):
        show.say(answer["ok"])


@webhooks.command()
@click.argument("webhook")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 30 * 86400),
    default=86400.0,
    show_default=True,
    help="Seconds that the old secret is still taken.",
)
@show.output_option
def rotate(webhook: str, overlap: float, output: str) -> None:
    """Give a webhook a new secret."""
    made = with_client(lambda client: client.rotate_webhook(webhook, overlap=overlap))
    if not show.structured(made, output):
        show.say(f"webhook {made['id']}: a new secret; the old one is taken for {overlap:g} s more")
        _show_secret(made)


@webhooks.command()
@click.argument("webhook")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@show.output_option
def deliveries(webhook: str, limit: int, output: str) -> None:
    """What was pushed, the newest first, and what became of it."""
    found = with_client(lambda client: client.webhook_deliveries(webhook, limit=limit))
    if show.structured({"deliveries": found}, output):
        return
    show.table(
        ["DELIVERY", "AT", "STATE", "REF", "COMMIT", "REVISION", "MESSAGE", "REASON"],
        [
            [
                each["delivery"],
                datetime.fromtimestamp(each["at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
                each["state"],
                each["branch"] or each["tag"],
                (each["commit"] or "")[:SHORT],
                each["revision"],
                (each["message"].splitlines() or [""])[0],
                each["reason"],
            ]
            for each in found
        ],
    )


@webhooks.command()
@click.argument("webhook")
@click.argument("delivery", type=click.IntRange(min=1))
@show.output_option
def redeliver(webhook: str, delivery: int, output: str) -> None:
    """Deploy what was delivered once more."""
    answer = with_client(lambda client: client.redeliver(webhook, delivery))
    if not show.structured(answer, output):
        show.say(f"delivery {answer['delivery']}: {answer['state']}, as {delivery} was")
