"""Nexi's B2B channel: token, keys, and the pushed authorization request that carries the client assertion.

Source: Nexi's page "Backend integration", its samples, and RFC 9126.
"""

import html
import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from softpos import assertion, telemetry
from softpos.cache import Cache, Entry
from softpos.credentials import Application, Certificate, CredentialStore
from softpos.deadline import Deadline
from softpos.errors import MisconfiguredError, NexiRejectedError, NexiUnavailableError, SoftposError
from softpos.jwks import choose_key
from softpos.mutual_tls import Answer, MutualTlsSession
from softpos.settings import Settings

if TYPE_CHECKING:
    from jose.backends.base import Key

TOKEN_PATH = "/softpos/appenrollment/token"  # noqa: S105 - a path
KEYS_PATH = "/softpos/par/jwks.json"
PAR_PATH = "/softpos/as/par"

TOKEN_SECONDS = 3600
"""A token's lifetime by Nexi's page, when the answer does not say, and the most that is believed."""

KEYS_SECONDS = 3600
"""For how long a JWKS is used. Nexi does not say; a key that goes earlier shows as a 400 on PAR."""

REQUEST_URI_SECONDS = 90
"""A request_uri's lifetime by Nexi's page, when the answer does not say."""

MAX_REQUEST_URI_SECONDS = 3600
"""The most that is believed of what the answer says."""

_Secrets = tuple[str, ...]

_MARGIN_SECONDS = 30.0
_MARGIN_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class PushedAuthorization:
    """What the phone needs: the `request_uri`, the seconds it lives, and the Unix time at which it dies."""

    request_uri: str = field(repr=False)
    expires_in: int
    expires_at: int


class Nexi:
    """The channel as one application with one certificate. Warm, an enrollment is one call."""

    def __init__(
        self,
        settings: Settings,
        credentials: CredentialStore,
        cache: Cache,
        now: Callable[[], float] = time.time,
        new_jti: Callable[[], str] = lambda: str(uuid.uuid4()),
        connect: Callable[[Certificate, str | None], MutualTlsSession] = MutualTlsSession,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._cache = cache
        self._now = now
        self._new_jti = new_jti
        self._connect = connect
        self._link: _Link | None = None

    def push(
        self, operator: str, point_of_sale: str, terminal_ids: Sequence[str], device_id: str, deadline: Deadline
    ) -> PushedAuthorization:
        """Push an authorization request for an operator's terminals and the phone's device id.

        Raises MisconfiguredError, NexiRejectedError, NexiUnavailableError or NexiTimeoutError.
        """
        credentials = self._credentials.get()
        application = credentials.application
        link = self._linked(credentials.certificate)
        with telemetry.timed("token"):
            token = self._token(application, link, deadline)
        with telemetry.timed("keys"):
            keys = self._cache.get(self._name("keys", application, link), lambda: self._fetch_keys(link, deadline))
        with telemetry.timed("assertion"):
            jti = self._new_jti()
            telemetry.note(jti=jti)
            sealed = assertion.seal(
                assertion.claims(
                    client_id=application.client_id,
                    audience=self._settings.nexi_base_url,
                    point_of_sale=point_of_sale,
                    terminal_ids=terminal_ids,
                    operator=operator,
                    device_id=device_id,
                    now=self._now(),
                    jti=jti,
                ),
                link.signer,
                choose_key(keys.value),
                minimal_headers=self._settings.minimal_assertion_headers,
            )
        form = {
            "client_assertion": sealed,
            "client_id": application.client_id,
            "scope": application.scope,
            "redirect_uri": application.redirect_uri,
        }
        secrets = (sealed, token.value.decode("ascii"), application.client_secret)
        sent_at = self._now()
        with telemetry.timed("par"):
            answer = link.session.send(
                "POST",
                self._settings.nexi_base_url + PAR_PATH,
                deadline,
                form=form,
                headers={"Authorization": f"Bearer {token.value.decode('ascii')}"},
            )
        if answer.status == 401:
            self._cache.drop(self._name("token", application, link), token)
        if answer.status not in (200, 201):
            raise _refusal("PAR", answer, secrets)
        return _pushed(answer, sent_at, secrets)

    def _token(self, application: Application, link: "_Link", deadline: Deadline) -> Entry:
        return self._cache.get(
            self._name("token", application, link), lambda: self._fetch_token(application, link, deadline)
        )

    def _fetch_token(self, application: Application, link: "_Link", deadline: Deadline) -> Entry:
        asked_at = self._now()
        secrets = (application.client_secret,)
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
        if answer.status != 200:
            raise _refusal("token", answer, secrets)
        members = _object("token", answer, secrets)
        token = members.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,8192}", token):
            raise _unreadable("token", answer, secrets, "no access_token that could go into a header")
        if str(members.get("token_type", "Bearer")).lower() != "bearer":
            raise _unreadable("token", answer, secrets, "a token_type that is not Bearer")
        lifetime = min(_seconds(members.get("expires_in", TOKEN_SECONDS)) or 0, TOKEN_SECONDS)
        margin = min(_MARGIN_SECONDS, lifetime * _MARGIN_SHARE)
        return Entry(token.encode("ascii"), usable_until=asked_at + lifetime - margin)

    def _fetch_keys(self, link: "_Link", deadline: Deadline) -> Entry:
        answer = link.session.send("GET", self._settings.nexi_base_url + KEYS_PATH, deadline)
        if answer.status != 200:
            raise _refusal("JWKS", answer)
        choose_key(answer.body)
        return Entry(answer.body, usable_until=self._now() + KEYS_SECONDS)

    def _name(self, what: str, application: Application, link: "_Link") -> str:
        # A certificate-bound token dies with its certificate, and no environment's token is another's.
        return f"{what} {self._settings.nexi_base_url} {application.client_id} {link.certificate.thumbprint}"

    def _linked(self, certificate: Certificate) -> "_Link":
        if self._link is None or self._link.certificate is not certificate:
            if self._link is not None:
                self._link.session.close()
            self._link = _Link(
                certificate,
                self._connect(certificate, self._settings.nexi_ca_bundle),
                assertion.certificate_signer(certificate.private_key),
            )
        return self._link


@dataclass(frozen=True, slots=True)
class _Link:
    """What is built once for a certificate: the session that shows it, and the signer of its assertions."""

    certificate: Certificate
    session: MutualTlsSession
    signer: "Key"


def _pushed(answer: Answer, sent_at: float, secrets: _Secrets) -> PushedAuthorization:
    members = _object("PAR", answer, secrets)
    request_uri = members.get("request_uri")
    if not isinstance(request_uri, str) or not re.fullmatch(r"[!-~]{1,2048}", request_uri):
        raise _unreadable("PAR", answer, secrets, "no request_uri")
    expires_in = _seconds(members.get("expires_in", REQUEST_URI_SECONDS))
    if expires_in is None or expires_in < 1:
        raise _unreadable("PAR", answer, secrets, "an expires_in that is no number of seconds to come")
    expires_in = min(expires_in, MAX_REQUEST_URI_SECONDS)
    return PushedAuthorization(request_uri, expires_in, int(sent_at) + expires_in)


def _refusal(what: str, answer: Answer, secrets: _Secrets = ()) -> SoftposError:
    """The error that an unwelcome status is."""
    message = f"{what} answered {answer.status}: {_said(answer, secrets)}"
    if answer.status == 429 or answer.status >= 500:
        return NexiUnavailableError(message, "Nexi's side fails; nothing to mend here, unless it lasts: then ask Nexi")
    if answer.status == 403:
        return MisconfiguredError(
            message, "have the certificate registered at Nexi for this app and stage: send its .pem to Nexi's contact"
        )
    if (what != "PAR" and answer.status == 401) or _error_code(answer) == "invalid_client":
        return MisconfiguredError(
            message, "store client_id and client_secret of the app, as Nexi's portal of this stage shows them"
        )
    if answer.status == 400:
        return NexiRejectedError(
            message,
            "compare with Nexi's portal and the SDK: operator's e-mail, point of sale, TIDs, redirect_uri, base URL",
        )
    return NexiRejectedError(message, "ask Nexi, with this line's time and jti")


def _unreadable(what: str, answer: Answer, secrets: _Secrets, found: str) -> NexiRejectedError:
    return NexiRejectedError(
        f"{what} answered {answer.status} with {found}: {_said(answer, secrets)}",
        "check NEXI_BASE_URL: something other than Nexi's B2B channel may be answering there",
    )


def _object(what: str, answer: Answer, secrets: _Secrets) -> dict[str, Any]:
    try:
        members = json.loads(answer.body)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise _unreadable(what, answer, secrets, "no JSON object")
    return members


def _error_code(answer: Answer) -> str | None:
    try:
        members = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return members.get("error") if isinstance(members, dict) else None


def _seconds(value: Any) -> int | None:
    """A lifetime as Nexi writes it, integer or string; None when it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,12}\s*", value):
        return int(value)
    return None


def _said(answer: Answer, secrets: _Secrets) -> str:
    """What Nexi said, fit for a log: short, printable, and without anything that could be a credential of ours.

    A part of one of the `secrets` that were sent, in whatever spelling, and nothing is told. Other long runs of letters
    are blotted out: they may be a token, too.
    """
    text = answer.body[:_SAID_BYTES].decode("utf-8", "replace")
    if _repeats(text, secrets):
        return "[withheld: it repeats a secret that was sent]"
    # Also one that is cut off where the text is.
    text = re.sub(r"[\w\-+/=.~%\\]{25,}|[\w\-+/=.~%\\]{9,}$", "[…]", text)
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return text[:300] or "nothing"


_SAID_BYTES = 4096
_TELLING = 6
"""So many characters in a row of a secret are a part of it."""


def _repeats(text: str, secrets: _Secrets) -> bool:
    parts = {secret[at : at + _TELLING] for secret in secrets for at in range(max(1, len(secret) - _TELLING + 1))}
    readings = [text]
    for decode in (unquote_plus, html.unescape, _without_escapes):
        readings += [decode(reading) for reading in readings]
    return any(part in reading for reading in readings for part in parts)


def _without_escapes(text: str) -> str:
    """JSON's escapes resolved, also twice."""
    for _ in range(2):
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r"\\(.)", r"\1", text)
    return text
