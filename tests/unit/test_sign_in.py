"""Signing in for the sample app: a real user pool on moto, and what Cognito may say besides."""

import base64
import dataclasses
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from handlers import OPERATOR, aws_client
from moto import mock_aws
from unit_support import Lines

from softpos import aws, sign_in, telemetry
from softpos.errors import BackendUnavailableError, MisconfiguredError, SoftposError
from softpos.settings import Settings

PASSWORD = "Sandbox-1234"
SETTINGS = Settings.from_environment(
    {
        "STAGE": "staging",
        "NEXI_BASE_URL": "https://nexi.example",
        "APPLICATION_SECRET_ID": "stack/application",
        "CERTIFICATE_SECRET_ID": "stack/certificate",
        "TERMINALS_TABLE": "terminals",
        "CACHE_TABLE": "cache",
    }
)


@pytest.fixture(scope="module")
def cognito() -> Iterator[Any]:
    with mock_aws():
        yield aws_client("cognito-idp")


@pytest.fixture(scope="module")
def pool(cognito: Any) -> Settings:
    """A user pool as the template has it, with an operator, and one who has yet to change the first password."""
    pool_id = cognito.create_user_pool(PoolName="operators", UsernameAttributes=["email"])["UserPool"]["Id"]
    client = cognito.create_user_pool_client(
        UserPoolId=pool_id,
        ClientName="app",
        PreventUserExistenceErrors="ENABLED",
        ExplicitAuthFlows=["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
    )["UserPoolClient"]["ClientId"]
    for email, permanent in ((OPERATOR, True), ("new@example.com", False)):
        attributes = [{"Name": "email", "Value": email}, {"Name": "email_verified", "Value": "true"}]
        cognito.admin_create_user(UserPoolId=pool_id, Username=email, UserAttributes=attributes)
        cognito.admin_set_user_password(UserPoolId=pool_id, Username=email, Password=PASSWORD, Permanent=permanent)
    return dataclasses.replace(SETTINGS, operators_pool_id=pool_id, operators_client_id=client)


@pytest.fixture(autouse=True)
def _at_the_pool(monkeypatch: pytest.MonkeyPatch, cognito: Any, pool: Settings) -> None:
    monkeypatch.setattr(aws, "client", {"cognito-idp": cognito}.__getitem__)
    monkeypatch.setattr(sign_in, "settings", lambda: pool)
    telemetry.begin("enrollment")


def cognito_says(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Let Cognito answer so, or fail."""

    def admin_initiate_auth(**_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(aws, "client", lambda _: SimpleNamespace(admin_initiate_auth=admin_initiate_auth))


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"{OPERATOR} {PASSWORD}"}}, "AdminInitiateAuth")


def line(lines: Lines) -> dict[str, Any]:
    telemetry.succeeded("sample app served")
    assert PASSWORD not in lines.text
    assert "@" not in lines.text
    return lines.only()


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


class TestWhoSignsIn:
    def test_an_operator_gets_the_token_that_names_them(self, pool: Settings, lines: Lines) -> None:
        token = sign_in.id_token(OPERATOR, PASSWORD)
        assert token is not None
        claims = claims_of(token)
        assert (claims["token_use"], claims["email"]) == ("id", OPERATOR)
        assert claims["aud"] == pool.operators_client_id
        assert "sign_in" not in line(lines)
        assert token not in lines.text

    @pytest.mark.parametrize(
        ("email", "password"),
        [
            pytest.param(OPERATOR, "Sandbox-1235", id="wrong-password"),
            pytest.param(OPERATOR, PASSWORD.lower(), id="password-in-other-letters"),
            pytest.param("nobody@example.com", PASSWORD, id="unknown-user"),
            pytest.param("nobody", PASSWORD, id="no-e-mail"),
        ],
    )
    def test_nobody_else_gets_one(self, lines: Lines, email: str, password: str) -> None:
        assert sign_in.id_token(email, password) is None
        assert line(lines)["sign_in"] in ("NotAuthorizedException", "UserNotFoundException")
        assert password not in lines.text

    def test_who_must_change_the_password_first_does_not(self, lines: Lines) -> None:
        assert sign_in.id_token("new@example.com", PASSWORD) is None
        assert line(lines)["sign_in"] == "NEW_PASSWORD_REQUIRED"

    @pytest.mark.parametrize("challenge", ["SOFTWARE_TOKEN_MFA", "MFA_SETUP", "SELECT_CHALLENGE"])
    def test_who_has_a_second_factor_does_not(
        self, monkeypatch: pytest.MonkeyPatch, lines: Lines, challenge: str
    ) -> None:
        cognito_says(monkeypatch, {"ChallengeName": challenge, "Session": "the-session", "ChallengeParameters": {}})
        assert sign_in.id_token(OPERATOR, PASSWORD) is None
        assert line(lines)["sign_in"] == challenge
        assert "the-session" not in lines.text

    @pytest.mark.parametrize(
        "code",
        [
            "NotAuthorizedException",
            "TooManyRequestsException",
            "UserNotFoundException",
            "UserNotConfirmedException",
            "PasswordResetRequiredException",
            "InvalidParameterException",
        ],
    )
    def test_what_cognito_refuses_is_no_failure_of_ours(
        self, monkeypatch: pytest.MonkeyPatch, lines: Lines, code: str
    ) -> None:
        cognito_says(monkeypatch, refusal(code))
        assert sign_in.id_token(OPERATOR, PASSWORD) is None
        assert line(lines)["sign_in"] == code


def failure(lines: Lines) -> tuple[SoftposError, dict[str, Any]]:
    """What signing in raises, and its line; neither has the password in it."""
    with pytest.raises(SoftposError) as caught:
        sign_in.id_token(OPERATOR, PASSWORD)
    telemetry.failed(caught.value)
    shown = f"{caught.value!r} {caught.value} {caught.value.remedy} {lines.text}"
    for secret in (PASSWORD, OPERATOR):
        assert secret not in shown
    return caught.value, lines.only()


class TestAFailure:
    @pytest.mark.parametrize(
        "missing",
        [
            pytest.param({"operators_pool_id": None}, id="pool"),
            pytest.param({"operators_client_id": None}, id="client"),
            pytest.param({"operators_pool_id": None, "operators_client_id": None}, id="both"),
        ],
    )
    def test_settings_that_are_missing_are_named(
        self, monkeypatch: pytest.MonkeyPatch, lines: Lines, pool: Settings, missing: dict[str, None]
    ) -> None:
        monkeypatch.setattr(sign_in, "settings", lambda: dataclasses.replace(pool, **missing))
        error, _ = failure(lines)
        assert isinstance(error, MisconfiguredError)
        assert "OPERATORS_POOL_ID or OPERATORS_CLIENT_ID is not set" in str(error)

    @pytest.mark.parametrize(
        "gone",
        [
            pytest.param({"operators_pool_id": "eu-south-1_A1b2C3d4E"}, id="pool"),
            pytest.param({"operators_client_id": "6h1k5l0m3n2o4p7q8r9s1t2u3v"}, id="client"),
        ],
    )
    def test_a_pool_that_is_gone_is_a_misconfiguration(
        self, monkeypatch: pytest.MonkeyPatch, lines: Lines, pool: Settings, gone: dict[str, str]
    ) -> None:
        monkeypatch.setattr(sign_in, "settings", lambda: dataclasses.replace(pool, **gone))
        error, line = failure(lines)
        assert isinstance(error, MisconfiguredError)
        assert "cannot be used (ResourceNotFoundException)" in str(error)
        assert line["level"] == "ERROR"

    def test_a_role_that_may_not_is_a_misconfiguration(self, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
        cognito_says(monkeypatch, refusal("AccessDeniedException"))
        error, line = failure(lines)
        assert isinstance(error, MisconfiguredError)
        assert "cannot be used (AccessDeniedException)" in str(error)
        assert "cognito-idp:AdminInitiateAuth" in line["remedy"]

    @pytest.mark.parametrize(
        ("failing", "kind", "code"),
        [
            (refusal("InternalErrorException"), BackendUnavailableError, "backend_unavailable"),
            (EndpointConnectionError(endpoint_url="https://aws"), BackendUnavailableError, "backend_unavailable"),
            (ReadTimeoutError(endpoint_url="https://aws"), BackendUnavailableError, "backend_unavailable"),
            (refusal("LimitExceededException"), SoftposError, "internal_error"),
            (NoCredentialsError(), SoftposError, "internal_error"),
            (
                ParamValidationError(report=f"… AuthParameters.PASSWORD, value: {PASSWORD}"),
                SoftposError,
                "internal_error",
            ),
        ],
    )
    def test_cognito_failing_is_nobodys_refusal(
        self, monkeypatch: pytest.MonkeyPatch, lines: Lines, failing: Exception, kind: type[SoftposError], code: str
    ) -> None:
        cognito_says(monkeypatch, failing)
        error, line = failure(lines)
        assert (type(error), error.code) == (kind, code)
        assert str(error).startswith("Cognito failed (")
        assert error.__cause__ is failing
        assert line["level"] == "ERROR"
        assert [cause.split(" ")[0].rstrip(":") for cause in line["causes"]] == [kind.__name__, type(failing).__name__]
