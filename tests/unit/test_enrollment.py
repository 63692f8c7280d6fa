"""How often an enrollment tries, and what the circuit is told. Nexi is a script."""

from types import SimpleNamespace
from typing import Any

import pytest

from softpos.circuit import OPEN_AFTER_FAILURES, Circuit
from softpos.deadline import Deadline
from softpos.enrollment import Enrollment
from softpos.errors import NexiRejectedError, NexiUnavailableError, SoftposError
from softpos.nexi import PushedAuthorization

PUSHED = PushedAuthorization("urn:x", 90, 1_800_000_090)
DOWN = NexiUnavailableError("down")


class Nexi:
    """Answers with what is next, and well when nothing is."""

    def __init__(self) -> None:
        self.next: list[SoftposError] = []
        self.pushed = 0

    def push(self, *_: Any) -> PushedAuthorization:
        self.pushed += 1
        if self.next:
            raise self.next.pop(0)
        return PUSHED

    def mend(self, *_: Any) -> bool:
        return False


@pytest.fixture
def nexi() -> Nexi:
    return Nexi()


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(lambda: 1_800_000_000.0)


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def enrollment(nexi: Nexi, circuit: Circuit, slept: list[float]) -> Enrollment:
    held = SimpleNamespace(point_of_sale="00012345", terminal_ids=("30000001",))
    registry: Any = SimpleNamespace(held_by=lambda _: held)
    return Enrollment(registry, nexi, lambda: None, circuit, slept.append)  # type: ignore[arg-type,return-value]  # fakes


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
    monkeypatch.setattr("softpos.circuit._random.uniform", lambda _, ceiling: ceiling)
    nexi.next = [DOWN] * 4
    assert enrollment.enroll("a@b.c", "device", Deadline(60)) is PUSHED
    assert slept == [0.2, 0.4, 0.8, 1.0]
