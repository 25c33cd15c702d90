"""Tokens: making them and telling whose a request is."""

import hashlib
import hmac

from orca_master.errors import Unauthenticated
from orca_master.identity.model import DEFAULT_TENANT, PERMISSIONS, TOKENS, Principal, Role, Token
from orca_master.state.transaction import Transaction, View

PREFIX = "orca_"


def new_secret(random_bytes: bytes) -> str:
    """A bearer token's text, from at least 32 random bytes."""
    return PREFIX + random_bytes.hex()


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(
    tx: Transaction, *, id: str, name: str, role: Role, secret: str, now: float
) -> Token:
    """Keep the token's hash. A token with this very secret is returned as it is."""
    existing = tx.find(TOKENS, "sha256", digest(secret))
    if existing:
        return existing[0]
    token = Token(id=id, name=name, role=role, sha256=digest(secret), created_at=now)
    tx.put(TOKENS, token)
    return token


def authenticate(view: View, authorization: str | None) -> Principal:
    """The principal of an `Authorization` header's value. Raises Unauthenticated."""
    if not authorization:
        raise Unauthenticated("missing token: send the header Authorization: Bearer <token>")
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("the Authorization header must be: Bearer <token>")
    wanted = digest(secret)
    for token in view.find(TOKENS, "sha256", wanted):
        if hmac.compare_digest(token.sha256, wanted):
            return Principal(
                name=token.name, tenant=DEFAULT_TENANT, permissions=PERMISSIONS[token.role]
            )
    raise Unauthenticated("invalid token")
