import time

import pytest
from unit_support import Clock

from softpos.deadline import Deadline


@pytest.mark.parametrize(
    ("passed", "remaining"),
    [
        pytest.param(0.0, 10.0, id="at-the-start"),
        pytest.param(2.5, 7.5, id="on-the-way"),
        pytest.param(10.0, 0.0, id="at-the-deadline"),
        pytest.param(60.0, 0.0, id="past-it"),
    ],
)
def test_what_remains_shrinks_and_is_never_negative(passed: float, remaining: float) -> None:
    clock = Clock(1000.0)
    deadline = Deadline(10.0, clock)
    clock.now += passed
    assert deadline.remaining() == remaining


@pytest.mark.parametrize("seconds", [0.0, -0.5])
def test_a_deadline_that_starts_too_late_has_passed(seconds: float) -> None:
    """Lambda may have less time left than what is kept back for the answer."""
    assert Deadline(seconds, Clock(1000.0)).remaining() == 0.0


def test_a_step_of_the_wall_clock_does_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline(10.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 9.0 < deadline.remaining() <= 10.0
