"""Signing in with e-mail and password at the stack's own user pool: for Nexi's sample app, which knows no other way."""

from softpos import aws, telemetry
from softpos.aws import error_code
from softpos.errors import MisconfiguredError
from softpos.settings import settings

_REFUSED = frozenset(
    {
        "NotAuthorizedException",
        "UserNotFoundException",
        "UserNotConfirmedException",
        "PasswordResetRequiredException",
        "InvalidParameterException",
        # Someone is guessing, at this operator or at all: the sample knows no word for it.
        "TooManyRequestsException",
    }
)


def id_token(email: str, password: str) -> str | None:
    """The operator's ID token, or None when Cognito refuses e-mail or password, or wants more than these.

    Raises MisconfiguredError when the pool cannot be used, and what aws.failure says when Cognito fails. The log says
    why None.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    configured = settings()
    if not configured.operators_pool_id or not configured.operators_client_id:
        raise MisconfiguredError(
            "OPERATORS_POOL_ID or OPERATORS_CLIENT_ID is not set",
            "template.yaml sets them where the sample app's API is on",
        )
    try:
        answer = aws.client("cognito-idp").admin_initiate_auth(
            UserPoolId=configured.operators_pool_id,
            ClientId=configured.operators_client_id,
            AuthFlow="ADMIN_USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": email, "PASSWORD": password},
        )
    except (BotoCoreError, ClientError) as error:
        code = error_code(error)
        if code in _REFUSED:
            telemetry.note(sign_in=code)
            return None
        if code in ("ResourceNotFoundException", "AccessDeniedException"):
            raise MisconfiguredError(
                f"the operators' user pool cannot be used ({code})",
                "let the function's role call cognito-idp:AdminInitiateAuth on the stack's own pool",
            ) from error
        raise aws.failure("Cognito failed", error) from error
    if "AuthenticationResult" not in answer:
        # A password to be changed, or a second factor: the sample app knows neither.
        telemetry.note(sign_in=answer.get("ChallengeName", "challenged"))
        return None
    return answer["AuthenticationResult"]["IdToken"]
