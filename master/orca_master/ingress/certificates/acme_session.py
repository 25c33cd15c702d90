"""One order by ACME (RFC 8555), with the library `acme`. Imported only where something is ordered."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from acme import challenges, client, crypto_util, errors, messages
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from orca_common.version import orca_version
from orca_master.ingress.certificates.authority import Account, Challenge, Refused

REQUEST_SECONDS = 20
_OBJECT = re.compile(r"<[^<>]* object at 0x[0-9a-f]+>:? ?|\w+\(host=[^()]*\): ")


class AcmeSession:
    """See `authority.Session`."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._asked: float | None = None
        self._order: messages.OrderResource | None = None
        self._challenge: messages.ChallengeBody | None = None
        self._trusted = os.memfd_create("acme-ca")
        os.write(self._trusted, account.ca.encode())
        self._key = JWKEC(key=load_pem_private_key(account.key, password=None))
        verify: Any = f"/proc/self/fd/{self._trusted}" if account.ca else True
        self._net = client.ClientNetwork(
            self._key,
            alg=ES256,
            verify_ssl=verify,
            user_agent=f"orca/{orca_version()}",
            timeout=REQUEST_SECONDS,
        )
        self._net.session.hooks["response"].append(self._note)
        self._client: client.ClientV2 | None = None

    def register(self, email: str) -> str:
        with self._refusals():
            acme, told = self._opened(), email or None
            wanted = messages.NewRegistration.from_data(email=told, terms_of_service_agreed=True)
            try:
                return str(acme.new_account(wanted).uri)
            except errors.ConflictError as there:
                row = messages.RegistrationResource(
                    uri=there.location, body=messages.Registration()
                )
                acme.update_registration(row, messages.Registration.from_data(email=told))
                return str(there.location)

    def begin(self, domain: str, key: bytes) -> Challenge | None:
        with self._refusals():
            acme = self._opened()
            self._net.account = messages.RegistrationResource(
                uri=self._account.url, body=messages.Registration()
            )
            self._order = acme.new_order(crypto_util.make_csr(key, [domain]))
            body = self._authorization.body
            if body.status == messages.STATUS_VALID:
                return None
            for each in body.challenges:
                if isinstance(each.chall, challenges.HTTP01):
                    self._challenge = each
                    answer = each.chall.key_authorization(self._key)
                    return Challenge(each.chall.encode("token"), answer)
            raise Refused("the authority offers no proof by HTTP for this domain")

    def answer(self) -> None:
        with self._refusals():
            assert self._challenge is not None, "begin comes first"
            response = self._challenge.chall.response(self._key)
            self._opened().answer_challenge(self._challenge, response)

    def is_proved(self) -> bool:
        with self._refusals():
            found, _ = self._opened().poll(self._authorization)
            if found.body.status in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
                return False
            if found.body.status != messages.STATUS_VALID:
                said = [each.error for each in found.body.challenges if each.error is not None]
                raise said[0] if said else Refused(f"the proof is {found.body.status.name}")
            return True

    def finalize(self) -> None:
        with self._refusals():
            assert self._order is not None, "begin comes first"
            try:
                self._order = self._opened().begin_finalization(self._order)
            except messages.Error as error:
                if error.code != "orderNotReady":
                    raise

    def chain(self) -> str | None:
        with self._refusals():
            assert self._order is not None, "begin comes first"
            body = messages.Order.from_json(self._get(self._order.uri).json())
            if body.status == messages.STATUS_VALID and body.certificate is not None:
                return str(self._get(body.certificate).text)
            if body.status == messages.STATUS_READY:
                self._opened().begin_finalization(self._order)
            if body.status == messages.STATUS_INVALID:
                raise body.error or Refused("the order is invalid")
            return None

    def close(self) -> None:
        self._net.session.close()
        os.close(self._trusted)

    @property
    def _authorization(self) -> messages.AuthorizationResource:
        assert self._order is not None, "begin comes first"
        return self._order.authorizations[0]

    def _opened(self) -> client.ClientV2:
        if self._client is None:
            directory = client.ClientV2.get_directory(self._account.directory, self._net)
            self._client = client.ClientV2(directory, self._net)
        return self._client

    def _get(self, url: str) -> requests.Response:
        """By POST (RFC 8555, 6.3)."""
        return self._net.post(url, None, new_nonce_url=self._opened().directory["newNonce"])

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        if not response.ok:
            self._asked = _seconds(response)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Whatever goes wrong with the other side, as Refused."""
        self._asked = None
        try:
            yield
        except messages.Error as error:
            raise Refused(_told(error), kind=error.code or "", wait_seconds=self._asked) from error
        except requests.RequestException as error:
            where = self._account.directory
            raise Refused(f"{where} cannot be asked: {_plain(error)}") from error
        except (
            errors.Error,
            JoseError,
            LookupError,
            ValueError,
            AttributeError,
        ) as error:
            why = f"{type(error).__name__}: {_plain(error)}"
            raise Refused(
                f"{self._account.directory} does not answer as ACME asks for: {why}",
                wait_seconds=self._asked,
            ) from error


def _seconds(response: requests.Response) -> float | None:
    """What `Retry-After` says: seconds, or a date, which is held against the answer's own."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        told = parsedate_to_datetime(response.headers.get("Date", ""))
        return max(0.0, (until - told).total_seconds())
    except (TypeError, ValueError):
        return None


def _told(error: messages.Error) -> str:
    """Of a problem document, with those within it."""
    parts = [f"{error.code or error.typ}: {error.detail or error.title or 'no more is said'}"]
    parts += [f"{each.code or each.typ}: {each.detail}" for each in error.subproblems or ()]
    return "; ".join(parts)


def _plain(error: Exception) -> str:
    """The innermost reason, without what only this process knows."""
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None)
    return _OBJECT.sub("", str(reason or error)) or type(error).__name__
