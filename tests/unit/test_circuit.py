"""When to try again, and when to leave Nexi alone."""

import pytest

from softpos.deadline import Deadline
from softpos.enrollment.circuit import MAX_OPEN_SECONDS, OPEN_AFTER_FAILURES, OPEN_SECONDS, RETRY_BUDGET, Circuit
from softpos.errors import NexiTimeoutError, NexiUnavailableError, SoftposError

DOWN = NexiUnavailableError("down")


class Clock:
    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(clock)


def fail(circuit: Circuit, times: int, error: SoftposError = DOWN) -> None:
    for _ in range(times):
        circuit.failed(error)


def test_failures_below_the_threshold_let_attempts_pass(circuit: Circuit) -> None:
    fail(circuit, OPEN_AFTER_FAILURES - 1)
    circuit.admit()
    circuit.answered()
    fail(circuit, OPEN_AFTER_FAILURES - 1)
    circuit.admit()


def test_an_open_circuit_refuses_at_once_and_says_for_how_long(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES)
    with pytest.raises(NexiUnavailableError) as refused:
        circuit.admit()
    assert refused.value.retry_after == OPEN_SECONDS
    clock.time += OPEN_SECONDS - 1
    with pytest.raises(NexiUnavailableError):
        circuit.admit()


def test_after_its_time_a_probe_that_succeeds_closes_it(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES)
    clock.time += OPEN_SECONDS
    circuit.admit()
    circuit.answered()
    circuit.admit()
    fail(circuit, OPEN_AFTER_FAILURES - 1)
    circuit.admit()


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES)
    for expected in (OPEN_SECONDS, MAX_OPEN_SECONDS, MAX_OPEN_SECONDS):
        clock.time += expected - 0.5
        with pytest.raises(NexiUnavailableError):
            circuit.admit()
        clock.time += 0.5
        circuit.admit()
        circuit.failed(DOWN)


def test_a_probe_that_fails_is_not_retried(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES)
    clock.time += OPEN_SECONDS
    circuit.admit()
    circuit.failed(DOWN)
    with pytest.raises(NexiUnavailableError):
        circuit.pause(1, DOWN, Deadline(60))


def test_a_clock_that_went_back_does_not_keep_it_open(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES)
    clock.time -= 86_400
    circuit.admit()


def test_the_pause_is_jittered_and_capped(circuit: Circuit) -> None:
    circuit.failed(DOWN)
    pauses = []
    for attempt in (1, 2, 3, 4):
        pauses.append(circuit.pause(attempt, DOWN, Deadline(60)))
    assert len(set(pauses)) == len(pauses)
    assert all(0 <= pause <= 1 for pause in pauses)
    assert pauses[0] <= 0.2


def test_there_is_no_pause_when_the_deadline_has_no_room(circuit: Circuit) -> None:
    late = NexiTimeoutError("late")
    circuit.failed(late)
    with pytest.raises(NexiTimeoutError):
        circuit.pause(1, late, Deadline(0.3))


def test_a_retry_after_within_the_deadline_is_waited_for(circuit: Circuit) -> None:
    error = NexiUnavailableError("busy", retry_after=3)
    circuit.failed(error)
    assert 3 <= circuit.pause(1, error, Deadline(10)) <= 3.2


def test_a_retry_after_beyond_the_deadline_is_passed_on_and_spares_nexi(circuit: Circuit, clock: Clock) -> None:
    error = NexiUnavailableError("busy", retry_after=8)
    circuit.failed(error)
    with pytest.raises(NexiUnavailableError) as given_up:
        circuit.pause(1, error, Deadline(5))
    assert given_up.value.retry_after == 8
    clock.time += 7
    with pytest.raises(NexiUnavailableError):
        circuit.admit()
    clock.time += 1
    circuit.admit()


class TestOneOperatorsFailures:
    """PAR fails for an operator, with 500 say, while Nexi is well."""

    def test_one_operators_failures_open_no_circuit(self, circuit: Circuit) -> None:
        for _ in range(5 * OPEN_AFTER_FAILURES):
            circuit.failed(DOWN, "luca@example.com")
        circuit.admit()

    def test_two_operators_failures_without_a_success_between_open_it(self, circuit: Circuit) -> None:
        for number in range(OPEN_AFTER_FAILURES):
            circuit.failed(DOWN, f"operator-{number % 2}@example.com")
        with pytest.raises(NexiUnavailableError, match="after 5 failures in a row"):
            circuit.admit()

    def test_two_operators_failures_with_successes_between_do_not(self, circuit: Circuit) -> None:
        for number in range(5 * OPEN_AFTER_FAILURES):
            circuit.failed(DOWN, f"operator-{number % 2}@example.com")
            circuit.answered()
        circuit.admit()

    def test_one_operators_retry_after_binds_nobody_else(self, circuit: Circuit) -> None:
        error = NexiUnavailableError("busy", retry_after=8)
        circuit.failed(error, "luca@example.com")
        circuit.admit()
        assert circuit.pause(1, error, Deadline(60)) >= 8

    def test_one_enrollment_has_five_attempts_at_most(self, circuit: Circuit) -> None:
        circuit.failed(DOWN, "luca@example.com")
        with pytest.raises(NexiUnavailableError):
            circuit.pause(OPEN_AFTER_FAILURES, DOWN, Deadline(60))


def test_an_absurd_retry_after_does_not_shut_us_off(circuit: Circuit, clock: Clock) -> None:
    circuit.failed(NexiUnavailableError("busy", retry_after=3600))
    clock.time += MAX_OPEN_SECONDS
    circuit.admit()


def test_the_retry_budget_ends_a_storm_and_comes_back_with_successes(circuit: Circuit) -> None:
    def retry() -> None:
        circuit.failed(DOWN)
        circuit.pause(1, DOWN, Deadline(60))
        circuit._failures = 0  # the budget alone, without the circuit

    for _ in range(int(RETRY_BUDGET)):
        retry()
    with pytest.raises(NexiUnavailableError):
        retry()
    for _ in range(5):
        circuit.answered()
    retry()


def test_the_ceiling_of_the_pause_doubles_up_to_a_second(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpos.enrollment.circuit._random.uniform", lambda _, ceiling: ceiling)
    circuit.failed(DOWN)
    assert [circuit.pause(attempt, DOWN, Deadline(60)) for attempt in (1, 2, 3, 4)] == [0.2, 0.4, 0.8, 1.0]


def test_after_a_success_it_opens_for_the_shortest_time_again(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES + 2)
    clock.time += 4 * OPEN_SECONDS
    circuit.admit()
    circuit.answered()
    fail(circuit, OPEN_AFTER_FAILURES)
    clock.time += OPEN_SECONDS
    circuit.admit()


def test_a_success_while_the_clock_was_wrong_closes_it_for_good(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES)
    clock.time -= 86_400
    circuit.admit()
    circuit.answered()
    clock.time += 86_400
    circuit.admit()


def test_a_retry_after_beyond_what_is_believed_spares_nexi_for_that_long(circuit: Circuit, clock: Clock) -> None:
    circuit.failed(NexiUnavailableError("busy", retry_after=3600))
    with pytest.raises(NexiUnavailableError) as refused:
        circuit.admit()
    assert refused.value.retry_after == MAX_OPEN_SECONDS
    clock.time += MAX_OPEN_SECONDS
    circuit.admit()


def test_a_short_retry_after_does_not_close_an_open_circuit_early(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, OPEN_AFTER_FAILURES, NexiUnavailableError("busy", retry_after=1))
    clock.time += OPEN_SECONDS - 1
    with pytest.raises(NexiUnavailableError):
        circuit.admit()


def test_the_retry_budget_does_not_grow_without_end(circuit: Circuit) -> None:
    for _ in range(1000):
        circuit.answered()
    for _ in range(int(RETRY_BUDGET)):
        circuit.pause(1, DOWN, Deadline(60))
    with pytest.raises(NexiUnavailableError):
        circuit.pause(1, DOWN, Deadline(60))
