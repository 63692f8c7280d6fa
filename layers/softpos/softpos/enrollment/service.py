"""The enrollment: an operator and a device in, a `request_uri` out, within one deadline, on Nexi's bad days too."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from softpos import aws, telemetry
from softpos.cache import cache_table
from softpos.credentials import credential_store
from softpos.deadline import Deadline, side_by_side
from softpos.enrollment.budget import RenewalBudget
from softpos.enrollment.circuit import Circuit
from softpos.enrollment.limit import OperatorLimit
from softpos.enrollment.recovery import Recovery
from softpos.errors import (
    MisconfiguredError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    OutOfTimeError,
    SoftposError,
    UnansweredError,
)
from softpos.nexi.client import Nexi, PushedAuthorization, channel
from softpos.settings import settings
from softpos.terminals import Assignment, TerminalRegistry, registry

if TYPE_CHECKING:
    from softpos.enrollment.idempotency import Idempotency

DEADLINE_SECONDS = 10.0
"""For a whole enrollment. The phone's person is standing at a counter."""

_ANSWER_SECONDS = 1.0
"""What is left of Lambda's own time to say that ours is over."""

REFRESH_BEFORE_SECONDS = 240.0
"""Token and keys are renewed this long before they lapse: two runs of the schedule, should one fail."""


class Enrollment:
    """Binds the registry to Nexi's channel, and decides how often to try.

    `circuit` is this application's; `connections` is for failures that every application would meet.
    """

    def __init__(
        self,
        registry: TerminalRegistry,
        nexi: Nexi,
        idempotency: "Callable[[], Idempotency]",
        limit: OperatorLimit,
        budget: RenewalBudget,
        circuit: Circuit | None = None,
        connections: Circuit | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._nexi = nexi
        self._idempotency = idempotency
        self._limit = limit
        self._budget = budget
        self._circuit = circuit or Circuit()
        self._connections = connections or Circuit()
        self._sleep = sleep

    def enroll(
        self, email: str, device_id: str, deadline: Deadline, idempotency_key: str | None = None
    ) -> PushedAuthorization:
        """Return a `request_uri` for the terminals that the operator holds, on the device that the SDK named.

        Each attempt is a new assertion. A repeat under the same key returns the same `request_uri`, and counts for no
        enrollment. Raises any SoftposError; TerminalNotAssignedError and TooManyEnrollmentsError before Nexi is asked
        for anything.
        """
        with deadline.applied():
            return self._enroll(email, device_id, deadline, idempotency_key)

    def _enroll(
        self, email: str, device_id: str, deadline: Deadline, idempotency_key: str | None = None
    ) -> PushedAuthorization:
        deadline.required("the registry")
        if idempotency_key is not None:
            with telemetry.timed("registry"):
                held = self._registry.held_by(email)
            telemetry.note(point_of_sale=held.point_of_sale, terminal_ids=held.terminal_ids)
            # Through the registry again, which is quick: a second way to enroll would be slower to read.
            again = functools.partial(self._enroll, email, device_id, deadline)
            return self._idempotency().once(idempotency_key, held, device_id, deadline, again)
        with telemetry.timed("registry"):
            held = side_by_side(lambda: self._registry.held_by(email), lambda: self._limit.admit(email))
        telemetry.note(point_of_sale=held.point_of_sale, terminal_ids=held.terminal_ids)
        # What went before may have taken all of it, where AWS is slow.
        deadline.required("an assertion")
        try:
            return self._attempt(held, device_id, deadline)
        except (NexiRejectedError, NexiUnavailableError, NexiTimeoutError):
            # Each operator once: their number tells one operator's trouble from everyone's.
            if self._budget.first_failure(held.operator):
                telemetry.count("OperatorsFailed")
            raise

    def _attempt(self, held: Assignment, device_id: str, deadline: Deadline) -> PushedAuthorization:
        """Push, and after each failure do what may help, for as long as the deadline has room for another attempt."""
        recovery = Recovery(self._nexi, self._budget, held.operator)
        failures: list[NexiUnavailableError | NexiTimeoutError] = []
        while True:
            self._connections.admit()
            self._circuit.admit()
            try:
                pushed = self._nexi.push(held, device_id, deadline, recovery.plan)
            except (NexiUnavailableError, NexiTimeoutError) as error:
                failures.append(error)
                self._after_failure(failures, held.operator, recovery, deadline)
            except OutOfTimeError as error:
                if not failures:
                    raise
                error.__cause__ = error.__cause__ or failures[-1].__cause__
                raise _most_telling(failures) from error
            except (NexiRejectedError, MisconfiguredError) as error:
                if not recovery.after(error, deadline):
                    self._circuit.answered()
                    raise
            else:
                self._connections.answered()
                self._circuit.answered()
                recovery.succeeded()
                return pushed

    def _after_failure(
        self,
        failures: list[NexiUnavailableError | NexiTimeoutError],
        operator: str,
        recovery: Recovery,
        deadline: Deadline,
    ) -> None:
        """Return when it is time for another attempt. Raises the most telling failure when there should be none."""
        error = failures[-1]
        telemetry.note(failed_attempts=len(failures))
        circuit = self._circuit if error.reached else self._connections
        circuit.failed(error, operator if error.reached and recovery.plan.last else None)
        if not recovery.after(error, deadline):
            self._sleep(circuit.pause(len(failures), _most_telling(failures), deadline))

    def refresh(self, deadline: Deadline) -> None:
        """Renew token and keys if they lapse soon, so that no phone waits for either. Raises as `enroll` does."""
        with deadline.applied():
            self._nexi.refresh(REFRESH_BEFORE_SECONDS, deadline)


def _most_telling(failures: Sequence[SoftposError]) -> SoftposError:
    """Return the last failure, and one that asks about the certificate only if every attempt ended that way."""
    return next((each for each in reversed(failures) if not isinstance(each, UnansweredError)), failures[-1])


def deadline_within(remaining_millis: int) -> Deadline:
    """Return the deadline of an invocation that Lambda ends in so many milliseconds."""
    return Deadline(min(DEADLINE_SECONDS, remaining_millis / 1000 - _ANSWER_SECONDS))


@functools.cache
def enrollment() -> Enrollment:
    """Return the execution environment's enrollment, from its settings. Built on first use; a failure is not cached."""
    credentials = credential_store()

    @functools.cache
    def idempotency() -> "Idempotency":
        # Imported for those who send the header: Powertools' idempotency is not for free.
        from softpos.enrollment.idempotency import Idempotency

        return Idempotency(aws.client("dynamodb", hasty=True), settings().cache_table, credentials)

    limit = OperatorLimit(cache_table(), credentials, settings().enrollments_per_minute)
    budget = RenewalBudget(cache_table(), credentials)
    return Enrollment(registry(), channel(), idempotency, limit, budget)
