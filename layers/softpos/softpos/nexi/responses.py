"""What Nexi's answers mean: members out of a body that may be anything, errors out of a status, and words for the log.

Nexi's bodies seen: `{"statusCode", "message"}`, `{"errcode", "errmsg"}`, RFC 6749's `{"error", "error_description"}`,
a gateway's HTML page, nothing.
"""

import html
import json
import math
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote_plus

from softpos.errors import CredentialsRefusedError, NexiRejectedError, NexiUnavailableError, SoftposError
from softpos.nexi.session import Answer

MAX_RETRY_AFTER_SECONDS = 3600
"""The most that is passed on of a Retry-After of Nexi's."""

_PASSING = (408, 421, 425, 429)
"""Statuses below 500 that another attempt, on another connection, may not meet (RFC 9110 section 15.5, RFC 8470)."""

_SAID_BYTES = 4096
_NAME = 4
"""A name that is shorter would blot out parts of words."""
_TELLING = 6
"""So many characters in a row of a secret are a part of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer of one endpoint (`token`, `JWKS` or `PAR`), and the secrets that were sent to get it."""

    endpoint: str
    answer: Answer
    secrets: tuple[str, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    """Whom and what the request was about: not secret, and yet no log's business."""

    def members(self) -> dict[str, Any]:
        """The JSON object that the body is. Raises NexiUnavailableError when it is none."""
        members = self._json()
        if not isinstance(members, dict):
            raise self.unreadable("no JSON object")
        return members

    def unreadable(self, found: str) -> NexiUnavailableError:
        """The error that a good status with a body of no use is: a gateway's page, say, and not a word of Nexi's.

        The body is not quoted: it may hold the very token that was asked for, where nobody looks for it.
        """
        kind = self._label(self.answer.headers.get("Content-Type", "")) or "no type"
        size = f"coded as {self._label(self.answer.coding)}" if self.answer.coding else f"{len(self.answer.body)} bytes"
        return NexiUnavailableError(
            f"{self.endpoint} answered {self.answer.status} with {found} ({size}, {kind})",
            "if it lasts, check NEXI_BASE_URL: something other than Nexi's B2B channel may be answering there",
        )

    def refusal(self, nexi_now: float) -> SoftposError:
        """The error that a status other than the good one is. `nexi_now` is Nexi's time, for a Retry-After date."""
        status = self.answer.status
        message = f"{self.endpoint} answered {status}: {self._said()}"
        if status in _PASSING or status >= 500:
            return NexiUnavailableError(
                message,
                "Usually transient. If it persists, ask Nexi.",
                retry_after=self._retry_after(nexi_now),
            )
        if status == 403:
            return CredentialsRefusedError(
                message,
                "have the certificate registered at Nexi for this app and stage: send its .pem to Nexi's contact",
            )
        members = self._json()
        error = members.get("error") if isinstance(members, dict) else None
        if (status == 401 and self.endpoint != "PAR") or error == "invalid_client":
            return CredentialsRefusedError(
                message, "store client_id and client_secret of the app, as Nexi's portal of this stage shows them"
            )
        if status == 400:
            return NexiRejectedError(
                message,
                "compare with Nexi's portal and the SDK: e-mail, point of sale, TIDs, redirect_uri, base URL",
            )
        return NexiRejectedError(message, "ask Nexi, with this line's time and jti")

    def _label(self, header: str) -> str:
        """Return a media type or content coding for the log: short, and without what neither needs."""
        return "[withheld]" if _repeats(header, self.secrets) else re.sub(r"[^a-z/+;=, -]", "", header.lower())[:60]

    def _json(self) -> Any:
        try:
            return json.loads(self.answer.body)
        except (ValueError, RecursionError):
            return None

    def _retry_after(self, nexi_now: float) -> int | None:
        """In whole seconds, whether the header has seconds or a date (RFC 9110 section 10.2.3)."""
        value = self.answer.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,6}", value):
            seconds = float(value)
        else:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - nexi_now
            except (ValueError, TypeError, IndexError, OverflowError):
                return None
        return min(max(1, math.ceil(seconds)), MAX_RETRY_AFTER_SECONDS)

    def _said(self) -> str:
        """What Nexi said, fit for a log: short, printable, and without anything that could be a credential of ours.

        A part of one of the secrets that were sent, in whatever spelling, and nothing is told. Other long runs of
        letters are blotted out: they may be a token, too.
        """
        if self.answer.coding:
            return f"[a body coded as {self._label(self.answer.coding)}, which was not asked for]"
        text = self.answer.body[:_SAID_BYTES].decode("utf-8", "replace")
        if _repeats(text, self.secrets):
            return "[withheld: it repeats a secret that was sent]"
        for name in self.names:
            if len(name) >= _NAME:
                text = re.sub(re.escape(name), "[…]", text, flags=re.IGNORECASE)
        # The second kind is one that is cut off where the text is.
        text = re.sub(r"[\w\-+/=.~%\\]{25,}|[\w\-+/=.~%\\]{9,}$", "[…]", text)
        text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
        return text[:300] or "nothing"


def seconds(value: Any) -> int | None:
    """A lifetime as Nexi writes it, integer or string; None when it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,12}\s*", value):
        return int(value)
    return None


def _repeats(text: str, secrets: tuple[str, ...]) -> bool:
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
