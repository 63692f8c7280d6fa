"""The shared cache: two tiers, one flight, nothing past its time, nothing that whoever writes the table can bend."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from botocore.parsers import ResponseParserError

from softpos import cache as cache_module
from softpos.cache import LEASE_SECONDS, TABLE_PAUSE_SECONDS, Cache, CacheTable, Entry
from softpos.deadline import Deadline
from softpos.enrollment.service import DEADLINE_SECONDS
from softpos.errors import (
    CredentialsRefusedError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    SoftposError,
)
from softpos.nexi import session as nexi_session
from softpos.seal import Seal

NAME = "token#owner"
SECRET = b"a secret that the table's readers do not have"


class Clock:
    """Wall clock and sleep in one: sleeping is what makes time pass."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


class Source:
    """Nexi, as a cache sees it: counts how often it is asked."""

    def __init__(self, clock: Clock, lifetime: float = 3600.0, stale: float = 0.0) -> None:
        self.clock, self.lifetime, self.stale = clock, lifetime, stale
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> Entry:
        self.calls += 1
        if self.error:
            raise self.error
        at = self.clock()
        value = f"value {self.calls}".encode()
        return Entry(value, fetched_at=at, usable_until=at + self.lifetime, stale_until=at + self.stale)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def environment(dynamodb: Any, clock: Clock, secret: bytes = SECRET) -> Cache:
    """A cold execution environment."""
    return Cache(Seal(secret, "cache"), CacheTable(dynamodb, "cache", clock), clock, clock.sleep)


def item(dynamodb: Any) -> dict[str, Any]:
    found: dict[str, Any] = dynamodb.get_item(TableName="cache", Key={"id": {"S": NAME}}).get("Item", {})
    return found


def change(dynamodb: Any, **attributes: Any) -> None:
    dynamodb.put_item(TableName="cache", Item={**item(dynamodb), "id": {"S": NAME}, **attributes})


class TestTiers:
    def test_a_warm_environment_asks_neither_the_table_nor_nexi(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock), environment(dynamodb, clock)
        first = warm.get(NAME, source, Deadline(10))
        dynamodb.delete_table(TableName="cache")
        assert warm.get(NAME, source, Deadline(10)) is first
        assert source.calls == 1

    def test_a_cold_environment_takes_what_another_has_shared(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock)
        first = environment(dynamodb, clock).get(NAME, source, Deadline(10))
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10)) == first
        assert source.calls == 1

    def test_an_item_expires_by_ttl_and_not_before_its_value(self, dynamodb: Any, clock: Clock) -> None:
        environment(dynamodb, clock).get(NAME, Source(clock, lifetime=600), Deadline(10))
        assert int(item(dynamodb)["expires_at"]["N"]) >= clock() + 600

    def test_a_lease_that_never_got_a_value_expires_by_ttl(self, dynamodb: Any, clock: Clock) -> None:
        CacheTable(dynamodb, "cache", clock).lease(NAME, "holder", None, clock())
        assert clock() < int(item(dynamodb)["expires_at"]["N"]) <= clock() + 3600


class TestTime:
    def test_at_its_end_an_entry_is_a_miss_in_both_tiers(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        clock.time += 99.9
        warm.get(NAME, source, Deadline(10))
        assert source.calls == 1
        clock.time += 0.1
        assert warm.get(NAME, source, Deadline(10)).value == b"value 2"
        clock.time += 100
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10)).value == b"value 3"

    def test_what_is_not_usable_at_all_is_used_once_and_not_kept(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=0), environment(dynamodb, clock)
        assert warm.get(NAME, source, Deadline(10)).value == b"value 1"
        assert warm.get(NAME, source, Deadline(10)).value == b"value 2"

    def test_a_clock_that_went_back_makes_a_miss(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        clock.time -= 7200
        assert warm.get(NAME, source, Deadline(10)).value == b"value 2"

    def test_a_refresh_replaces_what_lapses_soon_and_leaves_the_rest(self, dynamodb: Any, clock: Clock) -> None:
        source, refresher, phone = Source(clock), environment(dynamodb, clock), environment(dynamodb, clock)
        phone.get(NAME, source, Deadline(10))
        refresher.get(NAME, source, Deadline(10), usable_for=240)
        assert source.calls == 1
        clock.time += 3600 - 200
        refresher.get(NAME, source, Deadline(10), usable_for=240)
        assert source.calls == 2
        clock.time += 201
        assert phone.get(NAME, source, Deadline(10)).value == b"value 2"
        assert source.calls == 2

    def test_a_refresh_repairs_the_table_although_its_own_memory_is_fresh(self, dynamodb: Any, clock: Clock) -> None:
        source, refresher = Source(clock), environment(dynamodb, clock)
        refresher.get(NAME, source, Deadline(10), usable_for=240)
        dynamodb.delete_item(TableName="cache", Key={"id": {"S": NAME}})
        refresher.get(NAME, source, Deadline(10), usable_for=240)
        assert "sealed" in item(dynamodb)

    def test_a_phone_is_not_held_up_by_a_refresh(self, dynamodb: Any, clock: Clock) -> None:
        source, phone = Source(clock), environment(dynamodb, clock)
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        clock.time += 3500
        CacheTable(dynamodb, "cache", clock).lease(NAME, "refresher", item(dynamodb)["version"]["S"], clock())
        assert phone.get(NAME, source, Deadline(10)).value == b"value 1"
        assert clock.slept == []


class TestSingleFlight:
    def test_while_another_fetches_one_waits_with_jitter_and_takes_its_value(self, dynamodb: Any, clock: Clock) -> None:
        source, table = Source(clock), CacheTable(dynamodb, "cache", clock)
        other = environment(dynamodb, clock)
        waiting = environment(dynamodb, clock)
        assert table.lease(NAME, "another", None, clock())
        sleep, shared = clock.sleep, []

        def sleep_until_shared(seconds: float) -> None:
            sleep(seconds)
            if len(clock.slept) == 3:
                table.release(NAME, "another")
                shared.append(other.get(NAME, source, Deadline(10)))

        waiting._sleep = sleep_until_shared
        assert waiting.get(NAME, source, Deadline(10)) == shared[0]
        assert source.calls == 1
        assert len(set(clock.slept)) == 3

    def test_a_lease_whose_holder_died_expires(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock)
        began = clock()
        CacheTable(dynamodb, "cache", clock).lease(NAME, "dead", None, clock())
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10)).value == b"value 1"
        assert LEASE_SECONDS <= clock() - began < LEASE_SECONDS + 1
        assert "sealed" in item(dynamodb)

    def test_a_lease_whose_answer_was_lost_is_ours_when_it_is_asked_for_again(
        self, dynamodb: Any, clock: Clock
    ) -> None:
        """botocore sends a write again when no answer came, though it was done."""
        table = CacheTable(dynamodb, "cache", clock)
        assert [table.lease(NAME, "we", None, clock.time) for _ in range(2)] == [True, True]
        assert not table.lease(NAME, "they", None, clock.time)

    def test_a_lease_is_given_back_when_the_fetch_fails(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock)
        source.error = NexiRejectedError("no")
        with pytest.raises(NexiRejectedError):
            environment(dynamodb, clock).get(NAME, source, Deadline(10))
        source.error = None
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10)).value == b"value 2"
        assert clock.slept == []

    def test_a_lease_is_not_taken_on_a_value_that_has_come_since(self, dynamodb: Any, clock: Clock) -> None:
        environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10))
        assert not CacheTable(dynamodb, "cache", clock).lease(NAME, "late", None, clock())

    def test_a_lost_lease_does_not_overwrite_the_newer_value(self, dynamodb: Any, clock: Clock) -> None:
        table = CacheTable(dynamodb, "cache", clock)
        table.lease(NAME, "slow", None, clock())
        clock.time += LEASE_SECONDS + 1
        newer = environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10))
        table.write(NAME, "slow", b"old", Entry(b"old", clock(), clock() + 60))
        assert item(dynamodb)["version"]["S"] == newer.version

    def test_near_the_deadline_one_goes_alone_instead_of_waiting(self, dynamodb: Any, clock: Clock) -> None:
        CacheTable(dynamodb, "cache", clock).lease(NAME, "another", None, clock())
        source = Source(clock)
        assert environment(dynamodb, clock).get(NAME, source, Deadline(2)).value == b"value 1"
        assert clock.slept == []


class TestHostileTable:
    @pytest.mark.parametrize(
        "tampered",
        [
            {"sealed": {"B": b""}},
            {"sealed": {"B": b"short"}},
            {"sealed": {"B": b"x" * 200}},
            {"sealed": {"S": "not binary"}},
            {"version": {"N": "7"}},
        ],
        ids=["empty", "shorter-than-a-nonce", "garbage", "another-type", "version-of-another-type"],
    )
    def test_what_does_not_open_is_a_miss(self, dynamodb: Any, clock: Clock, tampered: dict[str, Any]) -> None:
        source = Source(clock)
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        change(dynamodb, **tampered)
        value = environment(dynamodb, clock).get(NAME, source, Deadline(10, clock)).value
        assert value in (b"value 1", b"value 2")

    def test_every_flipped_bit_is_a_miss(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock)
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        sealed = item(dynamodb)["sealed"]["B"]
        for position in range(0, len(sealed), 7):
            change(dynamodb, sealed={"B": sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]})
            before = source.calls
            environment(dynamodb, clock).get(NAME, source, Deadline(10))
            assert source.calls == before + 1

    def test_an_entry_moved_to_another_name_is_a_miss(self, dynamodb: Any, clock: Clock) -> None:
        source, other = Source(clock), "keys#owner"
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        dynamodb.put_item(TableName="cache", Item={**item(dynamodb), "id": {"S": other}})
        assert environment(dynamodb, clock).get(other, source, Deadline(10)).value == b"value 2"

    def test_an_entry_of_another_secret_is_a_miss(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock)
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        assert environment(dynamodb, clock, b"another").get(NAME, source, Deadline(10)).value == b"value 2"

    def test_stretching_the_times_in_the_table_stretches_nothing(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock, lifetime=60)
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        change(dynamodb, expires_at={"N": "9999999999"}, usable_until={"N": "9999999999"})
        clock.time += 61
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10)).value == b"value 2"

    @pytest.mark.parametrize(
        # Not text: moto fails where DynamoDB compares a number with a text and says no.
        "lease_until",
        [{"N": "9999999999"}, {"NULL": True}],
        ids=["far-future", "null"],
    )
    def test_an_absurd_lease_does_not_keep_phones_waiting(
        self, dynamodb: Any, clock: Clock, lease_until: dict[str, Any]
    ) -> None:
        began = clock()
        change(dynamodb, holder={"S": "attacker"}, lease_until=lease_until)
        assert environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10, clock)).value == b"value 1"
        assert clock() - began < 8

    def test_a_lease_further_ahead_than_any_of_ours_is_as_good_as_none(self, dynamodb: Any, clock: Clock) -> None:
        change(dynamodb, holder={"S": "attacker"}, lease_until={"N": "9999999999"})
        assert environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10)).value == b"value 1"
        assert clock.slept == []
        assert "sealed" in item(dynamodb)

    @pytest.mark.parametrize("planted", [{"version": {"N": "7"}}, {"version": {"NULL": True}}], ids=["number", "null"])
    def test_a_version_of_another_type_keeps_nobody_waiting(
        self, dynamodb: Any, clock: Clock, planted: dict[str, Any]
    ) -> None:
        source = Source(clock)
        change(dynamodb, **planted)
        first = environment(dynamodb, clock).get(NAME, source, Deadline(10, clock))
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10, clock)) == first
        assert (source.calls, clock.slept) == (1, [])

    def test_the_table_shows_neither_value_nor_owner(self, dynamodb: Any, clock: Clock) -> None:
        environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10))
        shown = repr(item(dynamodb))
        assert "value 1" not in shown
        assert "app" not in shown
        assert "nexi.example" not in shown


class BrokenTable:
    """A DynamoDB that fails in one way, and counts how often it was asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __getattr__(self, _operation: str) -> Any:
        def call(**_arguments: Any) -> Any:
            self.calls += 1
            raise self.error

        return call


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "…"}}, "GetItem")


class TestFailOpen:
    @pytest.mark.parametrize(
        "error",
        [
            ConnectTimeoutError(endpoint_url="http://127.0.0.1"),
            client_error("ProvisionedThroughputExceededException"),
            client_error("AccessDeniedException"),
            client_error("ResourceNotFoundException"),
        ],
        ids=["slow", "throttled", "denied", "gone"],
    )
    def test_a_table_that_fails_costs_the_sharing_and_nothing_else(
        self, clock: Clock, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted: list[str] = []
        monkeypatch.setattr(cache_module.telemetry, "count", counted.append)
        broken, source = BrokenTable(error), Source(clock)
        alone = environment(broken, clock)
        assert alone.get(NAME, source, Deadline(10)).value == b"value 1"
        assert alone.get(NAME, source, Deadline(10)).value == b"value 1"
        assert counted == ["CacheTableFailed"]

    def test_a_table_that_failed_is_left_alone_for_a_while(self, clock: Clock) -> None:
        broken, source = BrokenTable(client_error("InternalServerError")), Source(clock, lifetime=1)
        alone = environment(broken, clock)
        for _ in range(5):
            clock.time += 2
            alone.get(NAME, source, Deadline(10))
        assert (broken.calls, source.calls) == (1, 5)
        clock.time += TABLE_PAUSE_SECONDS
        alone.get(NAME, source, Deadline(10))
        assert broken.calls == 2

    def test_an_answer_that_nobody_can_read_is_a_failure_too(self, clock: Clock) -> None:
        source = Source(clock)
        assert environment(BrokenTable(ResponseParserError("…")), clock).get(NAME, source, Deadline(10)).value

    def test_waiting_asks_for_the_value_and_does_not_write(self, dynamodb: Any, clock: Clock) -> None:
        CacheTable(dynamodb, "cache", clock).lease(NAME, "another", None, clock())
        written: list[str] = []
        dynamodb.meta.events.register("before-call.dynamodb.UpdateItem", lambda **_: written.append("update"))
        environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10, clock))
        assert len(written) == 2  # the lease, once the other's has lapsed, and the value

    def test_a_refresh_without_a_table_does_not_fetch_what_memory_has(self, clock: Clock) -> None:
        source, alone = Source(clock), environment(BrokenTable(client_error("InternalServerError")), clock)
        for _ in range(3):
            alone.get(NAME, source, Deadline(10), usable_for=240)
        assert source.calls == 1


class TestStale:
    def test_what_may_be_stale_serves_while_nexi_fails_and_no_longer(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        source.error = NexiUnavailableError("down")
        clock.time += 500
        assert warm.get(NAME, source, Deadline(10)).value == b"value 1"
        assert environment(dynamodb, clock).get(NAME, source, Deadline(10)).value == b"value 1"
        clock.time += 500
        with pytest.raises(NexiUnavailableError):
            warm.get(NAME, source, Deadline(10))

    def test_while_it_serves_nexi_is_asked_once_a_minute(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        source.error = NexiUnavailableError("down")
        clock.time += 200
        for _ in range(10):
            warm.get(NAME, source, Deadline(10))
        assert source.calls == 2
        clock.time += 61
        warm.get(NAME, source, Deadline(10))
        assert source.calls == 3

    def test_the_newest_there_is_serves(self, dynamodb: Any, clock: Clock) -> None:
        source, frozen = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        frozen.get(NAME, source, Deadline(10))
        clock.time += 200
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        clock.time += 200
        source.error = NexiUnavailableError("down")
        assert frozen.get(NAME, source, Deadline(10)).value == b"value 2"

    def test_it_ends_when_it_ends(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100, stale=230), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        source.error = NexiUnavailableError("down")
        clock.time += 220
        warm.get(NAME, source, Deadline(10))
        clock.time += 10
        with pytest.raises(NexiUnavailableError):
            warm.get(NAME, source, Deadline(10))

    def test_what_must_not_be_stale_never_is(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        source.error = NexiUnavailableError("down")
        clock.time += 100
        with pytest.raises(NexiUnavailableError):
            warm.get(NAME, source, Deadline(10))

    def test_a_refresh_that_fails_says_so_and_does_not_shorten_what_is_usable_still(self, clock: Clock) -> None:
        source = Source(clock, lifetime=600, stale=9000)
        warm = environment(BrokenTable(client_error("InternalServerError")), clock)
        warm.get(NAME, source, Deadline(10))
        clock.time += 400
        source.error = NexiUnavailableError("down")
        with pytest.raises(NexiUnavailableError):
            warm.get(NAME, source, Deadline(10), usable_for=240)
        assert source.calls == 2
        clock.time += 150
        warm.get(NAME, source, Deadline(10))
        assert source.calls == 2

    def test_one_that_is_known_to_be_bad_does_not_serve_stale(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        bad = warm.get(NAME, source, Deadline(10))
        source.error = NexiUnavailableError("down")
        with pytest.raises(NexiUnavailableError):
            warm.get(NAME, source, Deadline(10), fit=lambda entry: entry.version != bad.version)

    def test_a_timeout_is_a_failure_too(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        warm.get(NAME, source, Deadline(10))
        source.error = NexiTimeoutError("slow")
        clock.time += 200
        assert warm.get(NAME, source, Deadline(10)).value == b"value 1"

    def test_an_older_one_in_the_table_does_not_take_the_place_of_what_memory_has(
        self, dynamodb: Any, clock: Clock
    ) -> None:
        source, warm = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        environment(dynamodb, clock).get(NAME, source, Deadline(10))
        older = item(dynamodb)
        dynamodb.delete_item(TableName="cache", Key={"id": {"S": NAME}})
        clock.time += 10
        warm.get(NAME, source, Deadline(10))
        dynamodb.put_item(TableName="cache", Item=older)
        source.error = NexiUnavailableError("down")
        clock.time += 200
        assert warm.get(NAME, source, Deadline(10)).value == b"value 2"

    @pytest.mark.parametrize("error", [NexiRejectedError("404"), CredentialsRefusedError("403")], ids=str)
    def test_a_refusal_is_a_failure_like_any(self, dynamodb: Any, clock: Clock, error: SoftposError) -> None:
        source, warm = Source(clock, lifetime=100, stale=1000), environment(dynamodb, clock)
        old = warm.get(NAME, source, Deadline(10))
        source.error = error
        clock.time += 200
        assert warm.get(NAME, source, Deadline(10)).value == old.value
        clock.time += 1000
        with pytest.raises(type(error)):
            warm.get(NAME, source, Deadline(10))


class TestFit:
    def test_an_entry_that_is_not_fit_is_not_taken_from_the_table(self, dynamodb: Any, clock: Clock) -> None:
        source, warm = Source(clock), environment(dynamodb, clock)
        bad = warm.get(NAME, source, Deadline(10))
        clock.time += 1
        cold = environment(dynamodb, clock)
        assert cold.get(NAME, source, Deadline(10), fit=lambda entry: entry.version != bad.version).value == b"value 2"


class Overheard:
    """A DynamoDB that passes every call on, and keeps what was asked."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.asked.append((operation, arguments))
            return getattr(self.real, operation)(**arguments)

        return call


class TestWhatTheTableIsAsked:
    def test_reads_are_strongly_consistent(self, dynamodb: Any, clock: Clock) -> None:
        """moto knows no other kind: an eventually consistent read may miss what the lease was just given back for."""
        overheard = Overheard(dynamodb)
        environment(overheard, clock).get(NAME, Source(clock), Deadline(10))
        reads = [arguments for operation, arguments in overheard.asked if operation == "get_item"]
        assert reads
        assert all(arguments["ConsistentRead"] is True for arguments in reads)

    def test_a_condition_that_fails_is_no_failure_of_the_table(self, dynamodb: Any, clock: Clock) -> None:
        table = CacheTable(dynamodb, "cache", clock)
        assert table.lease(NAME, "another", None, clock())
        assert not table.lease(NAME, "late", None, clock())
        assert table.read(NAME) is not None

    def test_an_item_that_may_be_stale_does_not_expire_before_that(self, dynamodb: Any, clock: Clock) -> None:
        environment(dynamodb, clock).get(NAME, Source(clock, lifetime=600, stale=9000), Deadline(10))
        assert int(item(dynamodb)["expires_at"]["N"]) >= clock() + 9000

    def test_a_lease_is_given_back_with_the_value(self, dynamodb: Any, clock: Clock) -> None:
        environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10))
        assert not {"holder", "lease_until"} & set(item(dynamodb))

    def test_a_lease_is_given_back_by_its_holder_alone(self, dynamodb: Any, clock: Clock) -> None:
        table = CacheTable(dynamodb, "cache", clock)
        assert table.lease(NAME, "holder", None, clock())
        table.release(NAME, "another")
        assert not table.lease(NAME, "late", None, clock())
        table.release(NAME, "holder")
        assert table.lease(NAME, "late", None, clock())

    def test_whatever_ends_the_fetch_gives_the_lease_back(self, dynamodb: Any, clock: Clock) -> None:
        source = Source(clock)
        source.error = KeyboardInterrupt()  # type: ignore[assignment]  # no Exception, and all the same
        with pytest.raises(KeyboardInterrupt):
            environment(dynamodb, clock).get(NAME, source, Deadline(10))
        assert CacheTable(dynamodb, "cache", clock).lease(NAME, "next", None, clock())

    def test_between_two_looks_it_is_never_waited_for_more_than_half_a_second(
        self, dynamodb: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("softpos.cache._random.uniform", lambda _, most: most)
        CacheTable(dynamodb, "cache", clock).lease(NAME, "dead", None, clock())
        environment(dynamodb, clock).get(NAME, Source(clock), Deadline(10))
        assert clock.slept[:4] == [0.05, 0.1, 0.2, 0.4]
        assert max(clock.slept) == 0.5

    def test_a_lease_outlasts_one_call_to_nexi_and_lapses_while_a_phone_can_still_wait(self) -> None:
        assert nexi_session.CONNECT_SECONDS + nexi_session.READ_SECONDS < LEASE_SECONDS
        assert LEASE_SECONDS < DEADLINE_SECONDS - cache_module._ALONE_SECONDS
