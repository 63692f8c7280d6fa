"""When to try again and when to leave Nexi alone: a back-off, a budget for retries, and a circuit."""

import math
import random
import time
from collections.abc import Callable

from softpos import telemetry
from softpos.deadline import Deadline
from softpos.errors import NexiUnavailableError, SoftposError

OPEN_AFTER_FAILURES = 5
"""Failed attempts in a row."""

OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 60.0
"""How long an open circuit spares Nexi, doubling with each probe that fails; and the most of a Retry-After believed."""

RETRY_BUDGET = 10.0
RETRY_BUDGET_PER_SUCCESS = 0.2
"""A retry costs one. In an outage, an environment soon has none left and asks Nexi once per enrollment."""

# Not the module's own: copies of one SnapStart snapshot would all draw the same "jitter".
_random = random.SystemRandom()

_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 1.0
_ATTEMPT_SECONDS = 0.5
"""What must be left of a deadline for another attempt to make sense."""


class Circuit:
    """The state of Nexi's channel as this execution environment knows it."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._failures = 0
        self._budget = RETRY_BUDGET
        self._open_until = 0.0
        self._open_for = OPEN_SECONDS

    def admit(self) -> None:
        """Let an attempt pass. Raises NexiUnavailableError while the circuit is open.

        Once the time is over one attempt is the probe: it closes the circuit, or opens it for twice as long.
        """
        left = self._open_until - self._now()
        if 0 < left <= MAX_OPEN_SECONDS:
            why = "as it asked (Retry-After)"
            if self._failures >= OPEN_AFTER_FAILURES:
                telemetry.count("CircuitOpen")
                why = f"after {self._failures} failures in a row"
            raise NexiUnavailableError(
                f"Nexi is being spared for {left:.0f} s more, {why}",
                "see the failures before this line; it ends by itself with the first success",
                retry_after=math.ceil(left),
            )

    def answered(self) -> None:
        """Nexi has answered, whatever it said."""
        self._failures = 0
        self._open_for = OPEN_SECONDS
        self._open_until = 0.0
        self._budget = min(RETRY_BUDGET, self._budget + RETRY_BUDGET_PER_SUCCESS)

    def failed(self, error: SoftposError) -> None:
        """An attempt found Nexi unavailable or too slow."""
        self._failures += 1
        now = self._now()
        if self._failures >= OPEN_AFTER_FAILURES:
            self._open_until = now + self._open_for
            self._open_for = min(2 * self._open_for, MAX_OPEN_SECONDS)
        if error.retry_after:
            self._open_until = max(self._open_until, now + min(error.retry_after, MAX_OPEN_SECONDS))

    def pause(self, attempt: int, error: SoftposError, deadline: Deadline) -> float:
        """Seconds to wait before another attempt. Raises `error` when there is to be none.

        `attempt` counts from 1. Nexi's own Retry-After is honoured if the deadline has room for it.
        """
        ceiling = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        jitter = _random.uniform(0.0, ceiling)
        pause = max(self._open_until - self._now(), 0.0) + jitter
        if self._failures >= OPEN_AFTER_FAILURES or self._budget < 1 or deadline.remaining() < pause + _ATTEMPT_SECONDS:
            raise error
        self._budget -= 1
        telemetry.count("Retry")
        return pause
