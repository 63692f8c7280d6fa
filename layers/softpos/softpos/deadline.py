"""The one deadline of an enrollment, that every outbound call fits its timeouts into."""

import time
from collections.abc import Callable

from softpos.errors import OutOfTimeError


class Deadline:
    """A point in time that work must be done by.

    On the monotonic clock, unlike every expiry: it never outlives the invocation that it bounds, and a step of the
    wall clock must not stretch it.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - self._now())

    def required(self, what: str) -> float:
        """Seconds left for `what`. Raises OutOfTimeError when there are none."""
        remaining = self.remaining()
        if not remaining:
            raise OutOfTimeError(
                f"no time left for {what}",
                "the line's registry_ms, token_ms and keys_ms say what was slow; see AWS's service health",
            )
        return remaining
