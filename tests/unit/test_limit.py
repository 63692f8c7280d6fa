"""How often an operator may enroll: in the table that all environments share, which may fail, or lie."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from unit_support import Clock

from softpos.cache import CacheTable
from softpos.credentials import Application, Certificate, Credentials
from softpos.enrollment.limit import WINDOW_SECONDS, OperatorLimit
from softpos.errors import TooManyEnrollmentsError

OPERATOR = "mario.rossi@example.com"
PER_MINUTE = 3
MINUTE = 1_800_000_000.0
"""A minute of the clock begins."""


@pytest.fixture
def clock() -> Clock:
    return Clock(MINUTE + 18.5)


@pytest.fixture
def credentials(certificate: Certificate) -> Credentials:
    application = Application("app-1", "the-client-secret", "https://merchant.example/softpos", "oidc")
    return Credentials(application, certificate)


def environment(dynamodb: Any, clock: Clock, credentials: Credentials, per_minute: int = PER_MINUTE) -> OperatorLimit:
    """A cold execution environment's limit."""
    store: Any = SimpleNamespace(get=lambda: credentials)
    return OperatorLimit(CacheTable(dynamodb, "cache", clock), store, per_minute, clock)


@pytest.fixture
def limit(dynamodb: Any, clock: Clock, credentials: Credentials) -> OperatorLimit:
    return environment(dynamodb, clock, credentials)


def admitted(limit: OperatorLimit, operator: str = OPERATOR) -> bool:
    try:
        limit.admit(operator)
    except TooManyEnrollmentsError:
        return False
    return True


def exhaust(limit: OperatorLimit, operator: str = OPERATOR) -> None:
    assert [admitted(limit, operator) for _ in range(PER_MINUTE + 1)] == [True] * PER_MINUTE + [False]


def items(dynamodb: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dynamodb.scan(TableName="cache")["Items"]
    return found


class TestTheCount:
    @pytest.mark.parametrize("per_minute", [1, 2, 10])
    def test_so_many_are_admitted_and_the_next_is_not(
        self, dynamodb: Any, clock: Clock, credentials: Credentials, per_minute: int
    ) -> None:
        limit = environment(dynamodb, clock, credentials, per_minute)
        assert [admitted(limit) for _ in range(per_minute + 2)] == [True] * per_minute + [False] * 2

    @pytest.mark.parametrize(
        ("into_the_minute", "retry_after"),
        [
            pytest.param(0.0, 60, id="at-its-beginning"),
            pytest.param(18.5, 42, id="amid"),
            pytest.param(59.0, 1, id="a-second-before-its-end"),
            pytest.param(59.999, 1, id="at-its-end"),
        ],
    )
    def test_a_refusal_says_when_the_minute_is_over(
        self, limit: OperatorLimit, clock: Clock, into_the_minute: float, retry_after: int
    ) -> None:
        clock.now = MINUTE + into_the_minute
        exhaust(limit)
        with pytest.raises(TooManyEnrollmentsError, match="3 enrollments of this minute are used up") as caught:
            limit.admit(OPERATOR)
        assert caught.value.retry_after == retry_after
        assert "EnrollmentsPerMinute" in caught.value.remedy
        assert OPERATOR not in f"{caught.value} {caught.value.remedy}"
        clock.now += retry_after
        assert admitted(limit)

    def test_the_next_minute_begins_anew(self, limit: OperatorLimit, clock: Clock) -> None:
        exhaust(limit)
        clock.now = MINUTE + WINDOW_SECONDS - 0.001
        assert not admitted(limit)
        clock.now = MINUTE + WINDOW_SECONDS
        exhaust(limit)

    def test_environments_count_together(self, dynamodb: Any, clock: Clock, credentials: Credentials) -> None:
        one, other = (environment(dynamodb, clock, credentials) for _ in range(2))
        assert [admitted(each) for each in (one, other, one, other, one)] == [True, True, True, False, False]

    def test_operators_are_counted_apart(self, limit: OperatorLimit) -> None:
        exhaust(limit)
        exhaust(limit, "anna.bianchi@example.com")

    def test_an_e_mail_in_other_letters_is_the_same_operator(self, limit: OperatorLimit) -> None:
        spellings = (OPERATOR, OPERATOR.upper(), "Mario.Rossi@Example.Com", OPERATOR)
        assert [admitted(limit, each) for each in spellings] == [True, True, True, False]


class TestTheTable:
    def test_its_readers_learn_neither_who_enrolls_nor_a_secret(
        self, dynamodb: Any, limit: OperatorLimit, credentials: Credentials
    ) -> None:
        limit.admit(OPERATOR)
        (item,) = items(dynamodb)
        assert set(item) == {"id", "admitted", "expires_at"}
        written = json.dumps(item).lower()
        for secret in ("mario", "rossi", "example.com", credentials.application.client_secret):
            assert secret not in written

    def test_marks_tell_minutes_operators_and_secrets_apart(
        self, dynamodb: Any, limit: OperatorLimit, clock: Clock, credentials: Credentials, certificate: Certificate
    ) -> None:
        """Whoever knows an e-mail cannot look up how often it enrolled."""
        limit.admit(OPERATOR)
        limit.admit("anna.bianchi@example.com")
        rotated = Credentials(Application("app-1", "another", "https://merchant.example/softpos", "oidc"), certificate)
        environment(dynamodb, clock, rotated).admit(OPERATOR)
        clock.now += WINDOW_SECONDS
        limit.admit(OPERATOR)
        assert [item["admitted"]["N"] for item in items(dynamodb)] == ["1"] * 4

    def test_an_item_goes_by_ttl_and_not_before_its_minute_is_over(
        self, dynamodb: Any, limit: OperatorLimit, clock: Clock
    ) -> None:
        limit.admit(OPERATOR)
        limit.admit(OPERATOR)
        (item,) = items(dynamodb)
        assert MINUTE + WINDOW_SECONDS <= int(item["expires_at"]["N"]) <= clock.now + 5 * WINDOW_SECONDS

    def test_one_that_is_gone_admits(self, dynamodb: Any, limit: OperatorLimit) -> None:
        exhaust(limit)
        dynamodb.delete_table(TableName="cache")
        assert admitted(limit)

    @pytest.mark.parametrize(
        "code", ["AccessDeniedException", "ProvisionedThroughputExceededException", "InternalServerError"]
    )
    def test_one_that_fails_admits(self, clock: Clock, credentials: Credentials, code: str) -> None:
        class Failing:
            def update_item(self, **_: Any) -> dict[str, Any]:
                raise ClientError({"Error": {"Code": code, "Message": ""}}, "UpdateItem")

        limit = environment(Failing(), clock, credentials)
        assert all(admitted(limit) for _ in range(2 * PER_MINUTE))

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param({"NULL": True}, id="null"),
            pytest.param({"S": "9"}, id="text"),
            pytest.param({"B": b"9"}, id="binary"),
            pytest.param({"BOOL": True}, id="a-boolean"),
            pytest.param({"L": [{"N": "9"}]}, id="a-list"),
            pytest.param({"M": {}}, id="a-map"),
            pytest.param({"NS": ["9"]}, id="a-set"),
        ],
    )
    def test_a_count_that_is_no_number_costs_the_limit_and_not_the_enrollment(
        self, dynamodb: Any, limit: OperatorLimit, value: dict[str, Any]
    ) -> None:
        """DynamoDB finds no other type smaller than a number. moto says so of null alone, and fails for the others."""
        limit.admit(OPERATOR)
        (item,) = items(dynamodb)
        dynamodb.put_item(TableName="cache", Item={**item, "admitted": value})
        assert all(admitted(limit) for _ in range(2 * PER_MINUTE))

    @pytest.mark.parametrize("value", [{"NULL": True}, {"S": "never"}], ids=["null", "text"])
    def test_an_expiry_that_is_no_number_is_mended(
        self, dynamodb: Any, limit: OperatorLimit, value: dict[str, Any]
    ) -> None:
        limit.admit(OPERATOR)
        (item,) = items(dynamodb)
        dynamodb.put_item(TableName="cache", Item={**item, "expires_at": value})
        limit.admit(OPERATOR)
        (item,) = items(dynamodb)
        assert int(item["expires_at"]["N"]) >= MINUTE + WINDOW_SECONDS
