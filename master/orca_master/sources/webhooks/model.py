"""Hooks that forges push to, and what they delivered."""

from enum import StrEnum

import msgspec

from orca_master.state.table import Table


class Forge(StrEnum):
    """Who delivers, which decides how a delivery is signed and read."""

    GITHUB = "github"
    GITEA = "gitea"
    GITLAB = "gitlab"
    BITBUCKET = "bitbucket"
    REGISTRY = "registry"
    GENERIC = "generic"


class Sealed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret, encrypted. `until`: when it ends (Unix seconds); 0: it does not."""

    id: str
    ciphertext: bytes
    until: float = 0.0


class Hook(msgspec.Struct, frozen=True, omit_defaults=True):
    """Pushes to `repo` that fit deploy `service`. `branch`, `tag`: globs; an empty one fits nothing.

    `paths`, `not_paths`: globs of changed files. `image`: a template; empty: the service's own image, looked
    up again. `signing`: whether GitLab signs instead of sending its token. `owner`: the token that made it,
    whose rights it acts with. `secrets`: the newest first; two while one is rotated out.
    """

    tenant: str
    id: str
    forge: Forge
    repo: str
    project: str
    service: str
    secrets: tuple[Sealed, ...]
    owner: str
    owner_name: str
    made_at: float
    branch: str = "main"
    tag: str = ""
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()
    image: str = ""
    signing: bool = False


class DeliveryState(StrEnum):
    """queued → deploying → deployed | failed; queued → superseded; ignored from the first."""

    QUEUED = "queued"
    DEPLOYING = "deploying"
    DEPLOYED = "deployed"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"

    @property
    def is_open(self) -> bool:
        return self in (DeliveryState.QUEUED, DeliveryState.DEPLOYING)


class Push(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a delivery says, whoever sent it. `before`, `after`: commits, or empty; `files`: what changed,
    None where nobody says. `text`: the commit's message."""

    repo: str
    branch: str = ""
    tag: str = ""
    before: str = ""
    after: str = ""
    is_deletion: bool = False
    files: tuple[str, ...] | None = None
    text: str = ""
    author: str = ""
    link: str = ""


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """One push at one hook. `number`: in the order of coming, over all hooks. `deployment`, `revision`: what
    it led to."""

    hook: str
    number: int
    at: float
    push: Push
    state: DeliveryState
    reason: str = ""
    deployment: int = 0
    revision: int = 0
    ended_at: float = 0.0
    again_of: int = 0


class Seen(msgspec.Struct, frozen=True):
    """A delivery by what was signed (SHA-256 of the hook's id and the raw body)."""

    digest: str
    delivery: int
    at: float


class Counter(msgspec.Struct, frozen=True):
    """The last number that was given to a delivery, and the first that may still be seen."""

    last: int = 0


HOOKS = Table(
    "hooks",
    Hook,
    key=lambda h: (h.tenant, h.id),
    indexes={
        "forge": lambda h: f"{h.tenant}/{h.forge}",
        "service": lambda h: f"{h.tenant}/{h.project}/{h.service}",
        "tenant": lambda h: h.tenant,
        "id": lambda h: h.id,
    },
)
DELIVERIES = Table(
    "deliveries",
    Delivery,
    key=lambda d: (d.hook, f"{d.number:012}"),
    indexes={
        "hook": lambda d: d.hook,
        "open": lambda d: "yes" if d.state.is_open else None,
        "number": lambda d: str(d.number),
    },
)
SEEN = Table("seen_deliveries", Seen, key=lambda s: (s.digest,))
DELIVERY_COUNTER = Table("delivery_counter", Counter, key=lambda _: ("deliveries",))
