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
MAX_OPEN_SECONDS = 10.0
"""How long an open circuit spares Nexi, doubling with each probe that fails. More makes each outage longer."""

RETRY_BUDGET = 10.0
RETRY_BUDGET_PER_SUCCESS = 0.2
"""A retry costs one. In an outage, an environment soon has none left and asks Nexi once per enrollment."""

# Not the module's own: copies of one SnapStart snapshot would all draw the same "jitter".
_random = random.SystemRandom()

_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 1.0
_ATTEMPT_SECONDS = 0.5
"""Minimum of a deadline that another attempt needs."""


class Circuit:
    """What this execution environment knows of Nexi's state, for one application or for its connections."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._failures = 0
        self._operators: set[str | None] = set()
        self._budget = RETRY_BUDGET
        self._open_until = 0.0
        self._open_for = OPEN_SECONDS

    def admit(self) -> None:
        """Let an attempt pass. Raises NexiUnavailableError while the circuit is open.

        After that time the next attempt is the probe: it closes the circuit, or opens it for twice as long.
        """
        left = self._left()
        if left:
            telemetry.count("CircuitOpen")
            raise NexiUnavailableError(
                f"Nexi is spared for {left:.0f} s more, after {self._failures} failures in a row",
                "See the failures before this line. The first success ends this.",
                retry_after=math.ceil(left),
            )

    def answered(self) -> None:
        """Note that Nexi has answered, whatever it said."""
        self._failures = 0
        self._operators.clear()
        self._open_for = OPEN_SECONDS
        self._open_until = 0.0
        self._budget = min(RETRY_BUDGET, self._budget + RETRY_BUDGET_PER_SUCCESS)

    def failed(self, error: SoftposError, operator: str | None = None) -> None:
        """Note a failed attempt. `operator` is whose PAR failed; None for what would have failed for everyone.

        One operator's failures open no circuit, and their Retry-After binds nobody else.
        """
        self._failures += 1
        self._operators.add(operator)
        several = None in self._operators or len(self._operators) > 1
        if self._failures >= OPEN_AFTER_FAILURES and several:
            self._open_until = self._now() + self._open_for
            self._open_for = min(2 * self._open_for, MAX_OPEN_SECONDS)
        if operator is None and error.retry_after:
            self._open_until = max(self._open_until, self._now() + min(error.retry_after, MAX_OPEN_SECONDS))

    def pause(self, attempt: int, error: SoftposError, deadline: Deadline) -> float:
        """Return the seconds to wait before another attempt. Raises `error` when there should be none.

        `attempt` counts from 1. Nexi's own Retry-After is honoured if the deadline has room for it.
        """
        ceiling = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        pause = max(self._left(), error.retry_after or 0) + _random.uniform(0.0, ceiling)
        opened = self._failures >= OPEN_AFTER_FAILURES and self._left()
        enough = attempt >= OPEN_AFTER_FAILURES or opened or self._budget < 1
        if enough or deadline.remaining() < pause + _ATTEMPT_SECONDS:
            raise error
        self._budget -= 1
        telemetry.count("Retry")
        return pause

    def _left(self) -> float:
        left = self._open_until - self._now()
        # If the clock went back, that time says nothing.
        return left if 0 < left <= MAX_OPEN_SECONDS else 0.0
