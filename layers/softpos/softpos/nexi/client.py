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
from softpos.errors import MisconfiguredError, NexiTimeoutError, NexiUnavailableError, SoftposError
from softpos.nexi import assertion
from softpos.nexi.clock import NexiClock
from softpos.nexi.jwks import EncryptionKey, published_keys, usable_keys
from softpos.nexi.responses import Reading, lifetime
from softpos.nexi.session import MutualTlsSession
from softpos.settings import Settings, settings
from softpos.terminals import Assignment

if TYPE_CHECKING:
    from jose.backends.base import Key

TOKEN_PATH = "/softpos/appenrollment/token"  # noqa: S105 - a path
KEYS_PATH = "/softpos/par/jwks.json"
PAR_PATH = "/softpos/as/par"

TOKEN_SECONDS = 3600
"""A token's lifetime by Nexi's page. An answer can only shorten it."""

KEYS_SECONDS = 3600
"""Maximum age of a JWKS. Nexi does not say; a key that goes earlier shows as a refusal of PAR."""

KEYS_STALE_SECONDS = 86_400
"""Maximum age of a JWKS while its endpoint fails."""

REQUEST_URI_SECONDS = 90
"""A request_uri's lifetime by Nexi's page. An answer can only shorten it."""

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
    """Nexi's encryption keys of the best rank, and the seconds for which they may be used."""

    keys: list[EncryptionKey]
    usable_for: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a pushed assertion was made with."""

    link: "_Link"
    token: Entry
    keys: Entry
    key: EncryptionKey
    clock_ahead: float


@dataclass(slots=True)
class Plan:
    """How the next assertion is made: None leaves the choice to the channel. `last` tells what the last one was."""

    clock_ahead: float | None = None
    key: EncryptionKey | None = None
    last: Attempt | None = None


class Nexi:
    """The channel of one application with its certificate. Warm, an enrollment is one call.

    `push` makes one attempt. How often to try, and what to change in between, is the caller's decision. Nexi's clock is
    every application's; token, session and signer are one application's.
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
        clock: NexiClock | None = None,
    ) -> None:
        self.clock = clock or NexiClock(now)
        self._settings = settings
        self._credentials = credentials
        self._table = table
        self._now = now
        self._new_jti = new_jti
        self._connect = connect
        self._new_signer = new_signer or (lambda certificate: assertion.certificate_signer(certificate.private_key))
        self._link: _Link | None = None
        self._unloadable: tuple[Credentials, MisconfiguredError] | None = None

    def push(
        self, held: Assignment, device_id: str, deadline: Deadline, plan: Plan | None = None
    ) -> PushedAuthorization:
        """Push an authorization request for an operator's terminals and the phone's device id, with a new assertion.

        Raises MisconfiguredError, NexiRejectedError, NexiUnavailableError, NexiTimeoutError, SigningUnavailableError,
        or OutOfTimeError.
        """
        plan = plan or Plan()
        plan.last = None
        link = self._linked(self._credentials.get())
        token = self._token(link, deadline)
        with telemetry.timed("keys"):
            keys = link.cache.get(link.keys_name, lambda: self._fetch_keys(link, deadline), deadline)
        key = plan.key or link.encryption_keys(keys)[0]
        clock_ahead = self.clock.ahead if plan.clock_ahead is None else plan.clock_ahead
        with telemetry.timed("assertion"):
            sealed = link.assertion = self._assertion(link, key, held, device_id, self._now() - clock_ahead)
        plan.last = Attempt(link, token, keys, key, clock_ahead)
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
        self.clock.learn(answer.headers)
        return self._pushed(Reading("PAR", answer, link.secrets(), (held.operator, device_id)), sent_at)

    def credentials_renewed(self) -> bool:
        """Read the secrets again, and return whether they have a newer version than the last attempt used.

        A version whose certificate does not load is no newer version.
        """
        renewed = self._credentials.get(reload=True)
        unloadable = self._unloadable is not None and self._unloadable[0] is renewed
        return self._link is not None and renewed is not self._link.credentials and not unloadable

    def renew(self, last: Attempt, deadline: Deadline, pay: Callable[[str], None]) -> bool:
        """Renew token and keys that a refused attempt used; return whether one of them has changed.

        What another environment has renewed costs nothing. Otherwise one environment fetches, after `pay` with `token`
        or `keys`, which may raise SoftposError. What cannot be renewed serves on, and the log line says why. Raises the
        last such error if nothing could be renewed.
        """
        link = last.link
        renewed: list[str] = []
        failed: dict[str, SoftposError] = {}
        for what, name, used, fetch in (
            ("token", link.token_name, last.token, self._fetch_token),
            ("keys", link.keys_name, last.keys, self._fetch_keys),
        ):

            def paid_fetch(what: str = what, fetch: Callable[["_Link", Deadline], Entry] = fetch) -> Entry:
                pay(what)
                if what == "token":
                    telemetry.count("TokenDropped")
                else:
                    telemetry.count("KeysFetchedAfterRefusal")
                try:
                    return fetch(link, deadline)
                except (NexiUnavailableError, NexiTimeoutError):
                    # Once more at once: without a renewal, the enrollment is over.
                    return fetch(link, deadline)

            def newer(entry: Entry, used: Entry = used) -> bool:
                return entry.version != used.version and entry.fetched_at >= used.fetched_at

            try:
                if link.cache.get(name, paid_fetch, deadline, fit=newer).value != used.value:
                    renewed.append(what)
            except SoftposError as error:
                failed[what] = error
        told = {"renewal_failed": {what: str(error) for what, error in failed.items()}} if failed else {}
        telemetry.note(renewed=renewed, **told)
        if failed and not renewed:
            raise list(failed.values())[-1]
        return bool(renewed)

    def accepted(self, last: Attempt, operator: str, refused_clocks: list[float]) -> None:
        """Remember what worked: clock, key, and that this operator was served with this token and these keys."""
        self.clock.accepted(last.clock_ahead, refused_clocks)
        last.link.accepted(last, operator)

    def token(self, deadline: Deadline) -> int:
        """Make sure that there is a token, and return the seconds for which it may be used. Raises as `push` does."""
        token = self._token(self._linked(self._credentials.get()), deadline)
        return max(0, int(token.usable_until - self._now()))

    def keys(self, deadline: Deadline) -> "PublishedKeys":
        """Return the encryption keys, from the cache while they last. Raises as `push` does."""
        with deadline.applied(), telemetry.timed("keys"):
            link = self._linked(self._credentials.get())
            keys = link.cache.get(link.keys_name, lambda: self._fetch_keys(link, deadline), deadline)
        return PublishedKeys(published_keys(usable_keys(keys.value)), max(0, int(keys.usable_until - self._now())))

    def refresh(self, usable_for: float, deadline: Deadline) -> None:
        """Make sure that token and keys are in the cache and stay usable for so many seconds.

        Phones use the old ones meanwhile. Raises as `push` does, having tried both.
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
            token = link.cache.get(link.token_name, lambda: self._fetch_token(link, deadline), deadline)
        link.bearer = token.value.decode("ascii")
        return token

    def _assertion(self, link: "_Link", key: EncryptionKey, held: Assignment, device_id: str, now: float) -> str:
        jti = self._new_jti()
        telemetry.note(jti=jti, **({"key_label": key.label} if key.label else {}))
        claims = assertion.claims(
            client_id=link.application.client_id,
            audience=self._settings.nexi_base_url,
            point_of_sale=held.point_of_sale,
            terminal_ids=held.terminal_ids,
            operator=held.operator,
            device_id=device_id,
            now=now,
            jti=jti,
        )
        return assertion.seal(claims, link.signer, key, minimal_headers=self._settings.minimal_assertion_headers)

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
        self.clock.learn(answer.headers)
        reading = Reading("token", answer, link.secrets())
        if answer.status != 200:
            raise reading.failure(self.clock())
        members = reading.members()
        # The scheme that we send is Bearer, whatever token_type says.
        said = members.get("access_token")
        token = re.sub(r"(?i)^bearer +", "", said.strip()) if isinstance(said, str) else ""
        if not re.fullmatch(r"[!-~]{1,8192}", token):
            raise reading.unreadable("no access_token that could go into a header")
        telemetry.count("TokenFetched")
        seconds = lifetime(members, TOKEN_SECONDS)
        margin = min(_MARGIN_SECONDS, seconds * _MARGIN_SHARE)
        return Entry(token.encode("ascii"), fetched_at=asked_at, usable_until=asked_at + seconds - margin)

    def _fetch_keys(self, link: "_Link", deadline: Deadline) -> Entry:
        asked_at = self._now()
        answer = link.session.send("GET", self._settings.nexi_base_url + KEYS_PATH, deadline)
        self.clock.learn(answer.headers)
        if answer.status != 200:
            raise Reading("JWKS", answer, link.secrets()).failure(self.clock())
        usable_keys(answer.body)
        telemetry.count("KeysFetched")
        return Entry(
            answer.body,
            fetched_at=asked_at,
            usable_until=asked_at + KEYS_SECONDS,
            stale_until=asked_at + KEYS_STALE_SECONDS,
        )

    def _pushed(self, reading: Reading, sent_at: float) -> PushedAuthorization:
        members = reading.json()
        request_uri = members.get("request_uri") if isinstance(members, dict) else None
        request_uri = request_uri.strip() if isinstance(request_uri, str) else ""
        if reading.answer.status not in (200, 201) or not re.fullmatch(r"[!-~]{1,2048}", request_uri):
            raise reading.failure(self.clock())
        expires_in = lifetime(members, REQUEST_URI_SECONDS)
        return PushedAuthorization(request_uri, expires_in, int(sent_at) + expires_in)

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
    """The objects built once for a version of the credentials, and what is known with them."""

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
        self.bearer = ""
        self.assertion = ""
        """What Nexi was sent last: its next answer may repeat it, at any endpoint."""
        self._keys: tuple[str, list[EncryptionKey]] = ("", [])
        self._served_with = ("", "")
        self._served: set[str] = set()

    @functools.cached_property
    def signer(self) -> "Key":
        """Signer of the assertion, built with the first one: not every function signs, or may."""
        return self._new_signer(self.credentials.certificate)

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be quoted from any answer."""
        return tuple(filter(None, (self.application.client_secret, self.bearer, self.assertion)))

    def encryption_keys(self, keys: Entry) -> list[EncryptionKey]:
        """Return the usable keys of this JWKS, the one to use first, checked and built once for each version of it."""
        if self._keys[0] != keys.version:
            self._keys = (keys.version, usable_keys(keys.value))
        return self._keys[1]

    def other_key(self, last: Attempt) -> EncryptionKey | None:
        """Return a key of the same or the next rank that may work where `last` was refused, unless its key has."""
        if self._served and self._served_with[1] == last.keys.version:
            return None
        others = [each for each in self.encryption_keys(last.keys) if each is not last.key]
        return next((each for each in others if each.rank - last.key.rank in (0, 1)), None)

    def accepted(self, last: Attempt, operator: str) -> None:
        """Remember that this operator was served with this token and these keys, and which key worked."""
        versions = (last.token.version, last.keys.version)
        if self._served_with != versions:
            self._served_with, self._served = versions, set()
        self._served.add(operator)
        # Where another key had to be tried, it goes first from now on.
        keys = self.encryption_keys(last.keys)
        keys.remove(last.key)
        keys.insert(0, last.key)

    def served(self, last: Attempt, operator: str) -> bool:
        """Return whether this operator was served with the very token and keys of a refused attempt."""
        return operator in self._served and self._served_with == (last.token.version, last.keys.version)


@functools.cache
def channel() -> Nexi:
    """Return the execution environment's channel, from its settings. Built on first use; a failure is not cached."""
    configured = settings()
    key_id = configured.signing_key_id
    if key_id is None:
        return Nexi(configured, credential_store(), cache_table())

    def kms_signer(certificate: Certificate) -> "Key":
        # Imported for those who have such a key.
        from softpos.nexi.signing import KmsSigner

        return KmsSigner(aws.client("kms", hasty=True), key_id, certificate.signing_public_key)

    return Nexi(configured, credential_store(), cache_table(), new_signer=kms_signer)
