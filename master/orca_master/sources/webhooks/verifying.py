"""Whose secret is a delivery signed with? In constant work, off the loop, and not as often as one likes."""

import hashlib
import math
from collections.abc import Sequence

from orca_common.env import Env
from orca_master.errors import OrcaError, RateLimited, Unauthenticated
from orca_master.http.route import Raw
from orca_master.identity.wrapping.keyring import Keyring, Unopened
from orca_master.sources.webhooks.model import Forge, Hook, Sealed
from orca_master.sources.webhooks.signatures import is_signed

MOST_CANDIDATES = 100
MOST_BAD_PER_MINUTE = 60
MOST_ADDRESSES = 10_000
MINUTE_SECONDS = 60.0
REFUSED = "the signature is missing or wrong"
_NOBODYS = b"nobody's secret, so that unknown webhooks take as long"


def purpose(hook_id: str, secret_id: str) -> bytes:
    """What a hook's secret is wrapped for."""
    return f"webhook {hook_id} {secret_id}".encode()


class Verifier:
    """Opened secrets are kept in memory by their ciphertext."""

    def __init__(self, env: Env, keyring: Keyring) -> None:
        self._env = env
        self._keyring = keyring
        self._opened: dict[bytes, bytes] = {}
        self._bad: dict[str, int] = {}
        self._minute = 0.0

    async def signed_for(self, forge: Forge, raw: Raw, hooks: Sequence[Hook]) -> list[Hook]:
        """The hooks, of these, whose secret it is signed with. Raises Unauthenticated if there is none,
        RateLimited for an address that was wrong too often."""
        self._check_rate(raw.client)
        now = self._env.now()
        tries: list[tuple[Hook | None, bytes]] = [
            (hook, self._secret(hook, sealed))
            for hook in list(hooks)[:MOST_CANDIDATES]
            for sealed in hook.secrets
            if not sealed.until or sealed.until > now
        ]

        def check() -> list[Hook]:
            found: dict[str, Hook] = {}
            for hook, secret in tries or [(None, _NOBODYS)]:
                signing = hook is not None and hook.signing
                is_right = is_signed(forge, raw.headers, raw.body, secret, now=now, signing=signing)
                if hook is not None and is_right:
                    found[hook.id] = hook
            return list(found.values())

        found = await self._env.threads.run(check)
        if not found:
            self._bad[raw.client] = self._bad.get(raw.client, 0) + 1
            raise Unauthenticated(REFUSED)
        return found

    def _secret(self, hook: Hook, sealed: Sealed) -> bytes:
        key = hashlib.sha256(sealed.ciphertext).digest()
        if key not in self._opened:
            if len(self._opened) > 10 * MOST_CANDIDATES:
                self._opened.clear()
            try:
                found = self._keyring.unwrap(purpose(hook.id, sealed.id), sealed.ciphertext)
            except Unopened as error:
                raise OrcaError(
                    f"the secret of webhook {hook.id} does not open with this master's key: give it"
                    f" another one with `orca webhooks rotate {hook.id}`"
                ) from error
            self._opened[key] = found
        return self._opened[key]

    def _check_rate(self, client: str) -> None:
        now = self._env.monotonic()
        if now >= self._minute + MINUTE_SECONDS or len(self._bad) > MOST_ADDRESSES:
            self._minute, self._bad = now, {}
        if self._bad.get(client, 0) >= MOST_BAD_PER_MINUTE:
            seconds = math.ceil(max(1.0, self._minute + MINUTE_SECONDS - now))
            raise RateLimited(
                "too many deliveries with a wrong signature came from this address",
                headers={"Retry-After": str(seconds)},
            )
