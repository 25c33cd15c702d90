"""The endpoints of the authority from which certificates are ordered."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import Field

from orca_common.env import Env
from orca_master.audit.operations import trail
from orca_master.errors import Invalid, Problem
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, Route, StrictModel
from orca_master.identity.model import Permission
from orca_master.ingress.certificates import operations
from orca_master.ingress.certificates.answers import AcmeOut, AcmeRemoved, AcmeSet
from orca_master.ingress.certificates.keys import Keys
from orca_master.ingress.certificates.model import ACME, Acme
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction

PRODUCTION = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
MOST_PEM = 128 << 10
PATH = "/api/v1/acme"
_URL = r"^https://[!-~]+$"
_ADDRESS = r"^[!-?A-~]+@[!-?A-~]+$"


class AcmeIn(StrictModel):
    agree: Annotated[
        Literal[True], Field(description="To the authority's terms of service: must be true.")
    ]
    email: Annotated[
        str | None,
        Field(max_length=254, pattern=_ADDRESS, description="Where the authority writes to."),
    ] = None
    directory: Annotated[
        str | None,
        Field(max_length=1000, pattern=_URL, description="Its URL; else Let's Encrypt's."),
    ] = None
    staging: Annotated[
        bool, Field(description="Let's Encrypt's for tests, whose certificates nobody trusts.")
    ] = False
    ca: Annotated[
        str | None,
        Field(min_length=1, max_length=MOST_PEM, description="PEM: whose directory is trusted."),
    ] = None


@dataclass(frozen=True, slots=True)
class AcmeRoutes:
    env: Env
    store: Store
    keys: Keys

    def table(self) -> list[Route]:
        route = partial(Route, dialect=CLUSTER, tag="certificates")
        return [
            route(
                f"GET {PATH}",
                Permission.SERVICES_READ,
                self.get,
                "From whom certificates are ordered, without the account's key",
                answer=AcmeOut,
            ),
            route(
                f"PUT {PATH}",
                Permission.MASTERS_WRITE,
                self.put,
                "Order certificates for all routed domains",
                body=AcmeIn,
                answer=AcmeSet,
                example={
                    "agree": True,
                    "email": "me@example.com",
                    "directory": "https://localhost:14000/dir",
                },
            ),
            route(
                f"DELETE {PATH}",
                Permission.MASTERS_WRITE,
                self.remove,
                "Order none any more; those that there are stay",
                answer=AcmeRemoved,
            ),
        ]

    async def get(self, call: Call[NoQuery, None]) -> AcmeOut:
        return _out((await self.store.fresh()).get(ACME, call.tenant))

    async def put(self, call: Call[NoQuery, AcmeIn]) -> AcmeSet:
        given, now = call.body, self.env.now()
        if given.directory is not None and given.staging:
            raise Invalid([Problem("staging", "is Let's Encrypt's: give it or a directory")])
        _check_pem(given.ca)
        row = Acme(
            tenant=call.tenant,
            directory=given.directory or (STAGING if given.staging else PRODUCTION),
            sealed_key=b"",
            agreed_at=now,
            email=given.email or "",
            ca=given.ca or "",
            by=call.actor,
        )
        key = await self.env.threads.run(_account_key)

        def put(tx: Transaction) -> bool:
            sealed = self.keys.sealed_account(tx, call.tenant, key)
            changed = operations.set_acme(tx, row, sealed)
            if changed:
                self._note(tx, call, "set", directory=row.directory)
            return changed

        changed = await self.store.update(put)
        return AcmeSet(_out(self.store.state.get(ACME, call.tenant)), changed)

    async def remove(self, call: Call[NoQuery, None]) -> AcmeRemoved:

        def remove(tx: Transaction) -> bool:
            if tx.get(ACME, call.tenant) is None:
                return False
            tx.delete(ACME, call.tenant)
            operations.forget_orders(tx, call.tenant)
            self._note(tx, call, "remove")
            return True

        was_on = await self.store.update(remove)
        return AcmeRemoved(
            "no certificates are ordered any more; those that there are stay until they expire"
            if was_on
            else "no certificates were ordered"
        )

    def _note(self, tx: Transaction, call: Call[Any, Any], verb: str, **details: object) -> None:
        trail(
            tx,
            actor=call.actor,
            action=f"acme.{verb}",
            resource="acme",
            now=self.env.now(),
            **details,
        )


def _check_pem(ca: str | None) -> None:
    """Raises Invalid."""
    try:
        if ca is not None:
            x509.load_pem_x509_certificates(ca.encode())
    except ValueError as error:
        raise Invalid([Problem("ca", "holds no certificates in PEM")]) from error


def _account_key() -> bytes:
    """P-256, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _out(row: Acme | None) -> AcmeOut:
    if row is None:
        return AcmeOut(False, None, None, False, None, None, None)
    return AcmeOut(
        is_on=True,
        directory=row.directory,
        email=row.email or None,
        has_ca=bool(row.ca),
        account=row.account or None,
        agreed_at=row.agreed_at,
        by=row.by,
    )
