"""docs/openapi.yaml says what the API does: its routes, problems and examples, and the answer to whatever is sent."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import openapi_spec_validator
import pytest
import requests
import schemathesis
import yaml
from backends import client
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from requests.auth import AuthBase
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from sandbox.gateway import SIGNER
from sandbox.local import MPOS_TID, OPERATOR, PASSWORD, POINT_OF_SALE, POOL, SECOND_OPERATOR, SOFTPOS_TID, LocalStack
from sandbox.sigv4 import sign
from sandbox.template import Route, Template
from softpos.problems import _PROBLEMS

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
PARAMETERS = {"SampleAppApi": "true", "AssignOnFirstUse": "true", "EnrollmentsPerMinute": "1000000"}
PROBLEM = "application/problem+json"
CSV = "text/csv"

SECURITY: dict[str | None, list[Any]] = {"Operators": [{"operator": []}], "AWS_IAM": [{"backOffice": []}], None: []}

CONTRACT = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "generation": {"deterministic": True, "max-examples": 40, "with-security-parameters": False},
            # What is learned from answers is another thing in every run.
            "phases": {
                "coverage": {"unexpected-methods": []},
                "fuzzing": {"extra-data-sources": {"responses": False}, "error-feedback": {"enabled": False}},
            },
            "checks": {
                # A test of its own below.
                "ignored_auth": {"enabled": False},
                # Where schemas can say what is valid: see _judged.
                "negative_data_rejection": {"enabled": False},
                "positive_data_acceptance": {"enabled": False, "expected-statuses": ["2xx", "404", "409", "422"]},
            },
        }
    ),
)


def _csv(columns: list[str], separator: str) -> st.SearchStrategy[bytes]:
    cell = st.sampled_from([POINT_OF_SALE, SOFTPOS_TID, "31", "32", ""]) | st.text(max_size=3)
    row = st.lists(cell, min_size=len(columns), max_size=len(columns)) | st.lists(cell, max_size=4)
    rows = st.lists(row.map(separator.join), min_size=1, max_size=5)
    return rows.map(lambda lines: "\r\n".join([separator.join(columns), *lines]).encode())


COLUMNS = st.permutations(["point_of_sale", "softpos_tid", "mpos_tid"]) | st.just(["point_of_sale", "mpos_tid"])
schemathesis.openapi.media_type(
    CSV, st.tuples(COLUMNS, st.sampled_from(",;")).flatmap(lambda drawn: _csv(*drawn)) | st.binary(min_size=1)
)


# ---------------------------------------------------------------- the document


def _resolved(node: Any) -> Any:
    while "$ref" in node:
        found = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        node = found
    return node


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation by its route key, with its path's parameters; what is left of references is in schemas."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            parameters = [*item.get("parameters", []), *operation.get("parameters", [])]
            responses = {status: _resolved(each) for status, each in operation["responses"].items()}
            yield (
                f"{method.upper()} {path}",
                {**operation, "parameters": [_resolved(each) for each in parameters], "responses": responses},
            )


OPERATIONS = dict(_operations())
IDS = {operation["operationId"]: key for key, operation in OPERATIONS.items()}


def _examples(described: dict[str, Any]) -> dict[str, Any]:
    """Of a media type, or of a parameter."""
    named = {name: _resolved(each)["value"] for name, each in described.get("examples", {}).items()}
    return {**named, **({"": described["example"]} if "example" in described else {})}


def _described() -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that has a schema and examples, by its place."""
    for key, operation in OPERATIONS.items():
        for parameter in operation["parameters"]:
            yield f"{key} {parameter['name']}", parameter
        for media_type, described in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{key} {media_type}", described
        for status, response in operation["responses"].items():
            for media_type, described in response.get("content", {}).items():
                yield f"{key} {status} {media_type}", described


DESCRIBED = dict(_described())
PROBLEMS = {place: described for place, described in DESCRIBED.items() if place.endswith(PROBLEM)}


def _codes(schema: dict[str, Any]) -> list[str]:
    return [_resolved(each)["properties"]["code"]["const"] for each in schema.get("oneOf", [schema])]


def test_it_is_openapi() -> None:
    openapi_spec_validator.validate(DOCUMENT)


@pytest.mark.parametrize("place", DESCRIBED)
def test_every_example_is_what_its_schema_says(place: str) -> None:
    described = DESCRIBED[place]
    schema = {**described["schema"], "components": DOCUMENT["components"]}
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    examples = _examples(described)
    assert examples or place in ("GET /v1/terminals operator", "GET /v1/terminals state")
    for example in examples.values():
        validator.validate(example)


def _routes(**parameters: str) -> list[Route]:
    return Template(ROOT / "template.yaml", parameters).routes()


def test_its_routes_are_the_templates() -> None:
    assert sorted(OPERATIONS) == sorted(route.key for route in _routes(SampleAppApi="true"))


def test_the_sample_apps_routes_are_those_that_come_with_the_parameter() -> None:
    tagged = {key for key, operation in OPERATIONS.items() if "sample app" in operation["tags"]}
    assert tagged == set(OPERATIONS) - {route.key for route in _routes()}


@pytest.mark.parametrize("route", _routes(SampleAppApi="true"), ids=lambda route: route.key)
def test_every_route_is_secured_as_the_template_does(route: Route) -> None:
    assert OPERATIONS[route.key]["security"] == SECURITY[route.authorizer]


def test_its_problems_are_those_that_the_api_has() -> None:
    assert {code for described in PROBLEMS.values() for code in _codes(described["schema"])} == set(_PROBLEMS)


@pytest.mark.parametrize("place", PROBLEMS)
def test_every_problem_has_an_example_to_the_letter(place: str) -> None:
    described = PROBLEMS[place]
    examples = list(_examples(described).values())
    assert {example["code"] for example in examples} == set(_codes(described["schema"]))
    for example in examples:
        assert f" {example['status']} " in place
        _check_texts(example)


def _check_texts(problem: dict[str, Any]) -> None:
    status, title, detail = _PROBLEMS[problem["code"]]
    if problem["code"] == "invalid_request":
        detail = "; ".join(f"{error['member']} {error['detail']}" for error in problem["errors"])
    assert (problem["status"], problem["title"], problem["detail"]) == (status, title, detail)
    assert problem["type"] == f"urn:softpos:problem:{problem['code']}"


# ---------------------------------------------------------------- the API


class Bearer(AuthBase):
    """An operator's."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Signed(AuthBase):
    """The back office's. What is signed is what is sent: this is called last, on the prepared request."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        assert request.method
        assert request.url
        body = request.body or b""
        body = body if isinstance(body, bytes) else body.encode()
        headers = {name: value for name, value in request.headers.items() if name == "Content-Type"}
        request.headers.update(sign(request.method, request.url, body, headers, **SIGNER))
        return request


class Api:
    """The stack's, asked as the document says."""

    def __init__(self, stack: LocalStack, session: requests.Session) -> None:
        self.stack = stack
        self.session = session
        self.bearer = Bearer(stack.token(OPERATOR))
        self.signed = Signed()

    def credentials(self, key: str) -> AuthBase | None:
        return {"operator": self.bearer, "backOffice": self.signed}.get(_scheme(key))

    def call(self, case: schemathesis.Case, auth: AuthBase | None) -> schemathesis.Response:
        return case.call(base_url=self.stack.gateway.url, session=self.session, auth=auth)

    def ask(self, operation_id: str, auth: AuthBase | None = None, **changes: Any) -> schemathesis.Response:
        """With the examples of its parameters, and what is given instead; and as the document says, answered."""
        key = IDS[operation_id]
        given: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
        for parameter in OPERATIONS[key]["parameters"]:
            for example in list(_examples(parameter).values())[:1]:
                given[parameter["in"]][parameter["name"]] = example
        asked = {"path_parameters": given["path"], "query": given["query"], "headers": given["header"], **changes}
        if "body" in asked:
            asked.setdefault("media_type", "application/json")
        case = CONTRACT.find_operation_by_id(operation_id).Case(**asked)
        response = self.call(case, auth or self.credentials(key))
        case.validate_response(response, additional_checks=[_to_the_letter])
        return response


def _scheme(key: str) -> str:
    return next((name for each in OPERATIONS[key]["security"] for name in each), "")


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack(parameters=PARAMETERS) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: LocalStack) -> Iterator[Api]:
    with requests.Session() as session:
        session.trust_env = False
        yield Api(stack, session)


@pytest.fixture
def scene(stack: LocalStack) -> None:
    """The pool as it was at the start, whatever has become of it."""
    dynamodb, table = client(stack, "dynamodb"), stack.outputs["TerminalsTableName"]
    for page in dynamodb.get_paginator("scan").paginate(TableName=table):
        for item in page["Items"]:
            dynamodb.delete_item(TableName=table, Key={name: item[name] for name in ("pk", "sk")})
    stack.back_office("POST", "/v1/terminals", POOL.encode(), CSV)
    stack.back_office("PUT", f"/v1/terminals/{SOFTPOS_TID}/operator", b'{"operator": "%s"}' % OPERATOR.encode())


def _to_the_letter(_context: Any, response: schemathesis.Response, _case: schemathesis.Case) -> None:
    """A problem's texts are to the letter, its id is API Gateway's, and it says when to come back if it says so."""
    if response.headers.get("content-type") != [PROBLEM]:
        return
    problem = response.json()
    _check_texts(problem)
    assert [problem["request_id"]] == response.headers["apigw-requestid"]
    assert ("Retry-After" in problem["detail"]) == ("retry-after" in response.headers)


def _judged(context: Any, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """What the schemas call invalid is refused, and what they call valid is accepted, but for what they cannot say."""
    assert case.meta is not None
    if case.media_type == CSV:
        return
    if case.meta.generation.mode.is_negative:
        negative_data_rejection(context, response, case)
        return
    unsaid = {
        "goes with no other parameter",
        "is not what an earlier answer said",
        "is not the one that the application secret has",
    }
    if not (case.body if isinstance(case.body, dict) else case.query).get("operator", "").isascii():
        unsaid.add("is not an e-mail")
    refused = {each["detail"] for each in response.json()["errors"]} if response.status_code == 400 else set()
    if not refused & unsaid:
        positive_data_acceptance(context, response, case)


# Operation, example of its request (or parameters other than the examples), example of its answer. In this order, each
# can be tried on the pool of `make run`.
WALK: list[tuple[str, str | dict[str, Any] | None, str | None]] = [
    ("enroll", "enrollment", "enrollment"),
    ("obtainAppConfiguration", None, "configuration"),
    ("obtainEncryptionKeys", None, "keys"),
    ("sampleLogin", "signed_in", "signed_in"),
    ("sampleLogin", "refused", "refused"),
    ("sampleObtain", "nothing", "nothing"),
    ("sampleExecute", "enrollment", "enrollment"),
    ("listTerminals", {"query": {"limit": 2}}, "first_page"),
    ("listTerminals", None, "last_page"),
    ("importTerminals", "pairs", "pairs"),
    ("importTerminals", "lines", "lines"),
    ("showTerminal", None, "free"),
    ("assignTerminal", "assignment", "held"),
    ("showTerminal", None, "held"),
    ("releaseTerminal", None, "free"),
    ("assignFirstFreeTerminal", "assignment", "held"),
    ("releaseTerminal", None, "free"),
    ("moveOperator", "to_a_pair", "to_a_pair"),
    ("moveOperator", "to_a_point_of_sale", "to_a_point_of_sale"),
    ("deleteTerminal", None, None),
]
FRESH = {"request_uri", "expires_at", "session_id", "keys", "request_id"}
"""Members that are new in every answer."""


def _requests(operation_id: str) -> dict[str, tuple[str, Any]]:
    """The examples of an operation's request, with their media types, by name."""
    content = OPERATIONS[IDS[operation_id]].get("requestBody", {}).get("content", {})
    return {
        name: (media_type, value) for media_type, each in content.items() for name, value in _examples(each).items()
    }


def _successes(operation_id: str) -> dict[str, Any]:
    (response,) = (each for status, each in OPERATIONS[IDS[operation_id]]["responses"].items() if status[0] == "2")
    return _examples(response.get("content", {}).get("application/json", {}))


def _known(value: Any) -> Any:
    return {name: each for name, each in value.items() if name not in FRESH}


def test_every_example_of_a_request_gets_the_example_of_its_answer(scene: None, api: Api) -> None:
    for operation_id, asked, answered in WALK:
        changes = asked if isinstance(asked, dict) else {}
        if isinstance(asked, str):
            changes["media_type"], changes["body"] = _requests(operation_id)[asked]
        response = api.ask(operation_id, **changes)
        assert 200 <= response.status_code < 300, (operation_id, response.content)
        if answered is None:
            assert not response.content
        else:
            example = _successes(operation_id)[answered]
            assert response.json().keys() == example.keys()
            assert _known(response.json()) == _known(example)


def test_no_operation_and_no_example_of_success_is_left_out_of_that() -> None:
    assert {operation_id for operation_id, _, _ in WALK} == set(IDS)
    asked = {(each, name) for each, name, _ in WALK if isinstance(name, str)}
    assert asked == {(each, name) for each in IDS for name in _requests(each)}
    answered = {(each, name) for each, _, name in WALK if name}
    assert answered == {(each, name) for each in IDS for name in _successes(each)}


PROVOKED: list[tuple[str, str, dict[str, Any]]] = [
    ("device_id_missing", "enroll", {"body": {}}),
    ("columns_unnamed", "importTerminals", {"body": b"pos,tid\n", "media_type": CSV}),
    ("limit_out_of_range", "listTerminals", {"query": {"limit": 0}}),
    ("parameter_unknown", "listTerminals", {"query": {"page": 2}}),
    ("operator_no_email", "assignTerminal", {"body": {"operator": "anna"}}),
    ("operator_no_email", "assignFirstFreeTerminal", {"body": {"operator": "anna"}}),
    ("destination_missing", "moveOperator", {"body": {"operator": OPERATOR}}),
    ("password_missing", "sampleLogin", {"body": {"email": OPERATOR}}),
    ("another_redirect_uri", "sampleExecute", {"body": {"redirect_uri": "https://another.example", "device_id": "1"}}),
    ("terminal_unknown", "showTerminal", {"path_parameters": {"tid": "99999999"}}),
    ("terminal_held", "deleteTerminal", {"path_parameters": {"tid": SOFTPOS_TID}}),
    ("terminal_held", "assignTerminal", {"path_parameters": {"tid": MPOS_TID}, "body": {"operator": SECOND_OPERATOR}}),
    ("terminal_held", "moveOperator", {"body": {"operator": OPERATOR, "tid": "30000004"}}),
    ("operator_holds_terminal", "assignTerminal", {"body": {"operator": OPERATOR}}),
    ("operator_holds_terminal", "assignFirstFreeTerminal", {"body": {"operator": OPERATOR, "point_of_sale": "x"}}),
    ("no_terminal_free", "assignFirstFreeTerminal", {"body": {"operator": SECOND_OPERATOR, "point_of_sale": "x"}}),
    ("no_terminal_free", "moveOperator", {"body": {"operator": OPERATOR, "point_of_sale": "x"}}),
    ("terminal_not_assigned", "moveOperator", {"body": {"operator": SECOND_OPERATOR, "point_of_sale": "x"}}),
    (
        "pairs_refused",
        "importTerminals",
        {
            "body": {
                "pairs": [
                    {"point_of_sale": POINT_OF_SALE, "softpos_tid": SOFTPOS_TID},
                    {"point_of_sale": POINT_OF_SALE, "softpos_tid": "30000009", "mpos_tid": "30000009"},
                ]
            }
        },
    ),
]


@pytest.mark.parametrize(
    ("example", "operation_id", "asked"), PROVOKED, ids=[f"{example}-{each}" for example, each, _ in PROVOKED]
)
def test_every_example_of_a_refusal_is_what_is_answered(
    example: str, operation_id: str, asked: dict[str, Any], scene: None, api: Api
) -> None:
    if example == "terminal_held":
        api.ask("assignTerminal", path_parameters={"tid": "30000004"}, body={"operator": "luca.verdi@example.com"})
    response = api.ask(operation_id, **asked)
    _check_refusal(example, operation_id, response)


def _check_refusal(example: str, operation_id: str, response: schemathesis.Response) -> None:
    described = DESCRIBED[f"{IDS[operation_id]} {response.status_code} {PROBLEM}"]
    assert _known(response.json()) == _known(_examples(described)[example])


@pytest.mark.parametrize("operation_id", ["enroll", "obtainAppConfiguration", "obtainEncryptionKeys", "sampleObtain"])
def test_an_access_token_gets_the_example_of_an_unknown_operator(operation_id: str, api: Api) -> None:
    answer = client(api.stack, "cognito-idp").admin_initiate_auth(
        UserPoolId=api.stack.outputs["OperatorsPoolId"],
        ClientId=api.stack.outputs["OperatorsClientId"],
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": OPERATOR, "PASSWORD": PASSWORD},
    )
    access = Bearer(answer["AuthenticationResult"]["AccessToken"])
    body = {"body": {"device_id": "1"}} if operation_id == "enroll" else {}
    _check_refusal("operator_unknown", operation_id, api.ask(operation_id, access, **body))


@pytest.mark.parametrize("operation_id", ["enroll", "sampleExecute"])
def test_an_operator_without_a_terminal_gets_the_example_of_that(operation_id: str, scene: None, api: Api) -> None:
    bearer = Bearer(api.stack.token(SECOND_OPERATOR))
    (_, body), *_ = _requests(operation_id).values()
    _check_refusal("terminal_not_assigned", operation_id, api.ask(operation_id, bearer, body=body))


def test_a_key_with_another_body_gets_the_example_of_that(scene: None, api: Api) -> None:
    key = {"headers": {"Idempotency-Key": "once"}}
    assert api.ask("enroll", body={"device_id": "1"}, **key).status_code == 201
    _check_refusal("idempotency_key_reused", "enroll", api.ask("enroll", body={"device_id": "2"}, **key))


@pytest.mark.parametrize("key", [key for key in OPERATIONS if _scheme(key)])
def test_without_the_right_credentials_there_is_nothing_to_be_had(key: str, api: Api) -> None:
    status = {"operator": 401, "backOffice": 403}[_scheme(key)]
    wrong = {"operator": api.signed, "backOffice": api.bearer}[_scheme(key)]
    for auth in (None, Bearer("x.y.z"), wrong):
        case = CONTRACT.find_operation_by_label(key).Case(path_parameters={"tid": SOFTPOS_TID} if "{" in key else {})
        response = api.call(case, auth)
        assert response.status_code == status
        assert [response.json()] == list(_examples(DESCRIBED[f"{key} {status} application/json"]).values())
        case.validate_response(response)


@pytest.fixture
def answers(scene: None) -> Iterator[Counter[int]]:
    """How often an operation answered what. Only ever 400 would prove nothing."""
    seen: Counter[int] = Counter()
    yield seen
    assert any(200 <= status < 300 for status in seen), seen


def _of(operation: str) -> Any:
    @CONTRACT.include(operation_id=operation).parametrize()
    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def test(case: schemathesis.Case, api: Api, answers: Counter[int]) -> None:
        response = api.call(case, api.credentials(case.operation.label))
        answers[response.status_code] += 1
        case.validate_response(response, additional_checks=[_to_the_letter, _judged])

    return test


# A function for each: items of one name are one item to pytest-xdist, which runs the first and forgets the others.
for _operation in IDS:
    globals()[f"test_whatever_is_sent_to_{_operation}_the_answer_is_in_the_document"] = _of(_operation)
