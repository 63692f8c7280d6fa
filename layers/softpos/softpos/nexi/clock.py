"""Nexi's clock, as the Date headers of its answers tell it.

An assertion whose `iat` is ahead of Nexi's clock is rejected, whoever is right. So `iat` follows Nexi's clock.
"""

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from softpos import telemetry

TOLERANCE_SECONDS = 2.0
"""A Date header has whole seconds, and is as old as the way back was long: less than this says nothing."""

MAX_OFFSET_SECONDS = 86_400.0
"""A clock that is off by more is more likely a Date header that is."""


class NexiClock:
    """Our wall clock, corrected by what Nexi's last answer said."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.ahead = 0.0
        """Seconds that our clock is ahead of Nexi's; negative when behind; 0 within the tolerance."""

    def __call__(self) -> float:
        """Nexi's time, in Unix seconds."""
        return self._now() - self.ahead

    def learn(self, date: str | None) -> None:
        """Take the Date header of an answer that has just come. One that is missing or no date changes nothing."""
        try:
            theirs = parsedate_to_datetime(date or "")
            stamp = (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return
        # Half a second: on average the header's truncation took that much away.
        ahead = self._now() - stamp - 0.5
        if abs(ahead) > MAX_OFFSET_SECONDS:
            return
        self.ahead = ahead if abs(ahead) > TOLERANCE_SECONDS else 0.0
        if self.ahead:
            telemetry.note(clock_ahead_seconds=round(ahead, 1))
            telemetry.gauge("ClockAhead", ahead)
