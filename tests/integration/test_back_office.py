"""/v1/terminals over HTTP, as the merchant's back office asks: signed requests, and what is no such thing."""

import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.auth
import pytest
from backends import Backend, bearer, operator

from sandbox.gateway import SIGNER
from sandbox.local import MPOS_TID, OPERATOR, POINT_OF_SALE, SOFTPOS_TID, LocalStack
from sandbox.sigv4 import sign

ASSIGN = f"/v1/terminals/{SOFTPOS_TID}/operator"
FIRST = {
    "point_of_sale": POINT_OF_SALE,
    "softpos_tid": SOFTPOS_TID,
    "mpos_tid": MPOS_TID,
    "operator": OPERATOR,
}


def signed(api: Backend, method: str, path: str, body: bytes = b"", **changes: str) -> dict[str, str]:
    return sign(method, api.url + path, body, {"Content-Type": "application/json"}, **{**SIGNER, **changes})


# ---------------------------------------------------------------- who may ask


def _without(name: str, headers: dict[str, str]) -> dict[str, str]:
    return {each: value for each, value in headers.items() if each.lower() != name}


def _stale(api: Backend, monkeypatch: pytest.MonkeyPatch, by: timedelta) -> dict[str, str]:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.now(UTC) + by)
    headers = signed(api, "GET", "/v1/terminals")
    monkeypatch.undo()
    return headers


FORBIDDEN = {
    "no signature": lambda api, _: {},
    "an operator's token": lambda api, _: {"Authorization": f"Bearer {bearer(api.stack)}"},
    "another secret key": lambda api, _: signed(api, "GET", "/v1/terminals", secret_key="another"),
    "an unknown access key": lambda api, _: signed(api, "GET", "/v1/terminals", access_key="another"),
    "another region": lambda api, _: signed(api, "GET", "/v1/terminals", region="eu-west-1"),
    "another path": lambda api, _: signed(api, "GET", "/v1/terminals/1"),
    "another query": lambda api, _: signed(api, "GET", "/v1/terminals?limit=1"),
    "another method": lambda api, _: signed(api, "POST", "/v1/terminals"),
    "another body": lambda api, _: signed(api, "GET", "/v1/terminals", b"{}"),
    "a date that is not signed": lambda api, _: _without("x-amz-date", signed(api, "GET", "/v1/terminals")),
    "six minutes ago": lambda api, patch: _stale(api, patch, timedelta(minutes=-6)),
    "six minutes ahead": lambda api, patch: _stale(api, patch, timedelta(minutes=6)),
    "half a signature": lambda api, _: {
        name: value[:-32] if name == "Authorization" else value
        for name, value in signed(api, "GET", "/v1/terminals").items()
    },
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_request_is_forbidden_that_has(what: str, api: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    response = api.post(b"", None, FORBIDDEN[what](api, monkeypatch), "GET", "/v1/terminals")
    assert (response.status_code, response.json()) == (403, {"message": "Forbidden"})


def test_a_body_that_was_changed_on_its_way_does_nothing(api: Backend) -> None:
    body = json.dumps({"operator": "boss@example.com"}).encode()
    headers = signed(api, "PUT", ASSIGN, json.dumps({"operator": OPERATOR}).encode())
    assert api.post(body, None, headers, "PUT", ASSIGN).status_code == 403
    digest = {"X-Amz-Content-Sha256": hashlib.sha256(b"{}").hexdigest()}
    headers = sign("PUT", api.url + ASSIGN, b"{}", digest, **SIGNER)
    assert api.post(body, None, headers, "PUT", ASSIGN).status_code == 403
    assert api.back_office("GET", f"/v1/terminals/{SOFTPOS_TID}").json() == FIRST


def test_curls_own_signature_is_accepted(api: Backend) -> None:
    """By other people's code than what signs in these tests, and the line that `make run` prints."""
    user = f"{SIGNER['access_key']}:{SIGNER['secret_key']}"
    provider = f"aws:amz:{SIGNER['region']}:execute-api"
    curl = ["curl", "-sS", "--noproxy", "*", "--aws-sigv4", provider, "--user", user]
    run = subprocess.run(
        [*curl, f"{api.url}/v1/terminals/{SOFTPOS_TID}"], capture_output=True, text=True, check=True, timeout=30
    )
    assert json.loads(run.stdout) == FIRST


def test_the_log_says_who_asked_for_what_and_no_operator(api: Backend) -> None:
    line = api.line(api.back_office("PUT", ASSIGN, {"operator": OPERATOR}))
    assert line["route"] == "PUT /v1/terminals/{tid}/operator"
    assert line["caller"].endswith(":user/back-office")
    assert line["terminal_ids"] == [SOFTPOS_TID, MPOS_TID]
    assert OPERATOR not in json.dumps(line)


# ---------------------------------------------------------------- a pair's life


def test_a_pair_is_imported_assigned_moved_released_and_deleted(api: Backend, stack: LocalStack) -> None:
    someone = operator(stack)
    stack.app.operators.add(someone)
    stack.app.points_of_sale["99"] = {"91": "softpos", "92": "mpos", "93": "softpos"}
    assert api.back_office(
        "POST", "/v1/terminals", "point_of_sale;softpos_tid;mpos_tid\r\n99;91;92\r\n99;93;\r\n"
    ).json() == {
        "imported": 2,
        "unchanged": 0,
    }
    assert api.back_office("PUT", "/v1/terminals/92/operator", {"operator": someone.upper()}).status_code == 200
    assert api.enroll(someone).status_code == 502, "Nexi knows them by another spelling"
    assert api.back_office("DELETE", "/v1/terminals/91/operator").json()["operator"] is None
    given = api.back_office("POST", "/v1/terminals/assignments", {"operator": someone, "point_of_sale": "99"}).json()
    assert given == {"point_of_sale": "99", "softpos_tid": "91", "mpos_tid": "92", "operator": someone}
    assert api.enroll(someone).status_code == 201
    assert api.back_office("DELETE", "/v1/terminals/91").json()["code"] == "terminal_held"
    assert (
        api.back_office("POST", "/v1/terminals/moves", {"operator": someone, "tid": "93"}).json()["softpos_tid"] == "93"
    )
    assert api.enroll(someone).status_code == 201
    assert stack.nexi.calls[-1].claims is not None
    assert stack.nexi.calls[-1].claims["terminal_ids"] == ["93"]
    assert api.back_office("GET", "/v1/terminals?point_of_sale=99&state=held").json()["pairs"] == [
        {"point_of_sale": "99", "softpos_tid": "93", "mpos_tid": None, "operator": someone}
    ]
    assert api.back_office("GET", f"/v1/terminals?operator={someone}").json()["pairs"][0]["softpos_tid"] == "93"

    assert api.back_office("DELETE", "/v1/terminals/93/operator").status_code == 200
    assert api.enroll(someone).json()["code"] == "terminal_not_assigned", "at once, in a warm environment"
    for tid in ("91", "93"):
        assert api.back_office("DELETE", f"/v1/terminals/{tid}").status_code == 204
        assert api.back_office("GET", f"/v1/terminals/{tid}").json()["code"] == "terminal_unknown"


@pytest.mark.parametrize(
    ("method", "path", "body", "first", "again"),
    [
        ("PUT", "/v1/terminals/81/operator", {"operator": "twice@example.com"}, 200, 200),
        ("DELETE", "/v1/terminals/81/operator", None, 200, 200),
        ("DELETE", "/v1/terminals/81", None, 204, 404),
    ],
    ids=["assign", "release", "delete"],
)
def test_what_http_calls_idempotent_is(method: str, path: str, body: Any, first: int, again: int, api: Backend) -> None:
    api.back_office("POST", "/v1/terminals", "point_of_sale,softpos_tid\n80,81\n")
    answers = [api.back_office(method, path, body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [first, again]
    if again == 200:
        assert answers[0].json() == answers[1].json()


def test_all_problems_of_an_import_are_told_at_once_and_nothing_is_imported(api: Backend) -> None:
    before = api.back_office("GET", "/v1/terminals?limit=500").json()
    listed = f"point_of_sale,softpos_tid,mpos_tid\n70,71,\n70,,\n70,{SOFTPOS_TID},\n70,7 3,\n70,71,\n"
    response = api.back_office("POST", "/v1/terminals", listed)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == "pairs_refused"
    assert [each["member"].partition(",")[0] for each in problem["errors"]] == ["line 3", "line 5", "line 6", "line 4"]
    assert api.back_office("GET", "/v1/terminals?limit=500").json() == before


def test_the_list_is_paged_and_the_pages_are_the_whole(api: Backend) -> None:
    api.back_office(
        "POST", "/v1/terminals", "point_of_sale,softpos_tid\n" + "".join(f"60,{6000 + at}\n" for at in range(25))
    )
    pages, after = [], ""
    while True:
        page = api.back_office("GET", f"/v1/terminals?point_of_sale=60&limit=10{after}").json()
        pages.append([pair["softpos_tid"] for pair in page["pairs"]])
        if page["after"] is None:
            break
        after = f"&after={page['after']}"
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [tid for page in pages for tid in page] == [str(6000 + at) for at in range(25)]
