"""What refused operators may cost: renewals of token and keys, limited for each operator and for all."""

import time
from collections.abc import Callable

from softpos import operators
from softpos.cache import CacheTable
from softpos.credentials import CredentialStore
from softpos.errors import NexiUnavailableError

OPERATOR_SECONDS = 60
"""One operator's refusals pay for one renewal in this time."""

SHARED_SECONDS = 10
"""All operators' refusals pay for one renewal of the token, and one of the keys, in this time."""

FAILED_SECONDS = 300
"""The metric OperatorsFailed counts each operator once in this time."""


class RenewalBudget:
    """Counters in the cache table; while that fails, memory alone counts. Windows are of the wall clock."""

    def __init__(self, table: CacheTable, credentials: CredentialStore, now: Callable[[], float] = time.time) -> None:
        self._table = table
        self._credentials = credentials
        self._now = now
        self._memory: dict[str, float] = {}

    def payment(self, operator: str) -> "Payment":
        """Return what one enrollment of this operator pays its renewals with."""
        return Payment(self, operator)

    def first_failure(self, operator: str) -> bool:
        """Return whether this is the operator's first enrollment that finally failed in FAILED_SECONDS."""
        return self.take("failed", operators.key(operator), FAILED_SECONDS) is not None

    def take(self, what: str, whose: str, seconds: int) -> str | None:
        """Take what there is one of in each window. Return the counter's name, or None if it was taken before."""
        name, ends_at = self._counter(what, whose, seconds)
        self._memory = {each: end for each, end in self._memory.items() if end > self._now()}
        if name in self._memory:
            return None
        self._memory[name] = ends_at
        # None: the table fails, and memory alone decides.
        return None if self._table.admit(name, 1, ends_at) is False else name

    def give_back(self, name: str) -> None:
        """Give back what was taken."""
        self._memory.pop(name, None)
        self._table.refund(name)

    def trust_again(self, operator: str) -> None:
        """Give back what an operator took here, who has been served since."""
        if self._memory and (name := self._counter("renewal", operator, OPERATOR_SECONDS)[0]) in self._memory:
            self.give_back(name)

    def _counter(self, what: str, whose: str, seconds: int) -> tuple[str, float]:
        window = int(self._now()) // seconds
        # Names are marks: readers of the table need not learn who was refused.
        mark = self._credentials.get().seal("budget").mark(what, whose, str(window))
        return f"{what}#{mark}", float((window + 1) * seconds)


class BudgetUsedUpError(NexiUnavailableError):
    """When refusals have paid for enough renewals for the moment."""


class Payment:
    """Pays for the renewals of one enrollment: the operator's counter first, then the one that all share.

    In the other order, denied repeats of refused operators would use up what a healthy operator needs.
    """

    def __init__(self, budget: RenewalBudget, operator: str) -> None:
        self.trusted = False
        """Whether the operator was served with what is renewed: that is evidence that it changed, and pays for once."""
        self._budget = budget
        self._operator = operators.key(operator)
        self._own: str | None = None
        self._shared: list[str] = []

    def __call__(self, what: str) -> None:
        """Pay for renewing `what`. Raises BudgetUsedUpError."""
        if self.trusted:
            return
        own = self._own or self._budget.take("renewal", self._operator, OPERATOR_SECONDS)
        shared = self._budget.take("renewal", what, SHARED_SECONDS) if own else None
        if own is None or shared is None:
            if own is not None and self._own is None:
                self._budget.give_back(own)
            raise BudgetUsedUpError("the budget for renewals after refusals is used up for the moment")
        self._own = own
        self._shared.append(shared)

    def renewal_failed(self) -> None:
        """Give back what is the operator's own, so that the next enrollment may try again, as often as all may."""
        self._budget.trust_again(self._operator)
        self._own = None

    def refund(self) -> None:
        """Give everything back: the operator has been served."""
        for name in self._shared:
            self._budget.give_back(name)
        self._budget.trust_again(self._operator)
