"""How often an enrollment tries, and what the circuit is told. Nexi is a script."""

import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from unit_support import Clock

from softpos.deadline import Deadline
from softpos.enrollment.circuit import OPEN_AFTER_FAILURES, Circuit
from softpos.enrollment.service import Enrollment
from softpos.errors import (
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    OutOfTimeError,
    SoftposError,
    TerminalNotAssignedError,
    TooManyEnrollmentsError,
    UnansweredError,
)
from softpos.nexi.client import Plan, PushedAuthorization
from softpos.terminals import Assignment

PUSHED = PushedAuthorization("urn:x", 90, 1_800_000_090)
DOWN = NexiUnavailableError("down")


class Nexi:
    """Answers with what is next, and well when nothing is."""

    def __init__(self) -> None:
        self.next: list[SoftposError] = []
        self.renewed: list[bool] = []
        self.last: Any = None
        self.pushed = 0

    def push(self, _held: Any, _device_id: str, _deadline: Deadline, plan: Plan) -> PushedAuthorization:
        self.pushed += 1
        plan.last = self.last
        if self.next:
            raise self.next.pop(0)
        return PUSHED

    def credentials_renewed(self) -> bool:
        return self.renewed.pop(0) if self.renewed else False

    def accepted(self, *_: Any) -> None:
        """Learn nothing."""


class Limit:
    """Lets each operator enroll so many times."""

    def __init__(self, times: int) -> None:
        self._left = dict.fromkeys(("limited@b.c",), times)

    def admit(self, operator: str) -> None:
        left = self._left.get(operator, 1_000)
        if not left:
            raise TooManyEnrollmentsError("no more")
        self._left[operator] = left - 1


class Once:
    """Answers a key that came before with what was pushed then."""

    pushed: ClassVar[dict[str, PushedAuthorization]] = {}

    def once(self, key: str, held: Any, device_id: str, deadline: Deadline, enroll: Any) -> PushedAuthorization:
        if key not in self.pushed:
            self.pushed[key] = enroll()
        return self.pushed[key]


@pytest.fixture
def nexi() -> Nexi:
    return Nexi()


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(lambda: 1_800_000_000.0)


@pytest.fixture
def slept() -> list[float]:
    return []


def enrollment_of(registry: Any, nexi: Any, limit: Any, circuit: Circuit, sleep: Any = lambda _: None) -> Enrollment:
    budget: Any = SimpleNamespace(payment=lambda _: SimpleNamespace(refund=lambda: None), first_failure=lambda _: True)
    once: Any = Once
    return Enrollment(registry, nexi, once, limit, budget, circuit, circuit, sleep)


@pytest.fixture
def enrollment(nexi: Nexi, circuit: Circuit, slept: list[float]) -> Enrollment:
    registry: Any = SimpleNamespace(held_by=lambda email: Assignment("00012345", "30000001", None, email))
    limit: Any = Limit(3)
    return enrollment_of(registry, nexi, limit, circuit, slept.append)


def test_failures_with_successes_between_them_open_no_circuit(enrollment: Enrollment, nexi: Nexi) -> None:
    for _ in range(2 * OPEN_AFTER_FAILURES):
        nexi.next = [DOWN]
        assert enrollment.enroll("a@b.c", "device", Deadline(60)) is PUSHED


def test_a_rejection_is_an_answer_and_closes_the_circuit(enrollment: Enrollment, nexi: Nexi) -> None:
    for _ in range(OPEN_AFTER_FAILURES):
        nexi.next = [DOWN, NexiRejectedError("no")]
        with pytest.raises(NexiRejectedError):
            enrollment.enroll("a@b.c", "device", Deadline(60))
    assert enrollment.enroll("a@b.c", "device", Deadline(60)) is PUSHED


def test_each_failure_of_an_enrollment_lengthens_the_pause(
    enrollment: Enrollment, nexi: Nexi, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softpos.enrollment.circuit._random.uniform", lambda _, ceiling: ceiling)
    nexi.next = [DOWN] * 4
    assert enrollment.enroll("a@b.c", "device", Deadline(60)) is PUSHED
    assert slept == [0.2, 0.4, 0.8, 1.0]


def test_the_limit_is_an_operators_and_nexi_hears_nothing_of_what_is_over_it(
    enrollment: Enrollment, nexi: Nexi
) -> None:
    for _ in range(3):
        enrollment.enroll("limited@b.c", "device", Deadline(60))
    with pytest.raises(TooManyEnrollmentsError):
        enrollment.enroll("limited@b.c", "device", Deadline(60))
    assert nexi.pushed == 3
    assert enrollment.enroll("a@b.c", "device", Deadline(60)) is PUSHED


def test_the_registry_is_read_while_the_limit_is_counted(nexi: Nexi, circuit: Circuit) -> None:
    both = threading.Barrier(2, timeout=5)

    def held_by(email: str) -> Assignment:
        both.wait()
        return Assignment("00012345", "30000001", None, email)

    registry: Any = SimpleNamespace(held_by=held_by)
    limit: Any = SimpleNamespace(admit=lambda _: both.wait())
    assert enrollment_of(registry, nexi, limit, circuit).enroll("a@b.c", "device", Deadline(60)) is PUSHED


def test_the_registrys_error_goes_before_the_limits(nexi: Nexi, circuit: Circuit) -> None:
    def refuse(_: str) -> Assignment:
        raise TerminalNotAssignedError("the operator holds no terminal")

    registry: Any = SimpleNamespace(held_by=refuse)
    with pytest.raises(TerminalNotAssignedError):
        enrollment_of(registry, nexi, Limit(0), circuit).enroll("limited@b.c", "device", Deadline(60))


@pytest.mark.parametrize("slow", ["registry", "limit"])
def test_what_aws_has_taken_too_long_for_is_not_begun(nexi: Nexi, circuit: Circuit, slow: str) -> None:
    clock = Clock(1_000.0)

    def take(part: str) -> None:
        clock.now += 11 if part == slow else 0

    def held_by(email: str) -> Assignment:
        take("registry")
        return Assignment("00012345", "30000001", None, email)

    registry: Any = SimpleNamespace(held_by=held_by)
    limit: Any = SimpleNamespace(admit=lambda _: take("limit"))
    enrollment = enrollment_of(registry, nexi, limit, circuit)
    with pytest.raises(OutOfTimeError, match="no time left for an assertion"):
        enrollment.enroll("a@b.c", "device", Deadline(10, clock))
    Once.pushed.clear()
    with pytest.raises(OutOfTimeError):
        enrollment.enroll("a@b.c", "device", Deadline(10, clock), "key")
    assert nexi.pushed == 0


def test_a_recovery_that_took_all_the_time_leaves_the_refusal_as_the_error(nexi: Nexi, circuit: Circuit) -> None:
    """And not a lack of time: the log needs what Nexi said."""
    clock = Clock(1_000.0)
    registry: Any = SimpleNamespace(held_by=lambda email: Assignment("00012345", "30000001", None, email))

    def slowly() -> bool:
        clock.now += 11
        return True

    nexi.credentials_renewed = slowly  # type: ignore[method-assign]  # that takes long
    nexi.next = [NexiRejectedError("ContractCode not found.")]
    with pytest.raises(NexiRejectedError, match="ContractCode"):
        enrollment_of(registry, nexi, Limit(3), circuit).enroll("a@b.c", "device", Deadline(10, clock))
    assert nexi.pushed == 1


def test_a_time_that_nexi_took_is_told_as_nexis(enrollment: Enrollment, nexi: Nexi) -> None:
    slow = NexiTimeoutError("POST … got no answer in time")
    nexi.next = [slow, OutOfTimeError("no time left for POST …")]
    with pytest.raises(NexiTimeoutError) as told:
        enrollment.enroll("a@b.c", "device", Deadline(60))
    assert told.value is slow
    nexi.next = [OutOfTimeError("no time left for POST …")]
    with pytest.raises(OutOfTimeError):
        enrollment.enroll("a@b.c", "device", Deadline(60))


def test_when_time_runs_out_the_cause_of_what_took_it_is_kept(enrollment: Enrollment, nexi: Nexi) -> None:
    slow = NexiTimeoutError("POST … got no answer in time")
    slow.__cause__ = TimeoutError("timed out")
    nexi.next = [slow, OutOfTimeError("secretsmanager get_secret_value took all the time that was left")]
    with pytest.raises(NexiTimeoutError) as told:
        enrollment.enroll("a@b.c", "device", Deadline(60))
    took = told.value.__cause__
    assert str(took) == "secretsmanager get_secret_value took all the time that was left"
    assert took is not None
    assert str(took.__cause__) == "timed out"


UNANSWERED = UnansweredError("Nexi ended a new connection before answering; it saw CN=APP", "Is it registered?")


def test_when_every_attempt_ends_unanswered_the_error_asks_about_the_certificate(
    enrollment: Enrollment, nexi: Nexi
) -> None:
    nexi.next = [UNANSWERED] * 9
    with pytest.raises(UnansweredError, match="it saw CN=APP"):
        enrollment.enroll("a@b.c", "device", Deadline(60))


def test_after_an_attempt_that_ended_unanswered_newer_secrets_are_used_at_once(
    enrollment: Enrollment, nexi: Nexi, slept: list[float]
) -> None:
    nexi.next, nexi.renewed = [UNANSWERED], [True]
    assert enrollment.enroll("a@b.c", "device", Deadline(60)) is PUSHED
    assert slept == []


@pytest.mark.parametrize("before", [0, 1, 3], ids=["first", "second", "fourth"])
def test_when_one_attempt_was_answered_the_error_is_that_ones(enrollment: Enrollment, nexi: Nexi, before: int) -> None:
    nexi.next = [*[UNANSWERED] * before, DOWN, *[UNANSWERED] * 9]
    with pytest.raises(NexiUnavailableError) as told:
        enrollment.enroll("a@b.c", "device", Deadline(60))
    assert told.value is DOWN


def test_an_answer_that_is_repeated_counts_for_no_enrollment(enrollment: Enrollment, nexi: Nexi) -> None:
    for _ in range(10):
        assert enrollment.enroll("limited@b.c", "device", Deadline(60), "key") is PUSHED
    assert nexi.pushed == 1


def test_a_new_key_is_no_way_around_the_limit(enrollment: Enrollment) -> None:
    for key in "abc":
        enrollment.enroll("limited@b.c", "device", Deadline(60), f"new {key}")
    with pytest.raises(TooManyEnrollmentsError):
        enrollment.enroll("limited@b.c", "device", Deadline(60), "new d")


def test_the_attempts_of_one_enrollment_count_once(enrollment: Enrollment, nexi: Nexi) -> None:
    nexi.next = [DOWN, DOWN]
    for _ in range(3):
        assert enrollment.enroll("limited@b.c", "device", Deadline(60)) is PUSHED
