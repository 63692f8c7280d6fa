"""What is done after a refused attempt so that the next one can succeed.

Evidence decides, never Nexi's words. Free evidence comes first: newer secrets, or a clock that was off. Then token and
keys are renewed, within a budget. Last, another key of the set is tried. Each remedy is used once in an enrollment.
"""

from softpos import telemetry
from softpos.deadline import Deadline
from softpos.enrollment.budget import BudgetUsedUpError, RenewalBudget
from softpos.errors import CredentialsRefusedError, NexiFailedError, NexiRejectedError, SoftposError, UnansweredError
from softpos.nexi.client import Attempt, Nexi, Plan
from softpos.nexi.clock import differ


class Recovery:
    """The remedies of one enrollment. `plan` is for its next attempt."""

    def __init__(self, nexi: Nexi, budget: RenewalBudget, operator: str) -> None:
        self.plan = Plan()
        self._nexi = nexi
        self._operator = operator
        self._payment = budget.payment(operator)
        self._applied: list[str] = []
        self._refused_clocks: list[float] = []
        self._server_errors = 0
        self._sought_renewal = False
        self._renewed = False
        self._tried_other_key = False

    def after(self, error: SoftposError, deadline: Deadline) -> bool:
        """Return whether another attempt may succeed at once, having applied the next remedy.

        A refusal at TLS, at the token endpoint or without an answer is about our credentials. A second answer of 5xx
        may come from a server that cannot decrypt what was encrypted to an old key.
        """
        last = self.plan.last
        server_error = isinstance(error, NexiFailedError) and last is not None
        self._server_errors += server_error
        refused = isinstance(error, NexiRejectedError) or (server_error and self._server_errors > 1)
        if not (refused or isinstance(error, CredentialsRefusedError | UnansweredError)) or not deadline.remaining():
            return False
        if self._nexi.credentials_renewed():
            self.plan, self._refused_clocks = Plan(), []
            self._applied.append("secrets")
        elif last is None or not refused:
            return False
        elif self._other_clock(last):
            self._applied.append("clock")
        elif self._renew(last, deadline, server_error=server_error):
            self._applied.append("renewal")
        elif self._other_clock(last):
            self._applied.append("clock")
        elif self._other_key(last):
            self._applied.append("key")
        else:
            return False
        telemetry.note(recovery=self._applied)
        return deadline.remaining() > 0

    def succeeded(self) -> None:
        """Remember what worked, and give the price of a renewal back that was worth it."""
        if self.plan.last is not None:
            self._nexi.accepted(self.plan.last, self._operator, self._refused_clocks)
        self._payment.refund()

    def _other_clock(self, last: Attempt) -> bool:
        self._refused_clocks.append(last.clock_ahead)
        for clock_ahead in self._nexi.clock.alternatives(last.clock_ahead, thorough=self._sought_renewal):
            if all(differ(clock_ahead, refused) for refused in self._refused_clocks):
                self.plan.clock_ahead = clock_ahead
                return True
        return False

    def _renew(self, last: Attempt, deadline: Deadline, *, server_error: bool) -> bool:
        if self._sought_renewal:
            return False
        self._sought_renewal = True
        # An operator who was served with this very token and these keys is evidence that they changed.
        self._payment.trusted = last.link.served(last, self._operator) and not server_error
        try:
            self._renewed = self._nexi.renew(last, deadline, self._payment)
        except BudgetUsedUpError:
            return False
        except SoftposError:
            self._payment.renewal_failed()
            return False
        if self._renewed:
            # With a new token and new keys, each clock deserves another chance.
            self._refused_clocks = []
        return self._renewed

    def _other_key(self, last: Attempt) -> bool:
        if self._tried_other_key or not self._renewed:
            return False
        self._tried_other_key = True
        self.plan.key = last.link.other_key(last)
        return self.plan.key is not None
