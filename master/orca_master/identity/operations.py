"""Tokens: making them, telling whose a request is, and taking them back."""

import hashlib
import hmac

from orca_master.errors import Conflict, NotFound, Unauthenticated
from orca_master.identity.model import (
    DEFAULT_TENANT,
    PERMISSIONS,
    PROJECT_PERMISSIONS,
    TOKENS,
    Principal,
    Role,
    Token,
)
from orca_master.state.transaction import Transaction, View

PREFIX = "orca_"


def new_secret(random_bytes: bytes) -> str:
    """A bearer token's text, from at least 32 random bytes."""
    return PREFIX + random_bytes.hex()


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(
    tx: Transaction,
    *,
    id: str,
    name: str,
    role: Role,
    secret: str,
    now: float,
    project: str = "",
    expires_at: float = 0.0,
) -> Token:
    """Keep the token's hash. A token with this very secret is returned as it is.

    Raises Conflict when another token has the name.
    """
    existing = tx.find(TOKENS, "sha256", digest(secret))
    if existing:
        return existing[0]
    if any(token.name == name for token in tx.scan(TOKENS)):
        raise Conflict(f"a token named {name} exists: choose another name, or revoke that one")
    token = Token(
        id=id,
        name=name,
        role=role,
        sha256=digest(secret),
        created_at=now,
        project=project,
        expires_at=expires_at,
    )
    tx.put(TOKENS, token)
    return token


def find_token(view: View, name_or_id: str) -> Token:
    """Raises NotFound."""
    token = view.get(TOKENS, name_or_id)
    if token is not None:
        return token
    for named in view.scan(TOKENS):
        if named.name == name_or_id:
            return named
    raise NotFound("token", name_or_id)


def revoke(tx: Transaction, name_or_id: str, *, now: float) -> Token:
    """It is refused from now on. Raises NotFound; Conflict for the last one that may make others."""
    token = find_token(tx, name_or_id)
    if token.role is Role.ADMIN and not token.project:
        others = [
            other
            for other in tx.scan(TOKENS)
            if other.id != token.id
            and other.role is Role.ADMIN
            and not other.project
            and not is_expired(other, now)
        ]
        if not others:
            raise Conflict(
                "this is the last admin token: make another one first with"
                " `orca tokens create NAME --role admin`"
            )
    tx.delete(TOKENS, token.id)
    return token


def is_expired(token: Token, now: float) -> bool:
    return bool(token.expires_at) and token.expires_at <= now


def token_of(view: View, authorization: str | None) -> Token:
    """The token in an `Authorization` header's value. Raises Unauthenticated if there is none such."""
    if not authorization:
        raise Unauthenticated("missing token: send the header Authorization: Bearer <token>")
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("the Authorization header must be: Bearer <token>")
    if not secret.isascii():
        raise Unauthenticated("invalid token")
    wanted = digest(secret)
    for token in view.find(TOKENS, "sha256", wanted):
        if hmac.compare_digest(token.sha256, wanted):
            return token
    raise Unauthenticated("invalid token")


def principal(token: Token) -> Principal:
    """Whom a request with this token speaks for."""
    permissions = PERMISSIONS[token.role]
    if token.project:
        permissions &= PROJECT_PERMISSIONS
    return Principal(token.name, DEFAULT_TENANT, permissions, token.project)
