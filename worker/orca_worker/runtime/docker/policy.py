"""When an image is asked for at its registry, though it may be here. Pure."""

from enum import Enum

from docker.utils import parse_repository_tag

from orca_worker.runtime.port import RuntimeRefusal


class Pull(Enum):
    """`FRESH`: the newer one if the registry has and says so, else the one that is here."""

    IF_NOT_PRESENT = "if-not-present"
    ALWAYS = "always"
    FRESH = "fresh"
    NEVER = "never"


def pull_of(image: str, policy: str) -> Pull:
    """What a policy means for this image. What is named by digest is never pulled again.

    Raises RuntimeRefusal for a word that is none.
    """
    tag = parse_repository_tag(image)[1]
    match policy or "missing":
        case "never":
            return Pull.NEVER
        case "always":
            return Pull.IF_NOT_PRESENT if "@" in image else Pull.ALWAYS
        case "auto":
            return Pull.FRESH if tag in (None, "", "latest") else Pull.IF_NOT_PRESENT
        case "missing" | "if-not-present":
            return Pull.IF_NOT_PRESENT
    raise RuntimeRefusal(
        f'pull policy "{policy}" is none of auto, if-not-present, always, never', permanent=True
    )
