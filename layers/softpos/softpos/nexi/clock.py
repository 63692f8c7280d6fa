"""Nexi's clock, estimated from the Date headers of its answers.

Nexi rejects an assertion whose `iat` is ahead of its own clock, so `iat` follows Nexi's clock. A gateway may write a
wrong Date header. Which correction is right shows in what Nexi accepts.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from softpos import telemetry

TOLERANCE_SECONDS = 2.0
"""Differences below this mean nothing: a Date header has whole seconds and is as old as the way back took."""

MAX_OFFSET_SECONDS = 86_400.0
"""A larger offset is taken for a wrong Date header."""


class NexiClock:
    """Our wall clock, corrected by the Date header of Nexi's last answer, unless Nexi refused that correction.

    A correction is the seconds that our clock is ahead of Nexi's; negative when behind; 0 within the tolerance.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen = 0.0
        self._accepted: float | None = None
        self._refuted: float | None = None
        self.ahead = 0.0
        """The correction to use."""

    def __call__(self) -> float:
        """Return Nexi's time, in Unix seconds."""
        return self._now() - self.ahead

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take the Date header of an answer that has just come.

        Ignore a missing or malformed date, one in a zone other than GMT, UTC or an offset, and that of an answer that
        a cache kept (Age, RFC 9111 section 5.1).
        """
        date = headers.get("Date", "")
        if "Age" in headers or not re.search(r"(GMT|UTC?|[+-][0-9]{4})\s*$", date):
            return
        try:
            theirs = parsedate_to_datetime(date)
            stamp = (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return
        # On average, the header's whole seconds are half a second behind.
        ahead = self._now() - stamp - 0.5
        if abs(ahead) > MAX_OFFSET_SECONDS:
            return
        self._seen = ahead if abs(ahead) > TOLERANCE_SECONDS else 0.0
        if self._is_refuted(self._seen):
            telemetry.note(date_ignored_seconds=round(ahead, 1))
            return
        self.ahead = self._seen
        if self.ahead:
            telemetry.note(clock_ahead_seconds=round(ahead, 1))
            telemetry.gauge("ClockAhead", ahead)

    def alternatives(self, used: float, *, thorough: bool) -> list[float]:
        """Return other corrections that may be right where `used` was refused: the last Date's, the accepted one, none.

        Where a Date was refuted before, its error may have stayed: then our clock is off by what has changed since.

        Unless `thorough`, leave out what experience speaks against: a correction that was refuted, and doubt about one
        that Nexi accepted before.
        """
        doubtful = self._accepted is None or differ(used, self._accepted)
        found = [self._seen] if thorough or not self._is_refuted(self._seen) else []
        found += [self._accepted] if self._accepted is not None else []
        found += [0.0] if thorough or doubtful else []
        if self._accepted is not None and self._refuted is not None:
            found.append(self._accepted + self._seen - self._refuted)
        return [each for each in found if differ(each, used)]

    def accepted(self, used: float, refused: list[float]) -> None:
        """Keep a correction that Nexi accepted, in the same enrollment perhaps after it refused others."""
        self._accepted = used
        others = [each for each in refused if differ(each, used)]
        if others:
            self._refuted = others[0]
            self.ahead = used

    def _is_refuted(self, correction: float) -> bool:
        return self._refuted is not None and not differ(correction, self._refuted)


def differ(one: float, other: float) -> bool:
    """Return whether two corrections differ by more than the tolerance."""
    return abs(one - other) > TOLERANCE_SECONDS
