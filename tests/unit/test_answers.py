"""What Nexi said, fit for a log: without whom it said it of."""

import json

import pytest

from softpos.nexi.responses import Reading
from softpos.nexi.session import Answer

OPERATOR = "mario.rossi@example.com"
DEVICE = "a-device-id-from-the-sdk"


def said(body: str, *names: str) -> str:
    return str(Reading("PAR", Answer(400, {}, body.encode()), names=names).failure(0.0))


@pytest.mark.parametrize(
    "body",
    [
        f"User {OPERATOR} unknown on device {DEVICE}",
        f"User {OPERATOR.upper()} unknown on device {DEVICE.upper()}",
        json.dumps({"statusCode": None, "message": f"{OPERATOR} has no contract, {DEVICE} neither"}),
    ],
    ids=["as-sent", "in-capitals", "in-json"],
)
def test_the_operator_and_the_device_are_not_told(body: str) -> None:
    told = said(body, OPERATOR, DEVICE)
    assert OPERATOR not in told.lower()
    assert DEVICE not in told.lower()
    assert "[…]" in told


def test_the_rest_is() -> None:
    assert (
        said(f"ContractCode not found for {OPERATOR}.", OPERATOR) == "PAR answered 400: ContractCode not found for […]."
    )


def test_a_name_that_could_be_part_of_any_word_does_not_blot_it_out() -> None:
    assert said("ContractCode not found.", "o", "t f") == "PAR answered 400: ContractCode not found."
