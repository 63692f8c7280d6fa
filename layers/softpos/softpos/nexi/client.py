"""Nexi's B2B channel: token, keys, and the pushed authorization request that carries the client assertion.

Source: Nexi's page "Backend integration", its samples, and RFC 9126.
"""

import functools
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softpos import aws, telemetry
from softpos.cache import Cache, CacheTable, Entry, cache_table
from softpos.credentials import Certificate, Credentials, CredentialStore, credential_store
from softpos.deadline import Deadline
from softpos.errors import (
    CredentialsRefusedError,
    MisconfiguredError,
    NexiRejectedError,
    NexiUnavailableError,
    SoftposError,
)
from softpos.nexi import assertion
from softpos.nexi.clock import TOLERANCE_SECONDS, NexiClock
from softpos.nexi.jwks import EncryptionKey, fit_keys
from softpos.nexi.responses import Reading, seconds
from softpos.nexi.session import MutualTlsSession
from softpos.settings import Settings, settings
from softpos.terminals import Assignment

if TYPE_CHECKING:
    from jose.backends.base import Key

TOKEN_PATH = "/softpos/appenrollment/token"  # noqa: S105 - a path
KEYS_PATH = "/softpos/par/jwks.json"
PAR_PATH = "/softpos/as/par"

TOKEN_SECONDS = 3600
"""A token's lifetime by Nexi's page, when the answer does not say, and the most that is believed."""

KEYS_SECONDS = 3600
"""For how long a JWKS is used. Nexi does not say; a key that goes earlier shows as a 400 on PAR."""

KEYS_STALE_SECONDS = 86_400
"""For how long since it was fetched a JWKS serves while its endpoint fails."""

KEYS_COOLDOWN_SECONDS = 60
"""A 400 on PAR has many causes: for that reason alone, the keys are not fetched more often than this."""

REQUEST_URI_SECONDS = 90
"""A request_uri's lifetime by Nexi's page, when the answer does not say."""

MAX_REQUEST_URI_SECONDS = 3600
"""The most that is believed of what the answer says."""

_MARGIN_SECONDS = 30.0
_MARGIN_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class PushedAuthorization:
    """What the phone needs: the `request_uri`, the seconds it lives, and the Unix time at which it dies."""

    request_uri: str = field(repr=False)
    expires_in: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """Nexi's encryption keys, the one that assertions are encrypted to first, and the seconds they may be used for."""

    keys: list[EncryptionKey]
    usable_for: int


class Nexi:
    """The channel as one application with one certificate. Warm, an enrollment is one call.

    `push` makes one attempt; what may help after a failed one, `mend` does. How often to try is the caller's to say.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: CredentialStore,
        table: CacheTable | None = None,
        now: Callable[[], float] = time.time,
        new_jti: Callable[[], str] = lambda: str(uuid.uuid4()),
        connect: Callable[[Certificate, str | None], MutualTlsSession] = MutualTlsSession,
        new_signer: "Callable[[Certificate], Key] | None" = None,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._table = table
        self._now = now
        self._new_jti = new_jti
        self._connect = connect
        self._new_signer = new_signer or (lambda certificate: assertion.certificate_signer(certificate.private_key))
        self._clock = NexiClock(now)
        self._link: _Link | None = None
        self._unloadable: tuple[Credentials, MisconfiguredError] | None = None

    def push(self, held: Assignment, device_id: str, deadline: Deadline) -> PushedAuthorization:
        """Push an authorization request for an operator's terminals and the phone's device id, with a new assertion.

        Raises MisconfiguredError, NexiRejectedError, NexiUnavailableError, NexiTimeoutError, SigningUnavailableError,
        or OutOfTimeError.
        """
        link = self._linked(self._credentials.get())
        token = self._token(link, deadline)
        with telemetry.timed("keys"):
            keys = link.cache.get(link.keys_name, lambda: self._fetch_keys(link, deadline), deadline)
        with telemetry.timed("assertion"):
            clock_ahead = self._clock.ahead
            sealed = self._assertion(link, keys, held, device_id)
        link.assertion = sealed
        sent_at = self._now()
        with telemetry.timed("par"):
            answer = link.session.send(
                "POST",
                self._settings.nexi_base_url + PAR_PATH,
                deadline,
                form={
                    "client_assertion": sealed,
                    "client_id": link.application.client_id,
                    "scope": link.application.scope,
                    "redirect_uri": link.application.redirect_uri,
                },
                headers={"Authorization": f"Bearer {link.bearer}"},
            )
        self._clock.learn(answer.headers.get("Date"))
        reading = Reading("PAR", answer, link.secrets(), (held.operator, device_id))
        if answer.status in (200, 201):
            return _pushed(reading, sent_at)
        error = reading.refusal(self._clock())
        if answer.status == 401 and isinstance(error, NexiRejectedError):
            raise TokenRefusedError(str(error), error.remedy, token)
        if answer.status == 400 and isinstance(error, NexiRejectedError):
            raise RequestRefusedError(str(error), error.remedy, keys, clock_ahead)
        raise error

    def mend(self, error: SoftposError, deadline: Deadline) -> bool:
        """Whether another attempt may succeed where this one failed, having done what it takes.

        A token that was refused is dropped, in both tiers. After refused credentials, a newer version of them is looked
        for. So it is after a refused request: it may have been signed with a key that Nexi no longer has for the app,
        or have said an older redirect_uri. It may also have been made by a clock that has since been found to be off,
        or for keys that were rotated, which shows in no other way: they are fetched anew, at most once in
        KEYS_COOLDOWN_SECONDS, and by one environment for all. Asks Nexi at most once.
        """
        if isinstance(error, TokenRefusedError):
            link = self._linked(self._credentials.get())
            link.cache.drop(link.token_name, error.token)
            # For the case that the table fails just now, and comes back with it.
            link.refused_token = error.token.version
            telemetry.count("TokenDropped")
            return True
        if not deadline.remaining():
            return False
        if isinstance(error, CredentialsRefusedError | RequestRefusedError) and self._credentials_renewed():
            return True
        if isinstance(error, RequestRefusedError) and deadline.remaining():
            clock_moved = abs(self._clock.ahead - error.clock_ahead) > TOLERANCE_SECONDS
            return self._keys_rotated(error.keys, deadline) or clock_moved
        return False

    def token(self, deadline: Deadline) -> int:
        """See to it that there is a token: the seconds it may be used for. Raises as `push` does."""
        token = self._token(self._linked(self._credentials.get()), deadline)
        return max(0, int(token.usable_until - self._now()))

    def keys(self, deadline: Deadline) -> "PublishedKeys":
        """The encryption keys, from the cache while they last. Raises as `push` does."""
        with deadline.applied(), telemetry.timed("keys"):
            link = self._linked(self._credentials.get())
            keys = link.cache.get(link.keys_name, lambda: self._fetch_keys(link, deadline), deadline)
        return PublishedKeys(fit_keys(keys.value), max(0, int(keys.usable_until - self._now())))

    def refresh(self, usable_for: float, deadline: Deadline) -> None:
        """See to it that token and keys are in the cache and stay usable for so many seconds.

        Phones go on with the old ones meanwhile. Raises as `push` does, having tried both.
        """
        link = self._linked(self._credentials.get())
        failures = []
        for name, fetch in (
            (link.token_name, lambda: self._fetch_token(link, deadline)),
            (link.keys_name, lambda: self._fetch_keys(link, deadline)),
        ):
            try:
                link.cache.get(name, fetch, deadline, usable_for=usable_for)
            except SoftposError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _token(self, link: "_Link", deadline: Deadline) -> Entry:
        with telemetry.timed("token"):
            token = link.cache.get(
                link.token_name,
                lambda: self._fetch_token(link, deadline),
                deadline,
                fit=lambda entry: entry.version != link.refused_token,
            )
        link.bearer = token.value.decode("ascii")
        return token

    def _assertion(self, link: "_Link", keys: Entry, held: Assignment, device_id: str) -> str:
        jti = self._new_jti()
        telemetry.note(jti=jti)
        claims = assertion.claims(
            client_id=link.application.client_id,
            audience=self._settings.nexi_base_url,
            point_of_sale=held.point_of_sale,
            terminal_ids=held.terminal_ids,
            operator=held.operator,
            device_id=device_id,
            now=self._clock(),
            jti=jti,
        )
        key = link.encryption_key(keys)
        return assertion.seal(claims, link.signer, key, minimal_headers=self._settings.minimal_assertion_headers)

    def _credentials_renewed(self) -> bool:
        return self._link is not None and self._credentials.get(reload=True) is not self._link.credentials

    def _keys_rotated(self, used: Entry, deadline: Deadline) -> bool:
        link = self._linked(self._credentials.get())

        def fetch() -> Entry:
            # The cache calls this only if the table has nothing newer: no environment has fetched since.
            if self._now() - max(used.fetched_at, link.keys_asked_at) < KEYS_COOLDOWN_SECONDS:
                raise NexiUnavailableError("the JWKS was asked for a moment ago")
            link.keys_asked_at = self._now()
            telemetry.count("KeysFetchedAfterRefusal")
            return self._fetch_keys(link, deadline)

        try:
            newer = link.cache.get(
                link.keys_name, fetch, deadline, fit=lambda entry: entry.fetched_at > used.fetched_at
            )
        except SoftposError:
            # Nexi fails, or will not give them: what PAR said is what the phone is to hear of.
            return False
        return newer.value != used.value

    def _fetch_token(self, link: "_Link", deadline: Deadline) -> Entry:
        asked_at = self._now()
        application = link.application
        answer = link.session.send(
            "POST",
            self._settings.nexi_base_url + TOKEN_PATH,
            deadline,
            form={
                "grant_type": "client_credentials",
                "client_id": application.client_id,
                "client_secret": application.client_secret,
            },
        )
        self._clock.learn(answer.headers.get("Date"))
        reading = Reading("token", answer, link.secrets())
        if answer.status != 200:
            raise reading.refusal(self._clock())
        members = reading.members()
        token = members.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,8192}", token):
            raise reading.unreadable("no access_token that could go into a header")
        if str(members.get("token_type", "Bearer")).lower() != "bearer":
            raise reading.unreadable("a token_type that is not Bearer")
        telemetry.count("TokenFetched")
        lifetime = min(seconds(members.get("expires_in", TOKEN_SECONDS)) or 0, TOKEN_SECONDS)
        margin = min(_MARGIN_SECONDS, lifetime * _MARGIN_SHARE)
        return Entry(token.encode("ascii"), fetched_at=asked_at, usable_until=asked_at + lifetime - margin)

    def _fetch_keys(self, link: "_Link", deadline: Deadline) -> Entry:
        asked_at = self._now()
        answer = link.session.send("GET", self._settings.nexi_base_url + KEYS_PATH, deadline)
        self._clock.learn(answer.headers.get("Date"))
        if answer.status != 200:
            raise Reading("JWKS", answer, link.secrets()).refusal(self._clock())
        fit_keys(answer.body)
        telemetry.count("KeysFetched")
        return Entry(
            answer.body,
            fetched_at=asked_at,
            usable_until=asked_at + KEYS_SECONDS,
            stale_until=asked_at + KEYS_STALE_SECONDS,
        )

    def _linked(self, credentials: Credentials) -> "_Link":
        """Return the link for these credentials, or the one before while their certificate does not load."""
        if self._link is None or self._link.credentials is not credentials:
            try:
                self._link = self._new_link(credentials)
            except MisconfiguredError as error:
                if self._link is None:
                    raise
                telemetry.note(secrets=str(error))
                telemetry.count("SecretsFailed")
        return self._link

    def _new_link(self, credentials: Credentials) -> "_Link":
        if self._unloadable is not None and self._unloadable[0] is credentials:
            raise self._unloadable[1]
        try:
            session = self._connect(credentials.certificate, self._settings.nexi_ca_bundle)
        except MisconfiguredError as error:
            self._unloadable = credentials, error
            raise
        base_url, new_signer = self._settings.nexi_base_url, self._new_signer
        return _Link(credentials, session, new_signer, base_url, self._table, self._now)


class _Link:
    """What is built once for a version of the credentials: session, signer, cache, and the key last encrypted to."""

    def __init__(
        self,
        credentials: Credentials,
        session: MutualTlsSession,
        new_signer: "Callable[[Certificate], Key]",
        base_url: str,
        table: CacheTable | None,
        now: Callable[[], float],
    ) -> None:
        self.credentials = credentials
        self.application = credentials.application
        self.session = session
        self._new_signer = new_signer
        seal = credentials.seal("cache")
        # A certificate-bound token dies with its certificate, and no environment's token is another's.
        owner = seal.mark(base_url, self.application.client_id, credentials.certificate.thumbprint)
        self.token_name = f"token#{owner}"
        self.keys_name = f"keys#{owner}"
        self.cache = Cache(seal, table, now)
        self.refused_token: str | None = None
        self.keys_asked_at = 0.0
        self.bearer = ""
        self.assertion = ""
        """What Nexi was sent last: its next answer may repeat it, at any endpoint."""
        self._key: tuple[str, EncryptionKey] | None = None

    @functools.cached_property
    def signer(self) -> "Key":
        """Made when the first assertion is: not every function signs, or may."""
        return self._new_signer(self.credentials.certificate)

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be quoted from any answer."""
        return tuple(filter(None, (self.application.client_secret, self.bearer, self.assertion)))

    def encryption_key(self, keys: Entry) -> EncryptionKey:
        """The key of this JWKS, checked and built once for each version of it."""
        if self._key is None or self._key[0] != keys.version:
            self._key = (keys.version, fit_keys(keys.value)[0])
        return self._key[1]


class TokenRefusedError(NexiRejectedError):
    """When PAR answered 401 for this token."""

    def __init__(self, message: str, remedy: str, token: Entry) -> None:
        super().__init__(message, remedy)
        self.token = token


class RequestRefusedError(NexiRejectedError):
    """When PAR answered 400 for an assertion to these keys, made when Nexi's clock was thought to be so far behind."""

    def __init__(self, message: str, remedy: str, keys: Entry, clock_ahead: float) -> None:
        super().__init__(message, remedy)
        self.keys = keys
        self.clock_ahead = clock_ahead


def _pushed(reading: Reading, sent_at: float) -> PushedAuthorization:
    members = reading.members()
    request_uri = members.get("request_uri")
    if not isinstance(request_uri, str) or not re.fullmatch(r"[!-~]{1,2048}", request_uri):
        raise reading.unreadable("no request_uri")
    expires_in = seconds(members.get("expires_in", REQUEST_URI_SECONDS))
    if expires_in is None or expires_in < 1:
        raise reading.unreadable("an expires_in that is no number of seconds to come")
    expires_in = min(expires_in, MAX_REQUEST_URI_SECONDS)
    return PushedAuthorization(request_uri, expires_in, int(sent_at) + expires_in)


@functools.cache
def channel() -> Nexi:
    """The execution environment's channel, from its settings. Built on first use; a failure is not cached."""
    configured = settings()
    key_id = configured.signing_key_id
    if key_id is None:
        return Nexi(configured, credential_store(), cache_table())

    def kms_signer(certificate: Certificate) -> "Key":
        # Imported for those who have such a key.
        from softpos.nexi.signing import KmsSigner

        return KmsSigner(aws.client("kms", hasty=True), key_id, certificate.signing_public_key)

    return Nexi(configured, credential_store(), cache_table(), new_signer=kms_signer)
