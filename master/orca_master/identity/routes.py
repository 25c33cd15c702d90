"""The endpoints of tokens."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from msgspec.structs import asdict
from pydantic import Field

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.http.answers import Ok
from orca_master.http.dialects import CLUSTER
from orca_master.http.names import Name
from orca_master.http.route import Call, NoQuery, Reply, Route, StrictModel
from orca_master.identity import operations
from orca_master.identity.answers import NewTokenOut, TokenOut, TokensOut
from orca_master.identity.model import TOKENS, Permission, Role, Token
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

SECRET_BYTES = 32
LONGEST_SECONDS = 10 * 365 * 86400


class TokenIn(StrictModel):
    """`ttl` in seconds; without it the token does not expire."""

    name: Name
    role: Annotated[
        str,
        Field(pattern="^(admin|deployer|viewer)$", description="`admin`, `deployer` or `viewer`."),
    ]
    project: Name | None = None
    ttl: Annotated[float, Field(ge=1, le=LONGEST_SECONDS)] | None = None


@dataclass(frozen=True, slots=True)
class TokenRoutes:
    env: Env
    store: Store

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="tokens")
        tokens = "/api/v1/tokens"
        return [
            route(
                f"GET {tokens}",
                Permission.TOKENS_WRITE,
                self.list,
                "Tokens, without secrets",
                answer=TokensOut,
            ),
            route(
                f"POST {tokens}",
                Permission.TOKENS_WRITE,
                self.create,
                "Make a token; it is shown once",
                statuses=(201,),
                body=TokenIn,
                answer=NewTokenOut,
                example={"name": "ci", "role": "deployer", "project": "shop", "ttl": 86400.0},
            ),
            route(
                f"DELETE {tokens}/{{name}}",
                Permission.TOKENS_WRITE,
                self.revoke,
                "Revoke a token, at once",
                answer=Ok,
            ),
        ]

    async def list(self, call: Call[NoQuery, None]) -> TokensOut:
        state = await self.store.fresh()
        tokens = sorted(state.scan(TOKENS), key=lambda token: token.name)
        return TokensOut([self._shown(token) for token in tokens])

    async def create(self, call: Call[NoQuery, TokenIn]) -> Reply:
        body, now = call.body, self.env.now()
        secret = operations.new_secret(self.env.random.token_bytes(SECRET_BYTES))
        id = self.env.new_id()

        def create(tx: Transaction) -> Token:
            token = operations.create_token(
                tx,
                id=id,
                name=body.name,
                role=Role(body.role),
                secret=secret,
                now=now,
                project=body.project or "",
                expires_at=now + body.ttl if body.ttl is not None else 0.0,
            )
            self._note(tx, call.actor, "create", token)
            return token

        token = await self.store.update(create)
        return Reply(NewTokenOut(**asdict(self._shown(token)), token=secret), 201)

    async def revoke(self, call: Call[NoQuery, None]) -> Ok:
        def revoke(tx: Transaction) -> str:
            token = operations.revoke(tx, call.path["name"], now=self.env.now())
            self._note(tx, call.actor, "revoke", token)
            return token.name

        return Ok(f"revoked token {await self.store.update(revoke)}")

    def _shown(self, token: Token) -> TokenOut:
        return TokenOut(
            id=token.id,
            name=token.name,
            role=str(token.role),
            project=token.project or None,
            created_at=token.created_at,
            expires_at=token.expires_at or None,
            expired=operations.is_expired(token, self.env.now()),
        )

    def _note(self, tx: Transaction, actor: str, verb: str, token: Token) -> None:
        resource, now = f"tokens/{token.name}", self.env.now()
        trail(tx, actor=actor, action=f"token.{verb}", resource=resource, now=now, role=token.role)
