"""Who a request's token belongs to, remembered until a token changes.

What is remembered is found by a hash, so that no secret stays in memory and looking it up takes the
same time for every guess.
"""

from hashlib import sha256

from orca_master.errors import Unauthenticated
from orca_master.identity.model import TOKENS, Principal, Token
from orca_master.identity.operations import is_expired, principal, token_of
from orca_master.state.rows import State

MOST_REMEMBERED = 1024
"""One token can be written in many ways, by whoever has it."""


class Callers:
    """Only tokens that are right are remembered."""

    def __init__(self) -> None:
        self._of: State | None = None
        self._known: dict[bytes, tuple[Token, Principal]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def authenticate(self, state: State, authorization: str | None, *, now: float) -> Principal:
        """The principal of an `Authorization` header's value. Raises Unauthenticated."""
        if state is not self._of:
            if self._of is None or not state.has_same(self._of, TOKENS):
                self._known = {}
            self._of = state
        # A header may hold any byte: those that are no text come as half surrogates.
        written = sha256((authorization or "").encode(errors="surrogateescape")).digest()
        known = self._known.get(written)
        if known is None:
            token = token_of(state, authorization)
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            known = self._known[written] = token, principal(token)
        token, caller = known
        if is_expired(token, now):
            raise Unauthenticated(f"the token {token.name} has expired")
        return caller
