"""Who may enroll what: the operator out of a verified token, and the terminals that the registry says are theirs.

The registry is the table `TERMINALS_TABLE`. An operator's item is
`{"id": "operator#<e-mail in lower case>", "operator": <e-mail as Nexi's portal and the SDK have it>,
"point_of_sale": …, "softpos_tid": …, "mpos_tid": …}` with at least one of the two TIDs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softpos.aws import error_code
from softpos.errors import MisconfiguredError, OperatorUnknownError, SoftposError, TerminalNotAssignedError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an operator holds."""

    operator: str
    """E-mail, spelled as Nexi and the SDK have it: the assertion's `app_username_merchant`."""
    point_of_sale: str
    terminal_ids: tuple[str, ...]
    """One or two TIDs, the SoftPOS before the MPOS."""


def operator_email(claims: Mapping[str, Any]) -> str:
    """The e-mail in the claims of a token that has been verified already.

    Raises OperatorUnknownError when there is none, or when the identity provider says that it is not verified.
    """
    email = claims.get("email")
    if not isinstance(email, str) or not 3 <= len(email) <= 254 or "@" not in email[1:-1]:
        raise OperatorUnknownError(
            "the bearer token carries no e-mail",
            "let the app send the ID token, which carries the e-mail, and not the access token",
        )
    if str(claims.get("email_verified", "true")).lower() == "false":
        raise OperatorUnknownError(
            "the bearer token's e-mail is not verified", "verify the operator's e-mail in the user pool"
        )
    return email


class TerminalRegistry:
    """Reads the terminals table. Nothing is cached: a terminal that was taken away is gone with the next call."""

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def held_by(self, email: str) -> Assignment:
        """The operator's assignment, by one strongly consistent read. The e-mail's case does not matter.

        Raises TerminalNotAssignedError when the operator holds nothing, MisconfiguredError when the table or the item
        is not as it should be, and SoftposError when DynamoDB fails.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._dynamodb.get_item(
                TableName=self._table, Key={"id": {"S": f"operator#{email.lower()}"}}, ConsistentRead=True
            )
        except (BotoCoreError, ClientError) as error:
            code = error_code(error)
            if code in ("ResourceNotFoundException", "AccessDeniedException", "ValidationException"):
                raise MisconfiguredError(
                    f"the table that TERMINALS_TABLE names cannot be read ({code})",
                    "let it be the stack's terminals table, and the function's role call dynamodb:GetItem on it",
                ) from error
            raise SoftposError(
                f"DynamoDB failed for TERMINALS_TABLE ({code})", "see the cause and AWS's service health"
            ) from error
        item = answer.get("Item")
        if item is None:
            raise TerminalNotAssignedError("the operator holds no terminal", "assign one to the operator")
        texts = {name: value["S"] for name, value in item.items() if value.get("S")}
        tids = tuple(texts[name] for name in ("softpos_tid", "mpos_tid") if name in texts)
        if not tids or "point_of_sale" not in texts or "operator" not in texts:
            raise MisconfiguredError(
                "the operator's item in TERMINALS_TABLE lacks operator, point_of_sale or every TID",
                "write it anew: operator, point_of_sale, and softpos_tid, mpos_tid or both, as strings",
            )
        return Assignment(texts["operator"], texts["point_of_sale"], tids)
