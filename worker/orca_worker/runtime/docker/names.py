"""Names of images: which of an engine's digests is the one that a name stands for. Pure."""

import re
from collections.abc import Sequence

from docker.utils import parse_repository_tag

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HUB = ("docker.io/", "index.docker.io/")


def known_digest(digests: Sequence[str], image: str) -> str:
    """`digests`: `repository@sha256:…`, as the engine lists them for one image. Empty: none of them is of
    the repository that `image` names. One that `image` itself says goes first."""
    wanted, _, said = image.partition("@")
    own = [
        digest
        for repository, _, digest in (each.rpartition("@") for each in digests)
        if _DIGEST.fullmatch(digest) and _plain(repository) == _plain(_repository(wanted))
    ]
    return said if said in own else next(iter(own), "")


def _repository(image: str) -> str:
    return str(parse_repository_tag(image)[0])


def _plain(repository: str) -> str:
    """As people write it: the default registry and its folder of official images left out. What is made on
    the node itself has no repository (Podman calls it `localhost/…`)."""
    for host in _HUB:
        repository = repository.removeprefix(host)
    if repository.startswith("localhost/"):
        return ""
    return repository.removeprefix("library/")
