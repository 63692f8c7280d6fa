"""AWS's clients: what is done when a call fails in signing or in credentials, as the first one after a thaw may."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, CredentialRetrievalError

from softpos import aws
from softpos.errors import BackendUnavailableError

THAWED = [
    ClientError({"Error": {"Code": "InvalidSignatureException", "Message": "Signature expired"}}, "GetItem"),
    ClientError({"Error": {"Code": "UnrecognizedClientException"}}, "GetItem"),
    ClientError({"Error": {"Code": "ExpiredTokenException"}}, "GetItem"),
    CredentialRetrievalError(provider="container-role", error_msg="500"),
]


class Failing:
    """A client whose first calls fail."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def get_item(self, **_: Any) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "item"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "_SIGNING_PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize("error", THAWED, ids=aws.error_code)
def test_a_call_that_fails_in_signing_is_made_once_more(error: Exception) -> None:
    assert aws._WithinDeadline("dynamodb", Failing(error)).get_item() == "item"


@pytest.mark.parametrize("error", THAWED, ids=aws.error_code)
def test_a_failure_in_signing_that_lasts_is_an_unavailable_backend(error: Exception) -> None:
    failing = Failing(error, error)
    with pytest.raises(type(error)) as caught:
        aws._WithinDeadline("dynamodb", failing).get_item()
    assert failing.calls == 2
    assert isinstance(aws.failure("DynamoDB failed", caught.value), BackendUnavailableError)


def test_another_failure_is_not_tried_again() -> None:
    failing = Failing(ClientError({"Error": {"Code": "AccessDeniedException"}}, "GetItem"))
    with pytest.raises(ClientError):
        aws._WithinDeadline("dynamodb", failing).get_item()
    assert failing.calls == 1
