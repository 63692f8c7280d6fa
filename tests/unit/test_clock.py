"""Nexi's clock out of its Date headers."""

import time
from email.utils import formatdate

import pytest

from softpos.nexi.clock import NexiClock

NOW = 1_800_000_000.7


@pytest.fixture
def clock() -> NexiClock:
    return NexiClock(lambda: NOW)


@pytest.mark.parametrize("offset", [0, 1, -1], ids=["same", "theirs-ahead-1", "theirs-behind-1"])
def test_less_than_a_header_can_tell_changes_nothing(clock: NexiClock, offset: int) -> None:
    clock.learn({"Date": formatdate(NOW + offset, usegmt=True)})
    assert clock() == NOW


@pytest.mark.parametrize("offset", [-3600, -30, -4, 4, 30, 3600])
def test_more_than_that_is_followed_in_both_directions(clock: NexiClock, offset: int) -> None:
    clock.learn({"Date": formatdate(NOW + offset, usegmt=True)})
    assert clock() == pytest.approx(NOW + offset, abs=1)
    assert clock.ahead == pytest.approx(-offset, abs=1)


def test_a_clock_that_has_been_set_right_is_right_again(clock: NexiClock) -> None:
    clock.learn({"Date": formatdate(NOW - 30, usegmt=True)})
    clock.learn({"Date": formatdate(NOW, usegmt=True)})
    assert clock() == NOW


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "soon",
        "Mon, 99 Nov 2026 99:99:99 GMT",
        "1 Jan",
        formatdate(0),
        formatdate(4_000_000_000),
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Fri, 15 Jan 2027 09:00:00 CET",
        "Fri, 15 Jan 2027 09:00:00",
    ],
    ids=[
        *("missing", "empty", "a-word", "no-such-date", "half-a-date", "1970", "2096", "a-year-beyond-reason"),
        *("another-zone", "no-zone"),
    ],
)
def test_what_is_no_date_or_absurd_changes_nothing(clock: NexiClock, date: str | None) -> None:
    clock.learn({"Date": formatdate(NOW - 30, usegmt=True)})
    before = clock()
    clock.learn({} if date is None else {"Date": date})
    assert clock() == before


def test_a_date_without_a_zone_is_utc_wherever_we_run(clock: NexiClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        clock.learn({"Date": formatdate(NOW - 30)})  # ends in -0000, which the parser hands on as no zone
    time.tzset()
    assert clock.ahead == pytest.approx(30, abs=1)


def test_what_the_header_cuts_off_is_counted_by_half(clock: NexiClock) -> None:
    clock.learn({"Date": formatdate(NOW - 30, usegmt=True)})
    assert clock.ahead == pytest.approx(30 + 0.7 - 0.5)


def test_the_date_of_an_answer_out_of_a_cache_changes_nothing(clock: NexiClock) -> None:
    clock.learn({"Date": formatdate(NOW - 3000, usegmt=True), "Age": "3000"})
    assert clock.ahead == 0.0


class TestARefusedCorrection:
    """A gateway's Date is an hour ahead, while both clocks are right."""

    @pytest.fixture
    def misled(self, clock: NexiClock) -> NexiClock:
        clock.learn({"Date": formatdate(NOW + 3600, usegmt=True)})
        return clock

    def test_the_alternative_is_our_own_clock(self, misled: NexiClock) -> None:
        assert misled.alternatives(misled.ahead, thorough=False) == [0.0]

    def test_the_clock_that_nexi_accepted_is_kept_while_the_date_stays_wrong(self, misled: NexiClock) -> None:
        misled.accepted(0.0, [misled.ahead])
        misled.learn({"Date": formatdate(NOW + 3601, usegmt=True)})
        assert misled.ahead == 0.0

    def test_another_date_is_believed_again(self, misled: NexiClock) -> None:
        misled.accepted(0.0, [misled.ahead])
        misled.learn({"Date": formatdate(NOW - 120, usegmt=True)})
        assert misled.ahead == pytest.approx(120, abs=1)

    def test_a_correction_that_nexi_accepted_is_doubted_only_after_all_else(self, clock: NexiClock) -> None:
        clock.learn({"Date": formatdate(NOW - 120, usegmt=True)})
        clock.accepted(clock.ahead, [])
        assert clock.alternatives(clock.ahead, thorough=False) == []
        assert clock.alternatives(clock.ahead, thorough=True) == [0.0]
