"""What the table gets to see of an `Idempotency-Key`, for how long, and what it may not do to us."""

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from softpos.deadline import Deadline
from softpos.enrollment.idempotency import Idempotency
from softpos.errors import NexiRejectedError, NexiTimeoutError
from softpos.nexi.client import REQUEST_URI_SECONDS, PushedAuthorization
from softpos.seal import Seal
from softpos.terminals import Assignment


class Enroll:
    """Gives another request_uri each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> PushedAuthorization:
        self.calls += 1
        return PushedAuthorization(f"urn:{self.calls}", 90, int(time.time()) + 90)


def idempotency(dynamodb: Any) -> Idempotency:
    credentials: Any = SimpleNamespace(get=lambda: SimpleNamespace(seal=lambda purpose: Seal(b"secret", purpose)))
    return Idempotency(dynamodb, "cache", credentials)


def held(operator: str = "a@b.c", softpos_tid: str = "tid") -> Assignment:
    return Assignment("point of sale", softpos_tid, None, operator)


def items(dynamodb: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dynamodb.scan(TableName="cache")["Items"]
    return found


def test_the_case_of_the_operators_e_mail_does_not_matter(dynamodb: Any) -> None:
    enroll = Enroll()
    for operator in ("Mario.Rossi@example.com", "mario.rossi@EXAMPLE.com"):
        pushed = idempotency(dynamodb).once("key", held(operator), "device", Deadline(10), enroll)
        assert pushed.request_uri == "urn:1"


def test_it_is_remembered_for_as_long_as_a_request_uri_lives_under_a_name_that_tells_nothing(dynamodb: Any) -> None:
    idempotency(dynamodb).once("key", held(), "device", Deadline(10), Enroll())
    (stored,) = items(dynamodb)
    assert int(stored["expires_at"]["N"]) == pytest.approx(time.time() + REQUEST_URI_SECONDS, abs=2)
    assert re.search(r"#[0-9a-f]{64}$", stored["id"]["S"])


def test_an_environment_that_dies_holds_its_key_no_longer_than_its_deadline(dynamodb: Any) -> None:
    began: list[dict[str, Any]] = []

    def enroll() -> PushedAuthorization:
        began.extend(items(dynamodb))
        return Enroll()()

    idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll)
    assert int(began[0]["in_progress_expiration"]["N"]) <= (time.time() + 10) * 1000


def test_what_was_stored_under_another_key_is_not_handed_out(dynamodb: Any) -> None:
    enroll = Enroll()
    for key in ("one", "two"):
        idempotency(dynamodb).once(key, held(), "device", Deadline(10), enroll)
    one, two = items(dynamodb)
    dynamodb.put_item(TableName="cache", Item={**one, "data": two["data"]})
    dynamodb.put_item(TableName="cache", Item={**two, "data": one["data"]})
    for key in ("one", "two"):
        pushed = idempotency(dynamodb).once(key, held(), "device", Deadline(10), enroll)
        assert pushed.request_uri not in ("urn:1", "urn:2")


def test_a_table_that_fails_after_the_enrollment_does_not_cause_another(dynamodb: Any) -> None:
    def fail(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "InternalServerError", "Message": "…"}}, "UpdateItem")

    dynamodb.update_item = fail
    enroll = Enroll()
    assert idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll).request_uri == "urn:1"
    assert enroll.calls == 1


def failing(**_: Any) -> Any:
    raise ClientError({"Error": {"Code": "InternalServerError", "Message": "…"}}, "DeleteItem")


def test_an_enrollment_that_failed_is_not_made_again_when_the_table_fails_as_well(dynamodb: Any) -> None:
    calls: list[int] = []

    def enroll() -> PushedAuthorization:
        calls.append(1)
        raise NexiRejectedError("no")

    dynamodb.delete_item = failing
    with pytest.raises(NexiRejectedError):
        idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll)
    assert len(calls) == 1


@pytest.mark.parametrize("table_fails", [False, True], ids=["table-well", "table-fails"])
def test_why_an_enrollment_failed_is_not_lost(dynamodb: Any, table_fails: bool) -> None:
    cause = TimeoutError("read timed out")

    def enroll() -> PushedAuthorization:
        raise NexiTimeoutError("late") from cause

    if table_fails:
        dynamodb.delete_item = failing
    with pytest.raises(NexiTimeoutError) as raised:
        idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll)
    assert raised.value.__cause__ is cause


PLANTED: list[Any] = [
    {"S": "{"},
    {"S": "null"},
    {"S": "{}"},
    {"S": "[1]"},
    {"S": '{"sealed": 1}'},
    {"S": '{"sealed": "a"}'},
    {"S": '{"sealed": "cGxhbnRlZA=="}'},
    {"S": "[" * 20_000},
    {"N": "7"},
    None,
]


@pytest.mark.parametrize("data", PLANTED, ids=lambda data: str(data)[:30])
def test_whatever_stands_in_the_table_the_enrollment_is_made(dynamodb: Any, data: Any) -> None:
    enroll = Enroll()
    idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll)
    (stored,) = items(dynamodb)
    planted = {name: value for name, value in stored.items() if name != "data"}
    dynamodb.put_item(TableName="cache", Item={**planted, **({"data": data} if data else {})})
    assert idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll).request_uri == "urn:2"


def test_its_record_lives_as_long_as_the_request_uri_and_not_as_the_usual_one(dynamodb: Any) -> None:
    def short() -> PushedAuthorization:
        return PushedAuthorization("urn:1", 30, int(time.time()) + 30)

    once = idempotency(dynamodb).once
    once("one", held(), "device", Deadline(10), short)
    once("two", held(), "device", Deadline(10), Enroll())
    lives = sorted(int(each["expires_at"]["N"]) - time.time() for each in items(dynamodb))
    assert lives == pytest.approx([30, 90], abs=2)


def test_a_request_uri_of_terminals_that_were_taken_away_since_is_not_handed_out(dynamodb: Any) -> None:
    enroll = Enroll()
    idempotency(dynamodb).once("key", held("a@b.c", "tid"), "device", Deadline(10), enroll)
    again = idempotency(dynamodb).once("key", held("a@b.c", "another"), "device", Deadline(10), enroll)
    assert again.request_uri == "urn:2"


def test_what_was_stored_for_one_device_is_not_handed_to_another(dynamodb: Any) -> None:
    enroll = Enroll()
    idempotency(dynamodb).once("key", held(), "device", Deadline(10), enroll)
    idempotency(dynamodb).once("other", held(), "another device", Deadline(10), enroll)
    first, second = items(dynamodb)
    dynamodb.put_item(TableName="cache", Item={**first, "validation": second["validation"]})
    dynamodb.put_item(TableName="cache", Item={**second, "validation": first["validation"]})
    for key, device in (("key", "another device"), ("other", "device")):
        assert idempotency(dynamodb).once(key, held(), device, Deadline(10), enroll).request_uri not in (
            "urn:1",
            "urn:2",
        )


def test_a_reader_of_the_table_cannot_confirm_a_guess(dynamodb: Any) -> None:
    idempotency(dynamodb).once("key", held(), "device", Deadline(10), Enroll())
    credentials: Any = SimpleNamespace(get=lambda: SimpleNamespace(seal=lambda purpose: Seal(b"guess", purpose)))
    Idempotency(dynamodb, "cache", credentials).once("key", held(), "device", Deadline(10), Enroll())
    first, second = items(dynamodb)
    assert first["validation"] != second["validation"]
    assert first["id"] != second["id"]
