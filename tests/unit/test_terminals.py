"""Who the operator is, and which terminals are theirs."""

from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.stub import Stubber

from softpos.errors import MisconfiguredError, OperatorUnknownError, SoftposError, TerminalNotAssignedError
from softpos.terminals import Assignment, TerminalRegistry, operator_email

EMAIL = "mario.rossi@example.com"
CLAIMS = {"sub": "3f2a8c1e", "email": EMAIL, "email_verified": "true", "token_use": "id"}
ITEM = {
    "id": {"S": f"operator#{EMAIL}"},
    "operator": {"S": EMAIL},
    "point_of_sale": {"S": "00012345"},
    "softpos_tid": {"S": "30000001"},
    "mpos_tid": {"S": "40000001"},
}


class TestTheOperator:
    @pytest.mark.parametrize(
        "email",
        [
            pytest.param(EMAIL, id="plain"),
            pytest.param("Mario.Rossi@Example.com", id="capitals-are-kept"),
            pytest.param("josé@esempio.it", id="beyond-ascii"),
            pytest.param("a@b", id="shortest"),
            pytest.param("a" * 242 + "@example.com", id="254-characters"),
        ],
    )
    def test_the_e_mail_is_the_tokens_to_the_letter(self, email: str) -> None:
        assert operator_email({**CLAIMS, "email": email}) == email

    @pytest.mark.parametrize(
        "email",
        [
            pytest.param({}, id="missing"),
            pytest.param({"email": None}, id="null"),
            pytest.param({"email": ""}, id="empty"),
            pytest.param({"email": 7}, id="a-number"),
            pytest.param({"email": [EMAIL]}, id="a-list"),
            pytest.param({"email": "mario.rossi"}, id="no-at"),
            pytest.param({"email": "@example.com"}, id="nothing-before-the-at"),
            pytest.param({"email": "mario.rossi@"}, id="nothing-after-the-at"),
            pytest.param({"email": "a" * 243 + "@example.com"}, id="255-characters"),
        ],
    )
    def test_a_token_without_an_e_mail_is_nobodys(self, email: dict[str, Any]) -> None:
        claims = {name: value for name, value in CLAIMS.items() if name != "email"}
        with pytest.raises(OperatorUnknownError, match="carries no e-mail") as caught:
            operator_email({**claims, **email})
        assert "ID token" in caught.value.remedy

    @pytest.mark.parametrize("verified", ["false", "False", "FALSE", False])
    def test_an_e_mail_that_is_not_verified_is_nobodys(self, verified: Any) -> None:
        """API Gateway hands claims over as strings; other authorizers keep the JSON's boolean."""
        with pytest.raises(OperatorUnknownError, match="is not verified"):
            operator_email({**CLAIMS, "email_verified": verified})

    @pytest.mark.parametrize("verified", [{}, {"email_verified": "true"}, {"email_verified": True}], ids=repr)
    def test_an_identity_provider_need_not_say_that_it_verified(self, verified: dict[str, Any]) -> None:
        claims = {name: value for name, value in CLAIMS.items() if name != "email_verified"}
        assert operator_email({**claims, **verified}) == EMAIL

    def test_no_error_repeats_the_e_mail(self) -> None:
        for claims in ({"email": "not an e-mail of ours"}, {**CLAIMS, "email_verified": "false"}):
            with pytest.raises(OperatorUnknownError) as caught:
                operator_email(claims)
            assert str(claims["email"]) not in f"{caught.value} {caught.value.remedy}"


@pytest.fixture
def dynamodb() -> Any:
    """A real client of DynamoDB, for botocore to check what is asked and answered."""
    return boto3.client("dynamodb", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test")


def held(dynamodb: Any, item: dict[str, Any] | None, email: str = EMAIL) -> Assignment:
    """What the registry says when the table holds `item`, and that it asked as it promises to."""
    with Stubber(dynamodb) as aws:
        aws.add_response(
            "get_item",
            {} if item is None else {"Item": item},
            {"TableName": "terminals", "Key": {"id": {"S": f"operator#{email.lower()}"}}, "ConsistentRead": True},
        )
        assignment = TerminalRegistry(dynamodb, "terminals").held_by(email)
        aws.assert_no_pending_responses()
    return assignment


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in ITEM.items() if name not in names}


class TestTheRegistry:
    def test_an_item_is_read_by_a_strongly_consistent_read(self, dynamodb: Any) -> None:
        assert held(dynamodb, ITEM) == Assignment(EMAIL, "00012345", ("30000001", "40000001"))

    def test_the_case_of_the_e_mail_does_not_matter(self, dynamodb: Any) -> None:
        assert held(dynamodb, ITEM, "Mario.ROSSI@Example.Com").terminal_ids == ("30000001", "40000001")

    def test_nexi_is_told_the_operator_as_the_item_spells_it(self, dynamodb: Any) -> None:
        """Nexi compares it with what the SDK was given, and the user pool may fold it."""
        item = {**ITEM, "operator": {"S": "Mario.Rossi@example.com"}}
        assert held(dynamodb, item).operator == "Mario.Rossi@example.com"

    @pytest.mark.parametrize(
        ("absent", "tids"),
        [
            pytest.param((), ("30000001", "40000001"), id="both-and-the-softpos-first"),
            pytest.param(("mpos_tid",), ("30000001",), id="a-softpos"),
            pytest.param(("softpos_tid",), ("40000001",), id="an-mpos"),
        ],
    )
    def test_an_operator_holds_one_terminal_or_two(
        self, dynamodb: Any, absent: tuple[str, ...], tids: tuple[str, ...]
    ) -> None:
        backwards = dict(reversed(without(*absent).items()))
        assert held(dynamodb, backwards).terminal_ids == tids

    @pytest.mark.parametrize("empty", [{"S": ""}, {"NULL": True}], ids=["empty", "null"])
    def test_a_tid_that_is_empty_is_none(self, dynamodb: Any, empty: dict[str, Any]) -> None:
        assert held(dynamodb, {**ITEM, "mpos_tid": empty}).terminal_ids == ("30000001",)

    def test_attributes_of_others_do_no_harm(self, dynamodb: Any) -> None:
        item = {**ITEM, "note": {"L": [{"S": "x"}]}, "since": {"N": "1"}}
        assert held(dynamodb, item) == held(dynamodb, ITEM)

    def test_an_operator_without_an_item_holds_nothing(self, dynamodb: Any) -> None:
        with pytest.raises(TerminalNotAssignedError, match="holds no terminal"):
            held(dynamodb, None)

    @pytest.mark.parametrize(
        "item",
        [
            pytest.param(without("operator"), id="operator-missing"),
            pytest.param(without("point_of_sale"), id="point-of-sale-missing"),
            pytest.param(without("softpos_tid", "mpos_tid"), id="both-tids-missing"),
            pytest.param({**ITEM, "operator": {"S": ""}}, id="operator-empty"),
            pytest.param({**ITEM, "point_of_sale": {"N": "12345"}}, id="point-of-sale-a-number"),
            pytest.param({**without("mpos_tid"), "softpos_tid": {"N": "30000001"}}, id="tid-a-number"),
            pytest.param({**without("mpos_tid"), "softpos_tid": {"L": []}}, id="tid-a-list"),
            pytest.param({"id": ITEM["id"]}, id="nothing-but-the-id"),
            pytest.param({}, id="nothing-at-all"),
        ],
    )
    def test_a_malformed_item_is_a_misconfiguration(self, dynamodb: Any, item: dict[str, Any]) -> None:
        with pytest.raises(MisconfiguredError, match="TERMINALS_TABLE lacks operator, point_of_sale or every TID"):
            held(dynamodb, item)

    def test_nothing_is_remembered(self, dynamodb: Any) -> None:
        """A terminal that was taken away is gone with the next call."""
        registry = TerminalRegistry(dynamodb, "terminals")
        with Stubber(dynamodb) as aws:
            aws.add_response("get_item", {"Item": ITEM})
            aws.add_response("get_item", {})
            assert registry.held_by(EMAIL).terminal_ids
            with pytest.raises(TerminalNotAssignedError):
                registry.held_by(EMAIL)

    @pytest.mark.parametrize(
        ("code", "error", "found"),
        [
            ("ResourceNotFoundException", MisconfiguredError, "TERMINALS_TABLE names cannot be read"),
            ("AccessDeniedException", MisconfiguredError, "TERMINALS_TABLE names cannot be read"),
            ("ValidationException", MisconfiguredError, "TERMINALS_TABLE names cannot be read"),
            ("InternalServerError", SoftposError, "DynamoDB failed for TERMINALS_TABLE"),
            ("ProvisionedThroughputExceededException", SoftposError, "DynamoDB failed for TERMINALS_TABLE"),
            ("ThrottlingException", SoftposError, "DynamoDB failed for TERMINALS_TABLE"),
            ("ExpiredTokenException", SoftposError, "DynamoDB failed for TERMINALS_TABLE"),
        ],
    )
    def test_dynamodbs_errors_become_ours(
        self, dynamodb: Any, code: str, error: type[SoftposError], found: str
    ) -> None:
        with Stubber(dynamodb) as aws:
            aws.add_client_error("get_item", code, "arn:aws:dynamodb:eu-south-1:123456789012:table/terminals")
            with pytest.raises(SoftposError, match=code) as caught:
                TerminalRegistry(dynamodb, "terminals").held_by(EMAIL)
        assert type(caught.value) is error
        assert found in str(caught.value)
        assert caught.value.remedy
        assert "arn:" not in f"{caught.value} {caught.value.remedy}"
        assert caught.value.__cause__ is not None

    @pytest.mark.parametrize(
        "failure",
        [
            NoCredentialsError(),
            EndpointConnectionError(endpoint_url="https://aws"),
            ReadTimeoutError(endpoint_url="https://aws"),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    def test_what_botocore_raises_by_itself_becomes_ours(self, failure: Exception) -> None:
        class Unplugged:
            def get_item(self, **_: Any) -> dict[str, Any]:
                raise failure

        with pytest.raises(SoftposError, match=type(failure).__name__) as caught:
            TerminalRegistry(Unplugged(), "terminals").held_by(EMAIL)  # type: ignore[arg-type]  # a fake
        assert caught.value.code == "internal_error"
