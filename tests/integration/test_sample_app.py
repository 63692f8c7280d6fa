"""Nexi's published Android sample, as its own HTTP client speaks: POST, JSON, and any status but 200 is an error."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests
from backends import Backend, bearer, operator, table

from sandbox.local import MPOS_TID, OPERATOR, PASSWORD, POINT_OF_SALE, SOFTPOS_TID, LocalStack

REDIRECT_URI = "https://merchant.example/softpos"


class SampleApp:
    """The sample, from its login on."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self.session_id: str | None = None

    def post(self, path: str, body: Any) -> requests.Response:
        headers = {"Content-Type": "application/json; charset=utf-8", "x-request-id": str(uuid.uuid4())}
        if self.session_id is not None:
            headers["Authorization"] = f"Bearer {self.session_id}"
        with requests.Session() as session:
            session.trust_env = False
            data = json.dumps(body).encode()
            return session.post(self._base_url + path, data=data, headers=headers, timeout=30)

    def login(self, email: str, password: str) -> requests.Response:
        response = self.post("/user/login", {"email": email, "password": password})
        self.session_id = response.json().get("session_id")
        return response

    def obtain(self) -> requests.Response:
        # It has nothing to say, and says so.
        return self.post("/android-app-config/obtain", None)

    def execute(self, redirect_uri: str = REDIRECT_URI, device_id: str = "device-1") -> requests.Response:
        return self.post("/par/execute", {"redirect_uri": redirect_uri, "device_id": device_id})


@pytest.fixture
def app(api: Backend) -> SampleApp:
    return SampleApp(api.url)


def test_it_signs_in_obtains_its_configuration_and_gets_a_request_uri(app: SampleApp, stack: LocalStack) -> None:
    login = app.login(OPERATOR, PASSWORD)
    assert login.status_code == 200
    assert set(login.json()) == {"session_id", "success"}
    assert login.json()["success"] is True

    configuration = app.obtain()
    assert configuration.status_code == 200
    assert configuration.json() == {
        "client_id": stack.app.client_id,
        "android_app_user_config": {
            "point_of_sale": POINT_OF_SALE,
            "terminal_id_softpos": SOFTPOS_TID,
            "terminal_id_mpos": MPOS_TID,
        },
    }

    pushed = app.execute(device_id="the samples device")
    assert pushed.status_code == 200
    assert set(pushed.json()) == {"request_uri", "expires_in"}
    assert pushed.json()["request_uri"].startswith("urn:softpos_")
    assert pushed.json()["expires_in"] == 90
    claims = stack.nexi.calls[-1].claims
    assert claims is not None
    assert (claims["app_username_merchant"], claims["app_deviceid"]) == (OPERATOR, "the samples device")


@pytest.mark.parametrize(
    ("email", "password"), [(OPERATOR, "wrong"), ("nobody@example.com", PASSWORD)], ids=["password", "email"]
)
def test_a_login_that_fails_is_a_success_of_false(email: str, password: str, app: SampleApp) -> None:
    response = app.login(email, password)
    assert (response.status_code, response.json()) == (200, {"session_id": None, "success": False})
    assert password not in response.text


def test_the_password_is_in_no_log(app: SampleApp, api: Backend) -> None:
    response = app.login(OPERATOR, "Hunter2-Hunter2")
    line = api.line(response)
    assert line["sign_in"] == "NotAuthorizedException"
    assert "Hunter2" not in api.lines.text


@pytest.mark.parametrize("session_id", [None, "", "hello", "0b3a5c1e-0c9f-4d0e-9b53-2f6f0a7c1d10"])
@pytest.mark.parametrize("call", ["obtain", "execute"])
def test_without_a_session_it_is_401(call: str, session_id: str | None, app: SampleApp) -> None:
    app.session_id = session_id
    assert getattr(app, call)().status_code == 401


def test_its_first_use_assigns_and_409_says_that_no_terminal_is_free(
    start_backend: Callable[..., Backend], stack: LocalStack
) -> None:
    api = start_backend({"TERMINALS_TABLE": table(stack, "TerminalsTable")})
    api.back_office("POST", "/v1/terminals", {"pairs": [{"point_of_sale": "30", "softpos_tid": "31"}]})
    first, second = SampleApp(api.url), SampleApp(api.url)
    first.session_id, second.session_id = (bearer(stack, operator(stack)) for _ in range(2))

    assert first.obtain().json()["android_app_user_config"] == {
        "point_of_sale": "30",
        "terminal_id_softpos": "31",
        "terminal_id_mpos": None,
    }
    refused = second.obtain()
    assert (refused.status_code, refused.json()["code"]) == (409, "no_terminal_free")
    assert second.execute().status_code == 409


def test_another_redirect_uri_than_the_secrets_is_named(app: SampleApp, stack: LocalStack) -> None:
    app.login(OPERATOR, PASSWORD)
    pushed = stack.nexi.counts["call par"]
    response = app.execute(redirect_uri="pizzapay://confirm-pay")
    assert (response.status_code, response.json()["errors"][0]["member"]) == (400, "redirect_uri")
    assert stack.nexi.counts["call par"] == pushed
