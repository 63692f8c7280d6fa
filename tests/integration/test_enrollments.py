"""POST /v1/enrollments over HTTP, through the authorizer, on execution environments, with a strict Nexi behind."""

import base64
import hmac
import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from backends import Backend, bearer, handler_folder
from failures import FAILURES, Failure, Outcome
from joserfc.jwk import RSAKey
from tokens import Forger

from sandbox.local import MPOS_TID, OPERATOR, PASSWORD, POINT_OF_SALE, SOFTPOS_TID, LocalStack

DEVICE = {"device_id": "device-1"}

# ---------------------------------------------------------------- what goes well


def test_an_enrollment_answers_201_with_a_request_uri_that_nobody_may_store(api: Backend) -> None:
    before = time.time()
    response = api.enroll()
    after = time.time()

    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert set(answer) == {"request_uri", "expires_in", "expires_at"}
    assert re.fullmatch(r"urn:softpos_[0-9a-f-]{36}", answer["request_uri"])
    assert answer["expires_in"] == 90
    assert answer["expires_at"].endswith("Z")
    assert int(before) + 90 <= datetime.fromisoformat(answer["expires_at"]).timestamp() <= after + 90


def test_nexi_is_told_the_operators_terminals_and_the_phones_device(api: Backend, stack: LocalStack) -> None:
    assert api.enroll(device_id="the-device-of-this-test").status_code == 201

    claims = stack.nexi.calls[-1].claims
    assert claims is not None
    assert claims["app_username_merchant"] == OPERATOR
    assert claims["app_deviceid"] == "the-device-of-this-test"
    assert claims["pointOfSale"] == POINT_OF_SALE
    assert claims["terminal_ids"] == [SOFTPOS_TID, MPOS_TID]


def test_the_second_enrollment_makes_exactly_one_call_to_nexi(api: Backend, stack: LocalStack) -> None:
    assert api.enroll().status_code == 201
    before = len(stack.nexi.calls)

    assert api.enroll().status_code == 201

    assert [call.endpoint for call in list(stack.nexi.calls)[before:]] == ["par"]


def test_the_log_has_one_line_for_an_enrollment_and_it_says_for_whom_and_how_long(api: Backend) -> None:
    response = api.enroll()

    line = api.line(response)
    assert line["level"] == "INFO"
    assert line["point_of_sale"] == POINT_OF_SALE
    assert line["terminal_ids"] == [SOFTPOS_TID, MPOS_TID]
    assert line["total_ms"] > 0
    assert response.json()["request_uri"] not in api.lines.text
    assert len([each for each in api.lines.all if line["request_id"] in each]) == 1


def test_enrollments_at_the_same_time_all_succeed_each_with_a_request_uri_of_its_own(api: Backend) -> None:
    token = bearer(api.stack)
    with ThreadPoolExecutor(4) as phones:
        responses = list(phones.map(lambda _: api.post(DEVICE, token), range(8)))

    assert [response.status_code for response in responses] == [201] * 8
    assert len({response.json()["request_uri"] for response in responses}) == 8


def test_the_full_headers_of_rfc_7519_are_accepted(start_backend: Callable[..., Backend]) -> None:
    assert start_backend({"ASSERTION_HEADERS": "full"}).enroll().status_code == 201


@pytest.mark.parametrize(
    "device_id", ["d", "d" * 128, "dispositivo è 📱", " "], ids=["short", "long", "unicode", "space"]
)
def test_a_device_id_of_up_to_128_characters_is_passed_on_as_it_is(
    api: Backend, stack: LocalStack, device_id: str
) -> None:
    assert api.enroll(device_id=device_id).status_code == 201
    claims = stack.nexi.calls[-1].claims
    assert claims is not None
    assert claims["app_deviceid"] == device_id


@pytest.mark.parametrize("content_type", ["application/octet-stream", "application/json; charset=utf-8", ""])
def test_json_is_read_whatever_the_content_type_says(api: Backend, content_type: str) -> None:
    response = api.post(DEVICE, bearer(api.stack), {"Content-Type": content_type})
    assert response.status_code == 201


# ---------------------------------------------------------------- who may ask


def _other_key(forger: Forger) -> str:
    return forger.token(RSAKey.generate_key(2048))


def _hmac_with_the_public_key(forger: Forger) -> str:
    # By hand: no library signs with a public key any more.
    signed = forger.unsigned(forger.token(), alg="HS256").rstrip(".")
    mac = hmac.digest(forger.pool_key.as_pem(private=False), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


UNAUTHORIZED = {
    "a word": lambda _: "Bearer hello",
    "three words with dots": lambda _: "Bearer one.two.three",
    "a token without its signature": lambda forger: "Bearer " + forger.token().rpartition(".")[0] + ".",
    "a token of two parts": lambda forger: "Bearer " + forger.token().rpartition(".")[0],
    "basic authentication": lambda _: "Basic bWFyaW86cGFzc3dvcmQ=",
    "a scheme that is not bearer": lambda forger: "Basic " + forger.token(),
    "a token twice": lambda forger: f"Bearer {forger.token()} {forger.token()}",
    "an expired token": lambda forger: "Bearer " + forger.token(exp=int(time.time()) - 1),
    "a token that never expires": lambda forger: "Bearer " + forger.token(exp=None),
    "a token that is not valid yet": lambda forger: "Bearer " + forger.token(nbf=int(time.time()) + 60),
    "a token of the future": lambda forger: "Bearer " + forger.token(iat=int(time.time()) + 60),
    "another issuer": lambda forger: "Bearer " + forger.token(iss=forger.issuer + "x"),
    "no issuer": lambda forger: "Bearer " + forger.token(iss=None),
    "another audience": lambda forger: "Bearer " + forger.token(aud="another-client"),
    "no audience": lambda forger: "Bearer " + forger.token(aud=None),
    "another client id": lambda forger: "Bearer " + forger.token(aud=None, client_id="another-client"),
    "another key": lambda forger: "Bearer " + _other_key(forger),
    "tampered claims": lambda forger: "Bearer " + forger.tampered(),
    "alg none": lambda forger: "Bearer " + forger.unsigned(forger.token(), alg="none"),
    "alg None in capitals": lambda forger: "Bearer " + forger.unsigned(forger.token(), alg="NONE"),
    "the public key as an HMAC secret": lambda forger: "Bearer " + _hmac_with_the_public_key(forger),
}


@pytest.mark.parametrize("rule", UNAUTHORIZED)
def test_a_bearer_token_is_refused_as_api_gateway_refuses_it_for(
    rule: str, api: Backend, stack: LocalStack, forger: Forger
) -> None:
    before = len(stack.nexi.calls)
    response = api.post(DEVICE, None, {"Authorization": UNAUTHORIZED[rule](forger)})

    assert response.status_code == 401
    assert response.json() == {"message": "Unauthorized"}
    assert response.headers["www-authenticate"].startswith('Bearer scope="" error="invalid_token"')
    assert len(stack.nexi.calls) == before


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": ""}, {"Authorization": "Bearer "}], ids=["none", "empty", "bare"]
)
def test_without_a_bearer_token_the_answer_is_a_bare_challenge(api: Backend, headers: dict[str, str]) -> None:
    response = api.post(DEVICE, None, headers)

    assert response.status_code == 401
    assert response.json() == {"message": "Unauthorized"}
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_forged_token_with_every_claim_right_is_accepted_so_that_the_refusals_above_mean_something(
    api: Backend, forger: Forger
) -> None:
    assert api.post(DEVICE, forger.token()).status_code == 201


def test_the_case_of_the_operators_e_mail_does_not_matter(api: Backend, forger: Forger) -> None:
    assert api.post(DEVICE, forger.token(email="Mario.Rossi@Example.com")).status_code == 201


def test_the_access_token_in_place_of_the_id_token_is_403_and_the_log_says_so(api: Backend, stack: LocalStack) -> None:
    signed_in = stack.aws.client("cognito-idp").admin_initiate_auth(
        UserPoolId=stack.outputs["OperatorsPoolId"],
        ClientId=stack.outputs["OperatorsClientId"],
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": OPERATOR, "PASSWORD": PASSWORD},
    )
    response = api.post(DEVICE, signed_in["AuthenticationResult"]["AccessToken"])

    assert_problem(response, 403, "operator_unknown")
    assert "ID token" in api.line(response)["remedy"]


@pytest.mark.parametrize(
    "claims",
    [
        {"email": None},
        {"email": ""},
        {"email": "mario"},
        {"email": "@example.com"},
        {"email": f"{'m' * 250}@example.com"},
        {"email": OPERATOR, "email_verified": False},
        {"email": OPERATOR, "email_verified": "false"},
    ],
    ids=["missing", "empty", "no at sign", "no local part", "too long", "unverified", "unverified, as text"],
)
def test_an_operator_is_unknown_when_the_e_mail_is(api: Backend, forger: Forger, claims: dict[str, Any]) -> None:
    response = api.post(DEVICE, forger.token(**claims))
    assert_problem(response, 403, "operator_unknown")
    assert api.line(response)["level"] == "WARNING"


# ---------------------------------------------------------------- what may be asked


JSON = "application/json"
BINARY = "application/octet-stream"
INVALID = {
    "a body that is absent": (None, JSON, {"body": "is missing"}),
    "a body that is not JSON": (b"device_id=1", JSON, {"body": "is not JSON"}),
    "a body that is cut short": (b'{"device_id": "devi', JSON, {"body": "is not JSON"}),
    "a body nested too deep": (b"[" * 100_000, JSON, {"body": "is not JSON"}),
    "a number too long to read": (b'{"device_id": ' + b"9" * 5000 + b"}", JSON, {"body": "is not JSON"}),
    "a list": (b'["device_id"]', JSON, {"body": "is not a JSON object"}),
    "null": (b"null", JSON, {"body": "is not a JSON object"}),
    "a text": (b'"device_id"', JSON, {"body": "is not a JSON object"}),
    "binary garbage": (b"\xff\xfe\x00garbage", BINARY, {"body": "is not text in UTF-8"}),
    "binary garbage that says it is JSON": (b"\xff\xfe\x00garbage", JSON, {"body": "is not text in UTF-8"}),
    "binary that is text and no JSON": (b"garbage", BINARY, {"body": "is not JSON"}),
    "no device id": (b"{}", JSON, {"device_id": "is missing"}),
    "a device id that is null": (b'{"device_id": null}', JSON, {"device_id": "is not a string"}),
    "a device id that is a number": (b'{"device_id": 1}', JSON, {"device_id": "is not a string"}),
    "a device id that is a list": (b'{"device_id": ["d"]}', JSON, {"device_id": "is not a string"}),
    "a device id that is an object": (b'{"device_id": {}}', JSON, {"device_id": "is not a string"}),
    "a device id that is empty": (b'{"device_id": ""}', JSON, {"device_id": "is empty"}),
    "a device id of 129 characters": (
        json.dumps({"device_id": "d" * 129}).encode(),
        JSON,
        {"device_id": "is longer than 128 characters"},
    ),
    "a device id with a line break": (b'{"device_id": "a\\nb"}', JSON, {"device_id": "holds control characters"}),
    "a device id with a NUL": (b'{"device_id": "a\\u0000"}', JSON, {"device_id": "holds control characters"}),
    "a device id with half a surrogate pair": (
        b'{"device_id": "a\\ud800"}',
        JSON,
        {"device_id": "holds control characters"},
    ),
    "an unknown member": (b'{"device_id": "d", "tid": "1"}', JSON, {"tid": "is not known here"}),
    "two unknown members and no device id": (
        b'{"tid": "1", "amount": 2}',
        JSON,
        {"tid": "is not known here", "amount": "is not known here", "device_id": "is missing"},
    ),
    "a device id in capitals": (
        b'{"Device_Id": "d"}',
        JSON,
        {"Device_Id": "is not known here", "device_id": "is missing"},
    ),
    "an unknown member that is half a surrogate pair": (
        b'{"device_id": "d", "\\ud800": 1}',
        JSON,
        {"\ud800": "is not known here"},
    ),
}


@pytest.mark.parametrize("rule", INVALID)
def test_the_request_is_invalid_and_each_wrong_member_is_named_for(rule: str, api: Backend, stack: LocalStack) -> None:
    body, content_type, wrong = INVALID[rule]
    before = len(stack.nexi.calls)
    response = api.post(body, bearer(stack), {"Content-Type": content_type})

    problem = assert_problem(response, 400, "invalid_request")
    assert {each["member"]: each["detail"] for each in problem["errors"]} == wrong
    assert api.line(response)["level"] == "WARNING"
    assert len(stack.nexi.calls) == before


def test_a_wrong_value_is_repeated_neither_to_the_phone_nor_in_the_log(api: Backend) -> None:
    response = api.post({"device_id": "sentinel\n", "tid": "sentinel-2"}, bearer(api.stack))

    api.line(response)
    assert response.status_code == 400
    assert "sentinel" not in response.text
    assert "sentinel" not in api.lines.text


# ---------------------------------------------------------------- what fails behind


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_an_enrollment_fails_and_the_log_alone_says_why_for(
    failure: Failure, provoke: Callable[[str], Outcome]
) -> None:
    outcome = provoke(failure.name)

    assert outcome.status == failure.status, outcome.printed
    assert_problem(outcome, failure.status, failure.code)
    assert outcome.headers.get("retry-after", "").isdigit() == (failure.status in (503, 504))
    assert outcome.line["code"] == failure.code
    for words in failure.message:
        assert words in outcome.line["message"]
    assert failure.remedy in outcome.line["remedy"]
    for words in failure.unsaid:
        assert words not in outcome.text
    assert outcome.line["level"] == ("WARNING" if failure.status < 500 else "ERROR")


@pytest.mark.parametrize(
    "name", ["a port where nobody listens", "a Nexi that never answers", "a Nexi that never shakes hands"]
)
def test_a_nexi_that_does_not_answer_is_given_up_before_lambda_gives_up_the_function(
    name: str, provoke: Callable[[str], Outcome]
) -> None:
    assert provoke(name).line["total_ms"] < 6000


def test_a_failure_is_not_remembered_once_its_cause_is_mended(
    start_backend: Callable[..., Backend], stack: LocalStack
) -> None:
    cold = start_backend()
    stack.put_secret("ApplicationSecretId", {"client_id": stack.app.client_id})
    try:
        assert_problem(cold.enroll(), 500, "misconfigured")
    finally:
        stack.put_secret(
            "ApplicationSecretId",
            {
                "client_id": stack.app.client_id,
                "client_secret": stack.app.client_secret,
                "redirect_uri": stack.app.redirect_uri,
            },
        )

    assert cold.enroll().status_code == 201


# ---------------------------------------------------------------- what the gateway answers by itself


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("POST", "/v1"),
        ("POST", "/v1/enrollments/"),
        ("POST", "/v1/enrollments/1"),
        ("POST", "/v2/enrollments"),
        ("POST", "/V1/enrollments"),
        ("GET", "/v1/enrollments"),
        ("PUT", "/v1/enrollments"),
        ("DELETE", "/v1/enrollments"),
        ("OPTIONS", "/v1/enrollments"),
    ],
)
def test_no_such_route_is_404_even_for_an_operator(api: Backend, method: str, path: str) -> None:
    response = api.post(DEVICE, bearer(api.stack), method=method, path=path)
    assert response.status_code == 404
    assert response.json() == {"message": "Not Found"}


def test_a_body_of_more_than_ten_mebibytes_is_413_and_no_function_sees_it(api: Backend, stack: LocalStack) -> None:
    url = urlsplit(api.url)
    head = [
        "POST /v1/enrollments HTTP/1.1",
        f"Host: {url.netloc}",
        f"Authorization: Bearer {bearer(stack)}",
        "Content-Type: application/json",
        f"Content-Length: {10 * 1024 * 1024 + 1}",
        "Connection: close",
    ]
    with socket.create_connection(("127.0.0.1", api.stack.gateway.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        answer = connection.makefile("rb").readline()
    assert b" 413 " in answer


RAISES = """
def lambda_handler(event, context):
    raise RuntimeError("a detail that is nobody's business")
"""
ENDS = """
import os
def lambda_handler(event, context):
    os._exit(1)
"""
SLEEPS = """
import threading
def lambda_handler(event, context):
    threading.Event().wait(60)
"""
TALKS_NONSENSE = """
def lambda_handler(event, context):
    return {"body": "no status"}
"""
DOES_NOT_LOAD = """
import no_such_module
"""


@pytest.mark.parametrize(
    "source",
    [RAISES, ENDS, SLEEPS, TALKS_NONSENSE, DOES_NOT_LOAD],
    ids=["raises", "ends its process", "outlives its timeout", "returns no response", "cannot be imported"],
)
def test_the_gateway_answers_500_and_nothing_else_for_a_function_that(
    source: str, start_backend: Callable[..., Backend], tmp_path: Path
) -> None:
    broken = start_backend(folder=handler_folder(tmp_path / "function", source), timeout=2)

    for _ in range(2):
        response = broken.enroll()
        assert response.status_code == 500
        assert response.json() == {"message": "Internal Server Error"}


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """An RFC 9457 problem with the request's id, that nobody may store. Takes a response or an Outcome."""
    found = response.status if isinstance(response, Outcome) else response.status_code
    assert found == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    problem: dict[str, Any] = json.loads(response.text)
    assert problem["type"] == f"urn:softpos:problem:{code}"
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["apigw-requestid"]
    assert problem["title"]
    assert problem["detail"]
    return problem
