"""How often one operator may enroll: counted in the cache table, so that it holds across execution environments."""

import math
import time
from collections.abc import Callable

from softpos import operators
from softpos.cache import CacheTable
from softpos.credentials import CredentialStore
from softpos.errors import TooManyEnrollmentsError

WINDOW_SECONDS = 60


class OperatorLimit:
    """So many enrollments of each operator in every minute of the clock.

    A table that fails costs the limit and not the enrollment, and so does one that holds what is no count. Who can
    write to it can use up an operator's minute.
    """

    def __init__(
        self,
        table: CacheTable,
        credentials: CredentialStore,
        per_minute: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._credentials = credentials
        self._per_minute = per_minute
        self._now = now

    def admit(self, operator: str) -> None:
        """Count an enrollment of this e-mail's. Raises TooManyEnrollmentsError, which says when the minute is over."""
        now = self._now()
        window = now // WINDOW_SECONDS
        over_at = (window + 1) * WINDOW_SECONDS
        # A mark: who reads the table need not learn who enrolls.
        mark = self._credentials.get().seal("limit").mark(operators.key(operator), str(window))
        if self._table.admit(f"limit#{mark}", self._per_minute, over_at) is False:
            raise TooManyEnrollmentsError(
                f"the operator's {self._per_minute} enrollments of this minute are used up",
                "an app that asks in a loop? else raise the parameter EnrollmentsPerMinute",
                retry_after=math.ceil(over_at - now),
            )
