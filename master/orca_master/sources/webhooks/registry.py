"""Which image a tag names now, asked of its registry with the account that its project has there."""

import re
from typing import Protocol

from orca_master.errors import NotReady
from orca_master.identity.registries import client
from orca_master.identity.registries.accounts import Account, Accounts, command
from orca_master.identity.registries.operations import login_for
from orca_master.identity.registries.reference import parse
from orca_master.state.store import Store

ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Digests(Protocol):
    async def digest_of(self, image: str, *, tenant: str, project: str) -> str:
        """`sha256:…` of what this image names now. Raises NotReady with the reason."""
        ...


def pinned(image: str, digest: str) -> str:
    """The same image, by its digest; the tag stays for people to read, and to be asked for again."""
    name, _, _ = image.partition("@")
    return f"{name}@{digest}"


class Registries:
    """Asks with the project's account, else the cluster's, else without one."""

    def __init__(self, store: Store, accounts: Accounts) -> None:
        self._store = store
        self._accounts = accounts

    async def digest_of(self, image: str, *, tenant: str, project: str) -> str:
        reference = parse(image)
        login = login_for(self._store.state, tenant, project, reference.host)
        account = None if login is None else self._accounts.open(login)
        answer = await client.manifest(image, reference, account, ACCEPTED)
        if answer.status in client.REFUSALS:
            raise NotReady(_refused(image, reference.host, project, account, answer))
        if answer.status != 200:
            raise NotReady(
                f"the registry of {image} answered {answer.status} when asked which image that is"
            )
        if not _DIGEST.fullmatch(answer.digest):
            raise NotReady(f"the registry of {image} does not say which image that is")
        return answer.digest


def _refused(
    image: str, host: str, project: str, account: Account | None, answer: client.Answer
) -> str:
    said = answer.reason or str(answer.status)
    if account is None:
        tried, mend = "asked without an account", command(host, project)
    else:
        tried, mend = f"asked as {account.username}", command(host, account.scope)
    return f"registry {host} refuses access to image {image}: {said} ({tried}: `{mend}`)"
