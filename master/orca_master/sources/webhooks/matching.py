"""Whether a push is meant for a hook, and which image it makes. Pure."""

import re
from fnmatch import fnmatchcase

from orca_master.sources.webhooks.forges import Ignored
from orca_master.sources.webhooks.model import Hook, Push

SKIP = re.compile(r"\[(skip deploy|deploy skip)\]", re.IGNORECASE)
SHORT = 7

_FIELD = re.compile(r"\{([a-z_]*)\}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
FIELDS = ("sha", "short_sha", "branch", "tag")


def check(hook: Hook, push: Push) -> None:
    """Raises Ignored with the reason why nothing is to be done."""
    if push.is_deletion:
        raise Ignored(f"{push.branch or push.tag} was deleted")
    if push.branch and not (hook.branch and fnmatchcase(push.branch, hook.branch)):
        raise Ignored(f"branch {push.branch} is not {hook.branch or 'asked for'}")
    if push.tag and not (hook.tag and fnmatchcase(push.tag, hook.tag)):
        raise Ignored(f"tag {push.tag} is not {hook.tag or 'asked for'}")
    if SKIP.search(push.text):
        raise Ignored("the commit says [skip deploy]")
    if (hook.paths or hook.not_paths) and push.files is not None and not _touches(hook, push.files):
        raise Ignored("none of the changed files is asked for")


def _touches(hook: Hook, files: tuple[str, ...]) -> bool:
    """Whether one of these files fits `paths` (all, if there are none) and not `not_paths`."""
    return any(
        (not hook.paths or _fits(file, hook.paths)) and not _fits(file, hook.not_paths)
        for file in files
    )


def _fits(file: str, globs: tuple[str, ...]) -> bool:
    """`**` and `*` are the same here: any characters, slashes too."""
    return any(fnmatchcase(file, glob.replace("**", "*")) for glob in globs)


def check_template(template: str) -> str:
    """Raises ValueError."""
    unknown = sorted(set(_FIELD.findall(template)) - set(FIELDS))
    if unknown or template.count("{") != len(_FIELD.findall(template)):
        raise ValueError("may have {sha}, {short_sha}, {branch} and {tag}")
    return template


def image_of(template: str, push: Push) -> str:
    """Raises Ignored where a field is not known, or would make no image's tag."""
    values = {
        "sha": push.after,
        "short_sha": push.after[:SHORT],
        "branch": push.branch.replace("/", "-"),
        "tag": push.tag,
    }

    def filled(match: re.Match[str]) -> str:
        value = values[match[1]]
        if not value:
            raise Ignored(f"the push has no {match[1]}, which the image {template} needs")
        if not _TAG.fullmatch(value):
            raise Ignored(f"{match[1]} {value[:80]!r} cannot be a part of an image's name")
        return value

    return _FIELD.sub(filled, template)


def message_of(push: Push) -> str:
    """What the revision says of where it came from."""
    first = push.text.splitlines()[0] if push.text else ""
    what = f"{push.after[:SHORT]} {first}".strip() or push.tag or push.branch
    who = f" by {push.author}" if push.author else ""
    where = f" ({push.link})" if push.link else ""
    return "".join(c for c in f"{what}{who}{where}" if c.isprintable())[:500]
