"""The handler of what Nexi's published sample asks for, on the events in events/, as the contract has it.

The sample takes any status but 200 for an error of transport, and reads what it knows out of the body.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from handlers import (
    EVENTS,
    INVOCATION,
    OPERATOR,
    Context,
    Event,
    assert_like_api_gateways,
    invoke,
    load_event,
    load_function,
    problem_of,
    told,
    with_body,
    without_authorizer,
    wrong_members,
)
from unit_support import Lines

from softpos import app_configuration, operators, sign_in, telemetry
from softpos.app_configuration import AppConfiguration
from softpos.credentials import Application
from softpos.deadline import Deadline
from softpos.errors import (
    MisconfiguredError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    NoTerminalFreeError,
    PointOfSaleUnknownError,
    RegistryBusyError,
    SoftposError,
    TerminalNotAssignedError,
    TooManyEnrollmentsError,
)
from softpos.nexi.client import PushedAuthorization

PASSWORD = "Sandbox-1234"
ID_TOKEN = "eyJhbGciOiJSUzI1NiJ9.THE-ID-TOKEN.c2lnbmF0dXJl"
REQUEST_URI = "urn:softpos_a86dd649-3a0d-4c0c-ad9e-c0aa58058d18"
REDIRECT_URI = "https://merchant.example/softpos"
DEVICE_ID = "c0ffee5d-8f1b-4a53-9f1e-2f6f0a7c1d10"

LOGIN, OBTAIN, EXECUTE = "POST /user/login", "POST /android-app-config/obtain", "POST /par/execute"

Handle = Callable[..., dict[str, Any]]


def load(name: str) -> Event:
    return load_event(f"sample-app-{name}")


def by(event: Event, **claims: str) -> Event:
    """The event with another token's claims."""
    context = {**event["requestContext"], "authorizer": {"jwt": {"claims": claims, "scopes": None}}}
    return {**event, "requestContext": context}


@dataclass
class FakeBackend:
    """Everything under the handler: one operator with one password, the first pair, and a Nexi that says yes."""

    failure: Exception | None = None
    signed_in: list[str] = field(default_factory=list)
    obtained: list[str] = field(default_factory=list)
    enrolled: list[tuple[str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def id_token(self, email: str, password: str) -> str | None:
        if self.failure is not None:
            raise self.failure
        self.signed_in.append(email)
        if (email, password) == (OPERATOR, PASSWORD):
            return ID_TOKEN
        telemetry.note(sign_in="NotAuthorizedException")
        return None

    def obtain(self, claims: Mapping[str, Any]) -> AppConfiguration:
        email = operators.email_of(claims)
        if self.failure is not None:
            raise self.failure
        if email != OPERATOR:
            raise NoTerminalFreeError("every pair that would do is held")
        self.obtained.append(email)
        return AppConfiguration("app-1", "STAGING", REDIRECT_URI, "00012345", "30000001", "40000001", email)

    def enroll(self, email: str, device_id: str, deadline: Deadline, key: str | None = None) -> PushedAuthorization:
        if self.failure is not None:
            raise self.failure
        self.seconds.append(deadline.remaining())
        self.enrolled.append((email, device_id))
        return PushedAuthorization(REQUEST_URI, expires_in=90, expires_at=1_773_342_270)

    def nothing_was_done(self) -> bool:
        return not (self.signed_in or self.obtained or self.enrolled)


@pytest.fixture(scope="module")
def function() -> ModuleType:
    return load_function("sample_app")


@pytest.fixture
def backend(function: ModuleType, monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    fake = FakeBackend()
    application = Application("app-1", "the-client-secret", REDIRECT_URI, "oidc")
    monkeypatch.setattr(sign_in, "id_token", fake.id_token)
    monkeypatch.setattr(app_configuration, "service", lambda: fake)
    monkeypatch.setattr("softpos.enrollment.service.enrollment", lambda: fake)
    monkeypatch.setattr(function, "application_store", lambda: SimpleNamespace(get=lambda: application))
    return fake


@pytest.fixture
def handle(function: ModuleType, backend: FakeBackend) -> Handle:
    return lambda event, context=None: invoke(function, event, context)


def served(answer: dict[str, Any]) -> str:
    """The body of an answer that the sample takes for one, which nobody stores."""
    assert answer["statusCode"] == 200
    assert answer["headers"] == {"content-type": "application/json", "cache-control": "no-store"}
    body: str = answer["body"]
    return body


class TestALogin:
    def test_the_session_is_the_operators_id_token(self, handle: Handle) -> None:
        assert served(handle(load("signed-in"))) == f'{{"session_id": "{ID_TOKEN}", "success": true}}'

    def test_one_that_is_refused_is_no_error_of_transport(self, handle: Handle, lines: Lines) -> None:
        assert served(handle(load("sign-in-refused"))) == '{"session_id": null, "success": false}'
        assert lines.only()["sign_in"] == "NotAuthorizedException"

    @pytest.mark.parametrize("email", ["nobody", "nobody@example.com", "x" * 2048])
    def test_who_nobody_knows_is_refused_like_a_wrong_password(self, handle: Handle, email: str) -> None:
        answer = handle(with_body(load("signed-in"), {"email": email, "password": PASSWORD}))
        assert served(answer) == '{"session_id": null, "success": false}'

    @pytest.mark.parametrize(
        ("event", "wrong"),
        [
            pytest.param(
                load("sign-in-several-wrong"),
                {
                    "username": "is not known here",
                    "email": "is missing",
                    "password": "is not a string of 1 to 2048 characters",
                },
                id="several",
            ),
            pytest.param(
                with_body(load("signed-in"), {"email": 7, "password": "x" * 2049}),
                {
                    "email": "is not a string of 1 to 2048 characters",
                    "password": "is not a string of 1 to 2048 characters",
                },
                id="a-number-and-too-long",
            ),
            pytest.param(with_body(load("signed-in"), "null"), {"body": "is not a JSON object"}, id="null"),
            pytest.param(with_body(load("signed-in"), ""), {"body": "is missing"}, id="no-body"),
        ],
    )
    def test_a_wrong_body_signs_nobody_in(
        self, handle: Handle, backend: FakeBackend, event: Event, wrong: dict[str, str]
    ) -> None:
        answer = handle(event)
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == wrong
        assert backend.nothing_was_done()

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param(load("signed-in"), id="good"),
            pytest.param(load("sign-in-refused"), id="refused"),
            pytest.param(with_body(load("signed-in"), {"email": OPERATOR, "pass": PASSWORD}), id="invalid"),
            pytest.param(with_body(load("signed-in"), f'{{"email": "{OPERATOR}", "password": "{PASSWORD}'), id="cut"),
        ],
    )
    def test_its_line_has_neither_e_mail_nor_password_nor_token(
        self, handle: Handle, lines: Lines, event: Event
    ) -> None:
        handle(event)
        assert lines.only()["route"] == LOGIN
        for secret in (OPERATOR, "Sandbox-123", "THE-ID-TOKEN"):
            assert secret not in lines.text


class TestAConfiguration:
    def test_it_is_as_the_sample_reads_it_and_nothing_else(self, handle: Handle) -> None:
        assert served(handle(load("configuration-obtained"))) == (
            '{"client_id": "app-1", "android_app_user_config": {"point_of_sale": "00012345", '
            '"terminal_id_softpos": "30000001", "terminal_id_mpos": "40000001"}}'
        )

    @pytest.mark.parametrize("body", [None, "", "null", "{}", '{"operator": "anna.bianchi@example.com"}'])
    def test_its_body_says_nothing(self, handle: Handle, backend: FakeBackend, body: str | None) -> None:
        """The sample sends `null`."""
        served(handle({**load("configuration-obtained"), "body": body}))
        assert backend.obtained == [OPERATOR]

    def test_while_none_is_free_it_is_a_conflict(self, handle: Handle, lines: Lines) -> None:
        assert problem_of(handle(load("configuration-operator-without-terminal"))) == {
            "type": "urn:softpos:problem:no_terminal_free",
            "title": "No terminal is free",
            "status": 409,
            "detail": "Every terminal of the point of sale, or of the pool, is held.",
            "code": "no_terminal_free",
            "request_id": "aB3dEfGhIjKLmnO=",
        }
        assert (lines.only()["level"], lines.only()["code"]) == ("WARNING", "no_terminal_free")


class TestAnEnrollment:
    def test_it_is_answered_as_the_sample_reads_it(self, handle: Handle) -> None:
        assert served(handle(load("enrolled"))) == f'{{"request_uri": "{REQUEST_URI}", "expires_in": 90}}'

    def test_it_is_for_the_tokens_operator_and_the_bodys_device(self, handle: Handle, backend: FakeBackend) -> None:
        handle(load("enrolled"))
        assert backend.enrolled == [(OPERATOR, DEVICE_ID)]

    @pytest.mark.parametrize(
        ("remaining", "seconds"),
        [pytest.param(14_900, 10.0, id="its-own"), pytest.param(6_000, 5.0, id="lambdas-less-a-second")],
    )
    def test_it_ends_before_lambda_does(
        self, handle: Handle, backend: FakeBackend, remaining: int, seconds: float
    ) -> None:
        handle(load("enrolled"), Context(remaining=remaining))
        assert backend.seconds == [pytest.approx(seconds, abs=0.5)]

    @pytest.mark.parametrize(
        "redirect_uri", ["https://elsewhere.example/softpos", f"{REDIRECT_URI}/", REDIRECT_URI.upper(), " "]
    )
    def test_a_redirect_uri_that_is_not_ours_to_the_letter_is_refused(
        self, handle: Handle, backend: FakeBackend, lines: Lines, redirect_uri: str
    ) -> None:
        answer = handle(with_body(load("enrolled"), {"redirect_uri": redirect_uri, "device_id": DEVICE_ID}))
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == {"redirect_uri": "is not the one that the application secret has"}
        assert REDIRECT_URI not in answer["body"] + lines.text
        assert backend.nothing_was_done()

    def test_the_event_of_another_redirect_uri_is_refused(self, handle: Handle, backend: FakeBackend) -> None:
        answer = handle(load("enroll-refused-other-redirect-uri"))
        assert wrong_members(answer) == {"redirect_uri": "is not the one that the application secret has"}
        assert backend.nothing_was_done()

    @pytest.mark.parametrize(
        ("body", "wrong"),
        [
            pytest.param({}, {"redirect_uri": "is missing", "device_id": "is missing"}, id="empty"),
            pytest.param(
                {"redirect_uri": "", "device_id": "a\x00b", "operator": OPERATOR},
                {
                    "operator": "is not known here",
                    "redirect_uri": "is not a string of 1 to 2048 characters",
                    "device_id": "holds control characters",
                },
                id="several",
            ),
            pytest.param(
                {"redirect_uri": REDIRECT_URI, "device_id": "d" * 129},
                {"device_id": "is longer than 128 characters"},
                id="device-id-too-long",
            ),
            pytest.param("null", {"body": "is not a JSON object"}, id="null"),
        ],
    )
    def test_a_wrong_body_enrolls_nobody(
        self, handle: Handle, backend: FakeBackend, body: Any, wrong: dict[str, str]
    ) -> None:
        answer = handle(with_body(load("enrolled"), body))
        assert told(answer) == (400, "invalid_request")
        assert wrong_members(answer) == wrong
        assert backend.nothing_was_done()


SERVED = [
    pytest.param(load("signed-in"), id="login"),
    pytest.param(load("configuration-obtained"), id="obtain"),
    pytest.param(load("enrolled"), id="execute"),
]
AUTHORIZED = SERVED[1:]


class TestEveryRoute:
    @pytest.mark.parametrize("event", SERVED)
    def test_its_line_names_the_route_and_nobody(self, handle: Handle, lines: Lines, event: Event) -> None:
        handle(event)
        line = lines.only()
        assert (line["level"], line["message"]) == ("INFO", "sample app served")
        assert (line["route"], line["request_id"]) == (event["routeKey"], "aB3dEfGhIjKLmnO=")
        assert line["invocation"] == INVOCATION
        for secret in ("@", "THE-ID-TOKEN", REQUEST_URI, "the-client-secret", PASSWORD):
            assert secret not in lines.text

    @pytest.mark.parametrize("event", SERVED)
    @pytest.mark.parametrize("value", [None, "", "5d9d5b4e", "\n\x00"], ids=["absent", "empty", "another", "hostile"])
    def test_the_samples_own_request_id_changes_nothing(
        self, handle: Handle, lines: Lines, event: Event, value: str | None
    ) -> None:
        headers = {name: each for name, each in event["headers"].items() if name != "x-request-id"}
        changed = {**event, "headers": headers if value is None else {**headers, "x-request-id": value}}
        assert handle(changed) == handle(event)
        assert [line["request_id"] for line in lines.all()] == ["aB3dEfGhIjKLmnO="] * 2

    @pytest.mark.parametrize("event", AUTHORIZED)
    def test_nothing_is_done_without_the_authorizer(
        self, handle: Handle, backend: FakeBackend, lines: Lines, event: Event
    ) -> None:
        """A route that someone deploys without it must not be open."""
        assert told(handle(without_authorizer(event))) == (500, "internal_error")
        assert backend.nothing_was_done()
        assert lines.only()["level"] == "ERROR"

    @pytest.mark.parametrize("event", AUTHORIZED)
    @pytest.mark.parametrize(
        "claims", [{"sub": "3f2a8c1e"}, {"email": OPERATOR, "email_verified": "false"}], ids=["no-email", "unverified"]
    )
    def test_one_that_the_token_does_not_name_is_unknown(
        self, handle: Handle, backend: FakeBackend, event: Event, claims: dict[str, str]
    ) -> None:
        assert told(handle(by(event, **claims))) == (403, "operator_unknown")
        assert backend.nothing_was_done()

    @pytest.mark.parametrize("event", AUTHORIZED)
    @pytest.mark.parametrize("where", ["queryStringParameters", "pathParameters", "headers"])
    def test_an_operator_who_is_named_elsewhere_decides_nothing(
        self, handle: Handle, backend: FakeBackend, event: Event, where: str
    ) -> None:
        others = {"operator": "anna.bianchi@example.com", "email": "anna.bianchi@example.com"}
        served(handle({**event, where: {**event.get(where, {}), **others}}))
        assert (backend.obtained or [email for email, _ in backend.enrolled]) == [OPERATOR]


def rows(event: Event, *failures: tuple[Exception, int, str]) -> list[Any]:
    route = event["routeKey"].rsplit("/", 1)[1]
    return [pytest.param(event, *each, id=f"{route}-{each[2]}-{type(each[0]).__name__}") for each in failures]


class TestAFailure:
    @pytest.mark.parametrize(
        ("event", "failure", "status", "code"),
        [
            *rows(
                load("signed-in"),
                (MisconfiguredError("s3cr3t", "s3cr3t"), 500, "misconfigured"),
                (SoftposError("s3cr3t"), 500, "internal_error"),
                (KeyError("s3cr3t"), 500, "internal_error"),
            ),
            *rows(
                load("configuration-obtained"),
                (PointOfSaleUnknownError("s3cr3t"), 403, "point_of_sale_unknown"),
                (RegistryBusyError("s3cr3t"), 503, "registry_busy"),
                (MisconfiguredError("s3cr3t"), 500, "misconfigured"),
                (SoftposError("s3cr3t"), 500, "internal_error"),
            ),
            *rows(
                load("enrolled"),
                (TerminalNotAssignedError("s3cr3t"), 409, "terminal_not_assigned"),
                (TooManyEnrollmentsError("s3cr3t", retry_after=17), 429, "too_many_enrollments"),
                (NexiRejectedError("s3cr3t"), 502, "nexi_rejected"),
                (NexiUnavailableError("s3cr3t"), 503, "nexi_unavailable"),
                (NexiTimeoutError("s3cr3t"), 504, "nexi_timeout"),
                (MisconfiguredError("s3cr3t"), 500, "misconfigured"),
                (RuntimeError("s3cr3t"), 500, "internal_error"),
            ),
        ],
    )
    def test_each_has_its_status_and_code(
        self,
        handle: Handle,
        backend: FakeBackend,
        lines: Lines,
        event: Event,
        failure: Exception,
        status: int,
        code: str,
    ) -> None:
        backend.failure = failure
        answer = handle(event)
        assert told(answer) == (status, code)
        assert ("retry-after" in answer["headers"]) == (status in (429, 503, 504))
        assert "s3cr3t" not in json.dumps(answer)
        assert (lines.only()["code"], lines.only()["route"]) == (code, event["routeKey"])
        assert backend.nothing_was_done()

    def test_the_limit_says_when_to_try_again(self, handle: Handle, backend: FakeBackend) -> None:
        backend.failure = TooManyEnrollmentsError("used up", retry_after=17)
        assert handle(load("enrolled"))["headers"]["retry-after"] == "17"

    def test_a_secret_that_cannot_be_read_enrolls_nobody(
        self, handle: Handle, function: ModuleType, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreadable() -> None:
            raise MisconfiguredError("the secret that APPLICATION_SECRET_ID names cannot be read")

        monkeypatch.setattr(function, "application_store", lambda: SimpleNamespace(get=unreadable))
        assert told(handle(load("enrolled"))) == (500, "misconfigured")
        assert backend.nothing_was_done()


FILES = sorted(EVENTS.glob("sample-app-*.json"))


class TestTheEventFiles:
    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_an_http_api_event_behind_the_jwt_authorizer_but_for_the_login(self, file: Path) -> None:
        event = load_event(file.stem)
        assert_like_api_gateways(event)
        authorizer = event["requestContext"].get("authorizer", {})
        assert set(authorizer) == (set() if event["routeKey"] == LOGIN else {"jwt"})
        assert ("authorization" in event["headers"]) == bool(authorizer)
        assert event["headers"]["x-request-id"]

    def test_there_is_one_for_every_route(self, function: ModuleType) -> None:
        routes = {load_event(file.stem)["routeKey"] for file in FILES}
        assert routes == set(function._ROUTES) == {LOGIN, OBTAIN, EXECUTE}

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_used_here(self, file: Path) -> None:
        assert f'"{file.stem.removeprefix("sample-app-")}"' in Path(__file__).read_text()
