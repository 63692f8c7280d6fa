"""What a phone may see and do: its operator's terminals, and nobody else's, whatever it says."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests
from backends import Backend, bearer, client, operator
from joserfc import jwe
from joserfc.jwk import RSAKey
from tokens import Forger

from sandbox.local import MPOS_TID, OPERATOR, POINT_OF_SALE, SECOND_OPERATOR, SOFTPOS_TID, LocalStack
from sandbox.template import Template
from softpos.enrollment import limit

CONFIGURATION = {
    "app_id": "sandbox-app",
    "environment": "STAGING",
    "redirect_uri": "https://merchant.example/softpos",
    "point_of_sale": POINT_OF_SALE,
    "softpos_tid": SOFTPOS_TID,
    "mpos_tid": MPOS_TID,
    "operator": OPERATOR,
}
ASSIGNS = {"ASSIGN_ON_FIRST_USE": "true"}


def get(
    api: Backend, path: str, who: str | None = OPERATOR, headers: dict[str, str] | None = None
) -> requests.Response:
    return api.post(None, who and bearer(api.stack, who), headers, "GET", path)


# ---------------------------------------------------------------- the app's configuration


def test_the_sdk_is_built_from_one_answer_that_nobody_may_store(api: Backend) -> None:
    response = get(api, "/v1/app-configuration")
    assert (response.status_code, response.json()) == (200, CONFIGURATION)
    assert response.headers["cache-control"] == "no-store"


def test_neither_the_secret_nor_the_certificate_is_in_it_or_in_the_log(api: Backend, stack: LocalStack) -> None:
    response = get(api, "/v1/app-configuration")
    for text in (response.text, json.dumps(dict(response.headers)), json.dumps(api.line(response))):
        assert stack.app.client_secret not in text
        assert "CERTIFICATE" not in text
        assert "PRIVATE" not in text


def test_the_configuration_needs_no_certificate(start_backend: Callable[..., Backend]) -> None:
    api = start_backend({"CERTIFICATE_SECRET_ID": "no-such-secret"})
    assert get(api, "/v1/app-configuration").json() == CONFIGURATION


def test_without_assignment_on_first_use_an_operator_without_a_terminal_is_told_so(api: Backend) -> None:
    response = get(api, "/v1/app-configuration", operator(api.stack))
    assert (response.status_code, response.json()["code"]) == (409, "terminal_not_assigned")


def test_with_it_the_first_use_assigns_and_the_next_ones_say_the_same(
    start_backend: Callable[..., Backend], stack: LocalStack
) -> None:
    api, someone = start_backend(ASSIGNS), operator(stack)
    stack.app.operators.add(someone)
    first = get(api, "/v1/app-configuration", someone)
    assert first.status_code == 200
    assert first.json()["operator"] == someone
    assert first.json()["softpos_tid"] != SOFTPOS_TID
    assert get(api, "/v1/app-configuration", someone).json() == first.json()
    assert api.back_office("GET", f"/v1/terminals/{first.json()['softpos_tid']}").json()["operator"] == someone
    assert api.line(first)["assigned"] is True
    assert "assigned" not in api.line(get(api, "/v1/app-configuration", someone))


def at_point_of_sale(stack: LocalStack, point_of_sale: str) -> str:
    """An operator whose token says this point of sale."""
    someone = operator(stack)
    client(stack, "cognito-idp").admin_update_user_attributes(
        UserPoolId=stack.outputs["OperatorsPoolId"],
        Username=someone,
        UserAttributes=[{"Name": "custom:point_of_sale", "Value": point_of_sale}],
    )
    return someone


def test_the_tokens_claim_says_at_which_point_of_sale(start_backend: Callable[..., Backend], stack: LocalStack) -> None:
    api = start_backend({**ASSIGNS, "POINT_OF_SALE_CLAIM": "custom:point_of_sale"})
    api.back_office("POST", "/v1/terminals", {"pairs": [{"point_of_sale": "50", "mpos_tid": "51"}]})

    given = get(api, "/v1/app-configuration", at_point_of_sale(stack, "50"))
    assert (given.json()["point_of_sale"], given.json()["softpos_tid"], given.json()["mpos_tid"]) == ("50", None, "51")
    # The pool has others, but not there.
    refused = get(api, "/v1/app-configuration", at_point_of_sale(stack, "50"))
    assert (refused.status_code, refused.json()["code"]) == (409, "no_terminal_free")
    # An operator of nowhere is not one of everywhere.
    nowhere = get(api, "/v1/app-configuration", operator(stack))
    assert (nowhere.status_code, nowhere.json()["code"]) == (403, "point_of_sale_unknown")


# ---------------------------------------------------------------- Nexi's keys


def test_nexis_keys_are_its_own_public_members_from_the_cache(api: Backend, stack: LocalStack) -> None:
    asked = Counter(call.endpoint for call in stack.nexi.calls)
    responses = [get(api, "/v1/jwks.json") for _ in range(3)]
    published = {
        (key["kid"], key["n"], key["e"])
        for key in (each.as_dict(private=False) for each in stack.nexi._encryption_keys)
    }
    for response in responses:
        assert response.status_code == 200
        keys = response.json()["keys"]
        assert {(key["kid"], key["n"], key["e"]) for key in keys} == published
        assert all(set(key) == {"kty", "use", "kid", "n", "e"} for key in keys)
    assert Counter(call.endpoint for call in stack.nexi.calls)["keys"] - asked["keys"] <= 1


def test_they_may_be_kept_for_no_longer_than_we_would_keep_them(api: Backend) -> None:
    control = get(api, "/v1/jwks.json").headers["cache-control"]
    (seconds,) = re.fullmatch(r"private, max-age=(\d+)", control).groups()  # type: ignore[union-attr]  # else it fails
    assert 0 < int(seconds) <= 300


def test_a_device_can_encrypt_to_them(api: Backend, stack: LocalStack) -> None:
    """By other people's code, to the keys that Nexi has the private halves of."""
    (key, *_) = get(api, "/v1/jwks.json").json()["keys"]
    algorithms = ["RSA-OAEP-256", "A128CBC-HS256"]
    header = {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256"}
    sealed = jwe.encrypt_compact(header, b"payment", RSAKey.import_key(key), algorithms=algorithms)
    mine = next(each for each in stack.nexi._encryption_keys if each.kid == key["kid"])
    assert jwe.decrypt_compact(sealed, mine, algorithms=algorithms).plaintext == b"payment"


# ---------------------------------------------------------------- nobody else's

VICTIM = {"operator": OPERATOR, "email": OPERATOR, "app_username_merchant": OPERATOR}
ATTEMPTS: dict[str, dict[str, Any]] = {
    "in the query": {"path": f"?operator={quote(OPERATOR)}&email={quote(OPERATOR)}&tid={SOFTPOS_TID}"},
    "in headers": {
        "headers": {
            "X-Operator": OPERATOR,
            "X-Amzn-Oidc-Identity": OPERATOR,
            "X-Forwarded-Email": OPERATOR,
            "X-Softpos-Claims": json.dumps(VICTIM),
            "Cookie": f"operator={OPERATOR}",
        }
    },
    "in a second authorization": {"headers": {"X-Authorization": "Bearer x", "Proxy-Authorization": OPERATOR}},
}


@pytest.mark.parametrize("where", ATTEMPTS)
def test_no_other_operators_configuration_is_seen_by_naming_them(where: str, api: Backend) -> None:
    attempt = ATTEMPTS[where]
    path = "/v1/app-configuration" + attempt.get("path", "")
    response = get(api, path, SECOND_OPERATOR, attempt.get("headers"))
    assert (response.status_code, response.json()["code"]) == (409, "terminal_not_assigned")
    assert SOFTPOS_TID not in response.text


@pytest.mark.parametrize("where", ATTEMPTS)
def test_no_other_operators_terminals_are_enrolled_by_naming_them(where: str, api: Backend, stack: LocalStack) -> None:
    attempt = ATTEMPTS[where]
    path = "/v1/enrollments" + attempt.get("path", "")
    pushed = stack.nexi.counts["call par"]
    response = api.post({"device_id": "d"}, bearer(stack, SECOND_OPERATOR), attempt.get("headers"), path=path)
    assert (response.status_code, response.json()["code"]) == (409, "terminal_not_assigned")
    assert stack.nexi.counts["call par"] == pushed


@pytest.mark.parametrize(
    "member", ["operator", "email", "terminal_ids", "point_of_sale", "app_username_merchant", "sub"]
)
def test_a_body_that_names_anything_but_the_device_is_refused(member: str, api: Backend) -> None:
    response = api.post({"device_id": "d", member: OPERATOR}, bearer(api.stack, SECOND_OPERATOR))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.json()["errors"] == [{"member": member, "detail": "is not known here"}]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/app-configuration/mario.rossi@example.com",
        "/v1/enrollments/mario.rossi@example.com",
        f"/v1/terminals/{SOFTPOS_TID}",
        "/V1/APP-CONFIGURATION",
        "/v1//app-configuration",
        "/v1/jwks.json/../terminals",
    ],
)
def test_no_path_leads_a_phone_to_another_operator(path: str, api: Backend) -> None:
    response = get(api, path, SECOND_OPERATOR)
    assert response.status_code in (403, 404)
    assert set(response.json()) == {"message"}, "API Gateway's own: no function was asked"


def configuration_for(api: Backend, forger: Forger, **claims: Any) -> requests.Response:
    """What an operator gets whose token has other claims; the user pool's own e-mails are tame."""
    return api.post(None, forger.token(**claims), method="GET", path="/v1/app-configuration")


@pytest.mark.parametrize(
    "spelled",
    [
        pytest.param("ma\u0280io.rossi@example.com", id="a-small-capital-r"),
        pytest.param("mario.rossi@example.com\u200b", id="a-zero-width-space"),
        pytest.param("mario.rossi@example.com ", id="a-space"),
        pytest.param("mario.rossi@example.com\n", id="a-line-break"),
        pytest.param("mar\u0131o.rossi@example.com", id="a-dotless-i"),
        pytest.param("mar\u0130o.rossi@example.com", id="a-dotted-capital-i"),
        pytest.param("mario.ros\u017fi@example.com", id="a-long-s"),
        pytest.param("mario.rossi@example.com#", id="a-number-sign"),
        pytest.param("operators#mario.rossi@example.com", id="the-tables-words"),
        pytest.param("mario.rossi+x@example.com", id="a-tag"),
    ],
)
def test_an_e_mail_that_only_looks_like_anothers_is_not_theirs(spelled: str, api: Backend, forger: Forger) -> None:
    response = configuration_for(api, forger, email=spelled)
    assert response.json()["code"] in ("operator_unknown", "terminal_not_assigned")


def test_the_kelvin_sign_is_no_k(api: Backend, forger: Forger) -> None:
    """Python's own lower() makes a k of it."""
    api.back_office("POST", "/v1/terminals", {"pairs": [{"point_of_sale": "40", "softpos_tid": "41"}]})
    given = api.back_office("PUT", "/v1/terminals/41/operator", {"operator": "kelvin@example.com"})
    assert given.status_code == 200
    assert configuration_for(api, forger, email="Kelvin@example.com").status_code == 200
    response = configuration_for(api, forger, email="\u212aelvin@example.com")
    assert (response.status_code, response.json()["code"]) == (403, "operator_unknown")


def test_casing_makes_no_other_operator(api: Backend, forger: Forger) -> None:
    """One who signs in as MARIO.ROSSI@… is mario.rossi@…, with his terminals and not with free ones beside them."""
    assert configuration_for(api, forger, email=OPERATOR.upper()).json() == CONFIGURATION


@pytest.mark.parametrize("verified", [False, "false", "no", "0", "", "unknown"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/app-configuration"), ("GET", "/v1/jwks.json"), ("POST", "/v1/enrollments")]
)
def test_an_e_mail_that_nobody_verified_is_refused(
    method: str, path: str, verified: Any, api: Backend, forger: Forger
) -> None:
    body = {"device_id": "d"} if method == "POST" else None
    response = api.post(body, forger.token(email_verified=verified), method=method, path=path)
    assert (response.status_code, response.json()["code"]) == (403, "operator_unknown")


def test_whoever_signs_in_may_write_neither_their_e_mail_nor_their_point_of_sale(stack: LocalStack) -> None:
    """As Cognito would let them: by the app client's own list."""
    (properties,) = stack.template.resources("AWS::Cognito::UserPoolClient").values()
    assert not {"email", "email_verified", "custom:point_of_sale"} & set(properties["WriteAttributes"])
    assert properties["WriteAttributes"], "an empty list means all of them"


# ---------------------------------------------------------------- how often


def test_the_limit_is_told_with_the_seconds_to_wait_and_is_the_operators_own(
    start_backend: Callable[..., Backend], stack: LocalStack
) -> None:
    api = start_backend({"ENROLLMENTS_PER_MINUTE": "2"})
    left = limit.WINDOW_SECONDS - time.time() % limit.WINDOW_SECONDS
    # All of it within one minute of the clock.
    time.sleep(left if left < 15 else 0)
    statuses = [api.enroll().status_code for _ in range(3)]
    assert statuses == [201, 201, 429]
    refused = api.enroll()
    assert refused.json()["code"] == "too_many_enrollments"
    assert 1 <= int(refused.headers["retry-after"]) <= limit.WINDOW_SECONDS
    someone = operator(stack, point_of_sale=POINT_OF_SALE, softpos_tid=SOFTPOS_TID)
    assert api.enroll(someone).json()["code"] == "nexi_rejected", "admitted, though Nexi does not know them"


# ---------------------------------------------------------------- browsers


@pytest.mark.parametrize("path", ["/v1/enrollments", "/v1/app-configuration", "/v1/jwks.json", "/v1/terminals"])
def test_cors_is_closed(path: str, api: Backend) -> None:
    asks = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = api.post(None, None, asks, "OPTIONS", path)
    assert preflight.status_code == 404
    real = get(api, path, OPERATOR, asks)
    assert not [name for response in (preflight, real) for name in response.headers if "access-control" in name.lower()]


def test_a_token_is_taken_from_the_authorization_header_alone(api: Backend) -> None:
    token = bearer(api.stack)
    assert get(api, f"/v1/app-configuration?access_token={token}", None).status_code == 401
    assert get(api, "/v1/app-configuration", None, {"Cookie": f"authorization=Bearer {token}"}).status_code == 401


def test_an_external_issuer_takes_the_user_pools_place(template_of: Callable[..., Template]) -> None:
    external = template_of(JwtIssuer="https://login.example/tenant", JwtAudience="softpos,softpos-test")
    assert external.authorizer("Operators") == ("https://login.example/tenant", ["softpos", "softpos-test"])
    assert external.resources("AWS::Cognito::UserPool") == {}
    assert external.resources("AWS::Cognito::UserPoolClient") == {}
