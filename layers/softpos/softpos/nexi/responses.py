"""Nexi's answers: members of a body that may be anything, errors for statuses, and words for the log.

Nexi's bodies seen: `{"statusCode", "message"}`, `{"errcode", "errmsg"}`, RFC 6749's `{"error", "error_description"}`,
a gateway's HTML page, nothing. No decision depends on their words.
"""

import html
import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote_plus

from softpos import telemetry
from softpos.errors import (
    CredentialsRefusedError,
    NexiFailedError,
    NexiRejectedError,
    NexiUnavailableError,
    SoftposError,
)
from softpos.nexi.session import Answer

MAX_RETRY_AFTER_SECONDS = 10
"""Maximum Retry-After that is believed and passed on. A longer one would make every outage longer."""

_RETRIED = (408, 421, 425, 429)
"""Statuses below 500 that another attempt, on another connection, may not meet (RFC 9110 section 15.5, RFC 8470)."""

_SAID_BYTES = 4096
_MIN_NAME_LENGTH = 4
"""Redacting a shorter name would redact parts of words."""
_TELLING = 6
"""This many consecutive characters of a secret reveal a part of it."""

_REMEDIES = {
    400: "Compare e-mail, point of sale, TIDs, redirect_uri and base URL with Nexi's portal and the SDK.",
    401: "Compare client_id and client_secret with Nexi's portal: `softpos application set` stores them.",
    403: "To have the certificate registered for this app and stage, send its .pem to Nexi's contact.",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer of one endpoint (`token`, `JWKS` or `PAR`), and the secrets that it may repeat."""

    endpoint: str
    answer: Answer
    secrets: tuple[str, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    """Operator and device of the request: not secret, but redacted in the log."""

    def members(self) -> dict[str, Any]:
        """Return the JSON object in the body. Raises NexiUnavailableError when there is none."""
        members = self.json()
        if not isinstance(members, dict):
            raise self.unreadable("no JSON object")
        return members

    def unreadable(self, found: str) -> NexiUnavailableError:
        """Return the error for a good status with an unusable body.

        The body is not quoted: it may hold the very token that was asked for.
        """
        kind = self._label(self.answer.headers.get("Content-Type", "")) or "no type"
        size = f"coded as {self._label(self.answer.coding)}" if self.answer.coding else f"{len(self.answer.body)} bytes"
        return NexiUnavailableError(
            f"{self.endpoint} answered {self.answer.status} with {found} ({size}, {kind})",
            "If it persists, check NEXI_BASE_URL: something other than Nexi's B2B channel may answer there.",
        )

    def failure(self, nexi_now: float) -> SoftposError:
        """Return the error for any status but the good one. `nexi_now` is Nexi's time, for a Retry-After date.

        PAR may refuse for many reasons, so everything that it says below 500 is a NexiRejectedError. The token and JWKS
        endpoints know only our credentials, so what they say from 400 to 499 is a CredentialsRefusedError.
        """
        status = self.answer.status
        message = f"{self.endpoint} answered {status}: {self._said()}"
        if status in _RETRIED or status >= 500:
            kind = NexiFailedError if status >= 500 else NexiUnavailableError
            return kind(
                message, "Usually transient. If it persists, ask Nexi.", retry_after=self._retry_after(nexi_now)
            )
        remedy = _REMEDIES.get(status, "Ask Nexi, with this line's time and jti.")
        if self.endpoint == "PAR":
            return NexiRejectedError(message, remedy)
        if 400 <= status < 500:
            return CredentialsRefusedError(message, remedy)
        return NexiUnavailableError(message, "Check NEXI_BASE_URL: something other than Nexi answers there.")

    def _label(self, header: str) -> str:
        """Return a media type or content coding for the log: short, and without what neither needs."""
        return "[withheld]" if _repeats(header, self.secrets) else re.sub(r"[^a-z/+;=, -]", "", header.lower())[:60]

    def json(self) -> Any:
        """Return the body's JSON value, or None."""
        try:
            return json.loads(self.answer.body)
        except (ValueError, RecursionError):
            return None

    def _retry_after(self, nexi_now: float) -> int | None:
        """Return Retry-After in whole seconds, whether it has seconds or a date (RFC 9110 section 10.2.3)."""
        value = self.answer.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]*)?", value):
            wanted = float(value)
        else:
            try:
                date = parsedate_to_datetime(value)
                wanted = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - nexi_now
            except (ValueError, TypeError, IndexError, OverflowError):
                return None
        return min(max(1, math.ceil(wanted)), MAX_RETRY_AFTER_SECONDS)

    def _said(self) -> str:
        """Return Nexi's message for the log: shortened, printable, with credentials redacted.

        Withhold all of it when it repeats a part of a secret, in any spelling. Redact other long runs of letters: they
        may be a token.
        """
        if self.answer.coding:
            return f"[a body coded as {self._label(self.answer.coding)}, which was not asked for]"
        text = self.answer.body[:_SAID_BYTES].decode("utf-8", "replace")
        if _repeats(text, self.secrets):
            return "[withheld: it repeats a secret that was sent]"
        for name in self.names:
            if len(name) >= _MIN_NAME_LENGTH:
                text = re.sub(re.escape(name), "[…]", text, flags=re.IGNORECASE)
        # The second kind is cut off where the text ends.
        text = re.sub(r"[\w\-+/=.~%\\]{25,}|[\w\-+/=.~%\\]{9,}$", "[…]", text)
        text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
        return text[:300] or "nothing"


def lifetime(members: dict[str, Any], maximum: int) -> int:
    """Return `expires_in` in seconds, at most `maximum`, which also stands for a missing or unreadable value.

    Nexi writes integers and strings; a lifetime that is not positive counts as unreadable.
    """
    value = members.get("expires_in")
    if value is None:
        return maximum
    try:
        seconds = 0.0 if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        seconds = 0.0
    # Not `seconds < 1`, which NaN is not either.
    if not seconds >= 1:
        telemetry.note(expires_in_unreadable=True)
        return maximum
    return int(min(seconds, maximum))


def _repeats(text: str, secrets: tuple[str, ...]) -> bool:
    parts = {secret[at : at + _TELLING] for secret in secrets for at in range(max(1, len(secret) - _TELLING + 1))}
    readings = [text]
    for decode in (unquote_plus, html.unescape, _without_escapes):
        readings += [decode(reading) for reading in readings]
    return any(part in reading for reading in readings for part in parts)


def _without_escapes(text: str) -> str:
    """Resolve JSON's escapes, even double ones."""
    for _ in range(2):
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r"\\(.)", r"\1", text)
    return text
