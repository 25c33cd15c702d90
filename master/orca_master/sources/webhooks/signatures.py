"""Is a delivery signed with this secret? Over the raw body, in constant time. Pure.

GitHub: `X-Hub-Signature-256: sha256=HEX` (SHA-1 never). Gitea: `X-Gitea-Signature: HEX`. Bitbucket:
`X-Hub-Signature: sha256=HEX`. GitLab: `X-Gitlab-Token`, or signed as Standard Webhooks. Registry:
`Authorization: Bearer SECRET`. Generic: Standard Webhooks 1.0.0 (standardwebhooks.com).
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from orca_master.sources.webhooks.model import Forge

CLOCK_SECONDS = 300.0
"""Standard Webhooks: a timestamp may be so far away."""

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = "whsec_"

Headers = Mapping[str, Sequence[str]]
"""By lower-case name, every value that came."""


def is_signed(
    forge: Forge, headers: Headers, body: bytes, secret: bytes, *, now: float, signing: bool = False
) -> bool:
    """`signing`: a GitLab hook that signs; its plain token is not taken then."""
    match forge:
        case Forge.GITHUB:
            return _is_hex_of(_prefixed(headers, "x-hub-signature-256"), body, secret)
        case Forge.BITBUCKET:
            return _is_hex_of(_prefixed(headers, "x-hub-signature"), body, secret)
        case Forge.GITEA:
            return _is_hex_of(_only(headers, "x-gitea-signature"), body, secret)
        case Forge.GITLAB if not signing:
            return _is_secret(_only(headers, "x-gitlab-token"), secret)
        case Forge.REGISTRY:
            scheme, _, given = _only(headers, "authorization").partition(" ")
            return _is_secret(given, secret) and scheme.lower() == "bearer"
        case _:
            return _is_standard(headers, body, secret, now)


def _only(headers: Headers, name: str) -> str:
    """Empty if it is missing, or there twice: of two nobody knows which one was meant."""
    values = headers.get(name, ())
    return values[0] if len(values) == 1 else ""


def _prefixed(headers: Headers, name: str) -> str:
    value = _only(headers, name)
    return value.removeprefix("sha256=") if value.startswith("sha256=") else ""


def _is_hex_of(given: str, body: bytes, secret: bytes) -> bool:
    expected = hmac.new(secret, body, hashlib.sha256).hexdigest()
    is_hex = _HEX.fullmatch(given) is not None
    return hmac.compare_digest((given if is_hex else "-" * 64).encode(), expected.encode())


def _is_secret(given: str, secret: bytes) -> bool:
    """Both hashed first, so that neither's length shows."""
    ours, theirs = hashlib.sha256(secret), hashlib.sha256(given.encode("utf-8", "surrogateescape"))
    return hmac.compare_digest(ours.digest(), theirs.digest())


def _is_standard(headers: Headers, body: bytes, secret: bytes, now: float) -> bool:
    id, at = _only(headers, "webhook-id"), _only(headers, "webhook-timestamp")
    signed = b".".join((id.encode("utf-8", "replace"), at.encode("utf-8", "replace"), body))
    expected = base64.b64encode(hmac.new(standard_key(secret), signed, hashlib.sha256).digest())
    given = _only(headers, "webhook-signature").split(" ")[:10]
    is_one = False
    for signature in given:
        version, _, value = signature.partition(",")
        same = hmac.compare_digest(value.encode("utf-8", "replace"), expected)
        is_one |= same and version == "v1"
    is_fresh = (
        at.isascii() and at.isdigit() and len(at) < 16 and abs(now - int(at)) <= CLOCK_SECONDS
    )
    return is_one and is_fresh and bool(id)


def standard_key(secret: bytes) -> bytes:
    """`whsec_` and base64, or the bytes of the text itself."""
    text = secret.decode("utf-8", "replace")
    if text.startswith(_PREFIX):
        try:
            return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            return secret
    return secret
