"""Every file in events/, given to its built function under Lambda's own runtime, and what each gives."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from builds import ROOT, event
from deployed import Deployed, Secrets

from sandbox.gateway import MAX_BODY_BYTES
from sandbox.invoke import function_of
from sandbox.local import OPERATOR, SECOND_OPERATOR, LocalStack

NAMES = sorted(file.stem for file in (ROOT / "events").iterdir())

ASSIGNS = {"ASSIGN_ON_FIRST_USE": "true"}
BY_CLAIM = {**ASSIGNS, "POINT_OF_SALE_CLAIM": "custom:point_of_sale"}

FIRST = {"point_of_sale": "00012345", "softpos_tid": "30000001", "mpos_tid": "40000001", "operator": OPERATOR}
SECOND = {"point_of_sale": "00012345", "softpos_tid": "30000002", "mpos_tid": "40000002", "operator": None}
THIRD = {"point_of_sale": "00012345", "softpos_tid": "30000003", "mpos_tid": None, "operator": None}
ELSEWHERE = {"point_of_sale": "00067890", "softpos_tid": "30000004", "mpos_tid": None, "operator": None}


def nothing(_deployed: Deployed) -> None:
    """All is as the stack came up."""


def none_is_free(deployed: Deployed) -> None:
    for pair in (SECOND, THIRD, ELSEWHERE):
        holder = json.dumps({"operator": f"holder-of-{pair['softpos_tid']}@example.com"}).encode()
        deployed.stack.back_office("PUT", f"/v1/terminals/{pair['softpos_tid']}/operator", holder)


def the_key_was_used(deployed: Deployed) -> None:
    taken = deployed.warm("EnrollmentFunction").invoke(event("idempotency-key-taken"))
    assert taken.result["statusCode"] == 201


def the_pool_is_almost_empty(deployed: Deployed) -> None:
    for pair in (SECOND, THIRD, ELSEWHERE):
        deployed.stack.back_office("DELETE", f"/v1/terminals/{pair['softpos_tid']}")


@dataclass(frozen=True)
class Gives:
    """What an invocation with a file of events/ gives."""

    name: str
    status: int | None = None
    """None for a function that answers nobody."""
    body: dict[str, Any] = field(default_factory=dict)
    """These members, among others."""
    wrong: frozenset[str] = frozenset()
    """What the problem's `errors` name, and nothing else."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that are not as the stack has them."""
    given: Callable[[Deployed], None] = nothing


def answer(name: str, status: int = 200, /, **body: Any) -> Gives:
    return Gives(name, status, body)


def problem(name: str, status: int, code: str, *wrong: str) -> Gives:
    return Gives(name, status, {"status": status, "code": code}, frozenset(wrong))


def under(environment: dict[str, str], gives: Gives) -> Gives:
    return replace(gives, environment=environment)


def once(given: Callable[[Deployed], None], gives: Gives) -> Gives:
    return replace(gives, given=given)


TABLE = [
    problem("app-configuration-access-token-without-email", 403, "operator_unknown"),
    under(ASSIGNS, answer("app-configuration-assigned-on-first-use", softpos_tid="30000002", environment="STAGING")),
    under(BY_CLAIM, answer("app-configuration-assigned-on-first-use", point_of_sale="00012345")),
    problem("app-configuration-assigned-on-first-use", 409, "terminal_not_assigned"),
    problem("app-configuration-email-not-verified", 403, "operator_unknown"),
    answer("app-configuration-obtained", softpos_tid="30000001", mpos_tid="40000001", environment="STAGING"),
    problem("app-configuration-operator-without-terminal", 409, "terminal_not_assigned"),
    once(none_is_free, under(ASSIGNS, problem("app-configuration-operator-without-terminal", 409, "no_terminal_free"))),
    under(BY_CLAIM, problem("app-configuration-operator-without-terminal", 403, "point_of_sale_unknown")),
    Gives("certificate-watch"),
    answer("encryption-keys"),
    problem("encryption-keys-access-token-without-email", 403, "operator_unknown"),
    problem("enrollment-access-token-without-email", 403, "operator_unknown"),
    problem("enrollment-body-absent", 400, "invalid_request", "body"),
    problem("enrollment-body-not-an-object", 400, "invalid_request", "body"),
    problem("enrollment-body-not-base64", 400, "invalid_request", "body"),
    problem("enrollment-body-not-json", 400, "invalid_request", "body"),
    answer("enrollment-created", 201, expires_in=90),
    answer("enrollment-created-device-id-128-characters", 201, expires_in=90),
    answer("enrollment-created-from-base64", 201, expires_in=90),
    problem("enrollment-device-id-empty", 400, "invalid_request", "device_id"),
    problem("enrollment-device-id-missing", 400, "invalid_request", "device_id"),
    problem("enrollment-device-id-not-a-string", 400, "invalid_request", "device_id"),
    problem("enrollment-device-id-too-long", 400, "invalid_request", "device_id"),
    problem("enrollment-device-id-with-control-characters", 400, "invalid_request", "device_id"),
    problem("enrollment-email-not-verified", 403, "operator_unknown"),
    problem("enrollment-members-unknown", 400, "invalid_request", "redirect_uri", "terminal_id"),
    problem("enrollment-operator-without-terminal", 409, "terminal_not_assigned"),
    problem("enrollment-several-wrong", 400, "invalid_request", "device_id", "redirect_uri"),
    problem("idempotency-key-malformed", 400, "invalid_request", "Idempotency-Key"),
    once(the_key_was_used, problem("idempotency-key-reused", 422, "idempotency_key_reused")),
    answer("idempotency-key-taken", 201),
    answer("sample-app-configuration-obtained", client_id="sandbox-app"),
    once(none_is_free, problem("sample-app-configuration-operator-without-terminal", 409, "no_terminal_free")),
    problem("sample-app-enroll-refused-other-redirect-uri", 400, "invalid_request", "redirect_uri"),
    answer("sample-app-enrolled", expires_in=90),
    answer("sample-app-sign-in-refused", session_id=None, success=False),
    problem("sample-app-sign-in-several-wrong", 400, "invalid_request", "email", "password", "username"),
    answer("sample-app-signed-in", success=True),
    problem("terminals-assign-refused-held-by-another", 409, "terminal_held"),
    problem("terminals-assign-refused-operator-holds-another", 409, "operator_holds_terminal"),
    problem("terminals-assign-several-wrong", 400, "invalid_request", "force", "operator", "tid"),
    answer("terminals-assigned", **{**SECOND, "operator": SECOND_OPERATOR}),
    problem("terminals-delete-refused-while-held", 409, "terminal_held"),
    answer("terminals-deleted", 204),
    answer("terminals-first-free-assigned", **{**ELSEWHERE, "operator": SECOND_OPERATOR}),
    problem(
        "terminals-import-refused",
        422,
        "pairs_refused",
        "line 3",
        "line 4, point_of_sale",
        "line 5",
        "line 6, softpos_tid",
        "line 7, mpos_tid",
        "line 8, softpos_tid",
    ),
    problem("terminals-import-without-columns", 400, "invalid_request", "line 1"),
    answer("terminals-imported-from-csv", imported=0, unchanged=4),
    once(the_pool_is_almost_empty, answer("terminals-imported-from-csv", imported=3, unchanged=1)),
    answer("terminals-imported-from-csv-in-base64", imported=0, unchanged=4),
    answer("terminals-imported-from-json", imported=2, unchanged=1),
    problem(
        "terminals-list-several-wrong",
        400,
        "invalid_request",
        *("after", "limit", "offset", "operator", "point_of_sale", "state"),
    ),
    answer("terminals-listed", pairs=[FIRST, SECOND, THIRD, ELSEWHERE], after=None),
    answer("terminals-listed-after", pairs=[THIRD, ELSEWHERE], after=None),
    answer("terminals-listed-free-at-a-point-of-sale", pairs=[SECOND]),
    answer("terminals-listed-of-an-operator", pairs=[FIRST], after=None),
    problem("terminals-move-refused-operator-without-terminal", 409, "terminal_not_assigned"),
    problem("terminals-move-without-a-target", 400, "invalid_request", "tid"),
    answer("terminals-moved-to-a-pair", **{**THIRD, "operator": OPERATOR}),
    answer("terminals-moved-to-a-point-of-sale", **{**ELSEWHERE, "operator": OPERATOR}),
    problem("terminals-none-free", 409, "no_terminal_free"),
    answer("terminals-released", **{**FIRST, "operator": None}),
    answer("terminals-shown", **FIRST),
    problem("terminals-unknown", 404, "terminal_unknown"),
    Gives("token-refresh"),
]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("gives", TABLE, ids=lambda gives: f"{gives.name}-{gives.body.get('code', gives.status)}")
def test_an_event_gives_what_the_table_says(deployed: Deployed, secrets: Secrets, gives: Gives) -> None:
    gives.given(deployed)
    sent = event(gives.name)
    function = deployed.warm(function_of(sent), gives.environment)
    invocation = function.invoke(sent)
    (line,) = invocation.lines
    if gives.status is None:
        assert invocation.result is None
    else:
        assert invocation.result["statusCode"] == gives.status
        body = json.loads(invocation.result["body"] or "{}")
        assert {name: body[name] for name in gives.body} == gives.body
        assert {each["member"] for each in body.get("errors", [])} == gives.wrong
        assert line["request_id"] == sent["requestContext"]["requestId"]
    assert line.get("code") == gives.body.get("code")
    assert secrets.leaked(invocation.log) == []
    assert function.cold_starts == 1


@pytest.mark.usefixtures("registry", "empty_cache")
def test_an_idempotency_key_gives_the_same_request_uri_again(deployed: Deployed) -> None:
    function = deployed.warm("EnrollmentFunction")
    first, again = (json.loads(function.invoke(event("idempotency-key-taken")).result["body"]) for _ in range(2))
    assert first["request_uri"] == again["request_uri"]


def test_every_file_is_in_the_table() -> None:
    assert {gives.name for gives in TABLE} == set(NAMES)


def test_every_route_and_schedule_has_good_events_and_every_route_bad_ones(stack: LocalStack) -> None:
    def sent(*, good: bool) -> set[str]:
        events = [event(gives.name) for gives in TABLE if ((gives.status or 200) < 300) is good]
        return {each.get("routeKey") or function_of(each) for each in events}

    routes = {route.key for route in stack.template.routes()}
    scheduled = set(stack.template.functions()) - {route.function for route in stack.template.routes()}
    assert sent(good=True) == routes | scheduled
    # What releases a pair, or lists keys to anybody, has no wrong of its own.
    assert routes - sent(good=False) <= {"DELETE /v1/terminals/{tid}/operator"}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_an_event_that_aws_can_send(name: str, stack: LocalStack) -> None:
    sent = event(name)
    assert len(json.dumps(sent).encode()) < MAX_BODY_BYTES
    if "routeKey" not in sent:
        assert (sent["version"], sent["source"], sent["detail"]) == ("0", "aws.scheduler", "{}")
        return
    (route,) = (each for each in stack.template.routes() if each.key == sent["routeKey"])
    assert sent["version"] == "2.0"
    assert sent["requestContext"]["routeKey"] == route.key
    assert sent["requestContext"]["http"]["method"] == route.method
    assert sent["rawPath"] == sent["requestContext"]["http"]["path"]
    assert sent["rawPath"] == route.path.format(**sent.get("pathParameters", {}))
    kinds = set(sent["requestContext"].get("authorizer", {}))
    assert kinds == ({"iam"} if route.authorizer == "AWS_IAM" else {"jwt"} if route.authorizer else set())
